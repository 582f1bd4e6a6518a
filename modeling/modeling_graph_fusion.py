"""GraphFusion: speech emotion recognition from several modalities joined by graph attention (arXiv 2506.02088)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .attention_graph_fusion import (
    GraphFusionGraphAttention,
    GraphFusionGraphAttentionV2,
    GraphFusionMultiHeadAttention,
    masked_mean,
    masked_statistics,
    pool_frames,
)
from .blocks_graph_fusion import FUSION_CLASSES
from .configuration_graph_fusion import GraphFusionConfig
from .encoders_graph_fusion import GraphFusionEncoders, pad_modalities
from .scaling_ser import SERFeatureScaler


@dataclass
class GraphFusionOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`): Classification loss, with `labels`.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): Scores before the softmax.
        modality_vectors (`dict[str, torch.FloatTensor]`):
            What each modality hands to the head, `(batch, width)`, in the order of `config.modalities`.
        attentions (`dict[str, torch.FloatTensor]`):
            Weights by name, with `output_attentions`. `"<modality>_graph"` and `"<modality>_self"`
            `(batch, heads, time, time)`, `"<modality>_to_<other>"` `(batch, time, time of the other)`,
            `"<modality>_to_others"` `(batch, heads, time, times of the others)`, `"<modality>_pooling"`
            `(batch, time, width)`, `"modalities"` `(batch, heads, modalities, modalities)`: those that the fusion has.
        contributions (`dict[str, torch.FloatTensor]`):
            What each given modality adds to the logits, `(batch, num_labels)`, with `output_contributions`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    modality_vectors: dict[str, torch.FloatTensor] | None = None
    attentions: dict[str, torch.FloatTensor] | None = None
    contributions: dict[str, torch.FloatTensor] | None = None


def focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    alpha: float = 0.5,
    gamma: float = 2.0,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    `mean_i(-alpha w_y (1 - p_y)^gamma log p_y)` (arXiv 1708.02002), `p_y` the softmax probability of item i's class. The mean
    is over the items, also with weights, so that an item's loss does not depend on its batch.

    Args:
        logits (`torch.Tensor` of shape `(batch, classes)`): Scores before the softmax.
        labels (`torch.LongTensor` of shape `(batch,)`): Classes.
        alpha (`float`, *optional*, defaults to 0.5): Constant factor.
        gamma (`float`, *optional*, defaults to 2.0): Exponent; 0 gives `alpha` times the cross-entropy.
        class_weights (`torch.Tensor` of shape `(classes,)`, *optional*): w.
    """
    log_probability = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    losses = -alpha * (1 - log_probability.exp()) ** gamma * log_probability
    return (losses if class_weights is None else losses * class_weights[labels]).mean()


