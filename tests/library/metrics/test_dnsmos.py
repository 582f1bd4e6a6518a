import os

import numpy as np
import onnxruntime
import pytest
import speechmos

from hf_affectcodec.audio import load_audio
from hf_affectcodec.metrics.dnsmos import dnsmos, load_model
from hf_affectcodec.shipped import demo_clip_path


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    return load_audio(demo_clip_path(), 16000)[0].numpy()


@pytest.fixture(scope="module")
def scores(recording):
    return dnsmos(recording, 16000)


def primary_scores(window: np.ndarray) -> list[float]:
    """P.835 of one window of 144160 samples, straight from the wheel's network and the challenge's polynomials."""
    path = os.path.join(os.path.dirname(speechmos.__file__), "dnsmos_models", "sig_bak_ovr.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    signal, background, overall = session.run(None, {"input_1": window[None]})[0][0]
    return [
        -0.06766283 * overall**2 + 1.11546468 * overall + 0.04602535,
        -0.08397278 * signal**2 + 1.22083953 * signal + 0.0052439,
        -0.13166888 * background**2 + 1.60915514 * background - 0.39604546,
    ]


def test_short_clips_are_repeated(recording, scores):
    doubled = recording
    while doubled.size < 144160:
        doubled = np.concatenate([doubled, doubled])
    windows = [doubled[k * 16000 : k * 16000 + 144160] for k in range(int(doubled.size / 16000 - 9.01) + 1)]
    expected = np.mean([primary_scores(window) for window in windows], axis=0)
    assert scores[:3] == pytest.approx(expected, abs=1e-4)


def test_long_clips_are_averaged_over_windows(recording, synthesize_speech):
    clip = np.concatenate([recording, synthesize_speech(11 - recording.size / 16000, seed=1)])
    assert clip.size == 11 * 16000
    parts = [dnsmos(clip[k * 16000 : k * 16000 + 144160], 16000) for k in range(2)]
    assert parts[0] != parts[1]
    assert np.array(dnsmos(clip, 16000)) == pytest.approx(np.mean(parts, axis=0), abs=1e-4)


def test_noise_is_heard(recording, scores, add_noise):
    noisy_scores = [dnsmos(add_noise(recording, snr), 16000) for snr in (20, 5)]
    for name in ("overall", "background", "p808"):
        clean, noisy, noisier = (getattr(item, name) for item in (scores, *noisy_scores))
        assert 5 > clean > noisy + 0.1 > noisier + 0.2 > 1


def test_value_depends_on_the_clip_alone(recording, scores, synthesize_speech):
    dnsmos(synthesize_speech(0.6, seed=3), 16000)
    assert dnsmos(recording, 16000) == scores
    assert load_model() is load_model()


def test_samples_beyond_full_scale_are_clipped(recording):
    loud = 4 * recording
    assert np.abs(loud).max() > 1
    assert dnsmos(loud, 16000) == dnsmos(loud.clip(-1, 1), 16000)


def test_level_matters_to_p835_only(recording, scores):
    quiet = dnsmos(0.1 * recording, 16000)
    assert quiet.p808 == pytest.approx(scores.p808, abs=1e-3)
    assert quiet.overall < scores.overall - 0.05


def test_clips_that_cannot_be_measured(recording):
    with pytest.raises(ValueError, match="`sampling_rate` must be 16000, got 8000"):
        dnsmos(recording, 8000)
    with pytest.raises(ValueError, match="`waveform` is silent"):
        dnsmos(np.zeros(16000), 16000)
