import math
import sys

import numpy as np
import opensmile
import pytest
import soundfile
import torch
from sklearn.metrics import f1_score
from tiny import tiny_model
from transformers import (
    AutoFeatureExtractor,
    HubertConfig,
    HubertModel,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from hf_affectcodec import AffectCodecFeatureExtractor
from hf_affectcodec.modeling import feature_extraction_token_fusion
from hf_affectcodec.modeling.configuration_token_fusion import LAYER_FUSIONS, TokenFusionConfig
from hf_affectcodec.modeling.feature_extraction_token_fusion import TokenFusionFeatureExtractor
from hf_affectcodec.modeling.modeling_token_fusion import TokenFusionForAudioClassification, _stretch
from hf_affectcodec.modeling.pooling_token_fusion import TokenFusionAttentiveStatisticsPooling
from hf_affectcodec.modeling.waveform_token_fusion import TokenFusionWaveformEncoder


TINY = {
    "num_streams": 3,
    "vocab_size": 8,
    "hidden_size": 12,
    "classifier_hidden_size": 16,
    "opensmile_size": 5,
    "opensmile_hidden_size": 6,
    "num_labels": 4,
}
LENGTHS = (9, 1, 6, 4)


def make_config(**changes) -> TokenFusionConfig:
    changes = {**TINY, **changes}
    labels = {index: f"emotion {index}" for index in range(changes.pop("num_labels"))}
    return TokenFusionConfig(**changes, id2label=labels, label2id={name: index for index, name in labels.items()})


def make_model(**changes) -> TokenFusionForAudioClassification:
    """In evaluation mode, with large weights (so that what should change a result does) and statistics of its own."""
    torch.manual_seed(0)
    config = make_config(initializer_range=0.5, **changes)
    model = TokenFusionForAudioClassification(config).eval()
    shape = (config.num_streams, config.hidden_size)
    if config.tokenizer_kind == "encoder":
        mean, std = torch.randn(shape), torch.rand(shape) + 0.5
        if config.quantized:
            model.set_centroids(torch.randn(config.num_streams, config.vocab_size, config.hidden_size), mean, std)
        else:
            model.set_statistics(mean, std)
    if config.opensmile_fusion != "none":
        model.set_opensmile_statistics(torch.randn(config.opensmile_size), torch.rand(config.opensmile_size) + 0.5)
    return model


def make_items(model, lengths=LENGTHS, seed=0) -> list[dict]:
    config, rng = model.config, np.random.default_rng(seed)
    items = []
    for length in lengths:
        if config.quantized:
            item = {"input_ids": rng.integers(config.vocab_size, size=(length, config.num_streams))}
        else:
            shape = (length, config.num_streams, config.hidden_size)
            item = {"input_features": rng.standard_normal(shape).astype(np.float32)}
        if config.opensmile_fusion != "none":
            shape = (config.opensmile_size,) if config.opensmile_level == "functionals" else (2 * length + 1, 5)
            item["opensmile_features"] = rng.standard_normal(shape).astype(np.float32)
        items.append(item | {"labels": np.int64(rng.integers(config.num_labels))})
    return items


def run(model, items):
    with torch.no_grad():
        return model(**TokenFusionFeatureExtractor().pad_tokens(items))


@pytest.mark.parametrize("layer_fusion", LAYER_FUSIONS)
def test_attention_sums_to_one_over_valid_streams(layer_fusion):
    single = 2 if layer_fusion == "single" else None
    model = make_model(layer_fusion=layer_fusion, single_stream=single)
    batch = TokenFusionFeatureExtractor().pad_tokens(make_items(model))
    stream_mask = torch.tensor([[1, 1, 1], [0, 0, 1], [1, 0, 1], [0, 1, 1]])
    with torch.no_grad():
        outputs = model(**batch, stream_mask=stream_mask)
    weights, mask = outputs.layer_attention, batch["attention_mask"]
    assert weights.shape == (4, max(LENGTHS), 3) and bool((weights >= 0).all())
    assert torch.allclose(weights.sum(-1), mask.float(), atol=1e-6)  # one at frames, zero at padding
    assert not weights[~stream_mask.bool()[:, None].expand_as(weights)].any()
    if layer_fusion == "single":
        assert weights[..., 2].equal(mask.float())
    if layer_fusion == "mean":
        assert torch.allclose(weights[2, :6], torch.tensor([0.5, 0.0, 0.5]))
    varies = bool((weights[0, :9].std(0) > 1e-4).any())
    assert varies == (layer_fusion == "frame")


@pytest.mark.parametrize("layer_fusion", ["frame", "utterance", "mean"])
def test_what_a_missing_stream_holds_changes_nothing(layer_fusion):
    model = make_model(layer_fusion=layer_fusion)
    items = make_items(model, (5,))
    other = [{**items[0], "input_ids": items[0]["input_ids"].copy()}]
    other[0]["input_ids"][:, 1] = (other[0]["input_ids"][:, 1] + 3) % 8
    extractor, mask = TokenFusionFeatureExtractor(), torch.tensor([[1, 0, 1]])
    first, second = (model(**extractor.pad_tokens(x), stream_mask=mask).logits for x in (items, other))
    assert first.equal(second)
    assert not run(model, items).logits.allclose(run(model, other).logits, atol=1e-3)


SYSTEMS = [
    {"opensmile_fusion": fusion, "opensmile_level": level}
    for fusion in ("early", "late", "gate")
    for level in ("functionals", "lld")
]
SYSTEMS += [{"layer_fusion": fusion, "single_stream": 1 if fusion == "single" else None} for fusion in LAYER_FUSIONS]
SYSTEMS += [
    {"pooled_norm": True},
    {"quantized": False},
    {"quantized": False, "opensmile_fusion": "gate"},
    {"tokenizer_kind": "codec"},
]


@pytest.mark.parametrize("changes", SYSTEMS, ids=str)
def test_padding_order_and_batch_size_change_nothing(changes):
    model = make_model(**changes)
    items = make_items(model)
    together = run(model, items).logits
    assert (together.max(0).values - together.min(0).values).max() > 0.1  # items differ
    alone = torch.cat([run(model, [item]).logits for item in items])
    order = [2, 0, 3, 1]
    mixed = run(model, [items[i] for i in order]).logits
    longer = run(model, [*items, *make_items(model, (40,), seed=1)]).logits[:-1]
    scale = together.abs().max()
    for other in (alone, mixed[torch.tensor(order).argsort()], longer):
        assert (other - together).abs().max() <= 1e-6 * max(1, scale)


def test_values_at_padding_do_not_matter():
    model = make_model(opensmile_fusion="gate", opensmile_level="lld")
    batch = TokenFusionFeatureExtractor().pad_tokens(make_items(model))
    before = model(**batch)
    batch["input_ids"][~batch["attention_mask"]] = 7
    batch["opensmile_features"][~batch["opensmile_attention_mask"]] = 100
    after = model(**batch)
    assert before.logits.equal(after.logits) and before.loss.equal(after.loss)


def test_hard_tokens_with_centroid_embeddings_are_quantised_features():
    model = make_model(opensmile_fusion="late")
    continuous = make_model(opensmile_fusion="late", quantized=False)
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith(("centroids", "embeddings"))}
    continuous.load_state_dict(weights)
    features = torch.randn(2, 7, 3, 12) * 1.5
    tokens = model.features_to_tokens(features)

    quantised = torch.empty_like(features)
    mean, std, centroids = (x.double() for x in (model.scaler.mean, model.scaler.std, model.centroids.centroids))
    for b, t, j in np.ndindex(2, 7, 3):
        distances = [float(((features[b, t, j].double() - mean[j]) / std[j] - c).square().sum()) for c in centroids[j]]
        assert tokens[b, t, j] == int(np.argmin(distances))
        quantised[b, t, j] = centroids[j, int(np.argmin(distances))] * std[j] + mean[j]
    assert len(tokens.unique()) > 4
    extra = torch.randn(2, 5)
    with torch.no_grad():
        hard = model(input_ids=tokens, opensmile_features=extra).logits
        soft = continuous(input_features=quantised, opensmile_features=extra).logits
    assert torch.allclose(hard, soft, atol=1e-5)
    assert not torch.allclose(hard, continuous(input_features=features, opensmile_features=extra).logits, atol=1e-2)


