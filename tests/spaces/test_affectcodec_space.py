"""The codec's page, over its own interface: what it answers, and what it says to uploads that are no speech."""

import concurrent.futures
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
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
from huggingface_hub import ModelCard, SpaceCard
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
from hf_affectcodec.shipped import demo_clip_path, pretrained_path
from hf_affectcodec.space import app, speak_tab, zero_gpu
from hf_affectcodec.space.app import MAX_FILE_SIZE, MAX_SECONDS, build_demo
from hf_affectcodec.space.gallery import SHIPPED, read_gallery
from hf_affectcodec.space.timing import measure_start
from hf_affectcodec.space.voice_picture import MEASURES, voice_measures, voice_picture
from hf_affectcodec.speak import join_pieces, load_tts, speak, speak_live


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
    assert emotions is None  # nobody to hear them
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


def test_files_are_gone_afterwards(codec, models, tmp_path, monkeypatch):
    """What was uploaded and what was made of it, but not what there is to try."""
    monkeypatch.setattr(app, "CACHE_SECONDS", 4)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for name in ("temporary", "gradio"):
        (tmp_path / name).mkdir()
    clip = write(tmp_path / "clip.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE // 4))
    with served(partial(build_demo, codec, load_tts(str(models / "tts"), "cpu")), tmp_path / "gradio") as url:
        client = Client(url, verbose=False, download_files=False)
        reconstruct(client, clip, baseline="opus-8")
        written = {path.name for path in (tmp_path / "gradio").rglob("*") if path.is_file()}
        assert {"clip.wav", "audio.wav", "image.png", "codes.safetensors"} <= written
        client.predict("Go on.", None, "", 1.0, 1, 3, 1.0, api_name="/speak")
        assert list((tmp_path / "gradio").rglob("1.wav"))
        assert not list((tmp_path / "temporary").glob("affectcodec-*"))
        end = time.monotonic() + 30
        left = [0]
        while left and time.monotonic() < end:
            time.sleep(0.5)
            left = [path for path in (tmp_path / "gradio").rglob("*") if path.is_file()]
        assert left == []
        examples = [demo_clip_path(), *(prompt.path for prompt in read_gallery())]
        for index, path in enumerate(examples):
            value = client.predict(index, api_name="/load_example")["value"]
            assert httpx.get(value["url"]).content == path.read_bytes()


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
    meters = outputs[4]
    assert meters["clips"] == ["original", "rebuilt"]
    assert [found["name"] for found in meters["recognisers"]] == list(recognisers)
    rebuilt = write(tmp_path / "rebuilt.wav", load_audio(outputs[1])[0].numpy())
    for found, classifier in zip(meters["recognisers"], recognisers.values(), strict=True):
        after = next(classify(classifier, [rebuilt]))[1]
        assert [row["emotion"] for row in found["emotions"]] == LABELS
        for row in found["emotions"]:
            for shown, scores in zip(row["shares"], (expected[found["name"]], after), strict=True):
                assert float(shown["text"]) == pytest.approx(scores[row["emotion"]], abs=0.006)
                assert shown["percent"] == pytest.approx(100 * scores[row["emotion"]], abs=1.1)


def test_speak_says_what_the_model_says(whole_client, models, tmp_path):
    prompt = write(tmp_path / "prompt.wav", 0.2 * np.random.default_rng(0).standard_normal(20000))
    text = "Oh yes, and so it goes on for quite a while. And then there is more of it, much more."
    settings = {"temperature": 0.8, "max_seconds": 1, "seed": 3, "top_p": 0.9}
    job = whole_client.submit(text, handle_file(str(prompt)), "no", 0.8, 1, 3, 0.9, api_name="/speak")
    answer, live = job.result(timeout=120)
    model, processor = load_tts(str(models / "tts"), "cpu")
    expected = speak(
        model, processor, text, load_audio(prompt), "no", max_characters=speak_tab.PIECE_CHARACTERS, **settings
    )
    assert len(expected.pieces) == 2
    # The clip is 16-bit.
    assert (load_audio(answer) - expected.audio.clamp(-1, 1)).abs().max() < 1e-4
    assert live["state"] == "done" and f"{expected.audio.shape[-1] / RATE:.1f} s" in live["text"]

    # While it was spoken: first nothing to hear, then a part, then both; the parts are what the whole is made of.
    seen = [progress for _, progress in job.outputs()]
    counts = [len(progress["pieces"]) for progress in seen]
    assert counts == sorted(counts) and {1, 2} <= set(counts)
    assert {progress["run"] for progress in seen} == {live["run"]}
    shares = [progress["share"] for progress in seen]
    assert shares == sorted(shares) and shares[-1] == 1
    parts = [load_audio(path) for path in live["pieces"]]
    assert (join_pieces(parts, RATE) - expected.audio.clamp(-1, 1)).abs().max() < 1e-4


def test_speak_says_what_is_wrong(whole_client, tmp_path):
    noise = 0.2 * np.random.default_rng(0).standard_normal(4 * RATE)
    prompt, short, long = (write(tmp_path / f"{length}.wav", noise[:length]) for length in (20_000, 4_000, 4 * RATE))
    (tmp_path / "text.wav").write_text("hello")
    for text, path, prompt_text, message in (
        (" ", prompt, "no", "Write a text first."),
        ("a" * 401, prompt, "no", "This page speaks up to 400 characters."),
        ("a", prompt, "", "Write down what is said in the prompt."),
        ("a", short, "no", "The prompt must have 0.5 to 3 seconds"),
        ("a", long, "no", "The prompt must have 0.5 to 3 seconds"),
        ("a", tmp_path / "text.wav", "no", "The prompt: not audio"),
    ):
        with pytest.raises(AppError, match=message):
            whole_client.predict(text, handle_file(str(path)), prompt_text, 1.0, 1, 3, 1.0, api_name="/speak")


def test_speak_stops(whole_client, monkeypatch):
    """What is cancelled leaves the model free at once, not after the thousand frames that it is made to draw."""
    with monkeypatch.context() as patch:
        patch.setattr(speak_tab, "speak_live", partial(speak_live, min_new_frames=1000))
        job = whole_client.submit("Go on.", None, "", 1.0, 20, 3, 1.0, api_name="/speak")
        while not job.outputs():
            time.sleep(0.02)
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("speak_live")]
        job.cancel()
        for thread in threads:
            thread.join(20)
        assert threads and not any(thread.is_alive() for thread in threads)
    _, last = job.outputs()[-1]
    assert last["state"] == "speaking" and last["pieces"] == []
    # Then it is the next one's turn.
    _, live = whole_client.predict("Go on.", None, "", 1.0, 1, 3, 1.0, api_name="/speak")
    assert live["state"] == "done"


