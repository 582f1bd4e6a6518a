import numpy as np
import pytest
import torch
from hf_affectcodec.metrics.distillmos import distillmos, load_model


def test_value_is_the_networks_on_the_clip_alone(speech, synthesize_speech, add_noise, capfd):
    load_model.cache_clear()
    value = distillmos(speech, 16000)
    assert capfd.readouterr().out == ""  # nothing printed into the tables
    assert 1 <= value <= 5
    # The same before and after other clips of other lengths, and as a row of a batch of equal lengths.
    distillmos(synthesize_speech(0.6, seed=3), 16000)
    assert distillmos(speech, 16000) == value
    with torch.inference_mode():
        batch = load_model()(torch.from_numpy(np.stack([speech, add_noise(speech, 10)])))
    assert batch[0].item() == pytest.approx(value, abs=1e-4)
    assert load_model() is load_model()


def test_level_does_not_matter_and_noise_does(speech, add_noise):
    value = distillmos(speech, 16000)
    assert distillmos(0.1 * speech, 16000) == pytest.approx(value, abs=1e-3)
    assert distillmos(add_noise(speech, 0), 16000) < value - 0.1
