"""Recognise: emotion recognisers side by side, and where they attend."""

from collections.abc import Mapping, Sequence

import gradio as gr
import numpy as np
import torch

from hf_affectcodec.attention_picture import attention_picture
from hf_affectcodec.audio import resample
from hf_affectcodec.modeling.modeling_graph_fusion import GraphFusionForAudioClassification
from hf_affectcodec.modeling.modeling_token_fusion import TokenFusionForAudioClassification
from hf_affectcodec.space.gallery import GalleryPrompt
from hf_affectcodec.space.shared import CONCURRENCY, MAX_SECONDS, image, pixels, read_clip, sentence
from hf_affectcodec.space.zero_gpu import on_gpu


RATE = 16000  # Hz, at which uploads are read


def probabilities(classifier, waveform: np.ndarray, sampling_rate: int) -> dict[str, float]:
    """
    Of each class, most likely first.

    Args:
        classifier: `pipeline("audio-classification")`, as of [`~hf_affectcodec.classify.load_classifier`].
        waveform (`np.ndarray` [T]): The clip.
        sampling_rate (`int`): In Hz.
    """
    rate = classifier.feature_extractor.sampling_rate
    waveform = resample(torch.from_numpy(waveform), sampling_rate, rate).numpy()
    rows = classifier({"array": waveform, "sampling_rate": rate}, top_k=None)
    return {row["label"]: row["score"] for row in rows}


def emotion_meters(recognisers: Mapping, clips: Mapping[str, np.ndarray], sampling_rate: int) -> dict | None:
    """
    What meters.html draws: for each recogniser and emotion its probability in each of the clips, empty where it takes a clip
    for none. `None` without recognisers.

    Args:
        recognisers (mapping): By name, `pipeline("audio-classification")`s.
        clips (mapping): Waveforms [T] by what to call them.
        sampling_rate (`int`): Of the clips, in Hz.
    """
    if not recognisers:
        return None
    found = []
    for name, classifier in recognisers.items():
        heard = []
        for waveform in clips.values():
            try:
                heard.append(probabilities(classifier, waveform, sampling_rate))
            except ValueError:
                heard.append({})
        emotions = [
            {"emotion": emotion, "shares": [share(scores[emotion]) if scores else {} for scores in heard]}
            for emotion in classifier.model.config.id2label.values()
        ]
        found.append({"name": name, "emotions": emotions})
    return {"clips": list(clips), "recognisers": found}


def share(probability: float) -> dict:
    return {"text": f"{probability:.2f}", "percent": round(100 * probability)}


@torch.no_grad()
def attention_pixels(classifier, waveform: np.ndarray) -> np.ndarray | None:
    """Where token fusion and graph fusion attend in a clip at 16 kHz; `None` for other models."""
    model, extractor = classifier.model, classifier.feature_extractor
    if not isinstance(model, TokenFusionForAudioClassification | GraphFusionForAudioClassification):
        return None
    inputs = extractor(waveform, sampling_rate=RATE, return_tensors="pt").to(model.device)
    if isinstance(model, GraphFusionForAudioClassification):
        outputs = model(**inputs, output_attentions=True, output_contributions=True)
        return pixels(attention_picture(outputs, waveform, RATE, list(model.config.id2label.values())))
    weights = model(**inputs).layer_attention
    return None if weights is None else pixels(layer_picture(weights[0].float().cpu().numpy(), len(waveform) / RATE))


def layer_picture(weights: np.ndarray, seconds: float):
    """The weights `[F, L]` of layers or codebooks over time as a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.6), dpi=120, layout="constrained")
    axis = figure.subplots()
    extent = (0, seconds, weights.shape[1] + 0.5, 0.5)
    shown = axis.imshow(weights.T, aspect="auto", cmap="viridis", interpolation="nearest", vmin=0, extent=extent)
    axis.set_yticks(range(1, weights.shape[1] + 1))
    axis.set_xlabel("time (s)")
    axis.set_ylabel("layer or codebook")
    figure.colorbar(shown, ax=axis, pad=0.01, label="weight")
    return figure


def recognise_tab(recognisers: Mapping, gallery: Sequence[GalleryPrompt]) -> None:
    """
    Args:
        recognisers (mapping): By name, `pipeline("audio-classification")`s.
        gallery (sequence of [`GalleryPrompt`]): Recordings to try, none or more.
    """

    @on_gpu
    def recognise(path):
        waveform = read_clip(path, RATE)[0].numpy()
        try:
            found = [probabilities(classifier, waveform, RATE) for classifier in recognisers.values()]
            pictures = [attention_pixels(classifier, waveform) for classifier in recognisers.values()]
        except (ValueError, ImportError) as error:
            raise sentence(error) from error
        return *found, *pictures

    clip = gr.Audio(
        sources=["upload", "microphone"],
        type="filepath",
        label=f"A recording to recognise (up to {MAX_SECONDS:g} s)",
        buttons=[],
    )
    if gallery:
        gr.Examples(
            [[str(item.path)] for item in gallery],
            inputs=[clip],
            label="or one of these",
            example_labels=[item.label for item in gallery],
        )
    button = gr.Button("Recognise", variant="primary")
    with gr.Row():
        labels = [gr.Label(label=name) for name in recognisers]
    pictures = [image(f"{name}: where it attends") for name in recognisers]
    button.click(recognise, [clip], [*labels, *pictures], api_name="recognise", **CONCURRENCY)
