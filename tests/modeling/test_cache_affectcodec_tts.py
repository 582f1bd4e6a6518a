"""The cache that grows in blocks against transformers' own, which concatenates, whatever is done to it in between."""

import copy

import pytest
import torch
from tiny_tts import CODES, tiny_tts
from transformers import DynamicCache

from hf_affectcodec.modeling import cache_affectcodec_tts
from hf_affectcodec.modeling.cache_affectcodec_tts import AffectCodecTTSCache, AffectCodecTTSCacheLayer


CONFIG = tiny_tts().config


def states(length, batch=2):
    return torch.randn(2, batch, 3, length, 4)


def is_same(cache, peer):
    assert cache.get_seq_length() == peer.get_seq_length()
    for layer, like in zip(cache.layers, peer.layers, strict=True):
        torch.testing.assert_close(layer.keys, like.keys, rtol=0, atol=0)
        torch.testing.assert_close(layer.values, like.values, rtol=0, atol=0)


def update(caches, new):
    for cache in caches:
        for layer in range(len(caches[0].layers)):
            given = cache.update(*(new + layer), layer)
            torch.testing.assert_close(given[0], cache.layers[layer].keys, rtol=0, atol=0)
            torch.testing.assert_close(given[1], cache.layers[layer].values, rtol=0, atol=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: None,
        lambda cache: cache.crop(-2),
        lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
        lambda cache: cache.batch_repeat_interleave(2),
        lambda cache: cache.batch_select_indices(slice(0, 1)),
        lambda cache: cache.reset(),
    ],
    ids=["nothing", "crop", "reorder", "repeat", "select", "reset"],
)
def test_equal_to_concatenation(change, monkeypatch):
    monkeypatch.setattr(cache_affectcodec_tts, "BLOCK", 3)
    caches = AffectCodecTTSCache(CONFIG), DynamicCache(config=CONFIG)
    assert len(caches[0].layers) == len(caches[1].layers) == CONFIG.num_hidden_layers
    with torch.no_grad():
        for length in (5, 1, 1, 1, 1, 4):
            update(caches, states(length))
            is_same(*caches)
        for cache in caches:
            change(cache)
        for length in (1, 1, 5, 1):
            batch = caches[1].layers[0].keys.shape[0] if caches[1].get_seq_length() else 2
            update(caches, states(length, batch))
            is_same(*caches)


def test_nothing_is_copied_while_there_is_room(monkeypatch):
    monkeypatch.setattr(cache_affectcodec_tts, "BLOCK", 3)
    layer = AffectCodecTTSCacheLayer()
    places = []
    with torch.no_grad():
        for _ in range(8):
            keys, _ = layer.update(*states(1))
            places.append(keys.data_ptr())
    assert len(set(places[:4])) == len(set(places[4:])) == 1 and places[3] != places[4]


def test_a_copy_is_no_alias():
    cache = AffectCodecTTSCache(CONFIG)
    with torch.no_grad():
        update([cache], states(4))
        twin, before = copy.deepcopy(cache), cache.layers[0].keys.clone()
        twin.crop(-2)
        update([twin], states(2))
    assert torch.equal(cache.layers[0].keys, before)


def test_gradients_flow_through_it():
    cache, first = AffectCodecTTSCache(CONFIG), states(2).requires_grad_()
    update([cache], first)
    update([cache], states(1))
    cache.layers[0].keys.sum().backward()
    assert torch.equal(first.grad[0], torch.ones_like(first[0]))


def test_modes_may_change():
    """Begun in inference mode, continued outside of it, and again with gradients."""
    caches = AffectCodecTTSCache(CONFIG), DynamicCache(config=CONFIG)
    with torch.inference_mode():
        update(caches, states(3))
    with torch.no_grad():
        update(caches, states(1))
    update(caches, states(1))
    with torch.no_grad():
        update(caches, states(1))
    is_same(*caches)


def test_a_model_with_a_cache_can_be_exported():
    """transformers registers its own cache for `torch.export`; a graph gets that one."""
    from transformers.integrations.executorch import register_dynamic_cache_export_support

    register_dynamic_cache_export_support()
    model = tiny_tts().ar

    class Cached(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids):
            outputs = self.model(input_ids=input_ids, use_cache=True)
            return outputs.logits, outputs.past_key_values

    ids = torch.tensor([[70, 71, 72, CODES + 1, 3]])
    with torch.no_grad():
        logits, cache = torch.export.export(Cached(), (ids,), strict=False).module()(ids)
        assert isinstance(model(ids, use_cache=True).past_key_values, AffectCodecTTSCache)
        torch.testing.assert_close(logits, model(ids).logits)
    assert type(cache) is DynamicCache and cache.get_seq_length() == 5
