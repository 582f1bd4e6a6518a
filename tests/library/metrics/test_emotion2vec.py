"""
The oracle of the network is `funasr`'s own class on the same weights, twice: run here where funasr is installed
(`pip install --no-deps funasr omegaconf antlr4-python3-runtime==4.9.3 kaldiio` is enough), and its outputs kept in
`emotion2vec_funasr.json`. The weights are a formula, so that they need not be kept. To write that file again:

    python tests/library/metrics/test_emotion2vec.py
"""

import importlib.util
import json
import math
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hf_affectcodec.metrics.emotion2vec import (
    emotion2vec_embedding,
    emotion2vec_probabilities,
    load_emotion2vec,
)
from hf_affectcodec.metrics.emotion2vec_network import (
    Attention,
    Emotion2vec,
    Emotion2vecConfig,
    alibi_slopes,
    parse_conv_layers,
)


FIXTURE = Path(__file__).with_name("emotion2vec_funasr.json")
RATE = 16000
LABELS = ["生气/angry", "unuse_0", "开心/happy", "<unk>"]
NAMES = ("angry", "unuse_0", "happy", "unknown")


def model_conf(**audio) -> dict:
    """`model_conf` of a released config.yaml, made small: 6 heads, as 12 no power of two."""
    return {
        "loss_beta": 0.0,
        "loss_scale": None,
        "depth": 2,
        "start_drop_path_rate": 0.0,
        "end_drop_path_rate": 0.0,
        "num_heads": 6,
        "norm_eps": 1e-5,
        "norm_affine": True,
        "encoder_dropout": 0.1,
        "post_mlp_drop": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "dropout_input": 0.0,
        "layerdrop": 0.05,
        "embed_dim": 24,
        "mlp_ratio": 4.0,
        "layer_norm_first": False,
        "average_top_k_layers": 2,
        "end_of_block_targets": False,
        "clone_batch": 2,
        "normalize": True,
        "modalities": {
            "audio": {
                "type": "AUDIO",
                "prenet_depth": 2,
                "prenet_layerdrop": 0.05,
                "prenet_dropout": 0.1,
                "start_drop_path_rate": 0.0,
                "end_drop_path_rate": 0.0,
                "num_extra_tokens": 10,
                "init_extra_token_zero": True,
                "mask_noise_std": 0.01,
                "local_grad_mult": 1.0,
                "use_alibi_encoder": True,
                "alibi_scale": 1.0,
                "learned_alibi": False,
                "alibi_max_pos": None,
                "learned_alibi_scale": True,
                "learned_alibi_scale_per_head": True,
                "learned_alibi_scale_per_layer": False,
                "num_alibi_heads": 6,
                "model_depth": 2,
                "decoder": {
                    "decoder_dim": 8,
                    "decoder_groups": 2,
                    "decoder_kernel": 3,
                    "decoder_layers": 2,
                    "input_dropout": 0.1,
                    "add_positions_masked": False,
                    "add_positions_all": False,
                    "decoder_residual": True,
                    "projection_layers": 1,
                    "projection_ratio": 2.0,
                },
                "extractor_mode": "layer_norm",
                "feature_encoder_spec": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] + [(16,2,2)]",
                "conv_pos_width": 95,
                "conv_pos_groups": 4,
                "conv_pos_depth": 5,
                "conv_pos_pre_ln": False,
                **audio,
            }
        },
    }


# Kinds of ALiBi scale, and an even kernel for position.
VARIANTS = {
    "released": {},
    "per_layer": {"learned_alibi_scale_per_layer": True},
    "one_for_all_heads": {"learned_alibi_scale_per_head": False},
    "even_kernel": {"conv_pos_width": 30},
}


def fill(model: torch.nn.Module):
    """Weights from a formula of their names: every path of the network matters to the output, and rounding does not."""
    for name, parameter in model.named_parameters():
        index = np.arange(parameter.numel(), dtype=np.float64)
        wave = np.sin(1 + index**2 * (0.7 + zlib.crc32(name.encode()) % 1000 / 1000)).reshape(parameter.shape)
        if name.endswith("alibi_scale"):
            values = 0.4 + 0.6 * wave  # some below zero, which counts as zero
        elif name.endswith("extra_tokens"):
            values = wave
        elif parameter.ndim > 1:
            values = wave * math.sqrt(3 / np.prod(parameter.shape[1:]))
        elif name.endswith("bias"):
            values = 0.2 * wave
        else:
            values = 1 + 0.3 * wave
        parameter.data.copy_(torch.from_numpy(values))


def waveform(num_samples: int) -> torch.Tensor:
    time = torch.arange(num_samples, dtype=torch.float64)
    return (0.2 * torch.sin(time * 0.05 + torch.sin(time * 0.0007) * 3) + 0.1 * torch.sin(time**2 * 0.37)).float()


