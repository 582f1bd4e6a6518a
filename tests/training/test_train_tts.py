"""Training of the speech language model: it learns by heart and says it, resumes bit for bit, and batches as it says."""

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import tokenize_corpus
import torch
import train_tts
from accelerate.state import AcceleratorState, GradientState, PartialState
from codec_embeddings import codebook_embeddings
from recipe import DataSource
from safetensors.torch import load_file
from tiny import tiny_model
from tokenize_corpus import load_corpus_codec
from train_tts import guided_loss, guided_weight
from transformers import GenerationConfig, pipeline
from tts_batches import (
    DynamicBatches,
    Utterance,
    align,
    begin_with_emotions,
    collate,
    collate_alignments,
    continue_prompt,
    load_utterances,
    segment_prompt,
)
from tts_evaluation import evaluate, fill_codebooks
from tts_recipe import GuidedAttentionRecipe, load_recipe

from hf_affectcodec import AffectCodecFeatureExtractor, AffectCodecTTSForConditionalGeneration, AffectCodecTTSProcessor


ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "training/recipes/tts/smoke.yaml"
TEXTS = ["yes", "oh no", "go on", "why not"]
SECONDS = [0.4, 0.5, 0.6, 0.45]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """A tiny codec; four clips of noise with texts, and their codes."""
    folder = tmp_path_factory.mktemp("data")
    tiny_model(guidance_sources=(), alignment_feature_size=None).save_pretrained(folder / "codec")
    AffectCodecFeatureExtractor().save_pretrained(folder / "codec")
    rows = []
    for index, seconds in enumerate(SECONDS):
        buffer = io.BytesIO()
        noise = np.random.default_rng(index).standard_normal(round(seconds * 16000)) * 0.2
        soundfile.write(buffer, noise, 16000, format="FLAC")
        rows.append({"bytes": buffer.getvalue(), "path": f"clip_{index}.flac"})
    table = {"audio": rows, "text": TEXTS, "language": ["en", "en-gb", "en", "en"]}
    pq.write_table(pa.table({name: pa.array(values) for name, values in table.items()}), folder / "clips.parquet")
    _reset()
    tokenize_corpus.main(
        ["--model", str(folder / "codec"), "--source", str(folder / "clips.parquet"), "--split", "train"]
        + ["--keep", "text", "language", "--output-dir", str(folder / "codes")]
    )
    (codes,) = (folder / "codes").glob("*.parquet")
    for name in ("train", "validation"):
        (folder / f"{name}.parquet").write_bytes(codes.read_bytes())
    return folder


def _reset():
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def run(output_dir, data_root, stage, *arguments, changes=()):
    _reset()
    changes = [f"codec={data_root / 'codec'}", *changes]
    arguments = [*arguments, *(part for change in changes for part in ("--set", change))]
    train_tts.main(
        ["--recipe", str(SMOKE), "--data-root", str(data_root), "--output-dir", str(output_dir), "--stage", stage]
        + [str(argument) for argument in arguments]
    )


def rows_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def by_heart(data_root, tmp_path_factory):
    """Both stages, trained until they know the four utterances."""
    folder = tmp_path_factory.mktemp("by_heart")
    changes = ["model.hidden_size=64", "model.intermediate_size=128", "model.dropout=0.0"]
    changes += ["scaled_adam.decay_epochs=1000", "evaluate_every=1000", "checkpoint_every=1000", "evaluation_clips=4"]
    run(folder, data_root, "ar", changes=[*changes, "ar.epochs=90", "ar.num_buckets=1"])
    run(folder, data_root, "nar", changes=[*changes, "nar.epochs=170", "nar.num_buckets=1", "nar.no_prompt_share=0.5"])
    return folder


def test_what_was_learnt_is_said(by_heart, data_root):
    ar, nar = (rows_of(by_heart / stage)[-1] for stage in ("ar", "nar"))
    assert ar["validation_accuracy_0"] == 1.0 and ar["validation_reached_limit"] == 0.0
    # With half an utterance of prompt the other half is known, in every codebook.
    assert all(nar[f"validation_accuracy_{k}"] > 0.9 for k in range(1, 8))
    pipe = pipeline("text-to-speech", model=str(by_heart / "model"))
    codes = pq.read_table(data_root / "train.parquet").column("audio_codes").to_pylist()
    for text, truth in zip(TEXTS, codes, strict=True):
        output = pipe(text, forward_params={"do_sample": False})
        with torch.no_grad():
            expected = pipe.model.codec_model.decode(torch.tensor(truth)[None]).audio_values
        assert output["audio"].size == expected.numel(), text
        same = np.abs(output["audio"].ravel() - expected.numpy().ravel()) < 1e-4
        assert same.mean() > 0.5, text


