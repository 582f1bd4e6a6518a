"""
Does the mood of the prompt reach the pitch of what is spoken? An angry voice is higher and wider than a calm one; a
synthesiser that copies no more than timbre loses that.

    python -m hf_affectcodec.benchmarks.mood_f0 --items items.jsonl --systems ours=runs/wavs other=runs/other \
        --codec org/affectcodec --compare-to neutral --out runs/mood_f0

Items are those of `affectcodec evaluate tts`, each text with one prompt of each mood (`emotion`) and voice (`speaker`). For each
mood and system: height (median F0), width (standard deviation of F0) and middle width (from the distance of its quartiles) of the
generated clips, in semitones, beside those of the prompts; differences to one mood, paired by voice and text; and how the
clips' F0 follows their prompts', over all items and within voice and text. The tracker makes errors of an octave in coded
speech, which the standard deviation feels and the quartiles hardly do; `--codec` adds the prompts themselves after a codec, to
tell what one passage through it and the tracker leave.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np

from hf_affectcodec.metrics.f0 import MIN_VOICED_FRAMES, f0_track
from hf_affectcodec.metrics.statistics import compare_pairs, summarize

from .codecs import SAMPLING_RATE, AudioTokenizationCodec
from .rows import dump
from .tts_items import Generated, Item, Recordings, SpeechSystem, read_items


STATISTICS = {
    "height": "median F0, semitones over 100 Hz",
    "width": "standard deviation of F0, semitones",
    "middle width": "distance of the quartiles of F0 / 1.349, semitones: the standard deviation of a normal distribution",
}
QUARTILES = 1.349  # distance of a normal distribution's quartiles, in standard deviations


def f0_statistics(waveform, sampling_rate: int) -> tuple[float, float, float]:
    """
    Median, standard deviation and distance of the quartiles / 1.349 of F0 over the voiced frames, the first in semitones over
    100 Hz, the others in semitones.

    Raises:
        ValueError: Fewer than 10 frames (100 ms) are voiced.
    """
    f0 = f0_track(waveform, sampling_rate)
    f0 = f0[f0 > 0]
    if f0.size < MIN_VOICED_FRAMES:
        raise ValueError(f"`waveform` must have {MIN_VOICED_FRAMES} voiced frames, got {f0.size}")
    semitones = 12 * np.log2(f0 / 100)
    low, median, high = np.percentile(semitones, [25, 50, 75])
    return float(median), float(semitones.std()), float(high - low) / QUARTILES


class CodedPrompts:
    """The prompts after a [`~.codecs.Codec`] as a system."""

    name = "prompt after the codec"

    def __init__(self, codec, items: list[Item]):
        self.codec = codec
        self.fingerprint = codec.fingerprint
        self.prompts = Recordings("prompt", items)

    def __call__(self, item: Item) -> np.ndarray:
        return self.codec(self.prompts(item))[0]


def measure(system: SpeechSystem, items: list[Item]) -> np.ndarray:
    """The statistics of every item, [N, 3]; NaN where a clip is missing or has no pitch."""
    values = np.full((len(items), len(STATISTICS)), np.nan)
    for place, item in enumerate(items):
        try:
            values[place] = f0_statistics(system(item), SAMPLING_RATE)
        except ValueError:
            continue
    return values


def rank_correlation(first: np.ndarray, second: np.ndarray, groups: np.ndarray, within: bool, seed: int) -> dict:
    """
    Spearman's rho over the items measured in both, with a 95 % bootstrap interval that draws whole groups, as the items of one
    voice and text are not independent. NaN below five items.

    Args:
        first, second (array [N]): Values of the items; NaN where there is none.
        groups (array [N]): The number of the group that each belongs to.
        within (`bool`): Take the mean of its group from each value first; groups of one item are left out.
        seed (`int`): Of the bootstrap.
    """
    from scipy.stats import spearmanr

    both = ~(np.isnan(first) | np.isnan(second))
    parts = [np.flatnonzero(both & (groups == group)) for group in np.unique(groups)]
    parts = [part for part in parts if part.size > int(within)]
    pairs = [np.stack([first[part], second[part]]) for part in parts]
    if within:
        pairs = [pair - pair.mean(axis=1, keepdims=True) for pair in pairs]
    count = sum(part.size for part in parts)
    if count < 5:
        return {"rho": float("nan"), "low": float("nan"), "high": float("nan"), "n": count}
    generator = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rho of a constant is NaN, which is what is wanted
        drawn = [
            spearmanr(*np.concatenate([pairs[place] for place in pick], axis=1)).statistic
            for pick in generator.integers(len(pairs), size=(1000, len(pairs)))
        ]
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        rho = float(spearmanr(*np.concatenate(pairs, axis=1)).statistic)
    return {"rho": rho, "low": float(low), "high": float(high), "n": count}


def compare_moods(items: list[Item], prompts: np.ndarray, values: np.ndarray, compare_to: str, seed: int = 0) -> dict:
    """
    Args:
        items (`list[Item]`): N items with `emotion`; pairs are those of one `speaker` and `text`.
        prompts, values (array [N, 3]): The statistics of the prompts and of what a system made of them.
        compare_to (`str`): The mood that the others are compared to.

    Returns:
        `dict`: Per statistic `moods` (mean, interval and count of clips and prompts), `differences` to `compare_to` with the
        p of a two-sided paired permutation test, `follows`, Spearman's rho between prompt and clip over all items, which a
        synthesiser gets that keeps high voices high, and `follows_within`, the same of deviations from the mean of a voice and
        text, which is left to the mood.

    Raises:
        ValueError: An item has no emotion, no mood is called `compare_to`, or two items share voice, text and mood.
    """
    if any(item.emotion is None for item in items):
        raise ValueError("`items` must each have an `emotion`")
    moods = sorted({item.emotion for item in items})
    if compare_to not in moods:
        raise ValueError(f"`compare_to` must be one of {moods}, got {compare_to!r}")
    places = {(item.speaker, item.text, item.emotion): place for place, item in enumerate(items)}
    if len(places) < len(items):
        raise ValueError("`items` must have each voice, text and mood once")
    pairs = sorted({(item.speaker or "", item.text) for item in items})
    groups = np.array([pairs.index((item.speaker or "", item.text)) for item in items])
    result = {}
    for column, statistic in enumerate(STATISTICS):
        of_mood = {mood: np.array([item.emotion == mood for item in items]) for mood in moods}
        differences = {}
        for mood in moods:
            if mood == compare_to:
                continue
            both = [
                (places[speaker or None, text, mood], places[speaker or None, text, compare_to])
                for speaker, text in pairs
                if (speaker or None, text, mood) in places and (speaker or None, text, compare_to) in places
            ]
            differences[mood] = {
                name: compare_pairs(source[[p for p, _ in both], column], source[[q for _, q in both], column], seed)
                for name, source in (("prompts", prompts), ("clips", values))
            }
        result[statistic] = {
            "moods": {
                mood: {
                    name: _summary(source[of_mood[mood], column], seed)
                    for name, source in (("prompts", prompts), ("clips", values))
                }
                for mood in moods
            },
            "differences": differences,
            "follows": rank_correlation(prompts[:, column], values[:, column], groups, False, seed),
            "follows_within": rank_correlation(prompts[:, column], values[:, column], groups, True, seed),
        }
    return result


def _summary(values: np.ndarray, seed: int) -> dict:
    summary = summarize(values, seed)
    return {"mean": summary.mean, "low": summary.low, "high": summary.high, "n": int((~np.isnan(values)).sum())}


def _rho(found: dict) -> str:
    return f"{found['rho']:.2f} [{found['low']:.2f}, {found['high']:.2f}] (n {found['n']})"


def markdown(found: dict[str, dict], compare_to: str) -> str:
    lines = []
    for statistic, label in STATISTICS.items():
        lines += [f"**{statistic}** ({label})\n", "| system | mood | prompts | clips | clips - " + compare_to + " |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for name, result in found.items():
            for mood, cell in result[statistic]["moods"].items():
                texts = [
                    f"{cell[side]['mean']:.2f} [{cell[side]['low']:.2f}, {cell[side]['high']:.2f}] (n {cell[side]['n']})"
                    for side in ("prompts", "clips")
                ]
                change = "-"
                if mood != compare_to:
                    d = result[statistic]["differences"][mood]["clips"]
                    change = f"{d['difference']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}], p {d['p']:.2g} (n {d['n']})"
                lines.append(f"| {name} | {mood} | {texts[0]} | {texts[1]} | {change} |")
        lines.append("")
        for name, result in found.items():
            all_items, within = (_rho(result[statistic][name]) for name in ("follows", "follows_within"))
            lines.append(
                f"{name}: Spearman's rho between prompt and clip {within} within voice and text, {all_items} over all"
            )
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--systems", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--codec", help="folder or Hub id of a codec, for the prompts after it")
    parser.add_argument("--compare-to", default="neutral", metavar="MOOD")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    items = read_items(options.items, options.limit)
    systems = []
    for entry in options.systems:
        name, equals, folder = entry.partition("=")
        if not equals:
            raise ValueError(f"`--systems` takes NAME=FOLDER, got {entry!r}")
        systems.append(Generated(name, folder))
    if options.codec is not None:
        systems.append(CodedPrompts(AudioTokenizationCodec.from_pretrained(options.codec, CodedPrompts.name), items))
    prompts = measure(Recordings("prompt", items), items)
    found = {
        system.name: compare_moods(items, prompts, measure(system, items), options.compare_to) for system in systems
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "mood_f0.json").write_text(dump(found, indent=2) + "\n", encoding="utf-8")
    text = markdown(found, options.compare_to)
    (options.out / "mood_f0.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
