import pytest
import torch

from hf_affectcodec.teachers.alignment import frame_times, interpolate_to_frames, num_codec_frames, windows
from hf_affectcodec.teachers.frozen import check_waveforms


def test_frames_of_the_codec_stay_as_they_are():
    features = torch.randn(7, 3)
    assert torch.equal(interpolate_to_frames(features, frame_times(7, 50.0), 7), features)
    longer = interpolate_to_frames(features, frame_times(7, 50.0), 9)
    assert torch.equal(longer, features[[0, 1, 2, 3, 4, 5, 6, 6, 6]])
    assert torch.equal(interpolate_to_frames(features, frame_times(7, 50.0), 4), features[:4])


def test_a_straight_line_stays_one_at_any_rate():
    for rate in (3.2, 12.5, 49.0, 100.0):
        times = frame_times(int(4 * rate), rate)
        features = torch.stack([2 * times + 1, -times], 1).float()
        wanted = frame_times(200, 50.0)
        inside = (wanted >= times[0]) & (wanted <= times[-1])
        line = torch.stack([2 * wanted + 1, -wanted], 1).float()
        result = interpolate_to_frames(features, times, 200)
        torch.testing.assert_close(result[inside], line[inside])
        assert (result[wanted < times[0]] == features[0]).all() and (result[wanted > times[-1]] == features[-1]).all()


def test_change_is_spread_between_steps():
    """Repeating the nearest step would put all change on the borders, 1 frame of 16."""
    features = torch.randn(10, 8)
    change = interpolate_to_frames(features, frame_times(10, 3.125), 160).diff(dim=0).abs().sum(1)
    assert (change[8:-8] > 0).all()
    torch.testing.assert_close(change[9:22], change[9].expand(13))


def test_one_feature_and_bad_input():
    assert torch.equal(interpolate_to_frames(torch.ones(1, 2), torch.tensor([0.3]), 4), torch.ones(4, 2))
    for features, times, words in [
        (torch.ones(0, 2), torch.ones(0), "`features` must have shape"),
        (torch.ones(2), torch.ones(2), "`features` must have shape"),
        (torch.ones(2, 2), torch.ones(3), "`times` must be 2 increasing"),
        (torch.ones(2, 2), torch.ones(2), "`times` must be 2 increasing"),
    ]:
        with pytest.raises(ValueError, match=words):
            interpolate_to_frames(features, times, 4)


@pytest.mark.parametrize("length", [1, 3200, 3201, 6399, 6400, 6401, 9999])
def test_windows_cover_a_clip_once(length):
    cuts = windows(length, 3200)
    assert cuts[0][0] == cuts[0][2] == 0 and cuts[-1][1] == length
    for (_, stop, _), (start, last, keep) in zip(cuts, cuts[1:], strict=False):
        assert keep == stop and start <= keep and start % 320 == 0 and 3200 - 320 < last - start <= 3200
    assert windows(length, None) == [(0, length, 0)]


def test_num_codec_frames():
    assert [num_codec_frames(n) for n in (1, 320, 321, 48_000)] == [1, 1, 2, 150]


def test_bad_waveforms():
    for waveforms, words in [
        (torch.ones(2, 400), "must be a list of tensors"),
        ([torch.ones(400), torch.ones(1, 400)], r"item 1 must have shape \[T\]"),
        ([torch.ones(0)], r"item 0 must have shape \[T\]"),
        ([torch.ones(4, dtype=torch.int16)], "item 0 must be a floating point"),
        ([[0.0, 1.0]], "item 0 must be a floating point"),
        ([torch.tensor([0.0, float("nan")])], "item 0 holds NaN"),
    ]:
        with pytest.raises(ValueError, match=words):
            check_waveforms(waveforms)
