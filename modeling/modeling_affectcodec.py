"""AffectCodec: a speech codec that keeps emotion through quantisation (arXiv 2605.11098)."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_affectcodec import AffectCodecConfig
from .guidance_affectcodec import AffectCodecGuidance, AffectCodecSelfGuidance
from .istft_affectcodec import (
    AffectCodecConvNextBlock,
    AffectCodecIstftDecoder,
    AffectCodecIstftEncoder,
    frame_mask_from_lengths,
)
from .long_affectcodec import CHUNK_SECONDS, decode_long, encode_long
from .outputs_affectcodec import AffectCodecDecoderOutput, AffectCodecEncoderOutput
from .quantization_affectcodec import AffectCodecCodebook, AffectCodecResidualVectorQuantizer
from .seanet_affectcodec import AffectCodecSeanetDecoder, AffectCodecSeanetEncoder
from .streaming_affectcodec import AffectCodecStream


@dataclass
class AffectCodecOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`): Commitment loss (mean over quantizers, frames and channels).
        audio_values (`torch.FloatTensor` of shape `(batch, 1, samples)`): Rebuilt waveform, as long as the input.
        audio_codes (`torch.LongTensor` of shape `(batch, num_quantizers, frames)`): Codes.
        audio_codes_mask (`torch.BoolTensor` of shape `(batch, frames)`): True at valid frames.
        latents (`torch.FloatTensor` of shape `(batch, frames, hidden_size)`): Guided latents z_uni, before quantisation.
        distillation_latents (`torch.FloatTensor` of shape `(batch, frames, hidden_size)`):
            Q(1), the first quantizer's output (or the mean of several), straight-through, for the relational loss.
        alignment_latents (`torch.FloatTensor` of shape `(batch, frames, alignment_feature_size)`):
            The distillation latents through the alignment head.
        predicted_features (`dict[str, torch.FloatTensor]`): What self-guidance predicts, per source.
        projected_features (`dict[str, torch.FloatTensor]`):
            The distillation latents through the heads of feature distillation, per source.
    """

    loss: torch.FloatTensor | None = None
    audio_values: torch.FloatTensor | None = None
    audio_codes: torch.LongTensor | None = None
    audio_codes_mask: torch.BoolTensor | None = None
    latents: torch.FloatTensor | None = None
    distillation_latents: torch.FloatTensor | None = None
    alignment_latents: torch.FloatTensor | None = None
    predicted_features: dict[str, torch.FloatTensor] | None = None
    projected_features: dict[str, torch.FloatTensor] | None = None


