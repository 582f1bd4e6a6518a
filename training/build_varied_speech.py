"""
Makes more of a small set of transcribed speech: joins short clips of a speaker into longer utterances, and says them in other
voices and at other levels.

    pip install praat-parselmouth librosa
    python training/build_varied_speech.py --source data/open-prompts-aligned/train.parquet --aligned --hours en=8 \\
        --out data/varied-prompts

A speech language model goes on from prompt and text, so it must have heard its voices for longer than a telephone prompt lasts
(half of them 1.4 s or less), and at the levels at which prompts come. Each utterance is one to `--max-clips` clips of a speaker,
drawn anew, with up to a quarter of a second between them; clips of more than 13 s are left out, and counted. With a chance of
`--voice-share`, Praat's "Change gender" moves formants, median pitch, range and rate; the level is drawn between the two of
`--level`, peaks are bent softly below full scale. Rows keep language, speaker (with a `*` if the voice was changed) and licences
of their clips, and which these are. `--aligned`: phonemes and their ends are kept too (`align_speech.py`).

A file of the result that is there already is left alone, so a run that was stopped goes on; one of other options is refused.
"""

import argparse
import io
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from build_synthetic_speech import SAMPLING_RATE, SPEECH_COLUMNS, as_sentence, bend_peaks, seed_praat
from datasets import Features, List, Value
from sharded_output import plan_count, write_file
from tqdm.auto import tqdm

from hf_affectcodec.data.clips import load_clips


SHARD_SECONDS = 900.0
MAX_SECONDS = 13.0
MAX_PAUSE = 0.25  # seconds between two clips
PITCH_FLOOR, PITCH_CEILING = 70, 500  # Hz
FEATURES = Features(
    SPEECH_COLUMNS
    | {
        "speaker_id": Value("string"),
        "license": Value("string"),
        "duration": Value("float32"),
        "clips": List(Value("string")),
        "formant_shift": Value("float32"),
        "level_db": Value("float32"),
    }
)


@dataclass(frozen=True)
class Clip:
    """A clip of the source: waveform int16 [N] at 16 kHz; phonemes and the seconds at which they end, if it tells."""

    name: str
    text: str
    phonemes: str
    ends: list[float]
    speaker: str
    license: str
    waveform: np.ndarray


@dataclass(frozen=True)
class Voice:
    """Factors of formants, median pitch, pitch range and duration."""

    formants: float
    pitch: float
    pitch_range: float
    duration: float


def draw_voice(generator: np.random.Generator) -> Voice:
    """Another voice. Short vocal tracts have high voices, but not strictly."""
    formants = generator.uniform(0.84, 1.18)
    pitch = formants**2.2 * np.exp(generator.normal(0, 0.15))
    return Voice(formants, float(pitch), generator.uniform(0.6, 1.6), generator.uniform(0.87, 1.15))


def change_voice(waveform: np.ndarray, voice: Voice) -> np.ndarray:
    """
    A waveform float64 [N] at 16 kHz in another voice, [about N * duration]; as it is where Praat finds too little pitch in it
    to change.
    """
    import parselmouth
    from parselmouth.praat import call

    if len(waveform) < 0.1 * SAMPLING_RATE:
        return waveform
    sound = parselmouth.Sound(waveform, SAMPLING_RATE)
    pitch = sound.to_pitch(pitch_floor=PITCH_FLOOR, pitch_ceiling=PITCH_CEILING).selected_array["frequency"]
    if not (pitch > 0).any():
        return waveform
    median = float(np.median(pitch[pitch > 0])) * voice.pitch
    settings = (PITCH_FLOOR, PITCH_CEILING, voice.formants, median, voice.pitch_range, voice.duration)
    try:
        return call(sound, "Change gender", *settings).values[0]
    except parselmouth.PraatError as error:
        if "undefined" not in str(error):
            raise
        return waveform


def set_level(waveform: np.ndarray, level: float) -> np.ndarray:
    """
    A waveform [N] brought to a level in dB of its root mean square below full scale. Its peaks are then bent, which takes a
    little of the level again.
    """
    return bend_peaks(waveform * 10 ** (level / 20) / max(np.sqrt(np.mean(waveform**2)), 1e-6))


@dataclass
class Utterance:
    """Several clips, one after the other: waveform float64 [N], text, phonemes and their ends in seconds."""

    waveform: np.ndarray
    text: str
    phonemes: str
    ends: list[float]


