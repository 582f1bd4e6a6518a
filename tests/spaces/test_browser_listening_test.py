"""A MUSHRA and an AB session in Chromium, from the start to the results."""

import json
from functools import partial

import numpy as np
import pytest
import soundfile
import yaml
from serving import chromium, fits, load_app, open_page, served, unnamed_controls

from hf_affectcodec.listening_test import AnswerStore, read_plan, render_stimuli, session_pages


pytestmark = pytest.mark.browser

RATE = 16000
TOTAL = 1 + 2 + 1 + 2 + 1  # pages: training, clips, check; clips, check
KEY = "the key of the results"
LEVEL = {"original": 100, "clear": 85, "muffled": 40, "low_anchor": 10}
PLAN = {
    "title": "Two codecs",
    "introduction": "Please use **headphones**.",
    "clips": {name: {"file": f"{name}.wav", "text": f"<b>{name}</b> & ${{1}}"} for name in ("hello", "goodbye")},
    "systems": {"clear": "clear/{clip}.wav", "muffled": "muffled/{clip}.wav"},
    "tests": {
        "quality": {"method": "mushra", "anchors": {"low": 1000}, "training": ["hello"], "attention_checks": 1},
        "preference": {"method": "ab", "question": "Which “{text}” do you prefer?", "attention_checks": 1},
    },
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    noise = np.random.default_rng(0)
    for name in PLAN["clips"]:
        for system in (".", *PLAN["systems"]):
            (folder / system).mkdir(exist_ok=True)
            soundfile.write(folder / system / f"{name}.wav", 0.1 * noise.standard_normal(RATE), RATE)
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False), encoding="utf-8")
    return read_plan(folder / "plan.yaml")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return AnswerStore(tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="module")
def url(plan, store, tmp_path_factory):
    app = load_app("listening-test")
    stimuli = render_stimuli(plan, tmp_path_factory.mktemp("stimuli"))
    build = partial(app.build_demo, plan, store, stimuli, KEY)
    with served(build, tmp_path_factory.mktemp("gradio"), css=app.CSS) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def planted(page) -> list[float]:
    """The score of each stimulus, or of the comparison, that a listener with these ears gives."""
    if page.expected is not None:
        return [sum(page.expected) / 2]
    levels = [LEVEL[stimulus.system] for stimulus in page.stimuli]
    return levels if page.test == "quality" else [int(np.sign(levels[1] - levels[0]))]


def shown_number(page) -> int:
    return int(page.locator(".step").first.inner_text().split()[1]) - 1


def play_all(page):
    for audio in page.locator(".sheet audio").all():
        audio.evaluate("audio => audio.play()")


def rate(page, scores: list[float]):
    play_all(page)
    sliders = page.locator(".sheet input[type=range]").all()
    if sliders:
        for slider, score in zip(sliders, scores, strict=True):
            slider.fill(f"{score:g}")
    else:
        page.locator(f".sheet input[type=radio][value='{scores[0]:g}']").check()
    page.get_by_role("button", name="Next").click()


def wait_for_page(page, number: int, total: int):
    if number == total:
        page.get_by_role("heading", name="That was all").wait_for()
    else:
        page.get_by_text(f"Page {number + 1} of {total}").wait_for()


def code_of(page) -> str:
    return page.locator(".sheet .code").inner_text()


