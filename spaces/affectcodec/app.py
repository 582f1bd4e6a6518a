"""
AffectCodec in a browser: drop in a recording; hear, see and measure what 0.5 to 4 kbps keep of it.

    python spaces/affectcodec/app.py        or        affectcodec demo

As a Space, this folder is the repository. Every button is also an endpoint: `gradio_client.Client(URL).view_api()`.
"""

try:
    import spaces  # noqa: F401, where there is ZeroGPU: it has to come before torch
except ImportError:
    pass

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import gradio as gr

from hf_affectcodec.inference import Codec, load_codec
from hf_affectcodec.space.recognise_tab import recognise_tab
from hf_affectcodec.space.reconstruct_tab import codes_tab, reconstruct_tab
from hf_affectcodec.space.shared import MAX_SECONDS, NAME_PICTURES
from hf_affectcodec.space.speak_tab import speak_tab


__all__ = ["MAX_FILE_SIZE", "MAX_SECONDS", "build_demo", "serve"]

MAX_FILE_SIZE = "50mb"
MAX_WAITING = 32
CACHE_SECONDS = 3600

ABOUT = """
**What it is.** A neural codec: 16 kHz speech becomes 50 frames a second of up to 8 numbers from 0 to 1023, 0.5 kbps each, and
speech again. It is an open implementation of [AffectCodec](https://arxiv.org/abs/2605.11098); this checkpoint is a small one
of the project's own, trained on about 100 minutes of neutral telephone prompts. Other voices, music and noise come out worse.

**What the columns say.** PESQ-WB (1.0 to 4.64) and STOI (0 to 1) compare with the original, higher is better; the F0 error is
the root mean square distance of the pitch contours in semitones, where both are voiced; the eGeMAPS distance (0 to 10, lower is
better, about 1.2 between unrelated clips) is how far 88 measures of the voice moved, twelve of which are drawn. Opus, MP3 and
AAC are coded here, at the bitrate that their packets really have.

**Measured before** (126 clips of the same four voices, other texts; mean and 95 % interval): PESQ-WB 2.55 [2.49, 2.62], STOI .947
[.943, .951], F0 error .67 [.56, .79] at 4.01 kbps; Opus at 5.96 kbps: 1.95 [1.90, 2.01], .911 [.907, .913], .44 [.33, .57].

**Please.** A codec rebuilds voices. Use recordings that you may use, ask before you work with somebody's voice, and say so
where speech is synthetic. Recordings are deleted from this server within two hours.

Weights: CC BY-SA 3.0. Code: Apache-2.0.
"""


def build_demo(codec: Codec, tts: tuple | None = None, recognisers: Mapping = MappingProxyType({})) -> gr.Blocks:
    """
    The page; `build_demo(load_codec()).launch()` serves it.

    Args:
        codec ([`Codec`]): Of [`~hf_affectcodec.inference.load_codec`].
        tts (`tuple`, *optional*): Model and processor of [`~hf_affectcodec.speak.load_tts`]; with it there is a tab Speak.
        recognisers (mapping, *optional*): Pipelines of [`~hf_affectcodec.classify.load_classifier`] by name; with any
            there is a tab Recognise.
    """
    with gr.Blocks(title="AffectCodec", delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        gr.Markdown("# AffectCodec\nSpeech in 0.5 to 4 kbps: drop in a recording, hear what is left of it.")
        with gr.Tab("Reconstruct"):
            reconstruct_tab(codec, recognisers)
        with gr.Tab("From codes"):
            codes_tab(codec)
        if tts is not None:
            with gr.Tab("Speak"):
                speak_tab(*tts)
        if recognisers:
            with gr.Tab("Recognise"):
                recognise_tab(recognisers)
        with gr.Tab("About"):
            gr.Markdown(ABOUT)
        page.load(None, js=NAME_PICTURES, api_visibility="private")
    return page.queue(max_size=MAX_WAITING)


def serve(
    codec: Codec, port: int | None = None, tts: tuple | None = None, recognisers: Mapping = MappingProxyType({})
):
    """Until interrupted; see [`build_demo`]."""
    page = build_demo(codec, tts, recognisers)
    page.launch(server_port=port, max_file_size=MAX_FILE_SIZE, show_error=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Serves the codec as a web page.")
    parser.add_argument("--model", help="folder or Hub id (default: the checkpoint shipped in the package)")
    parser.add_argument("--tts", help="folder or Hub id of a speech language model, for the tab Speak")
    parser.add_argument(
        "--recogniser",
        action="append",
        default=[],
        help="folder or Hub id of an emotion recogniser, for the tab Recognise",
    )
    parser.add_argument("--port", type=int, help="default: 7860, or the next one that is free")
    options = parser.parse_args(arguments)
    try:
        codec, tts, recognisers = load_codec(options.model), None, {}
        if options.tts is not None:
            from hf_affectcodec.speak import load_tts

            tts = load_tts(options.tts)
        if options.recogniser:
            from hf_affectcodec.classify import load_classifier

            recognisers = {Path(source).name: load_classifier(source) for source in options.recogniser}
    except (ValueError, OSError, ImportError) as error:
        print(f"affectcodec: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    serve(codec, options.port, tts, recognisers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
