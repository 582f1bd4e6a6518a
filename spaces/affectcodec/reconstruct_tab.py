"""Reconstruct: a recording through the codec and back, measured. From codes: the second half alone."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import torch

from hf_affectcodec.benchmarks.codecs import PyAVCodec
from hf_affectcodec.codes_file import load_codes, save_codes
from hf_affectcodec.demo import picture, rebuild
from hf_affectcodec.inference import Codec
from hf_affectcodec.metrics.egemaps import egemaps_distance
from hf_affectcodec.metrics.f0 import log_f0_rmse
from hf_affectcodec.metrics.pesq import pesq
from hf_affectcodec.metrics.stoi import stoi
from hf_affectcodec.shipped import demo_clip_path
from hf_affectcodec.space.gallery import GalleryPrompt
from hf_affectcodec.space.recognise_tab import emotion_meters
from hf_affectcodec.space.shared import CONCURRENCY, MAX_SECONDS, image, pixels, read_clip, samples, sentence, sound
from hf_affectcodec.space.voice_picture import voice_picture
from hf_affectcodec.space.zero_gpu import on_gpu


FOLDER = Path(__file__).parent
BASELINES = ["opus-6", "opus-8", "opus-12", "opus-16", "opus-24", "mp3-8", "mp3-16", "aac-12"]
METRICS = {"PESQ-WB": pesq, "STOI": stoi, "F0 error, st": log_f0_rmse, "eGeMAPS distance": egemaps_distance}
COLUMNS = ["system", "kbps", *METRICS]
DEMO_LABEL = "telephone: “I am sorry, there is no call parked …”"
# Shown -> what the model's `encode` calls it.
GUIDANCE = {"predicted from the audio": "self", "off": "none"}


def measure(name: str, kbps: float, original: np.ndarray, decoded: np.ndarray, rate: int) -> list[str]:
    """One row of the table; a dash where a metric is not defined for the clip (no speech, no pitch, too short)."""
    row = [name, f"{kbps:.2f}"]
    for metric in METRICS.values():
        try:
            row.append(f"{metric(original, decoded, rate):.2f}")
        except ValueError:
            row.append("–")
    return row


def code_picture(codes: np.ndarray):
    """The codes `[Q, F]` as an image: one row a codebook, one column a frame of 20 ms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.6), dpi=120, layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(codes, aspect="auto", cmap="turbo", interpolation="nearest", vmin=0)
    axis.set_yticks(range(len(codes)), [str(index + 1) for index in range(len(codes))])
    axis.set_xlabel("frame (20 ms each)")
    axis.set_ylabel("codebook")
    figure.colorbar(shown, ax=axis, pad=0.01, label="code")
    return figure


def voice_pixels(clips: dict[str, np.ndarray], rate: int) -> np.ndarray | None:
    """`None` where one of the clips has no functionals (silent, too short)."""
    try:
        return pixels(voice_picture(clips, rate))
    except ValueError:
        return None


