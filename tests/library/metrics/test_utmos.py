import functools

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model
from utmos_pytorch import utmos_torch

from hf_affectcodec.metrics import utmos
from hf_affectcodec.metrics.utmos import UTMOS, WEIGHTS


# The geometry of the convolutions is the real one, 400 samples and a hop of 320.
TINY = {
    "encoder_layers": 1,
    "encoder_ffn_embed_dim": 32,
    "conv_pos": 16,
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The real network, small in what its width allows, with random weights, as a repository holds it."""
    torch.manual_seed(0)
    monkeypatch.setattr(utmos_torch, "Wav2Vec2Config", functools.partial(utmos_torch.Wav2Vec2Config, **TINY))
    torch.save(utmos_torch.UTMOSModel().state_dict(), tmp_path / WEIGHTS)
    return tmp_path


# Names of wav2vec 2.0's weights as the package has them from fairseq, and as transformers has them.
RENAMED = [
    ("post_extract_proj", "feature_projection.projection"),
    ("encoder.pos_conv.0.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    ("encoder.pos_conv.0.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    ("encoder.pos_conv.0", "encoder.pos_conv_embed.conv"),
    ("self_attn_layer_norm", "layer_norm"),
    ("self_attn.", "attention."),
    ("fc1", "feed_forward.intermediate_dense"),
    ("fc2", "feed_forward.output_dense"),
    ("conv_layers.0.2", "conv_layers.0.layer_norm"),
    (".0.weight", ".conv.weight"),
]


def independent_utmos(weights: dict[str, torch.Tensor], waveform: np.ndarray) -> float:
    """transformers' wav2vec 2.0 and the head of the paper, from the same weights."""
    config = Wav2Vec2Config(
        num_hidden_layers=1, intermediate_size=32, num_conv_pos_embeddings=16, conv_dim=(16,) * 7, vocab_size=1
    )
    prefix = "feature_extractors.0.ssl_model."
    backbone = {}
    for name, tensor in weights.items():
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            name = f"feature_projection.{name}" if name.startswith("layer_norm.") else name
            for theirs, ours in RENAMED:
                name = name.replace(theirs, ours)
            backbone[name] = tensor
    model = Wav2Vec2Model(config).eval()
    loaded = model.load_state_dict(backbone, strict=False)
    assert loaded.missing_keys == ["masked_spec_embed"] and not loaded.unexpected_keys

    lstm = torch.nn.LSTM(768 + 128 + 128, 512, batch_first=True, bidirectional=True)
    part = "output_layers.0.decoder_rnn."
    lstm.load_state_dict({k.removeprefix(part): v for k, v in weights.items() if k.startswith(part)})
    with torch.no_grad():
        frames = model(torch.from_numpy(waveform)[None]).last_hidden_state
        constant = [
            weights["feature_extractors.1.embedding.weight"][0],
            weights["output_layers.0.judge_embedding.weight"][288],
        ]
        frames = torch.cat([frames, *(vector.expand(1, frames.shape[1], -1) for vector in constant)], dim=-1)
        frames = lstm(frames)[0]
        frames = (frames @ weights["output_layers.1.net.0.weight"].T + weights["output_layers.1.net.0.bias"]).relu()
        frames = frames @ weights["output_layers.1.net.3.weight"].T + weights["output_layers.1.net.3.bias"]
    return 3 + 2 * frames.mean().item()


def test_value_against_transformers_wav2vec2(folder, synthesize_speech):
    weights = torch.load(folder / WEIGHTS, weights_only=True)
    weights["output_layers.1.net.3.weight"] *= 30  # random weights hardly hear a difference else
    torch.save(weights, folder / WEIGHTS)
    predictor = UTMOS.from_pretrained(folder)
    values = []
    for seed, seconds in enumerate((0.9, 1.4)):
        clip = synthesize_speech(seconds, seed=seed)
        values.append(predictor(clip, 16000))
        assert values[-1] == pytest.approx(independent_utmos(weights, clip), abs=1e-4)
        assert predictor(clip, 16000) == values[-1]
    assert abs(values[0] - values[1]) > 1e-3


def change(folder, **tensors):
    weights = torch.load(folder / WEIGHTS, weights_only=True)
    torch.save(weights | {name.replace("__", "."): tensor for name, tensor in tensors.items()}, folder / WEIGHTS)


def test_the_scale_is_that_of_the_votes(folder, speech):
    # Votes of 1 to 5 were trained on as -1 to 1. A projection that says 0.25 whatever it sees means 3.5.
    change(
        folder,
        output_layers__1__net__3__weight=torch.zeros(1, 2048),
        output_layers__1__net__3__bias=torch.tensor([0.25]),
    )
    assert UTMOS.from_pretrained(folder)(speech, 16000) == pytest.approx(3.5)


def test_weights_come_from_the_hub_at_a_revision(folder, speech, monkeypatch):
    asked = []

    def download(repository, name, revision):
        asked.append((repository, name, revision))
        return str(folder / name)

    monkeypatch.setattr(utmos, "hf_hub_download", download)
    predictor = UTMOS.from_pretrained("someone/utmos", revision="abc")
    assert asked == [("someone/utmos", WEIGHTS, "abc")]
    assert predictor.description == {"source": "someone/utmos", "revision": folder.name}
    assert predictor(speech, 16000) == UTMOS.from_pretrained(folder)(speech, 16000)


def test_a_missing_weight_is_not_left_random(folder):
    weights = torch.load(folder / WEIGHTS, weights_only=True)
    del weights["output_layers.1.net.0.bias"]
    torch.save(weights, folder / WEIGHTS)
    with pytest.raises(ValueError, match="lacks 1 weights of UTMOS: output_layers.1.net.0.bias"):
        UTMOS.from_pretrained(folder)


def test_clips_that_cannot_be_measured(folder, speech):
    predictor = UTMOS.from_pretrained(folder)
    with pytest.raises(ValueError, match="`sampling_rate` must be 16000"):
        predictor(speech, 24000)
    with pytest.raises(ValueError, match="`waveform` is silent"):
        predictor(np.zeros(16000), 16000)
    with pytest.raises(ValueError, match="`waveform` must have 400 samples or more, got 399"):
        predictor(speech[1000:1399], 16000)
    assert np.isfinite(predictor(speech[1000:1400], 16000))
