"""What every metric refuses."""

import numpy as np
import pytest

from hf_affectcodec.metrics.distillmos import distillmos
from hf_affectcodec.metrics.f0 import f0_correlation, f0_rmse, log_f0_rmse, voicing_error
from hf_affectcodec.metrics.lsd import lsd
from hf_affectcodec.metrics.pesq import pesq
from hf_affectcodec.metrics.stoi import stoi


PAIRED = [pesq, stoi, lsd, f0_rmse, log_f0_rmse, f0_correlation, voicing_error]


@pytest.mark.parametrize("metric", PAIRED)
def test_unusable_pairs_are_refused(metric, speech):
    broken = speech.copy()
    broken[100] = np.nan
    with pytest.raises(ValueError, match="`reference` holds samples that are NaN"):
        metric(broken, speech, 16000)
    with pytest.raises(ValueError, match="`degraded` holds samples that are NaN"):
        metric(speech, broken, 16000)
    with pytest.raises(ValueError, match="`degraded` must have the length of `reference`, got 8000 and 24000"):
        metric(speech, speech[:8000], 16000)
    with pytest.raises(ValueError, match="`reference` is silent"):
        metric(np.zeros_like(speech), speech, 16000)
    with pytest.raises(
        ValueError, match=r"`reference` must be a mono waveform of shape \[T\], got shape \[1, 24000\]"
    ):
        metric(speech[None], speech, 16000)
    with pytest.raises(ValueError, match="`reference` is empty"):
        metric(speech[:0], speech[:0], 16000)


@pytest.mark.parametrize("metric", [pesq, f0_rmse, log_f0_rmse, f0_correlation, voicing_error])
def test_a_silent_copy_is_refused_where_the_metric_is_undefined(metric, speech):
    with pytest.raises(ValueError, match="`degraded` is silent"):
        metric(speech, np.zeros_like(speech), 16000)


def test_a_silent_copy_is_bad_where_the_metric_is_defined(speech):
    assert stoi(speech, np.zeros_like(speech), 16000) < 0.1
    assert lsd(speech, np.zeros_like(speech), 16000) > 3


@pytest.mark.parametrize("metric", PAIRED)
def test_dtype_does_not_matter(metric, speech, add_noise):
    degraded = add_noise(speech, 20)
    value = metric(speech, degraded, 16000)
    assert isinstance(value, float)
    assert value == metric(speech.astype(np.float64), degraded.astype(np.float64), 16000)


def test_distillmos_refuses_the_same(speech):
    with pytest.raises(ValueError, match="`waveform` is silent"):
        distillmos(np.zeros(16000), 16000)
    with pytest.raises(ValueError, match="`waveform` holds samples that are NaN"):
        distillmos(np.full(16000, np.nan), 16000)
    with pytest.raises(ValueError, match="`sampling_rate` must be 16000, got 8000"):
        distillmos(speech, 8000)
