"""
One utterance as a graph fusion hears it: where it attends, and what each modality says for and against each class.

    python -m hf_affectcodec.attention_picture --model org/graph-fusion --audio clip.wav --text "I told you so" --out clip.png
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer

from .audio import load_audio
from .modeling.modeling_graph_fusion import GraphFusionForAudioClassification
from .modeling.processing_graph_fusion import GraphFusionProcessor


COLORS = ("#3b5bdb", "#d9480f", "#1b7f5c", "#ae3ec9", "#0b7285", "#a61e4d")  # of modalities, in their order


def attention_picture(
    outputs, waveform: np.ndarray, sampling_rate: int, labels: list[str], tokens: list[str] | None = None
):
    """
    Args:
        outputs ([`GraphFusionOutput`]): Of one utterance, with `attentions` and `contributions`.
        waveform (`np.ndarray` `[T]`): The utterance.
        sampling_rate (`int`): Of it, in Hz.
        labels (`list[str]`): The classes.
        tokens (`list[str]`, *optional*): The words of the modality `"text"`, in place of their numbers.

    Returns:
        A matplotlib figure: the waveform; for each modality that is pooled by attention its weight over time (mean over
        channels; 1 is an equal share); maps of attention between steps (rows attend to columns) and between
        modalities; for each class the modalities' contributions to its logit.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: `outputs` are of several utterances, or without attentions or contributions.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the picture needs `matplotlib`: pip install 'hf-affectcodec[eval]'") from error
    if outputs.attentions is None or outputs.contributions is None or len(outputs.logits) != 1:
        raise ValueError("`outputs` must be of one utterance, with `output_attentions` and `output_contributions`")
    attentions = {name: weights[0].float().numpy() for name, weights in outputs.attentions.items()}
    pooled = {name.removesuffix("_pooling"): w.mean(-1) for name, w in attentions.items() if name.endswith("_pooling")}
    maps = {name: w.mean(0) if w.ndim == 3 else w for name, w in attentions.items() if not name.endswith("_pooling")}
    contributions = {name: values[0].float().numpy() for name, values in outputs.contributions.items()}
    colors = dict(zip(outputs.modality_vectors, COLORS * len(outputs.modality_vectors), strict=False))
    columns = max(3, len(pooled))
    rows = 1 + bool(pooled) + -(-len(maps) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, columns)

    axis = figure.add_subplot(grid[0, : columns - 2])
    seconds = len(waveform) / sampling_rate
    axis.plot(np.arange(len(waveform)) / sampling_rate, waveform, color="#495057", linewidth=0.5)
    axis.set_xlim(0, seconds)
    axis.set_xlabel("s", fontsize=8)
    probabilities = outputs.logits[0].float().softmax(-1)
    best = int(probabilities.argmax())
    axis.set_title(f"{labels[best]}, {float(probabilities[best]):.2f}", fontsize=10)
    _draw_contributions(figure.add_subplot(grid[0, columns - 2 :]), contributions, labels, best, colors)
    for column, (name, weights) in enumerate(pooled.items()):
        axis = figure.add_subplot(grid[1, column])
        axis.axhline(1, color="#868e96", linewidth=0.8, linestyle="--")
        if name == "text" and tokens is not None:
            axis.bar(range(len(weights)), weights * len(weights), color=colors[name])
            axis.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
        else:
            axis.plot(
                (np.arange(len(weights)) + 0.5) * seconds / len(weights), weights * len(weights), color=colors[name]
            )
            axis.set_xlim(0, seconds)
            axis.set_xlabel("s", fontsize=8)
        axis.set_ylim(0, max(2.0, 1.05 * float(weights.max()) * len(weights)))
        axis.set_title(f"{name}: weight in the pooling", fontsize=9)
    for index, (name, weights) in enumerate(maps.items()):
        axis = figure.add_subplot(grid[1 + bool(pooled) + index // columns, index % columns])
        shares = weights * weights.shape[-1]
        # from 0 to twice an equal share at least, so that what hardly differs looks alike
        image = axis.imshow(shares, aspect="auto", interpolation="nearest", vmin=0, vmax=max(2.0, float(shares.max())))
        figure.colorbar(image, ax=axis, shrink=0.8).ax.tick_params(labelsize=7)
        axis.set_title(name.replace("_", " "), fontsize=9)
        if name == "modalities":
            names = [modality for modality in outputs.modality_vectors if f"{modality}_graph" in attentions]
            axis.set_xticks(range(len(names)), names, fontsize=7)
            axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.tick_params(labelsize=7)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure


def _draw_contributions(axis, contributions: dict, labels: list[str], best: int, colors: dict):
    """Bars side by side for each class."""
    height = 0.8 / len(contributions)
    for index, (name, values) in enumerate(contributions.items()):
        places = np.arange(len(labels)) + (index + 0.5) * height - 0.4
        axis.barh(places, values, height=height, color=colors[name], label=name)
    axis.axvline(0, color="#495057", linewidth=0.8)
    axis.set_yticks(range(len(labels)), labels)
    axis.get_yticklabels()[best].set_fontweight("bold")
    axis.invert_yaxis()
    axis.legend(fontsize=8, frameon=False)
    axis.set_title("what each modality adds to the logits", fontsize=9)


def parse_arguments(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a graph fusion")
    parser.add_argument("--audio", required=True, type=Path)
    parser.add_argument("--text", default=None, help="the transcript; by default the model's recogniser transcribes")
    parser.add_argument("--out", required=True, type=Path, help="picture (.png, .pdf, .svg)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Classifies one file and draws why; returns the exit status."""
    options = parse_arguments(arguments)
    model = GraphFusionForAudioClassification.from_pretrained(options.model).eval()
    extractor = AutoFeatureExtractor.from_pretrained(options.model)
    waveform = load_audio(options.audio, extractor.sampling_rate)[0].numpy()
    tokens = None
    if options.text is None:
        inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    else:
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        processor = GraphFusionProcessor(extractor, tokenizer)
        inputs = processor(waveform, options.text, sampling_rate=extractor.sampling_rate)
        tokens = tokenizer.convert_ids_to_tokens(inputs["text_input_ids"][0].tolist())
    with torch.no_grad():
        outputs = model(**inputs, output_attentions=True, output_contributions=True)
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    attention_picture(outputs, waveform, extractor.sampling_rate, labels, tokens).savefig(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
