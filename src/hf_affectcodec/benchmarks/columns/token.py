"""Codes themselves: do they stay the same when the surroundings or the frame grid change, and are they used."""

import numpy as np
import torch

from hf_affectcodec.audio import resample
from hf_affectcodec.metrics.codebook_usage import codebook_usage, count_codes
from hf_affectcodec.metrics.token_consistency import shift_consistency, slice_consistency

from ..codecs import SAMPLING_RATE, AudioTokenizationCodec
from ..measuring import Sample
from .kinds import Evaluated, FigureColumn, MeanColumn


SLICE_SECONDS = 0.5
SHIFT = 0.25  # of a frame


class TokenColumns:
    """
    A [`~..measuring.ColumnGroup`] of the codecs that are [`~..codecs.AudioTokenizationCodec`]; others have no cells. Slices
    last `SLICE_SECONDS`, follow each other without overlap and are compared whole, edges included; shifts are a quarter
    of a frame. Both at the model's own rate. Rows hold codes and, for each codebook, both shares.

    Usage, perplexity and entropy are of the codes of all clips that were coded, so compare systems on the same clips.
    """

    name, title, reference, in_workers = "tokens", "Codes", None, False
    missing = {"codes": None, "slice": None, "shift": None}
    protocol = {"token_slices": f"{SLICE_SECONDS} s, no margin", "token_shift": f"{SHIFT} frame, no margin"}

    def __init__(self):
        self.columns = {
            "slice_consistency_first": MeanColumn("slice consistency, codebook 1 ↑", 3),
            "slice_consistency": MeanColumn("slice consistency, all ↑", 3),
            "shift_consistency_first": MeanColumn("shift consistency, codebook 1 ↑", 3),
            "shift_consistency": MeanColumn("shift consistency, all ↑", 3),
            "codebook_usage": FigureColumn("codebook usage, mean ↑", 3),
            "codebook_perplexity": FigureColumn("perplexity, mean ↑", 0),
            "codebook_entropy_kbps": FigureColumn("entropy rate, kbps", 2),
        }

    def measure(self, system, sample: Sample) -> dict:
        if not isinstance(system, AudioTokenizationCodec):
            return {**self.missing, "failures": {}}
        rate, hop = system.sampling_rate, system.hop_length
        samples = resample(torch.from_numpy(sample.reference).float(), SAMPLING_RATE, rate).numpy()
        row = {**self.missing, "codes": system.encode(samples).tolist(), "failures": {}}
        row |= {"codebook_size": system.codebook_size, "frame_rate": rate / hop}
        num_frames = round(SLICE_SECONDS * rate / hop)
        try:
            row["slice"] = slice_consistency(system.encode, samples, hop, num_frames).tolist()
        except ValueError as error:
            row["failures"] |= dict.fromkeys(("slice_consistency_first", "slice_consistency"), str(error))
        try:
            row["shift"] = shift_consistency(system.encode, samples, hop, max(1, round(SHIFT * hop))).tolist()
        except ValueError as error:
            row["failures"] |= dict.fromkeys(("shift_consistency_first", "shift_consistency"), str(error))
        return row

    def evaluate(self, rows: list[dict], references: list[dict] | None, seed: int) -> Evaluated:
        coded = [row for row in rows if row["codes"] is not None]
        if not coded:
            return Evaluated({}, {}, {})
        values = {}
        for kind in ("slice", "shift"):
            shares = [row[kind] for row in rows]
            values[f"{kind}_consistency_first"] = [np.nan if share is None else share[0] for share in shares]
            values[f"{kind}_consistency"] = [np.nan if share is None else float(np.mean(share)) for share in shares]
        usage = codebook_usage(count_codes([np.array(row["codes"]) for row in coded], coded[0]["codebook_size"]))
        figures = {
            "codebook_usage": float(usage.usage.mean()),
            "codebook_perplexity": float(usage.perplexity.mean()),
            "codebook_entropy_kbps": float(usage.entropy_rate(coded[0]["frame_rate"]).sum() / 1000),
        }
        return Evaluated(values, {}, figures)

    def anchors(self, references: list[dict] | None, seed: int) -> dict:
        return {}
