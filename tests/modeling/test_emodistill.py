import json
import math
import subprocess
import sys

import numpy as np
import opensmile
import pytest
import soundfile
import torch
from tiny import tiny_config
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    HubertConfig,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WhisperConfig,
    pipeline,
)

from hf_affectcodec import AffectCodecFeatureExtractor
from hf_affectcodec.modeling.configuration_emodistill import (
    EmoDistillConfig,
    EmoDistillLinguisticTeacherConfig,
    EmoDistillProsodicTeacherConfig,
)
from hf_affectcodec.modeling.feature_extraction_emodistill import (
    EmoDistillFeatureExtractor,
    EmoDistillProsodicTeacherFeatureExtractor,
)
from hf_affectcodec.modeling.modeling_emodistill import EmoDistillForAudioClassification
from hf_affectcodec.modeling.modeling_emodistill_linguistic_teacher import EmoDistillLinguisticTeacher
from hf_affectcodec.modeling.modeling_emodistill_prosodic_teacher import EmoDistillProsodicTeacher


WIDTHS = {"linguistic_size": 10, "prosodic_size": 6, "projection_hidden_size": 8, "classifier_hidden_size": 7}
LABELS = {"id2label": {0: "angry", 1: "calm", 2: "sad"}, "label2id": {"angry": 0, "calm": 1, "sad": 2}}
WAV2VEC = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (4,) * 7,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 1,
}
WHISPER = {
    "d_model": 12,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "num_mel_bins": 8,
    "max_source_positions": 100,
}
ENCODERS = {
    "hubert": lambda: HubertConfig(**WAV2VEC, feat_extract_norm="group"),
    "wavlm": lambda: WavLMConfig(**WAV2VEC, feat_extract_norm="layer"),
    "whisper": lambda: WhisperConfig(**WHISPER),
    "affectcodec": tiny_config,
}


def make_extractor(kind):
    if kind == "whisper":
        return EmoDistillFeatureExtractor(feature_size=8, chunk_length=2)
    if kind == "affectcodec":
        return AffectCodecFeatureExtractor()
    return Wav2Vec2FeatureExtractor(return_attention_mask=True)


def make_student(kind="hubert", **changes) -> EmoDistillForAudioClassification:
    """In evaluation mode, with weights large enough that what should change a result does."""
    torch.manual_seed(0)
    encoder = ENCODERS[kind]()
    config = EmoDistillConfig(encoder_config=encoder, initializer_range=0.5, **{**WIDTHS, **LABELS, **changes})
    student = EmoDistillForAudioClassification(config).eval()
    student.set_statistics(torch.randn(config.pooled_size), torch.rand(config.pooled_size) + 0.5)
    return student


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(16000 * seconds)) * 0.1).astype(np.float32)


def extract(kind, waveforms):
    options = {"padding": True} if kind in ("hubert", "wavlm") else {}
    return make_extractor(kind)(waveforms, sampling_rate=16000, return_tensors="pt", **options)


# ----- student


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_a_batch_changes_nothing(kind):
    student = make_student(kind)
    waveforms = [noise(0.4), noise(1.2, 1), noise(0.13, 2)]
    with torch.no_grad():
        together = student(**extract(kind, waveforms)).logits
        alone = torch.cat([student(**extract(kind, [waveform])).logits for waveform in waveforms])
    assert (together.max(0).values - together.min(0).values).max() > 1e-3  # items differ
    assert (together - alone).abs().max() <= 1e-5 * max(1, together.abs().max())


@pytest.mark.parametrize("pooling", ["mean", "mean_std"])
@pytest.mark.parametrize("kind", list(ENCODERS))
def test_frames_encoded_beforehand_say_the_same(kind, pooling):
    student, inputs = make_student(kind, pooling=pooling), extract(kind, [noise(0.4), noise(0.9, 1)])
    with torch.no_grad():
        frames, mask = student.encode(**inputs)
        found = student(encoder_hidden_states=frames, encoder_attention_mask=mask)
        assert mask.sum(1).tolist() == ([20, 45] if kind in ("whisper", "affectcodec") else [19, 44])
        assert found.logits.equal(student(**inputs).logits)
        # their mean and deviation are all that the student reads of them, and two vectors can have both
        valid = [item[there] for item, there in zip(frames, mask, strict=True)]
        pairs = torch.stack(
            [torch.stack([x.mean(0) + sign * x.std(0, correction=0) for sign in (-1, 1)]) for x in valid]
        )
        torch.testing.assert_close(student(encoder_hidden_states=pairs).logits, found.logits, rtol=1e-4, atol=1e-5)
        means = pairs.mean(1, keepdim=True)
        same = torch.allclose(student(encoder_hidden_states=means).logits, found.logits, rtol=1e-4, atol=1e-5)
        assert same == (pooling == "mean")


