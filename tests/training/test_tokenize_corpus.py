import io
import json
import os
import runpy
import signal
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sharded_output
import soundfile
import tokenize_corpus
import torch
from safetensors.torch import load_file, save_file
from sharded_output import AudioRows, RowFiles
from tiny import tiny_model
from tokenize_corpus import batches, codes_column, load_corpus_codec, main, parse_encode, parse_keep, tokenize
from transformers import (
    DacConfig,
    DacFeatureExtractor,
    DacModel,
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    MimiConfig,
    MimiModel,
)

from hf_affectcodec import AffectCodecFeatureExtractor
from hf_affectcodec.audio import load_audio


CLIPS = 9
LENGTHS = [3200 + 1602 * ((5 * index) % CLIPS) for index in range(CLIPS)]  # 0.2 to 1 s, out of order
TEXTS = ["one", "", None, "two", "three", "four", "five", "six", "seven"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def flac(index, rate=16_000):
    buffer = io.BytesIO()
    noise = np.random.default_rng(index).standard_normal(LENGTHS[index] * rate // 16_000) * 0.1
    soundfile.write(buffer, noise, rate, format="FLAC")
    return buffer.getvalue()


def write_source(path, contents):
    """A corpus with transcripts, speakers and named classes of emotion."""
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "speaker_id": datasets.Value("int64"),
            "emotion": datasets.ClassLabel(names=["neutral", "angry", "happy"]),
        }
    )
    audio = [{"bytes": content, "path": f"clip{index}.flac"} for index, content in enumerate(contents)]
    columns = {
        "audio": pa.array(audio, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "text": pa.array(TEXTS),
        "speaker_id": pa.array([100 + index for index in range(CLIPS)], pa.int64()),
        "emotion": pa.array([index % 3 for index in range(CLIPS)], pa.int64()),
    }
    pq.write_table(pa.table(columns).replace_schema_metadata(features.arrow_schema.metadata), path)
    return str(path)


@pytest.fixture
def contents():
    return [flac(index, 8000 if index == 1 else 16_000) for index in range(CLIPS)]


@pytest.fixture
def source(tmp_path, contents):
    return write_source(tmp_path / "source.parquet", contents)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "tiny"
    tiny_model(self_guidance=True).save_pretrained(folder)
    AffectCodecFeatureExtractor().save_pretrained(folder)
    return str(folder)


def options(source, model, output_dir, *more):
    arguments = ["--source", source, "--model", model, "--output-dir", str(output_dir), "--shard-clips", "2"]
    return [*arguments, "--max-skipped", "0.5", *more]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(folder):
    return datasets.load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train")


def test_codes_are_those_of_each_clip_alone(source, model, contents, tmp_path, capsys):
    out = tmp_path / "codes"
    main(options(source, model, out, "--keep", "text", "speaker=speaker_id", "emotion", "--shard-clips", "5"))
    rows = read(out)
    assert rows.column_names == [
        *("name", "row", "num_samples", "num_frames", "audio_codes"),
        *("text", "speaker", "emotion"),
    ]
    assert rows["name"][:] == [f"clip{index}.flac" for index in range(CLIPS)]
    assert rows["row"][:] == list(range(CLIPS))
    assert rows["text"][:] == TEXTS and rows["speaker"][:] == [100 + index for index in range(CLIPS)]
    assert rows["emotion"][:] == [0, 1, 2] * 3 and rows.features["emotion"].names == ["neutral", "angry", "happy"]
    assert rows.features["audio_codes"].feature.feature.dtype == "int16"

    oracle = tiny_model(self_guidance=True)
    for index, row in enumerate(rows):
        waveform = load_audio(contents[index], 16_000)
        inputs = AffectCodecFeatureExtractor()(waveform[0].numpy(), sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            whole = oracle(**inputs)
            decoded = oracle.decode(torch.tensor(row["audio_codes"])[None]).audio_values
        assert row["num_samples"] == waveform.shape[1] == LENGTHS[index]
        assert row["num_frames"] == -(-LENGTHS[index] // 320)
        assert (torch.tensor(row["audio_codes"]) == whole.audio_codes[0]).all()
        samples = row["num_samples"]
        assert torch.allclose(decoded[..., :samples], whole.audio_values[..., :samples], atol=1e-6)
    tensor = rows.with_format("torch")[3]["audio_codes"]
    assert tensor.shape == (8, rows[3]["num_frames"]) and (tensor == torch.tensor(rows[3]["audio_codes"])).all()

    manifest = json.loads((out / "manifest.json").read_text())
    assert [shard["clips"] for shard in manifest["shards"]] == [5, 4] and manifest["skipped"] == []
    assert sum(shard["seconds"] for shard in manifest["shards"]) == pytest.approx(sum(LENGTHS) / 16_000)
    assert sum(shard["frames"] for shard in manifest["shards"]) == sum(rows["num_frames"][:])
    stated = {key: manifest["model"][key] for key in ("id", "sampling_rate", "hop_length", "num_quantizers")}
    assert stated == {"id": "tiny", "sampling_rate": 16_000, "hop_length": 320, "num_quantizers": 8}
    assert manifest["model"]["codebook_size"] == 64 and manifest["model"]["revision"] is None
    said = capsys.readouterr().out
    assert f"rank 0 of 1: {CLIPS} clips, 0 skipped, 0.002 h of audio" in said and "hours an hour" in said
    # again, with nothing left to do: nothing is written, not even the manifest
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    main(options(source, model, out, "--keep", "text", "speaker=speaker_id", "emotion", "--shard-clips", "5"))
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert "rank 0 of 1: 0 clips" in capsys.readouterr().out


def test_fewer_codebooks_and_batches_do_not_change_codes(source, model, tmp_path):
    """Padded batches of several clips against one at a time, and a prefix of the codebooks."""
    for name, more in (
        ("batched", ["--shard-clips", "9", "--batch-seconds", "3"]),
        ("alone", ["--shard-clips", "9", "--batch-seconds", "0"]),
        ("four", ["--encode", "num_quantizers=4"]),
    ):
        main(options(source, model, tmp_path / name, *more))
    batched, alone, four = (read(tmp_path / name)["audio_codes"][:] for name in ("batched", "alone", "four"))
    assert batched == alone
    assert [codes[:4] for codes in alone] == four
    assert content(tmp_path / "batched") == content(tmp_path / "alone")


def test_batches_by_length():
    assert batches([5, 1, 9, 2, 2], 6) == [[1, 3, 4], [0], [2]]  # 3 x 2 = 6; 5; 9 is alone though over the limit
    assert batches([5, 1, 2], 0) == [[1], [2], [0]]
    generator = np.random.default_rng(0)
    for _ in range(20):
        lengths = generator.integers(1, 100, 30).tolist()
        groups = batches(lengths, 200)
        assert sorted(index for group in groups for index in group) == list(range(30))
        assert all(len(group) * max(lengths[index] for index in group) <= 200 for group in groups)


def test_codes_column():
    items = [np.arange(6).reshape(2, 3), np.zeros((2, 0), int), np.arange(4).reshape(2, 2)]
    column = codes_column([item.astype(np.int16) for item in items], np.dtype(np.int16))
    assert column.to_pylist() == [[[0, 1, 2], [3, 4, 5]], [[], []], [[0, 1], [2, 3]]]
    assert codes_column([], np.dtype(np.int32)).type == pa.list_(pa.list_(pa.int32()))


@pytest.mark.slow
def test_two_processes(source, model, tmp_path):
    """By the launcher; in one process, `test_ranks_share_the_files`, and the launcher, `test_extract_features.py`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [tokenize_corpus.__file__, *options(source, model, tmp_path / "two", "--keep", "text")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
    }
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "rank 0 of 2: 5 clips" in run.stdout and "rank 1 of 2: 4 clips" in run.stdout  # 5 files of 2, 2, 2, 2 and 1
    main(options(source, model, tmp_path / "one", "--keep", "text"))
    assert content(tmp_path / "one") == content(tmp_path / "two")


def run_and_die(source, model, out, monkeypatch, after, half_written):
    """A child process that gets SIGKILL at the `after`-th file: with half of it written, or before it is begun."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        torch.set_num_threads(1)
        written = []
        write_table = pq.write_table

        def dying(table, path, **keywords):
            if len(written) == after:
                if half_written:
                    path.write_bytes(b"PAR1 half a file")
                os.kill(os.getpid(), signal.SIGKILL)
            written.append(path)
            write_table(table, path, **keywords)

        monkeypatch.setattr(sharded_output.pq, "write_table", dying)
        try:
            tokenize(RowFiles(AudioRows(source, "train"), 2), load_corpus_codec(model), out, {}, progress=False)
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize("after, half_written", [(0, False), (2, True)])
def test_a_killed_run_goes_on(source, model, tmp_path, monkeypatch, after, half_written):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    files, codec = RowFiles(AudioRows(source, "train"), 2), load_corpus_codec(model)
    manifest, work = tokenize(files, codec, whole, {}, progress=False)
    assert work.clips == CLIPS and len(manifest["shards"]) == 5
    status = run_and_die(source, model, broken, monkeypatch, after, half_written)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert len(list(broken.glob("*.parquet"))) == after and not (broken / "manifest.json").exists()
    assert len(list(broken.glob(".*.tmp"))) == half_written
    if after:
        assert read(broken)["row"][:] == list(range(2 * after))  # what is there can be read
    manifest, work = tokenize(files, codec, broken, {}, progress=False)
    assert work.clips == CLIPS - 2 * after  # what was finished is not done again
    for leftover in broken.glob(".*.tmp"):
        leftover.unlink()
    assert content(broken) == content(whole)


def test_ranks_share_the_files(source, model, tmp_path):
    files, codec = RowFiles(AudioRows(source, "train"), 2), load_corpus_codec(model)
    written, manifests = [], []
    for rank in (2, 0, 1):
        before = set(tmp_path.glob("out/*.parquet"))
        result = tokenize(files, codec, tmp_path / "out", {}, rank=rank, world_size=3, progress=False)
        manifests.append(result[0] is not None)
        written.append(sorted(int(path.name[6:11]) for path in set(tmp_path.glob("out/*.parquet")) - before))
    assert written == [[2], [0, 3], [1, 4]] and manifests == [False, False, True]


def test_corrupt_clips_are_left_out_and_named(tmp_path, model, contents, capfd):
    contents[2] = contents[2][: len(contents[2]) // 2]
    contents[3] = b""
    contents[6] = None
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(319), 16_000, format="WAV")
    contents[8] = buffer.getvalue()
    source = write_source(tmp_path / "corrupt.parquet", contents)
    with pytest.raises(
        ValueError, match=r"`--max-skipped`: 2 of 2 clips of codes-00001-of-00005.parquet cannot be read"
    ):
        main(options(source, model, tmp_path / "stopped"))
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["codes-00000-of-00005.parquet"]

    out = tmp_path / "out"
    main(options(source, model, out, "--keep", "speaker_id", "--max-skipped", "1"))
    rows, good = read(out), [0, 1, 4, 5, 7]
    assert rows["row"][:] == good and rows["speaker_id"][:] == [100 + index for index in good]
    assert rows["num_samples"][:] == [LENGTHS[index] for index in good]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["clips"] == CLIPS and manifest["num_skipped"] == 4
    reasons = {item["row"]: item["skipped"] for item in manifest["skipped"]}
    assert list(reasons) == [2, 3, 6, 8] and all(f"clip{row}.flac: " in reason for row, reason in reasons.items())
    assert "fewer than one frame" in reasons[8] and "no such file" in reasons[6] and "empty file" in reasons[3]
    captured = capfd.readouterr()
    assert "rank 0 of 1: 5 clips, 4 skipped" in captured.out and "skipped: clip2.flac: " in captured.err
    # the good ones are what they are without bad neighbours
    main(options(write_source(tmp_path / "whole.parquet", [flac(i, 8000 if i == 1 else 16_000) for i in range(CLIPS)]),
                 model, tmp_path / "whole"))  # fmt: skip
    assert read(tmp_path / "whole").select(good)["audio_codes"][:] == rows["audio_codes"][:]


def test_another_model_or_corpus_is_refused(source, model, contents, tmp_path, monkeypatch):
    out = tmp_path / "out"
    main(options(source, model, out))
    before = content(out)
    other = tiny_model(self_guidance=True)
    with torch.no_grad():
        other.quantizer.layers[0].embed[0] += 1e-3
    other.save_pretrained(tmp_path / "other" / "tiny")  # of the same name
    AffectCodecFeatureExtractor().save_pretrained(tmp_path / "other" / "tiny")
    renamed = write_source(tmp_path / "renamed.parquet", contents)
    for changed, match in (
        (options(source, str(tmp_path / "other" / "tiny"), out), "was made with another model"),
        (options(source, model, out, "--encode", "num_quantizers=4"), "was made with another model"),
        (options(renamed, model, out), "was made with another source"),
        (options(source, model, out, "--keep", "text"), "was made with another keep"),
        (options(source, model, out, "--split", "train[:8]"), "holds codes of other settings|another split"),
        (options(source, model, out, "--shard-clips", "3"), "holds codes of other settings"),
    ):
        with pytest.raises(ValueError, match=match):
            main(changed)
    assert content(out) == before
    # as a script: one line and the exit status of a Python error
    monkeypatch.setattr(sys, "argv", ["tokenize_corpus.py", *options(source, model, out, "--keep", "text")])
    with pytest.raises(SystemExit, match="^tokenize_corpus: error: `output_dir`: .* was made with another keep"):
        runpy.run_path(tokenize_corpus.__file__, run_name="__main__")


def encodec(folder, **changes):
    config = EncodecConfig(
        num_filters=4,
        hidden_size=16,
        num_lstm_layers=1,
        codebook_size=64,
        upsampling_ratios=[8, 5, 4, 2],
        target_bandwidths=[0.9, 1.8],  # 75 frames of 6 bits: 2 and 4 codebooks
        **changes,
    )
    torch.manual_seed(0)
    model = EncodecModel(config).eval()
    with torch.no_grad():
        residual = model.encoder(torch.randn(1, 1, 24_000) * 0.1)[0].T
        for layer in model.quantizer.layers:  # entries among the latents, so that codes differ between frames
            layer.codebook.embed.copy_(residual[torch.randperm(len(residual))[:64]])
            residual = residual - layer.codebook.decode(layer.codebook.encode(residual))
    model.save_pretrained(folder)
    EncodecFeatureExtractor(sampling_rate=24_000).save_pretrained(folder)
    return model


def dac(folder):
    config = DacConfig(
        encoder_hidden_size=4,
        decoder_hidden_size=32,
        downsampling_ratios=[2, 4, 5, 8],
        upsampling_ratios=[8, 5, 4, 2],
        n_codebooks=3,
        codebook_size=64,
        sampling_rate=16_000,
    )
    torch.manual_seed(0)
    model = DacModel(config).eval()
    model.save_pretrained(folder)
    DacFeatureExtractor(sampling_rate=16_000, hop_length=320).save_pretrained(folder)
    return model


def mimi(folder):
    config = MimiConfig(
        num_filters=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=16,
        codebook_size=64,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=4,
        upsample_groups=16,
    )
    torch.manual_seed(0)
    model = MimiModel(config).eval()
    quantizer = model.quantizer
    for part in (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer):
        for layer in part.layers:
            torch.nn.init.normal_(layer.codebook.embed_sum)
    model.save_pretrained(folder)
    EncodecFeatureExtractor(sampling_rate=24_000).save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "build, rate, hop_length, num_quantizers, more, arguments",
    [
        (encodec, 24_000, 320, 2, [], {}),
        (encodec, 24_000, 320, 4, ["--encode", "bandwidth=1.8"], {"bandwidth": 1.8}),
        (dac, 16_000, 320, 3, [], {}),
        (mimi, 24_000, 1920, 4, [], {}),
    ],
)
def test_other_codecs(source, contents, tmp_path, build, rate, hop_length, num_quantizers, more, arguments):
    model = build(tmp_path / "model")
    out = tmp_path / "out"
    main(options(source, str(tmp_path / "model"), out, *more))
    for index, row in enumerate(read(out)):
        values = load_audio(contents[index], rate)[None]
        if build is dac:  # its extractor pads to whole frames
            values = torch.nn.functional.pad(values, (0, -values.shape[-1] % 320))
        with torch.no_grad():
            expected = model.encode(values, **arguments).audio_codes.squeeze()  # the chunk, the batch
        codes = torch.tensor(row["audio_codes"])
        assert codes.shape == expected.shape == (num_quantizers, row["num_frames"])
        assert (codes == expected).all()
        assert codes.unique().numel() > 4  # codes that say something
    described = json.loads((out / "manifest.json").read_text())["model"]
    assert (described["sampling_rate"], described["hop_length"]) == (rate, hop_length)
    assert described["num_quantizers"] == num_quantizers and described["encode"] == arguments


def test_models_that_do_not_fit(tmp_path, model):
    encodec(tmp_path / "scaled", normalize=True)
    with pytest.raises(ValueError, match="`--model`: EncodecModel as configured decodes from scales too"):
        load_corpus_codec(str(tmp_path / "scaled"))
    encodec(tmp_path / "encodec")
    with pytest.raises(ValueError, match="`--batch-seconds`: in a padded batch 'encodec' gives other codes"):
        load_corpus_codec(str(tmp_path / "encodec"), batch_seconds=5.0)
    with pytest.raises(ValueError, match="`--encode`: EncodecModel.encode takes no 'num_quantizers'"):
        load_corpus_codec(str(tmp_path / "encodec"), arguments={"num_quantizers": 4})
    weights = tmp_path / "tiny" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["quantizer.layers.3.embed"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of .*: quantizer.layers.3.embed"):
        load_corpus_codec(model)


def test_the_options():
    assert parse_keep(["text", "speaker=speaker_id"]) == {"text": "text", "speaker": "speaker_id"}
    for texts, match in ((["a", "a=b"], "'a' is taken"), (["audio_codes"], "is taken"), (["=a"], "takes COLUMN or")):
        with pytest.raises(ValueError, match=match):
            parse_keep(texts)
    assert parse_encode(["bandwidth=6.0", "num_quantizers=4"]) == {"bandwidth": 6.0, "num_quantizers": 4}
    with pytest.raises(ValueError, match="takes key=value"):
        parse_encode(["bandwidth"])
    for more, match in (
        (["--shard-clips", "0"], "`--shard-clips` must be at least 1"),
        (["--batch-seconds", "-1"], "`--batch-seconds` must be at least 0"),
    ):
        with pytest.raises(ValueError, match=match):
            main(["--source", "x", "--output-dir", "y", *more])