@pytest.mark.parametrize("layer_fusion", ["frame", "utterance"])
def test_layer_attention_against_a_loop(layer_fusion):
    """DASB's AttentionMLP: Linear, ReLU, Linear without bias, softmax over the layers."""
    fusion = make_model(layer_fusion=layer_fusion, fusion_hidden_size=7).fusion
    streams = torch.randn(2, 5, 3, 12)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    with torch.no_grad():
        fused, weights = fusion(streams, mask, torch.ones(2, 3).bool())
    first, _, second = fusion.attention
    assert first.weight.shape == (7, 12) and second.bias is None
    x, w1, b1, w2 = (v.detach().double().numpy() for v in (streams, first.weight, first.bias, second.weight))
    for b in range(2):
        length = int(mask[b].sum())
        for t in range(length):
            at = x[b, t] if layer_fusion == "frame" else sum(x[b, s] for s in range(length)) / length
            scores = []
            for j in range(3):
                hidden = [max(0.0, float(w1[h] @ at[j] + b1[h])) for h in range(7)]
                scores.append(sum(w2[0, h] * hidden[h] for h in range(7)))
            exponentials = [math.exp(s - max(scores)) for s in scores]
            expected = [e / sum(exponentials) for e in exponentials]
            assert np.allclose(weights[b, t], expected, atol=1e-5)
            assert np.allclose(fused[b, t], sum(expected[j] * x[b, t, j] for j in range(3)), atol=1e-4)


