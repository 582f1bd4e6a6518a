"""The EMO-SUPERB protocol: its formulas written out, and a small set with a planted emotion from files to table."""

import itertools
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import yaml
from test_codec_table import audio_bytes
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from hf_affectcodec.benchmarks import evaluate_ser
from hf_affectcodec.benchmarks.emo_superb import layout
from hf_affectcodec.benchmarks.emo_superb.layout import speaker_folds
from hf_affectcodec.benchmarks.emo_superb.probe import (
    Probe,
    ProbeSettings,
    class_balanced_weights,
    layer_means,
    load_upstream,
    predict,
    soft_cross_entropy,
    train_probe,
)
from hf_affectcodec.benchmarks.emo_superb.sets import OFFICIAL_SETS, has_class, read_fold, smoothed_labels
from hf_affectcodec.benchmarks.emo_superb.table import (
    class_counts,
    macro_f1,
    speaker_interval,
    speaker_permutation_test,
)
from hf_affectcodec.benchmarks.evaluate_ser import FeatureStore, SetSource, read_config, training_statistics
from hf_affectcodec.metrics.classification import multilabel_macro_f1


RATE = 16000


# ----- labels and partitions


def test_smoothing_gives_what_the_benchmark_published():
    # Rows of its tables: IEMOCAP (9 classes, 2 votes of 3), CREMA-D (6 classes, 4 + 6 votes of 10), NNIME (11, all alike).
    votes = np.zeros((1, 9))
    votes[0, [0, 1]] = 2, 1
    assert smoothed_labels(votes)[0, :3] == pytest.approx([0.635417, 0.320833, 0.00625], abs=1e-6)
    assert smoothed_labels([[4, 0, 0, 0, 0, 6]])[0] == pytest.approx([0.386, 0.01, 0.01, 0.01, 0.01, 0.574])
    assert smoothed_labels(np.eye(11)[:1])[0, :2] == pytest.approx([0.95, 0.005])


def test_a_class_is_there_above_its_even_share():
    np.testing.assert_array_equal(
        has_class(np.array([[0.25, 0.25, 0.26, 0.24], [0.7, 0.1, 0.1, 0.1]])), [[0, 0, 1, 0], [1, 0, 0, 0]]
    )


HEADER = ",happy,sad,EmoAct,SpkrID,Gender,Split_Set"
LINES = [
    "b.wav,0.95,0.05,3,1,F,Train",
    "a.wav,0.05,0.95,3,1,F,Train",
    "c.wav,0.5,0.5,2,2,M,Development",
    "d.wav,1,0,2,3,M,Test",
]


def write_labels(folder, lines=LINES, header=HEADER):
    folder.mkdir(parents=True, exist_ok=True)
    sides = {"train": "Train", "dev": "Development", "test": "Test"}
    config = {"data_split_type": sides, "categorical": {"emo_type": ["sad", "happy"]}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "labels_consensus_1.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder


def test_reading_a_fold(tmp_path):
    fold = read_fold(write_labels(tmp_path), 1)
    assert fold.classes == ["sad", "happy"] and fold.train.names == ["a.wav", "b.wav"]  # columns by name, clips sorted
    np.testing.assert_array_equal(fold.train.labels, [[0.95, 0.05], [0.05, 0.95]])
    assert (fold.dev.names, fold.test.speakers) == (["c.wav"], ["3"])


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        ([*LINES[:3], "d.wav,1,0,2,1,M,Test"], HEADER, "1 speakers are in `train_speakers` too: 1"),
        ([*LINES[:3], "d.wav,1,0,2,2,M,Test"], HEADER, "1 speakers are in `train_speakers` too: 2"),
        ([*LINES[:3], "d.wav,0.9,0.3,2,3,M,Test"], HEADER, "the label of d.wav is no distribution"),
        ([*LINES[:3], "d.wav,1,0,2,3,M,Eval"], HEADER, "line 5: 'Eval' is no partition"),
        (LINES[:3], HEADER, "has no test clips"),
        (LINES, HEADER.replace("sad", "angry"), r"has no columns \['sad'\]"),
    ],
)
def test_folds_that_are_refused(tmp_path, lines, header, message):
    with pytest.raises(ValueError, match=message):
        read_fold(write_labels(tmp_path, lines, header), 1)


def test_unchecked_speakers_have_to_be_asked_for(tmp_path):
    folder = write_labels(tmp_path, [*LINES[:3], "d.wav,1,0,2,1,M,Test"])
    assert len(read_fold(folder, 1, check_speakers=False).test) == 1


def test_official_sets():
    assert len({item.path.split("/")[0] for item in OFFICIAL_SETS}) == 6
    assert SetSource("IMPROV/Primary").folds == 6 and SetSource("PODCAST/Primary").folds == 1
    with pytest.raises(ValueError, match="'MINE/Primary' is none of .* and needs `folds`"):
        SetSource("MINE/Primary")