def test_emotions_of_the_model_are_offered(codec, tmp_path):
    model = tiny_tts(text_vocab_size=256, min_prompt_frames=25, max_prompt_frames=150)
    processor = AffectCodecTTSProcessor(AffectCodecFeatureExtractor(), emotions=["angry", "sad"])
    with served(partial(build_demo, codec, (model, processor)), tmp_path) as url:
        client = Client(url, verbose=False)
        common = ("Oh yes.", None, "", 1.0, 1, 3, 1.0)
        for emotion, strength in (("angry", 1.0), ("sad", 2.0)):
            answer, _ = client.predict(*common, emotion, strength, api_name="/speak")
            options = {"emotion": emotion, "emotion_guidance": strength, "seed": 3, "max_seconds": 1}
            expected = speak(model, processor, "Oh yes.", temperature=1.0, top_p=1.0, **options).audio
            assert (load_audio(answer) - expected.clamp(-1, 1)).abs().max() < 1e-4


# ----- the gallery and the card


def test_the_shipped_gallery():
    prompts = read_gallery()
    assert len({prompt.mood for prompt in prompts}) == len(prompts) == 8
    attribution = (SHIPPED / "ATTRIBUTION.md").read_text()
    for prompt in prompts:
        assert 0.5 < load_audio(prompt.path).shape[-1] / RATE < 3
        assert f"| `{prompt.path.name}` | {prompt.words} |" in attribution