def test_what_a_run_leaves_behind(by_heart, data_root):
    assert str(data_root) not in (by_heart / "model/config.json").read_text()
    model = AffectCodecTTSForConditionalGeneration.from_pretrained(by_heart / "model")
    for stage in ("ar", "nar"):
        assert (by_heart / stage / "loss_curves.png").stat().st_size > 10_000
        trained = load_file(by_heart / stage / "stage.safetensors")
        assert all(torch.equal(trained[name], value) for name, value in getattr(model, stage).state_dict().items())
        (samples,) = (by_heart / stage / "samples").iterdir()
        assert sorted(path.name for path in samples.iterdir()) == ["0.png", "0_rebuilt.wav", "0_spoken.wav"]
    training = [row for row in rows_of(by_heart / "ar") if "loss" in row]
    assert training[-1]["loss"] < 0.1 * training[0]["loss"] and training[-1]["epoch"] > 80
    assert AffectCodecTTSProcessor.from_pretrained(by_heart / "model").min_prompt_seconds == 0.1


def test_evaluation_counts_as_a_loop_does(by_heart, data_root):
    model = AffectCodecTTSForConditionalGeneration.from_pretrained(by_heart / "model").eval()
    model.ar.code_head.weight.data += 0.05 * torch.randn_like(model.ar.code_head.weight)
    utterances = four(data_root)
    right = total = 0
    for utterance in utterances:
        codes = torch.from_numpy(utterance.codes).long()[None]
        with torch.no_grad():
            logits = model(torch.tensor([utterance.phonemes]), codes).logits[0]
        truth = [*utterance.codes[0].tolist(), 64]
        right += sum(int(row.argmax()) == code for row, code in zip(logits, truth, strict=True))
        total += len(truth)
    settings = load_recipe(SMOKE).ar
    assert evaluate(model, "ar", utterances, settings)["accuracy_0"] == pytest.approx(right / total)
    assert set(evaluate(model, "nar", utterances, settings)) == {"loss", *(f"accuracy_{k}" for k in range(1, 8))}
    # The second stage alone is heard over the true first codebook: for what it knows, that is the codec's resynthesis.
    with torch.no_grad():
        expected = model.codec_model.decode(torch.from_numpy(utterances[1].codes).long()[None]).audio_values[0]
    assert ((fill_codebooks(model, None, utterances[1], None) - expected).abs() < 1e-4).float().mean() > 0.9


@pytest.mark.parametrize(
    "stage, changes",
    [
        ("nar", ["nar.accumulate=2", "nar.max_seconds=1.2", "nar.epochs=9"]),
        pytest.param("ar", ["ar.epochs=5", "adamw={warmup_steps: 2}"], marks=pytest.mark.slow),
    ],
)
def test_resume_twice_equals_an_unbroken_run(data_root, tmp_path, stage, changes):
    changes = [*changes, "model.dropout=0.1", "log_every=4", "evaluate_every=5", "checkpoint_every=100"]
    run(tmp_path / "unbroken", data_root, stage, changes=changes)
    run(tmp_path / "broken", data_root, stage, "--stop-at", 3, changes=changes)
    torch.manual_seed(99)
    run(tmp_path / "broken", data_root, stage, "--resume", "--stop-at", 7, changes=changes)
    torch.manual_seed(98)
    run(tmp_path / "broken", data_root, stage, "--resume", changes=changes)
    first, second = (load_file(tmp_path / name / stage / "stage.safetensors") for name in ("unbroken", "broken"))
    assert set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)
    last = [rows_of(tmp_path / name / stage)[-1] for name in ("unbroken", "broken")]
    assert last[0] == last[1] and "validation_loss" in last[0]
    with pytest.raises(SystemExit, match="already at step"):
        run(tmp_path / "broken", data_root, stage, "--resume", "--stop-at", 1, changes=changes)
    with pytest.raises(SystemExit, match="`model` of the recipe differs"):
        run(tmp_path / "broken", data_root, stage, "--resume", changes=[*changes, "model.hidden_size=64"])
    with pytest.raises(SystemExit, match="holds checkpoints"):
        run(tmp_path / "broken", data_root, stage, changes=changes)


