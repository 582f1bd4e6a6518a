"""The codec's page in Chromium: upload, rebuild, slider, play, compare, download, codes back; desk and phone, light and dark."""

import time
from functools import partial

import pytest
import torch
from gradio_client import Client, handle_file
from serving import chromium, fits, open_page, served, unnamed_controls
from tiny_ser import save_token_fusion
from tiny_tts import tiny_tts

from hf_affectcodec import AffectCodecFeatureExtractor, AffectCodecTTSProcessor
from hf_affectcodec.audio import load_audio
from hf_affectcodec.classify import classify, load_classifier
from hf_affectcodec.codes_file import load_codes
from hf_affectcodec.inference import load_codec
from hf_affectcodec.shipped import demo_clip_path
from hf_affectcodec.space import speak_tab
from hf_affectcodec.space.app import CSS, MAX_FILE_SIZE, build_demo
from hf_affectcodec.space.gallery import read_gallery
from hf_affectcodec.speak import load_tts, speak_live


pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def codec():
    return load_codec(device="cpu")


@pytest.fixture(scope="module")
def url(codec, tmp_path_factory):
    with served(partial(build_demo, codec), tmp_path_factory.mktemp("gradio"), max_file_size=MAX_FILE_SIZE) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def wait_for_row(page, system: str) -> list[str]:
    """The measured numbers of a system, as soon as they are there."""
    page.wait_for_function(
        "name => [...document.querySelectorAll('[role=row]')].some(row => row.innerText.includes(name))", arg=system
    )
    return page.evaluate(
        """name => [...document.querySelectorAll('[role=row]')].find(row => row.innerText.includes(name))
        .innerText.split(/[\\n\\t]+/).map(text => text.trim()).filter(text => text)""",
        system,
    )


def block(page, label: str):
    """The player with that label."""
    return page.locator(".block", has=page.get_by_text(label, exact=True)).last


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_upload_rebuild_slide_play_download(browser, url, codec, tmp_path, width, dark):
    page = open_page(browser, url, width, dark)
    page.get_by_role("button", name="Rebuild", exact=True).wait_for()
    page.set_input_files("input[type=file]", str(demo_clip_path()))
    # Nothing is to be pressed: the clip is rebuilt as it comes.
    eight = wait_for_row(page, "AffectCodec, 8 codebooks")
    opus = wait_for_row(page, "opus-6")
    assert eight[1] == "4.00" and 1.0 < float(eight[2]) < 4.65 and float(opus[1]) > 5

    page.get_by_label("Compare with").click()
    page.get_by_role("option", name="opus-12").click()
    assert float(wait_for_row(page, "opus-12")[1]) > float(opus[1]) + 4

    slider = page.get_by_label("range slider for Codebooks")
    slider.fill("2")
    slider.dispatch_event("pointerup")
    two = wait_for_row(page, "AffectCodec, 2 codebooks")
    assert two[1] == "1.00" and float(two[2]) < float(eight[2])
    page.get_by_role("button", name="Rebuild", exact=True).click()
    page.wait_for_timeout(500)
    assert wait_for_row(page, "AffectCodec, 2 codebooks") == two

    for label in ("Original", "Rebuilt from codes", "Compared with"):
        player = block(page, label)
        player.get_by_role("button", name="Play", exact=True).click()
        player.get_by_role("button", name="Pause", exact=True).wait_for()
    with page.expect_download() as download:
        block(page, "Rebuilt from codes").get_by_role("button", name="Download", exact=True).click()
    download.value.save_as(tmp_path / "rebuilt.wav")
    clip = load_audio(demo_clip_path())
    expected = codec.decode(codec.encode(clip, 2)).clamp(-1, 1)
    assert (load_audio(tmp_path / "rebuilt.wav") - expected).abs().max() < 1e-4

    link = page.locator("a[href*='codes.safetensors']").first
    with page.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "codes.safetensors")
    assert torch.equal(load_codes(tmp_path / "codes.safetensors").audio_codes, codec.encode(clip, 2).audio_codes)

    # Pictures are loaded as they are scrolled to.
    for name in ("the voice before and after", "spectrograms with pitch", "all that is sent the codes"):
        picture = page.get_by_role("button", name=f"Picture: {name}")
        picture.scroll_into_view_if_needed()
        page.wait_for_function("node => node.querySelector('img').naturalWidth > 500", arg=picture.element_handle())
    assert fits(page) and unnamed_controls(page) == []
    page.screenshot(path=tmp_path / "page.png", full_page=True)

    page.get_by_role("tab", name="From codes").click()
    page.locator("input[type=file][accept='.safetensors']").set_input_files(tmp_path / "codes.safetensors")
    page.get_by_role("button", name="Decode", exact=True).click()
    block(page, "Decoded").get_by_role("button", name="Play", exact=True).wait_for()
    assert page.script_errors == []
    page.context.close()