def reconstruct_tab(codec: Codec, recognisers: Mapping, gallery: Sequence[GalleryPrompt]) -> None:
    """
    Args:
        codec ([`Codec`]): Of [`~hf_affectcodec.inference.load_codec`].
        recognisers (mapping): By name, `pipeline("audio-classification")`s that hear original and rebuilt.
        gallery (sequence of [`GalleryPrompt`]): Recordings to try, besides the shipped clip.
    """
    rate = codec.sampling_rate
    config = codec.model.config
    has_guidance = config.self_guidance

    @on_gpu
    def run_codec(waveform, quantizers, guidance):
        chosen = replace(codec, guidance_source=GUIDANCE[guidance]) if has_guidance else codec
        return rebuild(chosen, waveform, runs=1, num_quantizers=quantizers)

    def reconstruct(path, quantizers, baseline, guidance=None, progress=gr.Progress()):  # noqa: B008
        waveform = read_clip(path, rate)
        if waveform.shape[-1] < codec.model.hop_length:
            raise sentence("this clip is shorter than one frame (20 ms)")
        quantizers = int(quantizers)
        progress(0.1, desc="Encoding and decoding")
        result = run_codec(waveform, quantizers, guidance)
        codes = result.codes
        clips = {"original": waveform[0].numpy(), "rebuilt": result.rebuilt[0].numpy()}
        kbps = {f"AffectCodec, {quantizers} codebook{'s' * (quantizers > 1)}": codes.bitrate / 1000}
        compared = None
        if baseline != "none":
            try:
                decoded, bits = PyAVCodec.from_name(baseline)(clips["original"])
            except ValueError as error:
                raise sentence(error) from error
            clips[baseline], kbps[baseline] = decoded, bits / codes.seconds / 1000
            compared = samples(torch.from_numpy(decoded)[None], rate)
        players = samples(waveform, rate), samples(result.rebuilt, rate), compared
        speed = (
            f"Encoded at {result.encode_speed:.0f}x and decoded at {result.decode_speed:.0f}x real time, here and now."
        )
        # To be heard while the rest is measured. None and not `gr.skip()`, and no `gr.Audio(visible=...)` either: Gradio
        # 6.31 makes another component of it, and forgets to delete the files of that.
        yield *players, *[None] * 6, speed
        progress(0.4, desc="Measuring")
        rows = [
            measure(name, rate_kbps, clips["original"], decoded, rate)
            for (name, rate_kbps), decoded in zip(kbps.items(), list(clips.values())[1:], strict=True)
        ]
        emotions = emotion_meters(recognisers, clips, rate)
        progress(0.7, desc="Drawing")
        folder = Path(tempfile.mkdtemp(prefix="affectcodec-"))
        save_codes(folder / "codes.safetensors", codes)
        yield (
            *players,
            rows,
            emotions,
            voice_pixels(clips, rate),
            pixels(picture(result)),
            pixels(code_picture(codes.audio_codes.numpy())),
            str(folder / "codes.safetensors"),
            speed,
        )
        # By now Gradio has taken its copy of the file.
        shutil.rmtree(folder, ignore_errors=True)

    def rebuild_again(path, *settings):
        # A slider that is moved before there is a clip is nobody's mistake.
        if path is None:
            yield [None] * 10
        else:
            yield from reconstruct(path, *settings)

    with gr.Row():
        with gr.Column():
            clip = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label=f"Your recording (up to {MAX_SECONDS:g} s)",
                buttons=[],
            )
            gr.Examples(
                [[str(demo_clip_path())], *([str(item.path)] for item in gallery)],
                inputs=[clip],
                label="or one of these",
                example_labels=[DEMO_LABEL, *(item.label for item in gallery)],
            )
        with gr.Column():
            quantizers = gr.Slider(
                1,
                config.num_quantizers,
                value=config.num_quantizers,
                step=1,
                label="Codebooks",
                info=f"{config.bitrate / config.num_quantizers / 1000:g} kbps each",
            )
            baseline = gr.Dropdown(["none", *BASELINES], value="opus-6", label="Compare with")
            controls = [clip, quantizers, baseline]
            if has_guidance:
                controls.append(gr.Radio(list(GUIDANCE), value=next(iter(GUIDANCE)), label="Guidance of the encoder"))
            button = gr.Button("Rebuild", variant="primary")
    # Empty players and pictures say nothing: they come with the clip.
    with gr.Column(visible=False) as results:
        with gr.Row():
            original = sound("Original")
            heard = sound("Rebuilt from codes")
            compared = sound("Compared with")
        with gr.Row():
            with gr.Column(min_width=340):
                speed = gr.Markdown()
                table = gr.Dataframe(
                    headers=COLUMNS,
                    column_widths=["150px", "70px", "90px", "70px", "90px", "110px"],
                    label="Measured on this clip",
                    interactive=False,
                    wrap=True,
                )
                if recognisers:
                    gr.Markdown("**Emotion by recognisers (probability)**")
                emotions = gr.HTML(
                    None,
                    html_template=(FOLDER / "meters.html").read_text(encoding="utf-8"),
                    css_template=(FOLDER / "meters.css").read_text(encoding="utf-8"),
                    js_on_load=None,
                    apply_default_css=False,
                )
            with gr.Column(min_width=340):
                voice = image("The voice, before and after")
        spectrograms = image("Spectrograms, with pitch")
        matrix = image("All that is sent: the codes")
        codes_file = gr.File(label="The codes (safetensors)", interactive=False)
    outputs = [original, heard, compared, table, emotions, voice, spectrograms, matrix, codes_file, speed]
    # On the players it would lie on what can be heard by then.
    button.click(reconstruct, controls, outputs, api_name="reconstruct", show_progress_on=table, **CONCURRENCY)
    clip.change(
        lambda path: gr.Column(visible=path is not None),
        clip,
        results,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    gr.on(
        [clip.change, quantizers.release, *(control.input for control in controls[2:])],
        rebuild_again,
        controls,
        outputs,
        # One after the other, so that what is set last is what stays. "always_last" now and then loses it.
        trigger_mode="multiple",
        show_progress_on=table,
        api_visibility="private",
        **CONCURRENCY,
    )


def codes_tab(codec: Codec) -> None:
    """Decodes a file of codes."""
    rate = codec.sampling_rate
    run_decoder = on_gpu(codec.decode)

    def decode_file(path):
        if path is None:
            raise sentence("upload a file of codes first")
        try:
            codes = load_codes(path)
            if codes.seconds > MAX_SECONDS:
                raise ValueError(f"more than {MAX_SECONDS:g} seconds of codes")
            return samples(run_decoder(codes), rate), pixels(code_picture(codes.audio_codes.numpy()))
        except ValueError as error:
            raise sentence(f"this file gives no speech: {str(error).removeprefix(f'{path}: ')}") from error

    upload = gr.File(label="A file that this page or `affectcodec encode` wrote", file_types=[".safetensors"])
    button = gr.Button("Decode", variant="primary")
    spoken = sound("Decoded")
    matrix = image("The codes")
    button.click(decode_file, [upload], [spoken, matrix], api_name="decode", **CONCURRENCY)
