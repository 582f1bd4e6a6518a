"""Hours an hour of token fusion: the arithmetic by hand, and that the timed calls are the pipeline's."""

import numpy as np
import pytest
import torch
from tiny_ser import noise, save_graph_fusion, save_token_fusion

from hf_affectcodec.benchmarks import classifying
from hf_affectcodec.benchmarks.classifying import PARTS, main, run_process, table, time_parts
from hf_affectcodec.classify import load_classifier


def test_a_run_is_as_fast_as_its_slowest_process():
    one = [[dict(zip(PARTS, (1.0, 2.0, 3.0), strict=True))], [dict(zip(PARTS, (1.0, 2.0, 1.0), strict=True))]]
    two = [[dict(zip(PARTS, (0.5, 1.0, 1.5), strict=True)), dict(zip(PARTS, (0.5, 1.0, 0.5), strict=True))]]
    rows = table({1: one, 2: two}, hours=0.01).splitlines()
    # 36 s of audio in 6 and in 4 s; in 3 s, the slower of 3 and 2
    assert rows[2] == "| 1 | 8 (6 to 9) | 20% | 40% | 40% |"
    assert rows[3] == "| 2 | 12 (12 to 12) | 20% | 40% | 40% |"


@pytest.mark.parametrize("kind", ["encoder", "codec"])
def test_the_timed_calls_are_the_pipelines(tmp_path, monkeypatch, kind):
    save_token_fusion(tmp_path / "tokens", kind)
    classifier = load_classifier(tmp_path / "tokens", "cpu")
    model, logits = classifier.model, []
    forward = model.forward

    def keep(**given):
        outputs = forward(**given)
        logits.append(outputs.logits)
        return outputs

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", keep)
        seconds = time_parts(model, classifier.feature_extractor, [noise(0.5), noise(0.31, 1)])
    assert list(seconds) == list(PARTS) and all(value > 0 for value in seconds.values())
    for found, waveform in zip(logits, (noise(0.5), noise(0.31, 1)), strict=True):
        expected = {
            row["label"]: row["score"] for row in classifier({"array": waveform, "sampling_rate": 16000}, top_k=None)
        }
        names = model.config.id2label.values()
        assert dict(zip(names, found.softmax(-1)[0].tolist(), strict=True)) == pytest.approx(expected, abs=1e-5)


def test_every_clip_is_in_one_process(tmp_path, monkeypatch, capsys):
    runs = []

    class Pool:
        def __init__(self, processes):
            self.processes = processes

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def starmap(self, function, jobs, chunksize):
            assert function is run_process and len(jobs) == self.processes and chunksize == 1
            runs.append([[len(waveform) for waveform in waveforms] for _, waveforms in jobs])
            return [dict.fromkeys(PARTS, 1.0) for _ in jobs]

    class Clips:
        waveforms = [np.full(length, 16384, np.int16) for length in (16000, 32000, 48000)]
        seconds = 6.0

        def __len__(self):
            return 3

    monkeypatch.setattr(classifying.multiprocessing, "get_context", lambda _: type("Context", (), {"Pool": Pool}))
    monkeypatch.setattr(classifying, "load_clips", lambda *_: Clips())
    main(["--model", "m", "--source", "s", "--processes", "1", "2", "--rounds", "2"])
    assert runs == [[[16000, 32000, 48000]], [[16000, 48000], [32000]]] * 2  # in turns
    assert "| 2 | 2 (2 to 2) |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="`--source` has 3 clips for 4 processes"):
        main(["--model", "m", "--source", "s", "--processes", "4"])


def test_other_models_are_refused(tmp_path):
    threads = torch.get_num_threads()
    save_graph_fusion(tmp_path / "graph", recognizer=None)
    try:
        with pytest.raises(ValueError, match="`--model` must be token fusion, got GraphFusion"):
            run_process(str(tmp_path / "graph"), [noise(0.5)])
    finally:
        torch.set_num_threads(threads)
