import pytest

from hf_affectcodec.metrics.speaker_split import assert_speaker_disjoint


def test_disjoint_sides_pass():
    assert assert_speaker_disjoint(["anna", "ben", "anna"], ["carl"]) is None
    assert_speaker_disjoint(iter([1, 2]), {3})


def test_an_overlap_fails_and_is_named():
    with pytest.raises(ValueError, match="1 speakers are in `train_speakers` too: ben$"):
        assert_speaker_disjoint(["anna", "ben"], ["ben", "carl", "ben"])
    with pytest.raises(ValueError, match="7 speakers .*: 0, 1, 2, 3, 4 and 2 more"):
        assert_speaker_disjoint(range(9), range(7))
    # Written differently, they are the same speaker.
    with pytest.raises(ValueError, match="too: 3"):
        assert_speaker_disjoint([3], ["3 "])


@pytest.mark.parametrize("unknown", [None, "", "  ", float("nan")])
def test_an_unknown_speaker_cannot_be_held_apart(unknown):
    with pytest.raises(ValueError, match="`test_speakers`: 1 of 2 clips have no speaker"):
        assert_speaker_disjoint(["anna"], ["ben", unknown])


def test_sides_must_hold_speakers():
    with pytest.raises(ValueError, match="`train_speakers` is empty"):
        assert_speaker_disjoint([], ["ben"])
    with pytest.raises(ValueError, match="`test_speakers` must hold one speaker a clip"):
        assert_speaker_disjoint(["anna"], "ben")