def test_attentive_statistics_pooling_against_a_loop():
    torch.manual_seed(0)
    pooling = TokenFusionAttentiveStatisticsPooling(6, 4)
    frames, mask = torch.randn(2, 5, 6) + 1, torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    frames[:, :, 5] = 3.0  # never varies: the floor of its standard deviation shows
    with torch.no_grad():
        pooled = pooling(frames, mask)
    x, w, b, v = (
        a.detach().double().numpy() for a in (frames, pooling.proj.weight, pooling.proj.bias, pooling.score.weight)
    )
    for i in range(2):
        rows = [x[i, t] for t in range(5) if mask[i, t]]
        scores = [sum(v[0, h] * math.tanh(float(w[h] @ row) + b[h]) for h in range(4)) for row in rows]
        weights = [math.exp(s) / sum(math.exp(r) for r in scores) for s in scores]
        assert max(weights) - min(weights) > 0.01
        for c in range(6):
            mean = sum(a * row[c] for a, row in zip(weights, rows, strict=True))
            variance = sum(a * row[c] ** 2 for a, row in zip(weights, rows, strict=True)) - mean**2
            assert abs(pooled[i, c] - mean) < 1e-5
            assert abs(pooled[i, 6 + c] - math.sqrt(max(variance, 1e-5))) < 1e-5
    assert abs(float(pooled[0, 11]) - math.sqrt(1e-5)) < 1e-7


def test_pooled_vectors_are_normed_over_the_items():
    """The head sees (x - mean) / sqrt(variance + 1e-5) over the batch, and later over what was trained on."""
    model = make_model(pooled_norm=True).train()
    model.pooled_norm.momentum = 1.0  # the running statistics are those of the last batch
    model.head.dropout.p = 0.0
    batch = TokenFusionFeatureExtractor().pad_tokens(make_items(model))
    plain, seen = make_model(), []
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("pooled_norm")})
    plain.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().double()))
    plain(**batch)
    mean, variance = seen[0].mean(0), seen[0].var(0, correction=0)
    expected = plain.head(((seen[0] - mean) / (variance + 1e-5).sqrt()).float())
    assert torch.allclose(model(**batch).logits, expected, atol=1e-4)
    expected = plain.head(((seen[0] - mean) / (seen[0].var(0) + 1e-5).sqrt()).float())
    assert torch.allclose(model.eval()(**batch).logits, expected, atol=1e-4)


