"""
Speed beside the neural codecs of transformers and SpeechTokenizer, each at its real size with random weights.

    python -m hf_affectcodec.benchmarks.speed_peers --threads 2 --seconds 10

All in one process, in turns, on the same seconds of noise at each model's own rate. `GFLOP/s` counts convolutions and matrix
products (not LSTMs, of which EnCodec and `seanet` have some) over the seconds that they took; `of peak` is its share of what
this machine does in one large matrix product. `core hours` is what 1,000 hours of speech, encoded and decoded, would take.
"""

import argparse
import statistics

import torch
from transformers import (
    DacConfig,
    DacFeatureExtractor,
    DacModel,
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    MimiConfig,
    MimiModel,
    XcodecConfig,
    XcodecModel,
)

from ..convert_speechtokenizer import from_speechtokenizer
from ..modeling.feature_extraction_affectcodec import AffectCodecFeatureExtractor
from ..modeling.modeling_affectcodec import AffectCodecModel
from ..shipped import pretrained_path
from .codecs import AudioTokenizationCodec
from .memory import peak_memory
from .speed import build_peer, count_flop, gemm_peaks, time_in_turns


OURS = "affectcodec-mini istft, shipped"


class SpeechTokenizerPeer:
    """SpeechTokenizer's own package behind the two calls that are timed."""

    def __init__(self, num_filters: int):
        self.model, self.sampling_rate = build_peer(num_filters), 16000

    def encode(self, waveform):
        return self.model.encode(waveform)

    def decode(self, codes):
        return self.model.decode(codes)


class TransformersPeer:
    """A codec of transformers behind the two calls that are timed; its feature extractor is not."""

    def __init__(self, model, feature_extractor, **encode_arguments):
        codec = AudioTokenizationCodec(model, feature_extractor, "peer", encode_arguments=encode_arguments)
        self.model, self.sampling_rate = codec.model, codec.sampling_rate
        self.encode_arguments = codec.encode_arguments

    def encode(self, waveform):
        return self.model.encode(waveform, **self.encode_arguments)

    def decode(self, encoded):
        scales = {"audio_scales": encoded.audio_scales} if "audio_scales" in encoded else {}
        return self.model.decode(audio_codes=encoded.audio_codes, **scales)


def build_systems() -> dict[str, SpeechTokenizerPeer | TransformersPeer]:
    """By the name in the table; sizes as published (each class's default configuration, DAC's of `descript/dac_16khz`)."""
    torch.manual_seed(0)
    extractor_16k = AffectCodecFeatureExtractor()
    dac = DacConfig(
        downsampling_ratios=[2, 4, 5, 8], upsampling_ratios=[8, 5, 4, 2], n_codebooks=12, sampling_rate=16000
    )
    encodec = EncodecFeatureExtractor(sampling_rate=24000)
    paper = from_speechtokenizer(build_peer(32).state_dict(), num_filters=32, guidance_sources=()).eval()
    return {
        OURS: TransformersPeer(AffectCodecModel.from_pretrained(pretrained_path()), extractor_16k),
        "affectcodec seanet, paper's size": TransformersPeer(paper, extractor_16k),
        "SpeechTokenizer, 32 filters": SpeechTokenizerPeer(32),
        "SpeechTokenizer, 64 filters (public)": SpeechTokenizerPeer(64),
        "EnCodec 24 kHz, 6 kbps": TransformersPeer(EncodecModel(EncodecConfig()), encodec, bandwidth=6.0),
        "DAC 16 kHz": TransformersPeer(DacModel(dac), DacFeatureExtractor(sampling_rate=16000, hop_length=320)),
        "Mimi, 8 codebooks": TransformersPeer(MimiModel(MimiConfig()), encodec, num_quantizers=8),
        "X-Codec, 4 kbps": TransformersPeer(
            XcodecModel(XcodecConfig()), DacFeatureExtractor(sampling_rate=16000, hop_length=320), bandwidth=4
        ),
    }


@torch.no_grad()
def measure(seconds: float, rounds: int, batch_size: int = 1) -> list[dict]:
    """Rows `{"system", "millions", "encode", "decode", "encode_gflop", "decode_gflop"}`: median seconds, and work."""
    systems, functions, work = build_systems(), {}, {}
    for name, system in systems.items():
        waveform = 0.3 * torch.randn(batch_size, 1, round(seconds * system.sampling_rate))
        encoded = system.encode(waveform)
        functions[name, "encode"] = lambda system=system, waveform=waveform: system.encode(waveform)
        functions[name, "decode"] = lambda system=system, encoded=encoded: system.decode(encoded)
        for part in ("encode", "decode"):
            work[name, part] = count_flop(functions[name, part])
    medians = {key: statistics.median(values) for key, values in time_in_turns(functions, rounds).items()}
    return [
        {
            "system": name,
            "millions": sum(p.numel() for p in system.model.parameters()) / 1e6,
            "encode": medians[name, "encode"],
            "decode": medians[name, "decode"],
            "encode_gflop": work[name, "encode"],
            "decode_gflop": work[name, "decode"],
        }
        for name, system in systems.items()
    ]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    args = parser.parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    rows, peak = measure(args.seconds, args.rounds, args.batch_size), max(gemm_peaks().values())
    speech = args.seconds * args.batch_size
    own = next(row["encode"] + row["decode"] for row in rows if row["system"] == OURS)
    print(
        f"float32, {torch.get_num_threads()} threads, {args.batch_size} x {args.seconds:g} s, median of {args.rounds}; "
        f"matrix product: {peak:.0f} GFLOP/s; largest memory of the process: "
        f"{peak_memory():.1f} GB\n"
    )
    print(
        "| system | M parameters | encode x real time | decode x real time | both, x ours | GFLOP/s | of peak | core hours |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        both = row["encode"] + row["decode"]
        rate = (row["encode_gflop"] + row["decode_gflop"]) / both
        hours = 1000 * both / speech * torch.get_num_threads()
        print(
            f"| {row['system']} | {row['millions']:.1f} | {speech / row['encode']:.1f} | {speech / row['decode']:.1f} | "
            f"{both / own:.2f} | {rate:.0f} | {rate / peak:.0%} | {hours:.0f} |"
        )


if __name__ == "__main__":
    main()
