"""`python -m hf_affectcodec.demo --out demo_out`: a real clip through 4 kbps and back, to hear, see and measure."""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .audio import load_audio, write_audio
from .codes_file import AudioCodes, save_codes
from .inference import Codec, load_codec
from .shipped import demo_clip_path


RUNS = 5  # timed ones, after one that warms up; the median counts

_LOWEST, _HIGHEST, _ROWS = 60.0, 8000.0, 320  # Hz, and rows of the picture
_RANGE = 70.0  # dB below the loudest point
_N_FFT, _HOP = 1024, 80


@dataclass(frozen=True)
class Rebuilt:
    """
    A clip after encoding and decoding.

    Args:
        original (`torch.Tensor` of shape `(1, samples)`): What went in.
        rebuilt (`torch.Tensor` of shape `(1, samples)`): What came out.
        codes ([`AudioCodes`]): What was in between.
        encode_speed, decode_speed (`float`): Seconds of audio per second of computing.
    """

    original: torch.Tensor
    rebuilt: torch.Tensor
    codes: AudioCodes
    encode_speed: float
    decode_speed: float


def rebuild(codec: Codec, waveform: torch.Tensor, runs: int = RUNS, num_quantizers: int | None = None) -> Rebuilt:
    """Encodes and decodes a waveform `[1, T]` by that many codebooks (default: all), and times both."""
    seconds = waveform.shape[-1] / codec.sampling_rate
    codes, encode_seconds = _timed(lambda: codec.encode(waveform, num_quantizers), runs)
    rebuilt, decode_seconds = _timed(lambda: codec.decode(codes), runs)
    return Rebuilt(waveform, rebuilt, codes, seconds / encode_seconds, seconds / decode_seconds)


def measure(result: Rebuilt) -> dict[str, float | str]:
    """PESQ-WB and the error of log-F0 in semitones; where a metric is not defined for the clip, the reason why."""
    from .metrics.f0 import log_f0_rmse
    from .metrics.pesq import pesq

    values = {}
    for name, metric in (("pesq_wb", pesq), ("log_f0_rmse", log_f0_rmse)):
        try:
            values[name] = metric(result.original[0].numpy(), result.rebuilt[0].numpy(), result.codes.sampling_rate)
        except ValueError as error:
            values[name] = f"not measurable: {error}"
    return values


