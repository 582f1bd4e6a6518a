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
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import gradio as gr

from hf_affectcodec.inference import Codec, load_codec
from hf_affectcodec.shipped import demo_clip_path
from hf_affectcodec.space.about_tab import about_tab
from hf_affectcodec.space.gallery import SHIPPED, GalleryPrompt, read_gallery
from hf_affectcodec.space.recognise_tab import recognise_tab
from hf_affectcodec.space.reconstruct_tab import codes_tab, reconstruct_tab
from hf_affectcodec.space.shared import MAX_SECONDS, NAME_PICTURES
from hf_affectcodec.space.speak_tab import speak_tab


__all__ = ["MAX_FILE_SIZE", "MAX_SECONDS", "build_demo", "serve"]

MAX_FILE_SIZE = "50mb"
MAX_WAITING = 32
CACHE_SECONDS = 3600
# Wide tables scroll by themselves, not the page.
CSS = ".card table { display: block; overflow-x: auto; }"


def build_demo(
    codec: Codec,
    tts: tuple | None = None,
    recognisers: Mapping = MappingProxyType({}),
    gallery: Sequence[GalleryPrompt] | None = None,
) -> gr.Blocks:
    """
    The page; `build_demo(load_codec()).launch()` serves it.

    Args:
        codec ([`Codec`]): Of [`~hf_affectcodec.inference.load_codec`].
        tts (`tuple`, *optional*): Model and processor of [`~hf_affectcodec.speak.load_tts`]; with it there is a tab Speak.
        recognisers (mapping, *optional*): Pipelines of [`~hf_affectcodec.classify.load_classifier`] by name; with any
            there is a tab Recognise.
        gallery (sequence of [`GalleryPrompt`], *optional*): Recordings to try, and prompts to speak in. Default: the shipped.
    """
    gallery = read_gallery() if gallery is None else gallery
    # Served from where they are: copies of theirs would go with the cache, and the examples with them.
    gr.set_static_paths([demo_clip_path(), *(prompt.path for prompt in gallery)])
    with gr.Blocks(title="AffectCodec", delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        gr.Markdown("# AffectCodec\nSpeech in 0.5 to 4 kbps: drop in a recording, hear what is left of it.")
        with gr.Tab("Reconstruct"):
            reconstruct_tab(codec, recognisers, gallery)
        with gr.Tab("From codes"):
            codes_tab(codec)
        if tts is not None:
            with gr.Tab("Speak"):
                speak_tab(*tts, gallery)
        if recognisers:
            with gr.Tab("Recognise"):
                recognise_tab(recognisers, gallery)
        with gr.Tab("About"):
            about_tab(codec)
        page.load(None, js=NAME_PICTURES, api_visibility="private")
    return page.queue(max_size=MAX_WAITING)


def serve(
    codec: Codec,
    port: int | None = None,
    tts: tuple | None = None,
    recognisers: Mapping = MappingProxyType({}),
    gallery: Sequence[GalleryPrompt] | None = None,
):
    """Until interrupted; see [`build_demo`]."""
    page = build_demo(codec, tts, recognisers, gallery)
    page.launch(server_port=port, max_file_size=MAX_FILE_SIZE, show_error=True, css=CSS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Serves the codec as a web page.")
    parser.add_argument("--model", help="folder or Hub id (default: the checkpoint shipped in the package)")
    parser.add_argument(
        "--tts",
        nargs="?",
        const="",
        metavar="MODEL",
        help="the tab Speak, by the shipped speech language model or that in a folder or of a Hub id",
    )
    parser.add_argument(
        "--recogniser",
        action="append",
        default=[],
        help="folder or Hub id of an emotion recogniser, for the tab Recognise",
    )
    parser.add_argument(
        "--gallery",
        type=Path,
        default=SHIPPED,
        help="folder of prompts to speak in, MOOD_NAME.wav or .flac with MOOD_NAME.txt (default: the eight in gallery/)",
    )
    parser.add_argument("--port", type=int, help="default: 7860, or the next one that is free")
    options = parser.parse_args(arguments)
    try:
        codec, tts, recognisers = load_codec(options.model), None, {}
        gallery = read_gallery(options.gallery)
        if options.tts is not None:
            from hf_affectcodec.speak import load_tts

            tts = load_tts(options.tts or None)
        if options.recogniser:
            from hf_affectcodec.classify import load_classifier

            recognisers = {Path(source).name: load_classifier(source) for source in options.recogniser}
    except (ValueError, OSError, ImportError) as error:
        print(f"affectcodec: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    serve(codec, options.port, tts, recognisers, gallery)
    return 0


if __name__ == "__main__":
    sys.exit(main())
