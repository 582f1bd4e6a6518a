"""The picture of one utterance: what is drawn is what the model says."""

import numpy as np
import pytest
import soundfile
import torch
from tiny_ser import LABELS, noise, save_bert, save_graph_fusion

from hf_affectcodec.attention_picture import attention_picture, main
from hf_affectcodec.modeling.configuration_graph_fusion import FUSIONS, GraphFusionConfig
from hf_affectcodec.modeling.modeling_graph_fusion import GraphFusionForAudioClassification


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_drawn(fusion):
    torch.manual_seed(0)
    sizes = {
        "feature_sizes": {"audio": 6, "text": 5},
        "token_sizes": {"f0": 9},
        "hidden_size": 8,
        "intermediate_size": 8,
    }
    model = GraphFusionForAudioClassification(GraphFusionConfig(**sizes, fusion=fusion, num_labels=3)).eval()
    features = {"audio": torch.randn(1, 20, 6), "text": torch.randn(1, 3, 5), "f0": torch.randint(8, (1, 20))}
    with torch.no_grad():
        outputs = model(features, output_attentions=True, output_contributions=True)
    figure = attention_picture(outputs, noise(0.4), 16000, LABELS, ["a", "b", "c"])
    axes = {axis.get_title(): axis for axis in figure.axes}
    best = int(outputs.logits.argmax())
    assert any(title.startswith(f"{LABELS[best]}, 0.") for title in axes)
    bars = axes["what each modality adds to the logits"]
    widths = [bar.get_width() for bar in bars.patches]
    expected = torch.cat([outputs.contributions[name][0] for name in ("audio", "text", "f0")])
    assert np.allclose(widths, expected, atol=1e-6)
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["audio", "text", "f0"]
    for name, weights in outputs.attentions.items():
        if name.endswith("_pooling"):
            axis = axes[f"{name.removesuffix('_pooling')}: weight in the pooling"]
            heights = weights[0].mean(-1) * weights.shape[1]
            drawn = [bar.get_height() for bar in axis.patches] if "text" in name else axis.lines[1].get_ydata()
            assert np.allclose(drawn, heights, atol=1e-5)
        else:
            shown = axes[name.replace("_", " ")].images[0].get_array()
            weights = weights[0].mean(0) if weights.dim() == 4 else weights[0]
            assert np.allclose(shown, weights * weights.shape[-1], atol=1e-5)
    with pytest.raises(ValueError, match="`outputs` must be of one utterance"):
        attention_picture(model(features), noise(0.4), 16000, LABELS)


def test_command(tmp_path):
    save_graph_fusion(tmp_path / "model", recognizer=None)
    save_bert(tmp_path / "bert")[1].save_pretrained(tmp_path / "model")
    soundfile.write(tmp_path / "clip.wav", noise(0.6), 16000)
    arguments = ["--model", str(tmp_path / "model"), "--audio", str(tmp_path / "clip.wav")]
    assert main([*arguments, "--text", "a b ab", "--out", str(tmp_path / "with.png")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "without.png")]) == 0
    with_text, without = ((tmp_path / name).stat().st_size for name in ("with.png", "without.png"))
    assert without > 10_000 and with_text > without  # the words have panels of their own
