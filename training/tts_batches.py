"""Utterances of a speech language model's training: read from data sets, grouped into batches of so many seconds, prefixed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path

import datasets
import numpy as np
import torch
from recipe import DataSource
from sharded_output import read_footer
from tokenize_corpus import CorpusCodec, batches, encode
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from hf_affectcodec.data.clips import load_clips
from hf_affectcodec.modeling.phonemes_affectcodec_tts import check_phonemes, phonemize


@dataclass
class Utterance:
    """
    Args:
        name (`str`): Path of the clip in its corpus.
        text (`str`): What is said, as the corpus has it (or its phonemes).
        language (`str`): Code of its language.
        phonemes (`list[int]`): Ids of its phonemes.
        codes (`np.ndarray` [Q, F]): The codec's codes, int16.
        emotion (`int`, *optional*): Id of the symbol of its emotion.
        alignment (`np.ndarray` [F], *optional*): Which of its phonemes each frame says, where the corpus tells.
    """

    name: str
    text: str
    language: str
    phonemes: list[int]
    codes: np.ndarray
    emotion: int | None = None
    alignment: np.ndarray | None = None

    @property
    def frames(self) -> int:
        return self.codes.shape[1]


def load_utterances(
    source: DataSource,
    processor,
    codec: CorpusCodec,
    language: str,
    min_seconds: float,
    max_seconds: float,
    languages: Sequence[str] | None = None,
) -> list[Utterance]:
    """
    Utterances of one source, those with text to speak and of a length within the limits.

    Args:
        source ([`recipe.DataSource`]): With `audio` in its `column_map`: clips, which are encoded now. Else files that
            `tokenize_corpus.py` wrote with the same codec. `column_map` also names the column of the `text` (or of `phonemes`
            that another front end made) and, if there are any, those of the `language`, the `emotion` and the
            `phoneme_ends` (when each symbol of `phonemes` ends, in seconds).
        processor ([`AffectCodecTTSProcessor`]): Its vocabulary.
        codec ([`tokenize_corpus.CorpusCodec`]): The codec.
        language (`str`): Language of rows without one.
        min_seconds, max_seconds (`float`): Limits of the length.
        languages (`Sequence[str]`, *optional*): Codes of the languages that are kept. `None`: all.

    Raises:
        ValueError: No `text` is named, the codes are another codec's, or nothing is left.
    """
    columns = dict(source.column_map or {})
    if ("text" in columns) == ("phonemes" in columns):
        raise ValueError(f"`column_map` of {source.source} must name either `text` or `phonemes`, got {columns}")
    rows = _encoded_clips(source, columns, codec) if "audio" in columns else _stored_codes(source, columns, codec)
    rate = codec.sampling_rate / codec.hop_length
    utterances, counts = (
        [],
        {"without text": 0, "without anything to speak": 0, "too short or too long": 0, "of other languages": 0},
    )
    for row in tqdm(rows, desc="phonemes", unit="clip"):
        text = row["text"] if "text" in columns else row["phonemes"]
        if not text or not text.strip():
            counts["without text"] += 1
            continue
        if not min_seconds <= row["codes"].shape[1] / rate <= max_seconds:
            counts["too short or too long"] += 1
            continue
        spoken = row.get("language") or language
        if languages is not None and spoken not in languages:
            counts["of other languages"] += 1
            continue
        try:
            phonemes = phonemize(text, spoken) if "text" in columns else check_phonemes(text, "phonemes")
        except ValueError as error:
            if "nothing to speak" not in str(error):
                raise ValueError(f"{row['name']}: {error}") from error
            counts["without anything to speak"] += 1
            continue
        ids = processor.encode_phonemes([phonemes])["input_ids"][0]
        label = row.get("emotion")
        emotion = processor.emotion_id(label) if label in (processor.emotions or ()) else None
        alignment = None
        # Where the vocabulary lacks a symbol, ends and ids are no longer of the same symbols.
        if row.get("phoneme_ends") and len(row["phoneme_ends"]) == len(ids):
            alignment = align(row["phoneme_ends"], row["codes"].shape[1], rate)
        utterances.append(Utterance(row["name"], text, spoken, ids, row["codes"], emotion, alignment))
    left_out = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    tqdm.write(f"{source.source}: {len(utterances)} utterances{'; left out: ' + left_out if left_out else ''}")
    if not utterances:
        raise ValueError(f"{source.source}: no utterance is left ({left_out or 'no rows'})")
    return utterances


def align(ends: Sequence[float], frames: int, frame_rate: float) -> np.ndarray:
    """The symbol [F] that is said in the middle of each frame, of symbols that end at `ends` seconds."""
    middles = (np.arange(frames) + 0.5) / frame_rate
    return np.minimum(np.searchsorted(ends, middles, side="right"), len(ends) - 1)


def _stored_codes(source: DataSource, columns: dict[str, str], codec: CorpusCodec):
    names = [source.source] if isinstance(source.source, str) else source.source
    files = sorted(file for name in names for file in glob(name))
    if not files:
        raise ValueError(f"{source.source}: no such Parquet files of codes")
    for file in files:
        made_with = read_footer(Path(file))["settings"]["model"]
        if made_with["weights_sha256"] != codec.description["weights_sha256"]:
            raise ValueError(f"{file}: codes of another codec, {made_with['id']!r}")
    wanted = list(dict.fromkeys(["name", "audio_codes", *columns.values()]))
    base = source.split.split("[")[0]
    rows = datasets.load_dataset("parquet", data_files={base: files}, split=source.split)
    missing = sorted(set(wanted) - set(rows.column_names))
    if missing:
        raise ValueError(f"{source.source} has no column {missing[0]!r}: {rows.column_names}")
    for row in rows.select_columns(wanted):
        others = {ours: row[theirs] for ours, theirs in columns.items()}
        yield {**others, "name": row["name"], "codes": np.asarray(row["audio_codes"], dtype=np.int16)}


def _encoded_clips(source: DataSource, columns: dict[str, str], codec: CorpusCodec):
    clips = load_clips(source.source, source.split, columns, codec.sampling_rate, source.config_name)
    lengths = [len(waveform) for waveform in clips.waveforms]
    codes = [None] * len(clips)
    groups = batches(lengths, codec.batch_seconds * codec.sampling_rate)
    for group in tqdm(groups, desc="codes", unit="batch"):
        waveforms = [torch.from_numpy(clips.waveforms[index]).float() / 32768 for index in group]
        for index, item in zip(group, encode(codec, waveforms), strict=True):
            codes[index] = item.astype(np.int16)
    for index, name in enumerate(clips.names):
        yield {**{ours: values[index] for ours, values in clips.columns.items()}, "name": name, "codes": codes[index]}


class DynamicBatches:
    """
    Batches of utterances of like length, each of at most so many frames with its padding; a pure function of seed and step, so
    that a run resumes by going on with the next step.

    Utterances are parted into buckets by length; a bucket's batches have as many utterances as fit if all were as long as its
    longest, so that every epoch has the same number of batches. Each epoch every utterance is in one batch: buckets are
    shuffled and cut, and the batches of all shuffled. A step takes `accumulate` batches a rank; the last step of an epoch is
    filled up with batches of its beginning.

    Args:
        frames (`Sequence[int]`): Length of each utterance.
        max_frames (`int`): Frames of a batch, padding among them. A longer utterance is a batch of its own.
        seed (`int`): Of the order.
        accumulate (`int`, *optional*, defaults to 1): Batches of a step and rank.
        world_size, rank (`int`, *optional*): How many processes there are, and which this is.
        num_buckets (`int`, *optional*, defaults to 10): Buckets of about as many frames each.
    """

    def __init__(
        self,
        frames: Sequence[int],
        max_frames: int,
        seed: int,
        accumulate: int = 1,
        world_size: int = 1,
        rank: int = 0,
        num_buckets: int = 10,
    ):
        for name, value in (("frames", len(frames)), ("max_frames", max_frames), ("accumulate", accumulate)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        if num_buckets < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"`num_buckets` must be at least 1 and `rank` below `world_size`, got {num_buckets}, {rank}"
            )
        self.seed, self.accumulate, self.world_size, self.rank = seed, accumulate, world_size, rank
        frames = np.asarray(frames)
        order = np.argsort(frames, kind="stable")
        share = np.cumsum(frames[order]) / frames.sum()
        cuts = np.searchsorted(share, np.arange(1, num_buckets) / num_buckets)
        self.buckets = [bucket for bucket in np.split(order, cuts) if len(bucket)]
        self.sizes = [max(1, max_frames // int(frames[bucket].max())) for bucket in self.buckets]
        count = sum(-(-len(bucket) // size) for bucket, size in zip(self.buckets, self.sizes, strict=True))
        self.steps_per_epoch = -(-count // (accumulate * world_size))
        self._latest = (None, [])

    def epoch_batches(self, epoch: int) -> list[list[int]]:
        """Indices of the utterances of each batch of an epoch, in the order in which they are trained on."""
        generator = np.random.default_rng([self.seed, epoch])
        batches = []
        for bucket, size in zip(self.buckets, self.sizes, strict=True):
            shuffled = generator.permutation(bucket).tolist()
            batches += [shuffled[first : first + size] for first in range(0, len(shuffled), size)]
        return [batches[index] for index in generator.permutation(len(batches))]

    def __getitem__(self, step: int) -> list[list[int]]:
        """This rank's batches of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._latest[0] != epoch:
            self._latest = (epoch, self.epoch_batches(epoch))
        batches = self._latest[1]
        first = (place * self.world_size + self.rank) * self.accumulate
        return [batches[(first + offset) % len(batches)] for offset in range(self.accumulate)]


