import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

from hf_affectcodec.teachers.alignment import frame_times, interpolate_to_frames
from hf_affectcodec.teachers.clap import ClapTeacher


def test_shapes_order_and_batch(clap, check_frames):
    model, processor = clap
    moved = check_frames(
        ClapTeacher(model.audio_model, processor), seconds=(10.0, 0.01, 1.013), perturbed=(4.0, 5.5), locality=1.5
    )
    assert len(moved) == 500


def test_steps_of_a_short_clip(clap, synthesize_speech):
    """3 s: repeated 3 times, 1 s of zeros; 10 of 32 steps are the clip's."""
    model, processor = clap
    waveform = torch.from_numpy(synthesize_speech(3.0))
    teacher = ClapTeacher(model.audio_model, processor)
    seen = []
    model.audio_model.register_forward_pre_hook(
        lambda module, arguments, named: seen.append(arguments[0]), with_kwargs=True
    )
    features = teacher([waveform])[0]
    mel = seen[0][0, 0]
    assert mel.shape == (1001, 64)
    torch.testing.assert_close(mel[10:290], mel[310:590], atol=0.1, rtol=0)  # repeated, in dB
    assert mel[910:].max() == -100 < mel[:900].mean()
    hidden = model.audio_model(seen[0]).last_hidden_state
    assert hidden.shape == (1, 64, 2, 32)
    steps = hidden[0].mean(1).T[:10]
    torch.testing.assert_close(features, interpolate_to_frames(steps, frame_times(10, 3.2), 150))


def test_longer_than_the_window(clap, synthesize_speech):
    model, processor = clap
    teacher = ClapTeacher(model.audio_model, processor)
    waveform = torch.from_numpy(synthesize_speech(12.0))
    np.random.seed(0)
    features = teacher([waveform])[0]
    assert len(features) == 600 and torch.equal(teacher([waveform])[0], features)
    # up to the first window's last step (9.84 s), then from the last window's first step past 10 s (10.28 s)
    whole, tail = teacher([waveform[:160_000]])[0], teacher([waveform[32_000:]])[0]
    assert torch.equal(features[:492], whole[:492])
    torch.testing.assert_close(features[514:], tail[414:])


def test_a_released_checkpoint_loads_its_tower(clap, tmp_path, synthesize_speech):
    model, processor = clap
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    waveform = torch.from_numpy(synthesize_speech(1.0))
    loaded, built = ClapTeacher.from_pretrained(tmp_path), ClapTeacher(model.audio_model, processor)
    assert torch.equal(loaded([waveform])[0], built([waveform])[0])
    assert loaded.description["weights_sha256"] == built.description["weights_sha256"]


def test_bad_window(clap):
    with pytest.raises(ValueError, match="`processor` must have a window"):
        ClapTeacher(clap[0].audio_model, ClapFeatureExtractor(sampling_rate=44_100, max_length_s=0.03))
