"""EmoDistill's student: emotion from speech alone, taught by a reader of words and a reader of prosody (arXiv 2309.04849)."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .attention_graph_fusion import masked_mean, masked_statistics
from .configuration_emodistill import EmoDistillConfig
from .layers_emodistill import check_mask, weighted_cross_entropy
from .modeling_affectcodec import AffectCodecModel
from .scaling_ser import SERFeatureScaler


@dataclass
class EmoDistillOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Cross-entropy, weighted by `config.class_weights`, without the terms of distillation; with `labels` only.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): Scores before softmax.
        linguistic_embeddings (`torch.FloatTensor` of shape `(batch, linguistic_size)`): The linguistic projection.
        prosodic_embeddings (`torch.FloatTensor` of shape `(batch, prosodic_size)`): The prosodic projection.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    linguistic_embeddings: torch.FloatTensor | None = None
    prosodic_embeddings: torch.FloatTensor | None = None


class EmoDistillProjections(nn.Module):
    """
    Two feed-forward layers, Linear - GELU - Linear, to the widths of the teachers' embeddings. They end in a matrix and not
    in the GELU, which has no values below -0.17 and so could not take the direction of a BERT's embedding.
    """

    def __init__(self, config: EmoDistillConfig):
        super().__init__()
        size, hidden = config.pooled_size, config.projection_hidden_size
        self.linguistic_hidden = nn.Linear(size, hidden)
        self.prosodic_hidden = None if config.shared_projection else nn.Linear(size, hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.linguistic_out = nn.Linear(hidden, config.linguistic_size)
        self.prosodic_out = nn.Linear(hidden, config.prosodic_size)

    def forward(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, C] -> linguistic [B, linguistic_size] and prosodic [B, prosodic_size]"""
        linguistic = self.dropout(nn.functional.gelu(self.linguistic_hidden(pooled)))
        prosodic = linguistic
        if self.prosodic_hidden is not None:
            prosodic = self.dropout(nn.functional.gelu(self.prosodic_hidden(pooled)))
        return self.linguistic_out(linguistic), self.prosodic_out(prosodic)


