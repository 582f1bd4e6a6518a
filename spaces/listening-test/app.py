"""
A listening test in a browser, from one YAML file.

    python spaces/listening-test/app.py [CONFIG] [--answers FOLDER]

As a Space, this folder is the repository. README.md says how to make a test of one's own. Every step is an endpoint too:
`gradio_client.Client(URL).view_api()`.
"""

import argparse
import atexit
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import gradio as gr
from huggingface_hub.errors import HfHubHTTPError

from hf_affectcodec.benchmarks.listening.analysis import analyse
from hf_affectcodec.benchmarks.listening.answers import METHODS, read_answers
from hf_affectcodec.benchmarks.listening.report import markdown, picture
from hf_affectcodec.listening_test import (
    AnswerStore,
    Page,
    Plan,
    answer,
    new_code,
    position,
    read_plan,
    render_stimuli,
    session_pages,
    sync_with_hub,
)
from hf_affectcodec.listening_test.stimuli import REFERENCE
from hf_affectcodec.space.shared import NAME_PICTURES, image


FOLDER = Path(__file__).parent
CSS = ".report table { display: block; overflow-x: auto; } .report :is(th, td) { white-space: nowrap; }"
QUALITY = ["Bad", "Poor", "Fair", "Good", "Excellent"]  # ITU-R BS.1534 and ITU-T P.800
# (score, text) in the order shown.
CHOICES = {
    "mos": [[5, "5 – Excellent"], [4, "4 – Good"], [3, "3 – Fair"], [2, "2 – Poor"], [1, "1 – Bad"]],
    "emotion_mos": [
        [5, "5 – Perfectly"],
        [4, "4 – Well"],
        [3, "3 – Somewhat"],
        [2, "2 – Hardly"],
        [1, "1 – Not at all"],
    ],
    "ab": [[-1, "The first"], [0, "No preference"], [1, "The second"]],
    "cmos": [
        [3, "The second is much better"],
        [2, "The second is better"],
        [1, "The second is slightly better"],
        [0, "About the same"],
        [-1, "The second is slightly worse"],
        [-2, "The second is worse"],
        [-3, "The second is much worse"],
    ],
}


def page_content(plan: Plan, stimuli: dict[tuple[str, str], Path], code: str, number: int) -> dict:
    """What page.js shows. It names no system: neither in words nor in the addresses of recordings."""
    pages = session_pages(plan, code)
    if number == len(pages):
        return {"title": "That was all", "done": True, "code": code, "number": number}
    page = pages[number]
    test, clip = plan.tests[page.test], plan.clips[page.clip]
    question = test.question
    for name in ("text", "emotion"):
        question = question.replace(f"{{{name}}}", str(getattr(clip, name)))

    def url(system: str) -> str:
        return f"gradio_api/file={stimuli[page.clip, system]}"

    if test.method == "mushra":
        labels = [f"Recording {chr(ord('A') + index)}" for index in range(len(page.stimuli))]
    elif METHODS[test.method].paired:
        labels = ["First recording", "Second recording"]
    else:
        labels = ["Recording"]
    return {
        "title": plan.title,
        "code": code,
        "number": number,
        "step": f"Page {number + 1} of {len(pages)}" + (" – for practice" if page.training else ""),
        "question": question,
        "note": page_note(test.method, page),
        "reference": url(REFERENCE) if test.method == "mushra" else None,
        "synchronised": test.method == "mushra",
        "stimuli": [
            {"label": label, "url": url(REFERENCE if item.role == "attention" else item.system)}
            for label, item in zip(labels, page.stimuli, strict=True)
        ],
        "scale": [0, 100],
        "marks": QUALITY,
        "choices": CHOICES.get(test.method),
    }


def page_note(method: str, page: Page) -> str | None:
    """What is said on training pages and attention checks."""
    if page.training:
        return "This page is for practice: get to know the range of differences. It is not counted."
    if page.expected is None:
        return None
    low, high = page.expected
    if method == "mushra":
        return f"This page checks the form: whatever you hear, set the slider to about {(low + high) / 2:g}."
    text = next(text for value, text in CHOICES[method] if value == low)
    return f"This page checks the form: whatever you hear, answer “{text}”."