def test_what_is_wrong_is_said_on_the_page(browser, url, tmp_path):
    (tmp_path / "clip.wav").write_text("hello")
    page = open_page(browser, url)
    page.get_by_role("button", name="Rebuild", exact=True).click()
    page.get_by_text("Record or upload a clip first.").wait_for()
    page.set_input_files("input[type=file]", str(tmp_path / "clip.wav"))
    page.get_by_text("This file: not audio").wait_for()
    page.context.close()


def test_two_at_once_get_their_own(browser, url, codec):
    """A page and a client at the same time, with other settings."""
    page = open_page(browser, url)
    page.get_by_role("button", name="Rebuild", exact=True).wait_for()
    client = Client(url, verbose=False)
    job = client.submit(handle_file(str(demo_clip_path())), 1, "none", api_name="/reconstruct")
    page.set_input_files("input[type=file]", str(demo_clip_path()))
    wait_for_row(page, "AffectCodec, 8 codebooks")
    assert load_codes(job.result(timeout=120)[-2]).num_quantizers == 1
    page.context.close()


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tokens"
    save_token_fusion(folder, "encoder", seed=1)
    return load_classifier(folder, "cpu")


@pytest.fixture(scope="module")
def whole_url(codec, recogniser, tmp_path_factory):
    """With tiny models: what they say means nothing, that it gets to the page does."""
    folder = tmp_path_factory.mktemp("models")
    tiny_tts(text_vocab_size=256, min_prompt_frames=25, max_prompt_frames=150).save_pretrained(folder)
    AffectCodecTTSProcessor(AffectCodecFeatureExtractor()).save_pretrained(folder)
    build = partial(build_demo, codec, load_tts(str(folder), "cpu"), {"tokens": recogniser})
    with served(build, tmp_path_factory.mktemp("gradio"), css=CSS) as url:
        yield url


def open_tab(page, name: str):
    """Its panel; on a phone the tab is behind three dots."""
    tab = page.get_by_role("tab", name=name)
    tab.or_(page.locator(".overflow-menu button").first).first.wait_for()
    if not tab.is_visible():
        page.locator(".overflow-menu button").first.click()
        tab = page.locator(".overflow-dropdown").get_by_text(name, exact=True)
    tab.click()
    return page.locator("[role=tabpanel]:visible")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_line_is_spoken_after_a_prompt_of_the_gallery(browser, whole_url, width, dark):
    page = open_page(browser, whole_url, width, dark)
    panel = open_tab(page, "Speak")
    page.get_by_label("What to say").fill("Oh yes, and so it goes on for quite a while. And there is more of it.")
    panel.get_by_role("button", name="alarmed: “Something is terribly wrong.”").click()
    panel.get_by_role("button", name="Play", exact=True).wait_for()
    assert page.get_by_label("What is said in it").input_value() == "Something is terribly wrong."
    page.get_by_label("range slider for Longest speech").fill("1")
    # What is played, in order, and whether to its end; heard of before the page does.
    page.evaluate(
        """() => {
          window.played = [];
          for (const name of ["playing", "ended"]) document.addEventListener(name, ({ target }) => {
            if (target.ariaLabel === "Part by part") window.played.push([target.src.split("/").at(-1), name]);
          }, true);
        }"""
    )
    page.get_by_role("button", name="Speak", exact=True).click()
    panel.get_by_text("s of synthetic speech").wait_for()
    block(page, "Spoken").get_by_role("button", name="Play", exact=True).wait_for()
    page.wait_for_function("window.played.length === 4")
    assert page.evaluate("window.played") == [
        ["1.wav", "playing"],
        ["1.wav", "ended"],
        ["2.wav", "playing"],
        ["2.wav", "ended"],
    ]
    assert fits(page) and unnamed_controls(page) == [] and page.script_errors == []
    page.context.close()


