import math
import struct

import numpy as np
import pytest
import torch
from tiny import tiny_model

from hf_affectcodec.audio import load_audio, write_audio
from hf_affectcodec.codes_file import load_codes
from hf_affectcodec.demo import log_frequency_spectrogram, main, rebuild
from hf_affectcodec.inference import load_codec


RATE = 16000


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model(guidance_sources=[], alignment_feature_size=None).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(speech, tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.flac"
    write_audio(path, speech, RATE)
    return path


def test_demo(tmp_path, model, clip, capsys):
    out = tmp_path / "new" / "demo_out"
    assert main(["--out", str(out), "--clip", str(clip), "--model", model]) == 0
    printed = capsys.readouterr().out
    names = {"original.wav", "rebuilt.wav", "codes.safetensors", "spectrograms.png"}
    assert {path.name for path in out.iterdir()} == names
    assert all(str(out / name) in printed for name in names)
    rows = dict(line.split(maxsplit=1) for line in printed.splitlines() if not line.startswith(" "))
    assert rows["clip"] == "1.50 s at 16000 Hz"
    assert rows["bitrate"].startswith("2.40 kbps  (50 Hz x 8 codes x 6 bits)")
    assert rows["compression"].startswith("107 x")
    assert rows["encode"].endswith("x real time") and rows["decode"].endswith("x real time")
    assert "PESQ-WB" in rows and "log-F0" in rows

    codec = load_codec(model)
    original = load_audio(out / "original.wav")
    assert (original - load_audio(clip)).abs().max() < 1e-4
    assert load_audio(out / "rebuilt.wav").shape == original.shape
    rebuilt = codec.decode(load_codes(out / "codes.safetensors"))
    assert (load_audio(out / "rebuilt.wav") - rebuilt.clamp(-1, 1)).abs().max() < 1e-4

    picture = (out / "spectrograms.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 1200 and height > 500

    assert main(["--out", str(out), "--clip", str(clip), "--model", model]) == 0  # again, over what is there


def test_speed_is_audio_over_computing(model, clip):
    result = rebuild(load_codec(model), load_audio(clip), runs=2)
    assert 0 < result.encode_speed < math.inf and 0 < result.decode_speed < math.inf
    assert result.codes.audio_codes.shape == (8, 75)
    assert result.rebuilt.shape == (1, 24000)


@pytest.mark.parametrize("frequency", [100.0, 440.0, 3000.0])
def test_spectrogram_has_a_tone_where_it_is(frequency):
    tone = torch.sin(2 * torch.pi * frequency * torch.arange(RATE) / RATE)
    frequencies, power = log_frequency_spectrogram(tone, RATE)
    assert power.shape == (len(frequencies), 201)
    assert frequencies[power[:, 100].argmax()] == pytest.approx(frequency, rel=0.02)
    assert np.allclose(np.diff(np.log(frequencies)), np.log(frequencies[1] / frequencies[0]))


def test_spectrogram_interpolates_between_bins(speech):
    frequencies, power = log_frequency_spectrogram(torch.from_numpy(speech), RATE)
    frame = np.zeros(2048)
    frame[512:1536] = speech[8000 - 512 : 8000 + 512] * np.hanning(1025)[:-1]
    bins = np.abs(np.fft.rfft(frame)) ** 2
    expected = np.interp(frequencies, np.arange(1025) * RATE / 2048, bins)
    assert np.allclose(power[:, 8000 // 80], expected, rtol=1e-3, atol=1e-6)


def test_bad_input(tmp_path, model, clip, capsys):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"nothing")
    for arguments, name in (
        (["--clip", str(broken), "--model", model], str(broken)),
        (["--clip", str(tmp_path / "absent.wav"), "--model", model], "absent.wav"),
        (["--clip", str(clip), "--model", str(tmp_path / "absent")], "absent"),
    ):
        assert main(["--out", str(tmp_path / "out"), *arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and name in lines[0]
    assert not (tmp_path / "out").exists()