def build_demo(plan: Plan, store: AnswerStore, stimuli: dict[tuple[str, str], Path], results_key: str) -> gr.Blocks:
    """
    Args:
        plan ([`Plan`]): Of [`read_plan`].
        store ([`AnswerStore`]): Where answers go.
        stimuli (`dict`): Of [`render_stimuli`].
        results_key (`str`): Whoever knows it sees results.
    """
    gr.set_static_paths(sorted({path.parent for path in stimuli.values()}))

    def checked(function, *arguments):
        try:
            return function(plan, store, *arguments)
        except ValueError as error:
            text = str(error)
            raise gr.Error(f"{text[:1].upper()}{text[1:]}.", print_exception=False) from error

    def start() -> dict:
        return page_content(plan, stimuli, code := new_code(), checked(position, code))

    def resume(code: str) -> dict:
        code = code.strip().upper()
        number = checked(position, code)
        if not store.rows(code):
            raise gr.Error("There are no answers under this code.", print_exception=False)
        return page_content(plan, stimuli, code, number)

    def give(code: str, number: int, scores: list) -> dict:
        return page_content(plan, stimuli, code, checked(answer, code, number, scores))

    def show(content: dict):
        return gr.Column(visible=False), gr.HTML(value=content, visible=True)

    def results(key: str):
        if not secrets.compare_digest(key.encode(), results_key.encode()):
            raise gr.Error("This is not the key of the results.", print_exception=False)
        if not store.all_rows():
            raise gr.Error("There are no answers yet.", print_exception=False)
        folder = Path(tempfile.mkdtemp(prefix="listening-results-"))
        files = [folder / "answers.jsonl", folder / "answers.parquet", folder / "listening.png"]
        for path in files[:2]:
            store.export(path)
        analysis = analyse(read_answers(files[0]))
        picture(analysis).savefig(files[2])
        yield markdown(analysis), str(files[2]), [str(path) for path in files[:2]]
        # By now Gradio has taken its copies.
        shutil.rmtree(folder, ignore_errors=True)

    with gr.Blocks(title=plan.title, delete_cache=(3600, 3600)) as demo:
        with gr.Tab("Listening test"):
            with gr.Column() as welcome:
                gr.Markdown(f"# {plan.title}\n\n{plan.introduction}")
                gr.Markdown(
                    "Your answers are stored with a code that is made up when you start. Nothing else about you is kept. "
                    "You may stop at any time; with the code you can go on later."
                )
                start_button = gr.Button("Start", variant="primary")
                with gr.Row(equal_height=True):
                    code_box = gr.Textbox(label="Or go on with your code", max_length=20, scale=3)
                    resume_button = gr.Button("Go on", scale=1)
            sheet = gr.HTML(
                None,
                html_template='<div class="sheet"></div>',
                css_template=(FOLDER / "page.css").read_text(encoding="utf-8"),
                js_on_load=(FOLDER / "page.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                visible=False,
            )
        with gr.Tab("Results"):
            gr.Markdown("For those who run the test. Whoever takes part should not look here first.")
            key_box = gr.Textbox(label="Key", type="password", max_length=200)
            results_button = gr.Button("Show results")
            report = gr.Markdown(elem_classes="report")
            chart = image("Results as a picture")
            files = gr.File(label="All answers", file_count="multiple", interactive=False)

        def submit(event: gr.EventData):
            data = event._data
            return give(data.get("code"), data.get("number"), data.get("scores"))

        start_button.click(lambda: show(start()), None, [welcome, sheet], api_visibility="private")
        for listen in (resume_button.click, code_box.submit):
            listen(lambda code: show(resume(code)), code_box, [welcome, sheet], api_visibility="private")
        sheet.submit(submit, None, sheet, api_visibility="private", show_progress="hidden")
        for listen, visibility in ((results_button.click, "public"), (key_box.submit, "private")):
            listen(results, key_box, [report, chart, files], api_name="results", api_visibility=visibility)
        demo.load(None, js=NAME_PICTURES, api_visibility="private")
        gr.api(start, api_name="start")
        gr.api(resume, api_name="resume")
        gr.api(give, api_name="answer")
    return demo.queue(max_size=64)


def load(config: Path, answers: Path, results_key: str) -> gr.Blocks:
    """The page of a YAML file, with its recordings made and its answers fetched."""
    plan = read_plan(config)
    scheduler = None if plan.answers_repo is None else sync_with_hub(plan.answers_repo, answers)
    store = AnswerStore(answers, plan.max_listeners, scheduler)
    recordings = Path(tempfile.mkdtemp(prefix="listening-test-"))
    atexit.register(shutil.rmtree, recordings, ignore_errors=True)
    return build_demo(plan, store, render_stimuli(plan, recordings), results_key)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Serves a listening test.")
    parser.add_argument("config", type=Path, nargs="?", default=FOLDER / "example.yaml", help="default: the example")
    parser.add_argument(
        "--answers", type=Path, default=Path("answers"), help="folder of the answers (default: answers)"
    )
    parser.add_argument("--port", type=int, help="default: 7860, or the next one that is free")
    options = parser.parse_args(arguments)
    key = os.environ.get("RESULTS_KEY") or secrets.token_urlsafe(12)
    try:
        demo = load(options.config, options.answers, key)
    except (ValueError, OSError, HfHubHTTPError) as error:
        print(f"listening test: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if not os.environ.get("RESULTS_KEY"):
        print(f"key of the results: {key}", flush=True)
    demo.launch(server_port=options.port, show_error=True, max_file_size="1mb", css=CSS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
