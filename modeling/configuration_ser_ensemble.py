"""Configuration of an ensemble of emotion recognisers."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


VOTES = ("majority", "soft")


@strict
class SEREnsembleConfig(PreTrainedConfig):
    r"""
    Configuration of a [`SEREnsembleForAudioClassification`]: audio classifiers that vote, as the system of arXiv 2506.02088 does
    (four or more graph fusions by majority, + 1.1 points of macro-F1).

    Args:
        members (`tuple[str]`, *optional*, defaults to `()`):
            Hub ids or folders of the classifiers, each with its feature extractor. A folder that starts with `./` or `../` is
            relative to this model's own.
        member_revisions (`dict[str, str]`, *optional*): Branch, tag or commit of those that are not at `"main"`.
        vote (`str`, *optional*, defaults to `"majority"`):
            `"majority"`: each member has one vote, and among classes with equally many votes the one wins that the earliest
            member voted for, as in the public code. `"soft"`: the mean of the members' probabilities.
        sampling_rate (`int`, *optional*, defaults to 16000): Sampling rate of `input_values` in Hz.
    """

    model_type = "ser_ensemble"

    members: list[str] | tuple[str, ...] = ()
    member_revisions: dict[str, str] | None = None
    vote: str = "majority"
    sampling_rate: int = 16000

    def __post_init__(self, **kwargs):
        if self.member_revisions is None:
            self.member_revisions = {}
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of the validation that `@strict` runs."""
        if self.vote not in VOTES:
            raise ValueError(f"`vote` must be one of {VOTES}, got {self.vote!r}")
        unknown = sorted(set(self.member_revisions) - set(self.members))
        if unknown:
            raise ValueError(f"`member_revisions` names {unknown}, which is no member")


__all__ = ["SEREnsembleConfig"]
