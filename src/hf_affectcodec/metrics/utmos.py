"""UTMOS: predicted mean opinion score of one waveform, without a reference."""

import os
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download

from .waveforms import check_audible, check_waveform


try:
    from utmos_pytorch.utmos_torch import UTMOSModel, UTMOSScoreTorch
except ImportError as error:
    raise ImportError("UTMOS needs the package `utmos-pytorch`: pip install 'hf-affectcodec[eval]'") from error


SAMPLING_RATE = 16000  # Hz
WEIGHTS = "utmos_state_dict.pt"
_SHORTEST = 400  # samples, the receptive field of wav2vec 2.0's convolutions


class UTMOS:
    """
    UTMOS (Saeki et al., arXiv 2204.02152), the "strong learner" of the VoiceMOS Challenge 2022: wav2vec 2.0 base, a
    BLSTM and a projection, whose frames are averaged. The network is the package `utmos-pytorch`, which needs no fairseq;
    data set and listener are its fixed ones (0 and 288). The weights come from the Hub or a folder, read without pickled
    code. UTMOSv2 is another system on another scale.

    The waveform is taken as it is, so level matters a little. Clips are always run one by one.

    Args:
        scorer (`UTMOSScoreTorch`): The network with its weights.
        source (`str`): Where they came from.
        revision (`str`, *optional*): Commit of the Hub repository, `None` for a folder.
    """

    def __init__(self, scorer: UTMOSScoreTorch, source: str, revision: str | None = None):
        self.scorer = scorer.eval().requires_grad_(False)
        self.description = {"source": source, "revision": revision}

    @classmethod
    def from_pretrained(
        cls, source: "str | os.PathLike" = "Blinorot/UTMOS-PyTorch", revision: str = "main", device: str = "cpu"
    ) -> "UTMOS":
        """
        Args:
            source (`str` or path, *optional*): Hub id or folder with `utmos_state_dict.pt`.
            revision (`str`, *optional*, defaults to `"main"`): Of the Hub repository.
            device (`str`, *optional*, defaults to `"cpu"`): Where the network runs.

        Raises:
            ValueError: The file lacks a weight, which the package itself would leave random.
        """
        folder = Path(source)
        path = folder / WEIGHTS if folder.is_dir() else Path(hf_hub_download(str(source), WEIGHTS, revision=revision))
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True).keys()
        with torch.device("meta"):
            missing = sorted(UTMOSModel().state_dict().keys() - found)
        if missing:
            raise ValueError(f"`source` = {str(source)!r} lacks {len(missing)} weights of UTMOS: {missing[0]} ...")
        return cls(UTMOSScoreTorch(str(path), device), str(source), None if folder.is_dir() else path.parent.name)

    @torch.inference_mode()
    def __call__(self, waveform, sampling_rate: int) -> float:
        """
        Args:
            waveform (array [T]): The signal under test, full scale ±1. There is no reference.
            sampling_rate (`int`): In Hz, must be 16000.

        Returns:
            `float`: About 1 (bad) to 5. Higher is better. Clean read English gets about 4; values do not compare with
            those of other predictors.

        Raises:
            ValueError: The waveform is not usable, is silent or shorter than 25 ms, or the sampling rate is another.
        """
        if sampling_rate != SAMPLING_RATE:
            raise ValueError(f"`sampling_rate` must be {SAMPLING_RATE}, got {sampling_rate}")
        waveform = check_audible(check_waveform(waveform, "waveform"), "waveform")
        if waveform.size < _SHORTEST:
            raise ValueError(f"`waveform` must have {_SHORTEST} samples or more, got {waveform.size}")
        return self.scorer.score(torch.from_numpy(waveform).float().to(self.scorer.device)).item()