def trained_step(data_root, tmp_path, groups, monkeypatch, *changes):
    """The autoregressive part after one step on given batches."""
    monkeypatch.setattr(DynamicBatches, "__getitem__", lambda self, step: groups)
    changes = [*changes, f"ar.accumulate={len(groups)}", "ar.epochs=1", "ar.max_seconds=100", "model.dropout=0.0"]
    changes += ["adamw={learning_rate: 0.01, warmup_steps: 0, max_grad_norm: 0.01}", "evaluation_clips=0"]
    run(tmp_path, data_root, "ar", "--stop-at", 1, changes=changes)
    return load_file(tmp_path / "ar/stage.safetensors"), rows_of(tmp_path / "ar")[0]


@pytest.mark.parametrize("change", ["seed=0", "guided_attention={layers: [1], heads: 2}"])
def test_accumulated_batches_are_one_batch(data_root, tmp_path, monkeypatch, change):
    whole, one = trained_step(data_root, tmp_path / "whole", [[0, 1, 2, 3]], monkeypatch, change)
    parts, other = trained_step(data_root, tmp_path / "parts", [[2], [0, 3, 1]], monkeypatch, change)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=2e-5, msg=name)
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert ("guided_attention_loss" in one) == ("guided" in change)


def test_biases_learn_with_a_least_size(data_root, tmp_path):
    for size, learns in ((1e-5, False), (0.01, True)):
        run(tmp_path / f"{size}", data_root, "ar", changes=[f"scaled_adam.param_min_rms={size}", "ar.epochs=10"])
        bias = load_file(tmp_path / f"{size}/ar/stage.safetensors")["model.layers.0.mlp.up_proj.bias"]
        assert (float(bias.abs().max()) > 1e-3) == learns


def test_embeddings_of_codes_start_as_the_codec_s(data_root, tmp_path):
    run(
        tmp_path, data_root, "nar", "--stop-at", 1, changes=["codec_embeddings=true", "scaled_adam.learning_rate=1e-9"]
    )
    model = AffectCodecTTSForConditionalGeneration.from_pretrained(tmp_path / "model")
    expected = codebook_embeddings(model.codec_model.quantizer, model.config.hidden_size)
    for table, own in zip(model.nar.code_embeddings, expected, strict=True):
        torch.testing.assert_close(table.weight, own, atol=1e-5, rtol=0)


def test_the_second_stage_starts_from_the_first(data_root, tmp_path):
    changes = ["nar.start_from_ar=true", "scaled_adam.learning_rate=1e-9"]
    with pytest.raises(SystemExit, match="start_from_ar"):
        run(tmp_path, data_root, "nar", changes=changes)
    run(tmp_path / "first", data_root, "ar", "--stop-at", 3)
    run(tmp_path, data_root, "nar", "--join", tmp_path / "first", "--stop-at", 1, changes=changes)
    model = AffectCodecTTSForConditionalGeneration.from_pretrained(tmp_path / "model")
    read = load_file(tmp_path / "first/ar/stage.safetensors")
    for layer, own in enumerate(model.nar.layers):
        torch.testing.assert_close(own.mlp.up_proj.weight, read[f"model.layers.{layer}.mlp.up_proj.weight"])
    # A run that is resumed goes on from its own weights, beside what the first stage has become since.
    run(tmp_path / "first", data_root, "ar", "--resume", "--stop-at", 6)
    run(tmp_path, data_root, "nar", "--resume", "--join", tmp_path / "first", "--stop-at", 2, changes=changes)
    model = AffectCodecTTSForConditionalGeneration.from_pretrained(tmp_path / "model")
    further = load_file(tmp_path / "first/ar/stage.safetensors")
    for layer, own in enumerate(model.nar.layers):
        torch.testing.assert_close(own.mlp.up_proj.weight, read[f"model.layers.{layer}.mlp.up_proj.weight"])
    for name, value in model.ar.state_dict().items():
        assert torch.equal(value, further[name]), name
    assert not torch.equal(further["code_head.weight"], read["code_head.weight"])


