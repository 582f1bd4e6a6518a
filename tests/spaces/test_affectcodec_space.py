"""The codec's page, over its own interface: what it answers, and what it says to uploads that are no speech."""

import json

import numpy as np
import pytest
import soundfile
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from tiny import tiny_model

from hf_affectcodec.audio import load_audio
from hf_affectcodec.codes_file import load_codes
from hf_affectcodec.inference import load_codec
from hf_affectcodec.shipped import demo_clip_path
from hf_affectcodec.space.app import MAX_FILE_SIZE, MAX_SECONDS, build_demo


RATE = 16000


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model(guidance_sources=[], alignment_feature_size=None).save_pretrained(folder)
    return load_codec(str(folder))


@pytest.fixture(scope="module")
def url(codec, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        page = build_demo(codec)
        _, url, _ = page.launch(prevent_thread_lock=True, show_error=True, max_file_size=MAX_FILE_SIZE, quiet=True)
        yield url
        page.close()


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


def reconstruct(client, path, quantizers=8, baseline="none"):
    return client.predict(handle_file(str(path)), quantizers, baseline, api_name="/reconstruct")


def test_reconstruct_gives_what_the_codec_gives(client, codec):
    original, heard, compared, table, spectrograms, matrix, codes_file, speed = reconstruct(
        client, demo_clip_path(), 3, "opus-8"
    )
    clip = load_audio(demo_clip_path())
    # The level is kept: nothing was brought to full scale.
    assert (load_audio(original) - clip).abs().max() < 1e-4 and clip.abs().max() < 0.9
    codes = load_codes(codes_file)
    assert torch.equal(codes.audio_codes, codec.encode(clip, 3).audio_codes)
    assert (load_audio(heard) - codec.decode(codes).clamp(-1, 1)).abs().max() < 1e-4
    assert load_audio(compared["value"]).shape == clip.shape
    assert [row[0] for row in table["data"]] == ["AffectCodec, 3 codebooks", "opus-8"]
    assert table["data"][0][1] == "0.90"  # 3 codebooks of 64 entries, 50 frames a second
    assert 1 < float(table["data"][1][2]) < 4.7  # PESQ of Opus
    assert all(open(picture, "rb").read(4) == b"\x89PNG" for picture in (spectrograms, matrix))
    assert "real time" in speed

    decoded, _ = client.predict(handle_file(codes_file), api_name="/decode")
    assert torch.equal(load_audio(decoded), load_audio(heard))


def write(path, samples, rate=RATE, subtype="FLOAT"):
    soundfile.write(path, samples, rate, subtype=subtype, format="WAV")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_text("hello"), "not audio"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: write(p, np.full(RATE, np.nan)), "NaN"),
        (lambda p: write(p, np.zeros(100)), "shorter than one frame"),
        (lambda p: write(p, np.zeros(int((MAX_SECONDS + 5) * 8000)), 8000, "PCM_16"), "up to 30 seconds"),
    ],
)
def test_bad_uploads_are_answered_with_a_sentence(client, tmp_path, make, message):
    path = tmp_path / "clip.wav"
    make(path)
    with pytest.raises(AppError) as raised:
        reconstruct(client, path)
    text = str(raised.value)
    assert message in text and "\n" not in text and str(tmp_path) not in text and "gradio" not in text


def test_silence_and_many_channels_are_clips_like_others(client, tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE, 8))
    assert load_audio(reconstruct(client, write(tmp_path / "eight.wav", noise))[1]).shape == (1, RATE)
    table = reconstruct(client, write(tmp_path / "silence.wav", np.zeros(RATE)))[3]
    assert table["data"][0][2] == "–"  # PESQ is not defined


def test_bad_codes_are_answered_with_a_sentence(client, tmp_path):
    (tmp_path / "codes.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(AppError, match="This file gives no speech: not a safetensors file"):
        client.predict(handle_file(str(tmp_path / "codes.safetensors")), api_name="/decode")


def test_endpoints_are_named(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/reconstruct", "/decode"}
    json.dumps(endpoints)
