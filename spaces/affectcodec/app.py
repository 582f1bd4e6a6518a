"""
AffectCodec in a browser: drop in a recording; hear, see and measure what 0.5 to 4 kbps keep of it.

    python spaces/affectcodec/app.py        or        affectcodec demo

As a Space, this folder is the repository. Every button is also an endpoint: `gradio_client.Client(URL).view_api()`.
"""

import shutil
import tempfile
from pathlib import Path

import gradio as gr
import numpy as np
import torch

from hf_affectcodec.audio import load_audio
from hf_affectcodec.benchmarks.codecs import PyAVCodec
from hf_affectcodec.codes_file import load_codes, save_codes
from hf_affectcodec.demo import picture, rebuild
from hf_affectcodec.inference import Codec, load_codec
from hf_affectcodec.metrics.f0 import log_f0_rmse
from hf_affectcodec.metrics.pesq import pesq
from hf_affectcodec.metrics.stoi import stoi
from hf_affectcodec.shipped import demo_clip_path


MAX_SECONDS = 30.0
MAX_FILE_SIZE = "50mb"
BASELINES = ["opus-6", "opus-8", "opus-12", "mp3-8", "aac-12"]
COLUMNS = ["system", "kbps", "PESQ-WB", "STOI", "F0 error, st"]
CACHE_SECONDS = 3600

ABOUT = """
**What it is.** A neural codec: 16 kHz speech becomes 50 frames a second of up to 8 numbers from 0 to 1023, 0.5 kbps each, and
speech again. It is an open implementation of [AffectCodec](https://arxiv.org/abs/2605.11098); this checkpoint is a small one
of the project's own, trained on about 100 minutes of neutral telephone prompts. Other voices, music and noise come out worse.

**What the columns say.** PESQ-WB (1.0 to 4.64) and STOI (0 to 1) compare with the original, higher is better; the F0 error is
the root mean square distance of the pitch contours in semitones, where both are voiced. Opus, MP3 and AAC are coded here, at
the bitrate that their packets really have.

**Please.** A codec rebuilds voices. Use recordings that you may use, ask before you work with somebody's voice, and say so
where speech is synthetic. Recordings are deleted from this server within two hours.

Weights: CC BY-SA 3.0. Code: Apache-2.0.
"""


def samples(waveform: torch.Tensor, sampling_rate: int) -> tuple[int, np.ndarray]:
    """Integers, because Gradio brings floats to full scale, and how loud a voice is belongs to how it feels."""
    return sampling_rate, (waveform[0].clamp(-1, 1) * 32767).round().short().numpy()


def read_clip(path: str | None, codec: Codec) -> torch.Tensor:
    """The upload as `[1, T]` at the codec's rate; what is wrong with it as a sentence for the page."""
    if path is None:
        raise gr.Error("Record or upload a clip first.", print_exception=False)
    try:
        waveform = load_audio(path, codec.sampling_rate, stop=MAX_SECONDS + 1, name="This file")
    except ValueError as error:
        raise gr.Error(f"{error}.", print_exception=False) from error
    if waveform.shape[-1] > MAX_SECONDS * codec.sampling_rate:
        raise gr.Error(
            f"This page takes up to {MAX_SECONDS:g} seconds; the command `affectcodec reconstruct` takes any length.",
            print_exception=False,
        )
    if waveform.shape[-1] < codec.model.hop_length:
        raise gr.Error("This clip is shorter than one frame (20 ms).", print_exception=False)
    return waveform


def measure(name: str, kbps: float, original: np.ndarray, decoded: np.ndarray, rate: int) -> list[str]:
    """One row of the table; a dash where a metric is not defined for the clip (no speech, no pitch, too short)."""
    row = [name, f"{kbps:.2f}"]
    for metric in (pesq, stoi, log_f0_rmse):
        try:
            row.append(f"{metric(original, decoded, rate):.2f}")
        except ValueError:
            row.append("–")
    return row


