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


def test_long_clips_are_averaged_over_windows(synthesize_speech):
    # 9 s: windows of 7.68 s, the first at the beginning, the last at the end, at most 1 s apart.
    clip = synthesize_speech(9, seed=1)
    assert clip.size - 122880 == 21120
    windows = [clip[start : start + 122880] for start in (0, 10560, 21120)]
    assert distillmos(clip, 16000) == pytest.approx(np.mean([distillmos(w, 16000) for w in windows]), abs=1e-4)


def test_level_does_not_matter(speech):
    # Ranking is not tested: the network was trained on recordings and finds synthetic signals bad as they are.
    assert distillmos(0.1 * speech, 16000) == pytest.approx(distillmos(speech, 16000), abs=1e-3)