def join(clips: Sequence[Clip], generator: np.random.Generator) -> Utterance:
    """Joins clips. A pause belongs to the symbol before it; a space parts the phonemes of two clips and lasts no time."""
    parts, ends, samples = [], [], 0
    for clip in clips:
        if parts:
            parts.append(np.zeros(int(generator.uniform(0, MAX_PAUSE) * SAMPLING_RATE)))
            samples += len(parts[-1])
            if clip.phonemes:
                ends[-1] = samples / SAMPLING_RATE
                ends.append(ends[-1])
        ends += [samples / SAMPLING_RATE + end for end in clip.ends]
        parts.append(clip.waveform / 32768)
        samples += len(clip.waveform)
    texts, phonemes = [as_sentence(clip.text.strip()) for clip in clips], [clip.phonemes for clip in clips]
    return Utterance(np.concatenate(parts), " ".join(texts), " ".join(phonemes) if phonemes[0] else "", ends)


def make_shard(
    speakers: dict[str, list[Clip]],
    language: str,
    seconds: float,
    max_clips: int,
    voice_share: float,
    levels: tuple[float, float],
    seed: tuple[int, ...],
) -> list[dict]:
    """Rows of at least `seconds` together, speakers drawn evenly."""
    generator = np.random.default_rng(seed)
    seed_praat(int(generator.integers(2**31)))
    names, rows, made = sorted(speakers), [], 0.0
    while made < seconds:
        own = speakers[names[generator.integers(len(names))]]
        chosen, length = [], 0
        for index in generator.permutation(len(own))[: generator.integers(1, max_clips + 1)]:
            length += len(own[index].waveform) / SAMPLING_RATE + (MAX_PAUSE if chosen else 0)
            if chosen and length > MAX_SECONDS:
                break
            chosen.append(own[index])
        said = join(chosen, generator)
        waveform = said.waveform
        voice = draw_voice(generator) if generator.random() < voice_share else None
        if voice is not None:
            changed = change_voice(waveform, voice)
            voice, waveform = (None if changed is waveform else voice), changed
        stretch = len(waveform) / len(said.waveform)
        level = generator.uniform(*levels)
        file = io.BytesIO()
        soundfile.write(file, set_level(waveform, level), SAMPLING_RATE, format="FLAC", subtype="PCM_16")
        rows.append(
            {
                "audio": {"bytes": file.getvalue(), "path": f"{language}-{seed[-1]}-{len(rows):04d}.flac"},
                "text": said.text,
                "phonemes": said.phonemes,
                "phoneme_ends": [stretch * end for end in said.ends],
                "language": language,
                "speaker_id": chosen[0].speaker + ("*" if voice else ""),
                "license": ", ".join(sorted({clip.license for clip in chosen})),
                "duration": len(waveform) / SAMPLING_RATE,
                "clips": [clip.name for clip in chosen],
                "formant_shift": voice.formants if voice else 1.0,
                "level_db": level,
            }
        )
        made += rows[-1]["duration"]
    return rows


def write_shard(
    clips: dict[str, dict[str, list[Clip]]],
    settings: dict,
    which: tuple[Path, str, int, float],
) -> float:
    """Seconds of speech in a file (its path, language, number and least length in seconds), made if it is not there."""
    path, language, number, seconds = which
    if not path.exists():
        seed = (settings["seed"], *language.encode(), number)
        drawn = (settings["max_clips"], settings["voice_share"], tuple(settings["levels"]), seed)
        rows = make_shard(clips[language], language, seconds, *drawn)
        write_file(path, pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), {"settings": settings})
    return sum(pq.read_table(path, columns=["duration"])["duration"].to_pylist())


def read_clips(
    source: str, split: str, languages: Sequence[str], aligned: bool = False
) -> tuple[dict[str, dict[str, list[Clip]]], Counter]:
    """
    The clips of each language and speaker, and how many of these languages were left out, by reason.

    Raises:
        ValueError: There is none of a language.
    """
    columns = {"audio": "audio", "text": "text", "language": "language", "speaker": "speaker_id", "license": "license"}
    columns |= {"phonemes": "phonemes", "phoneme_ends": "phoneme_ends"} if aligned else {}
    data = load_clips(source, split, columns, SAMPLING_RATE)
    clips, left_out = {language: {} for language in languages}, Counter()
    for index, waveform in enumerate(data.waveforms):
        row = {name: values[index] for name, values in data.columns.items()}
        if row["language"] not in clips:
            continue
        reason = reason_to_leave_out(row, len(waveform) / SAMPLING_RATE, aligned)
        if reason:
            left_out[reason] += 1
            continue
        phonemes, ends = (row["phonemes"], row["phoneme_ends"]) if aligned else ("", [])
        clip = Clip(data.names[index], row["text"], phonemes, ends, row["speaker"], row["license"], waveform)
        clips[row["language"]].setdefault(row["speaker"], []).append(clip)
    missing = [language for language, speakers in clips.items() if not speakers]
    if missing:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(
            f"`--hours`: {source} has no clip to use in {missing[0]!r}{f' ({reasons})' if reasons else ''}"
        )
    return clips, left_out


