"""The listening test over its own interface: the example, sessions side by side, results for those who may see them."""

import json
from functools import partial
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from serving import SPACES, load_app, served

from hf_affectcodec.audio import load_audio
from hf_affectcodec.benchmarks.listening.answers import METHODS
from hf_affectcodec.listening_test import AnswerStore, read_plan, render_stimuli, session_pages


KEY = "the key"
EXAMPLE = SPACES / "listening-test" / "example.yaml"


@pytest.fixture(scope="module")
def app():
    return load_app("listening-test")


@pytest.fixture(scope="module")
def plan():
    return read_plan(EXAMPLE)


@pytest.fixture(scope="module")
def stimuli(plan, tmp_path_factory):
    return render_stimuli(plan, tmp_path_factory.mktemp("stimuli"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return AnswerStore(tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="module")
def url(app, plan, store, stimuli, tmp_path_factory):
    with served(partial(app.build_demo, plan, store, stimuli, KEY), tmp_path_factory.mktemp("gradio")) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


def scores_for(page, level: float) -> list[float]:
    """`level` is how much this listener likes anything, 0 to 1, but for the attention checks, which are passed."""
    if page.expected is not None:
        return [page.expected[0]]
    if page.test == "quality":
        return [round(100 * level)] * len(page.stimuli)
    return [round(2 * level) - 1] if page.test == "preference" else [round(1 + 4 * level)]


def test_the_example_has_every_method_and_its_recordings_differ(plan, stimuli):
    assert {test.method for test in plan.tests.values()} == set(METHODS) - {"cmos"}
    original = load_audio(stimuli["parked", "original"])
    assert abs(original.shape[-1] / 16000 - 2.6) < 0.001
    others = [
        load_audio(path) for (clip, system), path in stimuli.items() if clip == "parked" and system != "reference"
    ]
    assert len(others) == 6 - 1  # original, two anchors, two systems (the third is of a test without this clip)
    for one, waveform in enumerate(others):
        assert waveform.shape == original.shape and waveform.square().mean() > 0.5 * original.square().mean()
        assert all((waveform - other).abs().max() > 0.01 for other in others[one + 1 :])


def test_endpoints_are_named(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/start", "/resume", "/answer", "/results"}


def test_two_sessions_side_by_side_and_their_results(client, url, plan, store, app):
    """Two clients take turns; each page is the listener's own, and the results hold both."""
    clients = [client, Client(url, verbose=False)]
    levels = [0.95, 0.25]
    contents = [one.predict(api_name="/start") for one in clients]
    codes = [content["code"] for content in contents]
    total = len(session_pages(plan, codes[0]))
    for number in range(total):
        for index, one in enumerate(clients):
            content, page = contents[index], session_pages(plan, codes[index])[number]
            assert (content["code"], content["number"]) == (codes[index], number)
            assert len(content["stimuli"]) == len(page.stimuli) and (content["note"] is None) == (
                not page.training and page.expected is None
            )
            words = json.dumps(content)
            assert not any(name in words for name in ("affectcodec-mini", "opus", "anchor", "original"))
            contents[index] = one.predict(codes[index], number, scores_for(page, levels[index]), api_name="/answer")
    assert [content.get("done") for content in contents] == [True, True]
    assert client.predict(codes[1].lower(), api_name="/resume")["done"]
    for code, level in zip(codes, levels, strict=True):
        rows = store.rows(code)
        assert {row["listener"] for row in rows} == {code}
        assert {row["score"] for row in rows if row["test"] == "naturalness"} == {round(1 + 4 * level)}

    with pytest.raises(AppError, match="not the key"):
        client.predict("a guess", api_name="/results")
    report, chart, files = client.predict(KEY, api_name="/results")
    assert "## quality: MUSHRA, 0 to 100" in report and "## preference: AB preference" in report
    # Who puts the hidden reference at 25 is left out of MUSHRA and counts elsewhere.
    assert f"- {codes[1]}: hidden reference below 90 on 100% of the items" in report
    assert "2 listeners (0 left out), 2 clips, 12 answers." in report  # naturalness: 2 clips, 3 systems, 2 listeners
    assert open(chart, "rb").read(4) == b"\x89PNG"
    lines = Path(files[0]).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == store.all_rows() and files[1].endswith(".parquet")


@pytest.mark.parametrize(
    ("endpoint", "arguments", "message"),
    [
        ("/resume", [""], "eight letters and digits"),
        ("/resume", ["../../etc/passwd"], "eight letters and digits"),
        ("/resume", ["ABCDEFGH"], "no answers under this code"),
        ("/answer", ["../x", 0, [50]], "eight letters and digits"),
        ("/answer", ["ABCDEFGH", 0, [50]], "must be a list of 5"),
        ("/answer", ["ABCDEFGH", 99, [50]], "must be a page of"),
        ("/answer", ["ABCDEFGH", 0, [500] * 5], "must be 0 to 100"),
        ("/results", ["é"], "not the key"),
    ],
)
def test_what_is_wrong_is_a_sentence(client, store, endpoint, arguments, message):
    before = store.all_rows()
    with pytest.raises(AppError) as raised:
        client.predict(*arguments, api_name=endpoint)
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert store.all_rows() == before


def test_recordings_are_served_and_nothing_else(client, url, store):
    content = client.predict(api_name="/start")
    answer = httpx.get(url + content["reference"])
    assert answer.status_code == 200 and answer.headers["content-type"] == "audio/wav"
    client.predict(content["code"], 0, [50] * 5, api_name="/answer")
    for path in ("/etc/passwd", EXAMPLE, store.folder, *store.folder.iterdir()):
        assert httpx.get(f"{url}gradio_api/file={path}").status_code in (403, 404)


def test_the_command_names_the_key_of_a_bad_plan(app, tmp_path, capsys):
    text = EXAMPLE.read_text(encoding="utf-8")
    (tmp_path / "plan.yaml").write_text(text.replace("method: ab", "method: abx"), encoding="utf-8")
    for path, message in (
        (tmp_path / "plan.yaml", "`tests.preference.method`"),
        (tmp_path / "none.yaml", "none.yaml"),
    ):
        assert app.main([str(path), "--answers", str(tmp_path / "answers")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("listening test: error: ") and message in error and error.count("\n") == 1