@pytest.mark.parametrize("shared, pooling", [(False, "mean"), (True, "mean"), (False, "mean_std")])
def test_student_against_a_loop(shared, pooling):
    student = make_student(shared_projection=shared, pooling=pooling)
    frames = torch.randn(2, 5, 12)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    labels = torch.tensor([2, 0])
    with torch.no_grad():
        outputs = student(encoder_hidden_states=frames, encoder_attention_mask=mask, labels=labels)
    w = {name: value.double().numpy() for name, value in student.state_dict().items()}

    def gelu(x):
        return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))

    def linear(name, x):
        return [float(row @ np.array(x) + b) for row, b in zip(w[f"{name}.weight"], w[f"{name}.bias"], strict=True)]

    losses = []
    for b, length in enumerate((5, 2)):
        mean = [sum(float(frames[b, t, c]) for t in range(length)) / length for c in range(12)]
        if pooling == "mean_std":
            mean += [
                math.sqrt(sum((float(frames[b, t, c]) - mean[c]) ** 2 for t in range(length)) / length)
                for c in range(12)
            ]
        z = [(x - w["scaler.mean"][c]) / w["scaler.std"][c] for c, x in enumerate(mean)]
        hidden = [gelu(x) for x in linear("projections.linguistic_hidden", z)]
        words = linear("projections.linguistic_out", hidden)
        if not shared:
            hidden = [gelu(x) for x in linear("projections.prosodic_hidden", z)]
        prosody = linear("projections.prosodic_out", hidden)
        logits = linear("head.out_proj", [gelu(x) for x in linear("head.dense", words + prosody)])
        assert np.allclose(outputs.linguistic_embeddings[b], words, atol=1e-4)
        assert np.allclose(outputs.prosodic_embeddings[b], prosody, atol=1e-4)
        assert np.allclose(outputs.logits[b], logits, atol=1e-4)
        losses.append(math.log(sum(math.exp(x) for x in logits)) - logits[int(labels[b])])
    assert float(outputs.loss) == pytest.approx(sum(losses) / 2, abs=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_disjoint_projections_share_no_weight(shared):
    student = make_student(shared_projection=shared)
    outputs = student(encoder_hidden_states=torch.randn(2, 3, 12))
    reached = []
    for embeddings in (outputs.linguistic_embeddings, outputs.prosodic_embeddings):
        student.zero_grad()
        embeddings.square().sum().backward(retain_graph=True)
        reached.append({name for name, p in student.projections.named_parameters() if p.grad is not None})
    common = {"linguistic_hidden.weight", "linguistic_hidden.bias"} if shared else set()
    assert reached[0] & reached[1] == common and len(reached[0]) == 4 and len(reached[1]) == 4


@pytest.mark.parametrize("kind", ["hubert", "whisper"])
def test_pipeline_on_a_wav(kind, tmp_path):
    student, extractor = make_student(kind), make_extractor(kind)
    student.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    soundfile.write(tmp_path / "clip.wav", noise(0.7), 16000, subtype="FLOAT")
    waveform, rate = soundfile.read(tmp_path / "clip.wav", dtype="float32")
    classifier = pipeline("audio-classification", model=str(tmp_path), device="cpu")
    found = classifier({"array": waveform, "sampling_rate": rate})
    with torch.no_grad():
        logits = student(**extract(kind, [waveform])).logits
    expected = dict(zip(LABELS["label2id"], logits.softmax(-1)[0].tolist(), strict=True))
    assert {row["label"]: row["score"] for row in found} == pytest.approx(expected, abs=1e-6)
    # speech goes in and nothing else, and the repository holds no teacher
    assert {name.split(".")[0] for name in classifier.model.state_dict()} == {
        "encoder",
        "scaler",
        "projections",
        "head",
    }
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "text_config" not in saved and not list(tmp_path.rglob("*teacher*"))


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_save_and_load(kind, tmp_path):
    student = make_student(kind, class_weights=[1.0, 2.0, 0.5])
    student.save_pretrained(tmp_path)
    loaded, info = EmoDistillForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    inputs = {**extract(kind, [noise(0.5)]), "labels": torch.tensor([1])}
    # not to the bit: HuBERT folds a weight norm
    torch.testing.assert_close(loaded.eval()(**inputs).loss, student(**inputs).loss, rtol=1e-6, atol=1e-6)
    assert loaded.config.encoder_config.model_type == kind and loaded.config.prosodic_temperature == 0.5
    declared = set(EmoDistillConfig().to_dict()) | {"dtype", "architectures", "id2label", "label2id"}
    assert set(student.config.to_dict()) <= declared
    if kind == "affectcodec":
        assert not [name for name in student.state_dict() if "decoder" in name]


@pytest.mark.parametrize("kind", ["hubert", "affectcodec"])
def test_every_weight_learns(kind):
    student = make_student(kind).train()
    student(**extract(kind, [noise(0.5), noise(0.8, 1)]), labels=torch.tensor([0, 2])).loss.backward()
    idle = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.any()]
    # the mask of self-supervised training; what of a codec comes after its latents
    assert all(
        "masked_spec_embed" in name or "quantizer" in name or "_head" in name or "guid" in name for name in idle
    )


