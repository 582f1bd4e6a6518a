"""Holds attention heads to the place in the text that is being said, so that nothing is said twice or left out."""

import torch


# Of a generation config; transformers does not know them by itself.
ALIGNMENT_SETTINGS = ("alignment_heads", "alignment_window")


class AffectCodecTTSAlignment:
    """
    Where in its text each item of a batch is, told by attention heads that were shown it in training (guided attention). While
    codes are generated these heads see of the text no more than a window around that place, and the window moves forwards
    only: a stutter would need them to go back, a word left out to leap. All other heads see all text. (Deep Voice 3, arXiv
    1710.07654, has such a window in its attention; here it is for chosen heads of a decoder-only model.)

    Args:
        heads (`list[tuple[int, int]]`): The heads, each as layer and head.
        text_mask (`torch.BoolTensor` of shape `(batch, text_length)`): True at symbols of text, which begins the sequence.
        position (`torch.LongTensor` of shape `(batch,)`): The symbol that was said last.
        window (`tuple[int, int]`): How many symbols before and after the furthest one said so far are seen.
    """

    def __init__(
        self,
        heads: list[tuple[int, int]],
        text_mask: torch.Tensor,
        position: torch.Tensor,
        window: tuple[int, int],
    ):
        self.heads: dict[int, list[int]] = {}
        for layer, head in heads:
            self.heads.setdefault(int(layer), []).append(int(head))
        self.text_mask = text_mask
        self.position = position
        self.window = window
        self._scores: torch.Tensor | float = 0.0

    def visible(self) -> torch.Tensor:
        """Which symbols the heads may see, [B, L]."""
        before, after = self.window
        symbols = torch.arange(self.text_mask.shape[1], device=self.text_mask.device)
        offset = symbols - self.position[:, None]
        return self.text_mask & (offset >= -before) & (offset <= after)

    def constrain(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
    ) -> torch.Tensor | None:
        """
        The mask of a layer while one code is generated; after the last of its layers the place moves on, to the symbol in the
        window that the heads together give the most weight, if that lies ahead.

        Args:
            layer: Its index.
            query, key: [B, H, 1, D] and [B, H, K, D].
            attention_mask: Broadcastable to [B, H, 1, K], of booleans or to be added; `None`: all is seen.
            scaling: Of the products.

        Returns:
            The same mask, or one to be added [B, H, 1, K].
        """
        heads = self.heads.get(layer)
        # The first call has the whole prompt, where what is said is given.
        if heads is None or query.shape[2] != 1:
            return attention_mask
        visible = self.visible()
        hidden = torch.zeros(*query.shape[:3], key.shape[2], dtype=query.dtype, device=query.device)
        hidden[:, heads, 0, : visible.shape[1]] = torch.where(visible, 0.0, float("-inf")).to(hidden.dtype)[:, None]
        scores = torch.matmul(query[:, heads], key[:, heads, : visible.shape[1]].transpose(2, 3))[:, :, 0] * scaling
        scores = scores.float().masked_fill(~visible[:, None], float("-inf")).log_softmax(-1)
        self._scores = self._scores + scores.sum(1)
        if layer == max(self.heads):
            self.position = torch.maximum(self.position, self._scores.argmax(-1))
            self._scores = 0.0
        if attention_mask is None:
            return hidden
        if attention_mask.dtype == torch.bool:
            return hidden.masked_fill(~attention_mask, float("-inf"))
        return hidden + attention_mask
