"""DistillMOS: predicted mean opinion score of one waveform, without a reference."""

import contextlib
import functools
import io

import torch

from .waveforms import check_audible, check_waveform


try:
    from distillmos import ConvTransformerSQAModel
except ImportError as error:
    raise ImportError("DistillMOS needs the package `distillmos`: pip install 'hf-affectcodec[eval]'") from error


SAMPLING_RATE = 16000  # Hz


@functools.cache
def load_model(device: str = "cpu") -> ConvTransformerSQAModel:
    """The network with the weights of its wheel (v7), loaded once per process and device."""
    # It announces its weights on the standard output, where tables go.
    with contextlib.redirect_stdout(io.StringIO()):
        model = ConvTransformerSQAModel()
    return model.eval().requires_grad_(False).to(device)


@torch.inference_mode()
def distillmos(waveform, sampling_rate: int, device: str = "cpu") -> float:
    """
    DistillMOS (Stahl and Gamper, arXiv 2502.05356): a small network distilled from an XLS-R quality predictor.

    The network sees windows of 7.68 s: a shorter clip is padded with zeros, a longer one is cut into windows at most
    1 s apart, whose scores are averaged; each window is divided by its peak, so level does not matter. Clips are
    always run one by one: padding to a longest neighbour would change the score.

    Args:
        waveform (array [T]): The signal under test. There is no reference.
        sampling_rate (`int`): In Hz, must be 16000.
        device (`str`, *optional*, defaults to `"cpu"`): Where the network runs. Values differ between devices by
            rounding.

    Returns:
        `float`: About 1 (bad) to 5. Higher is better. A prediction: clean recordings get 3.5 to 4.6, and values do not
        compare with those of other predictors (UTMOS, NISQA, DNSMOS).

    Raises:
        ValueError: The waveform is not usable or is silent, or the sampling rate is another.
    """
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(f"`sampling_rate` must be {SAMPLING_RATE}, got {sampling_rate}")
    waveform = check_audible(check_waveform(waveform, "waveform"), "waveform")
    model = load_model(device)
    return model(torch.from_numpy(waveform).float()[None].to(device)).item()
