"""Copied random weights give the public SpeechTokenizer's codes, latents and waveforms."""

import pytest
import torch
from speechtokenizer import SpeechTokenizer

from hf_affectcodec.convert_speechtokenizer import from_speechtokenizer


def reference(num_filters: int) -> SpeechTokenizer:
    torch.manual_seed(0)
    model = SpeechTokenizer(
        {
            "n_filters": num_filters,
            "dimension": 1024,
            "strides": [8, 5, 4, 2],
            "lstm_layers": 2,
            "bidirectional": True,
            "dilation_base": 2,
            "residual_kernel_size": 3,
            "n_residual_layers": 1,
            "activation": "ELU",
            "sample_rate": 16000,
            "n_q": 8,
            "semantic_dimension": 768,
            "codebook_size": 1024,
        }
    ).eval()
    with torch.no_grad():
        # torch's own initialisation lets the signal die out under the biases, and codes would be decided by rounding.
        for name, parameter in model.named_parameters():
            if name.endswith("weight_g"):
                parameter.mul_(1.7)
            elif name.endswith("conv.bias") or name.endswith("convtr.bias"):
                parameter.zero_()
        # Codebooks of real latents and residuals, so that the search has something to decide.
        residual = model.encoder(torch.randn(1, 1, 22 * 16000) * 0.3).transpose(1, 2).flatten(0, 1)
        for layer in model.quantizer.vq.layers:
            layer._codebook.embed.copy_(residual[torch.randperm(len(residual))[:1024]])
            layer._codebook.inited.fill_(1)
            chosen = layer._codebook.embed[layer._codebook.quantize(residual)]
            residual = residual - chosen + 0.3 * residual.std() * torch.randn_like(residual)
    return model


@pytest.mark.parametrize("num_filters", [32, 64])
def test_codes_latents_and_waveforms_are_equal(num_filters):
    theirs = reference(num_filters)
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


def test_foreign_weights_are_refused():
    with pytest.raises(ValueError, match="state_dict"):
        from_speechtokenizer({"encoder.fc.weight": torch.zeros(1)})