def test_frozen_feature_encoder():
    student = make_student().train()
    student.freeze_feature_encoder()
    student(**extract("hubert", [noise(0.5)]), labels=torch.tensor([0])).loss.backward()
    reached = {name.split(".")[1] for name, p in student.named_parameters() if p.grad is not None}
    assert "feature_extractor" not in reached and "encoder" in reached
    with pytest.raises(ValueError, match="whisper has no feature encoder"):
        make_student("whisper").freeze_feature_encoder()


def test_initialisation_lives_in_init_weights():
    config = make_student().config
    second = EmoDistillForAudioClassification.from_pretrained(None, config=config, state_dict={})
    for name, value in second.state_dict().items():
        assert torch.isfinite(value).all(), name
    assert second.scaler.std.eq(1).all() and 0.3 < second.head.dense.weight.std() < 0.6
    assert second.head.dense.bias.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, tmp_path):
    student = make_student("whisper")
    student.save_pretrained(tmp_path)
    half = EmoDistillForAudioClassification.from_pretrained(tmp_path, dtype=dtype).eval()
    assert half.scaler.mean.dtype == torch.float32 and half.head.dense.weight.dtype == dtype
    frames = torch.randn(3, 4, 12)
    expected, found = (model(encoder_hidden_states=frames).logits.float() for model in (student, half))
    assert (expected - found).abs().max() < 0.1 * expected.abs().max()


# ----- prosodic teacher


def make_prosodic_teacher(**changes) -> EmoDistillProsodicTeacher:
    torch.manual_seed(0)
    values = {"hidden_sizes": [6, 8], "depths": [1, 2], "stem_kernel_size": 5, **LABELS, **changes}
    teacher = EmoDistillProsodicTeacher(EmoDistillProsodicTeacherConfig(**values)).eval()
    teacher.set_statistics(torch.randn(25), torch.rand(25) + 0.5)
    with torch.no_grad():
        for name, buffer in teacher.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return teacher


