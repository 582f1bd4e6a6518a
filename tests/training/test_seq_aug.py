"""SeqAug, class weights and schedules, worked by hand."""

import numpy as np
import pytest
import torch
from sampling import class_weights, scheduled_weights
from seq_aug import seq_aug


class Drawn:
    """A generator that gives what it is told to."""

    def __init__(self, random, beta=(), permutation=()):
        self.queues = {"random": list(random), "beta": list(beta), "permutation": [np.array(p) for p in permutation]}

    def random(self):
        return self.queues["random"].pop(0)

    def beta(self, a, b):
        assert a == b == 0.5
        return self.queues["beta"].pop(0)

    def permutation(self, size):
        drawn = self.queues["permutation"].pop(0)
        assert sorted(drawn) == list(range(size))
        return drawn


def test_chosen_channels_share_one_order():
    # Step t, channel c is 10 t + c; of 4 channels floor(.6 * 4) = 2 are taken: 3 and 1.
    features = (10 * torch.arange(3)[:, None] + torch.arange(4)).float()[None]
    result = seq_aug(features, Drawn([0.49], [0.6], [[3, 1, 0, 2], [2, 0, 1]]))
    assert result[0].tolist() == [[0, 21, 2, 23], [10, 1, 12, 3], [20, 11, 22, 13]]
    assert features[0, 0].tolist() == [0, 1, 2, 3], "the input stays"


def test_items_are_drawn_one_by_one_and_padding_stays():
    features = torch.tensor([[[1.0], [2.0], [0.0]], [[3.0], [4.0], [5.0]], [[6.0], [7.0], [8.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]]).bool()
    drawn = Drawn([0.0, 0.5, 0.1], [0.999, 1.0], [[0], [1, 0], [0], [1, 2, 0]])
    result = seq_aug(features, drawn, mask)
    # 0.999 of one channel is none
    assert result[..., 0].tolist() == [[1, 2, 0], [3, 4, 5], [7, 8, 6]]


def test_what_it_keeps():
    generator = np.random.default_rng(0)
    features = torch.randn(200, 11, 6)
    mask = torch.arange(11) < torch.randint(2, 12, (200, 1))
    result = seq_aug(features, generator, mask)
    assert torch.equal(result[~mask], features[~mask])
    assert torch.equal(result.sort(1).values, features.sort(1).values)
    changed = (result != features).any(2).any(1).float().mean()
    # half the items; of these, one in eight draws f < 1 / 6 or an identity: P(Beta(.5, .5) < 1 / 6) = .27
    assert 0.25 < changed < 0.45


def test_class_weights():
    assert class_weights([0, 0, 0, 1, 2, 2], 3).tolist() == [2, 6, 3]
    with pytest.raises(ValueError, match="`labels`.*\\[1\\]"):
        class_weights([0, 2], 3)
    with pytest.raises(ValueError, match="`labels`"):
        class_weights([0, 3], 3)


def test_schedules():
    weights = [2.0, 6.0, 3.0]
    assert scheduled_weights(weights, 2, 3, "constant").tolist() == weights
    assert [scheduled_weights(weights, e, 3, "to_uniform").tolist() for e in range(3)] == [
        weights,
        [1.5, 3.5, 2.0],
        [1.0, 1.0, 1.0],
    ]
    assert [scheduled_weights(weights, e, 3, "to_distribution")[1] for e in range(3)] == [1.0, 3.5, 6.0]
    assert scheduled_weights(weights, 0, 1, "to_uniform").tolist() == weights
    for epoch, schedule, named in ((3, "constant", "`epoch`"), (0, "linear", "`schedule`")):
        with pytest.raises(ValueError, match=named):
            scheduled_weights(weights, epoch, 3, schedule)


def test_balanced_sampling_is_balanced():
    labels = np.array([0] * 90 + [1] * 10)
    weights = class_weights(labels, 2)[labels]
    sampler = torch.utils.data.WeightedRandomSampler(weights, 4000, generator=torch.Generator().manual_seed(0))
    assert labels[list(sampler)].mean() == pytest.approx(0.5, abs=0.03)