def collate(utterances: Sequence[Utterance]) -> dict[str, torch.Tensor]:
    """
    A padded batch, as [`AffectCodecTTSForConditionalGeneration`] takes it: `input_ids` and `attention_mask` `[B, L]`,
    `audio_codes` `[B, Q, F]`, `audio_codes_mask` `[B, F]`.
    """
    ids = [torch.tensor(utterance.phonemes) for utterance in utterances]
    codes = [torch.from_numpy(utterance.codes.T.astype(np.int64)) for utterance in utterances]
    lengths = torch.tensor([utterance.frames for utterance in utterances])
    texts = torch.tensor([len(item) for item in ids])
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": torch.arange(int(texts.max())) < texts[:, None],
        "audio_codes": pad_sequence(codes, batch_first=True).transpose(1, 2).contiguous(),
        "audio_codes_mask": torch.arange(int(lengths.max())) < lengths[:, None],
    }


def begin_with_emotions(
    utterances: Sequence[Utterance], dropout: float, generator: np.random.Generator
) -> list[Utterance]:
    """Utterances whose text begins with the symbol of their emotion, but for a share `dropout` of them."""
    kept = generator.random(len(utterances)) >= dropout
    return [with_emotion(u) if keep and u.emotion is not None else u for u, keep in zip(utterances, kept, strict=True)]


