"""`tokenize_corpus.py --streaming`: a file for each of the source's, dealt out over ranks, taken up again, from the Hub too."""

import io
import json
import os
import subprocess
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenize_corpus
from loopback_hub import LoopbackHub
from sharded_output import AudioRows, RowFiles, StreamedRowFiles
from test_tokenize_corpus import CLIPS, cache, content, contents, model, read, write_source  # noqa: F401
from tokenize_corpus import load_corpus_codec, main, tokenize


ROWS_OF_FILES = ([0, 1, 2], [3, 4], [], [5, 6, 7, 8])
KEPT = {"text": "text", "speaker": "speaker_id", "emotion": "emotion"}


@pytest.fixture
def sources(tmp_path, contents):  # noqa: F811
    """Four Parquet files, one of them without rows."""
    whole = pq.read_table(write_source(tmp_path / "whole.parquet", contents))
    folder = tmp_path / "sources"
    folder.mkdir()
    for index, rows in enumerate(ROWS_OF_FILES):
        table = whole.take(pa.array(rows, pa.int64()))
        if rows:
            pq.write_table(table, folder / f"train-{index:05d}.parquet", row_group_size=2)
        else:
            pq.ParquetWriter(folder / f"train-{index:05d}.parquet", table.schema).close()
    return folder


def options(sources, model, out, *more):  # noqa: F811
    keep = [f"{ours}={theirs}" for ours, theirs in KEPT.items()]
    arguments = ["--source", f"{sources}/*.parquet", "--model", model, "--output-dir", str(out), "--streaming"]
    return [*arguments, "--keep", *keep, *more]


@pytest.fixture
def whole(tmp_path, model):  # noqa: F811
    """What the way without streaming makes of the same rows."""

    def tokenized(sources):
        arguments = [word for word in options(sources, model, tmp_path / "not-streamed") if word != "--streaming"]
        main(arguments)
        return read(tmp_path / "not-streamed")

    return tokenized


