"""
Latency of a live stream: seconds that one chunk takes to encode and to decode, beside the seconds of speech in it.

    python -m hf_affectcodec.benchmarks.latency --threads 1

Causal networks of the two sizes with random weights (what they weigh does not change the time), or `--model DIR`. The
algorithmic latency is a frame plus the decoder's look-ahead; what a listener waits for is that plus the time of a chunk.
"""

import argparse
import time

import numpy as np
import torch
from tqdm.auto import tqdm

from ..modeling.configuration_affectcodec import AffectCodecConfig
from ..modeling.modeling_affectcodec import AffectCodecModel
from ..shipped import pretrained_path


CHUNKS_MS = (20, 40, 80)


def causal_models() -> dict[str, AffectCodecModel]:
    """The paper's network and the shipped one, causal, without guidance (which looks at the whole past)."""
    torch.manual_seed(0)
    shipped = AffectCodecConfig.from_pretrained(pretrained_path())
    shipped.causal = True
    shipped.guidance_sources, shipped.self_guidance = (), False
    configs = {
        "paper's size (seanet)": AffectCodecConfig(causal=True, guidance_sources=(), alignment_feature_size=None),
        "affectcodec-mini's size (istft)": shipped,
    }
    models = {}
    for name, config in configs.items():
        models[name] = AffectCodecModel(config).eval()
        with torch.no_grad():
            for codebook in models[name].quantizer.layers:
                codebook.embed.normal_()
                codebook.inited.fill_(True)
    return models


@torch.inference_mode()
def chunk_times(model: AffectCodecModel, chunk_samples: int, chunks: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of encoding and of decoding each of `chunks` chunks of one stream; the first ten warm up and are not kept."""
    waveform = 0.1 * torch.randn(1, 1, (chunks + 10) * chunk_samples)
    stream = model.streaming(1)
    times = []
    for chunk in waveform.split(chunk_samples, dim=-1):
        start = time.perf_counter()
        codes = stream.encode(chunk).audio_codes
        middle = time.perf_counter()
        stream.decode(codes)
        times.append((middle - start, time.perf_counter() - middle))
    encode, decode = np.array(times[10:]).T
    return encode, decode


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", help="folder or Hub id of a causal model (default: two networks with random weights)"
    )
    parser.add_argument("--chunks", type=int, default=300)
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    args = parser.parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    models = (
        causal_models() if args.model is None else {args.model: AffectCodecModel.from_pretrained(args.model).eval()}
    )
    print(f"float32, {torch.get_num_threads()} threads, {args.chunks} chunks\n")
    print("| model | algorithmic latency, ms | chunk, ms | encode p50 | p95 | decode p50 | p95 | of real time, p50 |")
    print("|---|---|---|---|---|---|---|---|")
    for name, model in tqdm(models.items(), desc="models"):
        rate = model.config.sampling_rate
        delay = 1000 * (model.hop_length + model.streaming(1).delay) / rate
        for milliseconds in CHUNKS_MS:
            encode, decode = chunk_times(model, rate * milliseconds // 1000, args.chunks)
            cells = [1000 * np.percentile(part, q) for part in (encode, decode) for q in (50, 95)]
            share = 1000 * np.median(encode + decode) / milliseconds
            print(f"| {name} | {delay:.0f} | {milliseconds} | {' | '.join(f'{c:.1f}' for c in cells)} | {share:.0%} |")


if __name__ == "__main__":
    main()
