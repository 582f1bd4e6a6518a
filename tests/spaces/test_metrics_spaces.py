"""Each folder of `spaces/metrics`: `evaluate.load` takes it, it says what the plain function says, and its page answers."""

import importlib.util
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import evaluate
import numpy as np
import pytest
import soundfile
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from huggingface_hub import SpaceCard
from tiny import tiny_model
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

from hf_affectcodec.inference import load_codec
from hf_affectcodec.metric_space import describe, measure_clips, vectors_of
from hf_affectcodec.metrics import emotion2vec
from hf_affectcodec.metrics.classification import classification_scores
from hf_affectcodec.metrics.codebook_usage import codebook_usage, count_codes
from hf_affectcodec.metrics.distillmos import distillmos
from hf_affectcodec.metrics.dnsmos import dnsmos
from hf_affectcodec.metrics.egemaps import egemaps_embedding
from hf_affectcodec.metrics.emotion_recall import emotion_recall
from hf_affectcodec.metrics.emotion_similarity import emotion_similarity, emotion_similarity_report
from hf_affectcodec.metrics.f0 import f0_correlation, f0_rmse, log_f0_rmse, voicing_error
from hf_affectcodec.metrics.lsd import lsd
from hf_affectcodec.metrics.pesq import pesq
from hf_affectcodec.metrics.prosody_similarity import prosody_similarity
from hf_affectcodec.metrics.speaker_similarity import XVectorEncoder, speaker_anchors, speaker_similarity
from hf_affectcodec.metrics.stoi import stoi
from hf_affectcodec.metrics.token_consistency import slice_consistency
from hf_affectcodec.metrics.utmos import UTMOS
from hf_affectcodec.metrics.word_errors import corpus_word_errors, word_errors
from hf_affectcodec.shipped import demo_clip_path