def speak_slowly(model, *arguments, **options):
    """Ten seconds of speech at the pace of a large model, so that there is time to press the button."""
    hook = model.ar.register_forward_pre_hook(lambda *_: time.sleep(0.02))
    try:
        yield from speak_live(model, *arguments, min_new_frames=500, **options)
    finally:
        hook.remove()


def test_speaking_is_stopped(browser, whole_url, monkeypatch):
    page = open_page(browser, whole_url)
    panel = open_tab(page, "Speak")
    page.get_by_label("What to say").fill("Go on.")
    with monkeypatch.context() as patch:
        patch.setattr(speak_tab, "speak_live", speak_slowly)
        page.get_by_role("button", name="Speak", exact=True).click()
        panel.get_by_text("s so far").wait_for()
        page.get_by_role("button", name="Stop", exact=True).click()
        panel.get_by_text("Stopped.").wait_for()
    page.wait_for_timeout(1000)
    assert panel.get_by_text("Stopped.").is_visible() and not page.get_by_label("Part by part").is_visible()
    page.get_by_role("button", name="Speak", exact=True).click()
    panel.get_by_text("s of synthetic speech").wait_for()
    assert page.script_errors == []
    page.context.close()


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (390, False)])
def test_a_clip_is_recognised_before_and_after(browser, whole_url, recogniser, width, dark):
    page = open_page(browser, whole_url, width, dark)
    panel = open_tab(page, "Recognise")
    panel.get_by_role("button", name="neutral: “User will join the conference.”").click()
    block(page, "A recording to recognise (up to 30 s)").get_by_role("button", name="Play", exact=True).wait_for()
    page.get_by_role("button", name="Recognise", exact=True).click()
    page.get_by_role("button", name="Picture: tokens where it attends").wait_for()
    (prompt,) = [prompt for prompt in read_gallery() if prompt.mood == "neutral"]
    _, scores = next(classify(recogniser, [prompt.path]))
    for emotion, score in scores.items():
        assert emotion in panel.inner_text() and f"{100 * score:.0f}%" in panel.inner_text()
    assert fits(page) and unnamed_controls(page) == []

    panel = open_tab(page, "Reconstruct")
    panel.get_by_role("button", name="neutral: “User will join the conference.”").click()
    meters = panel.get_by_role("table", name="tokens", exact=True)
    meters.wait_for()
    rows = [row.split() for row in meters.locator("tbody tr").all_inner_texts()]
    assert [row[0] for row in rows] == list(recogniser.model.config.id2label.values())
    for emotion, original, *_ in rows:
        assert float(original) == pytest.approx(scores[emotion], abs=0.006)
    widths = meters.locator("tbody tr td:nth-child(2) .bar").evaluate_all(
        "bars => bars.map(bar => bar.getBoundingClientRect().width / bar.parentElement.clientWidth)"
    )
    for width_share, (emotion, *_) in zip(widths, rows, strict=True):
        assert width_share == pytest.approx(scores[emotion], abs=0.1)
    assert fits(page) and unnamed_controls(page) == [] and page.script_errors == []
    page.context.close()


def test_the_card_fits_a_phone(browser, whole_url):
    page = open_page(browser, whole_url, 390)
    panel = open_tab(page, "About")
    panel.get_by_role("button", name="The card of affectcodec-mini").click()
    panel.get_by_text("What it is not").wait_for()
    assert fits(page)
    page.context.close()
