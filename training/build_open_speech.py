"""Builds the two open speech sets of this project from Debian packages, as Parquet files that `datasets` reads.

    python training/build_open_speech.py --out data

| set | packages | what |
|---|---|---|
| `open-prompts` | `asterisk-core-sounds-{en,es,fr,it,ru}-g722`, `asterisk-core-sounds-{en,es,fr,it,ru}` | telephone prompts |
| `expressive-voices` | `hedgewars-data` | acted lines of game characters |

It needs `dpkg-deb`, 200 MB to fetch and a minute or two; `apt-get` fetches the packages, or `--debs DIR` names a folder
that holds them already. A set whose files are all there is left alone (`--force` builds it again). Every file appears
whole or not at all.

Which clips belong to which split, and in which order, is in `open_speech_splits.json`. Clips and voices that it does not
name (`Mobster`, `Pirate`, `Default_pl`, some prompts of each speaker) are left out on purpose, so that there remains
speech of the same kinds that nothing was trained or chosen on; silences, beeps and clips under 0.5 s (lines: 0.2 s) too.

G.722 decodes to the same samples everywhere. The game lines are Ogg Vorbis at 44.1 or 48 kHz, mostly stereo; FFmpeg
decodes, mixes and resamples them, and its rounding differs between processors in the last bit of some samples.

`emotion` is a weak label: it follows from the name of the line, not from listeners.
"""

import argparse
import gzip
import hashlib
import io
import json
import logging
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from datasets import Audio, Features, Value
from tqdm.auto import tqdm


logger = logging.getLogger(__name__)

SAMPLING_RATE = 16_000  # Hz
SPLITS = Path(__file__).with_name("open_speech_splits.json")

# language -> folder of the package, speaker_id, gender, license (all from the packages' copyright file)
PROMPT_VOICES = {
    "en": ("en_US_f_Allison", "allison_en", "female", "CC-BY-SA-3.0"),
    "es": ("es_MX_f_Allison", "allison_es", "female", "CC-BY-SA-3.0"),
    "fr": ("fr_CA_f_June", "june_fr", "female", "CC-BY-SA-3.0"),
    "it": ("it_IT_m_Carlo", "carlo_it", "male", "CC-BY-3.0"),
    "ru": ("ru_RU_f_IvrvoiceRU", "ivrvoice_ru", "female", "CC-BY-3.0"),
}
PROMPT_FEATURES = Features(
    {
        "audio": Audio(sampling_rate=SAMPLING_RATE),
        "text": Value("string"),
        "language": Value("string"),
        "speaker_id": Value("string"),
        "gender": Value("string"),
        "license": Value("string"),
        "duration": Value("float32"),
    }
)

VOICE_LANGUAGES = {"Default_es": "es", "Default_ru": "ru", "Default_uk": "uk", "Russian_pl": "pl"}  # the others: en
# of `share/hedgewars/Data/Sounds/*` in hedgewars-data's copyright file (the program is GPL-2)
VOICE_LICENSE = "GFDL-1.3"
EMOTION_LINES = {
    "angry": "Bugger Cutitout Drat Gonnagetyou Illgetyou Justyouwait Leavemealone Nutter Revenge Stupid Traitor Watchit"
    " Youllregretthat",
    "fearful": "Incoming Nooo Ohdear Oops Runaway Takecover Uh-oh Whatthe",
    "happy": "Amazing Brilliant Enemydown Excellent Firstblood Flawless Laugh Victory",
    "neutral": "Boring Byebye Comeonthen Hello Hmm Missed Reinforcements Sameteam Solong Thisoneismine Watchthis Yessir",
    "pained": "Ooff1 Ooff2 Ooff3 Ouch Ow1 Ow2 Ow3 Ow4 PoisonCough PoisonMoan",
}
EMOTIONS = {line: emotion for emotion, lines in EMOTION_LINES.items() for line in lines.split()}
VOICE_FEATURES = Features(
    {
        "audio": Audio(sampling_rate=SAMPLING_RATE),
        "line": Value("string"),
        "emotion": Value("string"),
        "language": Value("string"),
        "speaker_id": Value("string"),
        "license": Value("string"),
        "duration": Value("float32"),
    }
)