def test_descriptors_are_read_at_the_middles_of_frames():
    features, lengths, new = torch.randn(2, 9, 2), torch.tensor([9, 4]), torch.tensor([4, 6])
    stretched = _stretch(features, lengths, new, 6)
    for b in range(2):
        old_times = (np.arange(int(lengths[b])) + 0.5) / int(lengths[b])
        new_times = (np.arange(int(new[b])) + 0.5) / int(new[b])
        for c in range(2):
            expected = np.interp(new_times, old_times, features[b, : lengths[b], c].numpy())
            assert np.allclose(stretched[b, : new[b], c], expected, atol=1e-5)


@pytest.mark.parametrize("fusion", ["early", "late", "gate"])
def test_opensmile_features_are_z_scored_and_used(fusion):
    model = make_model(opensmile_fusion=fusion)
    batch = TokenFusionFeatureExtractor().pad_tokens(make_items(model))
    scaled = make_model(opensmile_fusion=fusion)
    scaled.set_opensmile_statistics(torch.zeros(5), torch.ones(5))
    scaler = model.opensmile.scaler
    with torch.no_grad():
        expected = model(**batch).logits
        given = {**batch, "opensmile_features": (batch["opensmile_features"] - scaler.mean) / scaler.std}
        assert torch.allclose(scaled(**given).logits, expected, atol=1e-5)
        assert (scaled(**batch).logits - expected).abs().max() > 1e-2


# ----- training


def fit(model, batch, steps: int, learning_rate: float = 1e-2):
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], learning_rate)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return model.eval()


def planted(model, stream: int, items: int, seed: int):
    """Random tokens, but in one stream, where half of the tokens of an item say its label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=items)
    ids = rng.integers(8, size=(items, 10, 3))
    marked = rng.random((items, 10)) < 0.5
    ids[..., stream] = np.where(marked, labels[:, None], ids[..., stream])
    return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


@pytest.mark.parametrize("layer_fusion", ["frame", "utterance"])
@pytest.mark.parametrize("stream", [0, 2])
def test_attention_picks_the_stream_that_holds_the_label(layer_fusion, stream):
    torch.manual_seed(stream)
    model = TokenFusionForAudioClassification(
        make_config(layer_fusion=layer_fusion, classifier_dropout=0.1, tokenizer_kind="codec")
    )
    before = model(**planted(model, stream, 8, 0)).layer_attention.mean((0, 1))
    assert before.max() < 0.5
    fit(model, planted(model, stream, 256, 0), 80)
    test = planted(model, stream, 200, 1)
    with torch.no_grad():
        outputs = model(**test)
    weights = outputs.layer_attention.mean((0, 1))
    assert weights[stream] > 0.5, weights  # more than the others together
    assert (outputs.logits.argmax(-1) == test["labels"]).float().mean() > 0.9


@pytest.mark.parametrize("quantized", [True, False])
def test_overfits_a_small_set(quantized):
    torch.manual_seed(0)
    model = TokenFusionForAudioClassification(make_config(quantized=quantized, opensmile_fusion="late"))
    items = make_items(model, tuple(range(3, 23)), seed=3)
    batch = TokenFusionFeatureExtractor().pad_tokens(items)
    assert (run(model.eval(), items).logits.argmax(-1) == batch["labels"]).float().mean() < 0.7
    fit(model, batch, 120)
    outputs = run(model, items)
    assert outputs.loss < 0.3 and bool((outputs.logits.argmax(-1) == batch["labels"]).all())


def imbalanced(items: int, seed: int) -> dict:
    """Two classes, ten to one, whose features overlap."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(items) < 1 / 11).astype(np.int64)
    features = rng.standard_normal((items, 3, 1, 4)).astype(np.float32)
    features[..., 0] += 0.6 * labels[:, None, None]
    return {"input_features": torch.from_numpy(features), "labels": torch.from_numpy(labels)}


