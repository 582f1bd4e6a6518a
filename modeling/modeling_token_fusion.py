"""Speech emotion recognition from discrete tokens: fusion of several streams with openSMILE features (arXiv 2601.17085)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_token_fusion import TokenFusionConfig
from .pooling_token_fusion import TokenFusionAttentiveStatisticsPooling
from .quantization_affectcodec import nearest_codes
from .waveform_token_fusion import TokenFusionWaveformEncoder


@dataclass
class TokenFusionOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`): Cross-entropy, weighted by `config.class_weights`; with `labels` only.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): Scores before softmax.
        layer_attention (`torch.FloatTensor` of shape `(batch, frames, num_streams)`):
            Weight of each stream at each frame; sums to one over the streams, and is 0 at padding.
        attention_mask (`torch.BoolTensor` of shape `(batch, frames)`): True at valid frames.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    layer_attention: torch.FloatTensor | None = None
    attention_mask: torch.BoolTensor | None = None


class TokenFusionScaler(nn.Module):
    """Features to z-scores by a mean and a standard deviation that are part of the weights."""

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features.float() - self.mean.float()) / self.std.float()


class TokenFusionCentroids(nn.Module):
    """k-means of each stream: the token of a vector is its nearest centroid, by Euclidean distance."""

    def __init__(self, num_streams: int, vocab_size: int, hidden_size: int):
        super().__init__()
        self.register_buffer("centroids", torch.zeros(num_streams, vocab_size, hidden_size))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., L, D] -> [..., L] long"""
        streams = features.flatten(0, -3)
        ids = [nearest_codes(streams[:, j], centroids.float()) for j, centroids in enumerate(self.centroids)]
        return torch.stack(ids, dim=-1).unflatten(0, features.shape[:-2])


class TokenFusionLayerFusion(nn.Module):
    """
    Streams to one: a weighted sum, the weights by DASB's AttentionMLP, Linear - ReLU - Linear (no bias) - softmax over the
    streams, at each frame or (`"utterance"`) of the mean over the clip's frames; or fixed (`"mean"`, `"single"`).
    """

    def __init__(self, config: TokenFusionConfig):
        super().__init__()
        self.kind = config.layer_fusion
        self.single_stream = config.single_stream
        self.attention = None
        if self.kind in ("frame", "utterance"):
            width = config.hidden_size if config.fusion_hidden_size is None else config.fusion_hidden_size
            self.attention = nn.Sequential(
                nn.Linear(config.hidden_size, width), nn.ReLU(), nn.Linear(width, 1, bias=False)
            )

    def forward(self, streams: torch.Tensor, mask: torch.Tensor, stream_mask: torch.Tensor):
        """Streams [B, T, L, D], masks [B, T] of frames and [B, L] of streams -> [B, T, D], weights [B, T, L]."""
        if self.kind == "single":
            weights = streams.new_zeros(streams.shape[:3])
            weights[..., self.single_stream] = 1
        else:
            if self.kind == "frame":
                scores = self.attention(streams)[..., 0]
            elif self.kind == "utterance":
                shares = mask.to(streams.dtype) / mask.sum(1, keepdim=True)
                scores = self.attention(torch.einsum("bt,btld->bld", shares, streams))[:, None, :, 0]
            else:
                scores = streams.new_zeros(streams.shape[0], 1, streams.shape[2])
            weights = scores.masked_fill(~stream_mask[:, None], float("-inf")).softmax(-1)
        weights = weights * mask[..., None]
        return torch.einsum("btl,btld->btd", weights, streams), weights


