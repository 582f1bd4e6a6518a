import pytest
import torch
from tiny import tiny_config

from hf_affectcodec.modeling.quantization_affectcodec import (
    AffectCodecCodebook,
    AffectCodecResidualVectorQuantizer,
    kmeans,
    nearest_codes,
)


def quantizer(**changes) -> AffectCodecResidualVectorQuantizer:
    """Codebooks as wide as the latents, so without projections."""
    torch.manual_seed(0)
    return AffectCodecResidualVectorQuantizer(tiny_config("istft", hidden_size=16, **changes))


def all_frames(latents):
    return torch.ones(latents.shape[:2], dtype=torch.bool)


def test_nearest_codes_equal_a_slow_search():
    vectors, codebook = torch.randn(300, 16), torch.randn(64, 16)
    slow = torch.tensor([min(range(64), key=lambda k: float((v - codebook[k]).square().sum())) for v in vectors])
    assert torch.equal(nearest_codes(vectors, codebook), slow)


def test_straight_through_gradient_is_exactly_one():
    model = quantizer().train()
    latents = torch.randn(2, 30, 16, requires_grad=True)
    quantized, _, _, distilled = model(latents, all_frames(latents))
    for output in (quantized, distilled):
        (gradient,) = torch.autograd.grad(output.sum(), latents, retain_graph=True)
        assert torch.equal(gradient, torch.ones_like(gradient))


def test_commitment_reaches_the_encoder_from_every_layer():
    """In the reference family only the first layer's does: residuals there are straight-through values."""
    model = quantizer().train()
    model.initialize(torch.randn(500, 16))
    before = [layer.embed.clone() for layer in model.layers]
    latents = torch.randn(1, 40, 16, requires_grad=True)
    _, codes, loss, _ = model(latents, all_frames(latents))
    (gradient,) = torch.autograd.grad(loss, latents)
    chosen = [before[q][codes[:, q]] for q in range(8)]
    expected = torch.zeros_like(latents)
    for q in range(8):
        expected += 2 * (latents.detach() - sum(chosen[: q + 1])) / latents.numel() / 8
    torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=1e-5)


def test_update_equals_a_hand_worked_step():
    codebook = AffectCodecCodebook(tiny_config("istft", codebook_size=2, codebook_dim=1, dead_code_ratio=0.0))
    codebook.embed.copy_(torch.tensor([[0.0], [10.0]]))
    codebook.cluster_size.copy_(torch.tensor([4.0, 2.0]))
    codebook.update(torch.tensor([[1.0], [2.0], [11.0]]), torch.tensor([0, 0, 1]))
    # Counts .99 * [4, 2] + .01 * [2, 1]; sums .99 * [0, 10 * 2] + .01 * [3, 11]; smoothing adds 1e-5 to each count.
    assert codebook.cluster_size.tolist() == pytest.approx([3.98, 1.99])
    old_second = (2 + 1e-5) / (6 + 2e-5) * 6
    smoothed = [(3.98 + 1e-5) / (5.97 + 2e-5) * 5.97, (1.99 + 1e-5) / (5.97 + 2e-5) * 5.97]
    expected = [0.03 / smoothed[0], (0.99 * 10 * old_second + 0.11) / smoothed[1]]
    assert codebook.embed.flatten().tolist() == pytest.approx(expected)


