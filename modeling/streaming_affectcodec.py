"""Streams through a causal AffectCodec: chunks of any length in, the codes and samples of the whole recording out."""

import torch

from .cache_affectcodec import AffectCodecCache
from .outputs_affectcodec import AffectCodecDecoderOutput, AffectCodecEncoderOutput


class AffectCodecStream:
    """
    `batch_size` streams that a causal model encodes, decodes or both, chunk by chunk. [`AffectCodecModel.streaming`] makes one.

    However a recording is cut into chunks, its codes are those of `model.encode` and its samples those of `model.decode`, up to
    rounding in float32 (kernels differ by length; a frame midway between two codes may tip). The items of a batch are
    streams of their own: `num_samples` and `num_frames` say how much of a chunk is whose, and may be 0.

    Encoding waits for whole frames (`hop_length` samples); decoding is late by `delay` samples (0 for the `seanet` backbone),
    so the algorithmic latency is `hop_length + delay` samples. Guidance attends to all that a stream has had, so its memory
    grows with the stream; everything else is constant.

    Args:
        model ([`AffectCodecModel`]): Causal, in evaluation mode.
        batch_size (`int`): B.
        num_quantizers (`int`, *optional*): How many codebooks to encode with. Default: all.
        guidance_source (`str`, *optional*): `"self"` or `"none"`. Default: self-guidance if the model has it.

    Raises:
        ValueError: naming what is malformed.
    """

    def __init__(self, model, batch_size: int, num_quantizers: int | None = None, guidance_source: str | None = None):
        if not model.config.causal:
            raise ValueError("streaming needs a model with `causal=True`; others look ahead")
        if model.config.backbone == "seanet" and model.config.pad_mode == "reflect":
            raise ValueError("streaming needs `pad_mode='zero'`; a reflection at the start looks ahead")
        if model.training:
            raise ValueError("streaming needs a model in evaluation mode: call `eval()` first")
        if type(batch_size) is not int or batch_size < 1:
            raise ValueError(f"`batch_size` must be a positive integer, got {batch_size!r}")
        if guidance_source is None:
            guidance_source = "none" if model.self_guidance is None else "self"
        if guidance_source not in ("self", "none"):
            raise ValueError(f"`guidance_source` must be 'self' or 'none' in a stream, got {guidance_source!r}")
        if guidance_source == "self" and model.self_guidance is None:
            raise ValueError("`guidance_source='self'` needs a model with `self_guidance=True`")
        model._check_num_quantizers(num_quantizers)
        self.model, self.batch_size = model, batch_size
        self.num_quantizers, self.guidance_source = num_quantizers, guidance_source
        self.hop_length = model.hop_length
        self.delay = model.decoder.delay if model.config.backbone == "istft" else 0
        self._encoder_cache, self._decoder_cache = AffectCodecCache(batch_size), AffectCodecCache(batch_size)
        self._pending = [torch.zeros(0, device=model.device) for _ in range(batch_size)]
        self._to_drop = [self.delay] * batch_size

    @torch.no_grad()
    def encode(self, input_values: torch.Tensor, num_samples: torch.Tensor | None = None):
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, 1, samples)`): The next chunk, of any length.
            num_samples (`torch.LongTensor` of shape `(batch,)`, *optional*): How many samples are each item's. Default: all.

        Returns:
            [`AffectCodecEncoderOutput`] with the frames that this chunk completes (`audio_codes_mask` says how many an item
            has; there may be none), without `latents`.

        Raises:
            ValueError: naming the argument that is malformed.
        """
        self._check_chunk("input_values", input_values, (self.batch_size, 1))
        if not input_values.is_floating_point() or not bool(torch.isfinite(input_values).all()):
            raise ValueError("`input_values` must be floating point, without NaN or infinite values")
        lengths = self._lengths("num_samples", num_samples, input_values.shape[-1])
        for item, length in enumerate(lengths):
            self._pending[item] = torch.cat([self._pending[item], input_values[item, 0, :length].float()])
        return self._encode_pending()

    @torch.no_grad()
    def finish_encode(self, items: torch.Tensor | None = None):
        """The last frame of the streams that end (`items` [B], bool; default: all), filled up with zeros, if one is open."""
        for item in self._items(items):
            missing = -len(self._pending[item]) % self.hop_length
            self._pending[item] = torch.nn.functional.pad(self._pending[item], (0, missing))
        return self._encode_pending()

    def _encode_pending(self):
        model, device = self.model, self.model.device
        codes = [[] for _ in range(self.batch_size)]
        while True:
            frames = [len(samples) // self.hop_length for samples in self._pending]
            if not any(frames):
                break
            # As many frames as every item has that has any.
            now = min(count for count in frames if count) * self.hop_length
            chunk = torch.zeros(self.batch_size, 1, now, device=device)
            for item, count in enumerate(frames):
                if count:
                    chunk[item, 0], self._pending[item] = self._pending[item][:now], self._pending[item][now:]
            self._encoder_cache.active = torch.tensor([count > 0 for count in frames], device=device)
            latents = model.encoder(chunk.to(model.dtype), cache=self._encoder_cache)
            if self.guidance_source == "self":
                predicted = model.self_guidance(latents, cache=self._encoder_cache)
                latents = model.guidance(latents, predicted, cache=self._encoder_cache)
            for item, row in enumerate(model.quantizer.encode(latents, self.num_quantizers)):
                if frames[item]:
                    codes[item].append(row)
        quantizers = self.num_quantizers or model.config.num_quantizers
        empty = torch.zeros(quantizers, 0, dtype=torch.long, device=device)
        rows, mask = _padded([torch.cat([empty, *parts], dim=-1) for parts in codes])
        return AffectCodecEncoderOutput(audio_codes=rows, audio_codes_mask=mask)

    @torch.no_grad()
    def decode(self, audio_codes: torch.Tensor, num_frames: torch.Tensor | None = None):
        r"""
        Args:
            audio_codes (`torch.LongTensor` of shape `(batch, quantizers, frames)`): The next frames; there may be none.
            num_frames (`torch.LongTensor` of shape `(batch,)`, *optional*): How many frames are each item's. Default: all.

        Returns:
            [`AffectCodecDecoderOutput`] with the samples that these frames complete (`padding_mask` says how many an item has).

        Raises:
            ValueError: naming the argument that is malformed.
        """
        self._check_chunk("audio_codes", audio_codes, (self.batch_size,))
        if audio_codes.shape[-1]:
            self.model._check_codes(audio_codes)
        left = self._lengths("num_frames", num_frames, audio_codes.shape[-1])
        position, samples = 0, [[] for _ in range(self.batch_size)]
        while any(left):
            now = min(count for count in left if count)
            self._decoder_cache.active = torch.tensor([count > 0 for count in left], device=self.model.device)
            latents = self.model.quantizer.decode(audio_codes[..., position : position + now].long())
            waveforms = self.model.decoder(latents.to(self.model.dtype), cache=self._decoder_cache)[:, 0]
            for item, count in enumerate(left):
                if count:
                    samples[item].append(self._drop(item, waveforms[item]))
            left = [max(0, count - now) for count in left]
            position += now
        return self._decoder_output(samples)

    @torch.no_grad()
    def finish_decode(self, items: torch.Tensor | None = None):
        """The last `delay` samples of the streams that end (`items` [B], bool; default: all)."""
        samples = [[] for _ in range(self.batch_size)]
        if self.delay and self._decoder_cache.get(self.model.decoder) is not None:
            last = self.model.decoder.close(self._decoder_cache)[:, 0]
            for item in self._items(items):
                samples[item].append(self._drop(item, last[item]))
        return self._decoder_output(samples)

    def reset(self, items: torch.Tensor | None = None):
        """Forgets the streams of `items` [B] (bool; default: all): their next chunk is the first of a new one."""
        chosen = self._items(items)
        mask = torch.zeros(self.batch_size, dtype=torch.bool, device=self.model.device)
        mask[chosen] = True
        self._encoder_cache.reset(mask)
        self._decoder_cache.reset(mask)
        for item in chosen:
            self._pending[item], self._to_drop[item] = self._pending[item][:0], self.delay

    def _drop(self, item, samples):
        # What an overlap-add gives first belongs before the start of the recording.
        dropped = min(self._to_drop[item], len(samples))
        self._to_drop[item] -= dropped
        return samples[dropped:]

    def _decoder_output(self, samples):
        empty = torch.zeros(0, device=self.model.device, dtype=self.model.dtype)
        rows, mask = _padded([torch.cat([empty, *parts])[None] for parts in samples])
        return AffectCodecDecoderOutput(audio_values=rows, padding_mask=mask)

    def _items(self, items):
        if items is None:
            return list(range(self.batch_size))
        if not isinstance(items, torch.Tensor) or items.dtype != torch.bool or items.shape != (self.batch_size,):
            raise ValueError(f"`items` must be a bool tensor of shape ({self.batch_size},)")
        return items.nonzero()[:, 0].tolist()

    def _check_chunk(self, name, chunk, start):
        shape = tuple(chunk.shape) if isinstance(chunk, torch.Tensor) else type(chunk).__name__
        if not isinstance(chunk, torch.Tensor) or chunk.dim() != 3 or shape[: len(start)] != start:
            rest = ", ".join(["quantizers", "frames"] if len(start) == 1 else ["samples"])
            raise ValueError(f"`{name}` must be a tensor of shape ({', '.join(map(str, start))}, {rest}), got {shape}")

    def _lengths(self, name, lengths, size):
        if lengths is None:
            return [size] * self.batch_size
        if not isinstance(lengths, torch.Tensor) or lengths.shape != (self.batch_size,) or lengths.is_floating_point():
            raise ValueError(f"`{name}` must be an integer tensor of shape ({self.batch_size},)")
        if int(lengths.min()) < 0 or int(lengths.max()) > size:
            raise ValueError(f"`{name}` must lie in 0..{size}, got {lengths.tolist()}")
        return lengths.tolist()


def _padded(rows):
    """Rows [..., n] of several lengths to [B, ..., longest], and the mask [B, longest]."""
    lengths = torch.tensor([row.shape[-1] for row in rows], device=rows[0].device)
    longest = int(lengths.max())
    padded = torch.stack([torch.nn.functional.pad(row, (0, longest - row.shape[-1])) for row in rows])
    return padded, torch.arange(longest, device=lengths.device) < lengths[:, None]


__all__ = ["AffectCodecStream"]
