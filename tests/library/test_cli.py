import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from hf_affectcodec import inference
from hf_affectcodec.audio import load_audio
from hf_affectcodec.cli import main
from hf_affectcodec.codes_file import AudioCodes, load_codes, save_codes
from hf_affectcodec.conversion import num_channels
from hf_affectcodec.inference import load_codec
from hf_affectcodec.shipped import demo_clip_path, pretrained_path


WITHOUT_GUIDANCE = {"guidance_sources": [], "alignment_feature_size": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model(**WITHOUT_GUIDANCE).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def clip(tmp_path):
    return write_noise(tmp_path / "clip.wav")


def write_noise(path, seconds=0.5, rate=16000, channels=1, **options):
    samples = np.random.default_rng(0).normal(size=(round(seconds * rate), channels)) * 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def everything(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def run(capsys, *arguments):
    """Status, stdout, and the lines of stderr that are not the progress bar's."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse
        status = error.code
    out, err = capsys.readouterr()
    lines = [line.rsplit("\r", 1)[-1] for line in err.splitlines()]
    return status, out, [line for line in lines if line.strip() and "file/s]" not in line]


def assert_fails(capsys, *arguments, names):
    status, out, lines = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert len(lines) == 1
    assert lines[0].startswith("affectcodec: error: ")
    assert str(names) in lines[0]


def test_encode_then_decode_is_reconstruct(tmp_path, model, clip, capsys):
    codes, decoded, rebuilt = tmp_path / "c.safetensors", tmp_path / "decoded.wav", tmp_path / "rebuilt.wav"
    for arguments in (("encode", clip, codes), ("decode", codes, decoded), ("reconstruct", clip, rebuilt)):
        status, out, lines = run(capsys, *arguments, "--model", model)
        assert status == 0 and lines == []
        assert out.startswith(f"{arguments[2]}: 0.50 s of audio at 2.40 kbps, ") and out.count("\n") == 1
    assert decoded.read_bytes() == rebuilt.read_bytes()
    assert soundfile.info(rebuilt).frames == 8000
    assert everything(tmp_path) == {"clip.wav", "c.safetensors", "decoded.wav", "rebuilt.wav"}


def test_codes_are_the_models(tmp_path, model, clip, capsys):
    assert run(capsys, "encode", clip, tmp_path / "c.safetensors", "--model", model)[0] == 0
    stored = load_codes(tmp_path / "c.safetensors")
    codec = load_codec(model)
    waveform = load_audio(clip)
    expected = codec.model.encode(waveform[None]).audio_codes[0]
    assert torch.equal(stored.audio_codes.long(), expected)
    assert (stored.num_samples, stored.sampling_rate, stored.hop_length) == (8000, 16000, 320)
    assert (stored.codebook_size, stored.model) == (64, "tiny")
    audio = codec.model.decode(expected[None]).audio_values[0, :, :8000]
    assert torch.allclose(codec.decode(stored), audio, atol=1e-6)


def test_length_that_no_frame_divides(tmp_path, model, capsys):
    clip = write_noise(tmp_path / "clip.wav", seconds=0.12345)
    assert run(capsys, "reconstruct", clip, tmp_path / "out.wav", "--model", model)[0] == 0
    assert soundfile.info(tmp_path / "out.wav").frames == soundfile.info(clip).frames


def test_long_clips_go_through_in_windows(tmp_path, model, monkeypatch):
    waveform = load_audio(write_noise(tmp_path / "clip.wav", seconds=3.01))
    codec = load_codec(model)
    whole = codec.encode(waveform)
    audio = codec.decode(whole)
    calls = []
    for name in ("encode_long", "decode_long"):
        original = getattr(codec.model, name)
        monkeypatch.setattr(
            codec.model, name, lambda *a, o=original, **k: calls.append(k) or o(*a, chunk_seconds=1, **k)
        )
    monkeypatch.setattr(inference, "LONG_SECONDS", 2.0)
    windowed = codec.encode(waveform)
    assert torch.equal(windowed.audio_codes, whole.audio_codes) and windowed.num_samples == whole.num_samples
    assert torch.allclose(codec.decode(windowed), audio, atol=1e-5) and len(calls) == 2


def test_num_quantizers(tmp_path, model, clip, capsys):
    codes = tmp_path / "c.safetensors"
    status, out, _ = run(capsys, "encode", clip, codes, "--model", model, "--num-quantizers", 3)
    assert status == 0 and "0.90 kbps" in out
    assert load_codes(codes).audio_codes.shape == (3, 25)
    assert run(capsys, "decode", codes, tmp_path / "three.wav", "--model", model)[0] == 0
    arguments = ("reconstruct", clip, tmp_path / "r.wav", "--model", model, "--num-quantizers", 3)
    assert run(capsys, *arguments)[0] == 0
    assert (tmp_path / "three.wav").read_bytes() == (tmp_path / "r.wav").read_bytes()
    status, out, _ = run(capsys, "decode", codes, tmp_path / "two.wav", "--model", model, "--num-quantizers", 2)
    assert status == 0 and "0.60 kbps" in out
    assert (tmp_path / "two.wav").read_bytes() != (tmp_path / "three.wav").read_bytes()
    more = ("decode", codes, tmp_path / "four.wav", "--model", model, "--num-quantizers", 4)
    assert_fails(capsys, *more, names=codes)
    too_many = ("encode", clip, tmp_path / "d.safetensors", "--model", model, "--num-quantizers", 9)
    assert_fails(capsys, *too_many, names="--num-quantizers must lie in 1..8")
    for value in ("0", "-1", "x", "1.5"):
        arguments = ("encode", clip, tmp_path / "d.safetensors", "--model", model, f"--num-quantizers={value}")
        assert_fails(capsys, *arguments, names="--num-quantizers")


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3", ".aiff"])
def test_formats_rates_and_channels(tmp_path, model, suffix, capsys):
    clip = write_noise(tmp_path / f"clip{suffix}", rate=44100, channels=2)
    status, out, lines = run(capsys, "reconstruct", clip, tmp_path / f"out{suffix}", "--model", model)
    assert status == 0
    assert lines == [f"affectcodec: note: {clip}: 2 channels mixed down to mono"]
    info = soundfile.info(tmp_path / f"out{suffix}")
    assert (info.samplerate, info.channels) == (16000, 1)
    assert abs(info.frames - 8000) < 1200  # mp3 adds its padding


def test_stereo_is_the_mean(tmp_path, model, capsys):
    samples = np.random.default_rng(1).normal(size=(8000, 2)) * 0.1
    soundfile.write(tmp_path / "stereo.wav", samples, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", samples.astype(np.float32).mean(1), 16000, subtype="FLOAT")
    for name in ("stereo", "mono"):
        assert run(capsys, "encode", tmp_path / f"{name}.wav", tmp_path, "--model", model)[0] == 0
    stereo, mono = load_codes(tmp_path / "stereo.safetensors"), load_codes(tmp_path / "mono.safetensors")
    assert torch.equal(stereo.audio_codes, mono.audio_codes)


def test_folder(tmp_path, model, capsys):
    source, codes, out = tmp_path / "in", tmp_path / "codes", tmp_path / "out"
    write_noise(source / "a.wav")
    write_noise(source / "deep" / "er" / "b.c.flac", rate=44100, channels=2)
    write_noise(source / "deep" / "d.ogg", rate=8000)
    write_noise(source / ".hidden" / "e.wav")
    (source / "notes.txt").write_text("not audio")
    status, stdout, lines = run(capsys, "encode", source, codes, "--model", model)
    assert status == 0
    assert lines == ["affectcodec: note: 1 of 3 files had several channels, mixed to mono"]
    assert stdout.startswith(f"{codes}: 3 files, 1.50 s of audio at 2.40 kbps")
    assert everything(codes) == {"a.safetensors", "deep/er/b.c.safetensors", "deep/d.safetensors"}

    assert run(capsys, "decode", codes, out, "--model", model, "--suffix", ".flac")[0] == 0
    assert everything(out) == {"a.flac", "deep/er/b.c.flac", "deep/d.flac"}
    assert run(capsys, "reconstruct", source, tmp_path / "again", "--model", model)[0] == 0
    assert everything(tmp_path / "again") == {"a.wav", "deep/er/b.c.wav", "deep/d.wav"}
    for name in everything(out):
        rebuilt, _ = soundfile.read((tmp_path / "again" / name).with_suffix(".wav"))
        decoded, _ = soundfile.read(out / name)
        assert np.array_equal(rebuilt, decoded)


def test_progress_bar(tmp_path, model, capsys):
    write_noise(tmp_path / "in" / "a.wav")
    write_noise(tmp_path / "in" / "b.wav")
    assert main(["encode", str(tmp_path / "in"), str(tmp_path / "out"), "--model", model]) == 0
    err = capsys.readouterr().err
    assert "encode: 100%" in err and "2/2" in err
    assert "Loading" not in err


def test_folder_with_bad_files(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.wav", "m/b.wav", "z.flac"):
        write_noise(source / name)
    (source / "bad.wav").write_bytes(b"this is not audio" * 50)
    (source / "cut.wav").write_bytes((source / "a.wav").read_bytes()[:5000])
    (source / "empty.flac").touch()
    soundfile.write(source / "nan.wav", np.full(8000, np.nan), 16000, subtype="FLOAT")
    write_noise(source / "worse" / "short.wav", seconds=0.01)
    status, stdout, lines = run(capsys, "reconstruct", source, out, "--model", model)
    assert status == 2
    assert stdout.startswith(f"{out}: 3 files, ")
    bad = ["bad.wav", "cut.wav", "empty.flac", "nan.wav", "worse/short.wav"]
    assert len(lines) == len(bad) + 1
    for name, line in zip(bad, lines, strict=False):
        assert line.startswith(f"affectcodec: error: {source / name}: ")
    assert lines[-1] == f"affectcodec: error: {source}: 5 of 8 files failed"
    assert everything(out) == {"a.wav", "m/b.wav", "z.wav"}
    assert not (out / "worse").exists()


def test_folder_of_codes_with_bad_files(tmp_path, model, clip, capsys):
    codes = tmp_path / "codes"
    codes.mkdir()
    assert run(capsys, "encode", clip, codes / "good.safetensors", "--model", model)[0] == 0
    content = (codes / "good.safetensors").read_bytes()
    (codes / "cut.safetensors").write_bytes(content[:-5])
    save_file({"weight": torch.zeros(2)}, codes / "weights.safetensors")
    status, _, lines = run(capsys, "decode", codes, tmp_path / "out", "--model", model)
    assert status == 2
    assert [line.split(": ")[2] for line in lines] == [
        str(codes / "cut.safetensors"),
        str(codes / "weights.safetensors"),
        str(codes),
    ]
    assert everything(tmp_path / "out") == {"good.wav"}


def test_overwrite(tmp_path, model, clip, capsys):
    out = tmp_path / "out.wav"
    out.write_bytes(b"mine")
    assert_fails(capsys, "reconstruct", clip, out, "--model", model, names=f"{out}: exists already")
    assert out.read_bytes() == b"mine"
    assert run(capsys, "reconstruct", clip, out, "--model", model, "--overwrite")[0] == 0
    assert soundfile.info(out).frames == 8000


def test_overwrite_in_a_folder(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    write_noise(source / "a.wav")
    write_noise(source / "b.wav")
    out.mkdir()
    (out / "a.wav").write_bytes(b"mine")
    status, _, lines = run(capsys, "reconstruct", source, out, "--model", model)
    assert status == 2
    assert lines[0].startswith(f"affectcodec: error: {out / 'a.wav'}: exists already")
    assert (out / "a.wav").read_bytes() == b"mine"
    assert soundfile.info(out / "b.wav").frames == 8000


def test_what_is_read_is_never_replaced(tmp_path, model, capsys):
    folder = tmp_path / "in"
    clip = write_noise(folder / "a.wav")
    write_noise(folder / "a.flac")
    before = clip.read_bytes()
    for source, target in ((clip, clip), (clip, folder), (folder, folder), (folder, tmp_path / "in" / ".." / "in")):
        status, _, lines = run(capsys, "reconstruct", source, target, "--model", model, "--overwrite")
        assert status == 2
        assert "a.wav: would replace a file that is to be read" in lines[0]
        assert clip.read_bytes() == before


def test_two_files_with_one_result(tmp_path, model, capsys):
    source = tmp_path / "in"
    write_noise(source / "a.flac")
    write_noise(source / "a.ogg")
    status, _, lines = run(capsys, "reconstruct", source, tmp_path / "out", "--model", model, "--overwrite")
    assert status == 2
    assert str(source / "a.ogg") in lines[0] and str(source / "a.flac") in lines[0]
    assert everything(tmp_path / "out") == {"a.wav"}


def test_results_inside_the_folder_are_not_taken_again(tmp_path, model, capsys):
    source = tmp_path / "in"
    write_noise(source / "a.wav")
    for _ in range(2):
        arguments = ("reconstruct", source, source / "rebuilt", "--model", model, "--overwrite")
        assert run(capsys, *arguments)[0] == 0
    assert everything(source) == {"a.wav", "rebuilt/a.wav"}


def test_wrong_paths(tmp_path, model, clip, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    cases = [
        (("encode", tmp_path / "absent.wav", tmp_path / "c.safetensors"), tmp_path / "absent.wav"),
        (("encode", clip, tmp_path / "c.pt"), tmp_path / "c.pt"),
        (("encode", clip, tmp_path / "absent" / "c.safetensors"), tmp_path / "absent"),
        (("reconstruct", clip, tmp_path / "out.txt"), tmp_path / "out.txt"),
        (("reconstruct", clip, tmp_path / "out"), tmp_path / "out"),
        (("reconstruct", folder, tmp_path / "out"), folder),
        (("reconstruct", folder, clip), clip),
        (("decode", folder, tmp_path / "out"), folder),
        (("decode", clip, tmp_path / "out.wav"), clip),
        (("reconstruct", clip, folder, "--suffix", ".txt"), "--suffix"),
        (("reconstruct", clip), "OUT"),
        (("encode", clip, tmp_path / "c.safetensors", "--colour"), "--colour"),
        (("transmogrify", clip, folder), "transmogrify"),
        ((), "COMMAND"),
    ]
    for arguments, names in cases:
        options = ("--model", model) if len(arguments) > 2 else ()
        assert_fails(capsys, *arguments, *options, names=names)
    assert everything(tmp_path) == {"clip.wav"}
    assert list(folder.iterdir()) == [] and not (tmp_path / "out").exists()


def test_target_that_cannot_be_written(tmp_path, model, clip, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device")

    for command, name in (("reconstruct", "out.wav"), ("encode", "out.safetensors")):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            assert_fails(capsys, command, clip, tmp_path / name, "--model", model, names=tmp_path / name)
    assert everything(tmp_path) == {"clip.wav"}


def damaged(model, folder, change):
    """A copy of the model whose config and weights went through `change`."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    change(config, weights)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_wrong_models(tmp_path, model, clip, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    models = tmp_path / "models"
    models.mkdir()
    changes = {
        "foreign": lambda config, weights: config.update(model_type="bert"),
        "unknown": lambda config, weights: config.update(model_type="nobody_has_this"),
        "lacking": lambda config, weights: weights.pop("quantizer.layers.3.embed"),
        "reshaped": lambda config, weights: config.update(hidden_size=48),
        "untrained": lambda config, weights: weights["quantizer.layers.0.inited"].fill_(False),
        "wrong": lambda config, weights: config.update(backbone="transformer"),
    }
    for name, change in changes.items():
        damaged(model, models / name, change)
    shutil.copytree(model, models / "cut")
    (models / "cut" / "model.safetensors").write_bytes((models / "cut" / "model.safetensors").read_bytes()[:999])
    shutil.copytree(model, models / "pickle")
    torch.save(load_file(models / "pickle" / "model.safetensors"), models / "pickle" / "pytorch_model.bin")
    (models / "pickle" / "model.safetensors").unlink()
    shutil.copytree(model, models / "garbled")
    (models / "garbled" / "config.json").write_text("{")
    (models / "empty").mkdir()
    for folder in (*sorted(models.iterdir()), tmp_path / "absent", clip):
        arguments = ("encode", clip, tmp_path / "c.safetensors", "--model", folder)
        assert_fails(capsys, *arguments, names=folder)
    assert not (tmp_path / "c.safetensors").exists()


def test_wrong_device(tmp_path, model, clip, capsys):
    for device in ("toaster", "meta", "cuda:99", ""):
        arguments = ("encode", clip, tmp_path / "c.safetensors", "--model", model, "--device", device)
        assert_fails(capsys, *arguments, names="`device`")


def test_codes_of_another_model(tmp_path, model, clip, capsys):
    codes = tmp_path / "c.safetensors"
    assert run(capsys, "encode", clip, codes, "--model", model)[0] == 0
    other = tmp_path / "other"
    damaged(model, other, lambda config, weights: weights["quantizer.layers.7.embed"].add_(1))
    assert_fails(capsys, "decode", codes, tmp_path / "out.wav", "--model", other, names=codes)
    stored = load_codes(codes)
    fields = {name: getattr(stored, name) for name in stored.__dataclass_fields__}
    save_codes(codes, AudioCodes(**fields | {"sampling_rate": 24000}))
    assert_fails(capsys, "decode", codes, tmp_path / "out.wav", "--model", model, names="`sampling_rate`")


def test_shipped_checkpoint_is_the_default(tmp_path, model, clip, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(inference, "pretrained_path", lambda: asked.append(1) or model)
    assert run(capsys, "encode", clip, tmp_path / "c.safetensors")[0] == 0
    assert asked == [1]


def test_shipped_files(tmp_path, monkeypatch):
    for name in ("nothing", "../pretrained", "", "."):
        with pytest.raises(FileNotFoundError, match="^no checkpoint .* is shipped with hf_affectcodec"):
            pretrained_path(name)
    monkeypatch.setattr("hf_affectcodec.shipped._ASSETS", tmp_path)
    with pytest.raises(FileNotFoundError, match="^no demonstration clip"):
        demo_clip_path()
    monkeypatch.setattr("hf_affectcodec.shipped._PRETRAINED", tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.json").write_text("{}")
    assert pretrained_path("one") == tmp_path / "one"


def test_headerless_samples_are_not_guessed(tmp_path):
    clip = write_noise(tmp_path / "clip.wav", channels=2)
    assert num_channels(clip.rename(tmp_path / "clip.raw")) == 2


def test_as_a_process(tmp_path, model):
    write_noise(tmp_path / "in" / "a.flac", rate=44100, channels=2)
    (tmp_path / "in" / "b.wav").write_bytes(b"nothing")
    arguments = ["reconstruct", tmp_path / "in", tmp_path / "out", "--model", model]
    done = subprocess.run(
        [sys.executable, "-m", "hf_affectcodec.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout.startswith(f"{tmp_path / 'out'}: 1 file, 0.50 s")
    assert f"affectcodec: error: {tmp_path / 'in' / 'b.wav'}: not audio" in done.stderr
    assert "Traceback" not in done.stderr and "Loading weights" not in done.stderr
    assert everything(tmp_path / "out") == {"a.wav"}


def test_help_and_version(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0 and all(word in out for word in ("reconstruct", "encode", "decode"))
    for command in ("reconstruct", "encode", "decode"):
        status, out, _ = run(capsys, command, "--help")
        options = ("--model", "--num-quantizers", "--device", "--overwrite")
        assert status == 0 and all(option in out for option in options)
    assert run(capsys, "--version")[1].startswith("affectcodec ")
