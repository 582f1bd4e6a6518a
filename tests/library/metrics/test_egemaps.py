import json
import sys

import numpy as np
import pytest
import soundfile

from hf_affectcodec.shipped import demo_clip_path


pytest.importorskip("opensmile")

from hf_affectcodec.metrics import egemaps  # noqa: E402
from hf_affectcodec.metrics.egemaps import (  # noqa: E402
    egemaps_distance,
    egemaps_embedding,
    egemaps_functionals,
    functional_names,
    functional_statistics,
)


RATE = 16000


def functional(waveform, name: str) -> float:
    return egemaps_functionals(waveform, RATE)[functional_names().index(name)]


def test_functionals_of_a_tone():
    time = np.arange(2 * RATE) / RATE
    tone = 0.1 * sum(np.sin(2 * np.pi * 220 * k * time) / k for k in range(1, 11))
    assert len(functional_names()) == 88
    # Three octaves above 27.5 Hz.
    assert functional(tone, "F0semitoneFrom27.5Hz_sma3nz_amean") == pytest.approx(36, abs=0.1)
    assert functional(tone, "F0semitoneFrom27.5Hz_sma3nz_pctlrange0-2") == pytest.approx(0, abs=0.1)
    louder = functional(10**0.3 * tone, "equivalentSoundLevel_dBp") - functional(tone, "equivalentSoundLevel_dBp")
    assert louder == pytest.approx(6, abs=0.05)


def test_functionals_are_those_of_the_descriptors(speech):
    # The low-level descriptors are a computation of their own in openSMILE.
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    table = smile.process_signal(speech, RATE)
    pitch = table["F0semitoneFrom27.5Hz_sma3nz"].to_numpy()
    voiced = pitch[pitch > 0]
    assert functional(speech, "F0semitoneFrom27.5Hz_sma3nz_amean") == pytest.approx(voiced.mean(), rel=1e-3)
    loudness = table["Loudness_sma3"].to_numpy()
    assert functional(speech, "loudness_sma3_amean") == pytest.approx(loudness.mean(), rel=1e-2)
    spread = loudness.std() / loudness.mean()
    assert functional(speech, "loudness_sma3_stddevNorm") == pytest.approx(spread, rel=2e-2)


def test_distance_written_out(speech, add_noise):
    statistics = json.loads(egemaps.STATISTICS.read_text())
    noisy = add_noise(speech, 20)
    total = 0.0
    originals, rebuilt = egemaps_functionals(speech, RATE), egemaps_functionals(noisy, RATE)
    for c in range(88):
        mean, std = statistics["mean"][c], statistics["std"][c]
        first, second = (max(-5.0, min(5.0, (value - mean) / std)) for value in (originals[c], rebuilt[c]))
        total += (first - second) ** 2 / 88
    assert egemaps_distance(speech, noisy, RATE) == pytest.approx(total**0.5)


def test_more_noise_is_further(speech, add_noise):
    values = [egemaps_distance(speech, add_noise(speech, snr), RATE) for snr in (30, 20, 10, 0)]
    assert 0 < values[0] < values[1] < values[2] < values[3]
    assert egemaps_distance(speech, speech, RATE) == 0
    assert egemaps_distance(add_noise(speech, 10), speech, RATE) == pytest.approx(values[2])


def test_a_value_does_not_depend_on_other_clips(speech, add_noise):
    alone = egemaps_functionals(speech, RATE)
    egemaps_functionals(add_noise(speech[:5000], 0), RATE)
    np.testing.assert_array_equal(egemaps_functionals(speech, RATE), alone)


def test_the_shipped_statistics():
    statistics = json.loads(egemaps.STATISTICS.read_text())
    assert statistics["names"] == functional_names() and statistics["constant"] == []
    assert statistics["num_clips"] == sum(source["clips"] for source in statistics["sources"]) > 2000
    # A real clip of the same kind, which is not among them: a scale that fits has it about one deviation from the mean.
    clip, rate = soundfile.read(demo_clip_path())
    embedding = egemaps_embedding(clip, rate)
    assert embedding.shape == (88,)
    assert 0.3 < np.sqrt((embedding**2).mean()) < 1.5
    np.testing.assert_allclose(
        embedding, np.clip((egemaps_functionals(clip, rate) - statistics["mean"]) / statistics["std"], -5, 5)
    )


def test_constant_functionals_are_left_out(speech, tmp_path, monkeypatch):
    rows = np.random.default_rng(0).standard_normal((5, 88))
    rows[:, 7] = 0.3
    rows[:, 80] = 0
    statistics = functional_statistics(rows)
    assert statistics["constant"] == [functional_names()[7], functional_names()[80]]
    np.testing.assert_allclose(statistics["mean"], rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics["std"], rows.std(0), rtol=1e-6, atol=1e-12)

    (tmp_path / "statistics.json").write_text(json.dumps(statistics))
    monkeypatch.setattr(egemaps, "STATISTICS", tmp_path / "statistics.json")
    egemaps._fixed_statistics.cache_clear()
    try:
        embedding = egemaps_embedding(speech, RATE)
    finally:
        egemaps._fixed_statistics.cache_clear()
    assert embedding.shape == (86,) and np.isfinite(embedding).all()


def test_statistics_from_files(speech, synthesize_speech, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    import io

    import pyarrow

    clips = [speech, synthesize_speech(1.2, seed=2), np.zeros(RATE, np.float32)]
    rows = []
    for index, clip in enumerate(clips):
        file = io.BytesIO()
        soundfile.write(file, clip, RATE, format="FLAC", subtype="PCM_16")
        rows.append({"audio": {"bytes": file.getvalue(), "path": f"{index}.flac"}})
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "clips.parquet")
    assert egemaps.main([str(tmp_path / "clips.parquet"), "--out", str(tmp_path / "out.json")]) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["num_clips"] == 2
    assert written["sources"][0]["failures"] == ["2.flac: `waveform` is silent: every sample is zero"]
    quantized = [np.round(clip.astype(np.float64) * 32767) / 32768 for clip in clips[:2]]
    expected = np.mean([egemaps_functionals(clip, RATE) for clip in quantized], axis=0)
    np.testing.assert_allclose(written["mean"], expected, rtol=0.05, atol=0.5)


def test_clips_that_cannot_be_measured(speech):
    with pytest.raises(ValueError, match="`sampling_rate` must be 16000, got 8000"):
        egemaps_functionals(speech, 8000)
    with pytest.raises(ValueError, match="`waveform` must have at least 960 samples, got 959"):
        egemaps_functionals(speech[:959], RATE)
    assert np.isfinite(egemaps_functionals(speech[4000:4960], RATE)).all()
    with pytest.raises(ValueError, match="^`degraded` is silent"):
        egemaps_distance(speech, np.zeros_like(speech), RATE)
    with pytest.raises(ValueError, match=r"`functionals` must have shape \[N >= 2, 88\]"):
        functional_statistics(np.zeros((1, 88)))


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    monkeypatch.delitem(sys.modules, "hf_affectcodec.metrics.egemaps", raising=False)
    with pytest.raises(ImportError, match=r"^eGeMAPS functionals need the package `opensmile`: .*\[eval\]'$"):
        import hf_affectcodec.metrics.egemaps  # noqa: F401
