import math

import pytest
import torch

from hf_affectcodec.objectives.relational import (
    feature_distillation_loss,
    pairwise_distances,
    relational_loss,
)


LENGTHS = (6, 4, 1, 3)


def make_mask(lengths=LENGTHS):
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def make_batch(seed=0, dtype=torch.float32):
    """Latents, emotion and semantic features of different sizes and scales, one frame repeated as codes do."""
    generator = torch.Generator().manual_seed(seed)
    latents, emotion, semantic = (
        scale * torch.randn(len(LENGTHS), max(LENGTHS), size, generator=generator)
        for size, scale in ((5, 3.0), (3, 0.2), (4, 10.0))
    )
    latents[0, 2] = latents[0, 1]
    return [values.to(dtype).requires_grad_() for values in (latents, emotion, semantic)]


def slow_distance(a, b):
    """‖a - b‖₂, with the subgradient 0 where the two are equal."""
    square = sum((a[k] - b[k]) ** 2 for k in range(len(a)))
    return square.sqrt() if square.item() > 0 else 0 * square


def slow_matrix(features, length, normalize):
    rows = [[slow_distance(features[t], features[u]) for u in range(length)] for t in range(length)]
    if not normalize:
        return rows
    mean = sum(sum(row) for row in rows) / length**2
    return [[distance / mean for distance in row] for row in rows] if mean.item() > 0 else rows


def slow_relational_loss(latents, emotion, semantic, lengths, alpha, beta, normalize):
    """PAPERS.md A4, in float64."""
    total = 0.0
    for item, length in enumerate(lengths):
        matrices = [
            None if features is None else slow_matrix(features[item].double(), length, normalize)
            for features in (latents, emotion, semantic)
        ]
        item_total = 0.0
        for t in range(length):
            for u in range(length):
                for matrix, weight in ((matrices[1], alpha), (matrices[2], beta)):
                    if matrix is not None:
                        item_total = item_total + weight * (matrices[0][t][u] - matrix[t][u].detach()).abs()
        total = total + item_total / length**2
    return total / len(lengths)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("sources", [("emotion",), ("semantic",), ("emotion", "semantic")])
def test_equals_slow_loop(sources, normalize):
    latents, emotion, semantic = make_batch()
    emotion = emotion if "emotion" in sources else None
    semantic = semantic if "semantic" in sources else None
    loss = relational_loss(latents, emotion, semantic, make_mask(), alpha=0.7, beta=1.6, normalize=normalize)
    slow = slow_relational_loss(latents, emotion, semantic, LENGTHS, 0.7, 1.6, normalize)
    assert loss.dtype == torch.float32 and loss.shape == ()
    torch.testing.assert_close(loss.double(), slow, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, latents)
    (slow_gradient,) = torch.autograd.grad(slow, latents)
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-4, atol=1e-6)