def ours(audio: dict) -> Emotion2vec:
    model = Emotion2vec(Emotion2vecConfig.from_model_conf(model_conf(**audio), 4), NAMES).eval()
    fill(model)
    return model


def funasr_class():
    """funasr's class, without the import of everything else that `import funasr` is."""
    spec = importlib.util.find_spec("funasr")
    if spec is None:
        pytest.skip("funasr is not installed")
    package = types.ModuleType("funasr")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["funasr"] = package
    return pytest.importorskip("funasr.models.emotion2vec.model", exc_type=ImportError).Emotion2vec


@pytest.fixture
def funasr_model(monkeypatch):
    """The function: funasr's model of a variant with the same weights."""
    before = set(sys.modules)
    emotion2vec = funasr_class()
    yield lambda audio: theirs(emotion2vec, audio)
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "funasr":
            del sys.modules[name]


def theirs(emotion2vec, audio: dict) -> torch.nn.Module:
    model = emotion2vec(model_conf=model_conf(**audio), vocab_size=4).eval()
    fill(model)
    return model


@torch.no_grad()
def outputs_of(model, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames [T', C] and probabilities [K] by funasr's class, called as its `inference` does."""
    source = waveform(num_samples)
    source = torch.nn.functional.layer_norm(source, source.shape).view(1, -1)
    frames = model.extract_features(source, padding_mask=None)["x"]
    logits = model.proj(frames.mean(dim=1))
    logits[:, 1] = -torch.inf  # unuse_0
    return frames[0].numpy(), logits.softmax(-1)[0].numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_parity_with_funasr(variant, funasr_model):
    model, reference = ours(VARIANTS[variant]), funasr_model(VARIANTS[variant])
    for num_samples in (400, 719, 720, 9999, 24000):
        frames, probabilities = outputs_of(reference, num_samples)
        with torch.no_grad():
            found = model(waveform(num_samples)[None])[0].numpy()
        np.testing.assert_allclose(found, frames, atol=1e-5)
        embedding = emotion2vec_embedding(model, waveform(num_samples), RATE)
        np.testing.assert_allclose(embedding, frames.mean(axis=0), atol=1e-5)
        found = emotion2vec_probabilities(model, waveform(num_samples), RATE)
        np.testing.assert_allclose(found, probabilities, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parity_with_what_funasr_gave(variant):
    expected = json.loads(FIXTURE.read_text())[variant]
    model = ours(VARIANTS[variant])
    with torch.no_grad():
        frames = model(waveform(4000)[None])[0].numpy()
    np.testing.assert_allclose(frames, expected["frames"], atol=2e-5)  # kept to five decimals
    np.testing.assert_allclose(
        emotion2vec_probabilities(model, waveform(4000), RATE), expected["probabilities"], atol=2e-5
    )


def test_attention_written_out():
    config = Emotion2vecConfig.from_model_conf(model_conf(), 0)
    attention = Attention(config)
    fill(attention)
    x, bias = torch.randn(1, 7, 24), torch.randn(1, 6, 7, 7)
    with torch.no_grad():
        found = attention(x, bias)[0].numpy()
        projected = attention.qkv(x)[0].numpy()
        heads = []
        for h in range(6):
            q, k, v = (projected[:, part * 24 + h * 4 : part * 24 + h * 4 + 4] for part in range(3))
            mixed = []
            for i in range(7):
                scores = np.array([q[i] @ k[j] / 2 + bias[0, h, i, j].item() for j in range(7)])
                weights = np.exp(scores - scores.max())
                mixed.append((weights / weights.sum()) @ v)
            heads.append(mixed)
        joined = torch.from_numpy(np.concatenate(heads, axis=1)).float()
        expected = attention.proj(joined).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_alibi_written_out():
    assert alibi_slopes(8) == [2**-h for h in range(1, 9)]
    # Press et al.: twelve heads take those of 8, and 4 of those of 16.
    assert alibi_slopes(12) == [2**-h for h in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    encoder = ours({}).modality_encoders["AUDIO"]
    with torch.no_grad():
        biases = encoder.biases(5)
    assert len(biases) == 4 and biases[0].shape == (1, 6, 15, 15)
    for h, slope in enumerate(alibi_slopes(6)):
        scale = max(0.0, encoder.alibi_scale[0, 0, h, 0, 0].item())
        for i in range(15):
            for j in range(15):
                expected = -slope * scale * abs(i - j) if i >= 10 and j >= 10 else 0.0
                assert biases[3][0, h, i, j].item() == pytest.approx(expected, abs=1e-6)


def test_conv_layers():
    released = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
    assert parse_conv_layers(released) == tuple(eval(released))
    assert Emotion2vecConfig.from_model_conf(model_conf(), 0).receptive_field == 400
    with pytest.raises(ValueError, match="`spec` must be like"):
        parse_conv_layers("__import__('os')")
    for change, words in [
        ({"extractor_mode": "default"}, "extractor_mode must be 'layer_norm', got 'default'"),
        ({"learned_alibi": True}, "learned_alibi must be False"),
    ]:
        with pytest.raises(ValueError, match=words):
            Emotion2vecConfig.from_model_conf(model_conf(**change), 0)


def test_an_item_is_the_same_in_any_batch():
    model = ours({})
    first, second = waveform(8000), torch.flip(waveform(8000), (0,))
    with torch.no_grad():
        torch.testing.assert_close(model(torch.stack([first, second]))[0], model(first[None])[0], atol=1e-5, rtol=0)
    assert model(first[None]).shape == (1, (8000 - 400) // 320 + 1, 24)
    louder = emotion2vec_embedding(model, 3 * first, RATE)
    np.testing.assert_allclose(louder, emotion2vec_embedding(model, first, RATE), atol=1e-3)


@pytest.fixture
def write_release(tmp_path):
    """The function: writes a folder as the authors' Hub repositories are, and returns it and its weights."""

    def write(fine_tuned: bool, change=lambda weights: None):
        model = ours({}) if fine_tuned else Emotion2vec(Emotion2vecConfig.from_model_conf(model_conf(), 0)).eval()
        fill(model)
        files = {"init_param": "model.pt", "config": "config.yaml"}
        settings = {"model": "Emotion2vec", "model_conf": model_conf()}
        weights = dict(model.state_dict())
        weights["modality_encoders.AUDIO.decoder.proj.weight"] = torch.zeros(24, 8)  # of training
        if fine_tuned:
            files["tokenizer_conf"] = {"token_list": "tokens.txt"}
            (tmp_path / "tokens.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
            settings["scope_map"] = ["d2v_model.", "none"]
            weights = {key if key.startswith("proj.") else "d2v_model." + key: item for key, item in weights.items()}
        change(weights)
        (tmp_path / "configuration.json").write_text(json.dumps({"file_path_metas": files}))
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        torch.save({"model": weights}, tmp_path / "model.pt")
        return tmp_path, model

    return write


@pytest.mark.parametrize("fine_tuned", [True, False])
def test_loading_a_release(fine_tuned, write_release):
    folder, written = write_release(fine_tuned)
    model = load_emotion2vec(folder)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(waveform(4000)[None]), written(waveform(4000)[None]), atol=0, rtol=0)
    if fine_tuned:
        assert model.labels == NAMES
        probabilities = emotion2vec_probabilities(model, waveform(4000), RATE)
        assert probabilities[1] == 0 and probabilities.sum() == pytest.approx(1)
        assert probabilities.min() >= 0 and np.ptp(probabilities[[0, 2, 3]]) > 0.01
    else:
        assert model.labels == ()
        with pytest.raises(ValueError, match="`model` has no classification head"):
            emotion2vec_probabilities(model, waveform(4000), RATE)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda weights: weights.pop("d2v_model.blocks.1.mlp.fc2.bias"),
            "lacks 1 weights of emotion2vec: blocks.1.mlp.fc2.bias",
        ),
        (lambda weights: weights.update({"proj.bias": torch.zeros(9)}), "size mismatch for proj.bias"),
    ],
)
def test_another_network_is_refused(change, words, write_release):
    folder, _ = write_release(True, change)
    with pytest.raises(ValueError, match=f"^`source` = .*{words}"):
        load_emotion2vec(folder)


def test_clips_that_cannot_be_measured():
    model = ours({})
    with pytest.raises(ValueError, match="`waveform` must have at least 400 samples, got 399"):
        emotion2vec_embedding(model, waveform(399), RATE)
    with pytest.raises(ValueError, match="`waveform` is silent"):
        emotion2vec_embedding(model, np.zeros(RATE), RATE)
    with pytest.raises(ValueError, match="`sampling_rate` must be 16000, got 8000"):
        emotion2vec_embedding(model, waveform(4000), 8000)


if __name__ == "__main__":
    reference = funasr_class()
    lines = []
    for variant, audio in VARIANTS.items():
        frames, probabilities = outputs_of(theirs(reference, audio), 4000)
        values = {
            name: np.round(item.astype(np.float64), 5).tolist()
            for name, item in (("frames", frames), ("probabilities", probabilities))
        }
        lines.append(f'"{variant}": {json.dumps(values)}')
    FIXTURE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