def test_updates_equal_a_slow_moving_average():
    """Against the textbook form that carries the sums: 50 updates of random data."""
    torch.manual_seed(0)
    codebook = AffectCodecCodebook(tiny_config("istft", codebook_size=8, codebook_dim=3, dead_code_ratio=0.0))
    codebook.initialize(torch.randn(200, 3))
    embed, size = codebook.embed.double(), codebook.cluster_size.double()
    sums = embed * size[:, None]
    for _ in range(50):
        vectors = torch.randn(40, 3)
        codes = nearest_codes(vectors, codebook.embed)
        codebook.update(vectors, codes)
        for k in range(8):
            chosen = vectors[codes == k].double()
            size[k] = 0.99 * size[k] + 0.01 * len(chosen)
            sums[k] = 0.99 * sums[k] + 0.01 * chosen.sum(0)
        embed = sums / size[:, None]
    torch.testing.assert_close(codebook.embed.double(), embed, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(codebook.cluster_size.double(), size, atol=1e-4, rtol=1e-4)


def test_revived_entries_survive_and_are_used():
    """The reference revives before its average and so loses every one; here they are found again, and keep their use."""
    torch.manual_seed(0)
    codebook = AffectCodecCodebook(tiny_config("istft", codebook_size=64, codebook_dim=4))
    codebook.embed.copy_(torch.randn(64, 4) + 100)
    codebook.embed[:2] = torch.randn(2, 4)
    codebook.cluster_size.fill_(1.0)
    codebook.cluster_size[2:] = 0.0
    for _ in range(300):
        vectors = torch.randn(256, 4)
        before = codebook.embed.clone()
        codebook.update(vectors, nearest_codes(vectors, codebook.embed))
    assert (codebook.embed[2:].abs() < 10).all()
    used = nearest_codes(torch.randn(4096, 4), codebook.embed).unique().numel()
    assert used > 0.95 * 64
    # An entry just revived is a row of the batch, and the next update moves it little.
    codebook.cluster_size[5] = 0.0
    codebook.update(vectors, nearest_codes(vectors, codebook.embed))
    assert (codebook.embed[5] == vectors).all(-1).any()
    before = codebook.embed[5].clone()
    codebook.update(vectors, nearest_codes(vectors, codebook.embed))
    assert float((codebook.embed[5] - before).norm()) < 0.1


def test_dead_does_not_depend_on_the_batch_size():
    for size in (8, 4096):
        codebook = AffectCodecCodebook(tiny_config("istft", codebook_size=4, codebook_dim=1))
        codebook.embed.copy_(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
        codebook.cluster_size.fill_(size / 4)
        vectors = torch.arange(4.0).repeat(size // 4)[:, None]
        for _ in range(500):
            codebook.update(vectors, nearest_codes(vectors, codebook.embed))
        assert codebook.embed.flatten().tolist() == pytest.approx([0, 1, 2, 3], abs=1e-3)


def test_kmeans_finds_planted_clusters():
    torch.manual_seed(0)
    centres = torch.randn(16, 8) * 10
    vectors = (centres[torch.arange(16).repeat(100)] + 0.01 * torch.randn(1600, 8))[torch.randperm(1600)]
    found, counts = kmeans(vectors, 64, 30, torch.Generator().manual_seed(0))
    assert float(torch.cdist(centres, found).min(-1).values.max()) < 0.1
    assert counts.sum() == 1600


def test_a_start_on_many_batches_follows_like_a_start_on_one():
    moved = []
    for batches in (1, 24):
        torch.manual_seed(0)
        codebook = AffectCodecCodebook(tiny_config("istft", dead_code_ratio=0.0))
        codebook.initialize(torch.randn(400 * batches, 16), batches)
        before = codebook.embed.clone()
        for _ in range(100):
            vectors = torch.randn(400, 16) + 1.0
            codebook.update(vectors, nearest_codes(vectors, codebook.embed))
        moved.append(float((codebook.embed - before).mean()))
    assert moved[0] > 0.05 and moved[1] == pytest.approx(moved[0], rel=0.2)


def test_a_batch_without_finite_latents_changes_nothing_and_does_not_crash():
    model = quantizer().train()
    model.initialize(torch.randn(500, 16))
    entries = [layer.embed.clone() for layer in model.layers]
    for layer in model.layers:
        layer.cluster_size[:3] = 0.0
    latents = torch.full((1, 10, 16), float("nan"))
    model(latents, all_frames(latents))
    for layer, before in zip(model.layers, entries, strict=True):
        torch.testing.assert_close(layer.embed[3:], before[3:], atol=1e-5, rtol=1e-5)


def test_kmeans_with_fewer_rows_than_entries():
    codebook = AffectCodecCodebook(tiny_config("istft"))
    codebook.initialize(torch.randn(10, 16))
    assert torch.isfinite(codebook.embed).all() and bool(codebook.inited)


def test_padding_and_nan_leave_no_trace_in_the_codebooks():
    latents = torch.randn(2, 20, 16)
    mask = torch.arange(20) < torch.tensor([20, 7])[:, None]
    dirty = latents.clone()
    dirty[~mask] = 1e6
    dirty[1, 15] = float("nan")
    models = [quantizer().train() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, values in zip(models, (latents, dirty), strict=True):
        model(values, mask)
    for (name, a), (_, b) in zip(models[0].named_buffers(), models[1].named_buffers(), strict=True):
        assert torch.equal(a, b), name


def test_quantizer_dropout_uses_fewer_layers_for_some_items():
    model = quantizer(quantizer_dropout=0.5).train()
    model.initialize(torch.randn(500, 16))
    latents = torch.randn(64, 5, 16)
    used = torch.arange(64) % 8 + 1
    model._quantizers_used = lambda batch, device: used
    before = [layer.embed.clone() for layer in model.layers]
    with torch.no_grad():
        quantized, codes, _, _ = model(latents, all_frames(latents))
    for row in range(64):
        expected = sum(before[q][codes[row, q]] for q in range(int(used[row])))
        torch.testing.assert_close(quantized[row], expected, atol=1e-5, rtol=1e-5)
    del model._quantizers_used
    counts = torch.tensor([int(model._quantizers_used(1, "cpu")) for _ in range(400)])
    assert 0.35 < float((counts < 8).float().mean()) < 0.65 and counts.min() >= 1


def test_codes_decode_to_what_was_quantized():
    model = quantizer().train()
    latents = torch.randn(2, 30, 16)
    model(latents, all_frames(latents))
    model.eval()
    with torch.no_grad():
        quantized, codes, _, _ = model(latents, all_frames(latents))
        torch.testing.assert_close(model.decode(codes), quantized, atol=1e-5, rtol=1e-5)
        assert torch.equal(model.encode(latents), codes)
