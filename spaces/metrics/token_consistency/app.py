"""The page of the Space: Token consistency."""

import functools

import torch

from hf_affectcodec.inference import load_codec
from hf_affectcodec.metric_space import audio_input, build_page, read_clip
from hf_affectcodec.metrics.token_consistency import slice_consistency


load = functools.cache(load_codec)


def measure(path):
    codec = load()

    def encode(waveform):
        return codec.encode(torch.from_numpy(waveform)[None]).audio_codes.numpy()

    shares = slice_consistency(encode, read_clip(path, "Recording"), codec.model.hop_length)
    return {f"codebook {index + 1}": share for index, share in enumerate(shares)}


page = build_page("Token consistency", slice_consistency, [audio_input("Recording (1 s or more)")], measure)

if __name__ == "__main__":
    page.launch()
