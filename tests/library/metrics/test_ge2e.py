import importlib
import sys
import types

import numpy as np
import pytest
import torch

from hf_affectcodec.audio import load_audio
from hf_affectcodec.metrics import ge2e
from hf_affectcodec.metrics.ge2e import GE2EEncoder, load_model
from hf_affectcodec.metrics.speaker_similarity import speaker_similarity
from hf_affectcodec.shipped import demo_clip_path


@pytest.fixture(scope="module")
def resemblyzer():
    """The package's own code. It imports `webrtcvad`, which is not used here and may not be installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "webrtcvad", types.ModuleType("webrtcvad"))
        yield importlib.import_module("resemblyzer.voice_encoder"), importlib.import_module("resemblyzer.audio")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seconds", [0.4, 1.6, 2.1, 2.4, 5.3])
@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_embedding_is_resemblyzers(resemblyzer, synthesize_speech, seconds, gain):
    voice_encoder, audio = resemblyzer
    clip = gain * synthesize_speech(seconds, seed=2)
    theirs = voice_encoder.VoiceEncoder("cpu", verbose=False)
    expected = theirs.embed_utterance(audio.normalize_volume(clip, -30, increase_only=True))
    embedding = GE2EEncoder()(clip, 16000)
    assert embedding == pytest.approx(expected, abs=1e-4)
    assert np.linalg.norm(embedding) == pytest.approx(1)


def test_a_voice_is_told_from_another():
    encoder = GE2EEncoder()
    recording = load_audio(demo_clip_path(), 16000)[0].numpy()
    half = recording.size // 2
    first, second = recording[:half], recording[half:]
    # The same words a third higher and faster: another, smaller speaker.
    other = np.interp(np.arange(0, half, 1.3), np.arange(half), first)
    same = speaker_similarity(first, second, 16000, encoder)
    assert 1 > same > speaker_similarity(first, other, 16000, encoder) + 0.1
    assert speaker_similarity(first, first, 16000, encoder) == pytest.approx(1)


def test_level_of_quiet_clips_does_not_matter(speech):
    quiet = 0.02 * speech
    encoder = GE2EEncoder()
    assert encoder(0.1 * quiet, 16000) == pytest.approx(encoder(quiet, 16000), abs=1e-5)


def test_value_depends_on_the_clip_alone(speech, synthesize_speech):
    encoder = GE2EEncoder()
    embedding = encoder(speech, 16000)
    encoder(synthesize_speech(4, seed=3), 16000)
    assert np.array_equal(encoder(torch.from_numpy(speech), 16000), embedding)
    assert load_model() is load_model()


def test_what_cannot_be_embedded(speech, monkeypatch):
    with pytest.raises(ValueError, match="`sampling_rate` must be 16000"):
        GE2EEncoder()(speech, 48000)
    with pytest.raises(ValueError, match="`waveform` is silent"):
        GE2EEncoder()(np.zeros(16000), 16000)
    monkeypatch.setattr(ge2e.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match="^GE2E needs the weights in `resemblyzer`: pip install --no-deps resemblyzer"
    ):
        ge2e.weights_path()
