"""How codes of codebook 1 are drawn and handed on: guidance, repetition-aware sampling, a streamer that calls back."""

from collections.abc import Callable

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from .layers_affectcodec_tts import positions_of_each_kind


class AffectCodecTTSClassifierFreeGuidance(LogitsProcessor):
    """
    Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) towards what parts of the input ask for, each by its own scale:
    log-probabilities `c + sum_i (scale_i - 1) (c - u_i)`, c with the whole input and u_i with part i hidden. For one part that is
    `u + scale (c - u)`. For each code it runs the model once more, over all u_i as one batch, with a cache of its own.

    Args:
        model ([`AffectCodecTTSForCausalLM`]): The model that generates.
        beginnings (`list[tuple[torch.Tensor, torch.Tensor]]`):
            Of each part what u_i continues in place of the prompt, ids and mask `(batch, length)`, 0 at what is hidden. The last
            position is the one that speaks.
        scales (`list[float]`): Of each part. 1: no guidance; 0: as if the part were not there; above 1: towards it.
    """

    def __init__(self, model, beginnings: list[tuple[torch.Tensor, torch.Tensor]], scales: list[float]):
        self.model = model
        self.input_ids, self.attention_mask = (torch.cat(parts) for parts in zip(*beginnings, strict=True))
        self.scales = scales
        self.cache = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Ids [B, T] so far and logits [B, V] of the next one -> log-probabilities [B, V]."""
        new = input_ids[:, self.input_ids.shape[1] :].repeat(len(self.scales), 1)
        ids = torch.cat((self.input_ids, new), dim=1)
        mask = torch.cat((self.attention_mask, self.attention_mask.new_ones(new.shape)), dim=1)
        kinds = self.model.model.token_types(ids)
        first = 0 if self.cache is None else self.cache.get_seq_length()
        outputs = self.model(
            input_ids=ids[:, first:],
            attention_mask=mask,
            position_ids=positions_of_each_kind(kinds, mask)[:, first:],
            token_type_ids=kinds[:, first:],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = outputs.past_key_values
        whole = scores.log_softmax(-1)
        guided, ruled_out = whole, scores.isinf()
        for scale, hidden in zip(self.scales, outputs.logits[:, -1].to(scores.dtype).split(len(scores)), strict=True):
            guided = guided + (scale - 1) * (whole - hidden.log_softmax(-1))
            ruled_out = ruled_out | hidden.isinf()
        # Neither what no logit is for nor what an earlier processor has ruled out.
        return guided.masked_fill(ruled_out, float("-inf"))


class AffectCodecTTSRepetitionAwareSampling(LogitsProcessor):
    r"""
    Repetition-aware sampling (VALL-E 2, arXiv 2406.05370) as a distribution. There a code is drawn after
    temperature, top-k and top-p, and drawn again from all codes if it fills more than `threshold` of the last `window`
    codes. That is a draw from `p(v) = q(v) [share(v) <= threshold] + p_all(v) * sum_u q(u) [share(u) > threshold]`, which
    this returns the logarithm of; so the generation loop stays transformers' own.

    Args:
        window (`int`): Number of last codes that are looked at; fewer at the start.
        threshold (`float`): Share of the window, in [0, 1), above which a drawn code is drawn again.
        codebook_size (`int`): Ids from here on are no codes and repeat freely.
        temperature (`float`, *optional*, defaults to 1.0): Divides the logits, for both draws.
        top_k (`int`, *optional*, defaults to 0): The first draw is among the k likeliest ids; 0: all.
        top_p (`float`, *optional*, defaults to 1.0): The first draw is among the likeliest ids of this total probability.
    """

    def __init__(
        self,
        window: int,
        threshold: float,
        codebook_size: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ):
        if window < 1:
            raise ValueError(f"`repetition_window` must be at least 1, got {window}")
        if not 0 <= threshold < 1:
            raise ValueError(f"`repetition_threshold` must lie in [0, 1), got {threshold}")
        self.window = window
        self.threshold = threshold
        self.codebook_size = codebook_size
        self.temperature = TemperatureLogitsWarper(float(temperature)) if temperature != 1 else None
        self.first_draw = LogitsProcessorList()
        if top_k:
            self.first_draw.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            self.first_draw.append(TopPLogitsWarper(float(top_p)))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Ids [B, T] so far and logits [B, V] of the next one -> log-probabilities [B, V]."""
        if self.temperature is not None:
            scores = self.temperature(input_ids, scores)
        everything = scores.softmax(-1)
        chosen = self.first_draw(input_ids, scores).softmax(-1)
        recent = input_ids[:, -self.window :]
        is_code = recent < self.codebook_size
        counts = torch.zeros_like(scores).scatter_add_(1, recent, is_code.to(scores.dtype))
        repeated = counts > self.threshold * self.window
        again = (chosen * repeated).sum(-1, keepdim=True)
        return (chosen.masked_fill(repeated, 0.0) + again * everything).log()


class AffectCodecTTSCodeStreamer(BaseStreamer):
    """
    Calls `callback(codes)` for every frame with the new codes of codebook 1, a long tensor [B] on the CPU, -1 for items
    that have ended.
    """

    def __init__(self, callback: Callable[[torch.LongTensor], None], eos_token_id: int):
        self.callback = callback
        self.eos_token_id = eos_token_id
        self.ended = None

    def put(self, value: torch.LongTensor):
        # What comes first is the prompt.
        if self.ended is None:
            self.ended = torch.zeros(value.shape[0], dtype=torch.bool)
            return
        self.ended |= value == self.eos_token_id
        if not self.ended.all():
            self.callback(value.masked_fill(self.ended, -1))

    def end(self):
        self.ended = None
