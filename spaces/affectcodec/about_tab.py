"""About: what the page shows, and what the card of its model says."""

from pathlib import Path

import gradio as gr
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

from hf_affectcodec.inference import Codec


GENERAL = """
**What it is.** A neural codec: {rate} Hz speech becomes {frames:g} frames a second of up to {quantizers} numbers from 0 to
{last}, {kbps:g} kbps each, and speech again. It is an open implementation of
[AffectCodec](https://arxiv.org/abs/2605.11098), not by the paper's authors.

**What the columns say.** PESQ-WB (1.0 to 4.64) and STOI (0 to 1) compare with the original, higher is better; the F0 error is
the root mean square distance of the pitch contours in semitones, where both are voiced; the eGeMAPS distance (0 to 10, lower is
better, about 1.2 between unrelated clips) is how far 88 measures of the voice moved, twelve of which are drawn. Opus, MP3 and
AAC are coded here, at the bitrate that their packets really have.

**Limits.** Numbers of one clip are numbers of one clip. The codec hears one channel at {rate} Hz; music, noise and voices
unlike those of its training come out worse. Emotion recognisers, where the page has any, err often, and were not made to
judge people.

**Please.** Use recordings that you may use, ask before you speak in somebody's voice, and say so where speech is synthetic.
Nothing is published; recordings are deleted from this server within two hours.
"""
LICENCES = """
**Licences.** Code: Apache-2.0. The weights `{name}`: {licence}. The telephone prompts to try, by Allison Smith: CC BY-SA 3.0.
"""


def read_card(source: str) -> ModelCard | None:
    """The card of a folder or a Hub id; `None` where it has none."""
    path = Path(source) / "README.md" if Path(source).is_dir() else source
    if isinstance(path, Path) and not path.is_file():
        return None
    try:
        return ModelCard.load(path)
    except (HfHubHTTPError, OSError, ValueError):  # no card, no network, or none that can be read
        return None


def measured(card: ModelCard) -> str:
    """The results of a card's metadata as a table in Markdown, empty where it has none."""
    results = card.data.eval_results or []
    parts = []
    for name, split in dict.fromkeys((result.dataset_name, result.dataset_split) for result in results):
        rows = [result for result in results if (result.dataset_name, result.dataset_split) == (name, split)]
        clips = (rows[0].dataset_args or {}).get("clips")
        where = f"{name}, {split}" if split else name
        parts += [f"**Measured before**, on {where}{f', {clips} clips' if clips else ''}:", ""]
        parts += ["| measure | mean |", "|---|---|"]
        parts += [f"| {row.metric_name or row.metric_type} | {row.metric_value:#.3g} |" for row in rows]
        parts.append("")
    return "\n".join(parts)


def about_tab(codec: Codec) -> None:
    """
    Args:
        codec ([`Codec`]): Of [`~hf_affectcodec.inference.load_codec`].
    """
    config = codec.model.config
    card = read_card(config.name_or_path)
    gr.Markdown(
        GENERAL.format(
            rate=config.sampling_rate,
            frames=config.frame_rate,
            quantizers=config.num_quantizers,
            last=config.codebook_size - 1,
            kbps=config.bitrate / config.num_quantizers / 1000,
        )
    )
    if card is not None:
        gr.Markdown(measured(card))
    gr.Markdown(LICENCES.format(name=codec.name, licence=(card and card.data.license) or "see where they are from"))
    if card is not None:
        with gr.Accordion(f"The card of {codec.name}", open=False):
            gr.Markdown(card.text, elem_classes="card")
