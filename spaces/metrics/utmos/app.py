"""The page of the Space: UTMOS."""

import functools

from hf_affectcodec.metric_space import build_clip_page
from hf_affectcodec.metrics.utmos import UTMOS


load = functools.cache(UTMOS.from_pretrained)


def utmos(waveform, sampling_rate):
    return load()(waveform, sampling_rate)


page = build_clip_page("UTMOS", UTMOS, {"UTMOS (1 to 5)": utmos})

if __name__ == "__main__":
    page.launch()