def test_by_hand():
    # Points on a line: distances 3, 1, 2 (twice each). Student: 1, 1, 2 (a different order of the same size).
    emotion = torch.tensor([[[0.0], [3.0], [1.0]]])
    latents = torch.tensor([[[0.0], [1.0], [2.0]]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    raw = relational_loss(latents, emotion, None, mask, normalize=False)
    assert raw.item() == pytest.approx(2 * (abs(1 - 3) + abs(2 - 1) + abs(1 - 2)) / 9, rel=1e-6)
    normalized = relational_loss(latents, emotion, None, mask)
    student, teacher = 2 * (1 + 2 + 1) / 9, 2 * (3 + 1 + 2) / 9
    expected = (
        2 * (abs(1 / student - 3 / teacher) + abs(2 / student - 1 / teacher) + abs(1 / student - 2 / teacher)) / 9
    )
    assert normalized.item() == pytest.approx(expected, rel=1e-6)


def test_distances():
    latents, _, _ = make_batch()
    distances = pairwise_distances(latents, make_mask())
    pairs = make_mask()[:, :, None] & make_mask()[:, None, :]
    assert (distances[~pairs] == 0).all() and (distances.diagonal(dim1=1, dim2=2) == 0).all()
    torch.testing.assert_close(distances, distances.mT)
    torch.testing.assert_close(distances[0].mean(), torch.tensor(1.0))
    raw = pairwise_distances(latents, make_mask(), normalize=False)
    torch.testing.assert_close(raw[0, 3, 5], (latents[0, 3] - latents[0, 5]).norm())


def test_small_distances_of_long_vectors():
    # In float32, inner products of about 1e7 would leave d² = 1e-2 uncertain by about 1.
    values = 100 * torch.randn(1, 2, 1024, generator=torch.Generator().manual_seed(0))
    values[0, 1] = values[0, 0]
    values[0, 1, 0] += 0.125
    distances = pairwise_distances(values, torch.ones(1, 2), normalize=False)
    assert distances[0, 0, 1].item() == pytest.approx(0.125, rel=1e-3)


def test_scale_is_taken_out():
    latents, emotion, semantic = make_batch()
    loss = relational_loss(latents, emotion, semantic, make_mask())
    torch.testing.assert_close(relational_loss(7 * latents, emotion / 3, 50 * semantic, make_mask()), loss)
    assert relational_loss(4 * emotion, emotion, None, make_mask()).item() == pytest.approx(0, abs=1e-6)
    assert relational_loss(4 * emotion, emotion, None, make_mask(), normalize=False).item() > 0.1


def test_batch_equals_single():
    latents, emotion, semantic = make_batch()
    alone = [
        relational_loss(latents[i : i + 1, :n], emotion[i : i + 1, :n], semantic[i : i + 1, :n], torch.ones(1, n))
        for i, n in enumerate(LENGTHS)
    ]
    together = relational_loss(latents, emotion, semantic, make_mask())
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_padding_is_not_read():
    latents, emotion, semantic = make_batch()
    clean = relational_loss(latents, emotion, semantic, make_mask())
    (clean_gradient,) = torch.autograd.grad(clean, latents)
    dirty = [
        values.detach().masked_fill(~make_mask()[..., None], float("nan")) for values in (latents, emotion, semantic)
    ]
    dirty[0].requires_grad_()
    loss = relational_loss(*dirty, make_mask())
    assert torch.equal(loss, clean)
    (gradient,) = torch.autograd.grad(loss, dirty[0])
    assert torch.equal(gradient, clean_gradient)
    assert (gradient[~make_mask()] == 0).all()


def test_gradient_reaches_latents_only():
    latents, emotion, semantic = make_batch()
    relational_loss(latents, emotion, semantic, make_mask()).backward()
    assert emotion.grad is None and semantic.grad is None
    assert latents.grad.abs().sum() > 0


@pytest.mark.parametrize("normalize", [True, False])
def test_silence(normalize):
    _, emotion, semantic = make_batch()
    mask = make_mask()
    for constant in (0.0, 2.5):
        silent = torch.full((len(LENGTHS), max(LENGTHS), 5), constant, requires_grad=True)
        assert (pairwise_distances(silent, mask, normalize) == 0).all()
        loss = relational_loss(silent, emotion, semantic, mask, normalize=normalize)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(silent.grad).all()
        both = relational_loss(silent, silent, silent, mask, normalize=normalize)
        assert both.item() == 0


def test_silent_teacher_does_not_pull():
    latents, emotion, _ = make_batch()
    loss = relational_loss(latents, torch.zeros_like(emotion), None, make_mask(), alpha=0.5)
    # Every item of more than one frame adds alpha.
    assert loss.item() == pytest.approx(0.5 * 3 / 4, rel=1e-5)
    loss.backward()
    torch.testing.assert_close(latents.grad, torch.zeros_like(latents), atol=1e-6, rtol=0)


@pytest.mark.parametrize("lengths", [(1, 1), (1, 0)])
def test_one_frame_or_none(lengths):
    latents = torch.randn(2, 1, 4, requires_grad=True)
    loss = relational_loss(
        latents, torch.randn(2, 1, 3), torch.randn(2, 1, 6), torch.arange(1) < torch.tensor(lengths)[:, None]
    )
    loss.backward()
    assert loss.item() == 0 and (latents.grad == 0).all()


def test_gradcheck_of_distances():
    # Numerical: away from equal frames the float32 part allows a coarse step only.
    features = torch.randn(
        1, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True
    )
    mask = torch.tensor([[True, True, True, False]])
    target = torch.rand(1, 4, 4)
    value = (pairwise_distances(features, mask) * target).sum()
    (gradient,) = torch.autograd.grad(value, features)
    step = 1e-2
    for t in range(4):
        for k in range(3):
            shift = torch.zeros_like(features)
            shift[0, t, k] = step
            upper = (pairwise_distances(features + shift, mask) * target).sum()
            lower = (pairwise_distances(features - shift, mask) * target).sum()
            assert gradient[0, t, k].item() == pytest.approx((upper - lower).item() / (2 * step), abs=2e-3)


def test_bf16_is_computed_in_fp32():
    latents, emotion, semantic = make_batch(dtype=torch.bfloat16)
    loss = relational_loss(latents, emotion, semantic, make_mask())
    assert loss.dtype == torch.float32
    upcast = [values.detach().float() for values in (latents, emotion, semantic)]
    assert torch.equal(loss, relational_loss(*upcast, make_mask()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(relational_loss(*upcast, make_mask()), loss)
    loss.backward()
    assert latents.grad.dtype == torch.bfloat16 and torch.isfinite(latents.grad).all()


def slow_feature_loss(predictions, features, lengths):
    total = 0.0
    for item, length in enumerate(lengths):
        item_total = 0.0
        for t in range(length):
            p, x = predictions[item, t].double(), features[item, t].double().detach()
            size = len(p)
            dot = sum(p[k] * x[k] for k in range(size))
            cosine = dot / (sum(p[k] ** 2 for k in range(size)).sqrt() * sum(x[k] ** 2 for k in range(size)).sqrt())
            distance = sum((p[k] - x[k]).abs() for k in range(size)) / size
            item_total = item_total + distance - torch.log(1 / (1 + torch.exp(-cosine)))
        total = total + item_total / length
    return total / len(lengths)


def test_feature_distillation_equals_slow_loop():
    predictions, _, _ = make_batch(0)
    features, _, _ = make_batch(1)
    loss = feature_distillation_loss(predictions, features, make_mask())
    slow = slow_feature_loss(predictions, features, LENGTHS)
    torch.testing.assert_close(loss.double(), slow, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, predictions, retain_graph=True)
    (slow_gradient,) = torch.autograd.grad(slow, predictions)
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-4, atol=1e-6)
    loss.backward()
    assert features.grad is None
    halved = feature_distillation_loss(predictions.bfloat16(), features.bfloat16(), make_mask())
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, loss, rtol=1e-2, atol=0)


def test_feature_distillation_edges():
    _, features, _ = make_batch()
    silent = torch.zeros_like(features, requires_grad=True)
    loss = feature_distillation_loss(silent, torch.zeros_like(features), make_mask())
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6) and torch.isfinite(silent.grad).all()
    assert feature_distillation_loss(features, features, torch.zeros_like(make_mask())).item() == 0
    dirty = features.detach().masked_fill(~make_mask()[..., None], float("nan"))
    assert torch.equal(
        feature_distillation_loss(dirty, dirty, make_mask()),
        feature_distillation_loss(features, features, make_mask()),
    )


def test_errors():
    latents, emotion, semantic = make_batch()
    mask = make_mask()
    with pytest.raises(ValueError, match="`emotion` and `semantic` must not both be None"):
        relational_loss(latents, None, None, mask)
    with pytest.raises(ValueError, match="`latents` must have shape"):
        relational_loss(latents[0], emotion, semantic, mask)
    with pytest.raises(ValueError, match="`frame_mask` must have the batch and frames of `latents`"):
        relational_loss(latents, emotion, semantic, mask[:, :-1])
    with pytest.raises(ValueError, match="`frame_mask` must have the batch and frames of `emotion`"):
        relational_loss(latents, emotion[:, :-1], semantic, mask)
    with pytest.raises(ValueError, match="`frame_mask` must have the batch and frames of `semantic`"):
        relational_loss(latents, emotion, semantic[:1], mask)
    with pytest.raises(ValueError, match="`eps` must be positive"):
        pairwise_distances(latents, mask, eps=0)
    with pytest.raises(ValueError, match="`features` must have the shape of `predictions`"):
        feature_distillation_loss(latents, emotion, mask)