def log_frequency_spectrogram(waveform: torch.Tensor, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Power on a logarithmic frequency axis.

    Args:
        waveform (`torch.Tensor` of shape `(samples,)`): Samples.
        sampling_rate (`int`): In Hz.

    Returns:
        `tuple` of frequencies `[R]` in Hz, evenly spaced in log-frequency, and power `[R, F]`, a column every `_HOP`
        samples (the first at sample 0), interpolated between the bins of the transform.
    """
    frames = torch.stft(waveform, 2 * _N_FFT, _HOP, _N_FFT, torch.hann_window(_N_FFT), return_complex=True)
    power = frames.abs().square().numpy()
    frequencies = np.geomspace(_LOWEST, min(_HIGHEST, sampling_rate / 2), _ROWS)
    bins = frequencies * 2 * _N_FFT / sampling_rate
    below = np.minimum(bins.astype(int), power.shape[0] - 2)
    weight = (bins - below)[:, None]
    return frequencies, (1 - weight) * power[below] + weight * power[below + 1]


def picture(result: Rebuilt):
    """A matplotlib figure: both spectrograms side by side on one scale of dB, with the F0 contour of each on top."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patheffects import Normal, Stroke
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
    except ImportError as error:
        raise ImportError("the picture needs `matplotlib`: pip install 'hf-affectcodec[eval]'") from error
    from .metrics.f0 import TIME_STEP, f0_track

    rate = result.codes.sampling_rate
    seconds = result.codes.seconds
    panels = (
        ("Original", result.original[0], f"16-bit PCM, {16 * rate / 1000:.0f} kbps"),
        (
            "Rebuilt",
            result.rebuilt[0],
            f"{result.codes.num_quantizers} codebooks, {result.codes.bitrate / 1000:.1f} kbps",
        ),
    )
    spectrograms = [log_frequency_spectrogram(waveform, rate) for _, waveform, _ in panels]
    loudest = max(float(power.max()) for _, power in spectrograms)
    figure = Figure(figsize=(13, 5.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (title, waveform, kbps), (frequencies, power) in zip(axes, panels, spectrograms, strict=True):
        decibels = 10 * np.log10(np.maximum(power / loudest, 10 ** (-_RANGE / 10)))
        times = np.arange(power.shape[1]) * _HOP / rate
        image = axis.pcolormesh(
            times, frequencies, decibels, cmap="magma", vmin=-_RANGE, vmax=0, shading="nearest", rasterized=True
        )
        contour = f0_track(waveform.numpy(), rate)
        # Praat centres its frames in the clip
        positions = seconds / 2 + (np.arange(len(contour)) - (len(contour) - 1) / 2) * TIME_STEP
        axis.plot(
            positions,
            np.where(contour > 0, contour, np.nan),
            color="#37e8ff",
            linewidth=2.2,
            solid_capstyle="round",
            path_effects=[Stroke(linewidth=4.2, foreground="black"), Normal()],
            label="F0",
        )
        axis.set_title(f"{title}  ({kbps})", fontsize=13)
        axis.set_xlabel("time (s)")
        axis.set_xlim(0, seconds)
    axes[0].set_yscale("log")
    axes[0].set_ylim(frequencies[0], frequencies[-1])
    axes[0].yaxis.set_major_locator(FixedLocator([100, 200, 500, 1000, 2000, 4000, 8000]))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("frequency (Hz)")
    axes[0].legend(loc="upper right", framealpha=0.8)
    figure.colorbar(image, ax=axes, pad=0.01, label="level (dB below the loudest point)")
    return figure


def table(result: Rebuilt, values: dict[str, float | str], paths: list[Path]) -> str:
    """What is printed."""
    codes = result.codes
    bits = (codes.codebook_size - 1).bit_length()
    frame_rate = codes.sampling_rate / codes.hop_length
    score, pitch = (
        values[name] if isinstance(values[name], str) else f"{values[name]:.2f}{unit}"
        for name, unit in (("pesq_wb", "  (1.0 to 4.64, higher is better)"), ("log_f0_rmse", " semitones"))
    )
    rows = [
        ("clip", f"{codes.seconds:.2f} s at {codes.sampling_rate} Hz"),
        ("model", f"{codes.model}, {torch.get_num_threads()} thread(s)"),
        (
            "bitrate",
            f"{codes.bitrate / 1000:.2f} kbps  ({frame_rate:g} Hz x {codes.num_quantizers} codes x {bits} bits)",
        ),
        ("compression", f"{16 * codes.sampling_rate / codes.bitrate:.0f} x smaller than 16-bit PCM"),
        ("PESQ-WB", score),
        ("log-F0 RMSE", pitch),
        ("encode", f"{result.encode_speed:.0f} x real time"),
        ("decode", f"{result.decode_speed:.0f} x real time"),
        *(("written" if index == 0 else "", str(path)) for index, path in enumerate(paths)),
    ]
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


def demo(out: Path, clip: "Path | None" = None, model: str | None = None, device: str | None = None) -> str:
    """
    Rebuilds a clip; writes `original.wav`, `rebuilt.wav`, `codes.safetensors` and `spectrograms.png`.

    Args:
        out (`Path`): Folder to write into; what it holds under these names is replaced.
        clip (`Path`, *optional*): Audio file. Default: the one shipped in the package.
        model (`str`, *optional*): Folder or Hub id. Default: the checkpoint shipped in the package.
        device (`str`, *optional*): Where it runs. Default: `"cuda"` if there is one, else `"cpu"`.

    Returns:
        `str`: A short table of what was measured.

    Raises:
        `ValueError`: The clip or the model cannot be used.
        `ImportError`: The packages of the extra `eval` are missing.
    """
    codec = load_codec(model, device)
    result = rebuild(codec, load_audio(demo_clip_path() if clip is None else clip, codec.sampling_rate))
    values = measure(result)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / name for name in ("original.wav", "rebuilt.wav", "codes.safetensors", "spectrograms.png")]
    write_audio(paths[0], result.original, codec.sampling_rate)
    write_audio(paths[1], result.rebuilt, codec.sampling_rate)
    save_codes(paths[2], result.codes)
    picture(result).savefig(paths[3])
    return table(result, values, paths)


def _timed(function, runs: int):
    result = function()
    durations = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return result, statistics.median(durations)


def main(argv: "list[str] | None" = None) -> int:
    """Runs the demonstration; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_affectcodec.demo", description="Rebuilds a short clip of speech from its codes."
    )
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder to write into (default: demo_out)")
    parser.add_argument("--clip", type=Path, help="audio file (default: the clip shipped in the package)")
    parser.add_argument("--model", help="folder or Hub id (default: the checkpoint shipped in the package)")
    parser.add_argument("--device", help="where to run (default: cuda if there is one, else cpu)")
    arguments = parser.parse_args(argv)
    try:
        print(demo(arguments.out, arguments.clip, arguments.model, arguments.device))
    except (ValueError, OSError, ImportError) as error:
        print(f"hf_affectcodec.demo: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
