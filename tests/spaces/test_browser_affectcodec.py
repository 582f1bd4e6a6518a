"""The codec's page in Chromium: upload, rebuild, slider, play, compare, download, codes back; desk and phone, light and dark."""

from functools import partial

import pytest
import torch
from gradio_client import Client, handle_file
from serving import chromium, fits, open_page, served, unnamed_controls
from tiny_ser import save_token_fusion
from tiny_tts import tiny_tts

from hf_affectcodec import AffectCodecFeatureExtractor, AffectCodecTTSProcessor
from hf_affectcodec.audio import load_audio, write_audio
from hf_affectcodec.classify import classify, load_classifier
from hf_affectcodec.codes_file import load_codes
from hf_affectcodec.inference import load_codec
from hf_affectcodec.shipped import demo_clip_path
from hf_affectcodec.space.app import MAX_FILE_SIZE, build_demo
from hf_affectcodec.speak import load_tts


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
    block(page, "Your recording (up to 30 s)").get_by_role("button", name="Play", exact=True).wait_for()
    page.get_by_role("button", name="Rebuild", exact=True).click()
    eight = wait_for_row(page, "AffectCodec, 8 codebooks")
    opus = wait_for_row(page, "opus-6")
    assert eight[1] == "4.00" and 1.0 < float(eight[2]) < 4.65 and float(opus[1]) > 5

    slider = page.get_by_label("range slider for Codebooks")
    slider.fill("2")
    slider.dispatch_event("pointerup")
    two = wait_for_row(page, "AffectCodec, 2 codebooks")
    assert two[1] == "1.00" and float(two[2]) < float(eight[2])

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
    page.wait_for_timeout(2000)
    page.get_by_role("button", name="Rebuild", exact=True).click()
    page.get_by_text("This file: not audio").wait_for()
    page.context.close()


def test_two_at_once_get_their_own(browser, url, codec):
    """A page and a client at the same time, with other settings."""
    page = open_page(browser, url)
    page.get_by_role("button", name="Rebuild", exact=True).wait_for()
    page.set_input_files("input[type=file]", str(demo_clip_path()))
    block(page, "Your recording (up to 30 s)").get_by_role("button", name="Play", exact=True).wait_for()
    client = Client(url, verbose=False)
    job = client.submit(handle_file(str(demo_clip_path())), 1, "none", api_name="/reconstruct")
    page.get_by_role("button", name="Rebuild", exact=True).click()
    wait_for_row(page, "AffectCodec, 8 codebooks")
    assert load_codes(job.result(timeout=120)[-2]).num_quantizers == 1
    page.context.close()


def test_a_line_is_spoken_and_a_clip_recognised(browser, codec, tmp_path):
    """With tiny models: what they say means nothing, that it gets to the page does."""
    tiny_tts(text_vocab_size=256, min_prompt_frames=25, max_prompt_frames=150).save_pretrained(tmp_path / "tts")
    AffectCodecTTSProcessor(AffectCodecFeatureExtractor()).save_pretrained(tmp_path / "tts")
    save_token_fusion(tmp_path / "tokens", "encoder", seed=1)
    recogniser = load_classifier(tmp_path / "tokens", "cpu")
    prompt = tmp_path / "prompt.wav"
    write_audio(prompt, load_audio(demo_clip_path(), stop=1.05), 16000)
    build = partial(build_demo, codec, load_tts(str(tmp_path / "tts"), "cpu"), {"tokens": recogniser})
    with served(build, tmp_path / "gradio") as url:
        page = open_page(browser, url)
        page.get_by_role("tab", name="Speak").click()
        page.get_by_label("What to say").fill("oh yes")
        page.locator("[role=tabpanel]:visible input[type=file]").set_input_files(prompt)
        page.get_by_label("What is said in it").fill("I am sorry")
        page.get_by_label("range slider for Longest speech").fill("1")
        page.get_by_role("button", name="Play", exact=True).wait_for()
        page.get_by_role("button", name="Speak", exact=True).click()
        block(page, "Spoken").get_by_role("button", name="Play", exact=True).wait_for()

        page.get_by_role("tab", name="Recognise").click()
        page.locator("[role=tabpanel]:visible input[type=file]").set_input_files(prompt)
        block(page, "A recording to recognise (up to 30 s)").get_by_role("button", name="Play", exact=True).wait_for()
        page.get_by_role("button", name="Recognise", exact=True).click()
        page.get_by_role("button", name="Picture: tokens where it attends").wait_for()
        text = page.locator("[role=tabpanel]:visible").inner_text()
        _, scores = next(classify(recogniser, [prompt]))
        for emotion, score in scores.items():
            assert emotion in text and f"{100 * score:.0f}%" in text
        assert unnamed_controls(page) == [] and page.script_errors == []
        page.context.close()
