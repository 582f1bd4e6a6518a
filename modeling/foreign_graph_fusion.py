"""Encoders of the challenge's systems that transformers' Auto classes do not run as they are: XEUS and CED."""

import torch
from huggingface_hub import hf_hub_download
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Wav2Vec2FeatureExtractor
from transformers.modeling_outputs import BaseModelOutput


XEUS = "espnet/xeus"
XEUS_CHECKPOINT = "model/xeus_checkpoint_new.pth"
CED_PREFIX = "mispeech/ced-"


class GraphFusionXeus(torch.nn.Module):
    """
    XEUS (arXiv 2407.00837; 577 M, 50 frames a second of 1024 channels): the last layer of its E-Branchformer, without its
    pre-training's mask.

    Args:
        xeus: The ESPnet model, with `encode(waveforms, lengths, use_mask=, use_final_output=)`.
    """

    is_encoder_decoder = False

    def __init__(self, xeus):
        super().__init__()
        self.xeus = xeus

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def config(self) -> "GraphFusionXeus":
        """ESPnet's models have none; all that is asked of it is `is_encoder_decoder`."""
        return self

    def forward(self, input_values: torch.Tensor) -> BaseModelOutput:
        """Waveforms `[B, T]` -> `last_hidden_state` `[B, F, 1024]`."""
        lengths = torch.full((len(input_values),), input_values.shape[1], device=input_values.device)
        layers = self.xeus.encode(input_values, lengths, use_mask=False, use_final_output=False)[0]
        return BaseModelOutput(last_hidden_state=layers[-1])


class GraphFusionCed(torch.nn.Module):
    """
    CED (arXiv 2308.11957): one vector a clip, the mean of its tokens. It takes 10.12 s at a time; longer clips are the mean of
    their pieces, by length. (Its own splitting loses the last piece.)

    Args:
        ced: `CedForAudioClassification` of the Hub's custom code.
    """

    def __init__(self, ced):
        super().__init__()
        self.ced = ced
        self.longest = ced.config.target_length

    @property
    def config(self):
        return self.ced.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, input_values: torch.Tensor) -> BaseModelOutput:
        """Log-mel `[B, bands, frames]` -> `last_hidden_state` `[B, 1, C]`."""
        pieces = input_values.split(self.longest, dim=-1)
        if len(pieces) > 1 and pieces[-1].shape[-1] < 16:  # less than one patch
            pieces = pieces[:-1]
        means = torch.stack([self.ced.encoder(piece).logits.mean(1) for piece in pieces])
        shares = means.new_tensor([piece.shape[-1] for piece in pieces])
        return BaseModelOutput(last_hidden_state=torch.einsum("n,nbc->bc", shares / shares.sum(), means)[:, None])


def load_xeus(revision: str):
    """
    XEUS and a feature extractor that leaves the waveform as it is.

    Raises:
        ImportError: ESPnet is missing, or a release of it without XEUS.
    """
    try:
        from espnet2.tasks.ssl import SSLTask
    except ImportError as error:
        raise ImportError(
            "XEUS needs `espnet` from source: pip install 'espnet @ git+https://github.com/espnet/espnet'"
        ) from error
    checkpoint = hf_hub_download(XEUS, XEUS_CHECKPOINT, revision=revision)
    model, _ = SSLTask.build_model_from_file(None, checkpoint, "cpu")
    return GraphFusionXeus(model), Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False)


def load_ced(source: str, revision: str, trust_remote_code: bool):
    """
    A CED and its feature extractor, which are code of the Hub.

    Raises:
        ValueError: `trust_remote_code` is false.
    """
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    model = AutoModelForAudioClassification.from_pretrained(source, dtype=torch.float32, **where)
    return GraphFusionCed(model), AutoFeatureExtractor.from_pretrained(source, **where)