class EmoDistillHead(nn.Module):
    """Linear, GELU, dropout, Linear."""

    def __init__(self, config: EmoDistillConfig):
        super().__init__()
        self.dense = nn.Linear(config.linguistic_size + config.prosodic_size, config.classifier_hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.out_proj = nn.Linear(config.classifier_hidden_size, config.num_labels)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.out_proj(self.dropout(nn.functional.gelu(self.dense(self.dropout(embeddings)))))


class EmoDistillPreTrainedModel(PreTrainedModel):
    config: EmoDistillConfig
    base_model_prefix = "emodistill"
    main_input_name = "input_values"
    input_modalities = "audio"
    _keep_in_fp32_modules_strict = ["scaler"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, SERFeatureScaler):
            init.zeros_(module.mean)
            init.ones_(module.std)


class EmoDistillForAudioClassification(EmoDistillPreTrainedModel):
    """
    Speech encoder -> mean over the frames (and standard deviation, by `config.pooling`) -> a linguistic and a prosodic
    projection, side by side -> head. Neither text nor prosodic features go in; the teachers are no part of it.

    In evaluation mode a batch does not change a result: an item of a padded batch gets the logits that it gets alone.
    """

    def __init__(self, config: EmoDistillConfig):
        super().__init__(config)
        kind = config.encoder_config.model_type
        if kind == "affectcodec":
            self.encoder = AffectCodecModel._from_config(config.encoder_config)
            self.encoder.decoder = None
        elif kind == "whisper":
            self.encoder = WhisperEncoder._from_config(config.encoder_config)
        else:
            self.encoder = AutoModel.from_config(config.encoder_config)
        self.scaler = SERFeatureScaler(config.pooled_size)
        self.projections = EmoDistillProjections(config)
        self.head = EmoDistillHead(config)
        self.post_init()

    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor):
        """Mean and standard deviation `[config.pooled_size]` that what `pool` gives is z-scored with."""
        self.scaler.set_statistics(mean, std)

    def pool(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Frames `(batch, frames, hidden_size)` and their mask -> `(batch, config.pooled_size)`, float32."""
        return (masked_statistics if self.config.pooling == "mean_std" else masked_mean)(frames.float(), mask)

    def freeze_feature_encoder(self):
        """Takes the convolutions under HuBERT, WavLM and wav2vec 2.0 out of training."""
        if self.config.encoder_config.model_type in ("affectcodec", "whisper"):
            raise ValueError(f"`encoder`: {self.config.encoder_config.model_type} has no feature encoder of its own")
        self.encoder.feature_extractor._freeze_parameters()

    def encode(
        self,
        input_values: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The speech encoder's frames; arguments as of `forward`.

        Returns:
            `tuple`: frames `(batch, frames, hidden_size)` and their mask `(batch, frames)`, true at those of the clip.

        Raises:
            ValueError: An argument is missing or malformed.
        """
        kind = self.config.encoder_config.model_type
        needed = "input_features" if kind == "whisper" else "input_values"
        given = {"input_values": input_values, "input_features": input_features}
        if [name for name, value in given.items() if value is not None] != [needed]:
            raise ValueError(f"`{needed}` must be given, and it alone: the encoder is a {kind}")
        if kind == "affectcodec":
            outputs = self.encoder.encode(input_values, padding_mask)
            return outputs.latents, outputs.audio_codes_mask
        if kind == "whisper":
            if attention_mask is None:
                raise ValueError("`attention_mask` is needed: Whisper's input is padded to 30 s")
            frames = self.encoder(input_features).last_hidden_state
            # a frame stands for two columns of the spectrogram, and is of the clip if its first is
            return frames, check_mask(attention_mask[:, ::2], "attention_mask", frames)
        return self._encode_waveform(input_values, attention_mask)

    def _encode_waveform(self, input_values, attention_mask):
        """HuBERT, WavLM, wav2vec 2.0"""
        if input_values.dim() != 2:
            raise ValueError(f"`input_values` must have shape (batch, samples), got {list(input_values.shape)}")
        samples_mask = check_mask(attention_mask, "attention_mask", input_values)
        lengths = samples_mask.sum(1)
        frame_lengths = self.encoder._get_feat_extract_output_lengths(lengths).to(torch.long)
        if int(frame_lengths.min()) < 1:
            raise ValueError(f"`input_values`: a clip of {int(lengths.min())} samples is shorter than one frame")
        mask = torch.arange(int(frame_lengths.max()), device=lengths.device) < frame_lengths[:, None]
        if bool(samples_mask.all()):
            return self.encoder(input_values).last_hidden_state, mask
        # The base models normalise over time in their first layer, and padding would change every frame. Training accepts
        # that for speed.
        if self.config.encoder_config.feat_extract_norm == "group" and not self.training:
            items = zip(input_values, lengths.tolist(), strict=True)
            frames = [self.encoder(item[None, :length]).last_hidden_state[0] for item, length in items]
            return nn.utils.rnn.pad_sequence(frames, batch_first=True), mask
        frames = self.encoder(input_values * samples_mask, attention_mask=samples_mask.long()).last_hidden_state
        return frames[:, : mask.shape[1]], mask

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> EmoDistillOutput:
        r"""
        What the encoder's own feature extractor gives ([`EmoDistillFeatureExtractor`] for Whisper), or frames that were
        encoded beforehand.

        Args:
            input_values (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                Waveforms as HuBERT, WavLM or wav2vec 2.0 want them; for the codec `(batch, 1, samples)`.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                0 at padding on the right; for Whisper `(batch, columns of the spectrogram)`, and needed.
            input_features (`torch.Tensor` of shape `(batch, mel bins, columns)`, *optional*): Log-mel spectrogram, for Whisper.
            padding_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): As `attention_mask`, for the codec.
            encoder_hidden_states (`torch.Tensor` of shape `(batch, frames, hidden_size)`, *optional*):
                Frames of [`~EmoDistillForAudioClassification.encode`], instead of all of the above.
            encoder_attention_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*): Their mask.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Classes, 0..num_labels - 1.

        Returns:
            [`EmoDistillOutput`]

        Raises:
            ValueError: naming the argument that is missing or malformed.

        Example:

        ```python
        >>> import torch
        >>> from transformers import HubertConfig
        >>> from hf_affectcodec.modeling.configuration_emodistill import EmoDistillConfig
        >>> from hf_affectcodec.modeling.modeling_emodistill import EmoDistillForAudioClassification

        >>> encoder = HubertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        >>> model = EmoDistillForAudioClassification(EmoDistillConfig(encoder_config=encoder, num_labels=4)).eval()
        >>> model(torch.randn(2, 16000)).logits.shape
        torch.Size([2, 4])
        ```"""
        if encoder_hidden_states is None:
            frames, mask = self.encode(input_values, input_features, attention_mask, padding_mask)
        else:
            size = self.config.encoder_config.hidden_size
            if encoder_hidden_states.dim() != 3 or encoder_hidden_states.shape[-1] != size:
                raise ValueError(
                    f"`encoder_hidden_states` must have shape (batch, frames, {size}), "
                    f"got {list(encoder_hidden_states.shape)}"
                )
            frames = encoder_hidden_states
            mask = check_mask(encoder_attention_mask, "encoder_attention_mask", frames)
        pooled = self.scaler(self.pool(frames, mask)).to(self.head.dense.weight.dtype)
        linguistic, prosodic = self.projections(pooled)
        logits = self.head(torch.cat([linguistic, prosodic], dim=-1))
        return EmoDistillOutput(
            loss=None if labels is None else weighted_cross_entropy(logits, labels, self.config),
            logits=logits,
            linguistic_embeddings=linguistic,
            prosodic_embeddings=prosodic,
        )


__all__ = ["EmoDistillForAudioClassification", "EmoDistillOutput", "EmoDistillPreTrainedModel"]
