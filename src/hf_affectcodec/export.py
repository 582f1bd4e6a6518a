"""
AffectCodec as two ONNX files, for machines without torch.

    python -m hf_affectcodec.export --model DIR_OR_HUB_ID --out FOLDER

writes `encoder.onnx` (waveform `input_values [batch, 1, 320 * frames]` -> `audio_codes [batch, quantizers, frames]`, self-guided
where the model is) and `decoder.onnx` (`audio_codes` -> `audio_values [batch, 1, 320 * frames]`), both float32, for any batch
and any number of frames from 2. There is no mask: items of a batch have one length, and clips end with whole frames.
"""

import argparse
import warnings
from pathlib import Path

import torch

from .inference import load_codec
from .modeling.modeling_affectcodec import AffectCodecModel


OPSET = 20


class _Encoder(torch.nn.Module):
    def __init__(self, model: AffectCodecModel):
        super().__init__()
        self.model = model

    def forward(self, input_values):
        latents = self.model.encoder(input_values)
        if self.model.self_guidance is not None:
            latents = self.model.guidance(latents, self.model.self_guidance(latents))
        return self.model.quantizer.encode(latents)


class _Decoder(torch.nn.Module):
    def __init__(self, model: AffectCodecModel):
        super().__init__()
        self.model = model

    def forward(self, audio_codes):
        return self.model.decoder(self.model.quantizer.decode(audio_codes))


def export_onnx(model: AffectCodecModel, folder: str | Path) -> tuple[Path, Path]:
    """
    Args:
        model ([`AffectCodecModel`]): In evaluation mode, float32, on the CPU.
        folder (`str` or `Path`): Made where it does not exist; files in it are replaced.

    Returns:
        `tuple[Path, Path]`: `encoder.onnx` and `decoder.onnx`.

    Raises:
        ValueError: The model pads by reflection, or is in training mode.
        ImportError: `onnx` or `onnxscript` is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("the export needs `onnx` and `onnxscript`: pip install 'hf-affectcodec[onnx]'") from error
    if model.training:
        raise ValueError("`model` must be in evaluation mode: call `eval()` first")
    if model.config.backbone == "seanet" and model.config.pad_mode == "reflect":
        raise ValueError("`model` pads by reflection, which depends on the length; only `pad_mode='zero'` is exported")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    waveform = torch.zeros(2, 1, 40 * model.hop_length)
    codes = torch.zeros(2, model.config.num_quantizers, 40, dtype=torch.long)
    parts = (
        ("encoder", _Encoder(model), waveform, "input_values", "audio_codes"),
        ("decoder", _Decoder(model), codes, "audio_codes", "audio_values"),
    )
    paths = []
    for name, part, example, source, target in parts:
        paths.append(folder / f"{name}.onnx")
        with warnings.catch_warnings(), torch.no_grad():
            # On every export, about options that are not used.
            warnings.simplefilter("ignore")
            options = {"opset_version": OPSET, "input_names": [source], "output_names": [target], "verbose": False}
            if model.config.backbone == "seanet":
                # The exporter by `torch.export` unrolls LSTMs to the length of the example.
                axes = {source: {0: "batch", 2: f"{source}_length"}, target: {0: "batch", 2: f"{target}_length"}}
                torch.onnx.export(part.eval(), (example,), str(paths[-1]), dynamo=False, dynamic_axes=axes, **options)
            else:
                # The older one knows no complex numbers.
                frames = torch.export.Dim("frames", min=2)
                length = model.hop_length * frames if name == "encoder" else frames
                shapes = {source: {0: torch.export.Dim("batch"), 2: length}}
                program = torch.onnx.export(part.eval(), (example,), dynamo=True, dynamic_shapes=shapes, **options)
                program.save(str(paths[-1]))
    return tuple(paths)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id (default: the shipped checkpoint)")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(arguments)
    for path in export_onnx(load_codec(args.model, "cpu").model, args.out):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