METRICS = Path(__file__).parents[2] / "spaces" / "metrics"
FOLDERS = sorted(path.name for path in METRICS.iterdir() if (path / "app.py").exists())
RATE = 16000


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    """evaluate's caches in a folder of the test's own. It looks nothing up for a local folder; here it could not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path_factory.mktemp("metrics")))
        yield


def load(name: str, *arguments):
    return evaluate.load(str(METRICS / name), *arguments)


@pytest.fixture(scope="module")
def clips():
    """Four recordings of 0.7 to 1 s, and the same with noise; the last of these is silent."""
    # Real speech: what is synthesised in other tests has no pauses that PESQ finds.
    whole, rate = soundfile.read(demo_clip_path(), dtype="float32")
    assert rate == RATE
    starts = np.linspace(0, whole.size - RATE, 4).astype(int)
    originals = [whole[start : start + RATE - 1600 * index] for index, start in enumerate(starts)]
    generator = np.random.default_rng(0)
    noisy = [clip + 0.003 * generator.standard_normal(clip.size).astype(np.float32) for clip in originals]
    noisy[-1] = np.zeros_like(noisy[-1])
    return originals, noisy


# ----- folders


def test_all_are_there():
    assert len(FOLDERS) == 15


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_a_space(name):
    folder = METRICS / name
    assert {path.name for path in folder.glob("*.*")} == {"README.md", "app.py", "requirements.txt", f"{name}.py"}
    card = SpaceCard.load(folder / "README.md").data
    assert card.sdk == "gradio" and card.app_file == "app.py" and card.tags == ["evaluate", "metric"]
    assert len(card.short_description) <= 60  # the Hub's limit
    assert f'evaluate.load("spaces/metrics/{name}"' in (folder / "README.md").read_text()


def pages() -> list[str]:
    return [name for name in FOLDERS if name not in ("pesq", "distillmos")]


def load_page(name):
    spec = importlib.util.spec_from_file_location(f"page_of_{name}", METRICS / name / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page


@pytest.mark.parametrize("name", pages())
def test_a_page_has_its_endpoint(name):
    page = load_page(name)
    assert "/measure" in page.get_api_info()["named_endpoints"]


@pytest.mark.parametrize("name", ["pesq", "distillmos"])
def test_a_module_of_a_package_s_name_does_not_hide_the_package(name):
    """As the Hub runs it: `python app.py` in its folder, which comes first where Python looks for modules."""
    code = (
        f"import runpy, sys; sys.path.insert(0, '.'); runpy.run_path('app.py'); print(sys.modules['{name}'].__file__)"
    )
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=METRICS / name, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "site-packages" in result.stdout


# ----- values


def check(result, name, expected):
    """Values of clips, their mean, and the silent clip as the only failure."""
    values = result[f"{name}_values"]
    assert values[:-1] == pytest.approx(expected, rel=1e-6) and math.isnan(values[-1])
    assert result[name] == pytest.approx(np.mean(expected))
    assert (result[f"{name}_n"], result[f"{name}_n_failed"]) == (3, 1)
    assert result[f"{name}_low"] <= result[name] <= result[f"{name}_high"]


PAIRS = {
    "pesq": [(pesq, {}), (partial(pesq, mode="nb"), {"mode": "nb"})],
    "stoi": [(stoi, {}), (partial(stoi, extended=True), {"extended": True})],
    "prosody_similarity": [(prosody_similarity, {})],
}


@pytest.mark.parametrize("name", PAIRS)
def test_metrics_of_pairs(name, clips):
    originals, noisy = clips
    metric = load(name)
    if name == "stoi":  # defined for silence; a clip that is too short is not measured
        originals, noisy = [[*items[:3], items[3][:2000]] for items in clips]
    for function, arguments in PAIRS[name]:
        expected = [function(*pair, RATE) for pair in zip(originals[:3], noisy[:3], strict=True)]
        result = metric.compute(predictions=noisy, references=originals, **arguments)
        check(result, name, expected)
        assert list(result[f"{name}_failures"]) == [3]


def test_lsd_in_batches(clips):
    originals, noisy = clips
    metric = load("lsd")
    for first in (0, 2):
        metric.add_batch(predictions=noisy[first : first + 2], references=originals[first : first + 2])
    result = metric.compute()
    expected = [lsd(*pair, RATE) for pair in zip(originals, noisy, strict=True)]  # silence has an LSD
    assert result["lsd_values"] == pytest.approx(expected, rel=1e-9) and result["lsd_n_failed"] == 0
    assert load("lsd").compute(predictions=noisy, references=originals)["lsd"] == result["lsd"]
    short = load("lsd").compute(predictions=[noisy[0], noisy[0][:9]], references=[originals[0], originals[0]])
    assert short["lsd_n_failed"] == 1 and "length of `reference`" in short["lsd_failures"][1]


def test_f0_error(clips):
    originals, noisy = clips
    result = load("f0_error").compute(predictions=noisy, references=originals)
    functions = {
        "f0_rmse_hz": f0_rmse,
        "log_f0_rmse_semitones": log_f0_rmse,
        "f0_correlation": f0_correlation,
        "voicing_error": voicing_error,
    }
    for name, function in functions.items():
        check(result, name, [function(*pair, RATE) for pair in zip(originals[:3], noisy[:3], strict=True)])


def test_metrics_without_a_reference(clips, monkeypatch):
    _, noisy = clips
    check(load("distillmos").compute(predictions=noisy), "distillmos", [distillmos(clip, RATE) for clip in noisy[:3]])
    result = load("dnsmos").compute(predictions=noisy)
    expected = [dnsmos(clip, RATE) for clip in noisy[:3]]
    for field in ("overall", "signal", "background", "p808"):
        check(result, f"dnsmos_{field}", [getattr(item, field) for item in expected])

    def loudness(waveform, sampling_rate):
        if not np.any(waveform):
            raise ValueError("`waveform` is silent")
        return float(np.std(waveform))

    loaded = []
    monkeypatch.setattr(UTMOS, "from_pretrained", lambda *source: loaded.append(source) or loudness)
    check(load("utmos").compute(predictions=noisy), "utmos", [np.std(clip) for clip in noisy[:3]])
    load("utmos", "mine")
    assert loaded == [(), ("mine",)]


def test_emotion_similarity(clips):
    originals, noisy = clips
    labels, speakers = ["calm", "calm", "glad", "glad"], ["a"] * 4
    metric = load("emotion_similarity", "egemaps")
    result = metric.compute(predictions=noisy, references=originals, labels=labels, speakers=speakers)
    pairs = zip(originals[:3], noisy[:3], strict=True)
    check(result, "emotion_similarity", [emotion_similarity(*pair, RATE, egemaps_embedding) for pair in pairs])
    embeddings = np.stack([egemaps_embedding(clip, RATE) for clip in originals])
    rebuilt = np.stack([egemaps_embedding(clip, RATE) for clip in noisy[:3]] + [np.full(embeddings.shape[1], np.nan)])
    report = emotion_similarity_report(embeddings, rebuilt, labels, speakers)
    assert result["emotion_similarity_floor"] == pytest.approx(report.floor.mean)
    assert result["emotion_similarity_auc_n"] == 4
    assert result["emotion_similarity_normalized"] == pytest.approx(report.normalized)
    assert "emotion_similarity_floor" not in metric.compute(predictions=noisy, references=originals)


def test_emotion_recall(clips, monkeypatch):
    originals, noisy = clips

    class Recogniser:
        labels = ("angry", "happy")

    def probabilities(model, waveform, sampling_rate):
        if not np.any(waveform):
            raise ValueError("`waveform` is silent")
        share = len(waveform) / RATE
        return np.array([share, 1 - share])

    monkeypatch.setattr(emotion2vec, "load_emotion2vec", lambda *source: Recogniser())
    monkeypatch.setattr(emotion2vec, "emotion2vec_probabilities", probabilities)
    labels = ["angry", "happy", "angry", None]
    result = load("emotion_recall").compute(predictions=noisy, references=originals, labels=labels)
    scores = [np.array([probabilities(None, clip, RATE) for clip in originals])]
    scores.append(np.concatenate([scores[0][:3], [[np.nan, np.nan]]]))
    expected = emotion_recall(*scores, labels, Recogniser.labels)
    assert result["emotion_recall"] == expected.recall.mean == pytest.approx(2 / 3)
    assert result["emotion_recall_agreement_n_failed"] == 1 and result["emotion_recall_original_n"] == 3
    assert result["emotion_recall_per_class"] == {"angry": 1.0, "happy": 0.0}


def test_speaker_similarity(clips, tmp_path):
    originals, noisy = clips
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = WavLMConfig(
        **sizes,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        initializer_range=0.2,
        tdnn_dim=(12, 12, 12, 12, 24),
        xvector_output_dim=10,
    )
    WavLMForXVector(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    encoder = XVectorEncoder.from_pretrained(tmp_path)
    speakers = ["a", "a", "b", "b"]
    result = load("speaker_similarity", str(tmp_path)).compute(
        predictions=noisy, references=originals, speakers=speakers
    )
    pairs = zip(originals[:3], noisy[:3], strict=True)
    check(result, "speaker_similarity", [speaker_similarity(*pair, RATE, encoder) for pair in pairs])
    anchors = speaker_anchors([encoder(clip, RATE) for clip in originals], speakers)
    assert result["speaker_similarity_different_speakers"] == pytest.approx(anchors.different_speakers)
    assert result["speaker_similarity_auc"] == anchors.auc


def test_token_consistency(clips, tmp_path):
    originals, _ = clips
    tiny_model(guidance_sources=[], alignment_feature_size=None).save_pretrained(tmp_path)
    codec = load_codec(str(tmp_path))
    items = [*originals[:3], np.zeros(RATE, dtype=np.float32)]
    result = load("token_consistency", str(tmp_path)).compute(predictions=items, num_frames=10, margin=1)

    def encode(waveform):
        return codec.encode(torch.from_numpy(waveform)[None]).audio_codes.numpy()

    shares = [slice_consistency(encode, clip, codec.model.hop_length, 10, margin=1) for clip in originals[:3]]
    check(result, "token_consistency", [share.mean() for share in shares])
    check(result, "token_consistency_1", [share[0] for share in shares])


def test_codebook_usage():
    generator = np.random.default_rng(0)
    codes = [generator.integers(16, size=(2, frames)) for frames in (30, 20)]
    result = load("codebook_usage").compute(predictions=codes, codebook_size=16, frame_rate=50)
    expected = codebook_usage(count_codes(codes, 16))
    for name in ("usage", "perplexity", "entropy", "num_frames"):
        assert result[name] == getattr(expected, name).tolist()
    assert result["entropy_rate"] == pytest.approx(50 * expected.entropy)


def test_wer_wil():
    references = ["The cat sat.", "...", "Uno dos tres"]
    transcripts = ["the cat", "hello", "uno dos cuatro tres"]
    languages = ["en", "en", "es"]
    result = load("wer_wil").compute(predictions=transcripts, references=references, languages=languages)
    total = corpus_word_errors(
        [word_errors(*item) for item in zip(references, transcripts, languages, strict=True) if item[0] != "..."]
    )
    assert (result["wer"], result["wil"]) == (total.wer, total.wil) and result["wer"] == pytest.approx(2 / 6)
    assert result["wer_values"][::2] == pytest.approx([1 / 3, 1 / 3]) and math.isnan(result["wer_values"][1])
    assert (result["wer_n"], result["wer_n_failed"], list(result["wer_failures"])) == (2, 1, [1])
    assert (result["deletions"], result["insertions"], result["hits"]) == (1, 1, 5)
    nothing = load("wer_wil").compute(predictions=["a"], references=["!"])
    assert math.isnan(nothing["wer"]) and nothing["wer_n_failed"] == 1


def test_classification():
    references, predictions = ["sad", "sad", "glad"], ["sad", "calm", "glad"]
    classes = ["angry", "calm", "glad", "sad"]
    result = load("classification").compute(predictions=predictions, references=references, classes=classes)
    expected = classification_scores(references, predictions, classes)
    assert result["macro_f1"] == expected.macro_f1 and result["absent"] == ["angry", "calm"]
    assert result["unweighted_accuracy"] == 0.75 and math.isnan(result["f1"]["angry"])


# ----- what they share


def test_measure_clips_counts_what_fails():
    def metric(value):
        if value < 0:
            raise ValueError("negative")
        return value, 10 * value

    result = measure_clips(["a", "b"], metric, [1.0, -1.0, 3.0])
    assert (result["a"], result["b"]) == (2, 20) and (result["b_n"], result["b_n_failed"]) == (2, 1)
    assert result["a_failures"] == {1: "negative"} and math.isnan(result["b_values"][1])
    with pytest.raises(TypeError):  # a bug is no failure of a clip
        measure_clips(["a"], metric, ["x"])
    rows = vectors_of(lambda clip, rate: np.array(metric(clip)), [1.0, -1.0], RATE)
    np.testing.assert_array_equal(rows, [[1, 10], [np.nan, np.nan]])
    with pytest.raises(ValueError, match="no clip could be measured: negative"):
        vectors_of(lambda clip, rate: np.array(metric(clip)), [-1.0], RATE)


def test_describe():
    text = describe(speaker_similarity)
    assert text.startswith("Cosine of the embeddings") and "Returns `float`: -1 to 1" in text
    assert (
        "Args:" not in text and "Raises" not in text and "~hf_affectcodec" not in text and "`speaker_anchors`" in text
    )


# ----- pages


@pytest.fixture(scope="module")
def lsd_page(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        page = load_page("lsd")
        _, url, _ = page.launch(prevent_thread_lock=True, show_error=True, quiet=True)
        yield Client(url, verbose=False)
        page.close()


def test_a_page_aligns_and_measures(lsd_page, clips, tmp_path):
    original, noisy = clips[0][0], clips[1][0]
    late = np.concatenate([np.zeros(80, dtype=np.float32), noisy])
    paths = [tmp_path / name for name in ("original.wav", "late.wav")]
    for path, samples in zip(paths, (original, late), strict=True):
        soundfile.write(path, samples, RATE, subtype="FLOAT")
    answer = lsd_page.predict(*(handle_file(str(path)) for path in paths), api_name="/measure")
    rows = dict(answer["data"])
    assert float(rows["LSD (decades)"]) == pytest.approx(lsd(original, noisy, RATE), abs=2e-4)
    assert float(rows["lag taken out (ms)"]) == 5.0


def test_a_page_says_what_is_wrong(lsd_page, tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.zeros(RATE), RATE)
    with pytest.raises(AppError, match="`reference` is silent"):
        lsd_page.predict(handle_file(str(path)), handle_file(str(path)), api_name="/measure")
    path.write_text("no audio")
    with pytest.raises(AppError, match="Original: not audio"):
        lsd_page.predict(handle_file(str(path)), handle_file(str(path)), api_name="/measure")
    with pytest.raises(AppError, match="Original: record or upload a clip first"):
        lsd_page.predict(None, None, api_name="/measure")
