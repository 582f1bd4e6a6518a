"""
F0 as tokens: 256 mel-scaled bins and a padding index, as the public code of arXiv 2506.02088 quantises it.

Index 0 is unvoiced (the public code leaves it unused), 1 to 255 are pitches from 50 to 1100 Hz, 256 is padding: the
vocabulary of `GraphFusionConfig.token_sizes["f0"]`, 257.
"""

import numpy as np


F0_MIN = 50.0  # Hz
F0_MAX = 1100.0  # Hz
NUM_BINS = 256
UNVOICED_TOKEN = 0
PADDING_TOKEN = NUM_BINS
VOCABULARY_SIZE = NUM_BINS + 1
UNVOICED_CHOICES = ("interpolate", "token")


def hz_to_mel(frequency):
    """`1127 ln(1 + f / 700)`; any shape."""
    return 1127.0 * np.log1p(np.asarray(frequency, dtype=np.float64) / 700.0)


def mel_to_hz(mel):
    """Inverse of [`hz_to_mel`]."""
    return 700.0 * np.expm1(np.asarray(mel, dtype=np.float64) / 1127.0)


def _check_track(f0) -> np.ndarray:
    f0 = np.asarray(f0, dtype=np.float64)
    if f0.ndim != 1 or not f0.size:
        raise ValueError(f"`f0` must be a track of shape (T,), not empty, got shape {f0.shape}")
    if not np.isfinite(f0).all() or (f0 < 0).any():
        raise ValueError("`f0` must be finite and 0 or more, 0 where unvoiced")
    return f0


def f0_to_tokens(f0, unvoiced: str) -> np.ndarray:
    """
    Tokens of an F0 track: `m' = 1 + 254 (m - mel(50)) / (mel(1100) - mel(50))`, clipped to [1, 255] and rounded.

    Args:
        f0 (array [T]): In Hz, 0 where unvoiced.
        unvoiced (`str`): What becomes of unvoiced frames. `"interpolate"`: a straight line in Hz between the voiced
            neighbours, the nearest one's value at both ends (the public code's choice: voicing is not told). `"token"`: index
            0 (ours).

    Returns:
        `np.ndarray` [T], int64: 1 to 255; 0 for unvoiced frames with `"token"`, and for every frame of a track without
        any voiced one with both choices (the public code leaves such files out).

    Raises:
        ValueError: The track is not usable, or `unvoiced` is neither.
    """
    if unvoiced not in UNVOICED_CHOICES:
        raise ValueError(f"`unvoiced` must be one of {UNVOICED_CHOICES}, got {unvoiced!r}")
    f0 = _check_track(f0)
    voiced = f0 > 0
    if not voiced.any():
        return np.full(len(f0), UNVOICED_TOKEN, dtype=np.int64)
    if unvoiced == "interpolate":
        f0 = np.interp(np.arange(len(f0)), np.flatnonzero(voiced), f0[voiced])
    low, high = hz_to_mel(F0_MIN), hz_to_mel(F0_MAX)
    scaled = 1 + (NUM_BINS - 2) * (hz_to_mel(f0) - low) / (high - low)
    tokens = np.rint(np.clip(scaled, 1, NUM_BINS - 1)).astype(np.int64)
    if unvoiced == "token":
        tokens[~voiced] = UNVOICED_TOKEN
    return tokens


def tokens_to_f0(tokens) -> np.ndarray:
    """
    The middle of each token's bin in Hz, 0 for index 0 and for padding. Middles lie 2.6 Hz (at 50 Hz) to 6.2 Hz (at 1100 Hz)
    apart; an F0 in that range comes back to half of it.

    Args:
        tokens (array [T]): Integers in 0..256.

    Returns:
        `np.ndarray` [T]: Hz.

    Raises:
        ValueError: A token is out of range.
    """
    tokens = np.asarray(tokens)
    if not np.issubdtype(tokens.dtype, np.integer) or ((tokens < 0) | (tokens > PADDING_TOKEN)).any():
        raise ValueError(f"`tokens` must be integers in 0..{PADDING_TOKEN}")
    low, high = hz_to_mel(F0_MIN), hz_to_mel(F0_MAX)
    f0 = mel_to_hz(low + (tokens - 1) * (high - low) / (NUM_BINS - 2))
    return np.where((tokens == UNVOICED_TOKEN) | (tokens == PADDING_TOKEN), 0.0, f0)


def stretch_track(f0, num_frames: int) -> np.ndarray:
    """
    A track at another frame rate by repeating or leaving out frames: frame t of the result is frame
    `floor(t * T / num_frames)`. No interpolation, since that would make pitches between voiced and unvoiced.

    Args:
        f0 (array [T]): In Hz, 0 where unvoiced.
        num_frames (`int`): Frames of the result, 1 or more: that of the audio features that it goes with.

    Returns:
        `np.ndarray` [num_frames].

    Raises:
        ValueError: The track is not usable, or `num_frames` is below 1.
    """
    f0 = _check_track(f0)
    if num_frames < 1:
        raise ValueError(f"`num_frames` must be at least 1, got {num_frames}")
    return f0[np.arange(num_frames) * len(f0) // num_frames]
