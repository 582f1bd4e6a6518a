"""
Speed of encode and decode against SpeechTokenizer of the same shape.

    python -m hf_affectcodec.benchmarks.speed --threads 2 --seconds 10

Both run in this process, on the same clip, with the same number of threads, in turns, so that whatever else the machine
does falls on both. SpeechTokenizer (PyPI `speechtokenizer`) has the paper's sizes (n_filters 32) and random weights; the
`seanet` row is AffectCodec with the same weights and equal codes; the `istft` row is another, smaller network.
"""

import argparse
import statistics
import time

import torch
from tqdm.auto import tqdm

from ..convert_speechtokenizer import from_speechtokenizer
from ..modeling.modeling_affectcodec import AffectCodecModel
from ..shipped import pretrained_path


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


PEER, SEANET, SHIPPED = "speechtokenizer", "affectcodec seanet, paper's size", "affectcodec-mini istft, shipped"
FRESH, AFTER_POW = "fresh process", "after torch.pow"


@torch.inference_mode()
def measure(seconds: float, rounds: int, batch_size: int = 1) -> list[dict]:
    """
    Rows `{"state", "system", "part", "seconds", "real_time", "ratio"}`: median seconds, times real time, and
    SpeechTokenizer's seconds over ours (above 1 is faster).

    `state` is there because torch's ELU, which SpeechTokenizer calls and ours does not, is on some processors (AMD with
    AVX-512, torch 2.14) up to 13 times slower until a vectorised `pow` has run once in the process. The shipped model
    runs one in its mel scale, so it is timed in the second state only.
    """
    waveform = 0.3 * torch.randn(batch_size, 1, round(seconds * 16000))
    peer = build_peer()
    systems = {SEANET: from_speechtokenizer(peer.state_dict(), num_filters=32, guidance_sources=()).eval()}
    codes = {PEER: peer.encode(waveform)}
    functions = {
        (PEER, "encode"): lambda: peer.encode(waveform),
        (PEER, "decode"): lambda: peer.decode(codes[PEER]),
    }

    def add(name: str, model: AffectCodecModel):
        codes[name] = model.encode(waveform).audio_codes
        functions[name, "encode"] = lambda: model.encode(waveform)
        functions[name, "decode"] = lambda: model.decode(codes[name])

    rows = []
    for state in (FRESH, AFTER_POW):
        if state == AFTER_POW:
            torch.rand(256).pow(3.3)
            systems[SHIPPED] = AffectCodecModel.from_pretrained(pretrained_path()).eval()
        for name, model in systems.items():
            add(name, model)
        medians = {key: statistics.median(values) for key, values in time_in_turns(functions, rounds).items()}
        rows += [
            {
                "state": state,
                "system": system,
                "part": part,
                "seconds": median,
                "real_time": batch_size * seconds / median,
                "ratio": medians[PEER, part] / median,
                "codes_equal_to_peer": float((codes[SEANET].transpose(0, 1) == codes[PEER]).float().mean()),
                "distinct_codes": codes[PEER].unique().numel(),
            }
            for (system, part), median in medians.items()
        ]
    return rows


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each part; the median is printed")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    args = parser.parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    rows = measure(args.seconds, args.rounds, args.batch_size)
    print(
        f"float32, {torch.get_num_threads()} threads, {args.batch_size} x {args.seconds:g} s, median of {args.rounds}\n"
    )
    print("| state of the process | system | part | seconds | x real time | x SpeechTokenizer |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['state']} | {row['system']} | {row['part']} | {row['seconds']:.3f} | {row['real_time']:.1f} | "
            f"{row['ratio']:.2f} |"
        )
    print(
        f"\ncodes of the seanet row equal to SpeechTokenizer's: {rows[0]['codes_equal_to_peer']:.2%} "
        f"({rows[0]['distinct_codes']} of 1024 entries occur)"
    )


if __name__ == "__main__":
    main()