def test_folds_share_out_speakers():
    speakers = ["a"] * 5 + ["b"] * 4 + ["c"] * 3 + ["d"] * 2 + ["e"]
    assert speaker_folds(speakers, 3) == [["a"], ["b", "e"], ["c", "d"]]
    with pytest.raises(ValueError, match="`num_folds` must be from 3 to the number of speakers, 5, got 6"):
        speaker_folds(speakers, 6)


# ----- the probe


@pytest.fixture(scope="module")
def upstream_folder(tmp_path_factory):
    """A real HuBERT, tiny and random."""
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("hubert")
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def test_means_may_be_taken_first(upstream_folder, speech):
    """The benchmark's order: weighted sum and projector on frames, then the mean over time, then the classifier."""
    upstream = load_upstream(str(upstream_folder))
    torch.manual_seed(1)
    probe = Probe(3, 16, 4, 8)
    torch.nn.init.normal_(probe.layer_weights)
    inputs = upstream.processor(speech, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        frames = upstream.model(**inputs, output_hidden_states=True).hidden_states
        weighted = sum(weight * state[0] for weight, state in zip(probe.layer_weights.softmax(0), frames, strict=True))
        expected = probe.classifier(probe.projector(weighted).mean(dim=0)).softmax(dim=0)
    found = predict(probe, layer_means(upstream, speech)[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_class_weights_and_loss_written_out():
    labels = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [0.8, 0.2, 0.0]])
    # Above 1/3: class 0 three times, class 1 twice, class 2 never; beta = 3/4.
    raw = [0.25 / (1 - 0.75**3), 0.25 / (1 - 0.75**2), 0.0]
    weights = class_balanced_weights(labels)
    assert weights.tolist() == pytest.approx([3 * value / sum(raw) for value in raw])
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.3, 0.1, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    losses = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = math.log(sum(math.exp(value) for value in row))
        entropy = -sum(t * (value - total) for t, value in zip(label, row, strict=True))
        losses.append(sum(t * w for t, w in zip(label, weights.tolist(), strict=True)) * entropy)
    assert float(soft_cross_entropy(logits, labels, weights)) == pytest.approx(np.mean(losses), rel=1e-6)


def test_training_finds_the_layer_that_knows():
    generator = np.random.default_rng(0)

    def side(size):
        classes = generator.integers(3, size=size)
        means = generator.normal(size=(size, 4, 12)).astype(np.float32)
        means[np.arange(size), 2, classes] += 4  # layer 2 knows, the others are noise
        return means, smoothed_labels(np.eye(3)[classes])

    train, dev, test = side(150), side(60), side(200)
    settings = ProbeSettings(epochs=60, learning_rate=3e-3)
    before = torch.get_rng_state()
    probe, about = train_probe(train, dev, settings, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert int(np.argmax(about["layer_weights"])) == 2
    assert multilabel_macro_f1(has_class(test[1]), has_class(predict(probe, test[0]))) > 0.9
    again, repeated = train_probe(train, dev, settings, seed=0)
    assert repeated == about and train_probe(train, dev, settings, seed=1)[1] != about
    # What is kept is the best epoch on the development side.
    weights = class_balanced_weights(torch.from_numpy(train[1]).float())
    with torch.no_grad():
        loss = soft_cross_entropy(again(torch.from_numpy(dev[0])), torch.from_numpy(dev[1]).float(), weights)
    assert float(loss) == pytest.approx(about["dev_loss"])


# ----- the table


def random_rows(seed, accuracy=0.5, speakers=5):
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(40):
        reference = (generator.random(3) < 0.4).astype(int)
        kept = generator.random(3) < accuracy
        predicted = np.where(kept, reference, generator.random(3) < 0.4)
        probabilities = np.where(predicted, 0.45, 0.05)
        speaker = f"s{index % speakers}"
        rows.append(
            {"clip": str(index), "speaker": speaker, "reference": reference.tolist(), "probabilities": probabilities}
        )
    return rows


SPEAKERS = [f"s{index}" for index in range(5)]


def slow_f1(rows):
    return multilabel_macro_f1(
        [row["reference"] for row in rows], has_class(np.array([row["probabilities"] for row in rows]))
    )


def test_macro_f1_of_counts():
    rows = random_rows(0)
    counts = class_counts(rows, SPEAKERS)
    assert float(macro_f1(counts.sum(axis=0))) == pytest.approx(slow_f1(rows))
    assert float(macro_f1(counts[1])) == pytest.approx(slow_f1([row for row in rows if row["speaker"] == "s1"]))
    assert math.isnan(macro_f1(np.zeros((3, 3))))
    assert float(macro_f1(np.array([[1, 1, 0], [0, 5, 0]]))) == pytest.approx(
        2 / 3
    )  # a class that does not occur is left out


def test_permutation_of_speakers_written_out():
    ours, theirs = random_rows(0, 0.9), random_rows(0, 0.3)
    observed = abs(slow_f1(ours) - slow_f1(theirs))
    hits = 0
    for swaps in itertools.product((0, 1), repeat=5):
        sides = [
            [pair[swaps[int(pair[0]["speaker"][1])] ^ side] for pair in zip(ours, theirs, strict=True)]
            for side in (0, 1)
        ]
        hits += abs(slow_f1(sides[0]) - slow_f1(sides[1])) >= observed - 1e-12
    counts = [class_counts(rows, SPEAKERS) for rows in (ours, theirs)]
    assert speaker_permutation_test(*counts) == pytest.approx(hits / 32)
    assert speaker_permutation_test(counts[0], counts[0]) == 1
    # With many speakers patterns are drawn; no p is below one in all of them.
    many = [
        class_counts(random_rows(seed, share, 20), [f"s{i}" for i in range(20)])
        for seed, share in ((0, 1.0), (0, 0.0))
    ]
    assert 0 < speaker_permutation_test(*many) < 0.01


def test_interval_over_speakers_written_out():
    rows = random_rows(3, 0.6)
    generator = np.random.default_rng(1)
    values = []
    for _ in range(300):
        drawn = generator.choice(SPEAKERS, size=5)
        values.append(slow_f1([row for speaker in drawn for row in rows if row["speaker"] == speaker]))
    expected = np.quantile(values, [0.025, 0.975])
    counts = class_counts(rows, SPEAKERS)
    np.testing.assert_allclose(speaker_interval(counts), expected, atol=0.15 * np.ptp(expected))
    assert speaker_interval(counts, counts) == (0, 0)
    assert all(math.isnan(value) for value in speaker_interval(counts[:1]))


# ----- the store


def test_a_store_that_was_cut_short_goes_on(tmp_path):
    path, key = tmp_path / "store.jsonl", {"shape": [2, 3]}
    store = FeatureStore(path, key)
    vectors = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    store.add({"clip": "a", "failure": None}, vectors[0])
    store.add({"clip": "b", "failure": "silent"}, None)
    store.add({"clip": "c", "failure": None}, vectors[1])
    # Killed between the vector and its line, and within a line.
    with open(path.with_suffix(".f32"), "ab") as file:
        file.write(vectors[2].tobytes()[:10])
    with open(path, "a") as file:
        file.write('{"clip": "d", "fail')
    store = FeatureStore(path, key)
    assert sorted(store.rows) == ["a", "b", "c"]
    store.add({"clip": "d", "failure": None}, vectors[2])
    expected = np.stack([vectors[2], np.full((2, 3), np.nan), vectors[0], vectors[1]])
    np.testing.assert_array_equal(FeatureStore(path, key).read(["d", "b", "a", "c"]), expected)
    path.with_suffix(".f32").write_bytes(b"")
    with pytest.raises(ValueError, match="is shorter than store.jsonl says"):
        FeatureStore(path, key)


# ----- from files to the table


def voice(emotion: int, speaker: int, take: int) -> np.ndarray:
    """Half a second: a low tone for emotion 0, a high one for 1; speakers and takes differ a little."""
    time = np.arange(RATE // 2) / RATE
    frequency = (150, 2600)[emotion] + 5 * speaker + 2 * take
    return (0.2 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    items = [(emotion, speaker, take) for speaker in range(4) for emotion in (0, 1) for take in range(3)]
    rows = [
        {
            "audio": {"bytes": audio_bytes(voice(*item)), "path": f"{item[1]}/clip{item[2]}.flac"},
            "emotion": ("calm", "rough")[item[0]],
            "who": f"voice{item[1]}",
        }
        for item in items
    ]
    rows.append({**rows[0], "emotion": None})
    pa.parquet.write_table(pa.Table.from_pylist(rows), root / "voices.parquet")
    arguments = ["--data", str(root / "voices.parquet"), "--label", "emotion", "--speaker", "who", "--folds", "4"]
    assert layout.main([*arguments, "--out", str(root / "VOICES")]) == 0
    return root


class Flatten:
    """A codec that makes every clip the same quiet tone; fails on clips of its choice, and counts its calls."""

    name, fingerprint = "flatten", "1"

    def __init__(self):
        self.calls, self.fails = 0, set()

    def __call__(self, waveform):
        self.calls += 1
        if self.calls in self.fails:
            raise ValueError("`waveform`: no")
        return voice(0, 0, 0)[: waveform.size], 400


def test_layout_is_read_as_a_set(data_root):
    folds = [read_fold(data_root / "VOICES/Primary", number) for number in (1, 2, 3, 4)]
    assert folds[0].classes == ["calm", "rough"] and [len(fold.test) for fold in folds] == [6] * 4
    assert len({name for fold in folds for name in fold.test.names}) == 24  # every clip is tested once
    assert sorted(len(side) for side in (folds[0].train, folds[0].dev, folds[0].test)) == [6, 6, 12]
    assert folds[0].train.labels.max() == pytest.approx(0.95)
    audio = data_root / "VOICES/Audios"
    whole = np.concatenate([(voice(*item) * 32767).round() / 32768 for item in [(0, 0, 0), (0, 0, 1)]])
    assert training_statistics(audio, sorted(path.name for path in audio.iterdir())[:2]) == pytest.approx(
        [whole.mean(), whole.std()], abs=1e-5
    )


@pytest.fixture
def config_file(data_root, upstream_folder, tmp_path):
    values = {
        "data_root": str(data_root),
        "sets": [{"path": "VOICES/Primary", "folds": 4}],
        "upstream": str(upstream_folder),
        "out": str(tmp_path / "out"),
        "baselines": ["opus-24"],
        "waveform_statistics": [0, 1],
        "probe": {"epochs": 100, "learning_rate": 0.003},
    }
    path = tmp_path / "table3.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_from_files_to_the_table(config_file, tmp_path, monkeypatch, capsys):
    flatten, load = Flatten(), evaluate_ser.load_codecs
    monkeypatch.setattr(evaluate_ser, "load_codecs", lambda config: [*load(config), flatten])
    assert evaluate_ser.main(["--config", str(config_file)]) == 0
    table = json.loads((tmp_path / "out/table.json").read_text())["sets"]["VOICES/Primary"]
    systems = table["systems"]
    assert list(systems) == ["training prior", "original", "opus-24", "flatten"]
    # The planted emotion is found in the original, and is not in what has lost it.
    assert (
        systems["original"]["macro_f1"] > 0.9
        and systems["original"]["macro_f1"] == systems["original"]["macro_f1_folds"]
    )
    assert systems["flatten"]["macro_f1"] < 0.7 and systems["flatten"]["kbps"] == pytest.approx(0.8)
    compared = systems["flatten"]["to_original"]
    assert compared["difference"] == pytest.approx(systems["flatten"]["macro_f1"] - systems["original"]["macro_f1"])
    assert compared["n"] == 24 and compared["p"] == 2 / 16 and compared["p_holm"] >= compared["p"]
    assert "to_original" not in systems["training prior"] and table["class_counts"] == {"calm": 12, "rough": 12}
    text = (tmp_path / "out/table.md").read_text()
    assert capsys.readouterr().out == text and "| flatten | 0.80 |" in text
    assert (tmp_path / "out/table.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * 24

    # A second run codes nothing, and says the same.
    calls = flatten.calls
    assert calls == 24
    assert evaluate_ser.main(["--config", str(config_file)]) == 0
    assert flatten.calls == calls and (tmp_path / "out/table.md").read_text() == text


def test_failures_are_counted_and_not_scored(config_file, tmp_path, monkeypatch, capsys):
    flatten = Flatten()
    flatten.fails = {2, 3, 9}
    monkeypatch.setattr(evaluate_ser, "load_codecs", lambda config: [evaluate_ser.Original(), flatten])
    assert evaluate_ser.main(["--config", str(config_file)]) == 1
    cell = json.loads((tmp_path / "out/table.json").read_text())["sets"]["VOICES/Primary"]["systems"]["flatten"]
    assert (cell["n"], cell["n_failed"], cell["to_original"]["n"]) == (21, 3, 21)
    assert cell["failures"] == {"`waveform`: no": 3}
    captured = capsys.readouterr()
    assert "21 (n_failed 3)" in captured.out and "3 clips failed in one cell, `max_failures` is 0" in captured.err
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["system"] == "flatten" and row["failure"] is None]
    assert cell["macro_f1"] == pytest.approx(slow_f1(kept))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"upstraem": "x"}, "unknown key 'upstraem'"),
        ({"upstream": None}, "missing .* 'upstream'"),
        ({"sets": []}, "`sets` and `seeds` must not be empty"),
        ({"sets": [{"path": "VOICES/Primary"}]}, "needs `folds`"),
        ({"probe": {"lr": 1}}, "probe: unknown key 'lr'"),
        ({"waveform_statistics": [0]}, "`waveform_statistics` must be a mean and a deviation"),
    ],
)
def test_configurations_that_are_refused(config_file, change, message):
    values = {**yaml.safe_load(config_file.read_text()), **change}
    config_file.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    with pytest.raises(ValueError, match=message):
        read_config(config_file)