@pytest.mark.parametrize("stage, prefix_mode", [("ar", 0), ("nar", 0), ("nar", 1), ("nar", 2)])
def test_guided_heads_find_the_diagonal(data_root, tmp_path, stage, prefix_mode):
    changes = [f"{stage}.epochs=40", "guided_attention={layers: [1], heads: 1, weight: 20.0, width: 0.1}"]
    changes += [f"nar.prefix_mode={prefix_mode}", "model.dropout=0.0", "evaluate_every=1000", "log_every=1"]
    run(tmp_path, data_root, stage, changes=changes)
    settings = GenerationConfig.from_pretrained(tmp_path / "model")
    assert settings.alignment_heads == [[1, 0]] and not hasattr(settings, "alignment_window")
    losses = [row["guided_attention_loss"] for row in rows_of(tmp_path / stage) if "loss" in row]
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


def test_guided_attention_fades_and_checks_its_heads(data_root, tmp_path):
    run(
        tmp_path / "freed",
        data_root,
        "ar",
        changes=["ar.epochs=6", "guided_attention={layers: [1], steps: 4}", "log_every=1"],
    )
    steps = [row["step"] for row in rows_of(tmp_path / "freed/ar") if "guided_attention_loss" in row]
    assert steps == [1, 2, 3, 4]
    assert [guided_weight(GuidedAttentionRecipe(2.0, 4), step) for step in (0, 1, 3, 4, 9)] == [
        2.0,
        1.5,
        0.5,
        0.0,
        0.0,
    ]
    for change, name in (("layers: [2]", "layers"), ("layers: []", "layers"), ("layers: [0], heads: 3", "heads")):
        with pytest.raises(ValueError, match=f"guided_attention.{name}"):
            run(tmp_path / "bad", data_root, "ar", changes=[f"guided_attention={{{change}}}"])


