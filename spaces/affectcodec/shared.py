"""What the tabs share: uploads in, sound and pictures out."""

import re

import numpy as np
import torch

from hf_affectcodec.audio import load_audio


try:
    import gradio as gr
except ImportError as error:
    raise ImportError("the page needs the package `gradio`: pip install 'hf-affectcodec[space]'") from error


MAX_SECONDS = 30.0
# One at a time: two would only slow each other down.
CONCURRENCY = {"concurrency_limit": 1, "concurrency_id": "models"}


PICTURE = "picture-"
# Gradio 6.31 leaves pictures without a text, and makes buttons of them: for a screen reader they are named by their id.
NAME_PICTURES = f"""() => {{
  const name = () => {{
    for (const button of document.querySelectorAll("[id^={PICTURE}] button:not([aria-label])")) {{
      const words = button.closest("[id^={PICTURE}]").id.slice({len(PICTURE)}).replaceAll("-", " ");
      button.setAttribute("aria-label", `Picture: ${{words}}. Press to enlarge.`);
    }}
  }};
  new MutationObserver(name).observe(document.body, {{ childList: true, subtree: true }});
  name();
}}"""


def sentence(reason) -> gr.Error:
    """What is wrong, for the page."""
    text = " ".join(str(reason).split()).rstrip(".")
    return gr.Error(f"{text[:1].upper()}{text[1:]}.", print_exception=False)


def read_clip(path: str | None, sampling_rate: int) -> torch.Tensor:
    """The upload as `[1, T]` at that rate, no more than `MAX_SECONDS` of it being read."""
    if path is None:
        raise sentence("record or upload a clip first")
    try:
        waveform = load_audio(path, sampling_rate, stop=MAX_SECONDS + 1, name="This file")
    except ValueError as error:
        raise sentence(error) from error
    if waveform.shape[-1] > MAX_SECONDS * sampling_rate:
        raise sentence(
            f"this page takes up to {MAX_SECONDS:g} seconds; the command `affectcodec reconstruct` takes any length"
        )
    return waveform


def samples(waveform: torch.Tensor, sampling_rate: int) -> tuple[int, np.ndarray]:
    """Integers, because Gradio brings floats to full scale, and how loud a voice is belongs to how it feels."""
    return sampling_rate, (waveform[0].clamp(-1, 1) * 32767).round().short().numpy()


def pixels(figure) -> np.ndarray:
    """A matplotlib figure as `[H, W, 3]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def sound(label: str) -> gr.Audio:
    """A player for what a function gives."""
    return gr.Audio(label=label, interactive=False, type="numpy", format="wav", buttons=["download"])


def image(label: str) -> gr.Image:
    """A picture under a heading; a label of its own would lie on top of it."""
    gr.Markdown(f"**{label}**")
    return gr.Image(
        label=label,
        show_label=False,
        interactive=False,
        format="png",
        buttons=["fullscreen"],
        elem_id=PICTURE + re.sub(r"\W+", "-", label.lower()),
    )
