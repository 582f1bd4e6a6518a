import hashlib
import io
import json
import os
import subprocess
import sys

import datasets
import extract_features
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from extract_features import extract, load_teacher, main, parse_teacher
from sharded_output import AudioRows
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    HubertConfig,
    HubertModel,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)

from hf_affectcodec.data.clips import load_clips
from hf_affectcodec.data.features import TeacherFeatures
from hf_affectcodec.teachers.hubert import HubertTeacher
from hf_affectcodec.teachers.mfcc import MfccTeacher
from hf_affectcodec.teachers.text import TextTeacher


CLIPS = 7
TEXTS = ["yes no", "", None, "no", "yes", "no no no", "yes yes"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path):
    """Seven clips of noise, 0.2 to 0.8 s, one of them at 8 kHz."""
    audio = []
    for index in range(CLIPS):
        buffer = io.BytesIO()
        noise = np.random.default_rng(index).standard_normal(3200 + 1601 * index) * 0.1
        soundfile.write(buffer, noise, 8000 if index == 1 else 16_000, format="FLAC")
        audio.append({"bytes": buffer.getvalue(), "path": f"clip{index}.flac"})
    column = pa.array(audio, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"audio": column, "text": TEXTS}), tmp_path / "source.parquet")
    return str(tmp_path / "source.parquet")


@pytest.fixture
def hubert(tmp_path):
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        conv_dim=(4,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=1,
    )
    HubertModel(config).save_pretrained(tmp_path / "hubert")
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(tmp_path / "hubert")
    return tmp_path / "hubert"