def test_class_weights_help_the_rare_class():
    train, test = imbalanced(1000, 0), imbalanced(2000, 1)
    scores, recalls = {}, {}
    for weights in (None, (0.55, 5.5)):  # N / (2 n_c)
        torch.manual_seed(0)
        changes = {"num_streams": 1, "hidden_size": 4, "num_labels": 2, "quantized": False, "class_weights": weights}
        model = fit(TokenFusionForAudioClassification(make_config(**changes)), train, 40)
        with torch.no_grad():
            predicted = model(input_features=test["input_features"]).logits.argmax(-1)
        scores[weights] = f1_score(test["labels"], predicted, average="macro")
        recalls[weights] = (predicted[test["labels"] == 1] == 1).float().mean()
    assert scores[None] < 0.52 and recalls[None] < 0.1, (scores, recalls)
    assert scores[0.55, 5.5] > scores[None] + 0.05 and recalls[0.55, 5.5] > 0.5, (scores, recalls)


def test_loss_is_the_weighted_cross_entropy():
    weights = [1.0, 0.5, 2.0, 3.0]
    model = make_model(class_weights=weights)
    items = make_items(model)
    outputs = run(model, items)
    logits = outputs.logits.double().numpy()
    terms = []
    for row, item in zip(logits, items, strict=True):
        label = int(item["labels"])
        terms.append((weights[label], math.log(sum(math.exp(v) for v in row)) - row[label]))
    expected = sum(w * loss for w, loss in terms) / sum(w for w, _ in terms)
    assert abs(float(outputs.loss) - expected) < 1e-5


@pytest.mark.parametrize("train_embeddings", [True, False])
def test_frozen_embeddings_get_no_gradient(train_embeddings, tmp_path):
    make_model(train_embeddings=train_embeddings).save_pretrained(tmp_path)
    model = TokenFusionForAudioClassification.from_pretrained(tmp_path)
    model.train()(**TokenFusionFeatureExtractor().pad_tokens(make_items(model))).loss.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == ([] if train_embeddings else ["embeddings.weight"])


# ----- weights and waveforms


@pytest.mark.parametrize("changes", [{"opensmile_fusion": "gate"}, {"quantized": False}, {"tokenizer_kind": "codec"}])
def test_save_and_load(changes, tmp_path):
    model = make_model(**changes)
    model.save_pretrained(tmp_path)
    loaded, info = TokenFusionForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    items = make_items(model)
    assert run(loaded.eval(), items).logits.equal(run(model, items).logits)
    assert loaded.config.id2label == model.config.id2label
    if model.centroids is not None:
        assert loaded.centroids.centroids.equal(model.centroids.centroids)
    declared = set(TokenFusionConfig().to_dict()) | {"dtype", "architectures", "id2label", "label2id"}
    assert set(model.config.to_dict()) <= declared


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, quantized, tmp_path):
    model = make_model(opensmile_fusion="gate", opensmile_level="lld", quantized=quantized)
    model.save_pretrained(tmp_path)
    half = TokenFusionForAudioClassification.from_pretrained(tmp_path, dtype=dtype).eval()
    assert half.head.dense.weight.dtype == dtype and half.scaler.mean.dtype == torch.float32
    items = make_items(model)
    expected, found = run(model, items).logits, run(half, items).logits
    assert found.dtype == dtype and (found.float() - expected).abs().max() < 0.1 * expected.abs().max()
    if quantized:
        features = torch.randn(50, 3, 12)
        assert half.features_to_tokens(features).equal(model.features_to_tokens(features))


