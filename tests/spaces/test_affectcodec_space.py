"""The codec's page, over its own interface: what it answers, and what it says to uploads that are no speech."""

import concurrent.futures
import importlib
import json
import resource
import sys
import tempfile
import time
import types
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError
from huggingface_hub import SpaceCard
from serving import SPACES, served
from tiny import tiny_model
from tiny_ser import LABELS, save_graph_fusion, save_token_fusion
from tiny_tts import tiny_tts

from hf_affectcodec import AffectCodecFeatureExtractor, AffectCodecTTSProcessor
from hf_affectcodec.audio import load_audio
from hf_affectcodec.classify import classify, load_classifier
from hf_affectcodec.codes_file import load_codes
from hf_affectcodec.inference import Codec, load_codec
from hf_affectcodec.metrics.egemaps import egemaps_functionals, functional_names
from hf_affectcodec.shipped import demo_clip_path
from hf_affectcodec.space import app, zero_gpu
from hf_affectcodec.space.app import MAX_FILE_SIZE, MAX_SECONDS, build_demo
from hf_affectcodec.space.timing import measure_start
from hf_affectcodec.space.voice_picture import MEASURES, voice_measures, voice_picture
from hf_affectcodec.speak import load_tts, speak


RATE = 16000


def tiny_codec(folder, **changes) -> Codec:
    model = tiny_model(alignment_feature_size=None, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "guidance" in name:  # it starts at zero
                parameter.add_(0.5 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return load_codec(str(folder))


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    return tiny_codec(tmp_path_factory.mktemp("models") / "tiny", guidance_sources=[])


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """Where Gradio keeps files."""
    return tmp_path_factory.mktemp("gradio")


@pytest.fixture(scope="module")
def url(codec, uploads):
    with served(partial(build_demo, codec), uploads, max_file_size=MAX_FILE_SIZE) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


def reconstruct(client, path, quantizers=8, baseline="none"):
    return client.predict(handle_file(str(path)), quantizers, baseline, api_name="/reconstruct")


def is_png(path) -> bool:
    return open(path, "rb").read(4) == b"\x89PNG"


def test_reconstruct_gives_what_the_codec_gives(client, codec):
    original, heard, compared, table, emotions, *pictures, codes_file, speed = reconstruct(
        client, demo_clip_path(), 3, "opus-8"
    )
    clip = load_audio(demo_clip_path())
    # The level is kept: nothing was brought to full scale.
    assert (load_audio(original) - clip).abs().max() < 1e-4 and clip.abs().max() < 0.9
    codes = load_codes(codes_file)
    assert torch.equal(codes.audio_codes, codec.encode(clip, 3).audio_codes)
    assert (load_audio(heard) - codec.decode(codes).clamp(-1, 1)).abs().max() < 1e-4
    assert load_audio(compared).shape == clip.shape
    assert [row[0] for row in table["data"]] == ["AffectCodec, 3 codebooks", "opus-8"]
    assert table["data"][0][1] == "0.90"  # 3 codebooks of 64 entries, 50 frames a second
    assert 1 < float(table["data"][1][2]) < 4.7  # PESQ of Opus
    # A tiny model of random weights moves the voice further than Opus.
    assert float(table["data"][0][5]) > float(table["data"][1][5]) > 0
    assert len(pictures) == 3 and all(is_png(picture) for picture in pictures)
    assert "real time" in speed

    decoded, _ = client.predict(handle_file(codes_file), api_name="/decode")
    assert torch.equal(load_audio(decoded), load_audio(heard))


def test_endpoints_are_named(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/reconstruct", "/decode"}
    json.dumps(endpoints)


def test_the_card_is_one_of_a_space():
    for folder in ("affectcodec", "listening-test"):
        card = SpaceCard.load(SPACES / folder / "README.md")
        assert card.data.sdk == "gradio" and card.data.app_file == "app.py" and len(card.data.short_description) <= 60
        assert (SPACES / folder / card.data.app_file).is_file() and (SPACES / folder / "requirements.txt").is_file()


# ----- uploads that are no speech


def write(path, samples, rate=RATE, subtype="FLOAT", format="WAV"):
    soundfile.write(path, samples, rate, subtype=subtype, format=format)
    return path


def write_hours(path, hours=2, rate=8000):
    """FLAC, as WAV would be refused for its size."""
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16", format="FLAC") as file:
        for _ in range(hours * 60):
            file.write(np.zeros(60 * rate, np.int16))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_text("hello"), "not audio"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: write(p, np.full(RATE, np.nan)), "NaN"),
        (lambda p: write(p, np.zeros(100)), "shorter than one frame"),
        (lambda p: write(p, np.zeros(int((MAX_SECONDS + 5) * 8000)), 8000, "PCM_16"), "up to 30 seconds"),
        (lambda p: write_hours(p), "up to 30 seconds"),
    ],
)
def test_bad_uploads_are_answered_with_a_sentence(client, tmp_path, make, message):
    path = tmp_path / "clip.wav"
    make(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AppError) as raised:
        reconstruct(client, path)
    text = str(raised.value)
    assert message in text and "\n" not in text and str(tmp_path) not in text and "gradio" not in text
    # KiB: two hours are 460 MB of float32 at 16 kHz.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000