@pytest.fixture
def bert(tmp_path):
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "yes", "no"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        tmp_path / "bert"
    )
    config = BertConfig(vocab_size=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def options(source, output_dir, *teachers):
    arguments = ["--source", source, "--split", "train", "--shard-clips", "2", "--output-dir", str(output_dir)]
    return arguments + [word for teacher in teachers for word in ("--teacher", teacher)]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_from_the_command_line_to_a_crop(source, hubert, bert, tmp_path):
    out = tmp_path / "features"
    teachers = [f"semantic=hubert,source={hubert}", "emotion=mfcc,num_coefficients=5", f"text=text,source={bert}"]
    main([*options(source, out, *teachers), "--transcripts", "text"])

    # what `datasets` reads
    rows = datasets.load_dataset("parquet", data_files=str(out / "*.parquet"), split="train")
    assert rows["name"][:] == [f"clip{index}.flac" for index in range(CLIPS)]
    assert rows["text_transcript"][:] == [text or "" for text in TEXTS]
    assert np.asarray(rows[3]["semantic"]).shape == (-(-rows[3]["num_samples"] // 320), 8)
    assert rows.features["emotion"].feature.feature.dtype == "float16" and rows.features["emotion"].feature.length == 5

    # what training reads is what the teachers say
    features = TeacherFeatures.load(out)
    clips = load_clips(source, progress=False)
    expected = {
        "semantic": HubertTeacher.from_pretrained(hubert),
        "emotion": MfccTeacher(5),
        "text": TextTeacher.from_pretrained(bert, recognizer=None),
    }
    assert clips.names == list(features.num_samples)
    assert [len(waveform) for waveform in clips.waveforms] == list(features.num_samples.values())
    for name, waveform, row in AudioRows(source, "train", columns=["text"]).read(0, CLIPS, 16_000):
        assert name in features
        whole = features.crop(name)
        for teacher in ("semantic", "emotion"):
            assert (whole[teacher] == expected[teacher]([waveform])[0].half().float().numpy()).all()
        assert (whole["text"] == expected["text"].embed(row["text"] or "").half().float().numpy()).all()
        crop = features.crop(name, 960, 1600)
        assert (crop["semantic"] == whole["semantic"][3:8]).all()
        assert (crop["semantic"] == features.values["semantic"][name][3:8].astype(np.float32)).all()

    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["clips"] == CLIPS and [shard["clips"] for shard in manifest["shards"]] == [2, 2, 2, 1]
    assert manifest["teachers"]["semantic"] == {"kind": "frames", **expected["semantic"].description}
    assert manifest["teachers"]["text"]["kind"] == "tokens"
    assert manifest["shards"][0]["versions"]["torch"] == torch.__version__.split("+")[0]
    last = AudioRows(source, "train")
    samples = next(last.read(6, 7, 16_000))[1].numpy()
    assert manifest["shards"][3]["audio_sha256"] == hashlib.sha256(samples.tobytes()).hexdigest()
    frames = np.concatenate(list(features.values["emotion"].values())).astype(np.float64)
    assert np.allclose(manifest["statistics"]["emotion"]["mean"], frames.mean(0))
    assert np.allclose(manifest["statistics"]["emotion"]["std"], frames.std(0))

    scaled = TeacherFeatures.load(out, ["emotion"], standardize=["emotion"], statistics=out)
    assert list(scaled.values) == ["emotion"]
    frames = np.concatenate([scaled.crop(name)["emotion"] for name in clips.names])
    assert np.allclose(frames.mean(0), 0, atol=1e-4) and np.allclose(frames.std(0), 1, atol=1e-4)
    with pytest.raises(ValueError, match=r"`standardize`: .* has no \['pitch'\]"):
        TeacherFeatures.load(out, standardize=["pitch"])


class Killed(BaseException):
    pass


class DyingMfcc(MfccTeacher):
    """Dies, as by a signal, at the `fatal`-th clip."""

    def __init__(self, fatal):
        super().__init__(4)
        self.description["teacher"] = "MfccTeacher"
        self.left = fatal

    def __call__(self, waveforms):
        if not self.left:
            raise Killed
        self.left -= 1
        return super().__call__(waveforms)


@pytest.mark.parametrize("fatal", [0, 3, 6])
def test_a_killed_run_goes_on(source, tmp_path, fatal):
    rows = AudioRows(source, "train")
    settings = {"source": source, "transcripts": None}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    manifest = extract(rows, {"emotion": MfccTeacher(4)}, whole, settings, 2, progress=False)
    with pytest.raises(Killed):
        extract(rows, {"emotion": DyingMfcc(fatal)}, broken, settings, 2, progress=False)
    assert len(list(broken.glob("*.parquet"))) == fatal // 2 and not (broken / "manifest.json").exists()
    with pytest.raises(ValueError, match="no manifest"):
        TeacherFeatures.load(broken)
    (broken / ".0123.tmp").write_bytes(b"PAR1 half a file")  # what a kill -9 leaves behind
    second = DyingMfcc(CLIPS - fatal // 2 * 2)  # nothing is computed twice
    assert extract(rows, {"emotion": second}, broken, settings, 2, progress=False) == manifest
    (broken / ".0123.tmp").unlink()
    assert content(broken) == content(whole)
    # again, with nothing left to do
    assert extract(rows, {"emotion": DyingMfcc(0)}, broken, settings, 2, progress=False) == manifest
    assert content(broken) == content(whole)


def test_ranks_share_the_files(source, tmp_path):
    rows = AudioRows(source, "train")
    settings = {"source": source, "transcripts": None}
    one, three = tmp_path / "one", tmp_path / "three"
    manifest = extract(rows, {"emotion": MfccTeacher(4)}, one, settings, 2, progress=False)
    results, written = [], []
    for rank in (2, 0, 1):
        before = set(three.glob("*.parquet"))
        results.append(
            extract(rows, {"emotion": MfccTeacher(4)}, three, settings, 2, rank, world_size=3, progress=False)
        )
        written.append(sorted(int(path.name[9:14]) for path in set(three.glob("*.parquet")) - before))
    assert written == [[2], [0, 3], [1]] and results == [None, None, manifest]
    assert content(one) == content(three)


def test_two_processes(source, tmp_path):
    """By the launcher, so that it shows if accelerate takes each process for the only one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [extract_features.__file__, *options(source, tmp_path / "two", "emotion=mfcc,num_coefficients=4")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
    }
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "(rank 0 of 2)" in run.stderr and "(rank 1" not in run.stderr
    assert run.stdout.count(f"{CLIPS} clips") >= 1
    main(options(source, tmp_path / "one", "emotion=mfcc,num_coefficients=4"))
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_other_settings_are_refused(source, tmp_path):
    rows = AudioRows(source, "train")
    out, settings = tmp_path / "out", {"source": source, "transcripts": None}
    extract(rows, {"emotion": MfccTeacher(4)}, out, settings, 2, progress=False)
    with pytest.raises(ValueError, match="was made with another teachers"):
        extract(rows, {"emotion": MfccTeacher(5)}, out, settings, 2, progress=False)
    with pytest.raises(ValueError, match="was made with another transcripts"):
        extract(rows, {"emotion": MfccTeacher(4)}, out, {**settings, "transcripts": "text"}, 2, progress=False)
    with pytest.raises(ValueError, match="holds features of other settings"):
        extract(rows, {"emotion": MfccTeacher(4)}, out, settings, 4, progress=False)


def test_values_that_float16_cannot_hold(source, tmp_path):
    teacher = MfccTeacher(4)
    for bad in (1e5, float("nan")):
        teacher.transform.dct_mat[:] = bad
        with pytest.raises(ValueError, match="'emotion' of 'clip0.flac': a feature is NaN, infinite or past float16"):
            extract(
                AudioRows(source, "train"),
                {"emotion": teacher},
                tmp_path / "out",
                {"transcripts": None},
                progress=False,
            )
    assert not list((tmp_path / "out").iterdir())


def test_two_clips_of_one_name(source, tmp_path):
    table = pq.read_table(source)
    pq.write_table(pa.concat_tables([table, table.slice(2, 1)]), tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match="two clips named 'clip2.flac'"):
        AudioRows(str(tmp_path / "twice.parquet"), "train")
    with pytest.raises(ValueError, match="no column 'sentence'"):
        AudioRows(source, "train", columns=["sentence"])


def test_the_teacher_option():
    assert parse_teacher("a=frames,source=org/x,frame_rate=12.5,layer=mean") == (
        "a",
        "frames",
        {"source": "org/x", "frame_rate": 12.5, "layer": "mean"},
    )
    for text in ("mfcc", "a=", "a b=mfcc", "a=mfcc,5"):
        with pytest.raises(ValueError, match="takes NAME=KIND"):
            parse_teacher(text)
    with pytest.raises(ValueError, match="there is no 'mffc'; kinds are clap, hubert"):
        load_teacher("mffc")
    with pytest.raises(ValueError, match="mfcc: got an unexpected keyword argument 'layer'"):
        load_teacher("mfcc", layer=3)
    assert load_teacher("mfcc", num_coefficients=7).feature_size == 7
    assert extract_features.LARGEST == 65504
