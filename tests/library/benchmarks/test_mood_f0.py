import json

import numpy as np
import pytest
import soundfile

from hf_affectcodec.benchmarks import mood_f0
from hf_affectcodec.benchmarks.mood_f0 import compare_moods, f0_statistics, main, measure, rank_correlation
from hf_affectcodec.benchmarks.tts_items import read_items


RATE = 16000
MOODS = {"angry": (220.0, 4.0), "neutral": (110.0, 1.0)}  # Hz, semitones of vibrato


def voice(height: float, width: float, seconds: float = 1.0) -> np.ndarray:
    """A buzz whose F0 swings as a sine of the amplitude `width` semitones around `height` Hz."""
    time = np.arange(int(seconds * RATE)) / RATE
    f0 = height * 2 ** (width * np.sin(2 * np.pi * 2 * time) / 12)
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    return 0.1 * sum(np.sin(k * phase) / k for k in range(1, 6))


@pytest.fixture
def items(tmp_path):
    """Three texts, two voices, two moods; `copycat` speaks as its prompt does, `parrot` always in the same way."""
    lines = []
    for folder in ("prompt", "copycat", "parrot"):
        (tmp_path / folder).mkdir()
    for speaker, factor in (("low", 1.0), ("high", 1.2)):
        for text in ("one", "two", "three"):
            for mood, (height, width) in MOODS.items():
                identity = f"{speaker}-{text}-{mood}"
                shift = 2 ** (len(text) / 24)
                soundfile.write(tmp_path / f"prompt/{identity}.wav", voice(height * factor, width), RATE)
                soundfile.write(tmp_path / f"copycat/{identity}.wav", voice(height * factor * shift, width), RATE)
                soundfile.write(tmp_path / f"parrot/{identity}.wav", voice(150 * shift, 2.0), RATE)
                row = {"id": identity, "text": text, "emotion": mood, "speaker": speaker}
                lines.append(json.dumps({**row, "prompt": f"prompt/{identity}.wav"}))
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    return tmp_path / "items.jsonl"


def test_statistics_of_a_known_pitch():
    height, width, middle = f0_statistics(voice(200.0, 3.0), RATE)
    assert height == pytest.approx(12, abs=0.2)  # an octave over 100 Hz
    assert width == pytest.approx(3 / np.sqrt(2), abs=0.2)  # of a sine
    assert middle == pytest.approx(2 * 3 * np.sin(np.pi / 4) / 1.349, abs=0.25)
    # A twelfth of the frames an octave too low, as trackers err: the standard deviation doubles.
    erring = np.concatenate([voice(200.0, 1.0, 3.0), voice(100.0, 1.0, 0.25)])
    right, wrong = (f0_statistics(waveform, RATE) for waveform in (voice(200.0, 1.0, 3.0), erring))
    assert wrong[1] > 2 * right[1] and wrong[2] == pytest.approx(right[2], abs=0.15)
    with pytest.raises(ValueError, match="10 voiced frames"):
        f0_statistics(np.random.default_rng(0).normal(scale=0.01, size=RATE), RATE)


def test_a_copycat_is_told_from_a_parrot(items, tmp_path):
    folder = items.parent
    arguments = ["--items", str(items), "--systems", f"copycat={folder / 'copycat'}", f"parrot={folder / 'parrot'}"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/mood_f0.json").read_text())
    height = found["copycat"]["height"]
    assert height["differences"]["angry"]["clips"]["difference"] == pytest.approx(12, abs=0.3)
    assert height["differences"]["angry"]["clips"]["p"] < 0.05 and height["differences"]["angry"]["clips"]["n"] == 6
    assert height["follows"]["rho"] > 0.8 and found["copycat"]["width"]["differences"]["angry"]["clips"]["low"] > 1
    parrot = found["parrot"]["height"]["differences"]["angry"]
    assert parrot["clips"]["difference"] == pytest.approx(0, abs=1e-6) and parrot["clips"]["p"] == 1
    assert parrot["prompts"]["difference"] == pytest.approx(12, abs=0.3)
    text = (tmp_path / "out/mood_f0.md").read_text()
    assert "| parrot | angry |" in text and "clips - neutral" in text


def test_voices_alone_are_no_moods():
    """Prompts of twelve voices in four moods each; clips that keep the voice and ignore the mood follow over all, not within."""
    generator = np.random.default_rng(0)
    voices = np.repeat(np.arange(12), 4)
    prompts = 5.0 * voices + generator.normal(size=48)
    clips = 5.0 * voices + generator.normal(size=48)
    follows = rank_correlation(prompts, clips, voices, False, 0)
    assert follows["rho"] > 0.9 and follows["low"] > 0.8 and follows["n"] == 48
    within = rank_correlation(prompts, clips, voices, True, 0)
    assert within["low"] < 0 < within["high"]
    same = rank_correlation(prompts, 2 * prompts + 3 * voices, voices, True, 0)
    assert same["rho"] == pytest.approx(1) and same["low"] > 0.999
    # Three are too few, and an item alone in its group says nothing.
    few = np.array([1.0, 3, 8, np.nan, 7]), np.array([4.0, 2, 6, 5, 1])
    assert np.isnan(rank_correlation(*few, np.array([0, 0, 0, 1, 1]), True, 0)["rho"])
    five = np.concatenate([few[0][:3], [10, 20]]), np.concatenate([few[1][:3], [1, 0]])
    assert rank_correlation(*five, np.array([0, 0, 0, 1, 1]), True, 0)["n"] == 5


def test_prompts_after_a_codec(items, tmp_path, monkeypatch):
    """A codec that plays a quarter faster: its prompts are higher and follow the prompts."""

    class Fast:
        fingerprint = "fast"

        def __call__(self, waveform):
            return np.interp(np.arange(0, waveform.size, 1.25), np.arange(waveform.size), waveform), 0

    monkeypatch.setattr(
        mood_f0.AudioTokenizationCodec, "from_pretrained", lambda source, name: {"org/fast": Fast()}[source]
    )
    arguments = ["--items", str(items), "--systems", f"copycat={items.parent / 'copycat'}", "--codec", "org/fast"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/mood_f0.json").read_text())["prompt after the codec"]["height"]
    assert found["follows"]["rho"] > 0.99 and found["moods"]["neutral"]["clips"]["n"] == 6
    assert found["moods"]["neutral"]["clips"]["mean"] == pytest.approx(
        found["moods"]["neutral"]["prompts"]["mean"] + 12 * np.log2(1.25), abs=0.2
    )


def test_missing_clips_and_bad_items(items):
    from dataclasses import replace

    from hf_affectcodec.benchmarks.tts_items import Generated

    (items.parent / "copycat/low-one-angry.wav").unlink()
    read = read_items(items)
    values = measure(Generated("copycat", items.parent / "copycat"), read)
    assert np.isnan(values).any(axis=1).sum() == 1
    cell = compare_moods(read, values, values, "neutral")["height"]
    assert cell["moods"]["angry"]["clips"]["n"] == 5 and cell["differences"]["angry"]["clips"]["n"] == 5
    for changed, mood, message in (
        (read, "calm", r"`compare_to` must be one of \['angry', 'neutral'\]"),
        ([replace(read[0], emotion=None), *read[1:]], "neutral", "must each have an `emotion`"),
        ([*read, read[0]], "neutral", "voice, text and mood once"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_moods(changed, values, values, mood)
