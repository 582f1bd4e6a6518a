"""
Speaks every item of a list with a trained model, for `affectcodec evaluate tts` and [`mood_f0`](mood_f0.py):

    python -m hf_affectcodec.benchmarks.speak_items --items items.jsonl --model org/affectcodec-tts --out runs/wavs

writes `ID.wav` for each item, in the voice of its prompt where it has one. What is there already is left alone. What could not
be spoken is counted and named in `failures.jsonl`; `stops.json` counts how the others ended (`"eos"` or `"limit"`).
"""

import argparse
import inspect
import json
import sys
from collections import Counter
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from hf_affectcodec.audio import write_audio
from hf_affectcodec.metrics.transcription import load_transcriber
from hf_affectcodec.modeling.alignment_affectcodec_tts import ALIGNMENT_SETTINGS
from hf_affectcodec.speak import load_tts, speak

from .codecs import SAMPLING_RATE
from .tts_items import Item, read_items, read_waveform


RESERVED = frozenset(inspect.signature(speak).parameters) | {"items", "out", "seed", "do_sample"}


def speak_items(
    model, processor, items: list[Item], out: Path, seed: int = 0, transcribe=None, **generate
) -> dict[str, str]:
    """
    Args:
        model, processor: Of [`~hf_affectcodec.speak.load_tts`].
        items (`list[Item]`): What to say. An item's clip does not depend on the others: each begins with the same `seed`.
        out (`Path`): Folder of the clips; made if missing.
        transcribe (`Callable`, *optional*): Hears the words of the prompts, see [`~hf_affectcodec.speak.speak`].
        generate: Settings of `generate`, as `temperature`.

    Returns:
        `dict[str, str]`: What could not be spoken: the reason by id.
    """
    out.mkdir(parents=True, exist_ok=True)
    failures, stops = {}, Counter()
    for item in tqdm(items, desc="items", unit="item"):
        path = out / f"{item.id}.wav"
        if path.exists():
            continue
        try:
            prompt = None if item.prompt is None else torch.from_numpy(read_waveform(item.prompt, item.id))[None]
            said = speak(
                model,
                processor,
                item.text,
                prompt,
                prompt_text=item.prompt_text,
                language=item.language,
                transcribe=transcribe,
                seed=seed,
                **generate,
            )
        except ValueError as error:
            failures[item.id] = str(error)
            continue
        write_audio(path, said.audio, SAMPLING_RATE)
        stops.update(said.stop_reasons)
    lines = [json.dumps({"id": identity, "reason": reason}) + "\n" for identity, reason in failures.items()]
    (out / "failures.jsonl").write_text("".join(lines), encoding="utf-8")
    (out / "stops.json").write_text(json.dumps(stops) + "\n", encoding="utf-8")
    return failures


def parse_settings(texts: list[str]) -> dict:
    """
    Keyword arguments of `generate` from `key=value` texts, values in YAML.

    Raises:
        ValueError: One is no such text, its value is no YAML, or an item or another option sets it.
    """
    settings = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not (key.isidentifier() and value):
            raise ValueError(f"`--generate` takes key=value, got {text!r}")
        if key in RESERVED:
            raise ValueError(f"`--generate`: {key!r} is set by the items or by an option of its own")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"`--generate` takes key=value with a value in YAML, got {text!r}") from error
    return settings


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--items", type=Path, required=True, help="JSONL or Parquet: id, text, prompt, prompt_text, language"
    )
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--transcriber", help="folder or Hub id of a Whisper, which hears the words of the prompts")
    parser.add_argument("--greedy", action="store_true", help="the likeliest code each time, no drawing")
    parser.add_argument(
        "--generate",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of `generate`, values in YAML: temperature=0.7 guidance_scale=3",
    )
    parser.add_argument("--device")
    options = parser.parse_args(arguments)
    settings = parse_settings(options.generate) | ({"do_sample": False} if options.greedy else {})
    items = read_items(options.items, options.limit)
    model, processor = load_tts(options.model, options.device)
    known = {*inspect.signature(model.generate).parameters, *model.generation_config.to_dict(), *ALIGNMENT_SETTINGS}
    if unknown := sorted(set(settings) - known):
        raise ValueError(f"`--generate`: `generate` has no setting {unknown[0]!r}")
    transcribe = None if options.transcriber is None else load_transcriber(options.transcriber)
    failures = speak_items(model, processor, items, options.out, options.seed, transcribe, **settings)
    print(f"{len(items) - len(failures)} of {len(items)} items spoken")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"speak_items: error: {' '.join(str(error).split())}")
