"""Copied random weights give the public SpeechTokenizer's codes, latents and waveforms."""

import pytest
import torch

from hf_affectcodec.benchmarks.speed import build_peer
from hf_affectcodec.convert_speechtokenizer import from_speechtokenizer


@pytest.mark.parametrize("num_filters", [32, 64])
def test_codes_latents_and_waveforms_are_equal(num_filters):
    theirs = build_peer(num_filters)
    ours = from_speechtokenizer(theirs.state_dict(), num_filters=num_filters, guidance_sources=()).eval()
    for samples in (16000, 15999, 9601, 320):
        waveform = torch.randn(2, 1, samples) * 0.3
        with torch.no_grad():
            encoded = ours.encode(waveform)
            torch.testing.assert_close(encoded.latents, theirs.encoder(waveform).transpose(1, 2), atol=1e-5, rtol=1e-5)
            codes = theirs.encode(waveform).transpose(0, 1)
            # The codebooks are really searched: a clip does not repeat one entry.
            assert samples == 320 or codes.unique().numel() > 50
            assert torch.equal(encoded.audio_codes, codes)
            decoded = ours.decode(codes).audio_values
            torch.testing.assert_close(decoded, theirs.decode(codes.transpose(0, 1)), atol=1e-5, rtol=1e-5)
            rebuilt, _, feature = theirs(waveform)
            outputs = ours(waveform)
            torch.testing.assert_close(outputs.audio_values, rebuilt[..., :samples], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(outputs.alignment_latents, feature, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encoder.fc.weight", "does not have"),
        ("encoder.model.99.conv.conv.weight", "does not have"),
        ("encoder.model.0.conv.conv.weight_v", "without"),
        ("quantizer.vq.layers.0._codebook.other", "does not have"),
    ],
)
def test_foreign_weights_are_refused(name, message):
    with pytest.raises(ValueError, match="state_dict.*" + message) as raised:
        from_speechtokenizer({name: torch.zeros(2, 1, 1)}, num_filters=4)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("size", "message"), [(7, "num_filters"), (4, "missing")])
def test_weights_that_do_not_fit_are_refused(size, message):
    with pytest.raises(ValueError, match="state_dict.*" + message) as raised:
        from_speechtokenizer({"encoder.model.0.conv.conv.bias": torch.zeros(size)}, num_filters=4)
    assert "\n" not in str(raised.value)