PROMPT_FILES = {
    "train": [f"train-{shard:05d}-of-00004.parquet" for shard in range(4)],
    "validation": ["validation-00000-of-00001.parquet"],
    "test": ["test-00000-of-00001.parquet"],
}
VOICE_FILES = {"train": ["train-00000-of-00001.parquet"]}


# --- packages --------------------------------------------------------------------------------------------------------


def fetch_packages(packages: Iterable[str], folder: Path) -> None:
    """
    Downloads Debian packages with `apt-get download`.

    Raises:
        `ValueError`: `apt-get` is missing or does not find a package.
    """
    for package in tqdm(list(packages), desc="fetching packages", unit="package"):
        try:
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise ValueError("`apt-get` is not here: fetch the packages elsewhere and give `--debs`") from error
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or ["no reason given"]
            raise ValueError(f"package {package}: apt-get download failed ({lines[-1]})") from error


def find_package(package: str, folder: Path) -> Path:
    """
    The newest file of a package in a folder.

    Raises:
        `ValueError`: there is none.
    """
    found = sorted(folder.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ValueError(f"{folder}: no {package}_*.deb")
    return found[-1]


def read_package(deb: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """
    Reads files out of a Debian package without unpacking it.

    Args:
        deb (`Path`): The package.
        wanted (`Callable`): Told a path inside the package (`usr/share/...`), says whether to read it.

    Returns:
        `dict[str, bytes]`: Content by path.

    Raises:
        `ValueError`: `dpkg-deb` is missing, or the file is no package or damaged.
    """
    contents = {}
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=complaints
            )
        except FileNotFoundError as error:
            raise ValueError("`dpkg-deb` is not here: install the package `dpkg`") from error
        problem = None
        with process:
            try:
                with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                    for member in archive:
                        name = member.name.removeprefix("./")
                        if member.isreg() and wanted(name):
                            contents[name] = archive.extractfile(member).read()
            except tarfile.TarError as error:
                problem = error
            process.stdout.read()  # what follows the end of the archive, so that dpkg-deb can finish
        if process.returncode or problem:
            complaints.seek(0)
            lines = complaints.read().decode(errors="replace").strip().splitlines() or [str(problem)]
            raise ValueError(f"{deb}: cannot be read ({lines[-1]})")
    return contents


# --- clips -----------------------------------------------------------------------------------------------------------


def decode_g722(content: bytes) -> np.ndarray:
    """Decodes headerless G.722 at 64 kbit/s, 16 kHz, to int16 `[T]`."""
    decoder = av.CodecContext.create("g722", "r")
    decoder.sample_rate = SAMPLING_RATE
    decoder.layout = "mono"
    frames = [frame for packet in (av.Packet(content), None) for frame in decoder.decode(packet)]
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def decode_any(content: bytes) -> np.ndarray:
    """Decodes whatever FFmpeg knows to int16 `[T]` at 16 kHz, mono."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLING_RATE)
    pieces = []
    with av.open(io.BytesIO(content)) as container:
        for frame in container.decode(audio=0):
            pieces += resampler.resample(frame)
        pieces += resampler.resample(None)
    return np.concatenate([piece.to_ndarray().reshape(-1) for piece in pieces])


def decoded(name: str, content: bytes, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """`decode(content)`; what goes wrong is a `ValueError` that names the clip."""
    try:
        return decode(content)
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{name}: cannot be decoded ({error})") from error


def to_flac(samples: np.ndarray) -> bytes:
    """int16 `[T]` at 16 kHz as a FLAC file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def audio_columns(name: str, samples: np.ndarray) -> dict:
    """What both sets have: `audio` and `duration` in seconds."""
    return {
        "audio": {"bytes": to_flac(samples), "path": f"{name}.flac"},
        "duration": len(samples) / SAMPLING_RATE,
    }


def parse_transcripts(text: str) -> dict[str, str]:
    """
    Reads an Asterisk transcript file: lines `name: words`, comments after `;`.

    The last line of a name counts. What stands wholly or first in brackets is a description of a sound, not words: its
    text is empty.
    """
    transcripts = {}
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith(";") or ":" not in line:
            continue
        name, words = line.split(":", 1)
        words = words.strip()
        transcripts[name.strip()] = "" if words.startswith("[") else words
    return transcripts


def read_prompts(names: list[str], debs: Path) -> dict[str, dict]:
    """
    Decodes prompts.

    Args:
        names (`list[str]`): `<language>/<path in the package without suffix>`.
        debs (`Path`): Folder with the packages.

    Returns:
        `dict[str, dict]`: A row of `PROMPT_FEATURES` by name.

    Raises:
        `ValueError`: a package or a clip is missing or damaged.
    """
    rows, languages = {}, sorted({name.split("/")[0] for name in names})
    with tqdm(total=len(names), desc="open-prompts", unit="clip") as bar:
        for language in languages:
            folder, speaker, gender, license = PROMPT_VOICES[language]
            root = PurePosixPath("usr/share/asterisk/sounds", folder)
            paths = {
                str(root / f"{name.split('/', 1)[1]}.g722"): name for name in names if name.startswith(f"{language}/")
            }
            clips = read_package(find_package(f"asterisk-core-sounds-{language}-g722", debs), paths.__contains__)
            check_found(paths, clips, f"asterisk-core-sounds-{language}-g722")

            document = f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
            found = read_package(find_package(f"asterisk-core-sounds-{language}", debs), document.__eq__)
            check_found([document], found, f"asterisk-core-sounds-{language}")
            transcripts = parse_transcripts(gzip.decompress(found[document]).decode("utf-8"))
            for path, name in paths.items():
                rows[name] = {
                    **audio_columns(name, decoded(name, clips[path], decode_g722)),
                    "text": transcripts.get(name.split("/", 1)[1], ""),
                    "language": language,
                    "speaker_id": speaker,
                    "gender": gender,
                    "license": license,
                }
                bar.update()
    return rows


def read_voices(names: list[str], debs: Path) -> dict[str, dict]:
    """
    Decodes game lines.

    Args:
        names (`list[str]`): `<voice>/<line>`.
        debs (`Path`): Folder with the package.

    Returns:
        `dict[str, dict]`: A row of `VOICE_FEATURES` by name; `emotion` is `None` where a line suggests none.

    Raises:
        `ValueError`: the package or a clip is missing or damaged.
    """
    root = PurePosixPath("usr/share/games/hedgewars/Data/Sounds/voices")
    paths = {str(root / f"{name}.ogg"): name for name in names}
    clips = read_package(find_package("hedgewars-data", debs), paths.__contains__)
    check_found(paths, clips, "hedgewars-data")
    rows = {}
    for path, name in tqdm(paths.items(), desc="expressive-voices", unit="clip"):
        voice, line = name.split("/")
        rows[name] = {
            **audio_columns(name, decoded(name, clips[path], decode_any)),
            "line": line,
            "emotion": EMOTIONS.get(line),
            "language": VOICE_LANGUAGES.get(voice, "en"),
            "speaker_id": voice,
            "license": VOICE_LICENSE,
        }
    return rows


def check_found(wanted: Iterable[str], found: dict[str, bytes], package: str) -> None:
    """Raises a `ValueError` where a package lacks a file."""
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise ValueError(f"package {package} lacks {len(missing)} files, among them {missing[0]}: another version?")


# --- Parquet ---------------------------------------------------------------------------------------------------------


def write_parquet(path: Path, rows: list[dict], features: Features) -> None:
    """Writes rows with `datasets`' description of them, so that `load_dataset("parquet", ...)` sees an `Audio`."""
    # from plain structs: encoding an Audio feature through `datasets` needs torchcodec
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        # small row groups, so that streaming readers need not hold much; FLAC does not compress further
        pq.write_table(table, temporary, row_group_size=100, compression="none")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_set(
    folder: Path, rows: dict[str, dict], splits: dict[str, list[str]], files: dict[str, list[str]], features: Features
) -> None:
    """Writes the Parquet files of one set, clips in the order of `splits`, cut evenly into the files of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in splits.items():
        shards = np.array_split(np.arange(len(names)), len(files[split]))
        for file, shard in zip(files[split], shards, strict=True):
            write_parquet(folder / file, [rows[names[index]] for index in shard], features)


def is_complete(folder: Path, splits: dict[str, list[str]], files: dict[str, list[str]]) -> bool:
    """Whether all files of a set are there and hold as many rows as its splits have clips."""
    for split, names in splits.items():
        paths = [folder / file for file in files[split]]
        if not all(path.is_file() for path in paths):
            return False
        if sum(pq.read_metadata(path).num_rows for path in paths) != len(names):
            return False
    return True


def fingerprint(rows: dict[str, dict], splits: dict[str, list[str]]) -> str:
    """SHA-256 of all samples of a set (int16, little endian), split by split, clips in order."""
    digest = hashlib.sha256()
    for names in splits.values():
        for name in names:
            samples, _ = soundfile.read(io.BytesIO(rows[name]["audio"]["bytes"]), dtype="int16")
            digest.update(samples.astype("<i2").tobytes())
    return digest.hexdigest()


def build(out: Path, debs: Path | None = None, splits_file: Path = SPLITS, force: bool = False) -> None:
    """
    Builds both sets.

    Args:
        out (`Path`): Folder that gets `open-prompts/` and `expressive-voices/`.
        debs (`Path`, *optional*): Folder with the packages; without it they are downloaded and thrown away after.
        splits_file (`Path`, *optional*): Set -> `splits`: split -> clip names in order; and `sha256` where the samples
            are the same on every machine. A set it does not name is not built.
        force (`bool`, *optional*, defaults to `False`): Builds sets that are there already.

    Raises:
        `ValueError`: a package cannot be had, or lacks a clip, or the samples of `open-prompts` are not what they were.
    """
    if debs is not None and not debs.is_dir():
        raise ValueError(f"`debs` = {debs}: not a folder")
    sets = json.loads(splits_file.read_text(encoding="utf-8"))
    prompts, voices = sets.get("open-prompts"), sets.get("expressive-voices")
    jobs = []
    if prompts is not None:
        languages = sorted({name.split("/")[0] for names in prompts["splits"].values() for name in names})
        packages = [f"asterisk-core-sounds-{language}{kind}" for language in languages for kind in ("-g722", "")]
        jobs.append(("open-prompts", prompts, PROMPT_FILES, PROMPT_FEATURES, packages, read_prompts))
    if voices is not None:
        jobs.append(("expressive-voices", voices, VOICE_FILES, VOICE_FEATURES, ["hedgewars-data"], read_voices))

    for name, content, files, features, packages, read in jobs:
        folder, splits = out / name, content["splits"]
        if not force and is_complete(folder, splits, files):
            logger.info("%s: there already", folder)
            continue
        with tempfile.TemporaryDirectory() as temporary:
            if debs is None:
                fetch_packages(packages, Path(temporary))
            rows = read([clip for clips in splits.values() for clip in clips], debs or Path(temporary))
        if "sha256" in content and fingerprint(rows, splits) != content["sha256"]:
            raise ValueError(f"{name}: the samples are not those the project's results were measured on")
        write_set(folder, rows, splits, files, features)
        seconds = sum(row["duration"] for row in rows.values())
        logger.info("%s: %d clips, %.1f minutes", folder, len(rows), seconds / 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write open-prompts/ and expressive-voices/ to"
    )
    parser.add_argument("--debs", type=Path, help="folder that holds the Debian packages already")
    parser.add_argument("--force", action="store_true", help="build sets that are there already")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        build(arguments.out, arguments.debs, force=arguments.force)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
