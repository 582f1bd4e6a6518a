"""
Makes a small checkpoint of a speech language model, to lie beside its codec's: without the codec's weights, in half precision.

    python training/slim_tts.py --model runs/tts/model --codec ../affectcodec-mini --out pretrained/affectcodec-tts-mini

`--codec` is what the configuration's `codec_model_id` will say: a Hub id, or a path seen from the new folder if it begins with
a dot. It is loaded and compared with the model's own codec before anything is written.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from hf_affectcodec import AffectCodecModel, AffectCodecTTSForConditionalGeneration, AffectCodecTTSProcessor


def slim(model: AffectCodecTTSForConditionalGeneration, codec: str, out: Path, dtype: torch.dtype = torch.float16):
    """
    Writes `config.json`, `generation_config.json` and `model.safetensors` without the weights of `codec_model`.

    Args:
        model ([`AffectCodecTTSForConditionalGeneration`]): A whole model in float32.
        codec (`str`): Where its codec can be loaded from; see the module's text.
        out (`Path`): Folder to write to; made if missing.
        dtype (`torch.dtype`): Of the weights as they are stored; they are loaded as float32.

    Raises:
        ValueError: `codec` has other weights than the model's, or a weight does not fit into `dtype`.
    """
    out.mkdir(parents=True, exist_ok=True)
    source = out / codec if codec.startswith(".") else codec
    given = AffectCodecModel.from_pretrained(source, dtype=torch.float32).state_dict()
    own = model.codec_model.state_dict()
    if given.keys() != own.keys() or not all(torch.equal(value, own[name]) for name, value in given.items()):
        raise ValueError(f"`codec` {codec!r} is not the codec that the model was trained with")
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("codec_model.")}
    stored = {name: value.to(dtype).contiguous() for name, value in state.items()}
    for name, value in stored.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"`dtype` {dtype} cannot hold {name}")
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    config = {**model.config.to_dict(), "codec_model_id": codec, "architectures": [type(model).__name__]}
    # Weights are computed with in float32, whatever they are stored in.
    config["dtype"] = "float32"
    for part in (config, config["codec_config"]):
        # Where on whose machine it was loaded from is nobody's business.
        part.pop("_name_or_path", None)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    model.generation_config.save_pretrained(out)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--codec", required=True, help="Hub id of the codec, or its path seen from --out")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(arguments)
    model = AffectCodecTTSForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32)
    slim(model, options.codec, options.out)
    AffectCodecTTSProcessor.from_pretrained(options.model).save_pretrained(options.out)
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{size / 1e6:.1f} MB in {options.out}")


if __name__ == "__main__":
    main()