def test_initialisation_lives_in_init_weights():
    config = make_config(opensmile_fusion="gate", pooled_norm=True)
    torch.manual_seed(0)
    first = TokenFusionForAudioClassification(config)
    torch.manual_seed(0)
    second = TokenFusionForAudioClassification.from_pretrained(None, config=config, state_dict={})
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert a.shape == b.shape and torch.allclose(a.float().mean(), b.float().mean(), atol=0.2), name
        assert torch.isfinite(b).all()
    assert second.scaler.std.eq(1).all() and second.centroids.centroids.eq(0).all()
    assert second.pooled_norm.running_var.eq(1).all() and second.pooled_norm.running_mean.eq(0).all()


def tiny_hubert():
    torch.manual_seed(0)
    return HubertModel(
        HubertConfig(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(4,) * 7,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=1,
        )
    )


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(16000 * seconds)) * 0.1).astype(np.float32)


def test_pipeline_on_a_wav_with_a_codec(tmp_path):
    codec = tiny_model()
    codec.save_pretrained(tmp_path / "codec")
    AffectCodecFeatureExtractor(hop_length=codec.hop_length).save_pretrained(tmp_path / "codec")
    model = make_model(
        vocab_size=64, tokenizer_kind="codec", tokenizer_model="../codec", opensmile_fusion="late", opensmile_size=88
    )
    model.save_pretrained(tmp_path / "model")
    extractor = TokenFusionFeatureExtractor(opensmile_feature_set="eGeMAPSv02")
    extractor.save_pretrained(tmp_path / "model")
    soundfile.write(tmp_path / "clip.wav", noise(1.013), 16000)

    classifier = pipeline("audio-classification", model=str(tmp_path / "model"), device="cpu")
    waveform, rate = soundfile.read(tmp_path / "clip.wav", dtype="float32")
    found = classifier({"array": waveform, "sampling_rate": rate})

    with torch.no_grad():
        inputs = AffectCodecFeatureExtractor(hop_length=codec.hop_length)(
            waveform, sampling_rate=rate, return_tensors="pt"
        )
        codes = codec.encode(**inputs).audio_codes
        smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
        functionals = torch.from_numpy(smile.process_signal(waveform, rate).to_numpy(np.float32).copy())
        logits = model(input_ids=codes[:, :3].transpose(1, 2), opensmile_features=functionals).logits
    expected = dict(zip(model.config.id2label.values(), logits.softmax(-1)[0].tolist(), strict=True))
    assert {row["label"]: row["score"] for row in found} == pytest.approx(expected, abs=1e-6)
    # the codec is a guest: not among the weights, not saved
    assert not [name for name in classifier.model.state_dict() if "codec" in name or "encoder" in name]


