"""The check that no speaker is on both sides of a split."""

from collections.abc import Iterable


NAMES = 5  # speakers that the message names


def _speakers(values: Iterable, name: str) -> set[str]:
    if isinstance(values, str):
        raise ValueError(f"`{name}` must hold one speaker a clip, got the single string {values!r}")
    values = list(values)
    if not values:
        raise ValueError(f"`{name}` is empty")
    # NaN, which a table's missing entry becomes, is not equal to itself.
    missing = sum(value is None or value != value or not str(value).strip() for value in values)
    if missing:
        raise ValueError(f"`{name}`: {missing} of {len(values)} clips have no speaker")
    return {str(value).strip() for value in values}


def assert_speaker_disjoint(train_speakers: Iterable, test_speakers: Iterable) -> None:
    """
    Fails where a speaker is both trained on and tested on. Speakers are compared by their written form, so that 3 and
    `"3"` are one; whether two corpora call one person by two names cannot be seen from here.

    Args:
        train_speakers (iterable of `str` or `int`): Speaker of each clip, or of each speaker once.
        test_speakers (iterable of `str` or `int`): The same for the other side.

    Raises:
        ValueError: The sides share a speaker, a side is empty, or a clip has no speaker (`None`, NaN or blank): what is
            not known cannot be held apart.
    """
    shared = sorted(_speakers(train_speakers, "train_speakers") & _speakers(test_speakers, "test_speakers"))
    if shared:
        more = f" and {len(shared) - NAMES} more" if len(shared) > NAMES else ""
        raise ValueError(
            f"`test_speakers`: {len(shared)} speakers are in `train_speakers` too: {', '.join(shared[:NAMES])}{more}"
        )
