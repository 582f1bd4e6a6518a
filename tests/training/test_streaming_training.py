"""Training from streams: it resumes bit for bit, k-means looks ahead, mixtures come from recipes, what is missing is said."""

import dataclasses
import json

import pytest
import torch
import train_codec
from recipe import check_corpora, load_recipe
from test_train_codec import ROOT, SMOKE, assert_same, data_root, run, weights  # noqa: F401

from hf_affectcodec.data import corpora
from hf_affectcodec.data.corpora import find_corpus
from hf_affectcodec.data.streaming import StreamedCrops


STREAM = ("--set", "streaming=true", "--set", "stream_buffer_size=9", "--set", "steps=16")
PAPER = ROOT / "training/recipes/codec/affectcodec-2.3k-hours.yaml"


@pytest.fixture(scope="module")
def unbroken(data_root, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("unbroken")
    run(folder, data_root, *STREAM)
    return folder


def test_a_streamed_run_learns_and_counts_clips(unbroken):
    rows = [json.loads(line) for line in (unbroken / "log.jsonl").read_text().splitlines()]
    training = [row for row in rows if "mel" in row]
    assert training[-1]["mel"] < 0.9 * training[0]["mel"]
    assert training[-1]["opened_clips"] > training[0]["opened_clips"] > 0
    assert all(row["bad_clips"] == row["short_clips"] == 0 for row in training)
    assert (unbroken / "samples/00000016/1_rebuilt.wav").exists()
    state = json.loads((unbroken / "checkpoint-00000010/stream_0.json").read_text())
    assert state["step"] == 10 and state["workers"][0]["sources"][0]["first"]["epoch"] >= 1


def test_resume_twice_equals_an_unbroken_run(data_root, tmp_path, unbroken):  # noqa: F811
    # The first stop falls between the two starts of k-means, which have looked at batches that come later.
    run(tmp_path, data_root, *STREAM, "--stop-at", "3")
    torch.manual_seed(99)
    run(tmp_path, data_root, *STREAM, "--resume", "--stop-at", "12")
    run(tmp_path, data_root, *STREAM, "--resume")
    assert_same(weights(tmp_path), weights(unbroken))
    for checkpoint in ("checkpoint-00000010", "checkpoint-00000016"):
        first, second = ((folder / checkpoint / "stream_0.json").read_text() for folder in (tmp_path, unbroken))
        assert first == second
    with pytest.raises(SystemExit, match="`streaming` of the recipe differs"):
        run(tmp_path, data_root, "--resume")
    (tmp_path / "checkpoint-00000016/stream_0.json").unlink()
    with pytest.raises(SystemExit, match="stream_0.json is missing; a stream goes on with as many processes"):
        run(tmp_path, data_root, *STREAM, "--resume", "--set", "steps=17")


def test_kmeans_starts_on_what_is_trained_on_next(data_root, tmp_path, monkeypatch):  # noqa: F811
    looked_at, trained_on = [], []
    clean_start, clean_step, clean_get = train_codec.start_codebooks, train_codec.train_step, StreamedCrops.__getitem__
    monkeypatch.setattr(
        StreamedCrops, "__getitem__", lambda self, step: looked_at.append(step) or clean_get(self, step)
    )

    def step(trainer, batch):
        trained_on.append(batch["name"])
        return clean_step(trainer, batch)

    starts = []

    def start(trainer, crops):
        looked_at.clear()
        clean_start(trainer, crops)
        starts.append(list(looked_at))
        starts[-1] += [
            crops[trainer.progress.step + offset]["name"] for offset in range(trainer.recipe.kmeans_batches)
        ]

    monkeypatch.setattr(train_codec, "train_step", step)
    monkeypatch.setattr(train_codec, "start_codebooks", start)
    run(tmp_path, data_root, *STREAM, "--set", "steps=9", "--set", "discriminator=null")
    assert starts[0][:4] == [0, 1, 2, 3] and starts[0][4:] == trained_on[:4]
    assert starts[1][:4] == [5, 6, 7, 8] and starts[1][4:] == trained_on[5:9]


def test_old_recipes_still_resume(data_root, tmp_path):  # noqa: F811
    """A recipe stored before these keys were there."""
    run(tmp_path, data_root, "--set", "steps=4", "--stop-at", "2")
    stored = tmp_path / "recipe.yaml"
    young = ("streaming:", "stream_workers:", "stream_buffer_size:", "  corpus:", "  weight:")
    lines = stored.read_text().splitlines(keepends=True)
    stored.write_text("".join(line for line in lines if not line.startswith(young)))
    run(tmp_path, data_root, "--set", "steps=4", "--resume")


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_the_papers_mixture():
    recipe = load_recipe(PAPER, "/data")
    assert recipe.streaming and recipe.model == {} and recipe.crop_seconds == 3.0
    hours = {}
    for source in recipe.train:
        corpus = find_corpus(source.corpus)
        hours[corpus.name] = hours.get(corpus.name, 0) + source.weight
        assert source.source == (corpus.hub_id or f"/data/{corpus.name}")
        assert source.config_name == (corpus.config if corpus.hub_id else None)
        assert source.split in corpus.splits.get("train", ("train",))
        assert source.column_map is None or source.column_map == {"audio": corpus.columns["audio"]}
    assert hours == {corpus.name: corpus.hours for corpus in corpora.CORPORA if "codec training" in corpus.used_for}
    assert recipe.validation[0].split in find_corpus("librispeech").splits["validation"]


def test_missing_corpora_give_a_line_each(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "auth_check", lambda repo_id, repo_type: None)
    recipe = load_recipe(PAPER, str(tmp_path))
    (tmp_path / "vctk").mkdir()
    (tmp_path / "vctk/train.parquet").write_bytes(b"x")
    with pytest.raises(FileNotFoundError) as caught:
        check_corpora(recipe)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("aishell3", "msp-podcast", "cmu-mosei"), strict=True):
        corpus = find_corpus(name)
        assert line.startswith(f"{corpus.title} is not at '{tmp_path}/{name}'; {corpus.how_to_get} (licence: ")
    with pytest.raises(SystemExit, match="sign the agreement"):
        train_codec.main(["--recipe", str(PAPER), "--data-root", str(tmp_path), "--output-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
    for name in ("aishell3", "msp-podcast", "cmu-mosei"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.parquet").write_bytes(b"x")
    check_corpora(recipe)
    recipe.train.append(dataclasses.replace(recipe.train[0], corpus="emilia", source=find_corpus("emilia").hub_id))

    def closed(repo_id, repo_type):
        if "Emilia" in repo_id:
            error = corpora.GatedRepoError.__new__(corpora.GatedRepoError)
            error.args = ("gated",)
            raise error

    monkeypatch.setattr(corpora, "auth_check", closed)
    with pytest.raises(FileNotFoundError, match="^Emilia is gated: accept its terms at .*$"):
        check_corpora(recipe)


@pytest.mark.parametrize(
    "text, words",
    [
        ("validation: [{source: a, weight: 1}]", "`validation` takes no `weight`"),
        ("train: [{source: a, weight: 1}]", "`weight`, which needs `streaming: true`"),
        ("streaming: true\ntrain: [{source: a, weight: 1}, {source: b}]", "to all sources or to none"),
        ("streaming: true\nteachers: {folder: f, emotion: e}", "`streaming` has no features of `teachers`"),
        ("train: [{split: train}]", "needs a `source` or a `corpus`"),
        ("train: [{corpus: vctk}]", "'vctk' is not on the Hub and needs a `source`"),
        ("train: [{corpus: libri}]", "must be one of librispeech"),
    ],
)
def test_recipes_name_their_mistakes(tmp_path, text, words):
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {SMOKE}\n{text}\n")
    with pytest.raises(ValueError, match=words):
        load_recipe(child)