class AffectCodecPreTrainedModel(PreTrainedAudioTokenizerBase):
    config: AffectCodecConfig
    base_model_prefix = "affectcodec"
    main_input_name = "input_values"
    input_modalities = "audio"
    # Codes must not depend on the precision that the rest runs in.
    _keep_in_fp32_modules_strict = ["quantizer"]
    _no_split_modules = ["AffectCodecConvNextBlock", "AffectCodecResidualUnit"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):
            bound = module.hidden_size**-0.5
            for weight in module.parameters():
                init.uniform_(weight, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, AffectCodecConvNextBlock):
            init.constant_(module.layer_scale, module.layer_scale_init)
        elif isinstance(module, AffectCodecCodebook):
            for buffer in (module.embed, module.cluster_size, module.inited, module.updates):
                init.zeros_(buffer)
        if isinstance(module, AffectCodecGuidance):
            init.zeros_(module.back_proj.weight)

    def _weight_normed_modules(self):
        return {name: m for name, m in self.named_modules() if parametrize.is_parametrized(m, "weight")}

    def apply_weight_norm(self):
        """Reparametrize the convolutions by direction and length, for training; outputs stay the same."""
        for module in list(self.modules()):
            is_convolution = isinstance(module, (nn.Conv1d, nn.ConvTranspose1d))
            if is_convolution and not parametrize.is_parametrized(module, "weight"):
                nn.utils.parametrizations.weight_norm(module, dim=0)

    def remove_weight_norm(self):
        """Fold the reparametrization back into plain weights, for speed; outputs stay the same."""
        for module in self._weight_normed_modules().values():
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers, but always with plain weights: those of weight norm would load as missing, that is random."""
        normed = self._weight_normed_modules()
        if normed:
            if kwargs.get("state_dict") is not None:
                raise ValueError("`state_dict` must be left out, or `remove_weight_norm()` called first")
            state_dict = {name: value for name, value in self.state_dict().items() if ".parametrizations." not in name}
            kwargs["state_dict"] = state_dict | {f"{name}.weight": m.weight.detach() for name, m in normed.items()}
        super().save_pretrained(save_directory, **kwargs)


class AffectCodecModel(AffectCodecPreTrainedModel):
    """
    The codec: `encode` a waveform into codes, `decode` codes into a waveform, `forward` does both and trains.

    A batch does not change a result: an item of a padded batch gets the codes and samples that it gets alone.
    """

    def __init__(self, config: AffectCodecConfig):
        super().__init__(config)
        seanet = config.backbone == "seanet"
        self.encoder = AffectCodecSeanetEncoder(config) if seanet else AffectCodecIstftEncoder(config)
        self.guidance = AffectCodecGuidance(config) if config.guidance_sources else None
        self.self_guidance = AffectCodecSelfGuidance(config) if config.self_guidance else None
        self.quantizer = AffectCodecResidualVectorQuantizer(config)
        self.decoder = AffectCodecSeanetDecoder(config) if seanet else AffectCodecIstftDecoder(config)
        has_head = config.alignment_feature_size is not None
        self.alignment_head = nn.Linear(config.hidden_size, config.alignment_feature_size) if has_head else None
        widths = {"emotion": config.emotion_feature_size, "semantic": config.semantic_feature_size}
        self.feature_distillation_heads = nn.ModuleDict(
            {source: nn.Linear(config.hidden_size, widths[source]) for source in config.feature_distillation_sources}
        )
        self.post_init()

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_length

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.config.frame_rate

    @property
    def bitrate(self) -> float:
        """Bits per second with all quantizers."""
        return self.config.bitrate

    def get_audio_codes_mask(self, padding_mask: torch.Tensor) -> torch.Tensor:
        """Sample mask [B, T] -> frame mask [B, ceil(T / hop)]; a frame is valid if it holds a valid sample."""
        frames = -(-padding_mask.shape[-1] // self.hop_length)
        return frame_mask_from_lengths(self._frame_lengths(padding_mask), frames)

    def _frame_lengths(self, padding_mask):
        return -(-padding_mask.long().sum(-1) // self.hop_length)

    def _check_input_values(self, input_values, padding_mask):
        if not isinstance(input_values, torch.Tensor) or input_values.dim() != 3 or input_values.shape[1] != 1:
            shape = (
                tuple(input_values.shape) if isinstance(input_values, torch.Tensor) else type(input_values).__name__
            )
            raise ValueError(f"`input_values` must be a tensor of shape (batch, 1, samples), got {shape}")
        if not input_values.is_floating_point():
            raise ValueError(f"`input_values` must be floating point in [-1, 1], got {input_values.dtype}")
        if input_values.shape[0] == 0 or input_values.shape[-1] < self.hop_length:
            raise ValueError(
                f"`input_values` must hold at least one clip of at least {self.hop_length} samples (one frame), got "
                f"shape {tuple(input_values.shape)}"
            )
        if not torch.isfinite(input_values).all():
            raise ValueError("`input_values` holds NaN or infinite samples")
        if padding_mask is None:
            return None
        if not isinstance(padding_mask, torch.Tensor):
            raise ValueError(f"`padding_mask` must be a tensor, got {type(padding_mask).__name__}")
        if padding_mask.dim() == 3 and padding_mask.shape[1] == 1:
            padding_mask = padding_mask[:, 0]
        if padding_mask.shape != (input_values.shape[0], input_values.shape[-1]):
            raise ValueError(
                f"`padding_mask` must have shape {(input_values.shape[0], input_values.shape[-1])}, "
                f"got {tuple(padding_mask.shape)}"
            )
        padding_mask = padding_mask.bool()
        if (padding_mask[:, 1:] & ~padding_mask[:, :-1]).any():
            raise ValueError("`padding_mask` must mark padding on the right only (ones, then zeros)")
        if int(padding_mask.sum(-1).min()) < self.hop_length:
            raise ValueError(f"`padding_mask` leaves a clip shorter than one frame ({self.hop_length} samples)")
        return padding_mask

    def _check_num_quantizers(self, num_quantizers):
        if num_quantizers is None:
            return
        if type(num_quantizers) is not int or not 1 <= num_quantizers <= self.config.num_quantizers:
            raise ValueError(
                f"`num_quantizers` must be an integer in 1..{self.config.num_quantizers}, got {num_quantizers!r}"
            )

    def _check_features(self, latents, features):
        for source, values in features.items():
            if source not in self.config.guidance_sources:
                raise ValueError(
                    f"`{source}_features`: this model has no {source} guidance ({self.config.guidance_sources})"
                )
            width = self.config.emotion_feature_size if source == "emotion" else self.config.semantic_feature_size
            expected = (*latents.shape[:2], width)
            if not isinstance(values, torch.Tensor) or tuple(values.shape) != expected:
                shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
                raise ValueError(f"`{source}_features` must be a tensor of shape {expected}, got {shape}")
            if not values.is_floating_point() or not torch.isfinite(values).all():
                raise ValueError(f"`{source}_features` must be floating point, without NaN or infinite values")

    def _acoustic_latents(self, input_values, padding_mask):
        """Waveform -> z [B, F, D], frame mask [B, F], frame lengths [B] (`None` where nothing is padded)."""
        frames = -(-input_values.shape[-1] // self.hop_length)
        if padding_mask is None or bool(padding_mask.all()):
            frame_mask = torch.ones(input_values.shape[0], frames, dtype=torch.bool, device=input_values.device)
            return self.encoder(input_values), frame_mask, None
        input_values = input_values * padding_mask[:, None]
        lengths = self._frame_lengths(padding_mask)
        frame_mask = frame_mask_from_lengths(lengths, frames)
        if self.config.backbone == "seanet" and self.config.pad_mode == "reflect":
            # A reflection starts at each item's own end, so every item is encoded alone.
            latents = input_values.new_zeros(input_values.shape[0], frames, self.config.hidden_size)
            for item, samples in enumerate(padding_mask.sum(-1).tolist()):
                latents[item, : int(lengths[item])] = self.encoder(input_values[item : item + 1, :, :samples])[0]
        else:
            latents = self.encoder(input_values, lengths)
        return latents * frame_mask[..., None], frame_mask, lengths

    def _guide(self, latents, frame_mask, lengths, emotion_features, semantic_features, guidance_source):
        """z -> z_uni, and what self-guidance predicted (or `None`)."""
        given = {"emotion": emotion_features, "semantic": semantic_features}
        given = {source: values for source, values in given.items() if values is not None}
        self._check_features(latents, given)
        predicted = None
        if self.self_guidance is not None:
            predicted = self.self_guidance(latents, None if lengths is None else frame_mask)
        if guidance_source is None:
            guidance_source = "features" if given else ("self" if predicted is not None else "none")
        if guidance_source not in ("features", "self", "none"):
            raise ValueError(f"`guidance_source` must be 'features', 'self' or 'none', got {guidance_source!r}")
        if guidance_source == "self" and predicted is None:
            raise ValueError("`guidance_source='self'` needs a model with `self_guidance=True`")
        if guidance_source == "features" and not given:
            raise ValueError("`guidance_source='features'` needs `emotion_features` or `semantic_features`")
        if guidance_source == "none":
            return latents, predicted
        features = given if guidance_source == "features" else predicted
        return self.guidance(latents, features, None if lengths is None else frame_mask), predicted

    @can_return_tuple
    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        emotion_features: torch.Tensor | None = None,
        semantic_features: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        guidance_source: str | None = None,
    ) -> AffectCodecEncoderOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, 1, samples)`): Waveform at `config.sampling_rate`, in [-1, 1].
            padding_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                1 at samples, 0 at padding on the right. Without it every sample counts.
            emotion_features (`torch.Tensor` of shape `(batch, frames, emotion_feature_size)`, *optional*):
                Emotion teacher's features at codec frames.
            semantic_features (`torch.Tensor` of shape `(batch, frames, semantic_feature_size)`, *optional*):
                Semantic teacher's features at codec frames.
            num_quantizers (`int`, *optional*): How many codebooks to use, 1..`config.num_quantizers`. Default: all.
            guidance_source (`str`, *optional*):
                `"features"` (those passed in), `"self"` (predicted from the audio) or `"none"`. Default: the features if
                any are given, else self-guidance if the model has it, else none.

        Returns:
            [`AffectCodecEncoderOutput`]

        Raises:
            ValueError: naming the argument that is malformed.
        """
        padding_mask = self._check_input_values(input_values, padding_mask)
        self._check_num_quantizers(num_quantizers)
        latents, frame_mask, lengths = self._acoustic_latents(input_values, padding_mask)
        latents, _ = self._guide(latents, frame_mask, lengths, emotion_features, semantic_features, guidance_source)
        codes = self.quantizer.encode(latents, num_quantizers) * frame_mask[:, None]
        return AffectCodecEncoderOutput(audio_codes=codes, audio_codes_mask=frame_mask, latents=latents)

    @can_return_tuple
    def decode(
        self, audio_codes: torch.Tensor, audio_codes_mask: torch.Tensor | None = None
    ) -> AffectCodecDecoderOutput:
        r"""
        Args:
            audio_codes (`torch.LongTensor` of shape `(batch, quantizers, frames)`):
                Codes; fewer quantizers than the model has give a coarser waveform.
            audio_codes_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*): 1 at frames, 0 at padding on the right.

        Returns:
            [`AffectCodecDecoderOutput`]

        Raises:
            ValueError: naming the argument that is malformed.
        """
        self._check_codes(audio_codes)
        batch, _, frames = audio_codes.shape
        lengths = None
        if audio_codes_mask is None:
            audio_codes_mask = torch.ones(batch, frames, dtype=torch.bool, device=audio_codes.device)
        elif not isinstance(audio_codes_mask, torch.Tensor) or audio_codes_mask.shape != (batch, frames):
            is_tensor = isinstance(audio_codes_mask, torch.Tensor)
            found = tuple(audio_codes_mask.shape) if is_tensor else type(audio_codes_mask).__name__
            raise ValueError(f"`audio_codes_mask` must be a tensor of shape {(batch, frames)}, got {found}")
        else:
            audio_codes_mask = audio_codes_mask.bool()
            if (audio_codes_mask[:, 1:] & ~audio_codes_mask[:, :-1]).any() or not audio_codes_mask[:, 0].all():
                raise ValueError("`audio_codes_mask` must be ones, at least one, then zeros")
            if not bool(audio_codes_mask.all()):
                lengths = audio_codes_mask.sum(-1)
        latents = self.quantizer.decode(audio_codes.long()) * audio_codes_mask[..., None]
        audio_values = self._waveform(latents, lengths)
        padding_mask = audio_codes_mask.repeat_interleave(self.hop_length, dim=1)
        return AffectCodecDecoderOutput(audio_values=audio_values, padding_mask=padding_mask)

    def streaming(
        self, batch_size: int = 1, num_quantizers: int | None = None, guidance_source: str | None = None
    ) -> AffectCodecStream:
        """
        `batch_size` streams that this model encodes and decodes chunk by chunk; it must be causal and in evaluation mode.
        See [`AffectCodecStream`].
        """
        return AffectCodecStream(self, batch_size, num_quantizers, guidance_source)

    def encode_long(
        self,
        input_values: torch.Tensor,
        num_quantizers: int | None = None,
        guidance_source: str | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
        context_seconds: float | None = None,
    ) -> AffectCodecEncoderOutput:
        r"""
        [`~AffectCodecModel.encode`] in memory that does not grow with the recording, apart from the codes themselves.

        A causal model goes through as a stream. Others see windows of `chunk_seconds` with `context_seconds` on either side.
        The codes are those of `encode` where a code depends on no more than the context, which is then the default: the
        `istft` backbone without guidance. LSTMs and attention over the whole recording see 2 s on either side instead, and
        some codes may differ. Counted on speech (`benchmarks/long_audio.py`, the paper's network with random weights, windows
        of 5 s): without context 33 codes changed a border, 3 of them in the first codebook, and decoding the same codes in
        windows was an LSD of .017 and a PESQ of 4.40 away from decoding the whole; with 0.2 s it was 0.2 codes a border and
        nothing in either metric; with 0.5 s no code. Trained LSTMs may remember longer than random ones.

        Args:
            input_values (`torch.Tensor` of shape `(batch, 1, samples)`): Waveforms of one length.
            num_quantizers (`int`, *optional*): How many codebooks to use. Default: all.
            guidance_source (`str`, *optional*): `"self"` or `"none"`. Default: self-guidance if the model has it.
            chunk_seconds (`float`, *optional*, defaults to 20): Seconds at a time.
            context_seconds (`float`, *optional*): Default: all that a code depends on if that is limited, else 2.

        Returns:
            [`AffectCodecEncoderOutput`] without `latents`.

        Raises:
            ValueError: naming the argument that is malformed.
        """
        return encode_long(self, input_values, num_quantizers, guidance_source, chunk_seconds, context_seconds)

    def decode_long(
        self, audio_codes: torch.Tensor, chunk_seconds: float = CHUNK_SECONDS, context_seconds: float | None = None
    ) -> AffectCodecDecoderOutput:
        r"""
        [`~AffectCodecModel.decode`] in memory that does not grow with the recording, apart from the samples themselves; see
        [`~AffectCodecModel.encode_long`].

        Args:
            audio_codes (`torch.LongTensor` of shape `(batch, quantizers, frames)`): Codes of recordings of one length.
            chunk_seconds (`float`, *optional*, defaults to 20): Seconds at a time.
            context_seconds (`float`, *optional*): Default: all that a sample depends on if that is limited, else 2.

        Returns:
            [`AffectCodecDecoderOutput`]

        Raises:
            ValueError: naming the argument that is malformed.
        """
        return decode_long(self, audio_codes, chunk_seconds, context_seconds)

    def _waveform(self, latents, lengths):
        latents = latents.to(self.dtype)
        if lengths is None or self.config.backbone != "seanet" or self.config.pad_mode != "reflect":
            return self.decoder(latents, lengths)
        audio_values = latents.new_zeros(latents.shape[0], 1, latents.shape[1] * self.hop_length)
        for item, frames in enumerate(lengths.tolist()):
            audio_values[item, :, : frames * self.hop_length] = self.decoder(latents[item : item + 1, :frames])[0]
        return audio_values

    def _check_codes(self, audio_codes):
        if not isinstance(audio_codes, torch.Tensor) or audio_codes.dim() != 3:
            shape = tuple(audio_codes.shape) if isinstance(audio_codes, torch.Tensor) else type(audio_codes).__name__
            raise ValueError(f"`audio_codes` must be a tensor of shape (batch, quantizers, frames), got {shape}")
        if audio_codes.dtype not in (torch.int64, torch.int32, torch.int16):
            raise ValueError(f"`audio_codes` must be int16, int32 or int64, got {audio_codes.dtype}")
        batch, quantizers, frames = audio_codes.shape
        if batch == 0 or frames == 0 or not 1 <= quantizers <= self.config.num_quantizers:
            raise ValueError(
                f"`audio_codes` must hold at least one clip, one frame and 1..{self.config.num_quantizers} quantizers, "
                f"got shape {tuple(audio_codes.shape)}"
            )
        low, high = int(audio_codes.min()), int(audio_codes.max())
        if low < 0 or high >= self.config.codebook_size:
            raise ValueError(f"`audio_codes` must lie in 0..{self.config.codebook_size - 1}, got {low}..{high}")

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        emotion_features: torch.Tensor | None = None,
        semantic_features: torch.Tensor | None = None,
        guidance_source: str | None = None,
    ) -> AffectCodecOutput:
        r"""
        Encode, quantize, decode. In training mode the codebooks follow the batch, and gradients pass the quantizer
        straight through. Arguments as in [`~AffectCodecModel.encode`].

        Returns:
            [`AffectCodecOutput`]

        Example:

        ```python
        >>> import torch
        >>> from hf_affectcodec import AffectCodecConfig, AffectCodecModel

        >>> model = AffectCodecModel(AffectCodecConfig(num_filters=4, hidden_size=64)).eval()
        >>> model(torch.randn(1, 1, 16000)).audio_values.shape
        torch.Size([1, 1, 16000])
        ```"""
        padding_mask = self._check_input_values(input_values, padding_mask)
        latents, frame_mask, lengths = self._acoustic_latents(input_values, padding_mask)
        latents, predicted = self._guide(
            latents, frame_mask, lengths, emotion_features, semantic_features, guidance_source
        )
        quantized, codes, loss, distilled = self.quantizer(
            latents, frame_mask, self.config.distillation_num_quantizers
        )
        audio_values = self._waveform(quantized * frame_mask[..., None], lengths)[..., : input_values.shape[-1]]
        projected = {
            source: head(distilled.to(self.dtype)) for source, head in self.feature_distillation_heads.items()
        }
        return AffectCodecOutput(
            loss=loss,
            audio_values=audio_values,
            audio_codes=codes * frame_mask[:, None],
            audio_codes_mask=frame_mask,
            latents=latents,
            distillation_latents=distilled,
            alignment_latents=None if self.alignment_head is None else self.alignment_head(distilled.to(self.dtype)),
            predicted_features=predicted,
            projected_features=projected or None,
        )


__all__ = [
    "AffectCodecModel",
    "AffectCodecOutput",
    "AffectCodecPreTrainedModel",
]
