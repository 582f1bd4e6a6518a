import math

import pytest
import torch

from hf_affectcodec.objectives.alignment import (
    alignment_loss,
    emotion_weights,
    soft_text_targets,
    window_centers,
)


FRAME_LENGTHS = (7, 5, 1, 6, 2, 3)
TEXT_LENGTHS = (3, 1, 2, 0, 5, 4)
SIZE = 4


def make_mask(lengths=FRAME_LENGTHS):
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def make_batch(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    items, frames, tokens = len(FRAME_LENGTHS), max(FRAME_LENGTHS), max(TEXT_LENGTHS)
    latents = 2 * torch.randn(items, frames, SIZE, generator=generator)
    text = 3 * torch.randn(items, tokens, SIZE, generator=generator)
    emotion = 5 * torch.randn(items, frames, 3, generator=generator)
    latents, text, emotion = (values.to(dtype).requires_grad_() for values in (latents, text, emotion))
    return latents, text, torch.tensor(TEXT_LENGTHS), emotion


def slow_cosine(a, b):
    dot, a_square, b_square = (sum(x[k] * y[k] for k in range(len(x))) for x, y in ((a, b), (a, a), (b, b)))
    return dot / (a_square.sqrt() * b_square.sqrt())


def slow_gammas(emotion, length, temperature):
    unit = []
    for t in range(length):
        norm = sum(value**2 for value in emotion[t].tolist()) ** 0.5
        unit.append([value / norm for value in emotion[t].tolist()])
    d = [0.0] + [sum(abs(x - y) for x, y in zip(unit[t], unit[t - 1], strict=True)) for t in range(1, length)]
    exponentials = [math.exp(value / temperature) for value in d]
    return [length * value / sum(exponentials) for value in exponentials]


def slow_target(q, tokens, t, length, window):
    """c*_t with t from 1 and tokens c_1..c_n, as Algorithm 1 counts."""
    n = len(tokens)
    i0 = min(max(math.floor(t * n / length), 1), n)
    neighbours = [i for i in range(1, n + 1) if abs(i - i0) <= window]
    exponentials = [math.exp(slow_cosine(q, tokens[i - 1]).item()) for i in neighbours]
    target = 0.0
    for i, value in zip(neighbours, exponentials, strict=True):
        target = target + value / sum(exponentials) * tokens[i - 1]
    return target.detach()


def slow_alignment_loss(latents, text, emotion, window, temperature):
    """Algorithm 1, in float64."""
    total = 0.0
    for item, (length, n) in enumerate(zip(FRAME_LENGTHS, TEXT_LENGTHS, strict=True)):
        if n == 0:
            continue
        gammas = [1.0] * length if emotion is None else slow_gammas(emotion[item].double(), length, temperature)
        tokens = [text[item, i].double() for i in range(n)]
        item_total = 0.0
        for t in range(1, length + 1):
            q = latents[item, t - 1].double()
            cosine = slow_cosine(q, slow_target(q, tokens, t, length, window))
            item_total = item_total + gammas[t - 1] * torch.log(1 / (1 + torch.exp(-cosine)))
        total = total - item_total / length
    return total / len(FRAME_LENGTHS)


@pytest.mark.parametrize("window", [0, 1, 3])
@pytest.mark.parametrize("with_emotion", [True, False])
def test_equals_slow_loop(window, with_emotion):
    latents, text, lengths, emotion = make_batch()
    emotion = emotion if with_emotion else None
    loss = alignment_loss(latents, text, lengths, emotion, make_mask(), window=window, temperature=0.6)
    slow = slow_alignment_loss(latents, text, emotion, window, 0.6)
    assert loss.dtype == torch.float32 and loss.shape == ()
    torch.testing.assert_close(loss.double(), slow, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, latents)
    (slow_gradient,) = torch.autograd.grad(slow, latents)
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-4, atol=1e-7)


def test_defaults_are_the_paper():
    latents, text, lengths, emotion = make_batch()
    expected = slow_alignment_loss(latents, text, emotion, 3, 1.0)
    torch.testing.assert_close(alignment_loss(latents, text, lengths, emotion, make_mask()).double(), expected)


def test_window_centers():
    centers = window_centers(torch.tensor([6, 3, 1, 4]), torch.tensor([3, 6, 1, 0]), 6)
    # Frames 1..6 of 6 with 3 tokens: floor(t / 2) = 0 1 1 2 2 3, clipped to 1..3, then counted from 0.
    assert centers[0].tolist() == [0, 0, 0, 1, 1, 2]
    assert centers[1, :3].tolist() == [1, 3, 5]
    assert centers[2, 0].item() == 0
    assert centers[3, :4].tolist() == [-1] * 4


