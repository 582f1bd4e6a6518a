import pytest
import torch

from hf_affectcodec.objectives.adversarial import (
    hinge_discriminator_loss,
    hinge_generator_loss,
    relative_feature_matching_loss,
)


def random_logits(seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 1, 5, 7), (2, 11), (2, 3))
    return [(2 * torch.randn(shape, generator=generator)).requires_grad_(requires_grad) for shape in shapes]


def random_maps(seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    shapes = (((2, 3, 5, 7), (2, 3, 5, 4)), ((2, 4, 6), (2, 8, 3), (2, 1, 3)))
    return [
        [torch.randn(shape, generator=generator).requires_grad_(requires_grad) for shape in layers]
        for layers in shapes
    ]


def test_hinge_by_hand():
    real = [torch.tensor([2.0, 0.5, -1.0]), torch.tensor([[1.0]])]
    fake = [torch.tensor([-3.0, 0.0]), torch.tensor([[-0.5]])]
    # Discriminator: ((0 + .5 + 2) / 3 + (0 + 1) / 2 + 0 + .5) / 2
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx((2.5 / 3 + 0.5 + 0.5) / 2)
    # Generator: ((4 + 1) / 2 + 1.5) / 2
    assert hinge_generator_loss(fake).item() == pytest.approx((2.5 + 1.5) / 2)


def test_hinge_equals_slow_loop():
    real, fake = random_logits(0), random_logits(1)
    discriminator, generator = 0.0, 0.0
    for real_k, fake_k in zip(real, fake, strict=True):
        real_values, fake_values = real_k.flatten().tolist(), fake_k.flatten().tolist()
        discriminator += sum(max(0.0, 1 - value) for value in real_values) / len(real_values)
        discriminator += sum(max(0.0, 1 + value) for value in fake_values) / len(fake_values)
        generator += sum(max(0.0, 1 - value) for value in fake_values) / len(fake_values)
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(discriminator / 3, abs=1e-6)
    assert hinge_generator_loss(fake).item() == pytest.approx(generator / 3, abs=1e-6)


def test_hinge_is_zero_beyond_the_margin():
    real, fake = [torch.full((2, 3), 1.5)], [torch.full((2, 3), -1.5, requires_grad=True)]
    loss = hinge_discriminator_loss(real, fake)
    loss.backward()
    assert loss.item() == 0 and fake[0].grad.abs().sum() == 0
    assert hinge_generator_loss(real).item() == 0


def test_hinge_takes_the_number_of_discriminators_out():
    real, fake = random_logits(0), random_logits(1)
    assert torch.allclose(hinge_generator_loss(fake * 3), hinge_generator_loss(fake))
    assert torch.allclose(hinge_discriminator_loss(real * 3, fake * 3), hinge_discriminator_loss(real, fake))


def test_hinge_pushes_in_the_right_direction():
    real, fake = [torch.zeros(4, requires_grad=True)], [torch.zeros(4, requires_grad=True)]
    hinge_discriminator_loss(real, fake).backward()
    assert (real[0].grad < 0).all() and (fake[0].grad > 0).all()
    fake[0].grad = None
    hinge_generator_loss(fake).backward()
    assert (fake[0].grad < 0).all()


def test_feature_matching_by_hand():
    real = [[torch.tensor([[1.0, -3.0]]), torch.tensor([[2.0]])], [torch.tensor([[4.0, 4.0]])]]
    fake = [[torch.tensor([[0.0, -1.0]]), torch.tensor([[2.5]])], [torch.tensor([[4.0, 2.0]])]]
    # Layers: (1 + 2) / 2 / 2 = .75, .5 / 2 = .25, (0 + 2) / 2 / 4 = .25
    expected = ((0.75 + 0.25) / 2 + 0.25) / 2
    assert relative_feature_matching_loss(real, fake).item() == pytest.approx(expected)


def test_feature_matching_equals_slow_loop():
    real, fake = random_maps(0), random_maps(1)
    total = 0.0
    for real_layers, fake_layers in zip(real, fake, strict=True):
        layer_total = 0.0
        for real_map, fake_map in zip(real_layers, fake_layers, strict=True):
            distance, size = 0.0, 0.0
            for a, b in zip(real_map.flatten().tolist(), fake_map.flatten().tolist(), strict=True):
                distance, size = distance + abs(a - b), size + abs(a)
            layer_total += distance / size
        total += layer_total / len(real_layers)
    assert relative_feature_matching_loss(real, fake).item() == pytest.approx(total / len(real), abs=1e-6)


def test_feature_matching_invariants():
    real, fake = random_maps(0), random_maps(1)
    assert relative_feature_matching_loss(real, real).item() == 0
    scaled = [[[100 * feature_map for feature_map in layers] for layers in maps] for maps in (real, fake)]
    torch.testing.assert_close(relative_feature_matching_loss(*scaled), relative_feature_matching_loss(real, fake))
    zeros = [[torch.zeros(2, 3)]]
    assert torch.isfinite(relative_feature_matching_loss(zeros, [[torch.ones(2, 3)]]))


def test_gradients_reach_only_the_fake_side():
    real, fake = random_maps(0, requires_grad=True), random_maps(1, requires_grad=True)
    relative_feature_matching_loss(real, fake).backward()
    assert all(feature_map.grad is None for layers in real for feature_map in layers)
    assert all(feature_map.grad.abs().sum() > 0 for layers in fake for feature_map in layers)


def test_bf16_inputs_give_fp32_losses():
    real, fake = random_maps(0), random_maps(1)
    halved = [[[feature_map.bfloat16() for feature_map in layers] for layers in maps] for maps in (real, fake)]
    loss = relative_feature_matching_loss(*halved)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, relative_feature_matching_loss(real, fake), rtol=1e-2, atol=0)
    # 2^16 ones and one -256: a bf16 sum would stop at 256.
    logits = [torch.cat([torch.zeros(1 << 16), torch.full((1,), -256.0)]).bfloat16()]
    expected = ((1 << 16) + 257) / ((1 << 16) + 1)
    assert hinge_generator_loss(logits).item() == pytest.approx(expected, rel=1e-6)


def test_errors():
    real, fake = random_logits(0), random_logits(1)
    for empty in ([], ()):
        with pytest.raises(ValueError, match="`fake_logits` must not be empty"):
            hinge_generator_loss(empty)
    with pytest.raises(ValueError, match="`fake_logits` must be as long as `real_logits`"):
        hinge_discriminator_loss(real, fake[:-1])
    real, fake = random_maps(0), random_maps(1)
    with pytest.raises(ValueError, match="`fake_maps` must be as long"):
        relative_feature_matching_loss(real, fake[:-1])
    with pytest.raises(ValueError, match=r"`fake_maps\[1\]` must be as long"):
        relative_feature_matching_loss(real, [fake[0], fake[1][:-1]])
    with pytest.raises(ValueError, match=r"`fake_maps\[0\]` must have the shapes"):
        relative_feature_matching_loss(real, [[feature_map[:1] for feature_map in fake[0]], fake[1]])
