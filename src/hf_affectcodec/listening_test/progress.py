"""Where a listener is, and what an answer does to it."""

from .plan import Plan
from .session import check_scores, next_page, page_rows, session_pages
from .store import AnswerStore


def position(plan: Plan, store: AnswerStore, code: str) -> int:
    """
    The number of the page that a listener is to see, from 0; that of all pages for one who is done.

    Raises:
        ValueError: `code` is none, or its answers are of another plan.
    """
    rows = store.rows(code)
    if any(row["plan"] != plan.fingerprint for row in rows):
        raise ValueError("the listening test was changed since these answers; start it anew")
    return next_page(session_pages(plan, code), {row["page"] for row in rows})


def answer(plan: Plan, store: AnswerStore, code: str, number: int, scores: list[float]) -> int:
    """
    Takes the scores of a page. A page that was answered before (a double click, a second window) changes nothing.

    Args:
        plan ([`Plan`]), store ([`AnswerStore`]), code (`str`): Whose.
        number (`int`): Of the page, from 0.
        scores (`list[float]`): See [`~hf_affectcodec.listening_test.session.check_scores`].

    Returns:
        `int`: The number of the page to go on with.

    Raises:
        ValueError: An argument is malformed, or the page is not the listener's next.
    """
    pages, current = session_pages(plan, code), position(plan, store, code)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(pages):
        raise ValueError(f"`number` must be a page of 0 to {len(pages) - 1}, got {number!r}")
    page = pages[number]
    scores = check_scores(page, plan.tests[page.test].method, scores)
    if number < current:
        return current
    # Training is not kept: who is in it may be at any of its pages, or past it.
    if not all(between.training for between in pages[current:number]):
        raise ValueError(f"`number`: page {number} comes after page {current}")
    if page.training:
        return number + 1
    store.add(code, page_rows(plan, code, number, page, scores))
    return position(plan, store, code)
