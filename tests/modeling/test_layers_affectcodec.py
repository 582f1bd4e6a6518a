"""The fast forms against torch's plain ones, with and without gradients, and against hand-worked cases."""

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_config, tiny_model

from hf_affectcodec.modeling.layers_affectcodec import conv_steps, elu, is_plain_cpu, linear
from hf_affectcodec.modeling.seanet_affectcodec import AffectCodecConv1d, AffectCodecConvTranspose1d


@pytest.fixture(params=[True, False], ids=["gradients", "inference"], autouse=True)
def gradients(request):
    with torch.set_grad_enabled(request.param):
        yield request.param


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (7, 1, 1), (3, 1, 4), (10, 5, 1)])
@pytest.mark.parametrize("channels", [(1, 5), (8, 1), (8, 5), (80, 150)])
def test_convolutions(kernel, stride, dilation, channels):
    torch.manual_seed(0)
    inputs, weight, bias = (
        torch.randn(3, 71, channels[0]),
        torch.randn(channels[1], channels[0], kernel),
        torch.randn(channels[1]),
    )
    for given in (bias, None):
        expected = F.conv1d(inputs.transpose(1, 2), weight, given, stride, 2, dilation).transpose(1, 2)
        torch.testing.assert_close(
            conv_steps(inputs, weight, given, stride, 2, dilation), expected, atol=1e-4, rtol=1e-4
        )


def test_products():
    torch.manual_seed(0)
    weight, bias = torch.randn(7, 5), torch.randn(7)
    for shape in ((5,), (4, 5), (2, 3, 5), (2, 150, 5)):
        inputs = torch.randn(shape)
        torch.testing.assert_close(linear(inputs, weight, bias), F.linear(inputs, weight, bias))
        torch.testing.assert_close(linear(inputs, weight), F.linear(inputs, weight))


@pytest.mark.parametrize("shape", [(5,), (1, 1, 5), (2, 5), (3, 1, 5), (4, 5), (2, 8, 5), (17, 5), (0, 5), (2, 0, 5)])
@pytest.mark.parametrize("threads", [1, 2])
def test_products_of_few_rows_with_parts_of_the_weight(shape, threads, monkeypatch):
    monkeypatch.setattr("hf_affectcodec.modeling.layers_affectcodec.MIN_WEIGHT", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    wide, bias = torch.randn(24, 6), torch.randn(24)
    for weight in (wide[:, :5], wide[:, :5].contiguous()):
        inputs = torch.randn(shape)
        for given in (bias, None):
            outputs = linear(inputs, weight, given)
            torch.testing.assert_close(outputs, F.linear(inputs, weight, given))
            assert outputs.is_contiguous()
    precise = torch.randn(2, 5).double()
    torch.testing.assert_close(linear(precise, wide[:, :5].double()), precise @ wide[:, :5].double().t())


def test_elu(gradients):
    inputs = torch.tensor([-1e4, -30.0, -3.0, -1.0, -1e-3, -1e-7, 0.0, 1e-3, 2.0, 1e4], requires_grad=True)
    expected = torch.where(inputs > 0, inputs.double(), torch.expm1(inputs.double().clamp(max=0)))
    torch.testing.assert_close(elu(inputs).double(), expected, atol=2e-7, rtol=1e-7)
    half = inputs.detach().bfloat16()
    torch.testing.assert_close(elu(half), F.elu(half))
    assert is_plain_cpu(inputs) != gradients
    if gradients:
        (slope,) = torch.autograd.grad(elu(inputs).sum(), inputs)
        torch.testing.assert_close(slope[2:5], torch.tensor([-3.0, -1.0, -1e-3]).exp())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("stride", [2, 5, 8])
def test_transposed_convolution(stride, causal):
    torch.manual_seed(0)
    layer = AffectCodecConvTranspose1d(tiny_config("seanet", causal=causal), 6, 4, stride)
    inputs = torch.randn(2, 9, 6)
    full = F.conv_transpose1d(inputs.transpose(1, 2), layer.weight, layer.bias, stride).transpose(1, 2)
    left = 0 if causal else stride - stride // 2
    for step_weight in (None, layer.step_weight()):
        outputs = layer(inputs, step_weight=step_weight)
        torch.testing.assert_close(outputs, full[:, left : left + 9 * stride], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 5, 23])
def test_reflection(steps, causal):
    """As torch's padding where that is defined; shorter inputs are extended by zeros for it."""
    torch.manual_seed(0)
    layer = AffectCodecConv1d(tiny_config("seanet", pad_mode="reflect", causal=causal), 3, 4, 7)
    inputs = torch.randn(2, steps, 3)
    missing = max(0, max(layer.left, layer.right) - steps + 1)
    extended = F.pad(inputs, (0, 0, 0, missing)).transpose(1, 2)
    padded = F.pad(extended, (layer.left, layer.right), mode="reflect")[..., : steps + 6]
    expected = F.conv1d(padded, layer.weight, layer.bias).transpose(1, 2)
    torch.testing.assert_close(layer(inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
@pytest.mark.parametrize("causal", [True, False])
def test_windows_are_not_seen(pad_mode, causal, monkeypatch):
    """Windows of a few frames, over a padded batch too, give what one window gives; too little context does not."""
    model = tiny_model("seanet", guidance_sources=(), causal=causal, pad_mode=pad_mode, num_residual_layers=2)
    waveform = torch.randn(2, 1, 320 * 23 + (0 if pad_mode == "zero" else 77)) * 0.3
    lengths = torch.tensor([waveform.shape[-1] // 320, 9]) if pad_mode == "zero" else None
    with torch.no_grad():
        whole = model.encoder(waveform, lengths)
        frames = torch.randn(2, 24, 32)
        samples = model.decoder(frames, lengths)
        monkeypatch.setattr("hf_affectcodec.modeling.seanet_affectcodec.WINDOW_FRAMES", 4)
        monkeypatch.setattr("hf_affectcodec.modeling.seanet_affectcodec.MIN_ROWS", 1)
        torch.testing.assert_close(model.encoder(waveform, lengths), whole, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(model.decoder(frames, lengths), samples, atol=1e-6, rtol=1e-5)
        monkeypatch.setattr(model.encoder, "context", 0)
        monkeypatch.setattr(model.decoder, "context", 0)
        assert float((model.encoder(waveform, lengths) - whole).abs().max()) > 1e-4
        assert float((model.decoder(frames, lengths) - samples).abs().max()) > 1e-4
