"""Plans, recordings, orders and answers of listening tests, without a browser."""

import concurrent.futures
import json
import re
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import soundfile
import yaml
from loopback_hub import LoopbackHub

from hf_affectcodec.audio import load_audio
from hf_affectcodec.benchmarks.listening.analysis import analyse
from hf_affectcodec.benchmarks.listening.answers import Answer, read_answers
from hf_affectcodec.listening_test import (
    AnswerStore,
    Plan,
    Test,
    answer,
    low_pass,
    new_code,
    position,
    read_plan,
    render_stimuli,
    session_pages,
)
from hf_affectcodec.listening_test import plan as plan_module


RATE = 16000
CODE, OTHER = "ABCDEFGH", "ZYXWVUTS"
SYSTEMS = ("good", "bad", "worse")
CLIPS = ("one", "two", "three", "four")


def values() -> dict:
    """A plan with every method."""
    return {
        "title": "A test",
        "seed": 3,
        "clips": {name: {"file": f"{name}.wav", "emotion": "joy"} for name in CLIPS},
        "systems": {name: f"{name}/{{clip}}.wav" for name in SYSTEMS},
        "tests": {
            "quality": {
                "method": "mushra",
                "anchors": {"low": 1500, "mid": 3500},
                "training": ["one"],
                "attention_checks": 2,
            },
            "preference": {"method": "ab", "pairs": [["good", "bad"]], "attention_checks": 1},
            "speech": {"method": "mos", "systems": ["original", "good"], "clips_per_listener": 2},
            "feeling": {"method": "emotion_mos", "systems": ["good"], "training": ["two"]},
            "difference": {"method": "cmos", "systems": ["good", "bad", "worse"], "clips": ["one"]},
        },
    }


def write_plan(folder, changed: dict):
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def plan(tmp_path):
    return read_plan(write_plan(tmp_path, values()))


def set_key(target: dict, key: str, value):
    *parents, last = key.split("/")
    for parent in parents:
        target = target[parent]
    target[last] = value


# ----- the plan


def test_a_plan_is_read_with_what_it_leaves_out(plan):
    tests = plan.tests
    assert tests["quality"].systems == list(SYSTEMS) and tests["quality"].clips == list(CLIPS)
    assert tests["difference"].pairs == [["good", "bad"], ["good", "worse"], ["bad", "worse"]]
    assert tests["preference"].systems == ["good", "bad"]
    assert "{emotion}" in tests["feeling"].question and tests["speech"].order == "random"


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("titel", "x", "titel"),
        ("title", None, "title"),
        ("title", 3, "title"),
        ("seed", -1, "seed"),
        ("seed", True, "seed"),
        ("sampling_rate", 10, "sampling_rate"),
        ("answers_repo", "name", "answers_repo"),
        ("clips", [], "clips"),
        ("clips/one", "one.wav", "clips.one"),
        ("clips/one/strat", 1.0, "clips.one"),
        ("clips/one/start", "1 s", "clips.one`: `start"),
        ("clips/one/file", None, "clips.one.file"),
        ("clips/three/emotion", None, "clips.three.emotion"),
        ("systems/good", "good/one.wav", "systems.good"),
        ("systems/original", "x/{clip}.wav", "systems"),
        ("baselines", "opus-6", "baselines"),
        ("models", {"good": None}, "systems"),
        ("tests", {}, "tests"),
        ("tests/quality", "mushra", "tests.quality"),
        ("tests/quality/method", "mushroom", "tests.quality.method"),
        ("tests/quality/systems", ["best"], "tests.quality.systems"),
        ("tests/quality/systems", ["original"], "tests.quality.systems"),
        ("tests/quality/systems", [], "tests.quality.systems"),
        ("tests/quality/clips", ["five"], "tests.quality.clips"),
        ("tests/quality/clips", "one", "tests.quality.clips"),
        ("tests/quality/training", ["five"], "tests.quality.training"),
        ("tests/quality/anchors", {"low": 8000}, "tests.quality.anchors.low"),
        ("tests/quality/anchors", {"lower": 3000}, "tests.quality.anchors"),
        ("tests/speech/anchors", {"low": 3000}, "tests.speech.anchors"),
        ("tests/quality/attention_checks", 1.5, "tests.quality`: `attention_checks"),
        ("tests/quality/order", "shuffled", "tests.quality.order"),
        ("tests/quality/pairs", [["good", "bad"]], "tests.quality.pairs"),
        ("tests/preference/pairs", [["good", "good"]], "tests.preference.pairs"),
        ("tests/preference/pairs", "good, bad", "tests.preference.pairs"),
        ("tests/speech/clips_per_listener", 5, "tests.speech.clips_per_listener"),
        ("tests/feeling/question", ["?"], "tests.feeling`: `question"),
        ("tests/feeling/questions", "?", "tests.feeling"),
    ],
)
def test_a_bad_plan_is_one_line_that_names_the_key(tmp_path, key, value, named):
    changed = values()
    set_key(changed, key, value)
    with pytest.raises(ValueError) as raised:
        read_plan(write_plan(tmp_path, changed))
    assert f"`{named}`" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["title: [", "- a list", "", "title: a: b", "systems: {mine: a/{clip}.wav}", "\x00"])
