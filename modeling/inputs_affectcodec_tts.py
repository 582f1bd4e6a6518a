"""The inputs of the speech language model: checked, and laid out as the sequences that its autoregressive part reads."""

import torch


INTEGERS = (torch.int64, torch.int32, torch.int16)


def check_text(config, input_ids, attention_mask):
    """Raises where phoneme ids [B, L] or their mask are malformed; the mask as booleans [B, L], or `None`."""
    if not isinstance(input_ids, torch.Tensor) or input_ids.dim() != 2 or input_ids.dtype not in INTEGERS:
        raise ValueError(
            f"`input_ids` must be an integer tensor of shape (batch, text_length), got {_described(input_ids)}"
        )
    if input_ids.numel() == 0:
        raise ValueError(f"`input_ids` holds no phonemes: shape {tuple(input_ids.shape)}")
    if attention_mask is not None:
        if not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"`attention_mask` must have the shape of `input_ids` {tuple(input_ids.shape)}, "
                f"got {_described(attention_mask)}"
            )
        attention_mask = attention_mask.bool()
        if not attention_mask.any(-1).all():
            item = int((~attention_mask.any(-1)).nonzero()[0])
            raise ValueError(f"`attention_mask` leaves item {item} without phonemes")
    _check_range(input_ids, config.text_vocab_size, "input_ids")
    return attention_mask


def check_codes(config, codes, mask, batch_size, name):
    """Raises where codes [B, Q, F] or their mask are malformed; the mask as booleans [B, F]."""
    if not isinstance(codes, torch.Tensor) or codes.dim() != 3 or codes.dtype not in INTEGERS:
        raise ValueError(
            f"`{name}` must be an integer tensor of shape (batch, quantizers, frames), got {_described(codes)}"
        )
    if codes.shape[:2] != (batch_size, config.num_quantizers) or not codes.shape[2]:
        raise ValueError(
            f"`{name}` must have shape ({batch_size}, {config.num_quantizers}, at least 1), got {tuple(codes.shape)}"
        )
    _check_range(codes, config.codebook_size, name)
    if mask is None:
        return torch.ones(codes.shape[0], codes.shape[2], dtype=torch.bool, device=codes.device)
    if not isinstance(mask, torch.Tensor) or mask.shape != (codes.shape[0], codes.shape[2]):
        raise ValueError(f"`{name}_mask` must have shape {(codes.shape[0], codes.shape[2])}, got {_described(mask)}")
    mask = mask.bool()
    if (mask[:, 1:] & ~mask[:, :-1]).any() or not mask[:, 0].all():
        raise ValueError(f"`{name}_mask` must be ones, at least one, then zeros")
    return mask


def check_frames(config, lengths, name):
    """Raises where a prompt of `lengths` [B] frames is shorter or longer than the model is made for."""
    low, high = config.min_prompt_frames, config.max_prompt_frames
    for item, frames in enumerate(lengths.tolist()):
        if not low <= frames <= high:
            rate = config.frame_rate
            raise ValueError(
                f"`{name}` must be {low}..{high} frames long ({low / rate:g}..{high / rate:g} s), item {item} has {frames}"
            )


def check_mask(mask, like, name):
    """Raises where a mask has another shape than the mask `like` [B, F]; as booleans, or `None`."""
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor) or mask.shape != like.shape:
        raise ValueError(f"`{name}` must have shape {tuple(like.shape)}, got {_described(mask)}")
    return mask.bool()


def speech_sequence(config, input_ids, attention_mask, codes, codes_mask, loss_mask):
    """
    What the autoregressive part is trained on, [phonemes ; beginning ; codes ; end].

    Args:
        input_ids: Phonemes [B, L]; `attention_mask` [B, L] or `None`.
        codes: Codes of codebook 1 [B, F]; `codes_mask` [B, F], padding on the right.
        loss_mask: [B, F], False at codes that are no targets, or `None`.

    Returns:
        Ids, mask and labels, each [B, L + F + 2].
    """
    lengths = codes_mask.sum(-1, keepdim=True)
    text, text_mask = _text_ids(config, input_ids, attention_mask)
    beginning = codes.new_full((len(codes), 1), config.bos_token_id)
    end = codes.new_full((len(codes), 1), config.eos_token_id)
    # Padding is the end of speech too, so it follows the last code at every length.
    speech = torch.cat((beginning, codes.masked_fill(~codes_mask, config.eos_token_id), end), dim=1)
    speech_mask = torch.arange(speech.shape[1], device=codes.device) < lengths + 2
    is_target = speech_mask.clone()
    is_target[:, 0] = False
    if loss_mask is not None:
        is_target[:, 1:-1] &= loss_mask | ~codes_mask
    labels = torch.cat((torch.full_like(text, -100), speech.masked_fill(~is_target, -100)), dim=1)
    return torch.cat((text, speech), dim=1), torch.cat((text_mask, speech_mask), dim=1).long(), labels


def prompt_sequence(config, input_ids, attention_mask, codes, codes_mask):
    """
    What the autoregressive part continues, [phonemes ; padding, beginning, codes of the prompt].

    Args:
        input_ids: Phonemes [B, L]; `attention_mask` [B, L] or `None`.
        codes: The prompt's codes of codebook 1 [B, P], P may be 0; `codes_mask` [B, P], padding on the right.

    Returns:
        Ids and mask, each [B, L + 1 + P]; every item ends at the right edge.
    """
    text, text_mask = _text_ids(config, input_ids, attention_mask)
    lengths = codes_mask.sum(-1, keepdim=True)
    beginning = codes.new_full((len(codes), 1), config.bos_token_id)
    speech = torch.cat((beginning, codes), dim=1)
    source = torch.arange(speech.shape[1], device=codes.device) - (codes.shape[1] - lengths)
    speech_mask = source >= 0
    speech = speech.gather(1, source.clamp(min=0)).masked_fill(~speech_mask, config.pad_token_id)
    return torch.cat((text, speech), dim=1), torch.cat((text_mask, speech_mask), dim=1).long()


def _text_ids(config, input_ids, attention_mask):
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids, dtype=torch.bool)
    return input_ids.long() + config.text_token_offset, attention_mask


def _check_range(ids, size, name):
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        raise ValueError(f"`{name}` must lie in 0..{size - 1}, got {low}..{high}")


def _described(value):
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
