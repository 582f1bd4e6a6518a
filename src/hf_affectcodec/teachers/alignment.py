"""
Bringing features to codec frames.

A codec frame t stands for samples `[320 t, 320 (t + 1))` at 16 kHz; its time is the middle, `(t + 0.5) / 50` s. Features
known at other times are interpolated *linearly*. CLAP shows why: it has 3.2 steps a second. Repeating each step until the
next (nearest neighbour) makes the emotional change `d_t = |e_t - e_{t-1}|` of arXiv 2605.11098 (Algorithm 1) exactly zero
but at the borders of steps, so that the softmax over d_t puts almost all the weight of a 3 s crop on some ten frames.
Between two points of a line d_t is constant.
"""

import torch


SAMPLING_RATE = 16_000  # Hz, of every waveform that a teacher gets
HOP_LENGTH = 320  # samples a codec frame
FRAME_RATE = SAMPLING_RATE / HOP_LENGTH  # 50 Hz


def num_codec_frames(num_samples: int) -> int:
    """`ceil(num_samples / 320)`, the frames that the codec makes of a waveform."""
    return -(-num_samples // HOP_LENGTH)


def frame_times(num_frames: int, frame_rate: float, start: float = 0.0) -> torch.Tensor:
    """
    Times in s of frames that each stand for an interval of `1 / frame_rate`: the middle of each, `[num_frames]`, float64.

    At 50 Hz they are the codec's own, and interpolation leaves the features as they are. That a model's frame is not
    centred exactly there (HuBERT and wav2vec 2.0: 2.5 ms late; Whisper: 10 ms early) is ignored, as in public training
    code: correcting half a frame would blend every frame with its neighbour.
    """
    return start + (torch.arange(num_frames, dtype=torch.float64) + 0.5) / frame_rate


def interpolate_to_frames(features: torch.Tensor, times: torch.Tensor, num_frames: int) -> torch.Tensor:
    """
    Linear interpolation at the times of codec frames; before the first and after the last time, the nearest feature.

    Args:
        features (`torch.Tensor` `[T', C]`): Features, T' >= 1.
        times (`torch.Tensor` `[T']`): Their times in s, strictly increasing.
        num_frames (`int`): F, the number of codec frames wanted.

    Returns:
        `torch.Tensor` `[F, C]`. Where a codec frame's time is among `times` it is that feature, to the bit.

    Raises:
        ValueError: The shapes do not fit, there is no feature, or `times` does not increase.
    """
    if features.ndim != 2 or features.shape[0] == 0:
        raise ValueError(f"`features` must have shape [T', C] with T' > 0, got {list(features.shape)}")
    if times.shape != features.shape[:1] or not bool((times.diff() > 0).all()):
        raise ValueError(f"`times` must be {features.shape[0]} increasing times, got shape {list(times.shape)}")
    if len(times) == 1:
        return features.expand(num_frames, -1).clone()
    times = times.to("cpu", torch.float64)
    wanted = frame_times(num_frames, FRAME_RATE)
    left = (torch.searchsorted(times, wanted, right=True) - 1).clamp(0, len(times) - 2)
    weight = ((wanted - times[left]) / (times[left + 1] - times[left])).clamp(0, 1)
    left, weight = left.to(features.device), weight.to(features.device, features.dtype)[:, None]
    return torch.lerp(features[left], features[left + 1], weight)


def windows(num_samples: int, window_samples: int | None) -> list[tuple[int, int, int]]:
    """
    Cuts a waveform for a model that takes no more than `window_samples`.

    Windows follow each other without overlap; the last one is moved back (by whole codec frames) to be as full as the
    others, so that no model sees a short remainder alone, and only what lies past its predecessor's end is kept.

    Args:
        num_samples (`int`): Length of the waveform.
        window_samples (`int`, *optional*): Longest input, a multiple of 320. `None`: no limit.

    Returns:
        `list[tuple[int, int, int]]`: (start, stop, keep) in samples: run on `[start, stop)`, keep the features whose time
        is at `keep` or later. All starts are multiples of 320.
    """
    if window_samples is None or num_samples <= window_samples:
        return [(0, num_samples, 0)]
    starts = list(range(0, num_samples, window_samples))
    cuts = [(start, start + window_samples, start) for start in starts[:-1]]
    last = -(-(num_samples - window_samples) // HOP_LENGTH) * HOP_LENGTH
    return [*cuts, (min(last, starts[-1]), num_samples, starts[-1])]
