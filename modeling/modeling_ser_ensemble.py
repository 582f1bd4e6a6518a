"""SEREnsemble: emotion recognisers that vote (arXiv 2506.02088), one repository that lists its members."""

import copy
import json
import os
import shutil
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForAudioClassification, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_ser_ensemble import SEREnsembleConfig
from .source_token_fusion import resolve_source
from .voting_ser_ensemble import majority_vote, soft_vote
from .waveform_token_fusion import load_guest


@dataclass
class SEREnsembleOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`): Cross-entropy of the vote; with `labels` only.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): Log of the vote: its softmax is the vote itself.
        member_logits (`torch.FloatTensor` of shape `(batch, members, num_labels)`):
            The members' scores over their temperatures, classes in the order of this model's labels.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    member_logits: torch.FloatTensor | None = None


class SEREnsembleMember:
    """A classifier with its feature extractor. It is no module: its weights are not the ensemble's."""

    def __init__(self, model, feature_extractor, labels: list[str]):
        theirs = model.config.label2id
        if sorted(theirs) != sorted(labels):
            raise ValueError(f"`members`: one has the classes {sorted(theirs)}, the ensemble {sorted(labels)}")
        if feature_extractor.sampling_rate < 1:
            raise ValueError("`members`: a feature extractor has no sampling rate")
        self.model = model.eval().requires_grad_(False)
        self.feature_extractor = feature_extractor
        self.order = [theirs[label] for label in labels]
        self.extraction = json.dumps(feature_extractor.to_dict(), sort_keys=True, default=str)


class SEREnsemblePreTrainedModel(PreTrainedModel):
    config: SEREnsembleConfig
    base_model_prefix = "ser_ensemble"
    main_input_name = "input_values"
    input_modalities = "audio"

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, SEREnsembleForAudioClassification):
            init.ones_(module.temperatures)


class SEREnsembleForAudioClassification(SEREnsemblePreTrainedModel):
    """
    Classifiers that each hear the waveform and vote. Members are loaded at the first waveform; the ensemble's own weights are
    their temperatures alone (`temperatures` `[members]`, 1 unless calibrated by [`fit_temperature`]).

    ```python
    ensemble = SEREnsembleForAudioClassification.from_members(["org/first", "runs/second"], vote="soft")
    ensemble.save_pretrained("ensemble")  # local members are copied to ensemble/member-1, Hub ids are listed
    ```
    """

    def __init__(self, config: SEREnsembleConfig):
        super().__init__(config)
        self.temperatures = nn.Parameter(torch.ones(len(config.members)), requires_grad=False)
        self._members = None
        self.post_init()

    @classmethod
    def from_members(
        cls,
        members: list[str],
        vote: str = "majority",
        temperatures: list[float] | None = None,
        revisions: dict[str, str] | None = None,
    ) -> "SEREnsembleForAudioClassification":
        """
        Args:
            members (`list[str]`): Hub ids or folders of audio classifiers with the same classes, in any order of them.
            vote (`str`, *optional*, defaults to `"majority"`): See [`SEREnsembleConfig`].
            temperatures (`list[float]`, *optional*): One a member, which its logits are divided by.
            revisions (`dict[str, str]`, *optional*): Of those that are not at `"main"`.

        Raises:
            ValueError: There are no members, or their classes or sampling rates differ.
        """
        if not members:
            raise ValueError("`members` must name one classifier or more")
        revisions = revisions or {}
        first = AutoConfig.from_pretrained(members[0], revision=revisions.get(members[0], "main"))
        ensemble = cls(
            SEREnsembleConfig(
                members=list(members),
                member_revisions=revisions,
                vote=vote,
                id2label=first.id2label,
                label2id=first.label2id,
            )
        )
        if temperatures is not None:
            ensemble.set_temperatures(temperatures)
        ensemble.load_members()
        return ensemble

    @torch.no_grad()
    def set_temperatures(self, temperatures):
        """Takes one positive number a member."""
        values = torch.as_tensor(temperatures, dtype=torch.float32)
        if values.shape != self.temperatures.shape or not bool((values > 0).all()):
            raise ValueError(f"`temperatures` must be {len(self.temperatures)} positive numbers, got {temperatures}")
        self.temperatures.copy_(values)

    def load_members(self) -> list[SEREnsembleMember]:
        """Loads the members, once, in float32."""
        if self._members is None:
            labels = [self.config.id2label[index] for index in range(self.config.num_labels)]
            self._members = [
                SEREnsembleMember(*self._load(source, index), labels)
                for index, source in enumerate(self.config.members)
            ]
            rates = {member.feature_extractor.sampling_rate for member in self._members}
            if rates != {self.config.sampling_rate}:
                raise ValueError(f"`members` must hear {self.config.sampling_rate} Hz, they hear {sorted(rates)}")
        for member in self._members:
            member.model.to(self.device)
        return self._members

    def _load(self, source, index):
        return load_guest(
            source, self._revision(source), self.config, f"members[{index}]", AutoModelForAudioClassification
        )

    def _revision(self, source) -> str:
        return self.config.member_revisions.get(source, "main")

    @torch.no_grad()
    def member_logits(self, waveform: torch.Tensor) -> torch.Tensor:
        """A waveform `[T]` at `config.sampling_rate` -> logits `[members, num_labels]`, temperatures applied."""
        samples = waveform.float().cpu().numpy()
        extracted, encoded, logits = {}, {}, []
        for member in self.load_members():
            if member.extraction not in extracted:
                inputs = member.feature_extractor(
                    samples, sampling_rate=self.config.sampling_rate, return_tensors="pt"
                )
                extracted[member.extraction] = inputs.to(self.device)
            inputs = dict(extracted[member.extraction])
            if member.model.config.model_type == "graph_fusion":
                # the published members share their encoders, which cost a hundred times what they themselves do
                inputs = _encode_once(member, inputs, encoded)
            logits.append(member.model(**inputs).logits[0, member.order].float())
        return torch.stack(logits) / self.temperatures[:, None]

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SEREnsembleOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch, 1, samples)`): Waveforms at `config.sampling_rate`.
            padding_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 at samples, 0 at padding on the right.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Classes, 0..num_labels - 1.

        Returns:
            [`SEREnsembleOutput`]

        Raises:
            ValueError: `input_values` has another shape, or the members do not fit together.
        """
        if input_values.dim() != 3 or input_values.shape[1] != 1:
            raise ValueError(f"`input_values` must have shape (batch, 1, samples), got {list(input_values.shape)}")
        waveforms = list(input_values[:, 0])
        if padding_mask is not None:
            waveforms = [row[mask.bool()] for row, mask in zip(waveforms, padding_mask, strict=True)]
        member_logits = torch.stack([self.member_logits(waveform) for waveform in waveforms])
        logits = (majority_vote if self.config.vote == "majority" else soft_vote)(member_logits)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SEREnsembleOutput(loss=loss, logits=logits, member_logits=member_logits)

    def save_pretrained(self, save_directory, **kwargs):
        """
        As of any model; members that are folders are copied to `member-0`, `member-1`, ... of it.

        Raises:
            ValueError: A member that is a folder needs files outside of it.
        """
        config = self.config
        self.config = copy.deepcopy(config)
        try:
            self.config.members = [self._copy(index, save_directory) for index in range(len(config.members))]
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.config = config

    def _copy(self, index, save_directory) -> str:
        source = self.config.members[index]
        where = resolve_source(source, self._revision(source), self.config, f"members[{index}]")
        where = where["pretrained_model_name_or_path"]
        if not os.path.isdir(where):
            return source
        with open(os.path.join(where, "config.json"), encoding="utf-8") as file:
            outside = [value for value in _strings(json.load(file)) if value.startswith("../")]
        if outside:
            raise ValueError(
                f"`members[{index}]` needs {outside[0]!r}, outside of its folder; put it inside as './...'"
            )
        target = os.path.join(save_directory, f"member-{index}")
        if os.path.abspath(where) != os.path.abspath(target):
            shutil.copytree(where, target, dirs_exist_ok=True)
        return f"./member-{index}"


def _encode_once(member, inputs: dict, encoded: dict) -> dict:
    """The inputs of a graph fusion with the work of its encoders done, by an earlier member where it has the same."""
    config = member.model.config
    names = ("speech_encoders", "text_encoder", "recognizer", "encoder_revisions", "encoder_window_seconds")
    # relative sources are those of this member's own folder
    key = json.dumps([getattr(config, name) for name in names], sort_keys=True)
    key = (key, member.extraction, config.name_or_path if '"./' in key or '"../' in key else "")
    if key not in encoded:
        encoded[key] = member.model.encode(inputs["input_values"], inputs["padding_mask"])
    features, masks = encoded[key]
    return {
        "input_features": {**features, **inputs.get("input_features", {})},
        "attention_mask": {**masks, **inputs.get("attention_mask", {})},
    }


def _strings(value):
    """All strings in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


__all__ = ["SEREnsembleForAudioClassification", "SEREnsembleOutput", "SEREnsemblePreTrainedModel"]