def test_prosodic_teacher_against_plain_convolutions():
    """He et al.'s basic block, one clip at a time, by torch's functions on the weights."""
    teacher = make_prosodic_teacher()
    w = teacher.state_dict()
    lengths = (23, 8, 1)
    features = torch.randn(3, 23, 25)
    mask = torch.arange(23) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        outputs = teacher(features, mask)

        def conv(name, x, stride=1):
            weight = w[f"{name}.conv.weight"]
            x = torch.nn.functional.conv1d(x, weight, None, stride, weight.shape[-1] // 2)
            norm = [w[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
            return torch.nn.functional.batch_norm(x, *norm)

        for item, length in enumerate(lengths):
            x = ((features[item, :length] - w["scaler.mean"]) / w["scaler.std"]).T[None]
            x = conv("stem", x, 2).relu()
            for block, stride in ((0, 1), (1, 2), (2, 1)):
                around = conv(f"blocks.{block}.shortcut", x, stride) if block == 1 else x
                hidden = conv(f"blocks.{block}.first", x, stride).relu()
                x = (conv(f"blocks.{block}.second", hidden) + around).relu()
            expected = x.mean(-1)[0]
            torch.testing.assert_close(outputs.embeddings[item], expected, rtol=1e-4, atol=1e-5)
            logits = w["classifier.weight"] @ expected + w["classifier.bias"]
            torch.testing.assert_close(outputs.logits[item], logits, rtol=1e-4, atol=1e-5)


def test_padding_is_no_part_of_the_batch_statistics():
    teacher = make_prosodic_teacher(dropout=0.0).train()
    features = torch.randn(2, 12, 25)
    mask = torch.arange(12) < torch.tensor([12, 6])[:, None]
    shorter = torch.nn.functional.pad(features, (0, 0, 0, 20))
    longer_mask = torch.nn.functional.pad(mask, (0, 20))
    first = teacher(features, mask).logits
    torch.testing.assert_close(teacher(shorter, longer_mask).logits, first)
    moved = features.masked_fill(~mask[..., None], 100.0)
    assert teacher(moved, mask).logits.equal(first)


def test_prosodic_teacher_on_a_wav(tmp_path):
    teacher = make_prosodic_teacher()
    teacher.save_pretrained(tmp_path)
    EmoDistillProsodicTeacherFeatureExtractor().save_pretrained(tmp_path)
    waveform = noise(0.8)
    classifier = pipeline("audio-classification", model=str(tmp_path), device="cpu")
    found = classifier({"array": waveform, "sampling_rate": 16000})
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    descriptors = torch.from_numpy(smile.process_signal(waveform, 16000).to_numpy(np.float32).copy())
    assert descriptors.shape[1] == 25
    with torch.no_grad():
        scores = teacher(descriptors[None]).logits.softmax(-1)[0].tolist()
    assert {row["label"]: row["score"] for row in found} == pytest.approx(
        dict(zip(LABELS["label2id"], scores, strict=True)), abs=1e-6
    )


# ----- linguistic teacher


BERT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}


def make_linguistic_teacher(pooling="cls") -> EmoDistillLinguisticTeacher:
    torch.manual_seed(0)
    config = EmoDistillLinguisticTeacherConfig(
        text_config=BertConfig(**BERT), pooling=pooling, initializer_range=0.5, **LABELS
    )
    return EmoDistillLinguisticTeacher(config).eval()


def test_linguistic_teacher_is_a_bert_with_a_linear_layer():
    teacher = make_linguistic_teacher()
    peer = BertForSequenceClassification(BertConfig(**BERT, num_labels=3)).eval()
    peer.bert.load_state_dict(teacher.encoder.state_dict())
    peer.classifier.load_state_dict(teacher.classifier.state_dict())
    ids = torch.randint(30, (2, 6))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    with torch.no_grad():
        expected = peer(ids, attention_mask=mask, labels=torch.tensor([1, 0]))
        found = teacher(ids, attention_mask=mask, labels=torch.tensor([1, 0]))
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.loss, expected.loss)
    with torch.no_grad():
        assert teacher(embeddings=teacher.embed(ids, mask)).logits.equal(found.logits)
    with pytest.raises(ValueError, match="one of `input_ids` and `embeddings` must be given"):
        teacher()


def test_mean_pooling_leaves_padding_out(tmp_path):
    teacher = make_linguistic_teacher("mean")
    ids = torch.randint(30, (2, 6))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    teacher.save_pretrained(tmp_path)
    loaded = EmoDistillLinguisticTeacher.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        together = loaded(ids, attention_mask=mask).embeddings
        states = teacher.encoder(ids[1:, :4]).last_hidden_state[0]
    torch.testing.assert_close(together[1], sum(states[t] for t in range(4)) / 4, rtol=1e-4, atol=1e-5)


# ----- errors and remote code


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: EmoDistillConfig(encoder_config=BertConfig()), "`encoder_config` must be of one of .* got 'bert'"),
        (lambda: EmoDistillConfig(prosodic_temperature=0.0), r"`prosodic_temperature` must be positive, got 0\.0"),
        (lambda: EmoDistillConfig(linguistic_logit_weight=-1.0), "`linguistic_logit_weight` must not be negative"),
        (lambda: EmoDistillConfig(class_weights=[1.0]), r"`class_weights` must have one weight a label \(2\)"),
        (lambda: EmoDistillConfig(pooling="max"), "`pooling` must be one of"),
        (lambda: EmoDistillProsodicTeacherConfig(depths=[1]), "`depths` must have one entry for each of"),
        (lambda: EmoDistillProsodicTeacherConfig(kernel_size=4), "`kernel_size` must be odd, got 4"),
        (lambda: EmoDistillLinguisticTeacherConfig(pooling="max"), "`pooling` must be one of"),
    ],
)
def test_bad_configuration_is_named(make, message):
    with pytest.raises(Exception, match=message):
        make()