def reason_to_leave_out(row: dict, seconds: float, aligned: bool) -> str | None:
    """Why a clip cannot be used, if it cannot."""
    if not (row["text"] and row["text"].strip()):
        return "without text"
    if set("([<{") & set(row["text"]):  # what stands in brackets is a sound, or not said
        return "with brackets in the text"
    if seconds > MAX_SECONDS:
        return f"of more than {MAX_SECONDS:g} s"
    if row["speaker"] is None or row["license"] is None:
        return "without speaker or licence"
    if aligned and not row["phonemes"]:
        return "without phonemes"
    return None


def hours_of(text: str) -> tuple[str, float]:
    language, _, hours = text.partition("=")
    try:
        hours = float(hours)
    except ValueError:
        hours = 0.0
    if not (language and 0 < hours < float("inf")):
        raise argparse.ArgumentTypeError(f"takes LANGUAGE=HOURS, hours above 0, got {text!r}")
    return language, hours


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", required=True, help="Parquet files or Hub id with audio, text, language, speaker_id, license"
    )
    parser.add_argument("--split", default="train")
    parser.add_argument(
        "--aligned", action="store_true", help="the source has phonemes and phoneme_ends (align_speech.py)"
    )
    parser.add_argument("--hours", type=hours_of, nargs="+", required=True, metavar="LANGUAGE=HOURS")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-clips", type=int, default=4, help="clips of an utterance, at most")
    parser.add_argument("--voice-share", type=float, default=0.7, help="share of utterances in another voice")
    parser.add_argument("--level", type=float, nargs=2, default=(-34.0, -16.0), metavar=("LOW", "HIGH"), help="dB")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="files at once")
    options = parser.parse_args(arguments)
    for name, least in (("max_clips", 1), ("seed", 0), ("processes", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(options, name)}")
    if not 0 <= options.voice_share <= 1:
        parser.error(f"--voice-share must lie between 0 and 1, got {options.voice_share}")
    if not options.level[0] <= options.level[1] <= 0:
        parser.error(f"--level: two levels, the second not below the first nor above 0, got {options.level}")
    if len(dict(options.hours)) < len(options.hours):
        parser.error("--hours names a language twice")
    return options


def main(arguments=None) -> None:
    options = parse_arguments(arguments)
    hours = dict(options.hours)
    shards = []
    for language, amount in hours.items():
        whole, rest = divmod(amount * 3600, SHARD_SECONDS)
        lengths = [SHARD_SECONDS] * int(whole) + ([rest] if rest > 1 or not whole else [])
        shards += [(language, number, seconds) for number, seconds in enumerate(lengths)]
    settings = {
        "source": options.source,
        "split": options.split,
        "aligned": options.aligned,
        "hours": hours,
        "max_clips": options.max_clips,
        "voice_share": options.voice_share,
        "levels": list(options.level),
        "seed": options.seed,
    }
    paths = plan_count(options.out, "varied", settings, len(shards))
    clips, left_out = read_clips(options.source, options.split, list(hours), options.aligned)
    seconds = sum(len(c.waveform) for own in clips.values() for some in own.values() for c in some) / SAMPLING_RATE
    count = sum(len(some) for own in clips.values() for some in own.values())
    reasons = "".join(f", {number} {reason} left out" for reason, number in left_out.items())
    print(f"{count} clips, {seconds / 60:.1f} minutes{reasons}")
    work = [(path, *shard) for path, shard in zip(paths, shards, strict=True)]
    with Pool(options.processes) if options.processes > 1 else nullcontext() as pool:
        run = map if pool is None else pool.imap
        made = sum(tqdm(run(partial(write_shard, clips, settings), work), total=len(work), unit="file"))
    print(f"{made / 3600:.2f} h of varied speech in {options.out}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"build_varied_speech: error: {' '.join(str(error).split())}")