def test_silence_and_many_channels_are_clips_like_others(client, tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE, 8))
    assert load_audio(reconstruct(client, write(tmp_path / "eight.wav", noise))[1]).shape == (1, RATE)
    outputs = reconstruct(client, write(tmp_path / "silence.wav", np.zeros(RATE)))
    assert outputs[3]["data"][0][2] == "–"  # PESQ is not defined
    assert outputs[5] is None  # nor is a voice


def test_bad_codes_are_answered_with_a_sentence(client, tmp_path):
    (tmp_path / "codes.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(AppError, match="This file gives no speech: not a safetensors file"):
        client.predict(handle_file(str(tmp_path / "codes.safetensors")), api_name="/decode")


def test_files_beyond_the_limit_are_not_taken(url, client):
    with tempfile.TemporaryFile() as file:
        file.truncate(60 << 20)
        answer = httpx.post(f"{url}gradio_api/upload", files={"files": ("big.wav", file)}, timeout=60)
    assert answer.status_code == 413


def call(url, name: str, data: list) -> str:
    """The stream of an endpoint's answer, by hand, as `gradio_client` uploads whatever path it is given."""
    event = httpx.post(f"{url}gradio_api/call/{name}", json={"data": data}, timeout=60)
    if event.status_code != 200:
        return f"event: error {event.status_code}"
    return httpx.get(f"{url}gradio_api/call/{name}/{event.json()['event_id']}", timeout=60).text


def test_no_file_of_the_server_is_read(url, uploads, tmp_path):
    clip = write(tmp_path / "secret.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE))
    tricks = [clip, "/etc/passwd", f"{uploads}/../{tmp_path.name}/secret.wav", Path(app.__file__)]
    for path in tricks:
        assert httpx.get(f"{url}gradio_api/file={path}").status_code in (403, 404)
        for name, data in (("reconstruct", [8, "none"]), ("decode", [])):
            answer = call(url, name, [{"path": str(path), "meta": {"_type": "gradio.FileData"}}, *data])
            assert "event: error" in answer and "event: complete" not in answer


NAMES = [
    "../../../evil.wav",
    "/evil.wav",
    "..\\..\\evil.wav",
    "a; rm -rf evil $(evil).wav",
    "evil" * 80 + ".wav",
    "çé漢.wav",
    ".wav",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_paths(url, uploads, tmp_path, name):
    content = write(tmp_path / "clip.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE // 4)).read_bytes()
    answer = httpx.post(f"{url}gradio_api/upload", files={"files": (name, content)}, timeout=60)
    assert answer.status_code == 200
    (path,) = answer.json()
    assert uploads.resolve() in Path(path).resolve().parents and Path(path).read_bytes() == content
    stream = call(url, "reconstruct", [{"path": path, "meta": {"_type": "gradio.FileData"}}, 8, "none"])
    assert "event: complete" in stream
    escaped = [found for folder in (uploads.parent, Path("/")) for found in folder.glob("*evil*") if found.is_file()]
    assert not escaped


def test_fifty_at_once_from_eight_clients(url, codec, tmp_path):
    """Each gets its own answer, a sentence on its file, or is told that the queue is full; then there is room again."""
    clip = write(tmp_path / "clip.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE // 2))
    (tmp_path / "text.wav").write_text("hello")
    clients = [Client(url, verbose=False) for _ in range(8)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def ask(number: int) -> str:
        is_bad = number % 5 > 0
        path = tmp_path / "text.wav" if is_bad else clip
        try:
            outputs = reconstruct(clients[number % 8], path, quantizers=1 + number % 8)
        except QueueError:
            return "full"
        except AppError as error:
            assert is_bad and "not audio" in str(error)
            return "refused"
        assert not is_bad
        assert torch.equal(
            load_codes(outputs[-2]).audio_codes, codec.encode(load_audio(clip), 1 + number % 8).audio_codes
        )
        return "answered"

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        outcomes = list(pool.map(ask, range(50)))
    assert outcomes.count("answered") >= 3 and outcomes.count("refused") >= 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
    assert ask(0) == "answered"


def test_files_are_gone_afterwards(codec, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "CACHE_SECONDS", 4)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for name in ("temporary", "gradio"):
        (tmp_path / name).mkdir()
    clip = write(tmp_path / "clip.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE // 4))
    with served(partial(build_demo, codec), tmp_path / "gradio") as url:
        client = Client(url, verbose=False, download_files=False)
        reconstruct(client, clip, baseline="opus-8")
        written = {path.name for path in (tmp_path / "gradio").rglob("*") if path.is_file()}
        assert {"clip.wav", "audio.wav", "image.png", "codes.safetensors"} <= written
        assert not list((tmp_path / "temporary").glob("affectcodec-*"))
        end = time.monotonic() + 30
        left = [0]
        while left and time.monotonic() < end:
            time.sleep(0.5)
            left = [path for path in (tmp_path / "gradio").rglob("*") if path.is_file()]
    assert left == []


# ----- the voice, before and after


def test_voice_measures_follow_pitch_and_level():
    """Against the functionals themselves: an octave up is 12 semitones more, half the level is 6 dB less."""
    clip = load_audio(demo_clip_path())[0].numpy()
    names = list(MEASURES.values())
    statistics = json.loads(
        (Path(sys.modules["hf_affectcodec"].__file__).parent / "assets/egemaps_functionals.json").read_text()
    )
    functionals = dict(zip(functional_names(), egemaps_functionals(clip, RATE), strict=True))
    for value, key in zip(voice_measures(clip, RATE), MEASURES, strict=True):
        index = statistics["names"].index(key)
        expected = (functionals[key] - statistics["mean"][index]) / statistics["std"][index]
        assert value == pytest.approx(np.clip(expected, -5, 5), abs=1e-6)
    # Every second sample, played at the same rate, is an octave up.
    higher = dict(zip(names, voice_measures(clip[::2], RATE) - voice_measures(clip, RATE), strict=True))
    index = statistics["names"].index("F0semitoneFrom27.5Hz_sma3nz_amean")
    assert higher["pitch"] == pytest.approx(12 / statistics["std"][index], rel=0.15)
    softer = dict(zip(names, voice_measures(clip / 2, RATE) - voice_measures(clip, RATE), strict=True))
    assert softer["loudness"] < -0.2 and abs(softer["pitch"]) < 0.05


def test_voice_picture_draws_each_clip():
    clip = load_audio(demo_clip_path())[0].numpy()
    clips = {"original": clip, "rebuilt": clip[:32000], "opus-6": clip[32000:]}
    (axis,) = voice_picture(clips, RATE).axes
    lines = {line.get_label(): line.get_xdata() for line in axis.lines if line.get_label() in clips}
    for name, clip in clips.items():
        np.testing.assert_allclose(lines[name], voice_measures(clip, RATE))


# ----- more models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("more")
    tiny_tts(text_vocab_size=256, min_prompt_frames=25, max_prompt_frames=150).save_pretrained(folder / "tts")
    AffectCodecTTSProcessor(AffectCodecFeatureExtractor()).save_pretrained(folder / "tts")
    save_token_fusion(folder / "tokens", "encoder", seed=1)
    save_graph_fusion(folder / "graph", recognizer=None)
    return folder


@pytest.fixture(scope="module")
def recognisers(models):
    return {name: load_classifier(models / name, "cpu") for name in ("tokens", "graph")}


@pytest.fixture(scope="module")
def whole_client(codec, models, recognisers, tmp_path_factory):
    build = partial(build_demo, codec, load_tts(str(models / "tts"), "cpu"), recognisers)
    with served(build, tmp_path_factory.mktemp("gradio")) as url:
        yield Client(url, verbose=False)


def test_tabs_come_with_their_models(whole_client):
    endpoints = whole_client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/reconstruct", "/decode", "/speak", "/recognise"}


def test_recognisers_side_by_side(whole_client, recognisers, tmp_path):
    clip = write(tmp_path / "clip.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE))
    expected = {name: dict(next(classify(classifier, [clip]))[1]) for name, classifier in recognisers.items()}
    *labels, tokens, graph = whole_client.predict(handle_file(str(clip)), api_name="/recognise")
    for label, scores in zip(labels, expected.values(), strict=True):
        assert {row["label"]: row["confidence"] for row in label["confidences"]} == pytest.approx(scores, abs=1e-4)
    assert is_png(tokens) and is_png(graph)
    outputs = reconstruct(whole_client, clip)
    rows = outputs[4]["data"]
    assert [row[:2] for row in rows] == [[name, emotion] for name in recognisers for emotion in LABELS]
    rebuilt = write(tmp_path / "rebuilt.wav", load_audio(outputs[1])[0].numpy())
    for name, classifier in recognisers.items():
        after = next(classify(classifier, [rebuilt]))[1]
        for _, emotion, before, heard, _ in (row for row in rows if row[0] == name):
            assert float(before) == pytest.approx(expected[name][emotion], abs=0.006)
            assert float(heard) == pytest.approx(after[emotion], abs=0.006)


def test_speak_says_what_the_model_says(whole_client, models, tmp_path):
    prompt = write(tmp_path / "prompt.wav", 0.2 * np.random.default_rng(0).standard_normal(20000))
    answer = whole_client.predict("oh yes", handle_file(str(prompt)), "no", 1.0, 1, 3, api_name="/speak")
    model, processor = load_tts(str(models / "tts"), "cpu")
    expected = speak(
        model, processor, "oh yes", load_audio(prompt), "no", temperature=1.0, max_seconds=1, seed=3
    ).audio
    # The clip is 16-bit.
    assert (load_audio(answer) - expected.clamp(-1, 1)).abs().max() < 1e-4
    for text, prompt_text, message in (("", "no", "write a text"), ("a", "", "what is said in the prompt")):
        with pytest.raises(AppError, match=f"(?i){message}"):
            whole_client.predict(text, handle_file(str(prompt)), prompt_text, 1.0, 1, 3, api_name="/speak")


def test_guidance_is_offered_where_the_model_has_it(tmp_path):
    codec = tiny_codec(tmp_path / "guided", self_guidance=True)
    clip = load_audio(demo_clip_path())
    with served(partial(build_demo, codec), tmp_path / "gradio") as url:
        client = Client(url, verbose=False)
        found = {}
        for shown, source in (("predicted from the audio", "self"), ("off", "none")):
            outputs = client.predict(handle_file(str(demo_clip_path())), 8, "none", shown, api_name="/reconstruct")
            found[source] = load_codes(outputs[-2]).audio_codes
            expected = codec.model.encode(clip[None], guidance_source=source).audio_codes[0]
            assert torch.equal(found[source].long(), expected)
    assert not torch.equal(found["self"], found["none"])


def test_zero_gpu_is_asked_where_there_is_one(monkeypatch):
    asked = []

    def gpu(function, duration):
        asked.append((function, duration))
        return lambda *arguments: ("on the GPU", function(*arguments))

    assert zero_gpu.on_gpu(abs)(-1) == 1
    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    try:
        importlib.reload(zero_gpu)
        assert zero_gpu.on_gpu(abs)(-1) == ("on the GPU", 1) and asked == [(abs, 60)]
    finally:
        monkeypatch.delitem(sys.modules, "spaces")
        importlib.reload(zero_gpu)


@pytest.mark.slow
def test_the_start_is_timed():
    """The page as its own process, with the shipped model."""
    times = measure_start()
    assert set(times) == {"page", "first", "second"} and all(0 < seconds < 120 for seconds in times.values())
