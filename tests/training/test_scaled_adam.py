"""ScaledAdam against hand-worked steps and against itself in slow form; Eden against its formula."""

import math

import pytest
import torch
from scaled_adam import ScaledAdam, eden


def slow_scaled_adam(
    values,
    gradients,
    lr,
    beta1,
    beta2,
    clipping_scale,
    period,
    scalar_scale=0.1,
    eps=1e-8,
    low=1e-5,
    high=3.0,
    top=10.0,
):
    """
    All steps on lists of numbers. `values`: a list of numbers for each tensor; `gradients`: for each step such lists.

    Yields the values after each step.
    """
    values = [list(tensor) for tensor in values]
    delta = [[0.0] * len(tensor) for tensor in values]
    square = [[0.0] * len(tensor) for tensor in values]
    rms = [math.sqrt(sum(x * x for x in tensor) / len(tensor)) for tensor in values]
    size_square, size_gradients, norms, threshold = [0.0] * len(values), [[] for _ in values], [], math.inf
    for t, step in enumerate(gradients):
        total = 0.0
        for k, gradient in enumerate(step):
            total += sum((g * (rms[k] if len(gradient) > 1 else 1.0)) ** 2 for g in gradient)
        norm = math.sqrt(total)
        if clipping_scale is not None and t and t % period == 0:
            threshold = clipping_scale * sorted(norms[-period:])[(period - 1) // 2]
        norms.append(norm)
        factor = min(1.0, threshold / norm)
        for k, gradient in enumerate(step):
            gradient = [g * factor for g in gradient]
            tensor = values[k]
            square[k] = [beta2 * v + (1 - beta2) * g * g for v, g in zip(square[k], gradient, strict=True)]
            bias = 1 - beta2 ** (t + 1)
            if len(tensor) == 1:
                change = gradient[0] / (math.sqrt(square[k][0] / bias) + eps)
                delta[k][0] = beta1 * delta[k][0] - lr * scalar_scale * (1 - beta1) * change
                tensor[0] = min(max(tensor[0], -top), top) + delta[k][0]
                continue
            delta[k] = [beta1 * d for d in delta[k]]
            size_gradients[k].append(sum(p * g for p, g in zip(tensor, gradient, strict=True)))
            if len(size_gradients[k]) == 4:
                rms[k] = math.sqrt(sum(x * x for x in tensor) / len(tensor))
                mean = sum(g * g for g in size_gradients[k]) / 4
                size_square[k] = beta2**4 * size_square[k] + (1 - beta2**4) * mean
                count = (t + 1) // 4
                s = -lr * scalar_scale * math.sqrt(1 - beta2 ** (4 * count)) * sum(size_gradients[k])
                s /= math.sqrt(size_square[k]) + eps
                s = 0.0 if rms[k] < low else s
                s = -lr * scalar_scale * 4 if rms[k] > high else s
                delta[k] = [d + (1 - beta1) * p * s for d, p in zip(delta[k], tensor, strict=True)]
                size_gradients[k] = []
            used = bias if bias < 0.99 else 1.0
            for i, g in enumerate(gradient):
                change = g / (math.sqrt(square[k][i] / used) + eps)
                delta[k][i] -= lr * (1 - beta1) * max(rms[k], low) * change
            values[k] = [p + d for p, d in zip(tensor, delta[k], strict=True)]
        yield [list(tensor) for tensor in values]


def apply(optimizer, parameters, gradient):
    for parameter, values in zip(parameters, gradient, strict=True):
        parameter.grad = torch.tensor(values, dtype=torch.float64).view_as(parameter)
    optimizer.step()


def test_first_step_by_hand():
    """The root mean square is 5 / sqrt(2), squared gradients stand for themselves, so each entry moves by a tenth of lr."""
    p = torch.nn.Parameter(torch.tensor([3.0, -4.0], dtype=torch.float64))
    optimizer = ScaledAdam([p], lr=0.02)
    apply(optimizer, [p], [[0.5, -700.0]])
    moved = 0.02 * 0.1 * 5 / math.sqrt(2)
    assert p.tolist() == pytest.approx([3 - moved, -4 + moved], rel=1e-7)


def test_second_step_by_hand():
    p = torch.nn.Parameter(torch.tensor([3.0, -4.0], dtype=torch.float64))
    optimizer = ScaledAdam([p], lr=0.02)
    apply(optimizer, [p], [[1.0, 1.0]])
    first = p.tolist()
    apply(optimizer, [p], [[2.0, 0.0]])
    unit = 0.02 * 0.1 * 5 / math.sqrt(2)
    # v / c = (.95 * .05 * 1 + .05 * 4) / (1 - .95^2) for the first, (.95 * .05) / (1 - .95^2) for the second.
    seconds = [2 / math.sqrt(0.2475 / 0.0975), 0.0]
    expected = [x - 0.9 * unit - unit * s for x, s in zip(first, seconds, strict=True)]
    assert p.tolist() == pytest.approx(expected, rel=1e-7)


def test_size_step_by_hand():
    """A gradient along the tensor at every step: the fourth step also moves its logarithm, by twice lr / 10 (1 - .95^4)^.5."""
    p = torch.nn.Parameter(torch.tensor([2.0, 2.0], dtype=torch.float64))
    with_sizes = ScaledAdam([p], lr=1e-9)
    q = torch.nn.Parameter(torch.tensor([2.0, 2.0], dtype=torch.float64))
    without = ScaledAdam([q], lr=1e-9, scalar_lr_scale=0.0)
    for _ in range(4):
        apply(with_sizes, [p], [[1.0, 1.0]])
        apply(without, [q], [[1.0, 1.0]])
    # Σpg = 4 at each of four steps; with c = (1 - .95^4)^.5 the step of the logarithm is -lr .1 c 16 / (c 4), and the
    # momentum takes a tenth of what that makes of an entry of 2.
    assert float((p - q)[0].detach()) == pytest.approx(-0.1 * 2 * 1e-9 * 0.1 * 4, rel=1e-5)


@pytest.mark.parametrize("clipping_scale", [None, 2.0, 0.5])
def test_forty_steps_equal_the_slow_form(clipping_scale):
    generator = torch.Generator().manual_seed(0)
    shapes, scales = [(3, 4), (5,), (), (2, 2), (3,)], [1.0, 0.05, 9.999, 4.0, 1e-7]
    starts = [
        scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape, scale in zip(shapes, scales, strict=True)
    ]
    starts[2] = torch.tensor(-9.9999, dtype=torch.float64)  # runs against the limit of scalars
    parameters = [torch.nn.Parameter(start.clone()) for start in starts]
    gradients = []
    for step in range(40):
        size = 10.0 if step in (17, 23) else 1.0
        drawn = [torch.randn(max(1, start.numel()), generator=generator, dtype=torch.float64) for start in starts]
        drawn[2] = drawn[2].abs()
        gradients.append([(size * item).tolist() for item in drawn])
    optimizer = ScaledAdam(parameters, lr=0.05, clipping_scale=clipping_scale, clipping_update_period=5)
    slow = slow_scaled_adam(
        [start.flatten().tolist() for start in starts], gradients, 0.05, 0.9, 0.95, clipping_scale, 5
    )
    for gradient, expected in zip(gradients, slow, strict=True):
        apply(optimizer, parameters, gradient)
        for parameter, values in zip(parameters, expected, strict=True):
            assert parameter.flatten().tolist() == pytest.approx(values, rel=1e-9, abs=1e-15)


def test_the_scale_of_the_loss_does_not_matter():
    results = []
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        layer = torch.nn.Linear(6, 3)
        optimizer = ScaledAdam(layer.parameters(), lr=0.05, clipping_update_period=3)
        for _ in range(10):
            inputs = torch.randn(8, 6)
            optimizer.zero_grad()
            (scale * layer(inputs).square().sum()).backward()
            optimizer.step()
        results.append(layer.weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_state_is_saved_whole():
    def run(steps, optimizer, p, first=0):
        for step in range(first, steps):
            torch.manual_seed(step)
            p.grad = torch.randn_like(p)
            optimizer.step()

    p = torch.nn.Parameter(torch.ones(4))
    unbroken = ScaledAdam([p], clipping_update_period=3)
    run(12, unbroken, p)
    q = torch.nn.Parameter(torch.ones(4))
    first = ScaledAdam([q], clipping_update_period=3)
    run(7, first, q)
    second = ScaledAdam([q], clipping_update_period=3)
    second.load_state_dict(first.state_dict())
    run(12, second, q, first=7)
    assert torch.equal(p, q)


def test_a_tensor_without_a_gradient_waits():
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = ScaledAdam([p, q])
    q.grad = torch.ones(2)
    optimizer.step()
    assert p.tolist() == [1.0, 1.0] and q.tolist() != [1.0, 1.0]
    p.grad = torch.ones(2)
    optimizer.step()
    assert p.tolist() != [1.0, 1.0]


def test_a_matrix_is_learnt():
    torch.manual_seed(0)
    target = torch.randn(5, 5)
    layer = torch.nn.Linear(5, 5)
    optimizer = ScaledAdam(layer.parameters(), lr=0.05)
    for _ in range(300):
        inputs = torch.randn(32, 5)
        optimizer.zero_grad()
        (layer(inputs) - inputs @ target).square().mean().backward()
        optimizer.step()
    assert (layer.weight - target.T).abs().max() < 0.1


def test_eden_by_hand():
    assert eden(0.05, 0, 0, 120) == pytest.approx(0.025)
    assert eden(0.05, 60, 0, 120) == pytest.approx(0.05 * 0.75, rel=1e-3)
    # At B steps and E epochs each factor is 2^-1/4.
    assert eden(0.05, 5000, 4, 120) == pytest.approx(0.05 * 2**-0.5)
    assert eden(1.0, 0, 8 * math.sqrt(2), 0, decay_epochs=4) == pytest.approx(9**-0.25)
    rates = [eden(0.05, step, step / 100, 120) for step in range(120, 5000)]
    assert rates == sorted(rates, reverse=True)


def test_bad_arguments():
    p = torch.nn.Parameter(torch.ones(2))
    for changes in ({"lr": -1}, {"betas": (0.9, 1.0)}, {"size_update_period": 0}, {"clipping_update_period": 0}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            ScaledAdam([p], **changes)
