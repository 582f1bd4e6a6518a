import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config, tiny_model
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization, PreTrainedConfig

from hf_affectcodec import AffectCodecConfig, AffectCodecFeatureExtractor, AffectCodecModel


BACKBONES = ("seanet", "istft")
HOP = 320


def count(model) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


def test_paper_configuration_has_44_1_million_parameters():
    with torch.device("meta"):
        model = AffectCodecModel(AffectCodecConfig())
    assert abs(count(model) - 44.1) < 0.1
    assert abs(count(model.encoder) - 20.61) < 0.01 and abs(count(model.decoder) - 10.64) < 0.01
    assert (model.hop_length, model.frame_rate, model.bitrate) == (320, 50.0, 4000.0)


@pytest.mark.parametrize("attention", ["cross", "self", "none"])
def test_no_parameter_is_idle(attention):
    """Every parameter gets a gradient where teacher features are given (without them guidance has none)."""
    model = tiny_model("seanet", guidance_attention=attention, guidance_dropout=0.0, guidance_term_dropout=0.0).train()
    torch.nn.init.normal_(model.guidance.back_proj.weight)
    features = {"emotion_features": torch.randn(2, 5, 12), "semantic_features": torch.randn(2, 5, 10)}
    outputs = model(torch.randn(2, 1, 5 * HOP), **features)
    (outputs.audio_values.square().mean() + outputs.loss + outputs.alignment_latents.square().mean()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    assert idle == []


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("causal", [False, True])
def test_shapes_and_forward_is_decode_of_encode(backbone, causal):
    model = tiny_model(backbone, causal=causal)
    waveform = torch.randn(2, 1, 4000) * 0.3
    with torch.no_grad():
        encoded = model.encode(waveform)
        decoded = model.decode(encoded.audio_codes, encoded.audio_codes_mask)
        outputs = model(waveform)
    assert encoded.audio_codes.shape == (2, 8, 13) and encoded.audio_codes.dtype == torch.int64
    assert decoded.audio_values.shape == (2, 1, 13 * HOP)
    torch.testing.assert_close(outputs.audio_values, decoded.audio_values[..., :4000], atol=1e-5, rtol=1e-5)
    assert torch.equal(outputs.audio_codes, encoded.audio_codes)
    as_tuple = model.encode(waveform, return_dict=False)
    assert torch.equal(as_tuple[0], encoded.audio_codes)


@pytest.mark.parametrize("self_guidance", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_causal_codes_do_not_see_the_future(backbone, self_guidance):
    model = tiny_model(backbone, causal=True, self_guidance=self_guidance)
    torch.nn.init.normal_(model.guidance.back_proj.weight)
    waveform = torch.randn(1, 1, 20 * HOP) * 0.3
    changed = waveform.clone()
    changed[..., 10 * HOP :] = torch.randn(1, 1, 10 * HOP)
    with torch.no_grad():
        first, second = model.encode(waveform).audio_codes, model.encode(changed).audio_codes
    assert torch.equal(first[..., :10], second[..., :10])
    # The istft decoder overlaps with (n_fft - hop) / 2 = 480 samples to come.
    overlap = 480 if backbone == "istft" else 0
    with torch.no_grad():
        early = [model.decode(codes).audio_values[..., : 10 * HOP - overlap] for codes in (first, second)]
    assert not torch.equal(first[..., 10:], second[..., 10:])
    torch.testing.assert_close(early[0], early[1], atol=1e-6, rtol=1e-6)


MODELS = {backbone: tiny_model(backbone, guidance_sources=()) for backbone in BACKBONES}
MODELS["self-guided"] = tiny_model("istft", self_guidance=True)
torch.nn.init.normal_(MODELS["self-guided"].guidance.back_proj.weight)
MODELS["reflect"] = tiny_model("seanet", pad_mode="reflect", guidance_sources=())


def lengths_up_to_four_seconds():
    return st.lists(st.integers(HOP, 4 * 16000), min_size=8, max_size=8)


@pytest.mark.parametrize("name", list(MODELS))
@settings(max_examples=3, deadline=None, derandomize=True)
@given(lengths=lengths_up_to_four_seconds(), seed=st.integers(0, 2**16))
def test_an_item_of_a_batch_is_the_item_alone(name, lengths, seed):
    check_batch_equals_single(MODELS[name], lengths, seed)
    check_batch_equals_single(copy.deepcopy(MODELS[name]).double(), lengths, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
@settings(max_examples=40, deadline=None)
@given(lengths=lengths_up_to_four_seconds(), seed=st.integers(0, 2**16))
def test_an_item_of_a_batch_is_the_item_alone_many(name, lengths, seed):
    """In float64: who looks long enough finds a frame that is as near to two entries as float32 can tell."""
    check_batch_equals_single(copy.deepcopy(MODELS[name]).double(), lengths, seed)


def check_batch_equals_single(model, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    clips = [(torch.randn(length, generator=generator) * 0.3).to(model.dtype) for length in lengths]
    batch = torch.zeros(8, 1, max(lengths), dtype=model.dtype)
    mask = torch.zeros(8, max(lengths), dtype=torch.bool)
    for row, clip in enumerate(clips):
        batch[row, 0, : len(clip)] = clip
        # What lies under the padding must not matter.
        batch[row, 0, len(clip) :] = 0.5
        mask[row, : len(clip)] = True
    with torch.no_grad():
        encoded = model.encode(batch, padding_mask=mask)
        codes, others, total = encoded.audio_codes.clone(), 0, 0
        for row, clip in enumerate(clips):
            alone = model.encode(clip[None, None]).audio_codes[0]
            frames = -(-len(clip) // HOP)
            assert int(encoded.audio_codes_mask[row].sum()) == frames == alone.shape[-1]
            assert (codes[row, :, frames:] == 0).all()
            others, total = others + int((codes[row, :, :frames] != alone).any(0).sum()), total + frames
            codes[row, :, :frames] = alone
        # In float32 a frame may be as near to two entries as rounding can tell.
        assert others == 0 if model.dtype == torch.float64 else others <= 0.01 * total
        decoded = model.decode(codes, encoded.audio_codes_mask)
        for row, clip in enumerate(clips):
            audio = model.decode(codes[row : row + 1, :, : -(-len(clip) // HOP)]).audio_values[0, 0]
            torch.testing.assert_close(decoded.audio_values[row, 0, : len(audio)], audio, atol=1e-5, rtol=1e-5)
            assert (decoded.audio_values[row, 0, len(audio) :] == 0).all()
            assert int(decoded.padding_mask[row].sum()) == len(audio)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_save_and_load(backbone, tmp_path):
    model = tiny_model(backbone)
    waveform = torch.randn(1, 1, 3200)
    model.save_pretrained(tmp_path)
    for auto in (AutoModel, AutoModelForAudioTokenization):
        loaded = auto.from_pretrained(tmp_path)
        assert isinstance(loaded, AffectCodecModel)
        with torch.no_grad():
            assert torch.equal(loaded.encode(waveform).audio_codes, model.encode(waveform).audio_codes)
            assert torch.equal(loaded(waveform).audio_values, model(waveform).audio_values)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_config_round_trip_and_no_unknown_entries(tmp_path):
    config = tiny_config("seanet", causal=True)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
    assert type(loaded) is AffectCodecConfig and loaded.num_filters == 4
    # transformers keeps unknown entries without a word; a misspelt one would be lost that way.
    declared = set(AffectCodecConfig.__annotations__) | set(PreTrainedConfig().to_dict())
    assert set(loaded.to_dict()) <= declared


@pytest.mark.parametrize(
    "name, value",
    [("backbone", "vocos"), ("guidance_attention", "both"), ("guidance_order", "x"), ("pad_mode", "same"),
     ("guidance_sources", ["text"]), ("mel_hop_lengths", [321, 80]), ("distillation_num_quantizers", 9)],
)  # fmt: skip
def test_bad_configuration_is_named(name, value):
    with pytest.raises(Exception, match=name):
        AffectCodecConfig(**{name: value})


@pytest.mark.parametrize("backbone", BACKBONES)
def test_initialisation_lives_in_init_weights(backbone):
    """A model with every weight missing equals a fresh one: nothing is drawn outside `_init_weights`."""
    config = tiny_config(backbone, self_guidance=True)
    fresh = AffectCodecModel(config)
    from_nothing = AffectCodecModel.from_pretrained(None, config=config, state_dict={})
    for (name, a), (_, b) in zip(fresh.state_dict().items(), from_nothing.state_dict().items(), strict=True):
        if a.unique().numel() == 1:
            assert torch.equal(a, b), name
        else:
            assert float(b.std()) == pytest.approx(float(a.std()), rel=0.3 if a.numel() > 200 else 0.8), name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weight_norm_changes_nothing(backbone):
    model = tiny_model(backbone)
    waveform = torch.randn(1, 1, 3200)
    plain = copy.deepcopy(model)
    with torch.no_grad():
        before = model(waveform).audio_values
        model.apply_weight_norm()
        torch.testing.assert_close(model(waveform).audio_values, before, atol=1e-5, rtol=1e-5)
        model.remove_weight_norm()
        torch.testing.assert_close(model(waveform).audio_values, before, atol=1e-5, rtol=1e-5)
    assert set(model.state_dict()) == set(plain.state_dict())


def test_a_weight_normed_model_saves_plain_weights(tmp_path):
    model = tiny_model("seanet")
    waveform = torch.randn(1, 1, 3200)
    model.apply_weight_norm()
    model.apply_weight_norm()
    with torch.no_grad():
        expected = model(waveform).audio_values
        model.save_pretrained(tmp_path)
        loaded = AffectCodecModel.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(waveform).audio_values, expected, atol=1e-6, rtol=1e-6)
    loaded.remove_weight_norm()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_cast_model_runs(backbone):
    model = tiny_model(backbone, self_guidance=True).to(torch.bfloat16)
    with torch.no_grad():
        outputs = model(torch.randn(1, 1, 3200) * 0.3)
    assert torch.isfinite(outputs.audio_values.float()).all()


def test_loud_predictions_have_finite_gradients():
    model = tiny_model("istft").train()
    with torch.no_grad():
        model.decoder.head.bias.fill_(200.0)
    model(torch.randn(1, 1, 3200)).audio_values.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_bfloat16_autocast_keeps_the_quantizer_in_float32():
    model = tiny_model("istft").train()
    seen = {}
    model.quantizer.layers[0].update = lambda vectors, codes: seen.update(dtype=vectors.dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randn(2, 1, 3200))
    assert seen["dtype"] == torch.float32


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_quantizer_in_float32(backbone, dtype, tmp_path):
    tiny_model(backbone, self_guidance=True).save_pretrained(tmp_path)
    model = AffectCodecModel.from_pretrained(tmp_path, dtype=dtype)
    assert model.quantizer.layers[0].embed.dtype == torch.float32 and model.dtype == dtype
    with torch.no_grad():
        outputs = model(torch.randn(2, 1, 3200) * 0.3)
    assert torch.isfinite(outputs.audio_values.float()).all() and outputs.audio_values.shape == (2, 1, 3200)


def test_guidance_moves_latents_only_where_asked():
    model = tiny_model("istft", self_guidance=True)
    torch.nn.init.normal_(model.guidance.back_proj.weight)
    waveform = torch.randn(1, 1, 3200)
    emotion, semantic = torch.randn(1, 10, 12), torch.randn(1, 10, 10)
    with torch.no_grad():
        none = model.encode(waveform, guidance_source="none").latents
        own = model.encode(waveform).latents
        both = model.encode(waveform, emotion_features=emotion, semantic_features=semantic).latents
        one = model.encode(waveform, emotion_features=emotion).latents
    for other in (own, both, one):
        assert not torch.allclose(none, other)
    with pytest.raises(ValueError, match="emotion_features"):
        model.encode(waveform, emotion_features=emotion[:, :9])
    with pytest.raises(ValueError, match="guidance_source"):
        model.encode(waveform, guidance_source="teacher")


def test_fewer_quantizers_are_a_prefix_of_all():
    model = tiny_model("istft")
    waveform = torch.randn(1, 1, 3200)
    with torch.no_grad():
        all_codes = model.encode(waveform).audio_codes
        few = model.encode(waveform, num_quantizers=3).audio_codes
        assert torch.equal(all_codes[:, :3], few)
        assert model.decode(few).audio_values.shape == (1, 1, 3200)
        latents = model.quantizer.project_in(model.encode(waveform, guidance_source="none").latents)
        errors = [
            float((latents - sum(model.quantizer.layers[q].embed[all_codes[:, q]] for q in range(n))).square().mean())
            for n in range(1, 9)
        ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("number", [float, np.float32])
def test_feature_extractor_takes_a_list_of_numbers_as_one_clip(number):
    batch = AffectCodecFeatureExtractor()([number(0.25)] * 640, sampling_rate=16000, return_tensors="pt")
    assert torch.equal(batch["input_values"], torch.full((1, 1, 640), 0.25))


def test_feature_extractor(tmp_path):
    extractor = AffectCodecFeatureExtractor()
    batch = extractor([torch.randn(1000).numpy(), torch.randn(1, 500)], sampling_rate=16000, return_tensors="pt")
    assert batch["input_values"].shape == (2, 1, 1280) and batch["padding_mask"].sum(-1).tolist() == [1000, 500]
    assert batch["padding_mask"].dtype == torch.bool
    extractor.save_pretrained(tmp_path)
    tiny_config("istft").save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == extractor.to_dict()