def test_a_session_to_its_results(browser, url, plan, store):
    page = open_page(browser, url)
    page.get_by_role("button", name="Start").click()
    wait_for_page(page, 0, TOTAL)
    code = code_of(page)
    pages = session_pages(plan, code)
    assert len(pages) == TOTAL
    for number, expected in enumerate(pages):
        wait_for_page(page, number, len(pages))
        assert page.locator(".sheet audio").count() == len(expected.stimuli) + (expected.test == "quality")
        assert not any(
            name in page.locator(".sheet").inner_html() for name in ("clear", "muffled", "original", "anchor")
        )
        if expected.test == "preference":
            # As it was written: no markup, no template.
            assert PLAN["clips"][expected.clip]["text"] in page.locator(".sheet").inner_text()
        assert unnamed_controls(page, ".sheet") == []
        rate(page, planted(expected))
    wait_for_page(page, len(pages), len(pages))
    rows = store.rows(code)
    kept = [number for number, expected in enumerate(pages) if not expected.training]
    assert [[row["score"] for row in rows if row["page"] == number] for number in kept] == [
        planted(pages[number]) for number in kept
    ]

    page.get_by_role("tab", name="Results").click()
    page.get_by_label("Key").fill("a guess")
    page.get_by_role("button", name="Show results").click()
    page.get_by_text("This is not the key").wait_for()
    page.get_by_label("Key").fill(KEY)
    page.get_by_role("button", name="Show results").click()
    page.get_by_role("heading", name="quality: MUSHRA").wait_for()
    for system, level in (("clear", 85), ("muffled", 40), ("original (hidden reference)", 100)):
        cells = (
            page.locator("tr", has=page.get_by_role("cell", name=system, exact=True)).first.inner_text().split("\t")
        )
        assert float(cells[1].split()[0]) == level
    # It is loaded once it is in view.
    page.wait_for_function(
        """() => {
          const picture = document.querySelector("img[src*='listening.png']");
          picture?.scrollIntoView();
          return picture?.naturalWidth > 500;
        }"""
    )
    assert unnamed_controls(page) == []
    with page.expect_download() as download:
        page.locator("a[href*='answers.jsonl']").first.click()
    lines = open(download.value.path(), encoding="utf-8").read().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert page.script_errors == []
    page.context.close()


def test_a_page_asks_for_what_is_missing_and_a_session_goes_on(browser, url, plan, store):
    """On a phone, in the dark, and with the keyboard."""
    page = open_page(browser, url, width=390, dark=True)
    page.get_by_role("button", name="Start").click()
    wait_for_page(page, 0, TOTAL)
    code = code_of(page)
    pages = session_pages(plan, code)
    assert fits(page)
    following, alert = page.get_by_role("button", name="Next"), page.locator(".sheet [role=alert]")
    following.click()
    assert alert.inner_text() == "Please play every recording first."
    play_all(page)
    following.click()
    assert alert.inner_text() == "Please rate every recording."
    sliders = page.locator(".sheet input[type=range]").all()
    assert sliders[0].evaluate("slider => slider === document.activeElement")
    for slider in sliders:
        slider.press("ArrowRight")
    assert [slider.input_value() for slider in sliders] == ["51"] * len(sliders)
    following.press("Enter")
    wait_for_page(page, 1, TOTAL)
    # The heading has the focus: a screen reader begins there.
    assert page.evaluate("document.activeElement.tagName") == "H2"
    rate(page, planted(pages[1]))
    wait_for_page(page, 2, TOTAL)
    page.context.close()

    page = open_page(browser, url, width=390)
    box = page.get_by_label("Or go on with your code")
    box.fill("ABCDEFGH")
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("There are no answers under this code").wait_for()
    box.fill(f" {code.lower()} ")
    box.press("Enter")
    wait_for_page(page, 2, TOTAL)
    assert code_of(page) == code and {row["page"] for row in store.rows(code)} == {1}
    assert page.script_errors == []
    page.context.close()


def test_recordings_are_switched_in_time(browser, url):
    """One plays at a time, and the next goes on where the last one was."""
    page = open_page(browser, url)
    page.get_by_role("button", name="Start").click()
    wait_for_page(page, 0, TOTAL)
    places = page.locator(".sheet").evaluate(
        """async sheet => {
          const [first, second] = sheet.querySelectorAll('audio');
          await first.play();
          while (first.currentTime < 0.3) await new Promise(done => setTimeout(done, 20));
          const left = first.currentTime;
          second.play();
          await new Promise(done => second.addEventListener('seeked', done, {once: true}));
          return [left, second.currentTime, first.paused];
        }"""
    )
    assert places[2] and abs(places[1] - places[0]) < 0.25 and places[0] >= 0.3
    page.context.close()
