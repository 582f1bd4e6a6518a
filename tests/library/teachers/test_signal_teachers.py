import sys

import pytest
import torch

from hf_affectcodec.teachers.mfcc import MfccTeacher


def test_mfcc(check_frames):
    teacher = MfccTeacher()
    moved = check_frames(teacher, locality=20)
    assert moved[:49].max() == 0 and moved[76:].max() == 0  # nothing but its own 40 ms moves a frame
    with pytest.raises(ValueError, match="`num_coefficients` must be 1 to 10"):
        MfccTeacher(11, 10)


def test_egemaps(check_frames, synthesize_speech):
    pytest.importorskip("opensmile")
    from hf_affectcodec.teachers.egemaps import EgemapsTeacher, frame_statistics

    teacher = EgemapsTeacher()
    assert teacher.feature_size == 25
    check_frames(teacher)
    waveform = torch.from_numpy(synthesize_speech(1.5))
    raw = teacher([waveform])[0]
    descriptors = teacher.smile.process_signal(waveform.numpy(), 16_000)
    starts = descriptors.index.get_level_values("start").total_seconds()
    assert abs(starts[20] - 0.2) < 1e-6
    expected = torch.tensor(descriptors.to_numpy()[20], dtype=torch.float32)
    assert torch.equal(raw[10], expected)  # the descriptor that starts where the frame does

    mean, std = frame_statistics([raw[:40], raw[40:]])
    scaled = EgemapsTeacher(mean, std)([waveform])[0]
    torch.testing.assert_close(scaled, (raw - mean) / std)
    assert scaled.mean(0).abs().max() < 1e-3
    assert frame_statistics([torch.ones(4, 2)])[1].tolist() == [1, 1]
    for arguments, words in [
        ((mean, None), "must be given together"),
        ((mean[:3], std), r"`mean` must have shape \[25\]"),
        ((mean, std - 1e9), "`std` must be positive"),
    ]:
        with pytest.raises(ValueError, match=words):
            EgemapsTeacher(*arguments)
    with pytest.raises(ValueError, match="`features` holds no frame"):
        frame_statistics([])


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    monkeypatch.delitem(sys.modules, "hf_affectcodec.teachers.egemaps", raising=False)
    with pytest.raises(ImportError, match=r"^the eGeMAPS teacher needs `opensmile`: .*\[ser\]$"):
        import hf_affectcodec.teachers.egemaps  # noqa: F401