def test_window_centers_in_whole_numbers():
    # 0.7 * 10 and the like round down in floating point.
    for length in (7, 49, 150):
        for n in (1, 3, 10, 29, 200):
            centers = window_centers(torch.tensor([length]), torch.tensor([n]), length)[0].tolist()
            assert centers == [min(max(t * n // length, 1), n) - 1 for t in range(1, length + 1)]


def test_hard_alignment_takes_one_token():
    latents, text, lengths, _ = make_batch()
    targets = soft_text_targets(latents, text, lengths, make_mask(), window=0)
    centers = window_centers(torch.tensor(FRAME_LENGTHS), lengths, max(FRAME_LENGTHS))
    for item, (length, n) in enumerate(zip(FRAME_LENGTHS, TEXT_LENGTHS, strict=True)):
        for t in range(length):
            expected = text[item, centers[item, t]] if n > 0 else torch.zeros(SIZE)
            torch.testing.assert_close(targets[item, t], expected)
    assert (targets[~make_mask()] == 0).all()


def test_weights():
    _, _, _, emotion = make_batch()
    weights = emotion_weights(emotion, make_mask(), temperature=0.5)
    torch.testing.assert_close(weights.sum(1), torch.tensor(FRAME_LENGTHS).float())
    assert (weights[~make_mask()] == 0).all() and not weights.requires_grad
    for item, length in enumerate(FRAME_LENGTHS):
        torch.testing.assert_close(weights[item, :length], torch.tensor(slow_gammas(emotion[item], length, 0.5)))
    torch.testing.assert_close(emotion_weights(100 * emotion, make_mask(), temperature=0.5), weights)
    assert torch.equal(emotion_weights(None, make_mask()), make_mask().float())
    # Silence, or an emotion that does not move: uniform.
    torch.testing.assert_close(emotion_weights(torch.zeros(6, 7, 3), make_mask()), make_mask().float())
    torch.testing.assert_close(emotion_weights(torch.ones(6, 7, 3), make_mask()), make_mask().float())
    flat = emotion_weights(emotion, make_mask(), temperature=1e6)
    torch.testing.assert_close(flat, make_mask().float(), rtol=1e-4, atol=0)


def test_weight_is_where_emotion_moves():
    emotion = torch.zeros(1, 6, 2)
    emotion[0, :3, 0], emotion[0, 3:, 1] = 1, 1
    weights = emotion_weights(emotion, torch.ones(1, 6))[0]
    assert weights.argmax() == 3
    # d = 2 at the fourth frame, 0 elsewhere.
    assert weights[3].item() == pytest.approx(6 * math.exp(2) / (5 + math.exp(2)), rel=1e-6)


def test_by_hand():
    # One frame on one token: -log sigmoid(cos), at cos = 1, -1 and 0.
    mask, lengths = torch.ones(1, 1), torch.tensor([1])
    for q, cosine in (([3.0, 0.0], 1), ([-1.0, 0.0], -1), ([0.0, 2.0], 0)):
        loss = alignment_loss(torch.tensor([[q]]), torch.tensor([[[5.0, 0.0]]]), lengths, torch.randn(1, 1, 8), mask)
        assert loss.item() == pytest.approx(math.log(1 + math.exp(-cosine)), rel=1e-6)


def test_batch_equals_single():
    latents, text, lengths, emotion = make_batch()
    alone = [
        alignment_loss(
            latents[i : i + 1, :length],
            text[i : i + 1, :n],
            lengths[i : i + 1],
            emotion[i : i + 1, :length],
            torch.ones(1, length),
        )
        for i, (length, n) in enumerate(zip(FRAME_LENGTHS, TEXT_LENGTHS, strict=True))
    ]
    assert alone[3].item() == 0
    torch.testing.assert_close(alignment_loss(latents, text, lengths, emotion, make_mask()), torch.stack(alone).mean())


def test_padding_is_not_read():
    latents, text, lengths, emotion = make_batch()
    clean = alignment_loss(latents, text, lengths, emotion, make_mask())
    (clean_gradient,) = torch.autograd.grad(clean, latents)
    token_mask = torch.arange(max(TEXT_LENGTHS))[None] < lengths[:, None]
    nan = float("nan")
    dirty = latents.detach().masked_fill(~make_mask()[..., None], nan).requires_grad_()
    dirty_text = text.masked_fill(~token_mask[..., None], nan)
    dirty_emotion = emotion.masked_fill(~make_mask()[..., None], nan)
    loss = alignment_loss(dirty, dirty_text, lengths, dirty_emotion, make_mask())
    assert torch.equal(loss, clean)
    (gradient,) = torch.autograd.grad(loss, dirty)
    assert torch.equal(gradient, clean_gradient)
    assert (gradient[~make_mask()] == 0).all()


@pytest.mark.parametrize("tokens", [0, 3])
def test_empty_transcripts(tokens):
    latents, _, _, emotion = make_batch()
    items = len(FRAME_LENGTHS)
    text = torch.randn(items, tokens, SIZE)
    loss = alignment_loss(latents, text, torch.zeros(items, dtype=torch.long), emotion, make_mask())
    loss.backward()
    assert loss.item() == 0 and (latents.grad == 0).all()


def test_silence():
    _, text, lengths, _ = make_batch()
    latents = torch.zeros(len(FRAME_LENGTHS), max(FRAME_LENGTHS), SIZE, requires_grad=True)
    loss = alignment_loss(latents, text, lengths, torch.zeros(*latents.shape[:2], 3), make_mask())
    loss.backward()
    # Cosines of 0 in the five items that have text.
    assert loss.item() == pytest.approx(math.log(2) * 5 / 6, rel=1e-6)
    assert torch.isfinite(latents.grad).all()
    assert torch.isfinite(alignment_loss(latents, torch.zeros_like(text), lengths, None, make_mask()))


def test_item_without_frames():
    latents, text, lengths, emotion = make_batch()
    mask = make_mask()
    mask[0] = False
    loss = alignment_loss(latents, text, lengths, emotion, mask)
    rest = alignment_loss(latents[1:], text[1:], lengths[1:], emotion[1:], mask[1:])
    torch.testing.assert_close(loss, rest * 5 / 6)


def test_gradient_reaches_latents_only():
    latents, text, lengths, emotion = make_batch()
    alignment_loss(latents, text, lengths, emotion, make_mask()).backward()
    assert text.grad is None and emotion.grad is None
    assert latents.grad.abs().sum() > 0 and (latents.grad[3] == 0).all()
    assert not soft_text_targets(latents, text, lengths, make_mask()).requires_grad


def test_descent_raises_the_cosine():
    latents, text, lengths, emotion = make_batch()
    loss = alignment_loss(latents, text, lengths, emotion, make_mask())
    (gradient,) = torch.autograd.grad(loss, latents)
    assert alignment_loss(latents - 0.5 * gradient, text, lengths, emotion, make_mask()) < loss


def test_bf16_is_computed_in_fp32():
    latents, text, lengths, emotion = make_batch(dtype=torch.bfloat16)
    loss = alignment_loss(latents, text, lengths, emotion, make_mask())
    assert loss.dtype == torch.float32
    upcast = [values.detach().float() for values in (latents, text, emotion)]
    assert torch.equal(alignment_loss(upcast[0], upcast[1], lengths, upcast[2], make_mask()), loss)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(alignment_loss(upcast[0], upcast[1], lengths, upcast[2], make_mask()), loss)
    loss.backward()
    assert latents.grad.dtype == torch.bfloat16 and torch.isfinite(latents.grad).all()


def test_errors():
    latents, text, lengths, emotion = make_batch()
    mask = make_mask()
    with pytest.raises(ValueError, match="`aligned_latents` must have shape"):
        alignment_loss(latents[0], text, lengths, emotion, mask)
    with pytest.raises(ValueError, match="`frame_mask` must have shape"):
        alignment_loss(latents, text, lengths, emotion, mask[:, :-1])
    for wrong in (text[:1], text[..., :-1], text[0]):
        with pytest.raises(ValueError, match="`text_features` must have shape"):
            alignment_loss(latents, wrong, lengths, emotion, mask)
    for wrong in (lengths[:1], lengths.float()):
        with pytest.raises(ValueError, match="`text_lengths` must be 6 integers"):
            alignment_loss(latents, text, wrong, emotion, mask)
    for wrong in (lengths + 1, lengths - 1):
        with pytest.raises(ValueError, match=r"`text_lengths` must lie in 0\.\.5"):
            alignment_loss(latents, text, wrong, emotion, mask)
    with pytest.raises(ValueError, match="`window` must not be negative"):
        alignment_loss(latents, text, lengths, emotion, mask, window=-1)
    with pytest.raises(ValueError, match="`emotion` must have shape"):
        alignment_loss(latents, text, lengths, emotion[:, :-1], mask)
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        alignment_loss(latents, text, lengths, emotion, mask, temperature=0)
