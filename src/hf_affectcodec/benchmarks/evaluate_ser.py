"""
EMO-SUPERB on resynthesised speech (Table 3 of arXiv 2605.11098): how much emotion a recogniser still finds in what a
codec made of a clip.

    python -m hf_affectcodec.benchmarks.evaluate_ser --config table3.yaml

For every fold of every set a probe on a frozen upstream is trained on original speech, and tested on the original test
clips and on each codec's version of them. A configuration names the data, the upstream and the systems:

    data_root: data/EMO-SUPERB
    sets: [{path: IEMOCAP/Secondary}, {path: CREMA-D/Primary}]
    upstream: microsoft/wavlm-base-plus
    models: {affectcodec: org/affectcodec, affectcodec-mini: null}      # null: the checkpoint shipped under that name
    baselines: [opus-6, opus-12]
    out: runs/table3

and may set any other field of [`Config`]. Layer means of every clip and system are kept in `OUT/features`, so that a run
goes on where it was stopped. `OUT/table.md`, `table.json`, `table.png` and `predictions.jsonl` are written anew.

Where the benchmark's own code and this one differ: it averages the macro-F1 of batches of 32 clips, which depends on
their order, and counts a class that a batch lacks as 0. Here macro-F1 is of all test clips of a fold, over the classes
that occur in them.
"""

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hf_affectcodec.audio import AudioFileError, load_audio
from hf_affectcodec.metrics.classification import multilabel_macro_f1
from hf_affectcodec.settings import build_dataclass, read_yaml
from hf_affectcodec.shipped import pretrained_path
from hf_affectcodec.teachers.frames import FrameTeacher

from .codecs import SAMPLING_RATE, AudioTokenizationCodec, Codec, Original, PyAVCodec
from .emo_superb.probe import ProbeSettings, layer_means, load_upstream, predict, train_probe
from .emo_superb.sets import OFFICIAL_SETS, Fold, Partition, has_class, read_fold
from .emo_superb.table import markdown, picture, tabulate
from .rows import dump


@dataclass(frozen=True)
class SetSource:
    """
    Args:
        path (`str`): Folder under `data_root` that holds `config.json` and the labels, its speech being in `../Audios`.
        folds (`int`, *optional*): Folds to run, from 1; those of the benchmark for its own sets.
        check_speakers (`bool`, *optional*, defaults to `True`): See [`~.emo_superb.sets.read_fold`].
    """

    path: str
    folds: int | None = None
    check_speakers: bool = True

    def __post_init__(self):
        if self.folds is None:
            known = {item.path: item.num_folds for item in OFFICIAL_SETS}
            if self.path not in known:
                raise ValueError(f"`sets`: {self.path!r} is none of {sorted(known)} and needs `folds`")
            object.__setattr__(self, "folds", known[self.path])


@dataclass(frozen=True)
class Config:
    """
    Args:
        data_root (`str`): Folder of the sets.
        sets (`list[SetSource]`): Sets to run.
        upstream (`str`): Hub id or folder of the frozen encoder.
        out (`str`): Folder of features and results.
        models (`dict[str, str | None]`, *optional*): Name in the table to the folder or Hub id of a codec.
        baselines (`list[str]`, *optional*): `opus-6`, `mp3-8`, `aac-12`, ...
        upstream_revision (`str`, *optional*, defaults to `"main"`): Of a Hub id.
        waveform_statistics (`list[float]`, *optional*): Mean and standard deviation that every waveform is standardised
            with before the upstream. By default those of all samples of the fold's training clips, as in the benchmark;
            `[0, 1]` leaves waveforms as they are, and lets all folds share their features.
        max_seconds (`float`, *optional*, defaults to 10): Of a clip, what the upstream sees. Codecs code whole clips.
        probe ([`~.evaluate_ser.probe.ProbeSettings`], *optional*): Training of the probe.
        seeds (`list[int]`, *optional*, defaults to `[0]`): One probe a seed and fold.
        device (`str`, *optional*, defaults to `"cpu"`): Where codecs and upstream run.
        max_failures (`int`, *optional*, defaults to 0): Clips that one system may fail on before the exit status is 1.
    """

    data_root: str
    sets: list[SetSource]
    upstream: str
    out: str
    models: dict[str, str | None] = field(default_factory=dict)
    baselines: list[str] = field(default_factory=list)
    upstream_revision: str = "main"
    waveform_statistics: list[float] | None = None
    max_seconds: float = 10.0
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    seeds: list[int] = field(default_factory=lambda: [0])
    device: str = "cpu"
    max_failures: int = 0


