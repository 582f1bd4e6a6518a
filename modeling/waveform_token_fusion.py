"""From a waveform to the streams that token fusion reads: hidden states of an encoder, or codes of a codec."""

import inspect
import math
import os

import torch
import torchaudio.functional
from transformers import AutoFeatureExtractor, AutoModel


_SHORTEST = 0.025  # s, the receptive field of wav2vec 2.0's convolutions: shorter input raises


class TokenFusionWaveformEncoder:
    """
    A frozen encoder or codec of the Hub with its feature extractor. Clips are run one by one and unpadded, so that a
    clip's streams do not depend on its neighbours. It is no module: the weights are another model's, and are neither
    trained nor saved with the classifier.

    Args:
        model (`PreTrainedModel`): Codec with `encode`, or encoder with `hidden_states`; of an encoder-decoder model
            (Whisper) the encoder. Put into evaluation mode.
        feature_extractor: Its feature extractor; its `sampling_rate` is taken for the model's.
        config ([`TokenFusionConfig`]): Says which streams.

    Raises:
        ValueError: The configuration names no layers of an encoder.
    """

    def __init__(self, model, feature_extractor, config):
        if config.tokenizer_kind == "encoder" and config.tokenizer_layers is None:
            raise ValueError("`tokenizer_layers` must say which hidden states of the encoder are the streams")
        if config.tokenizer_kind == "encoder" and model.config.is_encoder_decoder:
            model = model.get_encoder()
        self.model = model.eval().requires_grad_(False)
        self.feature_extractor = feature_extractor
        self.config = config

    @classmethod
    def from_config(cls, config) -> "TokenFusionWaveformEncoder":
        """Loads `config.tokenizer_model` and its feature extractor, in float32."""
        source = config.tokenizer_model
        if source is None:
            raise ValueError(
                "`tokenizer_model` of the configuration must name the encoder or codec that waveforms need"
            )
        if source.startswith(("./", "../")):
            source = os.path.normpath(os.path.join(config.name_or_path, source))
        model = AutoModel.from_pretrained(source, revision=config.tokenizer_revision, dtype=torch.float32)
        extractor = AutoFeatureExtractor.from_pretrained(source, revision=config.tokenizer_revision)
        return cls(model, extractor, config)

    @torch.no_grad()
    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """
        Args:
            waveform (`torch.Tensor` `[T]`): At `config.sampling_rate`, in [-1, 1].

        Returns:
            `torch.Tensor`: Codes `[F, L]` long (a codec), or hidden states `[F, L, C]` float32 (an encoder).

        Raises:
            ValueError: The model has fewer codebooks or layers than there are streams.
        """
        waveform = waveform.detach().float().cpu()
        shortest = math.ceil(_SHORTEST * self.config.sampling_rate)
        waveform = torch.nn.functional.pad(waveform, (0, max(0, shortest - len(waveform))))
        rate = self.feature_extractor.sampling_rate
        samples = torchaudio.functional.resample(waveform, self.config.sampling_rate, rate).numpy()
        inputs = self.feature_extractor(samples, sampling_rate=rate, return_tensors="pt").to(self.model.device)
        if self.config.tokenizer_kind == "codec":
            return self._codes(inputs)
        return self._hidden_states(inputs, len(waveform))

    def _codes(self, inputs) -> torch.Tensor:
        accepted = inspect.signature(self.model.encode).parameters
        inputs = {name: value for name, value in inputs.items() if name in accepted}
        if self.config.tokenizer_bandwidth is not None:
            inputs["bandwidth"] = self.config.tokenizer_bandwidth
        codes = self.model.encode(**inputs).audio_codes
        if codes.ndim == 4 and codes.shape[0] == 1:  # EnCodec: [chunks, B, Q, F], one chunk
            codes = codes[0]
        streams = self.config.num_streams
        if codes.ndim != 3 or codes.shape[0] != 1 or codes.shape[1] < streams:
            raise ValueError(f"`tokenizer_model`: codes {list(codes.shape)} are not [1, Q >= {streams}, F]")
        return codes[0, :streams].T.long()

    def _hidden_states(self, inputs, num_samples: int) -> torch.Tensor:
        hidden_states = self.model(**inputs, output_hidden_states=True).hidden_states
        layers = self.config.tokenizer_layers
        if not all(0 <= layer < len(hidden_states) for layer in layers):
            raise ValueError(f"`tokenizer_layers` must lie in 0..{len(hidden_states) - 1}, got {list(layers)}")
        frames = max(1, math.ceil(num_samples * self.config.tokenizer_frame_rate / self.config.sampling_rate))
        return torch.stack([hidden_states[layer][0, :frames] for layer in layers], dim=1)
