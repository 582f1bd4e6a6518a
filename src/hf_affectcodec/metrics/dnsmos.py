"""DNSMOS: predicted quality of one waveform on the scales of ITU-T P.835 and P.808, without a reference."""

import functools
import os
from typing import NamedTuple

import numpy as np

from .waveforms import check_audible, check_waveform


try:
    import onnxruntime
    import speechmos.dnsmos
except ImportError as error:
    raise ImportError(
        "DNSMOS needs the packages `speechmos` and `onnxruntime`: pip install 'hf-affectcodec[eval]'"
    ) from error


SAMPLING_RATE = 16000  # Hz


class DNSMOSScores(NamedTuple):
    """
    Predicted mean opinion scores, about 1 (bad) to 5. Higher is better.

    Attributes:
        overall (`float`): OVRL of P.835, overall quality.
        signal (`float`): SIG of P.835, how little the speech is distorted.
        background (`float`): BAK of P.835, how little the background disturbs.
        p808 (`float`): P.808, overall quality in a test with that question alone.
    """

    overall: float
    signal: float
    background: float
    p808: float


class _Networks(speechmos.dnsmos.DNSMOS):
    """
    The two networks of the wheel on one thread each: by default onnxruntime takes every core of the machine in every
    process, and sums split over threads round differently.
    """

    def __init__(self):
        folder = os.path.join(os.path.dirname(speechmos.dnsmos.__file__), "dnsmos_models")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.onnx_sess, self.p808_onnx_sess = (
            onnxruntime.InferenceSession(os.path.join(folder, name), options, providers=["CPUExecutionProvider"])
            for name in ("sig_bak_ovr.onnx", "model_v8.onnx")
        )


@functools.cache
def load_model() -> speechmos.dnsmos.DNSMOS:
    """The networks, loaded once per process."""
    return _Networks()


def dnsmos(waveform, sampling_rate: int) -> DNSMOSScores:
    """
    DNSMOS P.835 (Reddy et al., arXiv 2110.01763) and P.808 (arXiv 2010.15258) by the package `speechmos` and the weights
    of its wheel, not the personalised variant.

    The networks see 9.01 s: a shorter clip is repeated until it is as long, a longer one is cut into windows 1 s apart,
    whose scores are averaged; what is left after the last window is not seen. They were made to judge noise suppression,
    and say little of timbre or of words. Samples beyond ±1 are clipped, as a file of 16-bit samples would. P.835
    depends on the level, P.808 does not.

    Args:
        waveform (array [T]): The signal under test, full scale ±1. There is no reference.
        sampling_rate (`int`): In Hz, must be 16000.

    Returns:
        [`DNSMOSScores`]: Values do not compare with those of other predictors (UTMOS, DistillMOS).

    Raises:
        ValueError: The waveform is not usable or is silent, or the sampling rate is another.
    """
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(f"`sampling_rate` must be {SAMPLING_RATE}, got {sampling_rate}")
    waveform = check_audible(check_waveform(waveform, "waveform"), "waveform")
    scores = load_model()(np.clip(waveform, -1, 1), sampling_rate, False)
    return DNSMOSScores(*(float(scores[name]) for name in ("ovrl_mos", "sig_mos", "bak_mos", "p808_mos")))