@pytest.mark.parametrize("quantized", [True, False])
def test_waveforms_through_an_encoder(quantized):
    encoder, extractor = tiny_hubert(), Wav2Vec2FeatureExtractor(return_attention_mask=False)
    model = make_model(num_streams=2, tokenizer_layers=(2, 0), quantized=quantized)
    model.set_waveform_encoder(encoder, extractor)
    batch = TokenFusionFeatureExtractor()([noise(0.5), noise(0.9, 1)], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        together = model(**batch)
        for row, waveform in enumerate((noise(0.5), noise(0.9, 1))):
            inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
            hidden_states = encoder.eval()(**inputs, output_hidden_states=True).hidden_states
            features = torch.stack([hidden_states[2], hidden_states[0]], dim=2)
            given = {"input_ids": model.features_to_tokens(features)} if quantized else {"input_features": features}
            alone = model(**given)
            assert torch.allclose(together.logits[row], alone.logits[0], atol=1e-5)
            assert together.attention_mask[row].sum() == features.shape[1]
    assert len(model.tokenize(torch.zeros(1, 1, 40))[0]) == 1  # shorter than the encoder's receptive field


def test_opensmile_features_are_the_packages(tmp_path):
    waveform = noise(0.8)
    soundfile.write(tmp_path / "clip.wav", waveform, 16000, subtype="FLOAT")
    for name, level in (("functionals", "Functionals"), ("lld", "LowLevelDescriptors")):
        for feature_set, size in (("eGeMAPSv02", (88, 25)), ("ComParE_2016", (6373, 65))):
            if feature_set == "ComParE_2016" and name == "functionals":
                continue  # seconds
            smile = opensmile.Smile(opensmile.FeatureSet[feature_set], opensmile.FeatureLevel[level])
            expected = smile.process_file(str(tmp_path / "clip.wav")).to_numpy(np.float32)
            extractor = TokenFusionFeatureExtractor(opensmile_feature_set=feature_set, opensmile_level=name)
            batch = extractor([noise(0.5, 1), waveform], sampling_rate=16000, return_tensors="pt")
            found = batch["opensmile_features"][1].numpy()
            assert found.shape[-1] == size[name == "lld"]
            assert np.array_equal(np.atleast_2d(found), expected)
            if name == "lld":
                assert batch["opensmile_attention_mask"].sum(1).tolist()[1] == len(expected)
                assert not batch["opensmile_features"][0, ~batch["opensmile_attention_mask"][0]].any()


def test_feature_extractor_cuts_and_saves(tmp_path):
    extractor = TokenFusionFeatureExtractor(max_seconds=0.5, opensmile_feature_set="eGeMAPSv02")
    extractor.save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path, feature_extractor_type="TokenFusionFeatureExtractor")
    assert type(extractor) is TokenFusionFeatureExtractor
    batch = extractor([noise(2), noise(0.02)], sampling_rate=16000, return_tensors="pt")
    assert batch["input_values"].shape == (2, 1, 8000) and batch["padding_mask"].sum(1).tolist() == [8000, 320]
    whole = extractor(noise(2)[:8000], sampling_rate=16000, return_tensors="pt")
    assert batch["opensmile_features"][:1].equal(whole["opensmile_features"])
    assert (
        TokenFusionFeatureExtractor(max_seconds=None)(noise(2), sampling_rate=16000)["input_values"][0].size == 32000
    )


def test_a_missing_opensmile_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    feature_extraction_token_fusion._smile.cache_clear()
    extractor = TokenFusionFeatureExtractor(opensmile_feature_set="eGeMAPSv02")
    with pytest.raises(ImportError, match=r"need `opensmile`: pip install 'hf-affectcodec\[ser\]'$"):
        extractor(noise(0.5), sampling_rate=16000)
    assert TokenFusionFeatureExtractor()(noise(0.5), sampling_rate=16000)  # not needed where nothing asks for it


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"layer_fusion": "max"}, "`layer_fusion` must be one of"),
        ({"layer_fusion": "single"}, "`single_stream` must be given"),
        ({"single_stream": 1}, "`single_stream` must be given"),
        ({"layer_fusion": "single", "single_stream": 3}, r"`single_stream` must lie in 0\.\.2"),
        ({"quantized": False, "tokenizer_kind": "codec"}, "`quantized` = False needs"),
        ({"tokenizer_layers": (1, 2)}, "`tokenizer_layers` must name 3 layers"),
        ({"class_weights": (1.0, 2.0)}, "`class_weights` must have one weight a label"),
        ({"opensmile_fusion": "middle"}, "`opensmile_fusion` must be one of"),
        ({"vocab_size": 0}, "`vocab_size` must be at least 1"),
    ],
)
def test_bad_configuration_is_named(changes, message):
    with pytest.raises(Exception, match=message):
        make_config(**changes)


