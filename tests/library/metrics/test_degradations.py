"""
What is known without any metric: a copy is as good as can be, more of one damage is worse, and some damages leave some
metrics alone. On the recording that comes with the package.
"""

import numpy as np
import parselmouth
import pytest
from parselmouth.praat import call

from hf_affectcodec.audio import load_audio
from hf_affectcodec.metrics.egemaps import egemaps_distance
from hf_affectcodec.metrics.f0 import f0_correlation, log_f0_rmse, voicing_error
from hf_affectcodec.metrics.lsd import lsd
from hf_affectcodec.metrics.pesq import pesq
from hf_affectcodec.metrics.prosody_similarity import energy_correlation, prosody_similarity
from hf_affectcodec.metrics.stoi import stoi
from hf_affectcodec.shipped import demo_clip_path


# Metric, its value for a copy, and the sign that is better.
METRICS = {
    "pesq": (pesq, 4.644, 1),
    "stoi": (stoi, 1, 1),
    "lsd": (lsd, 0, -1),
    "log_f0_rmse": (log_f0_rmse, 0, -1),
    "f0_correlation": (f0_correlation, 1, 1),
    "voicing_error": (voicing_error, 0, -1),
    "energy_correlation": (energy_correlation, 1, 1),
    "egemaps_distance": (egemaps_distance, 0, -1),
    "prosody_similarity": (prosody_similarity, 1, 1),
}


@pytest.fixture(scope="module")
def clip():
    return load_audio(demo_clip_path(), 16000)[0].numpy()


def low_pass(waveform, cutoff):
    spectrum = np.fft.rfft(waveform)
    spectrum[np.fft.rfftfreq(waveform.size, 1 / 16000) > cutoff] = 0
    return np.fft.irfft(spectrum, waveform.size).astype(np.float32)


def flattened(waveform, keep):
    """The clip with its pitch moved towards its mean by Praat's overlap-add: `keep` of every excursion is left."""
    sound = parselmouth.Sound(waveform.astype(np.float64), 16000)
    manipulation = call(sound, "To Manipulation", 0.01, 60, 600)
    tier = call(manipulation, "Extract pitch tier")
    mean = call(tier, "Get mean (curve)", 0, 0)
    call(tier, "Formula", f"{mean} + {keep} * (self - {mean})")
    call([tier, manipulation], "Replace pitch tier")
    return call(manipulation, "Get resynthesis (overlap-add)").values[0].astype(np.float32)


@pytest.mark.parametrize("name", METRICS)
def test_a_copy_is_at_the_ceiling_and_noise_takes_it_down(name, clip, add_noise):
    metric, ceiling, better = METRICS[name]
    assert metric(clip, clip.copy(), 16000) == pytest.approx(ceiling, abs=1e-3)
    values = [metric(clip, add_noise(clip, snr), 16000) for snr in (30, 20, 10, 0)]
    steps = better * np.diff([ceiling, *values])
    if name in ("log_f0_rmse", "f0_correlation"):
        # Over frames that both have voiced, of which noise leaves the clear ones: read beside the voicing error.
        assert better * (values[-1] - ceiling) <= 0
    elif name == "voicing_error":
        # A share of some 500 frames: at little noise one of them may fall either way.
        assert (steps < 0.005).all() and values[0] < values[2] < values[3], values
    else:
        assert (steps < 0).all(), values


@pytest.mark.parametrize("name", ["pesq", "lsd", "egemaps_distance"])
def test_less_bandwidth_is_worse(name, clip):
    metric, ceiling, better = METRICS[name]
    values = [metric(clip, low_pass(clip, cutoff), 16000) for cutoff in (6000, 4000, 2000, 1000)]
    assert (better * np.diff([ceiling, *values]) < 0).all(), values


def test_flat_pitch_is_seen_by_prosody_and_not_by_energy(clip):
    # Resynthesis itself costs something: the ladder starts from the clip resynthesised with its own pitch.
    versions = [flattened(clip, keep) for keep in (1.0, 0.5, 0.0)]
    versions = [np.pad(version, (0, max(0, clip.size - version.size)))[: clip.size] for version in versions]
    prosody = [prosody_similarity(clip, version, 16000) for version in versions]
    energy = [energy_correlation(clip, version, 16000) for version in versions]
    pitch = [log_f0_rmse(clip, version, 16000) for version in versions]
    assert prosody[0] > prosody[1] > prosody[2], prosody
    assert pitch[0] < pitch[1] < pitch[2], pitch
    assert prosody[2] < 0.8 * prosody[0]
    assert min(energy) > 0.9, energy
