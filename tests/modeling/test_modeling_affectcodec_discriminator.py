import dataclasses

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize
from transformers import PreTrainedConfig

from hf_affectcodec.modeling.configuration_affectcodec_discriminator import AffectCodecDiscriminatorConfig
from hf_affectcodec.modeling.modeling_affectcodec_discriminator import (
    AffectCodecDiscriminator,
    AffectCodecDiscriminatorSpectralNorm,
)


FAMILIES = ("stft_discriminators", "period_discriminators", "scale_discriminators")


def tiny_config(**kwargs):
    sizes = {
        "stft_filters": 4,
        "stft_n_ffts": (128, 64),
        "periods": (2, 3),
        "period_channels": (4, 8, 8),
        "num_scales": 2,
        "scale_channels": (8, 8, 16),
        "scale_kernel_sizes": (15, 41, 5),
        "scale_strides": (1, 4, 1),
        "scale_groups": (1, 4, 1),
    }
    return AffectCodecDiscriminatorConfig(**{**sizes, **kwargs})


def tiny_model(seed=0, **kwargs):
    torch.manual_seed(seed)
    return AffectCodecDiscriminator(tiny_config(**kwargs)).eval()


def waveform(batch_size=2, num_samples=1601, seed=0):
    return 0.1 * torch.randn(batch_size, 1, num_samples, generator=torch.Generator().manual_seed(seed))


def flat_tensors(outputs):
    return [*outputs.logits, *(feature_map for maps in outputs.feature_maps for feature_map in maps)]


def assert_same_outputs(outputs, expected, atol=0.0, rtol=0.0, skip=()):
    assert len(outputs.logits) == len(expected.logits)
    for index in range(len(outputs.logits)):
        if index not in skip:
            torch.testing.assert_close(outputs.logits[index], expected.logits[index], atol=atol, rtol=rtol)
            for ours, theirs in zip(outputs.feature_maps[index], expected.feature_maps[index], strict=True):
                torch.testing.assert_close(ours, theirs, atol=atol, rtol=rtol)


def normed_convs(model):
    return [name for name, module in model.named_modules() if parametrize.is_parametrized(module, "weight")]


@pytest.mark.parametrize("family", FAMILIES)
def test_parity_with_speechtokenizer(family):
    reference_module = pytest.importorskip("speechtokenizer.discriminators")
    torch.manual_seed(0)
    reference = {
        "stft_discriminators": lambda: reference_module.MultiScaleSTFTDiscriminator(32),
        "period_discriminators": reference_module.MultiPeriodDiscriminator,
        "scale_discriminators": reference_module.MultiScaleDiscriminator,
    }[family]().eval()
    absent = {
        "stft_discriminators": {"stft_n_ffts": ()},
        "period_discriminators": {"periods": ()},
        "scale_discriminators": {"num_scales": 0},
    }
    others = {name: value for key, sizes in absent.items() if key != family for name, value in sizes.items()}
    model = AffectCodecDiscriminator(AffectCodecDiscriminatorConfig(**others)).eval()
    input_values = waveform(num_samples=4003)

    with torch.no_grad():
        for ours, theirs in zip(getattr(model, family), reference.discriminators, strict=True):
            for conv, reference_conv in zip(
                [*ours.convs, ours.conv_post], [*theirs.convs, theirs.conv_post], strict=True
            ):
                reference_conv = getattr(reference_conv, "conv", reference_conv)
                for hook in reference_conv._forward_pre_hooks.values():  # weight and spectral norm write `weight` here
                    hook(reference_conv, None)
                conv.weight.copy_(reference_conv.weight.reshape(conv.weight.shape))
                conv.bias.copy_(reference_conv.bias)
        outputs = model(input_values)
        fake_input_values = waveform(num_samples=4003, seed=1)
        logits, fake_logits, maps, fake_maps = reference(input_values, fake_input_values)
        fake_outputs = model(fake_input_values)

    for result, expected_logits, expected_maps in ((outputs, logits, maps), (fake_outputs, fake_logits, fake_maps)):
        assert len(result.logits) == len(expected_logits)
        for index, expected in enumerate(expected_logits):
            torch.testing.assert_close(result.logits[index], expected, atol=1e-5, rtol=0)
            for ours, theirs in zip(result.feature_maps[index], expected_maps[index], strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_normed_convolutions_are_those_of_the_reference(family):
    reference_module = pytest.importorskip("speechtokenizer.discriminators")
    name = {"stft": "MultiScaleSTFTDiscriminator", "peri": "MultiPeriodDiscriminator"}
    name = name.get(family[:4], "MultiScaleDiscriminator")
    reference = getattr(reference_module, name)(*((2,) if family.startswith("stft") else ()))
    # As many layers as the reference, of other sizes.
    model = tiny_model(
        stft_n_ffts=(128,) * 5,
        periods=(2, 3, 5, 7, 11),
        period_channels=(2,) * 5,
        num_scales=3,
        scale_channels=(2,) * 7,
        scale_kernel_sizes=(3,) * 7,
        scale_strides=(2,) * 7,
        scale_groups=(1,) * 7,
    )
    model.apply_weight_norm()
    kinds = []
    for module in getattr(model, family).modules():
        if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)):
            if not parametrize.is_parametrized(module):
                kinds.append(None)
            elif isinstance(module.parametrizations.weight[0], AffectCodecDiscriminatorSpectralNorm):
                kinds.append("SpectralNorm")
            else:
                kinds.append("WeightNorm")
    expected = []
    for module in reference.modules():
        if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)):
            hooks = list(module._forward_pre_hooks.values())
            expected.append(type(hooks[0]).__name__ if hooks else None)
    assert kinds == expected


