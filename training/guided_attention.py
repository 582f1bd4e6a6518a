"""Guided attention: attention heads of a speech language model are shown where in the text each frame of speech is."""

from collections.abc import Sequence

import torch


def guided_attention_loss(
    attentions: Sequence[torch.Tensor],
    attention_mask: torch.Tensor,
    audio_codes_mask: torch.Tensor,
    layers: Sequence[int],
    heads: int,
    width: float,
    alignment: torch.Tensor | None = None,
    symbol_width: float = 1.0,
) -> torch.Tensor:
    r"""
    How far from the diagonal the guided heads look (Tachibana, Uenoyama and Aihara, arXiv 1710.08969, section 4.1), where text
    and speech are one sequence. Of frame `t` of `T` and text symbol `n` of `N`

    $$ \sum_t \left(1 - \sum_n a_{tn} e^{-\frac{((n + 1/2)/N - (t + 1/2)/T)^2}{2 g^2}}\right) $$

    with $a_{tn}$ the weight that frame `t` gives the symbol. Where all weights are on text, as in the paper, it is the paper's
    sum; a head that looks at codes instead pays as if it looked far away. (Were the weights taken among the text's alone,
    heads would turn away from the text and pay nothing: tried, they did.) Where it is known which symbol `n_t` frame `t` says,
    the exponent is $-(n - n_t)^2 / 2 s^2$ instead.

    Args:
        attentions (`Sequence[torch.Tensor]` of shape `(batch, heads, length, length)`):
            A layer each, over [text ; beginning ; codes ; end] or [text ; frames].
        attention_mask (`torch.Tensor` of shape `(batch, text_length)`): True at text.
        audio_codes_mask (`torch.Tensor` of shape `(batch, frames)`): True at frames.
        layers (`Sequence[int]`): Which layers are guided.
        heads (`int`): The first so many heads of each.
        width (`float`): `g`, as a share of the utterance.
        alignment (`torch.LongTensor` of shape `(batch, frames)`, *optional*): `n_t`, -1 where it is not known.
        symbol_width (`float`, *optional*, defaults to 1.0): `s`, in symbols.

    Returns:
        `torch.Tensor` of shape `()`: The sum over frames, the mean over guided heads; between 0 and the number of frames.
    """
    texts, frames = attention_mask.shape[1], audio_codes_mask.shape[1]
    # The row of the beginning of speech predicts frame 0; in the second stage it is frame 0's own.
    rows = slice(texts, texts + frames)
    weights = torch.stack([attentions[layer][:, :heads, rows, :texts].float() for layer in layers])
    symbol = _middles(attention_mask)[:, None, :]
    frame = _middles(audio_codes_mask)[:, :, None]
    near = torch.exp(-((symbol - frame) ** 2) / (2 * width**2))
    if alignment is not None:
        said = alignment[:, :, None]
        beside = torch.arange(texts, device=said.device) - said
        near = torch.where(said >= 0, torch.exp(-(beside**2) / (2 * symbol_width**2)), near)
    near = near * attention_mask[:, None, :]
    missed = 1 - (weights * near[None, :, None]).sum(-1)
    return (missed * audio_codes_mask[None, :, None, :]).sum() / (len(layers) * heads)


def _middles(mask):
    """The middles of the positions that a mask [B, T] keeps, as shares of their number."""
    mask = mask.float()
    return (mask.cumsum(-1) - 0.5) / mask.sum(-1, keepdim=True)
