"""
Speed of encode and decode against SpeechTokenizer of the same shape.

    python -m hf_affectcodec.benchmarks.speed --threads 2 --seconds 10
    python -m hf_affectcodec.benchmarks.speed --seconds 1 10 60 --batch-size 1 16 --num-filters 32 64 --bf16

Both run in this process, on the same clip, with the same number of threads, in turns, so that whatever else the machine
does falls on both. SpeechTokenizer (PyPI `speechtokenizer`) has the paper's sizes (n_filters 32) and random weights; the
`seanet` row is AffectCodec with the same weights and equal codes; the `istft` row is another, smaller network.
"""

import argparse
import copy
import itertools
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from ..convert_speechtokenizer import from_speechtokenizer
from ..modeling.layers_affectcodec import linear
from ..modeling.modeling_affectcodec import AffectCodecModel
from ..shipped import pretrained_path
from .memory import peak_memory


def build_peer(num_filters: int = 32):
    """SpeechTokenizer (32 filters: the paper's sizes; 64: the public model's), random weights whose codes vary with the input."""
    try:
        from speechtokenizer import SpeechTokenizer
    except ImportError as error:
        raise ImportError("the speed benchmark needs `speechtokenizer`: pip install hf-affectcodec[dev]") from error
    torch.manual_seed(0)
    peer = SpeechTokenizer(
        {
            "n_filters": num_filters,
            "dimension": 1024,
            "strides": [8, 5, 4, 2],
            "lstm_layers": 2,
            "bidirectional": True,
            "dilation_base": 2,
            "residual_kernel_size": 3,
            "n_residual_layers": 1,
            "activation": "ELU",
            "sample_rate": 16000,
            "n_q": 8,
            "semantic_dimension": 768,
            "codebook_size": 1024,
        }
    ).eval()
    with torch.no_grad():
        # torch's own initialisation lets the signal die out under the biases, and codes would be decided by rounding.
        for name, parameter in peer.named_parameters():
            if name.endswith("weight_g"):
                parameter.mul_(1.7)
            elif name.endswith(("conv.bias", "convtr.bias")):
                parameter.zero_()
        # Codebooks of real latents and residuals, so that the search has something to decide.
        residual = peer.encoder(torch.randn(1, 1, 22 * 16000) * 0.3).transpose(1, 2).flatten(0, 1)
        for layer in peer.quantizer.vq.layers:
            layer._codebook.embed.copy_(residual[torch.randperm(len(residual))[:1024]])
            layer._codebook.inited.fill_(1)
            chosen = layer._codebook.embed[layer._codebook.quantize(residual)]
            residual = residual - chosen + 0.3 * residual.std() * torch.randn_like(residual)
    return peer