def code_picture(codes: np.ndarray):
    """The codes `[Q, F]` as an image: one row a codebook, one column a frame of 20 ms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2.4), dpi=100, layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(codes, aspect="auto", cmap="turbo", interpolation="nearest", vmin=0)
    axis.set_yticks(range(len(codes)), [str(index + 1) for index in range(len(codes))])
    axis.set_xlabel("frame (20 ms each)")
    axis.set_ylabel("codebook")
    figure.colorbar(image, ax=axis, pad=0.01, label="code")
    return figure


def pixels(figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def build_demo(codec: Codec) -> gr.Blocks:
    """The page for a codec; `build_demo(load_codec()).launch()` serves it."""
    rate = codec.sampling_rate
    num_quantizers = codec.model.config.num_quantizers
    frame_kbps = codec.model.config.bitrate / num_quantizers / 1000

    def reconstruct(path, quantizers, baseline):
        waveform = read_clip(path, codec)
        result = rebuild(codec, waveform, runs=1, num_quantizers=int(quantizers))
        codes = result.codes
        original = waveform[0].numpy()
        rows = [
            measure(
                f"AffectCodec, {int(quantizers)} codebooks",
                codes.bitrate / 1000,
                original,
                result.rebuilt[0].numpy(),
                rate,
            )
        ]
        compared = None
        if baseline != "none":
            try:
                decoded, bits = PyAVCodec.from_name(baseline)(original)
            except ValueError as error:
                raise gr.Error(f"{error}.", print_exception=False) from error
            rows.append(measure(baseline, bits / codes.seconds / 1000, original, decoded, rate))
            compared = samples(torch.from_numpy(decoded)[None], rate)
        speed = (
            f"Encoded at {result.encode_speed:.0f}x and decoded at {result.decode_speed:.0f}x real time, here and now."
        )
        folder = tempfile.mkdtemp(prefix="affectcodec-")
        file = Path(folder) / "codes.safetensors"
        save_codes(file, codes)
        yield (
            samples(waveform, rate),
            samples(result.rebuilt, rate),
            gr.Audio(value=compared, visible=compared is not None, label=f"{baseline}"),
            rows,
            pixels(picture(result)),
            pixels(code_picture(codes.audio_codes.numpy())),
            str(file),
            speed,
        )
        # By now Gradio has taken its copy of the file.
        shutil.rmtree(folder, ignore_errors=True)

    def decode_file(path):
        if path is None:
            raise gr.Error("Upload a file of codes first.", print_exception=False)
        try:
            codes = load_codes(path)
            if codes.seconds > MAX_SECONDS:
                raise ValueError(f"{path}: more than {MAX_SECONDS:g} seconds of codes")
            return samples(codec.decode(codes), rate), pixels(code_picture(codes.audio_codes.numpy()))
        except ValueError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise gr.Error(f"This file gives no speech: {reason}.", print_exception=False) from error

    with gr.Blocks(title="AffectCodec", delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        gr.Markdown("# AffectCodec\nSpeech in 0.5 to 4 kbps: drop in a recording, hear what is left of it.")
        with gr.Tab("Reconstruct"):
            with gr.Row():
                with gr.Column():
                    clip = gr.Audio(
                        sources=["upload", "microphone"],
                        type="filepath",
                        label=f"Your recording (up to {MAX_SECONDS:g} s)",
                    )
                    gr.Examples([[str(demo_clip_path())]], inputs=[clip], label="or this telephone prompt")
                with gr.Column():
                    quantizers = gr.Slider(
                        1,
                        num_quantizers,
                        value=num_quantizers,
                        step=1,
                        label="Codebooks",
                        info=f"{frame_kbps:g} kbps each",
                    )
                    baseline = gr.Dropdown(["none", *BASELINES], value="opus-6", label="Compare with")
                    button = gr.Button("Rebuild", variant="primary")
            with gr.Row():
                original = gr.Audio(label="Original", interactive=False, type="numpy", format="wav")
                heard = gr.Audio(label="Rebuilt from codes", interactive=False, type="numpy", format="wav")
                compared = gr.Audio(
                    label="Compared with", interactive=False, type="numpy", format="wav", visible=False
                )
            table = gr.Dataframe(headers=COLUMNS, label="Measured on this clip", interactive=False, wrap=True)
            # Headings, not labels of the images: those would lie on top of them.
            gr.Markdown("**Spectrograms, with pitch**")
            spectrograms = gr.Image(
                label="Spectrograms, with pitch", show_label=False, interactive=False, format="png"
            )
            gr.Markdown("**All that is sent: the codes**")
            matrix = gr.Image(label="The codes", show_label=False, interactive=False, format="png")
            with gr.Row():
                codes_file = gr.File(label="The codes (safetensors)", interactive=False)
                speed = gr.Markdown()
            outputs = [original, heard, compared, table, spectrograms, matrix, codes_file, speed]
            inputs = [clip, quantizers, baseline]
            button.click(reconstruct, inputs, outputs, api_name="reconstruct", concurrency_limit=1)
            quantizers.release(reconstruct, inputs, outputs, api_visibility="private", concurrency_limit=1)
        with gr.Tab("From codes"):
            upload = gr.File(label="A file that this page or `affectcodec encode` wrote", file_types=[".safetensors"])
            decode_button = gr.Button("Decode", variant="primary")
            spoken = gr.Audio(label="Decoded", interactive=False, type="numpy", format="wav")
            codes_shown = gr.Image(label="The codes", show_label=False, interactive=False, format="png")
            decode_button.click(decode_file, [upload], [spoken, codes_shown], api_name="decode", concurrency_limit=1)
        with gr.Tab("About"):
            gr.Markdown(ABOUT)
    return page.queue(max_size=32)


def serve(codec: Codec, port: int | None = None):
    """Until interrupted."""
    build_demo(codec).launch(server_port=port, max_file_size=MAX_FILE_SIZE, show_error=True)


if __name__ == "__main__":
    serve(load_codec())