@pytest.mark.parametrize("num_samples", [128, 129, 1600, 1607])
def test_output_shapes(num_samples):
    model = tiny_model()
    with torch.no_grad():
        outputs = model(waveform(3, num_samples))
    assert len(outputs.logits) == len(outputs.feature_maps) == 2 + 2 + 2
    frames, bins = (num_samples - 128) // 32 + 1, 128 // 2 + 1
    assert outputs.feature_maps[0][0].shape == (3, 4, frames, bins)
    assert outputs.logits[0].shape == (3, 1, frames, (((bins + 1) // 2 + 1) // 2 + 1) // 2)
    assert outputs.feature_maps[3][-1].shape[-1] == 3
    assert outputs.feature_maps[4][0].shape == (3, 8, num_samples)
    assert outputs.feature_maps[5][0].shape == (3, 8, num_samples // 2 + 1)
    assert all(logits.shape[0] == 3 for logits in outputs.logits)
    assert all(torch.isfinite(tensor).all() for tensor in flat_tensors(outputs))


def test_return_dict():
    model, input_values = tiny_model(), waveform()
    with torch.no_grad():
        outputs, plain = model(input_values), model(input_values, return_dict=False)
    assert isinstance(plain, tuple) and len(plain) == 2
    for ours, theirs in zip(plain[0], outputs.logits, strict=True):
        assert torch.equal(ours, theirs)


def test_batch_does_not_change_an_item():
    model, input_values = tiny_model(), waveform(4)
    with torch.no_grad():
        together, alone = model(input_values), model(input_values[2:3])
    for ours, theirs in zip(flat_tensors(together), flat_tensors(alone), strict=True):
        torch.testing.assert_close(ours[2:3], theirs, atol=1e-6, rtol=0)


def test_mini_configurations():
    input_values = waveform(num_samples=400)
    only = {
        "stft_discriminators": {"periods": (), "num_scales": 0},
        "period_discriminators": {"stft_n_ffts": (), "num_scales": 0},
        "scale_discriminators": {"stft_n_ffts": (), "periods": ()},
    }
    full = tiny_model()
    with torch.no_grad():
        for family, sizes in only.items():
            model = tiny_model(**sizes)
            assert [len(getattr(model, name)) for name in FAMILIES] == [2 * (name == family) for name in FAMILIES]
            getattr(model, family).load_state_dict(getattr(full, family).state_dict())
            first = 2 * FAMILIES.index(family)
            for ours, theirs in zip(model(input_values).logits, full(input_values).logits[first:], strict=False):
                assert torch.equal(ours, theirs)
    # A coarser hop is a mini configuration too.
    model = tiny_model(stft_hop_lengths=(64, 32), **only["stft_discriminators"])
    assert model(input_values).logits[0].shape[2] == (400 - 128) // 64 + 1


def test_input_errors():
    model = tiny_model()
    with pytest.raises(ValueError, match="input_values.*at least 128 samples"):
        model(waveform(num_samples=127))
    for bad in (waveform()[:, 0], waveform().expand(-1, 2, -1)):
        with pytest.raises(ValueError, match="input_values.*shape"):
            model(bad)


def test_config_round_trip(tmp_path):
    config = tiny_config(stft_hop_lengths=(32, 8), sampling_rate=24_000)
    config.save_pretrained(tmp_path)
    loaded = AffectCodecDiscriminatorConfig.from_pretrained(tmp_path)
    assert loaded.to_json_string() == config.to_json_string()
    assert list(loaded.stft_hop_lengths) == [32, 8]
    assert list(AffectCodecDiscriminatorConfig().stft_hop_lengths) == [256, 512, 128, 64, 32]
    assert AffectCodecDiscriminatorConfig().minimum_length == 2048


def test_config_holds_declared_fields_only():
    declared = {field.name for field in dataclasses.fields(AffectCodecDiscriminatorConfig)}
    assert set(AffectCodecDiscriminatorConfig().to_dict()) <= declared | set(PreTrainedConfig().to_dict())


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("stft_n_ffts", {"stft_n_ffts": (), "periods": (), "num_scales": 0}),
        ("stft_n_ffts", {"stft_n_ffts": (128, 0)}),
        ("stft_hop_lengths", {"stft_hop_lengths": (32,)}),
        ("stft_kernel_size", {"stft_kernel_size": (3,)}),
        ("stft_kernel_size", {"stft_kernel_size": (3, 8)}),
        ("periods", {"periods": (0,)}),
        ("period_channels", {"period_channels": ()}),
        ("period_kernel_size", {"period_kernel_size": 4}),
        ("num_scales", {"num_scales": -1}),
        ("scale_kernel_sizes", {"scale_kernel_sizes": (15, 40, 5)}),
        ("scale_strides", {"scale_strides": (1,)}),
        ("scale_groups", {"scale_groups": (1, 3, 1)}),
    ],
)
def test_config_errors(name, kwargs):
    with pytest.raises(StrictDataclassError, match=f"`{name}`"):
        tiny_config(**kwargs)


def test_save_and_load(tmp_path):
    model, input_values = tiny_model(), waveform()
    model.save_pretrained(tmp_path)
    loaded, info = AffectCodecDiscriminator.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        assert_same_outputs(loaded(input_values), model(input_values))


def test_save_in_training_folds_the_norms(tmp_path):
    model, input_values = tiny_model(), waveform()
    model.apply_weight_norm()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(logits.mean() for logits in model(input_values).logits).backward()
    optimizer.step()
    names, before = set(model.state_dict()), {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    assert model.training and set(model.state_dict()) == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    loaded, info = AffectCodecDiscriminator.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        assert_same_outputs(loaded(input_values), model.eval()(input_values), atol=1e-6)
    with pytest.raises(ValueError, match="`state_dict`"):
        model.save_pretrained(tmp_path, state_dict=model.state_dict())


def test_state_dict_resumes_training_exactly():
    input_values = waveform()
    models = [tiny_model(seed) for seed in (0, 1)]
    for model in models:
        model.apply_weight_norm()
        model.train()
    models[0](input_values)  # moves the singular vectors
    models[1].load_state_dict(models[0].state_dict())
    with torch.no_grad():
        assert_same_outputs(models[1](input_values), models[0](input_values))


def test_missing_keys_are_initialised_as_in_a_fresh_model(tmp_path, monkeypatch):
    config = tiny_config()
    AffectCodecDiscriminator(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if name.startswith("stft_discriminators.0")}
    assert kept and len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = AffectCodecDiscriminator.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == set(weights) - set(kept)
    for name, value in loaded.state_dict().items():
        assert torch.isfinite(value).all() and 0 < value.abs().max() < 1, name
        if name in kept:
            assert torch.equal(value, kept[name])

    # One seed for every layer: a fresh model also draws PyTorch's own initial values, one on meta does not.
    init_weights = AffectCodecDiscriminator._init_weights

    def seeded_init_weights(self, module):
        torch.manual_seed(0)
        init_weights(self, module)

    monkeypatch.setattr(AffectCodecDiscriminator, "_init_weights", seeded_init_weights)
    fresh = AffectCodecDiscriminator(config).state_dict()
    empty = AffectCodecDiscriminator.from_pretrained(None, config=config, state_dict={}).state_dict()
    assert set(fresh) == set(empty)
    assert all(torch.equal(empty[name], value) for name, value in fresh.items())


@pytest.mark.parametrize("normed", [False, True])
def test_every_parameter_receives_gradient(normed):
    model = tiny_model().train()
    if normed:
        model.apply_weight_norm()
    input_values = waveform().requires_grad_()
    sum(logits.square().mean() for logits in model(input_values).logits).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert input_values.grad.abs().sum() > 0


@pytest.mark.parametrize("normed", [False, True])
def test_bf16_autocast_is_near_fp32(normed):
    model, input_values = tiny_model(), waveform()
    if normed:
        model.apply_weight_norm()
    with torch.no_grad():
        expected = model(input_values)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(input_values)
    for ours, theirs in zip(flat_tensors(outputs), flat_tensors(expected), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - theirs).abs().mean() < 0.02 * theirs.abs().mean()


def test_spectrogram_is_fp32_under_autocast():
    discriminator, input_values = tiny_model().stft_discriminators[0], waveform()
    expected = discriminator.spectrogram(input_values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(discriminator.spectrogram(input_values), expected)
    assert discriminator.spectrogram(input_values.bfloat16()).dtype == torch.float32
    assert expected.is_contiguous(memory_format=torch.channels_last)


def test_bf16_weights():
    model, input_values = tiny_model(), waveform()
    with torch.no_grad():
        expected = model(input_values)
        outputs = model.bfloat16()(input_values.bfloat16())
    for ours, theirs in zip(flat_tensors(outputs), flat_tensors(expected), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - theirs).abs().mean() < 0.05 * theirs.abs().mean()


def test_weight_norm_keeps_outputs():
    model, input_values = tiny_model(), waveform()
    names = set(model.state_dict())
    spectral = 2 + 2  # first scale discriminator
    with torch.no_grad():
        fresh = model(input_values)
        model.apply_weight_norm()
        count = len(normed_convs(model))
        applied = model(input_values)
        model.apply_weight_norm()
        assert len(normed_convs(model)) == count
        model.remove_weight_norm()
        assert not normed_convs(model) and set(model.state_dict()) == names
        removed = model(input_values)
        model.apply_weight_norm()
        again = model(input_values)
    assert_same_outputs(applied, fresh, atol=1e-6, skip=(spectral,))
    assert not torch.allclose(applied.logits[spectral], fresh.logits[spectral], atol=1e-3)
    assert_same_outputs(removed, applied, atol=1e-6)
    assert_same_outputs(again, applied, atol=1e-6)


def test_first_scale_has_unit_spectral_norm():
    model = tiny_model()
    model.apply_weight_norm()
    first, second = model.scale_discriminators
    for conv in (*first.convs, first.conv_post):
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-5)
    assert torch.linalg.matrix_norm(second.convs[1].weight.flatten(1), 2).item() != pytest.approx(1, abs=1e-2)


def test_spectral_norm_gradient_and_power_iteration():
    torch.manual_seed(0)
    weight = torch.randn(6, 2, 5, dtype=torch.double)
    normalization = AffectCodecDiscriminatorSpectralNorm(weight).eval()
    variable = weight.clone().requires_grad_()
    exact = weight.clone().requires_grad_()
    target = torch.randn_like(weight)
    ours = torch.autograd.grad((normalization(variable) * target).sum(), variable)[0]
    expected = exact / torch.linalg.matrix_norm(exact.flatten(1), 2)
    torch.testing.assert_close(ours, torch.autograd.grad((expected * target).sum(), exact)[0], atol=1e-10, rtol=0)

    # One iteration a use follows a weight that has moved, and only in training mode.
    moved = weight + 0.3 * torch.randn_like(weight)
    before = normalization.left_singular_vector.clone()
    normalization(moved)
    assert torch.equal(normalization.left_singular_vector, before)
    normalization.train()
    for _ in range(200):
        normalization(moved)
    assert torch.linalg.matrix_norm(normalization(moved).flatten(1), 2).item() == pytest.approx(1, abs=1e-6)


def test_two_forwards_before_one_backward():
    model = tiny_model().train()
    model.apply_weight_norm()
    real, fake = model(waveform()), model(waveform(seed=1))
    loss = sum((1 - a).relu().mean() + (1 + b).relu().mean() for a, b in zip(real.logits, fake.logits, strict=True))
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