def time_in_turns(functions: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of each function, `rounds` times, one after the other; the first round warms up and is not kept."""
    seconds = {name: [] for name in functions}
    for round_index in tqdm(range(rounds + 1), desc="rounds"):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round_index:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def gemm_peaks(size: int = 1536, rounds: int = 5) -> dict[str, float]:
    """
    GFLOP/s of one large float32 product, the best of `rounds`: by `torch.mm` (MKL), and by the convolutions' library (oneDNN),
    which knows the AVX-512 of AMD processors.
    """
    a, b = torch.randn(2, size, size)
    functions = {"torch.mm": lambda: torch.mm(a, b), "oneDNN": lambda: linear(a, b)}
    with torch.inference_mode():
        seconds = time_in_turns(functions, rounds)
    return {name: 2 * size**3 / min(values) / 1e9 for name, values in seconds.items()}


# Not inference mode, in which FLOP of a weight-normed convolution cannot be counted.
@torch.no_grad()
def count_flop(function) -> float:
    """GFLOP of the convolutions and matrix products of a call, without those of LSTMs."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 1e9


PEER, SEANET, SHIPPED = "speechtokenizer", "affectcodec seanet, equal weights", "affectcodec-mini istft, shipped"
FRESH, AFTER_POW = "fresh process", "after torch.pow"


def measure(
    seconds: float,
    rounds: int,
    batch_size: int = 1,
    num_filters: int = 32,
    bf16: bool = False,
    states: tuple[str, ...] = (FRESH, AFTER_POW),
) -> list[dict]:
    """
    Rows `{"state", "system", "part", "seconds", "real_time", "ratio", "gflop", "codes_equal_to_peer", "distinct_codes"}`:
    median seconds, times real time, SpeechTokenizer's seconds over ours (above 1 is faster), and the work.

    `state` is there because torch's ELU, which SpeechTokenizer calls and ours does not, is on some processors (AMD with
    AVX-512, torch 2.14) up to 13 times slower until a vectorised `pow` has run once in the process. The shipped model
    runs one in its mel scale, so it is timed in the second state only. `bf16` adds both of ours with bfloat16 weights.
    """
    waveform = 0.3 * torch.randn(batch_size, 1, round(seconds * 16000))
    peer = build_peer(num_filters)
    systems = {SEANET: from_speechtokenizer(peer.state_dict(), num_filters=num_filters, guidance_sources=()).eval()}
    functions, work, codes = {}, {}, {}

    def add(name: str, encode, decode):
        functions[name, "encode"], functions[name, "decode"] = encode, decode
        work[name] = {part: count_flop(functions[name, part]) for part in ("encode", "decode")}

    with torch.no_grad():
        codes[PEER] = peer.encode(waveform)
        add(PEER, lambda: peer.encode(waveform), lambda: peer.decode(codes[PEER]))
        rows = []
        for state in states:
            if state == AFTER_POW:
                torch.rand(256).pow(3.3)
                systems[SHIPPED] = AffectCodecModel.from_pretrained(pretrained_path()).eval()
            if bf16:
                systems |= {
                    f"{name}, bf16": copy.deepcopy(model).to(torch.bfloat16)
                    for name, model in systems.items()
                    if model.dtype == torch.float32
                }
            for name, model in systems.items():
                codes[name] = model.encode(waveform).audio_codes
                add(
                    name,
                    lambda model=model: model.encode(waveform),
                    lambda model=model, name=name: model.decode(codes[name]),
                )
            with torch.inference_mode():
                medians = {key: statistics.median(values) for key, values in time_in_turns(functions, rounds).items()}
            rows += [
                {
                    "state": state,
                    "system": system,
                    "part": part,
                    "seconds": median,
                    "real_time": batch_size * seconds / median,
                    "ratio": medians[PEER, part] / median,
                    "gflop": work[system][part],
                    "codes_equal_to_peer": float((codes[SEANET].transpose(0, 1) == codes[PEER]).float().mean()),
                    "distinct_codes": codes[PEER].unique().numel(),
                }
                for (system, part), median in medians.items()
            ]
    return rows


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0], help="lengths of the clip")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each part; the median is printed")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--num-filters", type=int, nargs="+", default=[32], help="32: the paper's; 64: the public model's"
    )
    parser.add_argument("--bf16", action="store_true", help="ours with bfloat16 weights as well")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    args = parser.parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    threads, states = torch.get_num_threads(), (FRESH, AFTER_POW)
    print(f"{threads} threads, float32 where a row does not say bf16, median of {args.rounds}\n")
    print(
        "| state of the process | filters | clips | system | part | seconds | x real time | x SpeechTokenizer | GFLOP/s | "
        "core hours for 1,000 h |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    equal = []
    for num_filters, batch_size, seconds in itertools.product(args.num_filters, args.batch_size, args.seconds):
        rows = measure(seconds, args.rounds, batch_size, num_filters, args.bf16, states)
        states = (AFTER_POW,)
        equal.append(f"{rows[0]['codes_equal_to_peer']:.3%} ({rows[0]['distinct_codes']} of 1024 entries occur)")
        for row in rows:
            print(
                f"| {row['state']} | {num_filters} | {batch_size} x {seconds:g} s | {row['system']} | {row['part']} | "
                f"{row['seconds']:.3f} | {row['real_time']:.1f} | {row['ratio']:.2f} | "
                f"{row['gflop'] / row['seconds']:.0f} | {1000 * threads / row['real_time']:.1f} |",
                flush=True,
            )
    peaks = ", ".join(f"{name} {value:.0f}" for name, value in gemm_peaks().items())
    print(f"\ncodes of the seanet rows equal to SpeechTokenizer's: {', '.join(equal)}")
    print(f"one large product, GFLOP/s: {peaks} (the rows do not count LSTMs); largest memory: {peak_memory():.1f} GB")


if __name__ == "__main__":
    main()
