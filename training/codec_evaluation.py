"""What a run shows of itself: validation losses, samples, pictures, curves."""

import json
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from codec_steps import count_codes  # noqa: E402

from hf_affectcodec.audio import write_audio  # noqa: E402
from hf_affectcodec.metrics.codebook_usage import codebook_usage  # noqa: E402
from hf_affectcodec.objectives.spectral import log_mel_spectrogram, multi_scale_mel_loss  # noqa: E402


MAX_EVALUATION_SECONDS = 8


@torch.no_grad()
def evaluate(
    model, waveforms: list[torch.Tensor], sampling_rate: int, folder: Path | None, num_samples: int = 2
) -> dict:
    """
    Mean multi-scale mel loss and codebook use over whole clips, one at a time.

    Args:
        model: An [`AffectCodecModel`].
        waveforms: Clips [T], float32.
        sampling_rate: In Hz.
        folder: Where the first `num_samples` clips go as audio and pictures; `None` writes nothing.
        num_samples: How many.

    Returns:
        `{"mel", "commitment", "usage", "perplexity"}`, the last two a list with a value per quantizer.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    mels, commitments = [], []
    counts = torch.zeros(model.config.num_quantizers, model.config.codebook_size, dtype=torch.long)
    for index, waveform in enumerate(waveforms):
        real = waveform[None, None, : MAX_EVALUATION_SECONDS * sampling_rate].to(device)
        outputs = model(real)
        mels.append(float(multi_scale_mel_loss(outputs.audio_values, real, sampling_rate)))
        commitments.append(float(outputs.loss))
        counts += count_codes(outputs, model.config.codebook_size)
        if folder is not None and index < num_samples:
            folder.mkdir(parents=True, exist_ok=True)
            fake = outputs.audio_values[0].float().cpu()
            write_audio(folder / f"{index}_original.wav", real[0].cpu(), sampling_rate)
            write_audio(folder / f"{index}_rebuilt.wav", fake, sampling_rate)
            draw_spectrograms(folder / f"{index}.png", real[0].cpu(), fake, sampling_rate)
    model.train(training)
    statistics = codebook_usage(counts)
    return {
        "mel": float(np.mean(mels)),
        "commitment": float(np.mean(commitments)),
        "usage": statistics.usage.tolist(),
        "perplexity": statistics.perplexity.tolist(),
    }


def draw_spectrograms(path: Path, original: torch.Tensor, rebuilt: torch.Tensor, sampling_rate: int):
    """Log-mel spectrograms of two waveforms [1, T], one above the other."""
    figure, axes = plt.subplots(2, 1, figsize=(10, 5), sharex=True, constrained_layout=True)
    for axis, waveform, title in zip(axes, (original, rebuilt), ("original", "rebuilt"), strict=True):
        mel = log_mel_spectrogram(waveform, 1024, sampling_rate)[0].T.numpy()
        axis.imshow(
            mel, origin="lower", aspect="auto", vmin=-9, vmax=3, extent=(0, waveform.shape[1] / sampling_rate, 0, 80)
        )
        axis.set(title=title, ylabel="mel bin")
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_loss_curves(log_file: Path, path: Path):
    """All scalars of a run's `log.jsonl` against the step, one panel each."""
    rows = [json.loads(line) for line in log_file.read_text(encoding="utf-8").splitlines()]
    names = sorted({key for row in rows for key, value in row.items() if isinstance(value, float)} - {"seconds"})
    columns = 4
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(16, 2.6 * lines), constrained_layout=True, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axis.plot(*zip(*points, strict=True), linewidth=1)
        axis.set_title(name)
    figure.savefig(path, dpi=90)
    plt.close(figure)