def test_what_is_no_mapping_is_one_line(tmp_path, text):
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as raised:
        read_plan(tmp_path / "plan.yaml")
    assert "plan.yaml" in str(raised.value) and "\n" not in str(raised.value)


def test_the_documented_plan_is_one(tmp_path):
    text = textwrap.dedent(plan_module.__doc__.split("one YAML file.\n")[1].split("Paths are relative")[0])
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    plan, documented = read_plan(tmp_path / "plan.yaml"), yaml.safe_load(text)
    assert set(documented) == {item.name for item in fields(Plan)} - {"folder", "fingerprint"}
    assert {key for test in documented["tests"].values() for key in test} == {item.name for item in fields(Test)}
    assert plan.tests["quality"].systems == plan.tests["preference"].pairs[0] == ["mine", "opus-6"]


# ----- recordings


def test_an_anchor_is_what_bs_1534_says_of_it():
    """±0.1 dB to 3.5 kHz, 25 dB down at 4 kHz, 50 dB at 4.5 kHz, no delay; measured with sines, not on the taps."""
    rate, cutoff = 48000, 3500
    time = np.arange(rate) / rate
    levels = {}
    for frequency in (50, 1000, 3000, 3499, 4000, 4500, 8000, 20000):
        sine = np.sin(2 * np.pi * frequency * time)
        middle = slice(rate // 4, -rate // 4)
        filtered = low_pass(sine, rate, cutoff)
        levels[frequency] = 10 * np.log10((filtered[middle] ** 2).mean() / (sine[middle] ** 2).mean())
        if frequency <= cutoff:
            np.testing.assert_allclose(filtered[middle], sine[middle], atol=0.012)
    assert all(abs(levels[frequency]) < 0.1 for frequency in (50, 1000, 3000, 3499))
    assert levels[4000] < -25 and levels[4500] < -50 and levels[8000] < -50 and levels[20000] < -50


def test_low_pass_keeps_lengths_and_what_has_nothing_above():
    for length in (1, 100, 12345):
        assert low_pass(np.ones(length), RATE, 3500).shape == (length,)
    noise = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    np.testing.assert_array_equal(low_pass(noise, RATE, 7500), noise)


def write_recordings(folder, rate: int = RATE):
    """Each clip and system a constant of its own, so that it is known again; the clips have a step at 0.5 s."""
    levels = {}
    for number, name in enumerate(CLIPS, start=1):
        levels[name, "original"] = number / 100
        waveform = np.concatenate([np.zeros(rate // 2), np.full(rate // 2, number / 100)])
        soundfile.write(folder / f"{name}.wav", waveform, rate)
        for offset, system in enumerate(SYSTEMS, start=1):
            (folder / system).mkdir(exist_ok=True)
            levels[name, system] = number / 100 + offset / 10
            soundfile.write(folder / system / f"{name}.wav", np.full(rate, levels[name, system]), rate)
    return levels


def test_recordings_are_the_right_ones_under_names_that_say_nothing(tmp_path):
    levels = write_recordings(tmp_path)
    changed = values()
    for clip in changed["clips"].values():
        clip["start"] = 0.5
    plan = read_plan(write_plan(tmp_path, changed))
    (tmp_path / "out").mkdir()
    paths = render_stimuli(plan, tmp_path / "out")
    for name in CLIPS:
        for system in ("reference", "original", *SYSTEMS):
            expected = levels[name, "original" if system == "reference" else system]
            length = RATE if system in SYSTEMS else RATE // 2  # the clip starts at 0.5 s
            waveform = load_audio(paths[name, system])[0].numpy()
            np.testing.assert_allclose(waveform, np.full(length, expected), atol=1e-4)
        assert {(name, "low_anchor"), (name, "mid_anchor")} <= set(paths)
    names = [path.name for path in paths.values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[0-9a-f]{24}\.wav", name) for name in names)
    # Two runs share no name.
    (tmp_path / "again").mkdir()
    assert not set(names) & {path.name for path in render_stimuli(plan, tmp_path / "again").values()}


def test_codecs_are_run_and_rates_are_kept(tmp_path, speech):
    soundfile.write(tmp_path / "one.wav", np.repeat(speech, 2), 2 * RATE)
    changed = {"title": "t", "sampling_rate": 32000, "clips": {"one": {"file": "one.wav"}}, "baselines": ["opus-8"]}
    plan = read_plan(write_plan(tmp_path, {**changed, "tests": {"q": {"method": "mushra"}}}))
    paths = render_stimuli(plan, tmp_path)
    waveforms = {system: soundfile.read(path) for (_, system), path in paths.items()}
    assert set(waveforms) == {"opus-8", "reference", "original"}
    assert {rate for _, rate in waveforms.values()} == {32000}
    original, coded = waveforms["original"][0], waveforms["opus-8"][0]
    assert len(original) == len(coded)
    assert 0.8 < np.corrcoef(original, coded)[0, 1] < 0.9999  # coded, in time


@pytest.mark.parametrize(
    ("break_it", "key"),
    [
        (lambda folder: (folder / "bad" / "two.wav").unlink(), "systems.bad"),
        (lambda folder: (folder / "three.wav").write_text("no"), "clips.three.file"),
    ],
)
def test_a_missing_recording_is_named(tmp_path, plan, break_it, key):
    write_recordings(tmp_path)
    break_it(tmp_path)
    with pytest.raises(ValueError, match=f"`{key}`"):
        render_stimuli(plan, tmp_path)


# ----- orders


def test_every_listener_hears_everything_once_and_the_same_again(plan):
    pages = session_pages(plan, CODE)
    assert pages == session_pages(plan, CODE) != session_pages(plan, OTHER)
    assert [page.test for page in pages] == sorted((page.test for page in pages), key=list(plan.tests).index)
    quality = [page for page in pages if page.test == "quality"]
    assert quality[0].training and not any(page.training for page in quality[1:])
    rated = [page for page in quality[1:] if page.expected is None]
    assert Counter(page.clip for page in rated) == Counter(CLIPS)
    for page in rated:
        heard = Counter((stimulus.system, stimulus.role) for stimulus in page.stimuli)
        roles = ("hidden_reference", "original"), ("low_anchor", "low_anchor"), ("mid_anchor", "mid_anchor")
        assert heard == Counter([(system, "system") for system in SYSTEMS] + [(b, a) for a, b in roles])
    assert sum(page.expected is not None for page in quality) == 2
    assert len([page for page in pages if page.test == "speech"]) == 2 * 2


def test_orders_are_balanced_over_listeners(plan):
    """Each system at each place of a MUSHRA page, each clip first, each of a pair first: as often as chance has it."""
    places, first_clips, first_of_pair, chosen = Counter(), Counter(), [], Counter()
    listeners = [new_code() for _ in range(400)]
    for code in listeners:
        pages = session_pages(plan, code)
        rated = [page for page in pages if page.test == "quality" and not page.training and page.expected is None]
        first_clips[rated[0].clip] += 1
        places.update((stimulus.system, place) for page in rated for place, stimulus in enumerate(page.stimuli))
        ab = [page for page in pages if page.test == "preference" and page.expected is None]
        halves = [page.stimuli[0].system == "good" for page in ab]
        assert sum(halves) == 2  # of 4 clips
        first_of_pair.append(tuple(halves))
        chosen.update({page.clip for page in pages if page.test == "speech"})
    # 1,600 pages: 267 expected, standard deviation 15; 400 listeners: 100 (9) and 200 (10)
    assert len(places) == 36 and all(195 < count < 340 for count in places.values())
    assert all(60 < first_clips[clip] < 140 and 150 < chosen[clip] < 250 for clip in CLIPS)
    assert len(set(first_of_pair)) == 6  # all ways of 2 out of 4


def test_the_given_order_is_kept(tmp_path):
    changed = values()
    for test in changed["tests"].values():
        test |= {"order": "given", "attention_checks": 0, "training": []}
    pages = session_pages(read_plan(write_plan(tmp_path, changed)), CODE)
    quality = [page for page in pages if page.test == "quality"]
    assert [page.clip for page in quality] == list(CLIPS)
    assert [item.system for item in quality[0].stimuli] == [*SYSTEMS, "original", "low_anchor", "mid_anchor"]


def test_attention_checks_fall_between(plan):
    for _ in range(50):
        pages = [page for page in session_pages(plan, new_code()) if page.test == "quality" and not page.training]
        assert pages[0].expected is None and pages[-1].expected is None


# ----- answers


def right_scores(page, level) -> list[float]:
    """What an attentive listener says to whom `level` is how good a system is, 0 to 100."""
    if page.expected is not None:
        return [sum(page.expected) / 2]
    if page.test == "quality":
        return [level[stimulus.system] for stimulus in page.stimuli]
    if page.test in ("preference", "difference"):
        first, second = (level[stimulus.system] for stimulus in page.stimuli)
        return [int(np.sign(second - first))]
    return [5 if level[page.stimuli[0].system] > 50 else 2]


LEVEL = {"original": 100, "good": 80, "mid_anchor": 50, "bad": 40, "worse": 30, "low_anchor": 20}


def walk(plan, store, code, level=None):
    """From where the listener is to the end; the numbers of the pages seen."""
    pages, number, seen = session_pages(plan, code), position(plan, store, code), []
    while number < len(pages):
        assert number not in seen
        seen.append(number)
        number = answer(plan, store, code, number, right_scores(pages[number], level or LEVEL))
    return seen


def test_a_session_gives_answers_that_the_analysis_takes(plan, tmp_path):
    store = AnswerStore(tmp_path / "answers")
    for code in (CODE, OTHER):
        assert walk(plan, store, code) == list(range(len(session_pages(plan, code))))
    store.export(tmp_path / "all.jsonl")
    store.export(tmp_path / "all.parquet")
    answers = read_answers(tmp_path / "all.jsonl")
    assert answers == read_answers(tmp_path / "all.parquet")
    # By hand: mushra 4 x 6 and 2 checks, ab 4 and 1 check, mos 2 x 2, emotion_mos 4, cmos 3; training is not kept.
    assert len(answers) == 2 * (24 + 2 + 4 + 1 + 4 + 4 + 3)
    assert {item.listener for item in answers} == {CODE, OTHER}
    tests = analyse(answers)["tests"]
    assert all(test["num_excluded"] == 0 for test in tests.values())
    means = {name: cell["mean"] for name, cell in tests["quality"]["systems"].items()}
    assert means == LEVEL
    (pair,) = tests["preference"]["pairs"]
    favoured = pair["share"]["first" if pair["first"] == "good" else "second"]
    assert favoured == 1.0 and tests["preference"]["position"]["second"] == 0.5


def test_who_answers_anything_fails_the_checks(plan, tmp_path):
    store = AnswerStore(tmp_path / "answers")
    walk(plan, store, CODE)
    pages, number = session_pages(plan, OTHER), 0
    while number < len(pages):
        count = len(pages[number].stimuli) if pages[number].test == "quality" else 1
        number = answer(plan, store, OTHER, number, [1] * count)
    store.export(tmp_path / "all.jsonl")
    reasons = {
        item["listener"]: item["reasons"]
        for item in analyse(read_answers(tmp_path / "all.jsonl"))["tests"]["quality"]["listeners"]
    }
    assert reasons[CODE] == [] and "attention checks" in reasons[OTHER][0]


def test_a_session_goes_on_after_each_page(plan, tmp_path):
    """Broken off at every page: what was answered is kept, nothing is asked twice but training."""
    store = AnswerStore(tmp_path / "answers")
    pages = session_pages(plan, CODE)
    asked = Counter()
    number = 0
    while number < len(pages):
        asked[number] += 1
        reached = answer(plan, store, CODE, number, right_scores(pages[number], LEVEL))
        number = position(plan, AnswerStore(tmp_path / "answers"), CODE)
        if reached != number:  # after training: gone on with once without a break
            assert pages[number].training and reached == number + 1
            number = reached
    assert set(asked.values()) == {1} and len(asked) == len(pages)
    rows = store.rows(CODE)
    assert len({(row["trial"], row["system"]) for row in rows}) == len(rows) == 42


def test_a_page_counts_once_and_in_its_turn(plan, tmp_path):
    store = AnswerStore(tmp_path / "answers")
    pages = session_pages(plan, CODE)
    first = 1  # page 0 is training
    scores = right_scores(pages[first], LEVEL)
    assert answer(plan, store, CODE, 0, scores[:0] + [50] * 6) == 1 and store.rows(CODE) == []
    assert answer(plan, store, CODE, first, scores) == 2
    before = store.rows(CODE)
    assert answer(plan, store, CODE, first, [1] * len(scores)) == 2  # a double click
    assert store.rows(CODE) == before
    with pytest.raises(ValueError, match="comes after"):
        answer(plan, store, CODE, 4, right_scores(pages[4], LEVEL))
    for number in (-1, len(pages), 2.0, None, "2"):
        with pytest.raises(ValueError, match="`number`"):
            answer(plan, store, CODE, number, scores)
    for scores in ([], [50] * 9, [101] * 6, ["50"] * 6, [True] * 6, [float("nan")] * 6, "555555", None):
        with pytest.raises(ValueError, match="`scores`"):
            answer(plan, store, CODE, 1, scores)
    assert store.rows(CODE) == before


@pytest.mark.parametrize("code", ["", "abcdefgh", "ABCDEFG", "ABCDEFGHI", "../../et", "ABCDEFG1", None, 7])
def test_only_codes_are_files(tmp_path, code):
    store = AnswerStore(tmp_path / "answers")
    with pytest.raises(ValueError, match="`code`"):
        store.rows(code)
    with pytest.raises(ValueError, match="`code`"):
        store.add(code, [{"page": 0}])
    assert list(tmp_path.rglob("*")) == [tmp_path / "answers"]


def test_two_listeners_at_once_do_not_mix(plan, tmp_path):
    """Twelve threads, two a listener: every row is the listener's own, and each page is there once."""
    store = AnswerStore(tmp_path / "answers")
    codes = [new_code() for _ in range(6)]
    levels = {code: {**LEVEL, "good": 60 + index} for index, code in enumerate(codes)}
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda code: walk(plan, store, code, levels[code]), codes * 2))
    for code in codes:
        rows = store.rows(code)
        assert len(rows) == 42 and {row["listener"] for row in rows} == {code}
        scores = {row["score"] for row in rows if row["test"] == "quality" and row["system"] == "good"}
        assert scores == {levels[code]["good"]}


def test_answers_hold_nothing_of_a_person(plan, tmp_path):
    store = AnswerStore(tmp_path / "answers")
    walk(plan, store, CODE)
    assert set(store.rows(CODE)[0]) == {item.name for item in fields(Answer)} | {"position", "page", "plan"}
    assert [path.name for path in store.folder.iterdir()] == [f"{CODE}.jsonl"]


def test_answers_of_another_plan_are_not_gone_on_with(plan, tmp_path):
    store = AnswerStore(tmp_path / "answers")
    answer(plan, store, CODE, 1, right_scores(session_pages(plan, CODE)[1], LEVEL))
    changed = read_plan(write_plan(tmp_path, {**values(), "seed": 4}))
    with pytest.raises(ValueError, match="was changed"):
        position(changed, store, CODE)


def test_there_is_a_limit_of_listeners(plan, tmp_path):
    store = AnswerStore(tmp_path / "answers", max_listeners=1)
    walk(plan, store, CODE)
    with pytest.raises(ValueError, match="all the listeners"):
        walk(plan, store, OTHER)


PUSH = """
import sys
from pathlib import Path
from hf_affectcodec.listening_test import AnswerStore, sync_with_hub
for code in sys.argv[2:]:
    folder = Path(sys.argv[1], code)
    store = AnswerStore(folder, scheduler=sync_with_hub("org/answers", folder))
    print(len(store.all_rows()))
    store.add(code, [{"page": 0, "listener": code}])
    store.scheduler.trigger().result()
"""


def test_answers_go_to_the_hub_and_come_back(tmp_path):
    """A Space that loses its disk: after the second start it has the answers of the first."""
    with LoopbackHub() as hub:
        command = [sys.executable, "-c", PUSH, str(tmp_path), CODE, OTHER]
        done = subprocess.run(command, env=hub.environment(tmp_path), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["0", "1"]
        repository = hub.repositories["dataset", "org/answers"]
        assert repository.private
        stored = {path: content for path, content in repository.files.items() if path.endswith(".jsonl")}
    assert set(stored) == {f"data/{code}.jsonl" for code in (CODE, OTHER)}
    assert json.loads(stored[f"data/{CODE}.jsonl"]) == {"page": 0, "listener": CODE}
