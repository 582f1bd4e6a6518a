"""From a waveform to the streams that token fusion reads: hidden states of an encoder, or codes of a codec."""

import inspect
import math

import torch
import torchaudio
from transformers import AutoFeatureExtractor, AutoModel

from .source_token_fusion import resolve_source


_SHORTEST = 0.025  # s, the receptive field of wav2vec 2.0's convolutions: shorter input raises


def load_guest(source: str, revision: str, config, argument: str, model_class=AutoModel):
    """The model at [`resolve_source`] of `source`, in float32, and its feature extractor."""
    where = resolve_source(source, revision, config, argument)
    model = model_class.from_pretrained(**where, dtype=torch.float32)
    return model, AutoFeatureExtractor.from_pretrained(**where)


def prepare_waveform(model, feature_extractor, waveform: torch.Tensor, sampling_rate: int):
    """A waveform `[T]` as input of a frozen model: resampled, and padded with silence where it is under 25 ms."""
    waveform = waveform.detach().float().cpu()
    shortest = math.ceil(_SHORTEST * sampling_rate)
    waveform = torch.nn.functional.pad(waveform, (0, max(0, shortest - len(waveform))))
    rate = feature_extractor.sampling_rate
    samples = torchaudio.functional.resample(waveform, sampling_rate, rate).numpy()
    return feature_extractor(samples, sampling_rate=rate, return_tensors="pt").to(model.device)


def num_frames(num_samples: int, sampling_rate: int, frame_rate: float) -> int:
    """Frames that a clip has: what a model returns past them is padding (Whisper's, to 30 s)."""
    return max(1, math.ceil(num_samples * frame_rate / sampling_rate))


class TokenFusionLogMel(torch.nn.Module):
    """Waveform `[T]` -> natural log of the mel power spectrum, `[ceil(T / hop), bands]`, 50 frames a second, 64 ms windows."""

    def __init__(self, sampling_rate: int, num_bands: int):
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            sampling_rate,
            n_fft=round(0.064 * sampling_rate),
            hop_length=sampling_rate // 50,
            n_mels=num_bands,
            pad_mode="constant",  # mirrored samples would need more than half a window of them
        )

    @property
    def device(self) -> torch.device:
        return self.mel.mel_scale.fb.device

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.mel(waveform).clamp(min=1e-6).log().T[: -(-len(waveform) // self.mel.hop_length)]


class TokenFusionWaveformEncoder:
    """
    A frozen encoder or codec of the Hub with its feature extractor. Clips are run one by one and unpadded, so that a
    clip's streams do not depend on its neighbours. It is no module: the weights are another model's, and are neither
    trained nor saved with the classifier.

    Args:
        model (`PreTrainedModel`): Codec with `encode`, or encoder with `hidden_states`; of an encoder-decoder model
            (Whisper) the encoder. Put into evaluation mode.
        feature_extractor: Its feature extractor; its `sampling_rate` is taken for the model's. `None` for log-mel bands.
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
        """Loads `config.tokenizer_model` and its feature extractor, in float32; log-mel bands need neither."""
        if config.tokenizer_kind == "log_mel":
            return cls(TokenFusionLogMel(config.sampling_rate, config.hidden_size), None, config)
        if config.tokenizer_model is None:
            raise ValueError(
                "`tokenizer_model` of the configuration must name the encoder or codec that waveforms need"
            )
        model, extractor = load_guest(config.tokenizer_model, config.tokenizer_revision, config, "tokenizer_model")
        return cls(model, extractor, config)

    @torch.no_grad()
    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """
        Args:
            waveform (`torch.Tensor` `[T]`): At `config.sampling_rate`, in [-1, 1].

        Returns:
            `torch.Tensor`: Codes `[F, L]` long (a codec), or hidden states or bands `[F, L, C]` float32.

        Raises:
            ValueError: The model has fewer codebooks or layers than there are streams.
        """
        if self.config.tokenizer_kind == "log_mel":
            return self.model(waveform.detach().float().to(self.model.device))[:, None]
        inputs = prepare_waveform(self.model, self.feature_extractor, waveform, self.config.sampling_rate)
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
        frames = num_frames(num_samples, self.config.sampling_rate, self.config.tokenizer_frame_rate)
        return torch.stack([hidden_states[layer][0, :frames] for layer in layers], dim=1)
