"""The page of the Space: DNSMOS."""

from hf_affectcodec.metric_space import SAMPLING_RATE, audio_input, build_page, read_clip
from hf_affectcodec.metrics.dnsmos import dnsmos


def measure(path):
    return dnsmos(read_clip(path, "Recording"), SAMPLING_RATE)._asdict()


page = build_page("DNSMOS", dnsmos, [audio_input("Recording")], measure)

if __name__ == "__main__":
    page.launch()