def test_codes_are_those_of_the_way_without_streaming(sources, model, tmp_path, whole, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(tokenize_corpus, "WINDOW_CLIPS", 2)  # several windows a file
    out = tmp_path / "out"
    main(options(sources, model, out))
    assert "rank 0 of 1: 9 clips, 0 skipped" in capsys.readouterr().out
    names = [f"codes-{index:05d}-of-00004.parquet" for index in range(4)]
    assert sorted(path.name for path in out.iterdir()) == [*names, "manifest.json"]
    streamed, expected = read(out), whole(sources)
    assert streamed.features == expected.features
    for column in set(streamed.column_names) - {"row"}:
        assert streamed[column][:] == expected[column][:], column
    assert streamed["row"][:] == [0, 1, 2, 0, 1, 0, 1, 2, 3]  # within its file
    manifest = json.loads((out / "manifest.json").read_text())
    assert [shard["clips"] for shard in manifest["shards"]] == [3, 2, 0, 4]
    assert manifest["commit"] is None and manifest["files"] == 4
    # again: nothing is written
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    main(options(sources, model, out))
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_tar_files(tmp_path, model, contents):  # noqa: F811
    """As Emilia comes: two tars, each clip beside a JSON file."""
    write_source(tmp_path / "whole.parquet", contents)
    (tmp_path / "tars").mkdir()
    for tar, clips in enumerate(([0, 1, 2], [3, 4])):
        with tarfile.open(tmp_path / "tars" / f"train-{tar}.tar", "w") as archive:
            for clip in clips:
                facts = json.dumps({"text": f"line {clip}", "speaker": clip % 2}).encode()
                for name, data in ((f"{clip}.flac", contents[clip]), (f"{clip}.json", facts)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    source = ["--source", str(tmp_path / "tars"), "--audio-column", "flac", "--keep", "facts=json", "--streaming"]
    main([*source, "--model", model, "--output-dir", str(tmp_path / "out")])
    rows = read(tmp_path / "out")
    assert rows["facts"][:] == [{"text": f"line {clip}", "speaker": clip % 2} for clip in range(5)]
    assert rows["row"][:] == [0, 1, 2, 0, 1] and len(list((tmp_path / "out").glob("*.parquet"))) == 2
    files, codec = RowFiles(AudioRows(str(tmp_path / "whole.parquet"), "train"), 9), load_corpus_codec(model)
    tokenize(files, codec, tmp_path / "expected", {}, progress=False)
    assert rows["audio_codes"][:] == read(tmp_path / "expected")["audio_codes"][:5]


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_share_the_files_and_any_number_gives_the_same(sources, model, tmp_path, ranks):  # noqa: F811
    files, codec = StreamedRowFiles(f"{sources}/*.parquet", "train"), load_corpus_codec(model)
    tokenize(files, codec, tmp_path / "one", {}, progress=False)
    clips = []
    for rank in reversed(range(ranks)):
        manifest, work = tokenize(files, codec, tmp_path / "out", {}, rank=rank, world_size=ranks, progress=False)
        clips.append(work.clips)
        assert (manifest is not None) == (rank == 0)
    sizes = [len(rows) for rows in ROWS_OF_FILES]
    assert clips[::-1] == [sum(sizes[rank::ranks]) for rank in range(ranks)]
    assert content(tmp_path / "out") == content(tmp_path / "one")


def test_it_goes_on_with_the_files_that_are_missing(sources, model, tmp_path, monkeypatch):  # noqa: F811
    files, codec = StreamedRowFiles(f"{sources}/*.parquet", "train"), load_corpus_codec(model)
    tokenize(files, codec, tmp_path / "out", {}, progress=False)
    before = content(tmp_path / "out")
    (tmp_path / "out" / "codes-00001-of-00004.parquet").unlink()
    (tmp_path / "out" / "manifest.json").unlink()
    asked = []
    clean = StreamedRowFiles.windows
    monkeypatch.setattr(
        StreamedRowFiles, "windows", lambda self, index, size: asked.append(index) or clean(self, index, size)
    )
    manifest, work = tokenize(files, codec, tmp_path / "out", {}, progress=False)
    assert asked == [1] and work.clips == 2 and content(tmp_path / "out") == before


def test_what_does_not_go_is_refused(sources, model, tmp_path):  # noqa: F811
    files, codec = StreamedRowFiles(f"{sources}/*.parquet", "train"), load_corpus_codec(model)
    with pytest.raises(ValueError, match="`--streaming` deals out whole files: 4 of the source are too few for 5"):
        tokenize(files, codec, tmp_path / "out", {}, world_size=5, progress=False)
    assert not (tmp_path / "out").exists()
    for more, words in (
        (["--shard-clips", "2"], "`--shard-clips` does not go with `--streaming`"),
        (["--source-revision", "main"], "`revision` goes with a Hub id"),
        (["--split", "train[:3]"], "have no slices"),
        (["--keep", "volume"], "'volume'"),
    ):
        with pytest.raises(ValueError, match=words):
            main(options(sources, model, tmp_path / "out", *more))
    main(options(sources, model, tmp_path / "out"))
    (sources / "train-00003.parquet").rename(sources / "train-00004.parquet")
    with pytest.raises(ValueError, match="was made with another files_sha256"):
        main(options(sources, model, tmp_path / "out"))


def test_corrupt_clips_are_left_out_and_named(sources, model, contents, tmp_path, capsys):  # noqa: F811
    contents[5], contents[6] = contents[5][:500], None
    table = pq.read_table(write_source(tmp_path / "bad.parquet", contents)).slice(5, 4)
    pq.write_table(table, sources / "train-00003.parquet")
    with pytest.raises(
        ValueError, match="`--max-skipped`: 2 of 4 clips of codes-00003-of-00004.parquet cannot be read"
    ):
        main(options(sources, model, tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3 and not (tmp_path / "out/manifest.json").exists()
    main(options(sources, model, tmp_path / "out", "--max-skipped", "0.5"))
    skipped = json.loads((tmp_path / "out/manifest.json").read_text())["skipped"]
    assert [(item["name"], item["row"]) for item in skipped] == [("clip5.flac", 0), ("clip6.flac", 1)]
    assert read(tmp_path / "out")["name"][:] == [f"clip{index}.flac" for index in range(CLIPS) if index not in (5, 6)]
    assert "2 clips, 2 skipped" in capsys.readouterr().out


def test_a_remote_clip_that_cannot_be_fetched_stops_the_run(tmp_path, model, contents, monkeypatch):  # noqa: F811
    """A line that is down is no fault of the clip: it must not be left out of the corpus."""
    table = pa.table({"audio": [{"bytes": None, "path": "hf://datasets/org/set/0.flac"}]})
    pq.write_table(table, tmp_path / "remote.parquet")
    files, codec = StreamedRowFiles(str(tmp_path / "remote.parquet"), "train"), load_corpus_codec(model)

    def down(file, mode):
        raise OSError("no route")

    monkeypatch.setattr("fsspec.open", down)
    with pytest.raises(ConnectionError, match="^hf://datasets/org/set/0.flac: cannot be fetched .no route.$"):
        tokenize(files, codec, tmp_path / "out", {}, max_skipped=1.0, progress=False)
    assert not list((tmp_path / "out").iterdir())


# --- from the Hub ----------------------------------------------------------------------------------------------------

CLIENT = """
import json, os, sys, urllib.request
sys.path.insert(0, sys.argv[1])
from tokenize_corpus import main
for turn, arguments in enumerate(json.loads(sys.argv[2])):
    try:
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + f"/turn-{turn}")
    except urllib.error.HTTPError:
        pass  # to be seen in the server's list of requests
    if "DELETE" in arguments:
        os.remove(arguments.pop())
        arguments.pop()
    try:
        main(arguments)
    except (ValueError, OSError) as error:
        print("error:", error)
"""


def test_from_the_hub(sources, model, tmp_path, whole):  # noqa: F811
    """A data set that changes under it, an error and a cut connection; only the missing file is asked for again."""
    files = {f"data/{path.name}": path.read_bytes() for path in sorted(sources.iterdir())}
    out, arguments = tmp_path / "out", options(sources, model, tmp_path / "out")
    arguments[1] = "org/speech"
    with LoopbackHub() as hub:
        repository = hub.add("dataset", "org/speech", files)
        commit = repository.commits[-1][0]
        hub.commit(repository, {**files, "data/train-00003.parquet": files["data/train-00000.parquet"]}, "changed")
        pinned = [*arguments, "--source-revision", commit]
        hub.fail("GET", r"resolve/.*00000\.parquet", times=1, status=500)
        hub.fail("GET", r"resolve/.*00003\.parquet", times=1, cut_after=1000)
        turns = [pinned, pinned, [*pinned, "DELETE", str(out / "codes-00001-of-00004.parquet")], arguments]
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, os.path.dirname(tokenize_corpus.__file__), json.dumps(turns)],
            env=hub.environment(tmp_path / "home") | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert [fault.times for fault in hub.faults] == [0, 0]
        asked = [[]]
        for method, path, _ in hub.requests:
            if path.startswith("/turn-"):
                asked.append([])
            elif method == "GET" and path.endswith(".parquet"):
                asked[-1].append((path.split("/resolve/")[1].split("/")[0], path[-13:-8]))
    said = [line for line in done.stdout.splitlines() if line.startswith(("rank", "error"))]
    assert "9 clips, 0 skipped" in said[0] and "rank 0 of 1: 0 clips" in said[1] and "2 clips" in said[2]
    assert said[3].startswith("error: `output_dir`: ") and f"made with another commit ({commit})" in said[3]
    assert {file for _, file in asked[1]} == {"00000", "00001", "00002", "00003"}
    assert {sha for sha, _ in asked[1]} == {commit}
    # the schema is read from the first file at every start, rows only from what is missing
    assert {file for _, file in asked[2]} <= {"00000"} and {file for _, file in asked[3]} <= {"00000", "00001"}
    assert "00001" in {file for _, file in asked[3]}
    assert read(out)["audio_codes"][:] == whole(sources)["audio_codes"][:]
    assert json.loads((out / "manifest.json").read_text())["commit"] == commit