class TokenFusionOpensmile(nn.Module):
    """z-scored openSMILE features to vectors: one a clip, or (`"early"`) one a frame of the streams."""

    def __init__(self, config: TokenFusionConfig):
        super().__init__()
        self.per_frame = config.opensmile_fusion == "early"
        self.of_frames = config.opensmile_level == "lld"
        self.scaler = TokenFusionScaler(config.opensmile_size)
        # descriptors become a vector a clip by their mean and standard deviation over time
        statistics = 2 if self.of_frames and not self.per_frame else 1
        self.proj = nn.Linear(statistics * config.opensmile_size, config.opensmile_hidden_size)

    def forward(self, features: torch.Tensor, features_mask: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor:
        """Functionals [B, S] or descriptors [B, T', S] with mask [B, T'] -> [B, P], or with "early" [B, T, P]."""
        features = self.scaler(features).to(self.proj.weight.dtype)
        if self.of_frames and self.per_frame:
            features = _stretch(features, features_mask.sum(1), mask.sum(1), mask.shape[1])
        elif self.of_frames:
            shares = (features_mask.to(features.dtype) / features_mask.sum(1, keepdim=True))[..., None]
            mean = (shares * features).sum(1)
            variance = (shares * (features - mean[:, None]).square()).sum(1)
            features = torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=-1)
        elif self.per_frame:
            features = features[:, None].expand(-1, mask.shape[1], -1)
        return self.proj(features).relu()


def _stretch(features, lengths, new_lengths, num_frames: int) -> torch.Tensor:
    """
    [B, T', S] to [B, num_frames, S]: the `lengths` first frames of each item, read linearly at the middles of
    `new_lengths` frames that span the same time.
    """
    middles = torch.arange(num_frames, device=features.device) + 0.5
    at = (middles * (lengths / new_lengths)[:, None] - 0.5).clamp(min=0)
    at = torch.minimum(at, (lengths - 1)[:, None].to(at.dtype))
    left = at.long()
    right = torch.minimum(left + 1, (lengths - 1)[:, None])
    rows = torch.arange(len(features), device=features.device)[:, None]
    return torch.lerp(features[rows, left], features[rows, right], (at - left)[..., None].to(features.dtype))