class GraphFusionProjection(nn.Module):
    """Linear, ReLU, dropout; tokens are embedded first."""

    def __init__(self, config, name: str):
        super().__init__()
        self.embedding = None
        size = config.hidden_size
        if name in config.token_sizes:
            self.embedding = nn.Embedding(config.token_sizes[name], size, padding_idx=config.token_sizes[name] - 1)
        else:
            size = config.feature_sizes[name]
        self.linear = nn.Linear(size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def embed(self, values: torch.Tensor) -> torch.Tensor:
        """Tokens [B, T] -> [B, T, D]; vectors stay as they are."""
        return values if self.embedding is None else self.embedding(values)

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        return self.dropout(F.relu(self.linear(embedded)))


class GraphFusionStatistics(nn.Module):
    """Mean and standard deviation over time of a sequence of vectors, z-scored, dropout, Linear."""

    def __init__(self, feature_size: int, size: int, config):
        super().__init__()
        self.scaler = SERFeatureScaler(2 * feature_size)
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(2 * feature_size, size)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`values` [B, T, C], `mask` [B, T] -> [B, D]."""
        scaled = self.scaler(masked_statistics(values, mask)).to(self.linear.weight.dtype)
        return self.linear(self.dropout(scaled))


class GraphFusionAbsence(nn.Module):
    """Puts a learned vector (zero at first) in the place of a modality that an item does not have."""

    def __init__(self, size: int):
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(size))

    def forward(self, values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """`values` [B, D], `present` [B] -> [B, D]."""
        return torch.where(present[:, None], values, self.vector)


class GraphFusionSwigluHead(nn.Module):
    """`W_2 dropout(swish(W x) * V x)` (arXiv 2002.05202), with biases."""

    def __init__(self, size: int, config):
        super().__init__()
        self.gate_proj = nn.Linear(size, config.head_hidden_size)
        self.up_proj = nn.Linear(size, config.head_hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.down_proj = nn.Linear(config.head_hidden_size, config.num_labels)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.dropout(F.silu(self.gate_proj(vectors)) * self.up_proj(vectors)))


class GraphFusionPreTrainedModel(PreTrainedModel):
    config: GraphFusionConfig
    base_model_prefix = "graph_fusion"
    main_input_name = "input_values"
    input_modalities = ("audio", "text")
    _no_split_modules = ["GraphFusionEncoderLayer"]
    _keep_in_fp32_modules_strict = ["scaler"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            # PyTorch's own default, which the public code keeps.
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                init.uniform_(module.bias, -(module.in_features**-0.5), module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
            init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.GRU):
            for weight in module.parameters():
                init.uniform_(weight, -(module.hidden_size**-0.5), module.hidden_size**-0.5)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, SERFeatureScaler):
            init.zeros_(module.mean)
            init.ones_(module.std)
        elif isinstance(module, GraphFusionAbsence):
            init.zeros_(module.vector)
        elif isinstance(module, GraphFusionMultiHeadAttention):
            # As `nn.MultiheadAttention`: Xavier over the three projections as one matrix.
            bound = math.sqrt(6 / (4 * module.q_proj.in_features))
            for proj in (module.q_proj, module.k_proj, module.v_proj):
                init.uniform_(proj.weight, -bound, bound)
                init.zeros_(proj.bias)
            init.zeros_(module.out_proj.bias)
        elif isinstance(module, GraphFusionGraphAttention):
            for weight in (module.proj.weight, module.receiver, module.sender):
                init.xavier_uniform_(weight)
        elif isinstance(module, GraphFusionGraphAttentionV2):
            for weight in (module.receiver_proj.weight, module.sender_proj.weight, module.attention):
                init.xavier_uniform_(weight)


class GraphFusionForAudioClassification(GraphFusionPreTrainedModel):
    """
    Emotion from any subset of the configured modalities: their features, extracted beforehand, or a waveform (with or without
    its transcript), from which the encoders that the configuration names make them. These are loaded at the first waveform
    and are never part of this model's weights.

    A modality is absent where it is not given, or where its mask has no True in an item; nothing attends to it and a learned
    vector enters the head in its place. With masks, a batch does not change a result: an item of a padded batch gets the
    logits that it gets alone. Without masks padding counts as content, as in the public code of arXiv 2506.02088.
    """

    def __init__(self, config: GraphFusionConfig):
        super().__init__(config)
        self.projections = nn.ModuleDict({name: GraphFusionProjection(config, name) for name in config.modalities})
        self.fusion = FUSION_CLASSES[config.fusion](config)
        fused_size = config.hidden_size * (2 if config.fusion == "hcam" else 1)
        sizes = {n: fused_size if n in config.fused_modalities else config.hidden_size for n in config.modalities}
        pooled = [n for n in config.fused_modalities if config.pooled_statistics and n in config.feature_sizes]
        self.statistics = nn.ModuleDict(
            {name: GraphFusionStatistics(config.feature_sizes[name], fused_size, config) for name in pooled}
        )
        self.absences = nn.ModuleDict({name: GraphFusionAbsence(size) for name, size in sizes.items()})
        size = sum(sizes.values())
        self.head = (
            GraphFusionSwigluHead(size, config) if config.head == "swiglu" else nn.Linear(size, config.num_labels)
        )
        self._encoders = None
        self.post_init()

    def set_encoders(self, encoders: GraphFusionEncoders):
        """Takes encoders that are already loaded, instead of loading those that the configuration names."""
        self._encoders = encoders

    def encode(
        self,
        input_values: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        text_input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """
        What the configuration's encoders make of waveforms and transcripts, item by item.

        Args:
            input_values (`torch.Tensor` of shape `(batch, 1, samples)`, *optional*): Waveforms at `config.sampling_rate`.
            padding_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 at samples, 0 at padding on the right.
            text_input_ids (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                Transcripts, as the text encoder's tokenizer has them; without them the recogniser transcribes.
            text_attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*):
                Of `text_input_ids`. All 0: the item has no text.

        Returns:
            `tuple`: `input_features` and `attention_mask` of [`~GraphFusionForAudioClassification.forward`].

        Raises:
            ValueError: A shape is wrong, or text is given and the configuration names no text encoder.
        """
        if input_values is not None and (input_values.dim() != 3 or input_values.shape[1] != 1):
            raise ValueError(f"`input_values` must have shape (batch, 1, samples), got {list(input_values.shape)}")
        if self._encoders is None:
            self._encoders = GraphFusionEncoders.from_config(self.config, self.device)
        self._encoders.to(self.device)
        waveforms = _rows(input_values if input_values is None else input_values[:, 0], padding_mask, "padding_mask")
        tokens = _rows(text_input_ids, text_attention_mask, "text_attention_mask")
        if len(waveforms or tokens) != len(tokens or waveforms):
            raise ValueError(f"`text_input_ids` has {len(tokens)} items, `input_values` {len(waveforms)}")
        items = [
            self._encoders(waveform, ids)
            for waveform, ids in zip(waveforms or [None] * len(tokens), tokens or [None] * len(waveforms), strict=True)
        ]
        features, masks = pad_modalities(items, self.config)
        features = {name: values.to(self.device, self.dtype) for name, values in features.items()}
        return features, {name: mask.to(self.device) for name, mask in masks.items()}

    def _check_values(self, name, values):
        if not isinstance(values, torch.Tensor):
            raise ValueError(f"`input_features[{name!r}]` must be a tensor, got {type(values).__name__}")
        if name in self.config.token_sizes:
            size = self.config.token_sizes[name]
            if values.dim() != 2 or values.dtype != torch.long:
                shape = tuple(values.shape)
                raise ValueError(
                    f"`input_features[{name!r}]` must be long of shape (batch, time), got {values.dtype} {shape}"
                )
        else:
            size = self.config.feature_sizes[name]
            if values.dim() != 3 or values.shape[-1] != size or not values.is_floating_point():
                shape = tuple(values.shape)
                raise ValueError(
                    f"`input_features[{name!r}]` must be floating point of shape (batch, time, {size}), "
                    f"got {values.dtype} {shape}"
                )
        if 0 in values.shape:
            raise ValueError(f"`input_features[{name!r}]` is empty; leave an absent modality out")

    def _check_mask(self, name, values, masks):
        mask = masks.get(name)
        if mask is None:
            return torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        if not isinstance(mask, torch.Tensor) or mask.shape != values.shape[:2]:
            shape = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise ValueError(
                f"`attention_mask[{name!r}]` must be a tensor of shape {tuple(values.shape[:2])}, got {shape}"
            )
        mask = mask.bool()
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ValueError(f"`attention_mask[{name!r}]` must mark padding on the right only (ones, then zeros)")
        return mask

    def _check_inputs(self, input_features, attention_mask):
        """Values and masks by modality, in the order of the configuration; what is masked is overwritten."""
        masks = {} if attention_mask is None else attention_mask
        for argument, given in (("input_features", input_features), ("attention_mask", masks)):
            if not isinstance(given, Mapping):
                raise ValueError(f"`{argument}` must be a dict by modality, got {type(given).__name__}")
        for argument, given, known in (
            ("input_features", input_features, self.config.modalities),
            ("attention_mask", masks, list(input_features)),
        ):
            unknown = sorted(set(given) - set(known))
            if unknown:
                raise ValueError(f"`{argument}` has {unknown}; known are {known}")
        values, checked = {}, {}
        for name in self.config.modalities:
            if name not in input_features:
                continue
            self._check_values(name, input_features[name])
            values[name] = input_features[name]
            checked[name] = mask = self._check_mask(name, values[name], masks)
            if name in self.config.token_sizes:
                padding = self.config.token_sizes[name] - 1
                values[name] = values[name].masked_fill(~mask, padding)
                if values[name].min() < 0 or values[name].max() > padding:
                    raise ValueError(f"`input_features[{name!r}]` must hold tokens in 0..{padding}")
            else:
                values[name] = values[name].masked_fill(~mask[..., None], 0.0)
                if not torch.isfinite(values[name]).all():
                    raise ValueError(f"`input_features[{name!r}]` holds NaN or infinite values")
        if not values:
            raise ValueError(f"`input_features` must have one of {self.config.modalities}")
        sizes = {name: len(given) for name, given in values.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"`input_features` must have one batch size, got {sizes}")
        if not torch.stack([mask.any(-1) for mask in checked.values()]).any(0).all():
            raise ValueError("`attention_mask` leaves an item without any modality")
        return values, checked

    def _drop_modalities(self, masks):
        """Each item loses each modality with `modality_dropout`; of those it has, the one that drew highest stays."""
        present = torch.stack([mask.any(-1) for mask in masks.values()], 1)
        drawn = torch.rand(present.shape, device=present.device)
        highest = drawn == drawn.masked_fill(~present, -1.0).amax(1, keepdim=True)
        keep = (drawn >= self.config.modality_dropout) | highest
        return {name: mask & keep[:, index, None] for index, (name, mask) in enumerate(masks.items())}

    def _fuse(self, values, masks, output_attentions=False):
        """Logits [B, num_labels], vectors and attention weights by name."""
        batch = len(next(iter(values.values())))
        states, step_masks, vectors = {}, {}, {}
        for name, given in values.items():
            mask, embedded = masks[name], self.projections[name].embed(given)
            if name not in self.config.fused_modalities:
                vectors[name] = masked_mean(self.projections[name](embedded), mask)
                continue
            if name in self.config.frame_pooling:
                embedded, mask = pool_frames(embedded, mask, self.config.frame_pooling[name])
            if self.config.fusion == "concat":
                embedded, mask = masked_mean(embedded, mask)[:, None], mask.any(-1, keepdim=True)
            states[name], step_masks[name] = self.projections[name](embedded), mask
        attentions = {}
        if states:
            states = {name: states[name] for name in self.config.fused_modalities if name in states}
            fused, attentions = self.fusion(states, step_masks, output_attentions)
            vectors |= fused
        for name, statistics in self.statistics.items():
            if name in vectors:
                vectors[name] = vectors[name] + statistics(values[name], masks[name])
        for name, absence in self.absences.items():
            if name in vectors:
                vectors[name] = absence(vectors[name], masks[name].any(-1))
            else:
                vectors[name] = absence.vector.expand(batch, -1)
        vectors = {name: vectors[name] for name in self.config.modalities}
        return self.head(torch.cat(list(vectors.values()), -1)), vectors, attentions

    def _contributions(self, values, masks):
        """Shapley values of the modalities, by a pass for each of their subsets."""
        names = list(values)
        logits = {}
        for count in range(len(names) + 1):
            for kept in combinations(names, count):
                subset = {name: mask if name in kept else torch.zeros_like(mask) for name, mask in masks.items()}
                logits[kept] = self._fuse(values, subset)[0]
        contributions = {}
        for name in names:
            rest = [other for other in names if other != name]
            contributions[name] = sum(
                (logits[tuple(n for n in names if n in kept or n == name)] - logits[kept])
                / (len(names) * math.comb(len(rest), count))
                for count in range(len(rest) + 1)
                for kept in combinations(rest, count)
            )
        return contributions

    def _loss(self, logits, labels):
        if labels.shape != logits.shape[:1] or labels.dtype != torch.long:
            raise ValueError(
                f"`labels` must be long of shape {tuple(logits.shape[:1])}, got {labels.dtype} {tuple(labels.shape)}"
            )
        config = self.config
        if labels.min() < 0 or labels.max() >= config.num_labels:
            raise ValueError(f"`labels` must lie in 0..{config.num_labels - 1}")
        weights = None if config.class_weights is None else logits.new_tensor(config.class_weights)
        if config.classification_loss == "focal":
            return focal_loss(logits, labels, config.focal_alpha, config.focal_gamma, weights)
        return F.cross_entropy(logits, labels, weights)

    @can_return_tuple
    def forward(
        self,
        input_features: dict[str, torch.Tensor] | None = None,
        attention_mask: dict[str, torch.Tensor] | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool = False,
        output_contributions: bool = False,
        input_values: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        text_input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> GraphFusionOutput:
        r"""
        Args:
            input_features (`dict[str, torch.Tensor]`, *optional*):
                By modality: `(batch, time, width)` of the widths in `config.feature_sizes`, or tokens `(batch, time)`, long,
                below the sizes in `config.token_sizes`. Each modality has its own time.
            attention_mask (`dict[str, torch.Tensor]`, *optional*):
                By modality `(batch, time)`: 1 at valid steps, 0 at padding, on the right. All 0: the item does not have the
                modality. Where a modality has no mask, all its steps are valid.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Classes.
            output_attentions (`bool`, *optional*, defaults to `False`): Whether to return attention weights.
            output_contributions (`bool`, *optional*, defaults to `False`):
                Whether to return what each given modality adds to the logits: its Shapley value, a modality that is left
                out being absent. They sum to `logits` minus the logits without any modality; an absent one's are 0. One pass
                for each subset of the modalities; evaluation mode only.
            input_values, padding_mask, text_input_ids, text_attention_mask (`torch.Tensor`, *optional*):
                Waveforms and transcripts, see [`~GraphFusionForAudioClassification.encode`]; [`GraphFusionProcessor`] makes
                them. What `input_features` has is taken from there.
            return_dict (`bool`, *optional*): Whether to return a [`GraphFusionOutput`] or a plain tuple.

        Returns:
            [`GraphFusionOutput`]

        Raises:
            ValueError: An argument does not fit the configuration, or an item has no modality at all.

        Example:

        ```python
        >>> import torch
        >>> from hf_affectcodec.modeling.configuration_graph_fusion import GraphFusionConfig
        >>> from hf_affectcodec.modeling.modeling_graph_fusion import GraphFusionForAudioClassification

        >>> config = GraphFusionConfig(feature_sizes={"audio": 8, "text": 6}, hidden_size=16, num_labels=3)
        >>> model = GraphFusionForAudioClassification(config).eval()
        >>> audio, f0 = torch.randn(2, 40, 8), torch.randint(256, (2, 40))
        >>> outputs = model({"audio": audio, "f0": f0}, output_contributions=True)
        >>> outputs.logits.shape, list(outputs.contributions)
        (torch.Size([2, 3]), ['audio', 'f0'])
        ```"""
        if output_contributions and self.training:
            raise ValueError("`output_contributions` needs evaluation mode: call `model.eval()`")
        if input_values is not None or text_input_ids is not None:
            made, made_masks = self.encode(input_values, padding_mask, text_input_ids, text_attention_mask)
            given = {name: values.to(self.device) for name, values in (input_features or {}).items()}
            given_masks = {name: mask.to(self.device) for name, mask in (attention_mask or {}).items()}
            masks = {name: mask for name, mask in made_masks.items() if name not in given}
            input_features, attention_mask = {**made, **given}, {**masks, **given_masks}
        values, masks = self._check_inputs(input_features, attention_mask)
        if self.training and self.config.modality_dropout:
            masks = self._drop_modalities(masks)
        logits, vectors, attentions = self._fuse(values, masks, output_attentions)
        return GraphFusionOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            modality_vectors=vectors,
            attentions=attentions if output_attentions else None,
            contributions=self._contributions(values, masks) if output_contributions else None,
        )


def _rows(values, mask, name: str) -> list[torch.Tensor] | None:
    """The valid part of each row of `[B, T]`."""
    if values is None:
        return None
    if mask is None:
        return list(values)
    if mask.shape != values.shape or (mask[:, 1:].bool() & ~mask[:, :-1].bool()).any():
        raise ValueError(f"`{name}` must have shape {tuple(values.shape)} and be ones, then zeros")
    return [row[: int(valid.sum())] for row, valid in zip(values, mask, strict=True)]


__all__ = ["GraphFusionForAudioClassification", "GraphFusionOutput", "GraphFusionPreTrainedModel"]
