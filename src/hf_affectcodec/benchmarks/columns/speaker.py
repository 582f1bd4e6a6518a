"""SIM-O with what it has to be read against."""

from collections.abc import Callable, Sequence

import numpy as np

from hf_affectcodec.metrics.speaker_similarity import speaker_anchors

from ..embeddings import embedding_row, paired_cosines, stack_embeddings
from ..measuring import Sample
from .kinds import Evaluated, MeanColumn


class SpeakerColumns:
    """
    A [`~..measuring.ColumnGroup`]: cosine of the speaker embeddings of a recording and of the signal under test. Its rows
    hold the embeddings.

    Args:
        encoder (`Callable`): `(waveform [T], sampling_rate) -> [C]`.
        backend (`str`): What `encoder` is, for the heading.
        protocol (`dict`): What it depends on.
        speakers (sequence of `str`, *optional*): Speaker of each clip, for the floor.
        reference (`str`, *optional*, defaults to `"original"`): System that the others are compared with.
    """

    name, in_workers, missing = "speaker", False, {"embedding": None}

    def __init__(
        self,
        encoder: Callable,
        backend: str,
        protocol: dict,
        speakers: Sequence[str] | None = None,
        reference: str = "original",
    ):
        self.encoder, self.protocol, self.speakers, self.reference = encoder, protocol, speakers, reference
        self.title = f"Speaker similarity ({backend})"
        self.columns = {"sim_o": MeanColumn("SIM-O ↑", 3)}

    def measure(self, system, sample: Sample) -> dict:
        return embedding_row(self.encoder, sample.degraded, "sim_o")

    def evaluate(self, rows: list[dict], references: list[dict] | None, seed: int) -> Evaluated:
        return Evaluated({"sim_o": paired_cosines(stack_embeddings(references), stack_embeddings(rows))}, {}, {})

    def anchors(self, references: list[dict] | None, seed: int) -> dict:
        embeddings = stack_embeddings(references)
        known = ~np.isnan(embeddings).any(axis=1)
        known &= np.array([speaker is not None for speaker in self.speakers or [None] * len(known)])
        speakers = [self.speakers[index] for index in np.flatnonzero(known)]
        if len(set(speakers)) < 2:
            return {"floor": "none (the data names fewer than two speakers)"}
        anchors = speaker_anchors(embeddings[known], speakers)
        return {
            "floor (other speakers)": anchors.different_speakers,
            "other clips of the same speaker": anchors.same_speaker,
            "ceiling (the clip itself)": anchors.same_clip,
            "AUC of same against other speakers": anchors.auc,
        }
