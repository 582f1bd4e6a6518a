"""
Speed of the speech language model at the paper's size (12 layers, 16 heads, 1024, 4096), random weights.

    python -m hf_affectcodec.benchmarks.speed_tts --threads 2

Codebook 1 is generated code by code, beside transformers' GPT-2 of the same shape and vocabulary under the same `generate`, in
turns. Each code needs all weights once, so memory sets a limit: what it takes to add up as many bytes, a plain reading of
them, timed in the same turns. The other seven codebooks are filled in by one pass each over all frames.
"""

import argparse
import statistics

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ..modeling.cache_affectcodec_tts import AffectCodecTTSCache
from ..modeling.configuration_affectcodec_tts import AffectCodecTTSConfig
from ..modeling.inputs_affectcodec_tts import prompt_sequence
from ..modeling.modeling_affectcodec_tts import AffectCodecTTSForConditionalGeneration
from .speed import time_in_turns


OURS, PEER = "affectcodec_tts, AR", "transformers GPT-2"


def build_peer(config: AffectCodecTTSConfig) -> GPT2LMHeadModel:
    """GPT-2 with the shape and the vocabulary of the AR part of a `config`."""
    peer = GPT2Config(
        vocab_size=config.vocab_size,
        n_embd=config.hidden_size,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        n_inner=config.intermediate_size,
        eos_token_id=config.eos_token_id,
        bos_token_id=config.bos_token_id,
        pad_token_id=config.pad_token_id,
    )
    return GPT2LMHeadModel(peer).eval()


@torch.inference_mode()
def measure(
    model: AffectCodecTTSForConditionalGeneration,
    text: int,
    prompt_frames: int,
    frames: int,
    rounds: int,
    batch_size: int,
) -> dict[str, dict]:
    """
    By system `{"tokens_per_second", "prefill", "limit"}`: tokens of all items, by round; seconds of the first code, by round;
    how often a second its weights can be read, the median. Under `"NAR"` the seconds of the seven passes over `frames` frames
    behind a prompt of `prompt_frames`, with `text` phonemes, by round.

    The rate is that of the codes after the first, which the prefill gives.
    """
    config = model.config
    input_ids = torch.randint(config.text_vocab_size, (batch_size, text))
    codes = torch.randint(config.codebook_size, (batch_size, config.num_quantizers, prompt_frames + frames))
    everything = torch.ones(batch_size, prompt_frames + frames, dtype=torch.bool)
    prompt = everything[:, :prompt_frames]
    sequence, mask = prompt_sequence(config, input_ids, None, codes[:, 0, :prompt_frames], prompt)

    def generate(system, count):
        options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
        # As our `generate` does.
        options["past_key_values"] = AffectCodecTTSCache(config) if system is model.ar else None
        generated = system.generate(input_ids=sequence, attention_mask=mask, **options)
        if generated.shape[1] != sequence.shape[1] + count:
            raise RuntimeError(f"{generated.shape[1] - sequence.shape[1]} codes were generated in place of {count}")

    def fill():
        inside = torch.arange(prompt_frames + frames)[None].expand(batch_size, -1) < prompt_frames
        for codebook in range(1, config.num_quantizers):
            model.nar(input_ids, codes, codebook, audio_codes_mask=everything, prompt_mask=inside).logits.argmax(-1)

    systems = {OURS: model.ar, PEER: build_peer(config).to(model.dtype)}
    functions = {
        (name, count): lambda system=system, count=count: generate(system, count)
        for name, system in systems.items()
        for count in (1, frames)
    }
    functions["NAR"] = fill
    # As bytes, whatever the weights' type: adding up halves would be bound by arithmetic.
    memory = torch.ones(sum(weight.nbytes for weight in model.ar.parameters()) // 4)
    functions["read"] = memory.sum
    seconds = time_in_turns(functions, rounds)
    bytes_per_second = memory.nbytes / statistics.median(seconds["read"])
    rows = {
        name: {
            "tokens_per_second": [
                batch_size * (frames - 1) / (whole - first)
                for whole, first in zip(seconds[name, frames], seconds[name, 1], strict=True)
            ],
            "prefill": seconds[name, 1],
            "weights": sum(weight.numel() for weight in system.parameters()),
            "limit": bytes_per_second / sum(weight.nbytes for weight in system.parameters()),
        }
        for name, system in systems.items()
    }
    return rows | {"NAR": {"seconds": seconds["NAR"]}}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100, help="codes to generate")
    parser.add_argument("--prompt-frames", type=int, default=150)
    parser.add_argument("--text", type=int, default=60, help="phonemes")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bf16", action="store_true", help="weights in bfloat16")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    args = parser.parse_args(arguments)
    if args.frames < 2:
        parser.error("--frames must be at least 2")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    torch.manual_seed(0)
    model = AffectCodecTTSForConditionalGeneration(AffectCodecTTSConfig()).eval().to(dtype)
    rows = measure(model, args.text, args.prompt_frames, args.frames, args.rounds, args.batch_size)
    print(
        f"{str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads, {args.batch_size} x {args.text} phonemes, "
        f"{args.prompt_frames} frames of prompt, {args.frames} new; median of {args.rounds}\n"
    )
    print("| system | M weights | codes a second | of the memory's limit | prefill, s |\n|---|---|---|---|---|")
    for name in (OURS, PEER):
        row = rows[name]
        rate, prefill = statistics.median(row["tokens_per_second"]), statistics.median(row["prefill"])
        print(
            f"| {name} | {row['weights'] / 1e6:.0f} | {rate:.1f} | "
            f"{rate / args.batch_size / row['limit']:.0%} of {row['limit']:.1f} | {prefill:.2f} |"
        )
    ratios = [o / p for o, p in zip(rows[OURS]["tokens_per_second"], rows[PEER]["tokens_per_second"], strict=True)]
    print(f"\nours / peer, round by round: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    nar = statistics.median(rows["NAR"]["seconds"])
    speech = args.batch_size * args.frames / model.config.frame_rate
    print(f"codebooks 2 to {model.config.num_quantizers}: {nar:.2f} s, {nar / speech:.2f} s a second of speech")


if __name__ == "__main__":
    main()
