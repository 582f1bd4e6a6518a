"""
AutoPCP: predicted prosodic consistency of two utterances (Seamless Communication, arXiv 2312.05187), the "Pros-SIM" of
the AffectCodec paper (arXiv 2605.11098), without stopes.

An XLSR-53 of the Hub describes both clips; a small network, the comparator, turns the two descriptions into a score. The
comparator is not on the Hub: its authors' page (`stopes/eval/auto_pcp` of facebookresearch/stopes) links to the zip
`AutoPCP-multilingual-v2`, and [`load_autopcp`] takes the folder that it unpacks to. The stand-in that needs neither is
[`~hf_affectcodec.metrics.prosody_similarity.prosody_similarity`]; the two do not compare.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoFeatureExtractor, Wav2Vec2Model

from .waveforms import check_audible, check_waveform


SAMPLING_RATE = 16000  # Hz
ENCODER = "facebook/wav2vec2-large-xlsr-53"
LAYER = 9  # of the encoder's hidden states, the one that the released comparator (v2) was trained on
MIN_SAMPLES = 400  # the receptive field of the encoder's convolutions

_ACTIVATIONS = {"TANH": nn.Tanh, "RELU": nn.ReLU}


class Comparator(nn.Module):
    """
    An MLP on `[x, y, x y, |y - x|]` of two embeddings.

    Args:
        config (`dict`): As the released `.config` file holds it: `idim`, `odim`, `nhid` (hidden sizes), `dropout`,
            `activation`, `norm_emb` (whether embeddings are brought to unit length), `output_act` (tanh at the end),
            `input_form` and `trainable_pooler`.

    Raises:
        ValueError: The comparator is of another form: it wants a reference, or pools frames itself.
    """

    def __init__(self, config: dict):
        super().__init__()
        for name, supported in (("input_form", "qe"), ("trainable_pooler", False)):
            if config.get(name, supported) != supported:
                raise ValueError(f"`config`: {name} must be {supported!r}, got {config[name]!r}")
        if config["activation"] not in _ACTIVATIONS:
            raise ValueError(
                f"`config`: activation must be one of {sorted(_ACTIVATIONS)}, got {config['activation']!r}"
            )
        self.embedding_size, self.normalize = config["idim"], config["norm_emb"]
        sizes = [size for size in config["nhid"] if size > 0]
        # Dropout does nothing here, but has a place in the numbering of the checkpoint's layers.
        dropout = [nn.Identity()] if config["dropout"] > 0 and config["nhid"] else []
        layers, size = [*dropout], 4 * config["idim"]
        for hidden in sizes:
            layers += [nn.Linear(size, hidden), _ACTIVATIONS[config["activation"]](), *dropout]
            size = hidden
        layers.append(nn.Linear(size, config["odim"]))
        if config["output_act"] and config["nhid"]:
            layers.append(nn.Tanh())
        self.mlp = nn.Sequential(*layers)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Embeddings `[B, C]`, `[B, C]` to scores `[B, O]`."""
        if self.normalize:
            first, second = F.normalize(first), F.normalize(second)
        return self.mlp(torch.cat([first, second, first * second, (second - first).abs()], dim=-1))


@dataclass(frozen=True)
class AutoPCP:
    """
    Args:
        encoder (`Wav2Vec2Model`): Frozen, in evaluation mode.
        feature_extractor (`Wav2Vec2FeatureExtractor`): Its feature extractor.
        comparator ([`Comparator`]): Frozen, in evaluation mode.
    """

    encoder: Wav2Vec2Model
    feature_extractor: object
    comparator: Comparator


def load_autopcp(
    comparator: "str | os.PathLike",
    encoder: "str | os.PathLike" = ENCODER,
    revision: str = "main",
    device: "str | torch.device" = "cpu",
) -> AutoPCP:
    """
    Args:
        comparator (`str` or `os.PathLike`): Folder with one `NAME.config` and `NAME.pt`.
        encoder (`str` or `os.PathLike`, *optional*, defaults to XLSR-53): Hub id or folder. A comparator fits but the
            encoder that it was trained with.
        revision (`str`, *optional*, defaults to `"main"`): Branch, tag or commit of the encoder.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where both run.

    Raises:
        ValueError: The folder does not hold one comparator, its weights do not fit its configuration, or encoder and
            comparator do not fit each other.
    """
    configs = sorted(Path(comparator).glob("*.config"))
    if len(configs) != 1:
        raise ValueError(f"`comparator` must be a folder with one .config file, {comparator} has {len(configs)}")
    # `Path.with_suffix` would take the name apart at its last dot; the names are full of dots and end in one suffix.
    weights = configs[0].with_name(configs[0].name.removesuffix(".config") + ".pt")
    network = Comparator(torch.load(configs[0], weights_only=True))
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (RuntimeError, FileNotFoundError) as error:
        raise ValueError(f"`comparator`: {' '.join(str(error).split())}") from error
    model, loading = Wav2Vec2Model.from_pretrained(
        encoder, revision=revision, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(key for key in loading["missing_keys"] if "masked_spec_embed" not in key)
    if missing:
        raise ValueError(f"`encoder` = {str(encoder)!r} lacks {len(missing)} weights: {missing[0]} ...")
    if model.config.hidden_size != network.embedding_size or model.config.num_hidden_layers <= LAYER:
        raise ValueError(
            f"`encoder` = {str(encoder)!r} has {model.config.num_hidden_layers} layers of {model.config.hidden_size} "
            f"channels; the comparator wants more than {LAYER} of {network.embedding_size}"
        )
    model.encoder.layers = model.encoder.layers[: LAYER + 1]  # the others are not looked at
    return AutoPCP(
        model.eval().requires_grad_(False).to(device),
        AutoFeatureExtractor.from_pretrained(encoder, revision=revision),
        network.eval().requires_grad_(False).to(device),
    )


@torch.inference_mode()
def autopcp(reference, degraded, sampling_rate: int, model: AutoPCP) -> float:
    """
    The mean of the comparator's scores for (reference, degraded) and (degraded, reference), each clip described by the
    mean over time of the encoder's hidden states after layer 9. Clips are run one by one: padding would change them.

    Args:
        reference (array [T]): The original.
        degraded (array [T2]): The signal under test; lengths may differ.
        sampling_rate (`int`): In Hz, must be 16000.
        model ([`AutoPCP`]): See [`load_autopcp`].

    Returns:
        `float`: About 1 (another prosody) to 4 (the same). Higher is better. The AffectCodec paper's values (.86) are on
        some other scale, which it does not state.

    Raises:
        ValueError: A waveform is not usable, is silent or shorter than 400 samples, or the sampling rate is another.
    """
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(f"`sampling_rate` must be {SAMPLING_RATE}, got {sampling_rate}")
    embeddings = []
    for name, waveform in (("reference", reference), ("degraded", degraded)):
        waveform = check_audible(check_waveform(waveform, name), name)
        if waveform.size < MIN_SAMPLES:
            raise ValueError(f"`{name}` must have at least {MIN_SAMPLES} samples, got {waveform.size}")
        inputs = model.feature_extractor(waveform.astype("float32"), sampling_rate=sampling_rate, return_tensors="pt")
        outputs = model.encoder(inputs["input_values"].to(model.encoder.device), output_hidden_states=True)
        embeddings.append(outputs.hidden_states[LAYER].mean(dim=1))
    first, second = embeddings
    scores = torch.stack([model.comparator(first, second), model.comparator(second, first)])
    return scores[..., 0].mean().item()
