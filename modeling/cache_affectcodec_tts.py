"""Keys and values of the autoregressive part while it generates."""

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from .configuration_affectcodec_tts import AffectCodecTTSConfig


BLOCK = 256  # positions


class AffectCodecTTSCacheLayer(DynamicLayer):
    """
    Keys and values [B, heads, T, D / heads] that lie in buffers with room for more, so that a new position is written behind the
    others; `DynamicLayer` copies them all for every position. It does so here too where gradients are wanted, as writing
    in place would spoil them, a graph is being compiled, or what is new has another type or batch size. What was handed out is
    overwritten where the cache is cropped and grows again.
    """

    def __init__(self):
        super().__init__()
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """New keys and values [B, heads, N, D / heads] -> all of them [B, heads, T + N, D / heads]."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not self._fits(key_states, value_states):
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not (start and self._holds(end)):
            self._buffers = tuple(
                self._with_room(past, new, start, end)
                for past, new in ((self.keys, key_states), (self.values, value_states))
            )
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def reset(self) -> None:
        super().reset()
        self._buffers = None

    def _fits(self, key_states, value_states) -> bool:
        if self.get_seq_length() == 0:
            return True
        return all(
            (new.shape[:2], new.shape[-1], new.dtype, new.device)
            == (past.shape[:2], past.shape[-1], past.dtype, past.device)
            for new, past in ((key_states, self.keys), (value_states, self.values))
        )

    def _holds(self, end: int) -> bool:
        # Keys and values may have been replaced since: moved, repeated, put in another order.
        return self._buffers is not None and all(
            buffer.shape[2] >= end
            and past.data_ptr() == buffer.data_ptr()
            and past.shape[:2] == buffer.shape[:2]
            and past.stride() == buffer.stride()
            # What was made in inference mode cannot be written to outside of it.
            and buffer.is_inference() == torch.is_inference_mode_enabled()
            for past, buffer in zip((self.keys, self.values), self._buffers, strict=True)
        )

    @staticmethod
    def _with_room(past, new, start, end):
        buffer = new.new_empty(*new.shape[:2], end + BLOCK, new.shape[-1])
        if start:
            buffer[:, :, :start] = past
        return buffer


class AffectCodecTTSCache(DynamicCache):
    """A `DynamicCache` whose layers are [`AffectCodecTTSCacheLayer`]s."""

    def __init__(self, config: AffectCodecTTSConfig):
        super().__init__()
        self.layers = [AffectCodecTTSCacheLayer() for _ in range(config.num_hidden_layers)]
