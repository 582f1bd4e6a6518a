import math

import pytest

from hf_affectcodec.metrics.pesq import pesq


def test_identical_clips_are_at_the_ceiling_of_the_recommendations(speech):
    # P.862.2 and P.862.1 map the raw ceiling 4.5 so.
    wide = 0.999 + 4 / (1 + math.exp(-1.3669 * 4.5 + 3.8224))
    narrow = 0.999 + 4 / (1 + math.exp(-1.4945 * 4.5 + 4.6607))
    assert pesq(speech, speech, 16000) == pytest.approx(wide, abs=1e-3)
    assert pesq(speech, speech, 16000, mode="nb") == pytest.approx(narrow, abs=1e-3)
    assert pesq(speech[::2], speech[::2], 8000, mode="nb") == pytest.approx(narrow, abs=1e-3)


def test_more_noise_is_worse(speech, add_noise):
    values = [pesq(speech, add_noise(speech, snr), 16000) for snr in (40, 25, 10)]
    assert 4.6 > values[0] > values[1] + 0.1 > values[2] + 0.2 > 1.2


def test_a_common_gain_does_not_matter(speech, add_noise):
    degraded = add_noise(speech, 20)
    assert pesq(0.1 * speech, 0.1 * degraded, 16000) == pytest.approx(pesq(speech, degraded, 16000), abs=1e-4)


def test_clips_that_cannot_be_measured(speech):
    with pytest.raises(ValueError, match="`reference`: PESQ cannot measure this clip"):
        pesq(speech[4000:7000], speech[4000:7000], 16000)


def test_modes(speech):
    with pytest.raises(ValueError, match="`mode` must be one of"):
        pesq(speech, speech, 16000, mode="swb")
    with pytest.raises(ValueError, match="`sampling_rate` must be in"):
        pesq(speech, speech, 8000)
