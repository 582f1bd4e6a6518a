"""Units that say nothing are the ones that go: then nothing changes."""

import pytest
import torch
from prune_codec import narrowed
from tiny import tiny_model


def test_silent_units_go():
    model = tiny_model("istft", guidance_sources=())
    generator = torch.Generator().manual_seed(0)
    waveforms = [torch.randn(samples, generator=generator) * 0.3 for samples in (4000, 6400)]
    for number, block in enumerate((*model.encoder.blocks, *model.decoder.blocks)):
        # Other units in every block; half are silent because their column is zero, half because they are never active.
        silent = torch.randperm(64, generator=torch.Generator().manual_seed(number))[:24]
        with torch.no_grad():
            block.up_proj.weight.normal_(std=0.3)
            block.down_proj.weight.normal_(std=0.3)
            block.down_proj.weight[:, silent[:12]] = 0
            block.up_proj.weight[silent[12:]] = 0
            block.up_proj.bias[silent[12:]] = -30
    small = narrowed(model, 40, waveforms)
    assert small.config.intermediate_size == 40 and small.encoder.blocks[0].up_proj.weight.shape == (40, 32)
    for waveform in waveforms:
        expected, found = (m(waveform[None, None]) for m in (model, small))
        assert torch.equal(found.audio_codes, expected.audio_codes)
        torch.testing.assert_close(found.audio_values, expected.audio_values, rtol=0, atol=1e-5)
    # One unit fewer, and something that speaks is gone.
    changed = narrowed(model, 39, waveforms)(waveforms[0][None, None]).audio_values
    assert not torch.allclose(changed, model(waveforms[0][None, None]).audio_values, atol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="intermediate_size"):
        narrowed(tiny_model("istft", guidance_sources=()), 64, [])
    with pytest.raises(ValueError, match="istft"):
        narrowed(tiny_model("seanet", guidance_sources=()), 8, [])