def test_lora_trains_an_adapter_that_loads(by_heart, data_root, tmp_path):
    changes = [f"init_from={by_heart / 'model'}", "lora={r: 4, lora_alpha: 8}", "ar.epochs=5"]
    changes += ["adamw={learning_rate: 0.01, warmup_steps: 0}"]
    run(tmp_path, data_root, "ar", changes=[*changes, "evaluation_clips=0"])
    assert not (tmp_path / "model").exists()
    files = {path.name for path in (tmp_path / "adapter-ar").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    adapter = load_file(tmp_path / "adapter-ar/adapter_model.safetensors")
    # Two layers of six linear maps, an A and a B each, of the trained stage only.
    assert len(adapter) == 24 and all("ar.model.layers" in name and "nar." not in name for name in adapter)
    plain = AffectCodecTTSForConditionalGeneration.from_pretrained(by_heart / "model").eval()
    adapted = AffectCodecTTSForConditionalGeneration.from_pretrained(by_heart / "model").eval()
    adapted.load_adapter(str(tmp_path / "adapter-ar"))
    batch = collate(four(data_root))
    with torch.no_grad():
        before, after = plain(**batch).logits, adapted(**batch).logits
        adapted.disable_adapters()
        without = adapted(**batch).logits
    assert (before - after).abs().max() > 1e-3 and torch.equal(before, without)


@pytest.mark.slow
def test_an_emotion_decides_how_a_text_is_said(data_root, tmp_path):
    """The same words to two labels, in other codes each: nothing but the symbol of the label tells them apart."""
    table = pq.read_table(data_root / "train.parquet").slice(0, 2)
    table = table.set_column(table.column_names.index("text"), "text", pa.array(["go", "go"]))
    for name in ("train", "validation"):
        pq.write_table(table.append_column("emotion", pa.array(["angry", "calm"])), tmp_path / f"{name}.parquet")
    source = f"[{{source: {tmp_path}/train.parquet, column_map: {{text: text, emotion: emotion}}}}]"
    changes = [f"codec={data_root / 'codec'}", f"train={source}", f"validation={source}", "emotions=[angry, calm]"]
    changes += ["emotion_dropout=0.2", "ar.epochs=90", "ar.num_buckets=1", "evaluate_every=1000"]
    changes += ["model.dropout=0.0", "model.hidden_size=64", "scaled_adam.decay_epochs=1000"]
    run(tmp_path / "run", data_root, "ar", changes=changes)
    assert rows_of(tmp_path / "run/ar")[-1]["validation_accuracy_0"] == 1.0
    model = AffectCodecTTSForConditionalGeneration.from_pretrained(tmp_path / "run/model").eval()
    processor = AffectCodecTTSProcessor.from_pretrained(tmp_path / "run/model")
    for emotion, codes in zip(["angry", "calm"], table.column("audio_codes").to_pylist(), strict=True):
        for guidance in (1.0, 2.0):
            inputs = processor("go", emotion=emotion)
            outputs = model.generate(**inputs, do_sample=False, emotion_guidance=guidance, max_new_frames=60)
            assert outputs.audio_codes[0, 0].tolist() == codes[0]


def test_emotions_are_dropped_by_their_share():
    utterances = [replace(u, emotion=99 if i % 2 else None) for i, u in enumerate(utterances_of([5] * 400))]
    begun = begin_with_emotions(utterances, 0.3, np.random.default_rng(0))
    dropped = 0
    for before, after in zip(utterances, begun, strict=True):
        if before.emotion is None:
            assert after.phonemes == before.phonemes
        else:
            dropped += after.phonemes == before.phonemes
            assert after.phonemes in (before.phonemes, [99, *before.phonemes])
    assert 40 < dropped < 80


# Data


def four(data_root, **columns):
    source = DataSource(
        str(data_root / "train.parquet"), column_map=columns or {"text": "text", "language": "language"}
    )
    processor = AffectCodecTTSProcessor(AffectCodecFeatureExtractor())
    return load_utterances(source, processor, load_corpus_codec(str(data_root / "codec")), "en", 0.1, 10.0)


def test_utterances_are_what_was_said(data_root):
    utterances = four(data_root)
    processor = AffectCodecTTSProcessor(AffectCodecFeatureExtractor())
    assert [u.text for u in utterances] == TEXTS and [u.frames for u in utterances] == [20, 25, 30, 23]
    spoken = [processor.decode(utterance.phonemes) for utterance in utterances]
    assert spoken == ["jˈɛs", "ˈəʊ nˈəʊ", "ɡˌoʊ ˈɔn", "wˌaɪ nˈɑːt"]


def test_alignments_are_read_and_move_with_the_emotion(data_root, tmp_path):
    """Symbols that end at .1, .1, .3 and 9 s; 50 frames a second."""
    ends = [0.1, 0.1, 0.3, 9.0]
    assert align(ends, 20, 50.0).tolist() == [0] * 5 + [2] * 10 + [3] * 5 and align([0.1], 8, 50.0).tolist() == [0] * 8
    table = pq.read_table(data_root / "train.parquet")
    # Of the third the vocabulary lacks a symbol.
    table = table.append_column("phonemes", pa.array(["jˈɛs", "noʊ", "a☃b", "wˌaɪ"]))
    table = table.append_column("phoneme_ends", pa.array([ends, [], [0.1, 0.2, 0.3], ends]))
    pq.write_table(table, tmp_path / "aligned.parquet")
    source = DataSource(
        str(tmp_path / "aligned.parquet"), column_map={"phonemes": "phonemes", "phoneme_ends": "phoneme_ends"}
    )
    processor = AffectCodecTTSProcessor(AffectCodecFeatureExtractor())
    read = load_utterances(source, processor, load_corpus_codec(str(data_root / "codec")), "en", 0.1, 10.0)
    assert [u.alignment is None for u in read] == [False, True, True, False]
    moody = begin_with_emotions([replace(read[0], emotion=9), read[3]], 0.0, np.random.default_rng(0))
    assert len(moody[0].phonemes) == 5 and moody[0].alignment.tolist() == (read[0].alignment + 1).tolist()
    together = collate_alignments([read[0], read[1], *moody])
    assert together.shape == (4, 25) and together[0, :20].tolist() == align(ends, 20, 50.0).tolist()
    assert (together[1] == -1).all() and (together[0, 20:] == -1).all() and int(together[2, 0]) == 1


def test_clips_are_encoded_to_the_same_codes(data_root):
    columns = {"audio": "audio", "text": "text", "language": "language"}
    source = DataSource(str(data_root / "clips.parquet"), column_map=columns)
    codec = load_corpus_codec(str(data_root / "codec"))
    clips = load_utterances(source, AffectCodecTTSProcessor(AffectCodecFeatureExtractor()), codec, "en", 0.1, 10.0)
    for clip, stored in zip(clips, four(data_root), strict=True):
        assert clip.phonemes == stored.phonemes and np.array_equal(clip.codes, stored.codes)


def test_what_cannot_be_trained_on_is_left_out_or_named(data_root, tmp_path, capsys):
    with pytest.raises(ValueError, match="either `text` or `phonemes`"):
        four(data_root, language="language")
    with pytest.raises(ValueError, match="no column 'words'"):
        four(data_root, text="words")
    assert [u.frames for u in four(data_root, phonemes="text")] == [20, 25, 30, 23]
    processor, codec = (
        AffectCodecTTSProcessor(AffectCodecFeatureExtractor()),
        load_corpus_codec(str(data_root / "codec")),
    )
    source = DataSource(str(data_root / "train.parquet"), column_map={"text": "text"})
    table = pq.read_table(data_root / "train.parquet")
    texts = pa.array([None, "!", "go on", "why not"])
    changed = table.set_column(table.column_names.index("text"), "text", texts)
    pq.write_table(changed, tmp_path / "gaps.parquet")
    gaps = replace(source, source=str(tmp_path / "gaps.parquet"))
    assert [u.text for u in load_utterances(gaps, processor, codec, "en", 0.1, 0.5)] == ["why not"]
    tagged = replace(source, column_map={"text": "text", "language": "language"})
    assert [u.language for u in load_utterances(tagged, processor, codec, "en", 0.1, 10, ["en-gb"])] == ["en-gb"]
    assert "3 of other languages" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no utterance is left"):
        load_utterances(gaps, processor, codec, "en", 2.0, 3.0)
    other = tiny_model(guidance_sources=(), alignment_feature_size=None, hidden_size=16)
    other.save_pretrained(tmp_path / "other")
    AffectCodecFeatureExtractor().save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="codes of another codec, 'codec'"):
        load_utterances(source, processor, load_corpus_codec(str(tmp_path / "other")), "en", 0.1, 10.0)


