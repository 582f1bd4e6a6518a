"""
Listening tests with people: a plan in YAML, the recordings they hear, the order they hear them in, and their answers.

| module | what it does |
|---|---|
| `plan` | reads the YAML |
| `stimuli` | makes the recordings: originals, systems, anchors |
| `session` | the pages of one listener, and answers from scores |
| `store` | answers on disk and in a data set on the Hub |
| `progress` | where a listener is, and what an answer does to it |

`spaces/listening-test` is the page; [`~hf_affectcodec.benchmarks.listening`] reads the answers.
"""

from .plan import Clip, Plan, Test, read_plan
from .progress import answer, position
from .session import Page, Stimulus, check_scores, next_page, page_rows, session_pages
from .stimuli import low_pass, render_stimuli
from .store import AnswerStore, new_code, sync_with_hub


__all__ = [
    "AnswerStore",
    "Clip",
    "Page",
    "Plan",
    "Stimulus",
    "Test",
    "answer",
    "check_scores",
    "low_pass",
    "new_code",
    "next_page",
    "page_rows",
    "position",
    "read_plan",
    "render_stimuli",
    "session_pages",
    "sync_with_hub",
]