def with_emotion(utterance: Utterance) -> Utterance:
    """An utterance whose text begins with the symbol of its emotion."""
    alignment = None if utterance.alignment is None else utterance.alignment + 1
    return replace(utterance, phonemes=[utterance.emotion, *utterance.phonemes], alignment=alignment)


def collate_alignments(utterances: Sequence[Utterance]) -> torch.Tensor:
    """Alignments `[B, F]` of a batch, -1 at padding and where there is none."""
    unknown = [np.full(u.frames, -1) if u.alignment is None else u.alignment for u in utterances]
    return pad_sequence(
        [torch.from_numpy(item.astype(np.int64)) for item in unknown], batch_first=True, padding_value=-1
    )


def continue_prompt(batch: dict, share: float, max_frames: int) -> dict:
    """
    Prefix mode 1 of the public VALL-E: the first frames of each utterance are the acoustic prompt of the rest. They are
    `share` of the shortest utterance, `max_frames` at most. Adds `prompt_mask` `[B, F]`.
    """
    mask = batch["audio_codes_mask"]
    frames = prompt_frames(mask, share, max_frames)
    return {**batch, "prompt_mask": (torch.arange(mask.shape[1]) < frames).expand_as(mask)}


def segment_prompt(batch: dict, share: float, max_frames: int, generator: np.random.Generator) -> dict:
    """
    Prefix mode 2 of the public VALL-E: a segment from anywhere in each utterance is put before it as the acoustic prompt,
    and is no target where it came from. Its length is as in [`continue_prompt`]. Changes `audio_codes` to `[B, Q, P + F]`,
    its mask and its `alignment` (-1 in the prompt), adds `prompt_mask` and `loss_mask` `[B, P + F]`.
    """
    codes, mask = batch["audio_codes"], batch["audio_codes_mask"]
    frames = prompt_frames(mask, share, max_frames)
    lengths = mask.sum(-1).numpy()
    starts = torch.from_numpy(generator.integers(0, lengths - frames + 1))
    taken = starts[:, None] + torch.arange(frames)
    prompt = codes.gather(2, taken[:, None].expand(-1, codes.shape[1], -1))
    is_prompt = torch.zeros(len(codes), frames + codes.shape[2], dtype=torch.bool)
    is_prompt[:, :frames] = True
    loss_mask = ~is_prompt
    loss_mask.scatter_(1, frames + taken, False)
    if "alignment" in batch:
        batch = {**batch, "alignment": torch.nn.functional.pad(batch["alignment"], (frames, 0), value=-1)}
    return {
        **batch,
        "audio_codes": torch.cat((prompt, codes), dim=2),
        "audio_codes_mask": torch.cat((is_prompt[:, :frames], mask), dim=1),
        "prompt_mask": is_prompt,
        "loss_mask": loss_mask,
    }


def prompt_frames(mask: torch.Tensor, share: float, max_frames: int) -> int:
    """Frames of a prompt that every utterance of a batch (mask [B, F]) has room for, and at least one left to predict."""
    shortest = int(mask.sum(-1).min())
    return max(0, min(int(share * shortest), max_frames, shortest - 1))
