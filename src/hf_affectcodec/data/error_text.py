"""Errors of other libraries, in one line."""


def first_line(error: BaseException) -> str:
    """The first line of its message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