def test_bad_input_is_named():
    model = make_model(opensmile_fusion="late", opensmile_level="lld")
    ids, extra = torch.zeros(2, 4, 3, dtype=torch.long), torch.zeros(2, 6, 5)
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    for arguments, message in (
        ({}, "one of `input_values`, `input_ids` and `input_features`"),
        ({"input_ids": ids, "input_features": ids}, "one of `input_values`"),
        ({"input_ids": ids[0]}, r"`input_ids` must have shape \(batch, frames, 3\), got \[4, 3\]"),
        ({"input_ids": ids + 8}, r"`input_ids` must lie in 0\.\.7, got 8\.\.8"),
        ({"input_ids": ids - 1}, r"`input_ids` must lie in 0\.\.7, got -1"),
        ({"input_features": extra}, "`input_ids` must have shape"),
        ({"input_ids": ids, "attention_mask": mask}, "`attention_mask` must be ones, at least one, then zeros"),
        ({"input_ids": ids, "attention_mask": mask[:1]}, "`attention_mask` must have shape"),
        ({"input_ids": ids, "stream_mask": torch.zeros(2, 3)}, "`stream_mask` must have shape .* a valid stream"),
        ({"input_ids": ids}, r"`opensmile_features` must have shape \(batch, openSMILE frames, 5\), got None"),
        ({"input_ids": ids, "opensmile_features": extra[:, 0]}, "`opensmile_features` must have shape"),
        ({"input_values": extra}, "`input_values` must have shape"),
        ({"input_values": torch.zeros(1, 1, 800)}, "`tokenizer_model` of the configuration must name"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**arguments)
    with pytest.raises(ValueError, match="`opensmile_features`: this model takes none"):
        make_model()(input_ids=ids, opensmile_features=extra)
    with pytest.raises(ValueError, match=r"`centroids` must have shape \[3, 8, 12\]"):
        model.set_centroids(torch.zeros(3, 8, 11))
    with pytest.raises(ValueError, match="`std` must be positive"):
        model.set_statistics(torch.zeros(3, 12), torch.zeros(3, 12))
    with pytest.raises(ValueError, match="`centroids`: this model has none"):
        make_model(quantized=False).set_centroids(torch.zeros(3, 8, 12))
    extractor = TokenFusionFeatureExtractor()
    with pytest.raises(ValueError, match="`items` must be dictionaries"):
        extractor.pad_tokens([{"input_ids": np.zeros((2, 3))}, {}])
    with pytest.raises(ValueError, match="an item has no frame"):
        extractor.pad_tokens([{"input_ids": np.zeros((0, 3))}])
    with pytest.raises(ValueError, match="`opensmile_feature_set` must be None or one of"):
        TokenFusionFeatureExtractor(opensmile_feature_set="eGeMAPS")


@pytest.mark.parametrize("quantized", [True, False])
def test_log_mel_frames_as_a_stream(quantized):
    """A tone is loudest in the band that holds it, frame after frame; a batch changes nothing."""
    changes = {"tokenizer_kind": "log_mel", "tokenizer_layers": [0], "num_streams": 1, "hidden_size": 40}
    model = make_model(**changes, quantized=quantized)
    time = np.arange(16000) / 16000
    tones = [np.sin(2 * np.pi * f * time[:length]).astype(np.float32) for f, length in ((440, 16000), (3000, 9600))]
    batch = TokenFusionFeatureExtractor()(tones, sampling_rate=16000, return_tensors="pt")
    encoder = TokenFusionWaveformEncoder.from_config(model.config)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42) / 2595) - 1)
    for tone, frequency, frames in zip(tones, (440, 3000), (50, 30), strict=True):
        bands = encoder(torch.from_numpy(tone))
        assert bands.shape == (frames, 1, 40)
        nearest = np.abs(edges[1:-1] - frequency).argmin()
        assert (bands[2:-2, 0].argmax(-1) - nearest).abs().max() <= 1
    with torch.no_grad():
        together = model(**batch)
        assert together.attention_mask.sum(1).tolist() == [50, 30]
        for row, tone in enumerate(tones):
            alone = model(**TokenFusionFeatureExtractor()(tone, sampling_rate=16000, return_tensors="pt"))
            assert (alone.logits[0] - together.logits[row]).abs().max() < 1e-5
    with pytest.raises(Exception, match="'log_mel' needs `tokenizer_layers` = "):
        make_config(**{**changes, "tokenizer_layers": None})
