"""The report of token fusion runs, on hand-made folds."""

import json

import numpy as np
import pytest
import report_token_fusion
import torch
from report_token_fusion import build_report, draw_degradation, draw_layer_attention, layer_attention, read_run
from safetensors.torch import save_file
from sklearn.metrics import f1_score

from hf_affectcodec.modeling.configuration_token_fusion import TokenFusionConfig
from hf_affectcodec.modeling.modeling_token_fusion import TokenFusionForAudioClassification


SPEAKERS = ("ada", "bob", "cleo", "dan")
TINY = {"num_streams": 2, "vocab_size": 8, "hidden_size": 6, "classifier_hidden_size": 4, "num_labels": 2}
LABELS = [0, 0, 1]  # of every speaker's clips


def save_run(folder, wrong: dict[str, int], speakers=SPEAKERS, **changes):
    """A run whose fold of a speaker gets the clip of that number wrong (none: all right)."""
    torch.manual_seed(0)
    model = TokenFusionForAudioClassification(TokenFusionConfig(**{**TINY, "initializer_range": 1.0, **changes}))
    for index, speaker in enumerate(speakers):
        path = folder / f"fold-{index:02d}"
        model.save_pretrained(path / "model")
        predicted = [1 - label if wrong.get(speaker) == row else label for row, label in enumerate(LABELS)]
        fold = {
            "speakers": [speaker],
            "names": [f"{speaker} {row}" for row in range(3)],
            "labels": LABELS,
            "logits": np.eye(2)[predicted].tolist(),
        }
        (path / "predictions.json").write_text(json.dumps(fold))
    return model.eval()


def test_table_by_hand(tmp_path):
    save_run(tmp_path / "continuous", {"ada": 0}, quantized=False)
    save_run(tmp_path / "worse continuous", {"ada": 0, "bob": 0}, quantized=False)
    save_run(tmp_path / "tokens", {"ada": 2, "bob": 2, "cleo": 2}, tokenizer_layers=[3, 5])
    single = {"layer_fusion": "single", "single_stream": 1, "tokenizer_layers": [3, 5]}
    save_run(tmp_path / "few", {}, speakers=SPEAKERS[:2], **single)
    names = ("continuous", "worse continuous", "tokens", "few")
    runs = [read_run(tmp_path / name) for name in names]
    baseline = dict.fromkeys(SPEAKERS, 0.5)
    report = build_report(runs, {"coin": baseline})
    assert report["reference"] == "continuous"
    systems = report["systems"]
    assert list(systems) == ["majority", "coin", *names]
    # one of [0, 0, 1] wrong: F1 of 2/3 and 2/3 for the first clip, 4/5 and 0 for the last
    assert systems["continuous"]["macro_f1"]["mean"] == pytest.approx((3 + 2 / 3) / 4)
    assert systems["tokens"]["macro_f1"]["mean"] == pytest.approx((1 + 3 * 0.4) / 4)
    assert systems["majority"]["macro_f1"]["mean"] == pytest.approx(0.4)
    assert systems["few"]["macro_f1"]["n"] == 2 and systems["few"]["against_reference"]["folds"] == 2
    expected = f1_score(LABELS * 4, [0, 0, 0] * 3 + LABELS, average="macro")
    together = systems["tokens"]["all_clips"]
    # 9 of 12 clips right; of class 0 all 8, of class 1 one of 4
    assert together == pytest.approx(
        {
            "macro_f1": expected,
            "unweighted_accuracy": (1 + 1 / 4) / 2,
            "weighted_accuracy": 9 / 12,
            "seeds": 1,
            "macro_f1_std_over_seeds": 0,
        }
    )
    against = systems["tokens"]["against_reference"]
    assert against["difference"]["mean"] == pytest.approx((0.4 - 2 / 3 + 2 * (0.4 - 1)) / 4)
    assert against["ratio"] == pytest.approx(2.2 / (3 + 2 / 3))
    # three differences of one sign, the fourth zero: of 16 sign patterns the 2 (+++ and ---) times 2
    assert against["p"] == pytest.approx(4 / 16)
    assert [systems[name]["single_layer"] for name in ("tokens", "few")] == [None, 5]  # stream 1 of layers 3 and 5
    # 50 frames of 2 streams of 3 bits; a single stream of the two
    assert [systems[name]["bitrate"] for name in names] == [None, None, 300, 150]
    assert [systems[name]["clusters"] for name in names] == [None, None, 8, 8]
    table = report_token_fusion.markdown(report)
    assert (
        "| tokens | 2 | 8 | 300 | none | 4 | 1 | 0.550 " in table
        and "| continuous | 2 | continuous |  | none |" in table
    )
    with pytest.raises(ValueError, match="`--reference` must be named"):
        build_report(runs[2:], {})
    with pytest.raises(ValueError, match="`--reference` must be one of"):
        build_report(runs, {}, "other")
    with pytest.raises(ValueError, match="two folders of one name"):
        build_report([runs[0], runs[0]], {})
    with pytest.raises(ValueError, match="holds no fold"):
        read_run(tmp_path)

    figure = draw_degradation(report)
    drawn = [
        round(float(line.get_ydata()[0]), 4) for axis in figure.axes for line in axis.lines if line.get_marker() == "o"
    ]
    # tokens in the panel of K, the single layer in its own, both in that of bitrate
    assert drawn == [0.55, 1.0, 0.55, 1.0]
    assert [axis.get_xlabel() for axis in figure.axes] == ["K (clusters a layer)", "layer, alone", "bit/s"]


