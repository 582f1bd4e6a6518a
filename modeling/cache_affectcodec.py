"""What a causal codec remembers between the chunks of a stream."""

import torch


class AffectCodecCache:
    """
    State of `batch_size` streams, by the module that it belongs to: the last steps of every convolution's input, the hidden
    states of every LSTM, the keys and values of guidance (these grow with the stream), the open end of the overlap-add.

    An item that is not in `active` keeps its state, whatever a chunk holds in its row.

    Args:
        batch_size (`int`): B.
    """

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.active: torch.Tensor | None = None
        self._states: dict = {}

    def extend(self, key, hidden_states: torch.Tensor, width: int) -> torch.Tensor:
        """
        Puts the last `width` steps of what `key` saw before in front of hidden_states [B, T, ...] (zeros at the start of a
        stream), and keeps the last `width` of both.
        """
        before = self._states.get(key)
        if before is None:
            before = hidden_states.new_zeros(hidden_states.shape[0], width, *hidden_states.shape[2:])
        extended = torch.cat([before, hidden_states], dim=1)
        self._states[key] = self._update(before, extended[:, extended.shape[1] - width :])
        return extended

    def append(self, key, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All steps [B, T, D] that `key` has seen, these included, and which of them [B, T] belong to their item."""
        steps = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        if self.active is not None:
            steps = steps & self.active[:, None]
        if key in self._states:
            before, valid = self._states[key]
            hidden_states, steps = torch.cat([before, hidden_states], dim=1), torch.cat([valid, steps], dim=1)
        self._states[key] = (hidden_states, steps)
        return hidden_states, steps

    def get(self, key):
        """The state of `key`, or `None` at the start."""
        return self._states.get(key)

    def set(self, key, state: torch.Tensor):
        """Replaces the state [B, ...] of `key` for the active items; at the start it is zero."""
        before = self._states.get(key)
        self._states[key] = self._update(torch.zeros_like(state) if before is None else before, state)

    def reset(self, items: torch.Tensor):
        """Starts the streams of `items` [B] (bool) anew; the others go on."""
        for key, state in self._states.items():
            if isinstance(state, tuple):
                self._states[key] = (state[0], state[1] & ~items[:, None])
            else:
                self._states[key] = torch.where(_rows(items, state), torch.zeros_like(state), state)

    def _update(self, before, after):
        return after if self.active is None else torch.where(_rows(self.active, after), after, before)


def _rows(items, state):
    """items [B] in the shape that selects rows of state [B, ...]"""
    return items.view(-1, *[1] * (state.dim() - 1))


__all__ = ["AffectCodecCache"]
