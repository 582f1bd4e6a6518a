"""The second stage started from the first."""

import pytest
import torch
from stage_transfer import start_nar_from_ar
from tiny_tts import CODES, QUANTIZERS, TEXT_SIZE, tiny_tts


@pytest.fixture(scope="module")
def model():
    model = tiny_tts()
    model.ar.model.position_scales.text.data.fill_(1.7)
    model.ar.model.position_scales.codes.data.fill_(0.6)
    start_nar_from_ar(model, modulation=0.0)
    return model


def hidden_states(model, phonemes, codes):
    """Of all layers, by the two stages; the first has neither beginning nor end of speech here."""
    sequence = torch.cat((phonemes + model.config.text_token_offset, codes[:, 0]), dim=1)
    with torch.no_grad():
        first = model.ar.model(sequence, output_hidden_states=True)
        second = model.nar(phonemes, codes, 1, output_hidden_states=True)
    return first.hidden_states, second.hidden_states


@pytest.mark.parametrize("text, frames", [(6, 0), (0, 1)])
def test_where_the_stages_see_the_same_they_do_the_same(model, text, frames):
    generator = torch.Generator().manual_seed(0)
    phonemes = torch.randint(TEXT_SIZE, (2, text), generator=generator)
    codes = torch.randint(CODES, (2, QUANTIZERS, frames), generator=generator)
    first, second = hidden_states(model, phonemes, codes)
    # The last of the first stage is behind its norm, which in the second only frames pass.
    for own, other in zip(second[:-1], first[:-1], strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)
    if frames:
        normed = model.nar.norm(second[-1], model.nar.stage_embedding.weight[0])
        torch.testing.assert_close(normed, first[-1], atol=1e-5, rtol=1e-5)


def test_stages_still_differ_a_little():
    model = tiny_tts()
    before = model.nar.norm.modulation.weight.clone()
    upper = model.nar.code_embeddings[1].weight.clone()
    start_nar_from_ar(model)
    torch.testing.assert_close(model.nar.norm.modulation.weight, 0.25 * before)
    assert torch.equal(model.nar.code_embeddings[1].weight, upper)
    assert not torch.equal(model.nar.layers[0].mlp.up_proj.weight, model.ar.model.layers[1].mlp.up_proj.weight)