class TokenFusionHead(nn.Module):
    """The head of the MSP-Podcast challenge's baseline: dropout, Linear, layer norm, ReLU, dropout, Linear."""

    def __init__(self, input_size: int, config: TokenFusionConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.dense = nn.Linear(input_size, config.classifier_hidden_size)
        self.norm = nn.LayerNorm(config.classifier_hidden_size)
        self.out_proj = nn.Linear(config.classifier_hidden_size, config.num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.out_proj(self.dropout(self.norm(self.dense(self.dropout(pooled))).relu()))


class TokenFusionPreTrainedModel(PreTrainedModel):
    config: TokenFusionConfig
    base_model_prefix = "token_fusion"
    main_input_name = "input_values"
    input_modalities = "audio"
    # Tokens must not depend on the precision that the rest runs in, and openSMILE's units are no match for half precision.
    _keep_in_fp32_modules_strict = ["scaler", "centroids"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.BatchNorm1d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, TokenFusionScaler):
            init.zeros_(module.mean)
            init.ones_(module.std)
        elif isinstance(module, TokenFusionCentroids):
            init.zeros_(module.centroids)


class TokenFusionForAudioClassification(TokenFusionPreTrainedModel):
    """
    Streams of tokens (or, with `quantized=False`, the features behind them) -> vectors -> fusion over the streams ->
    attentive statistics pooling -> head, with openSMILE features added at one of three points.

    A waveform works too: the encoder or codec named by the configuration is loaded at the first one, and is never part of
    this model's weights.
    """

    def __init__(self, config: TokenFusionConfig):
        super().__init__(config)
        of_encoder = config.tokenizer_kind != "codec"
        self.scaler = TokenFusionScaler(config.num_streams, config.hidden_size) if of_encoder else None
        self.centroids = self.embeddings = None
        if config.quantized:
            if of_encoder:
                self.centroids = TokenFusionCentroids(config.num_streams, config.vocab_size, config.hidden_size)
            self.embeddings = nn.Embedding(config.num_streams * config.vocab_size, config.hidden_size)
        self.fusion = TokenFusionLayerFusion(config)
        width = config.hidden_size if config.pooling_hidden_size is None else config.pooling_hidden_size
        self.pooling = TokenFusionAttentiveStatisticsPooling(config.hidden_size, width)
        pooled_size, extra = 2 * config.hidden_size, config.opensmile_hidden_size
        self.pooled_norm = nn.BatchNorm1d(pooled_size) if config.pooled_norm else None
        kind = config.opensmile_fusion
        self.opensmile = TokenFusionOpensmile(config) if kind != "none" else None
        self.opensmile_proj = None
        if kind in ("early", "gate"):
            self.opensmile_proj = nn.Linear(extra, config.hidden_size if kind == "early" else pooled_size)
        self.gate = nn.Linear(pooled_size + extra, pooled_size) if kind == "gate" else None
        self.head = TokenFusionHead(pooled_size + extra if kind == "late" else pooled_size, config)
        self._waveform_encoder = None
        self.post_init()

    @torch.no_grad()
    def set_centroids(
        self, centroids: torch.Tensor, mean: torch.Tensor | None = None, std: torch.Tensor | None = None
    ):
        """
        Takes k-means centroids as the tokens' definition, and as the start of their embeddings.

        Args:
            centroids (`torch.Tensor` of shape `(num_streams, vocab_size, hidden_size)`): Of z-scored features.
            mean, std (`torch.Tensor` of shape `(num_streams, hidden_size)`, *optional*):
                What the encoder's features are z-scored with first; without them the features are taken as they are.

        Raises:
            ValueError: The model has no centroids, or a shape is another.
        """
        if self.centroids is None:
            raise ValueError("`centroids`: this model has none (it needs `quantized`, and a codec has its own)")
        expected = self.centroids.centroids.shape
        if centroids.shape != expected:
            raise ValueError(f"`centroids` must have shape {list(expected)}, got {list(centroids.shape)}")
        self.centroids.centroids.copy_(centroids)
        self.embeddings.weight.copy_(centroids.flatten(0, 1))
        if mean is not None or std is not None:
            self.set_statistics(mean, std)

    @torch.no_grad()
    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor):
        """Mean and standard deviation [num_streams, hidden_size] that the encoder's features are z-scored with."""
        _set_scaler(self.scaler, mean, std)

    @torch.no_grad()
    def set_opensmile_statistics(self, mean: torch.Tensor, std: torch.Tensor):
        """Mean and standard deviation [opensmile_size] that openSMILE's features are z-scored with."""
        _set_scaler(None if self.opensmile is None else self.opensmile.scaler, mean, std)

    def set_waveform_encoder(self, model, feature_extractor):
        """Takes an encoder or codec that is already loaded, instead of loading `config.tokenizer_model`."""
        self._waveform_encoder = TokenFusionWaveformEncoder(model, feature_extractor, self.config)

    def tokenize(self, input_values: torch.Tensor, padding_mask: torch.Tensor | None = None):
        """
        Args:
            input_values (`torch.Tensor` of shape `(batch, 1, samples)`): Waveforms at `config.sampling_rate`.
            padding_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 at samples, 0 at padding on the right.

        Returns:
            `tuple`: `input_ids` `(batch, frames, streams)`, or with `quantized=False` `input_features`
            `(batch, frames, streams, width)`, and `attention_mask` `(batch, frames)`.

        Raises:
            ValueError: A shape is wrong, or the configuration names no encoder or codec.
        """
        if input_values.dim() != 3 or input_values.shape[1] != 1:
            raise ValueError(f"`input_values` must have shape (batch, 1, samples), got {list(input_values.shape)}")
        samples_mask = _check_mask(padding_mask, "padding_mask", (input_values.shape[0], input_values.shape[-1]))
        if self._waveform_encoder is None:
            self._waveform_encoder = TokenFusionWaveformEncoder.from_config(self.config)
        self._waveform_encoder.model.to(input_values.device)
        items = []
        for waveform, mask in zip(input_values[:, 0], samples_mask, strict=True):
            item = self._waveform_encoder(waveform[mask]).to(input_values.device)
            items.append(self.features_to_tokens(item) if self.centroids is not None else item)
        lengths = torch.tensor([len(item) for item in items])
        attention_mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return nn.utils.rnn.pad_sequence(items, batch_first=True), attention_mask.to(input_values.device)

    @torch.no_grad()
    def features_to_tokens(self, features: torch.Tensor) -> torch.Tensor:
        """The encoder's features [..., L, D] -> tokens [..., L], the nearest centroids of their z-scores."""
        return self.centroids(self.scaler(features))

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        stream_mask: torch.Tensor | None = None,
        opensmile_features: torch.Tensor | None = None,
        opensmile_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> TokenFusionOutput:
        r"""
        One of `input_values`, `input_ids` and `input_features` is given.

        Args:
            input_values (`torch.Tensor` of shape `(batch, 1, samples)`, *optional*):
                Waveforms at `config.sampling_rate`, in [-1, 1].
            padding_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): Of `input_values`; 0 at padding on the right.
            input_ids (`torch.LongTensor` of shape `(batch, frames, num_streams)`, *optional*):
                Tokens, each stream's counted from 0.
            input_features (`torch.FloatTensor` of shape `(batch, frames, num_streams, hidden_size)`, *optional*):
                The encoder's features, with `quantized=False`.
            attention_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*):
                Of `input_ids` or `input_features`; 0 at padding on the right.
            stream_mask (`torch.Tensor` of shape `(batch, num_streams)`, *optional*):
                0 at streams that an item lacks; they get no weight.
            opensmile_features (`torch.FloatTensor` of shape `(batch, opensmile_size)`, *optional*):
                Functionals, or descriptors `(batch, openSMILE frames, opensmile_size)`, as `config.opensmile_level` says;
                needed unless `opensmile_fusion="none"`.
            opensmile_attention_mask (`torch.Tensor` of shape `(batch, openSMILE frames)`, *optional*):
                Of descriptors; 0 at padding on the right.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Classes, 0..num_labels - 1.

        Returns:
            [`TokenFusionOutput`]

        Raises:
            ValueError: naming the argument that is missing or malformed.
        """
        if sum(x is not None for x in (input_values, input_ids, input_features)) != 1:
            raise ValueError("one of `input_values`, `input_ids` and `input_features` must be given")
        if input_values is not None:
            tokens, attention_mask = self.tokenize(input_values, padding_mask)
            input_ids, input_features = (tokens, None) if self.config.quantized else (None, tokens)
        streams = self._vectors(input_ids, input_features)
        mask = _check_mask(attention_mask, "attention_mask", streams.shape[:2], streams.device)
        stream_mask = self._check_stream_mask(stream_mask, streams)
        fused, weights = self.fusion(streams, mask, stream_mask)

        kind = self.config.opensmile_fusion
        extra = self._opensmile_vectors(opensmile_features, opensmile_attention_mask, mask)
        if kind == "early":
            fused = fused + self.opensmile_proj(extra)
        pooled = self.pooling(fused, mask)
        if self.pooled_norm is not None:
            pooled = self.pooled_norm(pooled)
        if kind == "late":
            pooled = torch.cat([pooled, extra], dim=-1)
        elif kind == "gate":
            share = self.gate(torch.cat([pooled, extra], dim=-1)).sigmoid()
            pooled = torch.lerp(self.opensmile_proj(extra), pooled, share)
        logits = self.head(pooled)

        loss = None
        if labels is not None:
            class_weights = self.config.class_weights
            weight = None if class_weights is None else logits.new_tensor(class_weights)
            loss = F.cross_entropy(logits, labels, weight=weight)
        return TokenFusionOutput(loss=loss, logits=logits, layer_attention=weights, attention_mask=mask)

    def _vectors(self, input_ids, input_features) -> torch.Tensor:
        """Tokens [B, T, L] or features [B, T, L, D] -> vectors [B, T, L, D]"""
        config = self.config
        if not config.quantized:
            expected = (config.num_streams, config.hidden_size)
            if input_features is None or input_features.dim() != 4 or input_features.shape[2:] != expected:
                found = None if input_features is None else list(input_features.shape)
                raise ValueError(
                    f"`input_features` must have shape (batch, frames, {expected[0]}, {expected[1]}), got {found}"
                )
            return self.scaler(input_features).to(self.dtype)
        if input_ids is None or input_ids.dim() != 3 or input_ids.shape[2] != config.num_streams:
            found = None if input_ids is None else list(input_ids.shape)
            raise ValueError(f"`input_ids` must have shape (batch, frames, {config.num_streams}), got {found}")
        low, high = int(input_ids.min()), int(input_ids.max())
        if low < 0 or high >= config.vocab_size:
            raise ValueError(f"`input_ids` must lie in 0..{config.vocab_size - 1}, got {low}..{high}")
        offsets = torch.arange(config.num_streams, device=input_ids.device) * config.vocab_size
        vectors = self.embeddings(input_ids + offsets)
        # not by `requires_grad`, which `from_pretrained` sets anew
        return vectors if config.train_embeddings else vectors.detach()

    def _check_stream_mask(self, stream_mask, streams) -> torch.Tensor:
        expected = (streams.shape[0], streams.shape[2])
        if stream_mask is None:
            return torch.ones(expected, dtype=torch.bool, device=streams.device)
        if stream_mask.shape != expected or not stream_mask.bool().any(-1).all():
            raise ValueError(f"`stream_mask` must have shape {expected} and a valid stream in each row")
        stream_mask = stream_mask.bool()
        single = self.config.single_stream
        if single is not None and not stream_mask[:, single].all():
            raise ValueError(f"`stream_mask` leaves out stream {single}, the only one that this model reads")
        return stream_mask

    def _opensmile_vectors(self, features, features_mask, mask):
        if self.opensmile is None:
            if features is not None:
                raise ValueError("`opensmile_features`: this model takes none (`opensmile_fusion` is 'none')")
            return None
        of_frames = self.config.opensmile_level == "lld"
        if features is None or features.dim() != 2 + of_frames or features.shape[-1] != self.config.opensmile_size:
            found = None if features is None else list(features.shape)
            middle = "openSMILE frames, " if of_frames else ""
            raise ValueError(
                f"`opensmile_features` must have shape (batch, {middle}{self.config.opensmile_size}), got {found}"
            )
        if of_frames:
            features_mask = _check_mask(features_mask, "opensmile_attention_mask", features.shape[:2], features.device)
        return self.opensmile(features, features_mask, mask)


def _set_scaler(scaler, mean, std):
    if scaler is None:
        raise ValueError("`mean` and `std`: this model takes no such features")
    for name, value in (("mean", mean), ("std", std)):
        if value is None or value.shape != scaler.mean.shape:
            found = None if value is None else list(value.shape)
            raise ValueError(f"`{name}` must have shape {list(scaler.mean.shape)}, got {found}")
    if not bool((std > 0).all()):
        raise ValueError(f"`std` must be positive, its least is {std.min().item()}")
    scaler.mean.copy_(mean)
    scaler.std.copy_(std)


def _check_mask(mask, name: str, shape, device=None) -> torch.Tensor:
    if mask is None:
        return torch.ones(tuple(shape), dtype=torch.bool, device=device)
    if mask.shape != tuple(shape):
        raise ValueError(f"`{name}` must have shape {tuple(shape)}, got {tuple(mask.shape)}")
    mask = mask.bool()
    if (mask[:, 1:] & ~mask[:, :-1]).any() or not mask[:, 0].all():
        raise ValueError(f"`{name}` must be ones, at least one, then zeros")
    return mask


__all__ = ["TokenFusionForAudioClassification", "TokenFusionOutput", "TokenFusionPreTrainedModel"]
