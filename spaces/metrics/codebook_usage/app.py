"""The page of the Space: Codebook usage."""

import gradio as gr

from hf_affectcodec.codes_file import load_codes
from hf_affectcodec.metric_space import build_page
from hf_affectcodec.metrics.codebook_usage import codebook_usage, count_codes


def measure(path):
    if path is None:
        raise ValueError("upload a file of codes first")
    codes = load_codes(path)
    found = codebook_usage(count_codes([codes.audio_codes.numpy().astype(int)], codes.codebook_size))
    rates = found.entropy_rate(codes.sampling_rate / codes.hop_length)
    return {
        f"codebook {index + 1}": f"usage {usage:.3f}, perplexity {perplexity:.1f}, {rate:.0f} bits/s"
        for index, (usage, perplexity, rate) in enumerate(zip(found.usage, found.perplexity, rates, strict=True))
    }


inputs = [gr.File(label="A file that `affectcodec encode` wrote", file_types=[".safetensors"])]
page = build_page("Codebook usage", codebook_usage, inputs, measure)

if __name__ == "__main__":
    page.launch()
