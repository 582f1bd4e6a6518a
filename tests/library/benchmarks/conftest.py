import pytest
from matplotlib.figure import Figure
from stand_ins import classify, embed, rate, transcribe

from hf_affectcodec.benchmarks import backends, evaluate_codec, evaluate_tts
from hf_affectcodec.benchmarks.backends import Backend
from hf_affectcodec.benchmarks.codec_table import METRICS


@pytest.fixture
def stubs(monkeypatch):
    """One metric of the signal, known backends, and no picture, which takes longer than the rest."""
    monkeypatch.setattr(evaluate_codec, "SIGNAL", {"lsd": METRICS["lsd"]})
    for module in (evaluate_codec, evaluate_tts):
        monkeypatch.setattr(module, "picture", lambda table: Figure())
    for table, name, call, classes in (
        (backends.EMOTION, "moments", embed, ()),
        (backends.RECALL, "loudness", classify, ("angry", "happy")),
        (backends.WORDS, "peak", transcribe, ()),
        (backends.SPEAKER, "moments", embed, ()),
        (backends.RATINGS, "distillmos", rate, ()),
    ):
        monkeypatch.setitem(table, name, lambda call=call, classes=classes: Backend(call, "stub", {}, classes))
