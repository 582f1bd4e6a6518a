"""
GE2E speaker embeddings (Wan et al., arXiv 1710.10467) with weights that a package carries: the speaker encoder for
where no hub can be reached.

The weights are Resemblyzer's (Apache-2.0, LibriSpeech-other + VoxCeleb 1 and 2). Its code is not used, as it needs
`webrtcvad`, which imports `pkg_resources`, and that left setuptools with version 81; the network is three LSTM layers.
"""

import functools
import importlib.util
import math
from pathlib import Path

import numpy as np
import torch
from torchaudio.transforms import MelSpectrogram

from .waveforms import check_audible, check_waveform


SAMPLING_RATE = 16000  # Hz
TARGET_LEVEL = -30.0  # dB re full scale; quieter clips are raised to it, as the network sees power, not its logarithm
HOP_LENGTH = 160  # samples
WINDOW_FRAMES = 160  # 1.6 s, what the network was trained on
WINDOW_STEP = 77  # frames; 1.3 windows a second
MIN_COVERAGE = 0.75  # of the last window that must be sound for it to count


def weights_path() -> Path:
    """Where the weights are. `resemblyzer` is found, not imported."""
    spec = importlib.util.find_spec("resemblyzer")
    if spec is None:
        raise ImportError("GE2E needs the weights in `resemblyzer`: pip install --no-deps resemblyzer==0.1.4")
    return Path(spec.origin).parent / "pretrained.pt"


class GE2ENetwork(torch.nn.Module):
    """40 mel bands to three LSTM layers of 256; the last state through a linear layer and ReLU, to length 1."""

    def __init__(self):
        super().__init__()
        self.mel = MelSpectrogram(
            SAMPLING_RATE,
            n_fft=400,
            hop_length=HOP_LENGTH,
            n_mels=40,
            pad_mode="constant",
            norm="slaney",
            mel_scale="slaney",
        )
        self.lstm = torch.nn.LSTM(40, 256, num_layers=3, batch_first=True)
        self.linear = torch.nn.Linear(256, 256)

    def forward(self, waveform: torch.Tensor, starts: list[int]) -> torch.Tensor:
        """
        Args:
            waveform (`torch.Tensor` [T]): Samples.
            starts (`list[int]`): First mel frame of each of the N windows.

        Returns:
            `torch.Tensor` [N, 256]: Embeddings of the windows.
        """
        mel = self.mel(waveform).T
        _, (states, _) = self.lstm(torch.stack([mel[start : start + WINDOW_FRAMES] for start in starts]))
        return torch.nn.functional.normalize(self.linear(states[-1]).relu(), dim=-1)


@functools.cache
def load_model(device: str = "cpu") -> GE2ENetwork:
    """The network with its weights, loaded once per process and device."""
    weights = torch.load(weights_path(), map_location="cpu", weights_only=True)["model_state"]
    network = GE2ENetwork()
    # What it holds besides is the scale of the training loss; what it lacks is the fixed mel filterbank.
    wanted = {name: tensor for name, tensor in weights.items() if name.split(".")[0] in ("lstm", "linear")}
    wanted |= {name: tensor for name, tensor in network.state_dict().items() if name.startswith("mel.")}
    network.load_state_dict(wanted)
    return network.eval().requires_grad_(False).to(device)


class GE2EEncoder:
    """
    The mean of the embeddings of windows of 1.6 s, as an encoder for
    [`~hf_affectcodec.metrics.speaker_similarity.speaker_similarity`]. All 256 entries are positive, so that even very
    different voices have a cosine well above 0.

    As in Resemblyzer but for one thing: long silences are not cut out.

    Args:
        device (`str`, *optional*, defaults to `"cpu"`): Where the network runs.
    """

    def __init__(self, device: str = "cpu"):
        self.device = device
        self.description = {"encoder": "GE2E", "source": "resemblyzer 0.1.4"}

    @torch.inference_mode()
    def __call__(self, waveform, sampling_rate: int) -> np.ndarray:
        """
        Args:
            waveform (array [T]): Samples, full scale ±1. One of less than 1.6 s is padded with zeros.
            sampling_rate (`int`): In Hz, must be 16000.

        Returns:
            `np.ndarray` [256]: The embedding, of length 1.

        Raises:
            ValueError: The waveform is not usable or is silent, or the sampling rate is another.
            ImportError: The package with the weights is missing.
        """
        if sampling_rate != SAMPLING_RATE:
            raise ValueError(f"`sampling_rate` must be {SAMPLING_RATE}, got {sampling_rate}")
        waveform = check_audible(check_waveform(waveform, "waveform"), "waveform")
        waveform = waveform * max(1.0, 10 ** (TARGET_LEVEL / 20) / math.sqrt((waveform**2).mean()))

        num_frames = math.ceil((waveform.size + 1) / HOP_LENGTH)
        starts = list(range(0, max(1, num_frames - WINDOW_FRAMES + WINDOW_STEP + 1), WINDOW_STEP))
        if len(starts) > 1 and waveform.size - starts[-1] * HOP_LENGTH < MIN_COVERAGE * WINDOW_FRAMES * HOP_LENGTH:
            starts.pop()
        missing = (starts[-1] + WINDOW_FRAMES) * HOP_LENGTH - waveform.size
        waveform = torch.from_numpy(np.pad(waveform, (0, max(0, missing)))).float().to(self.device)
        embedding = load_model(self.device)(waveform, starts).mean(0).double().cpu().numpy()
        return embedding / np.linalg.norm(embedding)