# Batches


def test_every_utterance_once_an_epoch_within_the_limit():
    frames = np.random.default_rng(0).integers(25, 700, 300).tolist()
    batches = DynamicBatches(frames, max_frames=2000, seed=3)
    for epoch in (0, 1):
        groups = batches.epoch_batches(epoch)
        assert Counter(index for group in groups for index in group) == Counter(range(300))
        assert all(len(group) * max(frames[index] for index in group) <= 2000 for group in groups)
        assert groups == DynamicBatches(frames, max_frames=2000, seed=3).epoch_batches(epoch)
    assert batches.epoch_batches(0) != batches.epoch_batches(1)

    # Buckets are there to spare padding.
    def padded(made):
        return sum(len(group) * max(frames[index] for index in group) for group in made.epoch_batches(0))

    assert padded(batches) < 1.25 * sum(frames) < padded(DynamicBatches(frames, 2000, seed=3, num_buckets=1))


def test_an_utterance_over_the_limit_is_a_batch():
    groups = DynamicBatches([10, 500, 10], max_frames=100, seed=0, num_buckets=3).epoch_batches(0)
    assert [1] in groups and sorted(index for group in groups for index in group) == [0, 1, 2]


@pytest.mark.parametrize("world_size, accumulate", [(1, 1), (2, 1), (3, 2)])
def test_ranks_share_an_epoch(world_size, accumulate):
    frames = np.random.default_rng(1).integers(10, 90, 60).tolist()
    ranks = [DynamicBatches(frames, 150, 0, accumulate, world_size, rank) for rank in range(world_size)]
    whole = DynamicBatches(frames, 150, 0).epoch_batches(1)
    count = ranks[0].steps_per_epoch
    assert count == -(-len(whole) // (world_size * accumulate))
    given = [group for step in range(count, 2 * count) for rank in ranks for group in rank[step]]
    assert given == (whole + whole)[: count * world_size * accumulate]


def utterances_of(lengths):
    generator = np.random.default_rng(4)
    return [
        Utterance(str(i), "", "en", list(range(2 + i)), generator.integers(0, 64, (8, n)).astype(np.int16))
        for i, n in enumerate(lengths)
    ]


def test_a_batch_holds_its_utterances_and_padding():
    utterances = utterances_of([9, 14, 11])
    batch = collate(utterances)
    for row, utterance in enumerate(utterances):
        assert batch["audio_codes"][row, :, : utterance.frames].tolist() == utterance.codes.tolist()
        assert batch["audio_codes_mask"][row].tolist() == [t < utterance.frames for t in range(14)]
        assert batch["input_ids"][row][batch["attention_mask"][row]].tolist() == utterance.phonemes
    assert batch["audio_codes"].dtype == torch.int64


@pytest.mark.parametrize("share, most, frames", [(0.5, 150, 4), (0.5, 3, 3), (0.99, 150, 8), (0.01, 150, 0)])
def test_prefix_mode_1_by_hand(share, most, frames):
    batch = continue_prompt(collate(utterances_of([9, 14, 11])), share, most)
    assert batch["prompt_mask"].tolist() == [[t < frames for t in range(14)]] * 3


def test_prefix_mode_2_against_a_loop():
    utterances = utterances_of([9, 14, 11])
    seen = set()
    for seed in range(20):
        batch = segment_prompt(collate(utterances), 0.5, 150, np.random.default_rng(seed))
        assert batch["audio_codes"].shape == (3, 8, 18)
        for row, utterance in enumerate(utterances):
            prompt = batch["audio_codes"][row, :, :4].tolist()
            starts = [s for s in range(utterance.frames - 3) if utterance.codes[:, s : s + 4].tolist() == prompt]
            assert len(starts) == 1
            seen.add((row, starts[0]))
            assert batch["audio_codes"][row, :, 4 : 4 + utterance.frames].tolist() == utterance.codes.tolist()
            assert batch["prompt_mask"][row].tolist() == [t < 4 for t in range(18)]
            hidden = set(range(4)) | {4 + starts[0] + t for t in range(4)}
            assert batch["loss_mask"][row].tolist() == [t not in hidden for t in range(18)]
            assert int(batch["audio_codes_mask"][row].sum()) == 4 + utterance.frames
    # Segments come from everywhere, the ends included.
    assert {(0, 0), (0, 5)} <= seen and len({start for row, start in seen if row == 1}) > 5


@pytest.mark.parametrize("prefix_mode", [0, 1, 2])
def test_guided_heads_that_follow_the_speech_pay_nothing(prefix_mode):
    said = [[0, 0, 0, 1, 1, 1, 1, 1, 1], [0] * 6 + [1, 1] + [2] * 6]
    utterances = [replace(u, alignment=np.array(a)) for u, a in zip(utterances_of([9, 14]), said, strict=True)]
    batch = {**collate(utterances), "alignment": collate_alignments(utterances), "codebooks": (1, 4)}
    if prefix_mode == 1:
        batch = continue_prompt(batch, 0.5, 150)
    elif prefix_mode == 2:
        batch = segment_prompt(batch, 0.5, 150, np.random.default_rng(0))
    first = batch["audio_codes"].shape[-1] - 14
    length = 3 + first + 14
    attention = torch.zeros(2, 2, 1, length, length)  # item, codebook, head
    for row, item in enumerate(said):
        for frame, symbol in enumerate(item):
            attention[row, :, :, 3 + first + frame, symbol] = 1
    settings = GuidedAttentionRecipe(layers=[0], heads=1, symbol_width=0.5)
    assert float(guided_loss([attention], batch, batch["alignment"], settings)) == 0
    # One frame of codebook 4 looks at the symbol beside its own.
    attention[1, 1, 0, 3 + first + 7] = torch.tensor([0.0, 0, 1] + [0] * (length - 3))
    got = float(guided_loss([attention], batch, batch["alignment"], settings))
    assert got == pytest.approx(1 - np.exp(-1 / (2 * 0.5**2)))


def test_targets_are_counted_as_the_model_has_them(by_heart):
    model = AffectCodecTTSForConditionalGeneration.from_pretrained(by_heart / "model").eval()
    batch = collate([replace(u, phonemes=[2, 3]) for u in utterances_of([9, 14, 11])])
    cases = [("ar", batch)]
    cases.append(("nar", {**continue_prompt(batch, 0.5, 150), "codebooks": (1, 4)}))
    cases.append(("nar", {**segment_prompt(batch, 0.5, 150, np.random.default_rng(0)), "codebooks": (1,)}))
    for stage, case in cases:
        with torch.no_grad():
            labels = model(**case, stage=stage).labels
        assert train_tts.num_targets(case) == int((labels != -100).sum())


def test_codebooks_of_a_batch(data_root):
    """The second one always, and each of the others about as often."""

    class Plain:
        stage, settings, recipe = "nar", load_recipe(SMOKE).nar, load_recipe(SMOKE)
        model = AffectCodecTTSForConditionalGeneration

        class accelerator:
            process_index = 0

            @staticmethod
            def unwrap_model(model):
                class config:
                    num_quantizers, max_prompt_frames = 8, 150

                return type("M", (), {"config": config})

    drawn = [train_tts.prepared_batch(Plain, utterances_of([9, 14]), step, 0) for step in range(300)]
    assert {batch["codebooks"][0] for batch in drawn} == {1}
    counts = Counter(batch["codebooks"][1] for batch in drawn)
    assert set(counts) == set(range(2, 8)) and min(counts.values()) > 30
    without = sum("prompt_mask" not in batch for batch in drawn) / 300
    assert 0.12 < without < 0.28


def test_the_text_of_a_share_is_hidden(data_root):
    """Of `text_dropout` of the utterances; without it nothing is hidden, and no random number is drawn for it."""

    class Plain:
        stage = "ar"

        class recipe:
            seed, emotion_dropout = 0, 0.1

        class settings:
            text_dropout = 0.2

        class accelerator:
            process_index = 0

    hidden = [train_tts.prepared_batch(Plain, utterances_of([9, 14]), step, 0)["hidden_text"] for step in range(300)]
    assert hidden[0].shape == (2,) and 0.16 < torch.cat(hidden).float().mean() < 0.24
    Plain.settings.text_dropout = 0.0
    assert "hidden_text" not in train_tts.prepared_batch(Plain, utterances_of([9, 14]), 0, 0)


def test_hidden_text_guides_no_attention():
    """Of two items alike, one with its text hidden, the other alone is guided."""
    settings = GuidedAttentionRecipe(layers=[0])
    batch = {"attention_mask": torch.ones(2, 3).bool(), "audio_codes_mask": torch.ones(2, 4).bool()}
    weights = torch.rand(1, 1, 9, 9).softmax(-1).expand(2, -1, -1, -1)
    both = train_tts.guided_loss([weights], batch, None, settings)
    one = train_tts.guided_loss([weights], {**batch, "hidden_text": torch.tensor([True, False])}, None, settings)
    assert float(one) == pytest.approx(float(both) / 2, rel=1e-6) and float(one) > 0


# Recipes


@pytest.mark.parametrize("name", ["affectcodec-tts", "affectcodec-tts-mini", "smoke"])
def test_recipes_are_read(name):
    recipe = load_recipe(ROOT / f"training/recipes/tts/{name}.yaml", "here")
    assert recipe.name == name and recipe.train[0].source.startswith("here/")
    assert json.loads(json.dumps(recipe.to_dict()))["nar"]["prefix_mode"] == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ("nar.prefix_mode=4", "nar.prefix_mode"),
        ("lora={r: 4}", "init_from"),
        (["lora={r: 4}", "init_from=here"], "`lora` needs `adamw`"),
        ("mixed_precision=fp8", "mixed_precision"),
        ("emotion_dropout=1.5", "emotion_dropout"),
        ("ar.text_dropout=1.5", "ar.text_dropout"),
        ("nar.text_dropout=-0.1", "nar.text_dropout"),
        (["codec_embeddings=true", "init_from=here"], "codec_embeddings"),
        ("guided_attention={width: 0}", "guided_attention.width"),
        ("ar.epoch=3", "unknown key 'epoch'"),
        ("scaled_adam.momentum=3", "unknown key 'momentum'"),
        ("steps=3", "unknown key 'steps'"),
    ],
)
def test_bad_recipes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(SMOKE, overrides=[change] if isinstance(change, str) else change)