def test_seeds_are_averaged_fold_by_fold(tmp_path):
    save_run(tmp_path / "continuous", {}, quantized=False)
    save_run(tmp_path / "two/seed-0", {"ada": 0})
    save_run(tmp_path / "two/seed-1", {"ada": 2, "bob": 2}, speakers=SPEAKERS[:3])
    run = read_run(tmp_path / "two")
    # ada: 2/3 and 0.4; bob: 1 and 0.4; dan is in the first seed alone
    assert run.scores == pytest.approx({"ada": (2 / 3 + 0.4) / 2, "bob": 0.7, "cleo": 1, "dan": 1})
    row = build_report([read_run(tmp_path / "continuous"), run], {})["systems"]["two"]
    assert row["all_clips"]["seeds"] == 2 and row["all_clips"]["weighted_accuracy"] == pytest.approx(
        (11 / 12 + 7 / 9) / 2
    )
    assert row["macro_f1"]["n"] == 4 and row["all_clips"]["macro_f1_std_over_seeds"] > 0


@pytest.mark.parametrize("quantized", [True, False])
def test_layer_attention_is_that_of_the_tested_clips(tmp_path, quantized):
    model = save_run(tmp_path / "run", {}, quantized=quantized, opensmile_fusion="late", opensmile_size=3)
    if quantized:
        model.set_centroids(torch.randn(2, 8, 6))
        for path in (tmp_path / "run").glob("fold-*/model"):
            model.save_pretrained(path)
    names = [f"{speaker} {row}" for speaker in SPEAKERS for row in range(3)]
    streams = {str(index): torch.randn(4 + index % 3, 2, 6).half() for index in range(len(names))}
    (tmp_path / "streams").mkdir()
    for part in range(2):
        tensors = {key: value for key, value in streams.items() if int(key) % 2 == part}
        path = tmp_path / f"streams/streams-{part:05d}-of-00002.safetensors"
        save_file(tensors, path, metadata={"settings": json.dumps({"names": names})})
    found = layer_attention(read_run(tmp_path / "run"), tmp_path / "streams")
    assert found.shape == (4, 2) and np.allclose(found.sum(1), 1, atol=1e-5) and found.std(0).min() > 1e-4
    for fold in range(4):
        weights = []
        for row in range(3):
            values = streams[str(3 * fold + row)][None].float()
            given = {"input_ids": model.features_to_tokens(values)} if quantized else {"input_features": values}
            with torch.no_grad():
                outputs = model(**given, opensmile_features=torch.zeros(1, 3))
            weights += list(outputs.layer_attention[0].numpy())
        assert np.allclose(np.mean(weights, 0), found[fold], atol=1e-5)
    figure = draw_layer_attention({"run": found}, {"run": [3, 5]})
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert np.allclose(heights, found.mean(0)) and [t.get_text() for t in figure.axes[0].get_xticklabels()] == [
        "3",
        "5",
    ]


def test_command(tmp_path, capsys):
    save_run(tmp_path / "a", {"ada": 0}, quantized=False)
    save_run(tmp_path / "b", {"bob": 1})
    runs = [str(tmp_path / name) for name in "ab"]
    report_token_fusion.main(["--runs", *runs, "--out", str(tmp_path / "out")])
    assert "| b | 2 | 8 | 300 |" in capsys.readouterr().out
    assert (tmp_path / "out/report.md").read_text().startswith("| system |")
    assert (tmp_path / "out/degradation.png").stat().st_size > 5000
    assert json.loads((tmp_path / "out/report.json").read_text())["reference"] == "a"