def test_a_gallery_of_ones_own(codec, tmp_path):
    folder = tmp_path / "gallery"
    folder.mkdir()
    for name, words in (("sad_b", "It  rains.\n"), ("angry_a", "Go!"), ("sad_a", "No.")):
        write(folder / f"{name}.wav", np.zeros(RATE))
        (folder / f"{name}.txt").write_text(words)
    prompts = read_gallery(folder)
    assert [(prompt.mood, prompt.words) for prompt in prompts] == [
        ("angry", "Go!"),
        ("sad", "No."),
        ("sad", "It rains."),
    ]
    components = build_demo(codec, gallery=prompts).config["components"]
    (dataset,) = [item["props"] for item in components if item["type"] == "dataset"]
    assert dataset["sample_labels"][1:] == ["angry: “Go!”", "sad: “No.”", "sad: “It rains.”"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "must be a folder that exists"),
        ([], "has no recordings"),
        (["sad.wav", "sad.txt"], "sad.wav must be named MOOD_NAME.wav"),
        (["sad_a.flac"], "sad_a.flac needs its words in sad_a.txt"),
    ],
)
def test_a_gallery_that_is_none_is_named(tmp_path, names, message):
    folder = tmp_path / "gallery"
    if names is not None:
        folder.mkdir()
        for name in names:
            (folder / name).write_text("x")
    with pytest.raises(ValueError, match=message):
        read_gallery(folder)


def test_about_says_what_the_card_says(codec):
    """Numbers and licence from the card of the model that is shown, and none where it has none."""
    card = ModelCard.load(pretrained_path() / "README.md")
    texts = markdown_of(build_demo(load_codec(device="cpu")))
    for result in card.data.eval_results:
        assert f"| {result.metric_name} | {result.metric_value:#.3g} |" in texts
    assert f"`affectcodec-mini`: {card.data.license}." in texts and card.text in texts
    texts = markdown_of(build_demo(codec))
    assert "Measured before" not in texts and "see where they are from" in texts
    assert "0.3 kbps each" in texts  # codebooks of 64 entries


def markdown_of(page) -> str:
    return "\n".join(
        item["props"].get("value") or "" for item in page.config["components"] if item["type"] == "markdown"
    )


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


ZERO_GPU = """
import sys
assert "torch" not in sys.modules  # it is to be imported first, to stand between torch and the GPU

asked = []


def GPU(function, duration):
    asked.append(function.__name__)
    return function
"""
RUN_APP = """
import runpy
import sys

sys.path.insert(0, sys.argv[1])
app = runpy.run_path(sys.argv[2], run_name="app")
import spaces
import torch
from gradio_client import Client, handle_file
from hf_affectcodec.inference import load_codec
from hf_affectcodec.speak import load_tts

assert not torch.cuda.is_initialized()
page = app["build_demo"](load_codec(sys.argv[3], "cpu"), load_tts(sys.argv[4], "cpu"))
assert not torch.cuda.is_initialized()
_, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
client = Client(url, verbose=False)
outputs = client.predict(handle_file(sys.argv[5]), 8, "none", api_name="/reconstruct")
client.predict(handle_file(outputs[-2]), api_name="/decode")
_, live = client.predict("Go on.", None, "", 1.0, 1, 3, 1.0, api_name="/speak")
print(*sorted(spaces.asked), live["state"])
"""


@pytest.mark.slow
def test_the_app_runs_as_zero_gpu_runs_it(codec, models, tmp_path):
    """As a script from its folder, with a stand-in for the package: `spaces` comes before torch, and before any CUDA."""
    stand_in = tmp_path / "packages" / "spaces.py"
    stand_in.parent.mkdir()
    stand_in.write_text(ZERO_GPU)
    # Silence: what cannot be measured costs no time.
    clip = write(tmp_path / "clip.wav", np.zeros(RATE // 2))
    app_path = SPACES / "affectcodec" / "app.py"
    arguments = [stand_in.parent, app_path, codec.model.config.name_or_path, models / "tts", clip]
    finished = subprocess.run(
        [sys.executable, "-c", RUN_APP, *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "gradio"), "GRADIO_ANALYTICS_ENABLED": "False"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "decode run run_codec done"


@pytest.mark.slow
def test_the_start_is_timed():
    """The page as its own process, with the shipped model."""
    times = measure_start()
    assert set(times) == {"page", "first", "second"} and all(0 < seconds < 120 for seconds in times.values())
