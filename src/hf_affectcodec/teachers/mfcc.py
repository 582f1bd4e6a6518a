"""MFCC: a semantic teacher that needs nothing but torchaudio."""

from collections.abc import Sequence

import torch
import torchaudio

from .alignment import HOP_LENGTH, SAMPLING_RATE, num_codec_frames
from .frozen import check_waveforms


class MfccTeacher:
    """
    Mel-frequency cepstral coefficients of 40 ms around each codec frame (`torchaudio.transforms.MFCC`).

    Frame t looks at samples `320 t - 160` to `320 t + 480`, zeros outside the clip. The logarithm is `log(mel + 1e-6)`,
    not torchaudio's decibels under the clip's peak, so that a frame depends on these samples alone.

    Args:
        num_coefficients (`int`, *optional*, defaults to 20): Coefficients kept, the 0-th (level) among them.
        num_mel_bins (`int`, *optional*, defaults to 40): Bands before the cosine transform.

    Raises:
        ValueError: There are more coefficients than bands.
    """

    def __init__(self, num_coefficients: int = 20, num_mel_bins: int = 40):
        if not 1 <= num_coefficients <= num_mel_bins:
            raise ValueError(f"`num_coefficients` must be 1 to {num_mel_bins}, got {num_coefficients}")
        self.transform = torchaudio.transforms.MFCC(
            SAMPLING_RATE,
            n_mfcc=num_coefficients,
            log_mels=True,
            melkwargs={
                "n_fft": 2 * HOP_LENGTH,
                "hop_length": HOP_LENGTH,
                "n_mels": num_mel_bins,
                "center": False,
            },
        )
        self.feature_size = num_coefficients
        self.description = {
            "teacher": type(self).__name__,
            "source": "torchaudio.transforms.MFCC",
            "revision": torchaudio.__version__,
            "feature_size": num_coefficients,
            "num_mel_bins": num_mel_bins,
        }

    @torch.no_grad()
    def __call__(self, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Waveforms `[T]` at 16 kHz to features `[ceil(T / 320), C]`, see [`~hf_affectcodec.teachers.Teacher`]."""
        check_waveforms(waveforms)
        return [self._features(waveform.float().cpu()) for waveform in waveforms]

    def _features(self, waveform: torch.Tensor) -> torch.Tensor:
        half = HOP_LENGTH // 2
        end = HOP_LENGTH * num_codec_frames(len(waveform)) + half
        return self.transform(torch.nn.functional.pad(waveform, (half, end - len(waveform)))).T
