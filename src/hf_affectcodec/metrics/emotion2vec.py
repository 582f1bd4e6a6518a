"""
emotion2vec (Ma et al., arXiv 2312.15185) by Hub id, without funasr, modelscope or fairseq: embeddings for emotion
similarity, and the class probabilities of the "plus" models for emotion recall.

The AffectCodec paper (arXiv 2605.11098) names emotion2vec for both and does not say which checkpoint; values of
different checkpoints do not compare. The weights have a licence of their own, which their Hub page links to.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch
import yaml
from huggingface_hub import hf_hub_download

from .emotion2vec_network import Emotion2vec, Emotion2vecConfig
from .waveforms import check_audible, check_waveform


SAMPLING_RATE = 16000  # Hz


def load_emotion2vec(
    source: "str | os.PathLike" = "emotion2vec/emotion2vec_plus_large",
    revision: str = "main",
    device: "str | torch.device" = "cpu",
) -> Emotion2vec:
    """
    Loads a checkpoint in the layout of the authors' Hub repositories: `configuration.json`, which names the others,
    `config.yaml`, the weights, and `tokens.txt` where there is a classification head.

    Args:
        source (`str` or `os.PathLike`, *optional*, defaults to `"emotion2vec/emotion2vec_plus_large"`): Hub id or
            folder. `"emotion2vec/emotion2vec_base"` is the network before fine-tuning, without classes.
        revision (`str`, *optional*, defaults to `"main"`): Branch, tag or commit of a Hub id.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where the network runs.

    Returns:
        [`~hf_affectcodec.metrics.emotion2vec_network.Emotion2vec`]: float32, frozen, in evaluation mode. `labels`
        holds the English names of the classes; those that a checkpoint does not use start with `unuse`.

    Raises:
        ValueError: The checkpoint lacks a weight or has one of another shape: what is left would not be the network
            that was trained. What it holds beyond that (decoder, teacher) was for training and is not looked at.
    """
    files = json.loads(_file(source, "configuration.json", revision).read_text(encoding="utf-8"))["file_path_metas"]
    settings = yaml.safe_load(_file(source, files["config"], revision).read_text(encoding="utf-8"))
    labels = ()
    if "tokenizer_conf" in files:
        tokens = _file(source, files["tokenizer_conf"]["token_list"], revision).read_text(encoding="utf-8").split()
        labels = tuple(_english(token) for token in tokens)
    model = Emotion2vec(Emotion2vecConfig.from_model_conf(settings["model_conf"], len(labels)), labels)
    checkpoint = torch.load(_file(source, files["init_param"], revision), map_location="cpu", weights_only=True)
    try:
        missing = model.load_state_dict(_weights(checkpoint, settings.get("scope_map", [])), strict=False).missing_keys
    except RuntimeError as error:
        raise ValueError(f"`source` = {str(source)!r}: {' '.join(str(error).split())}") from error
    if missing:
        raise ValueError(f"`source` = {str(source)!r} lacks {len(missing)} weights of emotion2vec: {missing[0]} ...")
    return model.float().eval().requires_grad_(False).to(device)


def _file(source: "str | os.PathLike", name: str, revision: str) -> Path:
    return Path(source) / name if Path(source).is_dir() else Path(hf_hub_download(source, name, revision=revision))


def _english(token: str) -> str:
    """`"生气/angry"` to `"angry"`; the last class, `<unk>`, is called "unknown" on the models' pages."""
    return "unknown" if token == "<unk>" else token.rpartition("/")[2]


def _weights(checkpoint: dict, scope_map: list[str]) -> dict[str, torch.Tensor]:
    """
    The state dict of a checkpoint, under the names that the network has. `scope_map` is a flat list of pairs (prefix in
    the file, prefix in the model), `none` for an empty one; fine-tuned models hold the encoder under `d2v_model.`.
    """
    for key in ("state_dict", "model_state_dict", "model"):
        checkpoint = checkpoint.get(key, checkpoint)
    weights = {}
    for name, tensor in checkpoint.items():
        for prefix, replacement in zip(scope_map[::2], scope_map[1::2], strict=True):
            if prefix != "none" and name.startswith(prefix):
                name = ("" if replacement == "none" else replacement) + name.removeprefix(prefix)
        weights[name] = tensor
    return weights


def _prepare(model: Emotion2vec, waveform, sampling_rate: int) -> torch.Tensor:
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(f"`sampling_rate` must be {SAMPLING_RATE}, got {sampling_rate}")
    waveform = check_audible(check_waveform(waveform, "waveform"), "waveform")
    if waveform.size < model.config.receptive_field:
        raise ValueError(f"`waveform` must have at least {model.config.receptive_field} samples, got {waveform.size}")
    return torch.from_numpy(waveform).float()[None].to(model.modality_encoders["AUDIO"].extra_tokens.device)


@torch.inference_mode()
def emotion2vec_embedding(model: Emotion2vec, waveform, sampling_rate: int) -> np.ndarray:
    """
    The utterance embedding: the mean of the frames. Clips are run one by one.

    Args:
        model ([`~hf_affectcodec.metrics.emotion2vec_network.Emotion2vec`]): See [`load_emotion2vec`].
        waveform (array [T]): The clip. Level does not matter where the checkpoint normalises, as the released ones do.
        sampling_rate (`int`): In Hz, must be 16000.

    Returns:
        `np.ndarray` [C]: float64; C is 768 for the base and 1024 for the large models.

    Raises:
        ValueError: The waveform is not usable, is silent or shorter than one frame (400 samples), or the sampling rate
            is another.
    """
    return model(_prepare(model, waveform, sampling_rate))[0].mean(dim=0).double().cpu().numpy()


@torch.inference_mode()
def emotion2vec_probabilities(model: Emotion2vec, waveform, sampling_rate: int) -> np.ndarray:
    """
    Args:
        model, waveform, sampling_rate: See [`emotion2vec_embedding`].

    Returns:
        `np.ndarray` [K]: float64, one probability for each of `model.labels`, 0 for classes that the checkpoint does
        not use; they sum to 1.

    Raises:
        ValueError: See [`emotion2vec_embedding`]; or the checkpoint has no classification head.
    """
    logits = model.class_logits(model(_prepare(model, waveform, sampling_rate)))[0]
    unused = torch.tensor([label.startswith("unuse") for label in model.labels], device=logits.device)
    return logits.masked_fill(unused, -torch.inf).softmax(dim=0).double().cpu().numpy()