def read_config(path: "str | Path") -> Config:
    """
    Raises:
        ValueError: The file is no mapping, a key is unknown or missing, or a value is out of range.
    """
    values = read_yaml(path)
    values["sets"] = [build_dataclass(SetSource, item, f"{path}: sets") for item in values.get("sets", [])]
    values["probe"] = build_dataclass(ProbeSettings, values.get("probe", {}), f"{path}: probe")
    config = build_dataclass(Config, values, str(path))
    if not config.sets or not config.seeds:
        raise ValueError(f"{path}: `sets` and `seeds` must not be empty")
    statistics = config.waveform_statistics
    if statistics is not None and not (len(statistics) == 2 and statistics[1] > 0):
        raise ValueError(f"{path}: `waveform_statistics` must be a mean and a deviation > 0, got {statistics}")
    return config


# ----- features


class FeatureStore:
    """
    Layer means of the clips of one set and system, in a file of float32, and what is said of each clip in a JSONL file
    beside it, both grown clip by clip. What a killed process left half-written is dropped.

    Args:
        path (`Path`): Of the JSONL file.
        key (`dict`): What the features depend on; with `shape`, `[L, C]`.
    """

    def __init__(self, path: Path, key: dict):
        self.path, self.shape = path, tuple(key["shape"])
        self.vectors_path = path.with_suffix(".f32")
        self.rows: dict[str, dict] = {}
        if path.exists():
            text = path.read_bytes()
            lines = [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
            self.rows = {row["clip"]: row for row in lines[1:]}
        path.parent.mkdir(parents=True, exist_ok=True)
        self.num_vectors = sum(row["failure"] is None for row in self.rows.values())
        size = self.num_vectors * 4 * math.prod(self.shape)
        with open(self.vectors_path, "ab") as file:
            if file.tell() < size:
                raise ValueError(f"{self.vectors_path} is shorter than {path.name} says; delete both")
            file.truncate(size)
        lines = [{"key": key}, *self.rows.values()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def add(self, row: dict, vector: np.ndarray | None):
        """`row` has `clip` and `failure`, which is `None` where there is a vector."""
        if vector is not None:
            with open(self.vectors_path, "ab") as file:
                file.write(np.ascontiguousarray(vector, dtype="<f4").tobytes())
            row = {**row, "index": self.num_vectors}
            self.num_vectors += 1
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows[row["clip"]] = row

    def read(self, names: list[str]) -> np.ndarray:
        """[N, L, C] of clips; rows of NaN where a clip failed."""
        vectors = np.fromfile(self.vectors_path, dtype="<f4").reshape(-1, *self.shape)
        values = np.full((len(names), *self.shape), np.nan, dtype=np.float32)
        for row, name in enumerate(names):
            if self.rows[name]["failure"] is None:
                values[row] = vectors[self.rows[name]["index"]]
        return values


def training_statistics(audio: Path, names: list[str]) -> list[float]:
    """Mean and standard deviation of all samples of clips, which must all be readable."""
    count, total, squares = 0, 0.0, 0.0
    for name in tqdm(names, desc="waveform statistics", unit="clip", leave=False):
        waveform = load_audio(audio / name, SAMPLING_RATE)[0].double()
        count += waveform.numel()
        total += float(waveform.sum())
        squares += float((waveform**2).sum())
    mean = total / count
    return [round(mean, 9), round(math.sqrt(squares / count - mean**2), 9)]


def extract(
    codec: Codec,
    upstream: FrameTeacher,
    audio: Path,
    names: list[str],
    statistics: list[float],
    max_seconds: float,
    folder: Path,
) -> FeatureStore:
    """Codes and describes the clips that the store of a system does not have yet."""
    key = {
        "system": codec.name,
        "fingerprint": codec.fingerprint,
        "upstream": upstream.description,
        "statistics": statistics,
        "max_seconds": max_seconds,
        "audio": str(audio.resolve()),
        "shape": [upstream.model.config.num_hidden_layers + 1, upstream.feature_size],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
    store = FeatureStore(folder / f"{codec.name}-{digest}.jsonl", key)
    mean, deviation = statistics
    for name in tqdm([name for name in names if name not in store.rows], desc=codec.name, unit="clip"):
        row = {"clip": name, "seconds": None, "bits": None, "failure": None}
        # Networks refuse clips (too short for a kernel, say) by RuntimeError. Other errors are bugs and end the run.
        try:
            waveform = load_audio(audio / name, SAMPLING_RATE)[0].numpy()
            decoded, row["bits"] = codec(waveform)
            row["seconds"] = waveform.size / SAMPLING_RATE
            decoded = decoded[: round(max_seconds * SAMPLING_RATE)]
            vector = layer_means(upstream, ((decoded - mean) / (deviation + 1e-6)).astype(np.float32))
        except (AudioFileError, ValueError, RuntimeError) as error:
            vector = None
            row["failure"] = " ".join(str(error).split())
        store.add(row, vector)
    return store


# ----- the protocol


def _measured(values: np.ndarray, partition: Partition) -> tuple[np.ndarray, np.ndarray]:
    kept = ~np.isnan(values).any(axis=(1, 2))
    if not kept.any():
        raise ValueError("`sets`: no clip of a partition could be measured")
    return values[kept], partition.labels[kept]


def run_fold(
    fold: Fold, number: int, audio: Path, codecs: list[Codec], upstream: FrameTeacher, config: Config, folder: Path
) -> list[dict]:
    """
    Trains the probes of a fold and tests them on every system.

    Returns:
        `list[dict]`: One row a system, seed and test clip: `system`, `fold`, `seed`, `clip`, `speaker`, `reference` (0
        and 1), `probabilities` (`None` where the clip failed, with the reason in `failure`), `seconds` and `bits`. The
        system `training prior` predicts the mean label of the training clips.
    """
    statistics = config.waveform_statistics or training_statistics(audio, fold.train.names)
    sides = (fold.train, fold.dev, fold.test)
    stores = {
        codec.name: extract(
            codec,
            upstream,
            audio,
            [name for side in (sides if codec.name == Original.name else sides[2:]) for name in side.names],
            statistics,
            config.max_seconds,
            folder,
        )
        for codec in codecs
    }
    original = stores[Original.name]
    train, dev = (_measured(original.read(side.names), side) for side in (fold.train, fold.dev))
    references = has_class(fold.test.labels).tolist()
    rows = []

    def add(system: str, seed: int, probabilities: np.ndarray | None, described: dict[str, dict]):
        for index, name in enumerate(fold.test.names):
            row = described[name]
            found = row["failure"] is None
            rows.append(
                {
                    "system": system,
                    "fold": number,
                    "seed": seed,
                    "clip": name,
                    "speaker": fold.test.speakers[index],
                    "reference": references[index],
                    "probabilities": [round(float(p), 6) for p in probabilities[index]] if found else None,
                    "failure": row["failure"],
                    "seconds": row["seconds"],
                    "bits": row["bits"],
                }
            )

    for seed in config.seeds:
        prior = np.tile(train[1].mean(axis=0), (len(fold.test), 1))
        nothing = dict.fromkeys(fold.test.names, {"failure": None, "seconds": None, "bits": None})
        add("training prior", seed, prior, nothing)
        probe, trained = train_probe(train, dev, config.probe, seed)
        for codec in codecs:
            add(codec.name, seed, predict(probe, stores[codec.name].read(fold.test.names)), stores[codec.name].rows)
        about = f"fold {number}, seed {seed}: epoch {trained['epoch']}, dev loss {trained['dev_loss']:.4f}"
        tqdm.write(about, file=sys.stderr)
    return rows


def macro_f1_by_fold(rows: list[dict]) -> list[dict]:
    """`fold`, `seed` and `macro_f1` of each pair that the rows of one system have."""
    scores = []
    for fold, seed in sorted({(row["fold"], row["seed"]) for row in rows}):
        items = [row for row in rows if (row["fold"], row["seed"]) == (fold, seed) and row["failure"] is None]
        score = math.nan
        if items:
            predictions = has_class(np.array([row["probabilities"] for row in items]))
            score = multilabel_macro_f1([row["reference"] for row in items], predictions)
        scores.append({"fold": fold, "seed": seed, "macro_f1": score})
    return scores


def load_codecs(config: Config) -> list[Codec]:
    codecs: list[Codec] = [Original()]
    for name, source in config.models.items():
        source = pretrained_path(name) if source is None else source
        codecs.append(AudioTokenizationCodec.from_pretrained(str(source), name, config.device))
    codecs += [PyAVCodec.from_name(name) for name in config.baselines]
    names = [codec.name for codec in codecs]
    if len(set(names)) < len(names):
        raise ValueError(f"`models` and `baselines` must have names of their own, got {names}")
    return codecs


def run(config: Config) -> dict:
    """
    Runs the protocol and writes its results.

    Args:
        config ([`Config`]): See [`read_config`].

    Returns:
        `dict`: The table, see [`~.emo_superb.table.tabulate`].
    """
    out, root = Path(config.out), Path(config.data_root)
    # Everything that is wrong with the data is said before hours of work.
    folds = {
        source.path: [
            read_fold(root / source.path, number, source.check_speakers) for number in range(1, source.folds + 1)
        ]
        for source in config.sets
    }
    codecs = load_codecs(config)
    upstream = load_upstream(config.upstream, config.upstream_revision, config.device)
    out.mkdir(parents=True, exist_ok=True)
    tables = {}
    with open(out / "predictions.jsonl", "w", encoding="utf-8") as file:
        for source in config.sets:
            audio = root / Path(source.path).parent / "Audios"
            rows = []
            for number, fold in enumerate(folds[source.path], start=1):
                folder = out / "features" / source.path
                rows += run_fold(fold, number, audio, codecs, upstream, config, folder)
            file.writelines(json.dumps({"set": source.path, **row}) + "\n" for row in rows)
            first = folds[source.path][0]
            tables[source.path] = {
                "classes": first.classes,
                "folds": source.folds,
                "speakers_checked": source.check_speakers,
                "class_counts": dict(
                    Counter(
                        name
                        for fold in folds[source.path]
                        for label in has_class(fold.test.labels)
                        for name, there in zip(fold.classes, label, strict=True)
                        if there
                    )
                ),
                **tabulate(rows, macro_f1_by_fold),
            }
    statistics = config.waveform_statistics
    table = {
        "protocol": {
            "upstream": upstream.description,
            "probe": vars(config.probe),
            "seeds": config.seeds,
            "waveforms": "standardised by the training clips of each fold"
            if statistics is None
            else f"(x - {statistics[0]:g}) / {statistics[1]:g}",
            "max_seconds": config.max_seconds,
            "threshold": "a class is there, and is predicted, where its share is above 1 / C",
            "codecs": {codec.name: codec.fingerprint for codec in codecs},
        },
        "sets": tables,
    }
    (out / "table.json").write_text(dump(table, indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(markdown(table), encoding="utf-8")
    picture(table).savefig(out / "table.png")
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="affectcodec evaluate ser", description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see the module")
    config = read_config(parser.parse_args(arguments).config)
    table = run(config)
    sys.stdout.write(markdown(table))
    failures = max(cell["n_failed"] for item in table["sets"].values() for cell in item["systems"].values())
    if failures > config.max_failures:
        sys.stderr.write(f"{failures} clips failed in one cell, `max_failures` is {config.max_failures}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
