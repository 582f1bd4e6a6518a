"""
Frozen encoders that a codec learns from, one file each.

| teacher | file | features | channels | paper's use (arXiv 2605.11098) |
|---|---|---|---|---|
| [`~clap.ClapTeacher`] | `clap.py` | frames | 768 | emotion |
| [`~hubert.HubertTeacher`] | `hubert.py` | frames | 768 | semantics |
| [`~text.TextTeacher`] | `text.py` | tokens | 768 | text |
| [`~whisper.WhisperTeacher`] | `whisper.py` | frames | 384 to 1280 | none; semantics |
| [`~egemaps.EgemapsTeacher`] | `egemaps.py` | frames | 25 | none; emotion without a network |
| [`~mfcc.MfccTeacher`] | `mfcc.py` | frames | 20 | none; semantics without a network |
| [`~frames.FrameTeacher`] | `frames.py` | frames | the model's | any Hub encoder with frames at a stated rate (Table 10) |

A frame teacher is a [`Teacher`]: a function from waveforms to one vector a codec frame (`alignment.py` says how frames
of another rate get there). The text teacher returns one vector a word piece instead, see `text.py`. Every item of a
batch is run alone and unpadded, so its features do not depend on its neighbours: the positional convolution and the
group norm of the base encoders leak padding into valid frames even under an attention mask.

Nothing is imported here, so that a teacher whose package is missing does not stand in the way of the others.
"""

from collections.abc import Sequence
from typing import Protocol

import torch


class Teacher(Protocol):
    """What a frame teacher offers.

    Attributes:
        feature_size (`int`): C, the number of channels.
        description (`dict`): All that the features depend on beside the waveform, fit for JSON: class, source,
            revision, SHA-256 of the weights, options.
    """

    feature_size: int
    description: dict

    def __call__(self, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """
        Args:
            waveforms (sequence of `torch.Tensor`): Items `[T]`, float32 in -1..1 at 16 kHz, of any lengths >= 1.

        Returns:
            `list[torch.Tensor]`: For each item `[F, C]`, float32 without gradient, `F = ceil(T / 320)`: frame t stands
            for samples `320 t` to `320 (t + 1)`.
        """
        ...
