"""Votes against loops over members, and the repository that lists them."""

import collections
import json

import numpy as np
import pytest
import torch
from tiny_ser import LABELS, noise, save_graph_fusion, save_token_fusion
from transformers import AutoFeatureExtractor, pipeline

from hf_affectcodec import AffectCodecFeatureExtractor, SEREnsembleConfig, SEREnsembleForAudioClassification
from hf_affectcodec.modeling.encoders_graph_fusion import GraphFusionEncoders
from hf_affectcodec.modeling.voting_ser_ensemble import fit_temperature, majority_vote, soft_vote


def test_majority_is_the_counters_first_most_common():
    """The public code's rule: `Counter.most_common`, whose first of equals is the one that was counted first."""
    torch.manual_seed(0)
    logits = torch.randn(500, 6, 4)
    shares = majority_vote(logits).softmax(-1)
    ties = 0
    for row, votes in zip(shares, logits.argmax(-1).tolist(), strict=True):
        ranked = collections.Counter(votes).most_common()
        assert int(row.argmax()) == ranked[0][0]
        ties += len(ranked) > 1 and ranked[0][1] == ranked[1][1]
        for label, count in ranked:
            assert abs(float(row[label]) - count / 6) < 1e-3
        assert all(row[label] < 1e-6 for label in range(4) if label not in votes)
    assert ties > 50
    assert majority_vote(logits).isfinite().all()


def test_soft_vote_is_the_mean_of_probabilities():
    logits = torch.randn(7, 3, 5) * 4
    expected = torch.stack([torch.stack([member.softmax(0) for member in item]).mean(0) for item in logits])
    torch.testing.assert_close(soft_vote(logits).exp(), expected)


def test_temperature_is_found():
    """Labels drawn from softmax(z / 2.5) ask for a temperature of 2.5."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=generator) * 5
    labels = torch.multinomial((logits / 2.5).softmax(-1), 1, generator=generator)[:, 0]
    found = fit_temperature(logits, labels)
    assert abs(found - 2.5) < 0.1
    losses = [
        float(torch.nn.functional.cross_entropy(logits / t, labels)) for t in (found * 0.98, found, found * 1.02)
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]
    with pytest.raises(ValueError, match="no temperature is best"):
        fit_temperature(logits, logits.argmax(-1))
    with pytest.raises(ValueError, match="`logits` must be"):
        fit_temperature(logits, labels[:3])


@pytest.fixture
def members(tmp_path):
    """Two token fusions whose classes are in other orders."""
    save_token_fusion(tmp_path / "first", "encoder", seed=1)
    save_token_fusion(tmp_path / "second", "encoder", seed=2, names=LABELS[::-1])
    return [str(tmp_path / "first"), str(tmp_path / "second")]


def scores(folder, waveform) -> dict:
    classifier = pipeline("audio-classification", model=str(folder), device="cpu")
    return {row["label"]: row["score"] for row in classifier({"array": waveform, "sampling_rate": 16000})}


def test_repository(members, tmp_path):
    ensemble = SEREnsembleForAudioClassification.from_members(members, "soft", temperatures=[2.0, 0.5])
    ensemble.save_pretrained(tmp_path / "ensemble")
    AffectCodecFeatureExtractor().save_pretrained(tmp_path / "ensemble")
    saved = json.loads((tmp_path / "ensemble/config.json").read_text())
    assert saved["members"] == ["./member-0", "./member-1"] and ensemble.config.members == members
    for name in ("first", "second"):
        (tmp_path / name).rename(tmp_path / f"gone {name}")

    waveform = noise(0.8)
    sharpened = []
    for name, temperature in (("first", 2.0), ("second", 0.5)):
        found = scores(tmp_path / f"gone {name}", waveform)
        powers = {label: score ** (1 / temperature) for label, score in found.items()}
        sharpened.append({label: power / sum(powers.values()) for label, power in powers.items()})
    expected = {label: np.mean([item[label] for item in sharpened]) for label in LABELS}
    assert scores(tmp_path / "ensemble", waveform) == pytest.approx(expected, abs=1e-5)

    again = SEREnsembleForAudioClassification.from_pretrained(tmp_path / "ensemble").eval()
    again.save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy/config.json").read_text())["members"] == saved["members"]
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "ensemble")
    waveforms = [waveform, noise(0.4, 3)]
    batch = extractor(waveforms, sampling_rate=16000, return_tensors="pt")
    outputs = again(**batch, labels=torch.tensor([0, 2]))
    assert outputs.member_logits.shape == (2, 2, 3) and set(again.state_dict()) == {"temperatures"}
    for row, clip in enumerate(waveforms):
        alone = again(**extractor(clip, sampling_rate=16000, return_tensors="pt")).logits[0]
        assert (alone - outputs.logits[row]).abs().max() < 1e-5
    assert float(outputs.loss) == pytest.approx(-float(outputs.logits[0, 0] + outputs.logits[1, 2]) / 2, abs=1e-5)


def test_graph_fusions_share_their_encoders(tmp_path, monkeypatch):
    names = [str(tmp_path / "a"), str(tmp_path / "b")]
    for seed, name in enumerate(names):
        save_graph_fusion(tmp_path / name, seed, encoders=tmp_path / "encoders")
    runs, call = [], GraphFusionEncoders.__call__
    monkeypatch.setattr(GraphFusionEncoders, "__call__", lambda *a: runs.append(1) or call(*a))
    waveform = noise(0.7)
    ensemble = SEREnsembleForAudioClassification.from_members(names, "soft")
    logits = ensemble.member_logits(torch.from_numpy(np.pad(waveform, (0, -len(waveform) % 320))))
    assert len(runs) == 1
    for row, name in zip(logits.softmax(-1).tolist(), names, strict=True):
        assert dict(zip(LABELS, row, strict=True)) == pytest.approx(scores(name, waveform), abs=1e-5)


def test_bad_members_are_named(members, tmp_path):
    with pytest.raises(ValueError, match="`members` must name"):
        SEREnsembleForAudioClassification.from_members([])
    save_token_fusion(tmp_path / "other", "encoder", names=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"`members`: one has the classes \['a', 'b', 'c'\]"):
        SEREnsembleForAudioClassification.from_members([members[0], str(tmp_path / "other")])
    with pytest.raises(ValueError, match="`temperatures` must be 1 positive"):
        SEREnsembleForAudioClassification.from_members(members[:1], temperatures=[0.0])
    with pytest.raises(Exception, match="`vote` must be one of"):
        SEREnsembleConfig(vote="mean")
    with pytest.raises(Exception, match="`member_revisions` names"):
        SEREnsembleConfig(members=["a/b"], member_revisions={"a/c": "main"})
    outside = tmp_path / "first/config.json"
    outside.write_text(outside.read_text().replace('"./hubert"', '"../first/hubert"'))
    ensemble = SEREnsembleForAudioClassification.from_members(members)
    with pytest.raises(ValueError, match=r"`members\[0\]` needs '\.\./first/hubert', outside of its folder"):
        ensemble.save_pretrained(tmp_path / "ensemble")