def test_bad_input_is_named():
    student, whisper = make_student(), make_student("whisper")
    mask = torch.tensor([[0, 1]])
    for call, message in (
        (lambda: student(), "`input_values` must be given, and it alone: the encoder is a hubert"),
        (lambda: student(input_features=torch.zeros(1, 8, 200)), "`input_values` must be given, and it alone"),
        (lambda: whisper(input_values=torch.zeros(1, 400)), "`input_features` must be given, and it alone"),
        (lambda: whisper(input_features=torch.zeros(1, 8, 200)), "`attention_mask` is needed"),
        (lambda: student(torch.zeros(1, 1, 800)), r"`input_values` must have shape \(batch, samples\)"),
        (lambda: student(torch.zeros(1, 300)), "a clip of 300 samples is shorter than one frame"),
        (lambda: student(encoder_hidden_states=torch.zeros(2, 12)), r"must have shape \(batch, frames, 12\)"),
        (
            lambda: student(encoder_hidden_states=torch.zeros(1, 2, 12), encoder_attention_mask=mask),
            "`encoder_attention_mask` must be ones, at least one, then zeros",
        ),
        (lambda: make_prosodic_teacher()(torch.zeros(1, 4, 24)), r"must have shape \(batch, frames, 25\)"),
        (
            lambda: student.set_statistics(torch.zeros(11), torch.ones(11)),
            r"`mean` must have shape \[12\], got \[11\]",
        ),
        (lambda: student.set_statistics(torch.zeros(12), torch.zeros(12)), "`std` must be positive"),
        (
            lambda: make_extractor("whisper")(noise(0.1), return_attention_mask=False, sampling_rate=16000),
            "`return_attention_mask` must be True",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whisper", "affectcodec"])
def test_remote_code_in_a_clean_process(kind, tmp_path):
    student, extractor = make_student(kind), make_extractor(kind)
    classes = ((EmoDistillConfig, "AutoConfig"), (type(student), "AutoModelForAudioClassification"))
    for cls, name in (*classes, (type(extractor), "AutoFeatureExtractor")):
        cls.register_for_auto_class(name)
    try:
        student.save_pretrained(tmp_path)
        extractor.save_pretrained(tmp_path)
    finally:
        for cls, _ in (*classes, (type(extractor), "")):
            cls._auto_class = None
    assert not list(tmp_path.glob("*teacher*.py"))
    np.save(tmp_path / "clip.npy", noise(0.5))
    code = """
import sys, numpy as np, torch
sys.modules["hf_affectcodec"] = None
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
model = AutoModelForAudioClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
extractor = AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = extractor(np.load(sys.argv[1] + "/clip.npy"), sampling_rate=16000, return_tensors="pt")
print(model(**inputs).logits.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = student(**extract(kind, [noise(0.5)])).logits
    assert torch.allclose(torch.tensor(json.loads(done.stdout.splitlines()[-1])), expected, atol=1e-5)
