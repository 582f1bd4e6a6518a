import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from hf_affectcodec.metrics.autopcp import Comparator, autopcp, load_autopcp


CONFIG = {
    "input_form": "qe",
    "dropout": 0.1,
    "idim": 16,
    "odim": 1,
    "nhid": [12, 6],
    "activation": "TANH",
    "norm_emb": True,
    "output_act": False,
    "trainable_pooler": False,
}


def tiny_encoder(hidden_size: int = 16, num_hidden_layers: int = 11) -> Wav2Vec2Model:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        layerdrop=0.0,
    )
    return Wav2Vec2Model(config).eval()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Encoder, and comparator as its authors' code saves it: dropout (no weights) before and after each hidden layer."""
    folder = tmp_path_factory.mktemp("autopcp")
    encoder = tiny_encoder()
    encoder.save_pretrained(folder / "encoder")
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder / "encoder")
    generator = torch.Generator().manual_seed(1)
    sizes = {"1": (12, 64), "4": (6, 12), "7": (1, 6)}
    weights = {}
    for index, (rows, columns) in sizes.items():
        weights[f"mlp.{index}.weight"] = torch.randn(rows, columns, generator=generator)
        weights[f"mlp.{index}.bias"] = torch.randn(rows, generator=generator)
    comparator = folder / "AutoPCP"
    comparator.mkdir()
    torch.save(CONFIG, comparator / "i16.o1.dp0.1.nhid12,6.ipqe.config")
    torch.save(weights, comparator / "i16.o1.dp0.1.nhid12,6.ipqe.pt")
    return folder, encoder, {name: tensor.numpy().astype(np.float64) for name, tensor in weights.items()}


def written_out(encoder, weights, first, second) -> float:
    embeddings = []
    for waveform in (first, second):
        values = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        with torch.no_grad():
            states = encoder(torch.from_numpy(values).float()[None], output_hidden_states=True).hidden_states[9]
        mean = states[0].numpy().astype(np.float64).mean(axis=0)
        embeddings.append(mean / np.linalg.norm(mean))
    scores = []
    for x, y in (embeddings, embeddings[::-1]):
        h = np.concatenate([x, y, x * y, np.abs(y - x)])
        h = np.tanh(weights["mlp.1.weight"] @ h + weights["mlp.1.bias"])
        h = np.tanh(weights["mlp.4.weight"] @ h + weights["mlp.4.bias"])
        scores.append((weights["mlp.7.weight"] @ h + weights["mlp.7.bias"])[0])
    return float(np.mean(scores))


def test_against_the_formula(released, speech, synthesize_speech):
    folder, encoder, weights = released
    model = load_autopcp(folder / "AutoPCP", folder / "encoder")
    other = synthesize_speech(0.9, seed=4)
    value = autopcp(speech, other, 16000, model)
    assert value == pytest.approx(written_out(encoder, weights, speech, other), abs=1e-4)
    assert value != pytest.approx(autopcp(speech, speech, 16000, model), abs=1e-3)
    assert autopcp(other, speech, 16000, model) == pytest.approx(value, abs=1e-5)
    assert autopcp(0.3 * speech, other, 16000, model) == pytest.approx(value, abs=1e-3)
    assert len(model.encoder.encoder.layers) == 10
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


def test_comparators_of_other_forms():
    assert len(Comparator({**CONFIG, "dropout": 0}).mlp) == 5
    assert len(Comparator({**CONFIG, "output_act": True}).mlp) == 9
    assert len(Comparator({**CONFIG, "nhid": []}).mlp) == 1
    for change, words in [
        ({"input_form": "comet"}, "input_form must be 'qe', got 'comet'"),
        ({"trainable_pooler": True}, "trainable_pooler must be False"),
        ({"activation": "GELU"}, "activation must be one of"),
    ]:
        with pytest.raises(ValueError, match=words):
            Comparator({**CONFIG, **change})


def test_refusals(released, speech, tmp_path):
    folder, _, _ = released
    with pytest.raises(ValueError, match="`comparator` must be a folder with one .config file"):
        load_autopcp(tmp_path, folder / "encoder")
    tiny_encoder(num_hidden_layers=9).save_pretrained(tmp_path / "shallow")
    with pytest.raises(ValueError, match="has 9 layers of 16 channels; the comparator wants more than 9 of 16"):
        load_autopcp(folder / "AutoPCP", tmp_path / "shallow")
    torch.save({**CONFIG, "nhid": [12]}, tmp_path / "wrong.config")
    torch.save({}, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match="^`comparator`: .*Missing key"):
        load_autopcp(tmp_path, folder / "encoder")
    model = load_autopcp(folder / "AutoPCP", folder / "encoder")
    with pytest.raises(ValueError, match="`degraded` must have at least 400 samples, got 399"):
        autopcp(speech, speech[:399], 16000, model)
    with pytest.raises(ValueError, match="`reference` is silent"):
        autopcp(np.zeros_like(speech), speech, 16000, model)
    with pytest.raises(ValueError, match="`sampling_rate` must be 16000"):
        autopcp(speech, speech, 8000, model)
