"""
eGeMAPSv02 low-level descriptors by openSMILE: 25 hand-made features of voice, an emotion teacher without a network.

openSMILE is free for research and private use only; its licence comes with the package.
"""

from collections.abc import Sequence

import torch

from .alignment import FRAME_RATE, SAMPLING_RATE, interpolate_to_frames, num_codec_frames
from .frozen import check_waveforms


try:
    import opensmile
except ImportError as error:
    raise ImportError("the eGeMAPS teacher needs `opensmile`: pip install hf-affectcodec[ser]") from error


_PER_FRAME = 2  # descriptors a codec frame
_SHORTEST = 1600  # samples; openSMILE gives nothing for less than its longest window (0.06 s) and some smoothing


class EgemapsTeacher:
    """
    Loudness, spectral balance and flux, MFCC 1-4, F0, jitter, shimmer, HNR, formants (Eyben et al., 2016), 25 channels in
    openSMILE's order, z-scored where mean and standard deviation are given.

    openSMILE has descriptors every 10 ms. The i-th looks at the 20 ms (voice quality: 60 ms) from `10 i` ms on, smoothed
    over three; its time is taken as the middle of the 20 ms, so that a codec frame gets the descriptor of its very
    samples. F0 and the voice quality are 0 where there is no voice.

    Args:
        mean (`torch.Tensor` `[25]`, *optional*): Subtracted from every frame.
        std (`torch.Tensor` `[25]`, *optional*): What the difference is divided by; positive. Both or neither: values
            from the frames of the training set, [`frame_statistics`].

    Raises:
        ValueError: Only one of them is given, or of another shape, or `std` is not positive.
    """

    def __init__(self, mean: torch.Tensor | None = None, std: torch.Tensor | None = None):
        if (mean is None) != (std is None):
            raise ValueError("`mean` and `std` must be given together")
        self.smile = opensmile.Smile(
            opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors, verbose=False
        )
        self.feature_size = len(self.smile.feature_names)
        for name, value in (("mean", mean), ("std", std)):
            if value is not None and value.shape != (self.feature_size,):
                raise ValueError(f"`{name}` must have shape [{self.feature_size}], got {list(value.shape)}")
        if std is not None and not bool((std > 0).all()):
            raise ValueError(f"`std` must be positive, its least is {std.min().item()}")
        self.mean, self.std = mean, std
        self.description = {
            "teacher": type(self).__name__,
            "source": "eGeMAPSv02",
            "revision": opensmile.__version__,
            "feature_size": self.feature_size,
            "feature_names": list(self.smile.feature_names),
            "mean": None if mean is None else mean.tolist(),
            "std": None if std is None else std.tolist(),
        }

    def __call__(self, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Waveforms `[T]` at 16 kHz to features `[ceil(T / 320), 25]`, see [`~hf_affectcodec.teachers.Teacher`]."""
        check_waveforms(waveforms)
        return [self._features(waveform.detach().float().cpu()) for waveform in waveforms]

    def _features(self, waveform: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(waveform, (0, max(0, _SHORTEST - len(waveform))))
        table = self.smile.process_signal(padded.numpy(), SAMPLING_RATE)
        descriptors = torch.from_numpy(table.to_numpy(dtype="float32", copy=True))
        # counted in codec frames, so that every second time is the very number of a codec frame's
        times = (torch.arange(len(descriptors), dtype=torch.float64) / _PER_FRAME + 0.5) / FRAME_RATE
        features = interpolate_to_frames(descriptors, times, num_codec_frames(len(waveform)))
        return features if self.mean is None else (features - self.mean) / self.std


def frame_statistics(features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean and standard deviation `[C]` over all frames of items `[F, C]`; a channel that never varies gets 1.

    Raises:
        ValueError: There is no frame.
    """
    if not sum(len(item) for item in features):
        raise ValueError("`features` holds no frame")
    frames = torch.cat(list(features)).double()
    std = frames.std(0, correction=0)
    return frames.mean(0).float(), torch.where(std > 0, std, 1.0).float()
