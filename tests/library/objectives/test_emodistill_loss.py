import math

import pytest
import torch

from hf_affectcodec.modeling.configuration_emodistill import EmoDistillConfig
from hf_affectcodec.modeling.modeling_emodistill import EmoDistillOutput
from hf_affectcodec.objectives.emodistill import (
    TeacherOutputs,
    embedding_distillation_loss,
    emodistill_loss,
    logit_distillation_loss,
)


WEIGHTS = {
    "linguistic_logit_weight": 0.7,
    "prosodic_logit_weight": 1.3,
    "linguistic_embedding_weight": 0.4,
    "prosodic_embedding_weight": 2.0,
}


def make_batch(batch=5, classes=4, seed=0):
    """Student, linguistic and prosodic teacher, labels; widths 6 and 3."""
    generator = torch.Generator().manual_seed(seed)
    values = [3 * torch.randn(batch, size, generator=generator) for size in (classes, 6, 3, classes, 6, classes, 3)]
    values = [value.requires_grad_() for value in values]
    student = EmoDistillOutput(logits=values[0], linguistic_embeddings=values[1], prosodic_embeddings=values[2])
    labels = torch.randint(classes, (batch,), generator=generator)
    return student, TeacherOutputs(values[3], values[4]), TeacherOutputs(values[5], values[6]), labels


def slow_softmax(scores, temperature):
    exponentials = [math.exp(score / temperature) for score in scores]
    return [value / sum(exponentials) for value in exponentials]


def slow_divergence(student, teacher, temperature):
    """Mean over items of sum_c p log(p / q)."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        q, p = slow_softmax(s, temperature), slow_softmax(t, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(student)


def slow_cosine_term(student, teacher):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        dot = sum(a * b for a, b in zip(s, t, strict=True))
        total += 1 - dot / math.sqrt(sum(a * a for a in s)) / math.sqrt(sum(b * b for b in t))
    return total / len(student)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("class_weights", [None, [1.0, 0.5, 2.0, 3.0]])
def test_loss_against_a_slow_one(squared, class_weights):
    student, words, prosody, labels = make_batch()
    config = EmoDistillConfig(num_labels=4, temperature_squared=squared, class_weights=class_weights, **WEIGHTS)
    found = emodistill_loss(student, labels, config, words, prosody)

    s, words_t, prosody_t = (x.logits.tolist() for x in (student, words, prosody))
    weights = class_weights or [1.0] * 4
    terms = [(weights[y], -math.log(slow_softmax(row, 1)[y])) for row, y in zip(s, labels.tolist(), strict=True)]
    expected = {
        "cross_entropy": sum(w * x for w, x in terms) / sum(w for w, _ in terms),
        "linguistic_logits": slow_divergence(s, words_t, 4.0) * (16.0 if squared else 1.0),
        "prosodic_logits": slow_divergence(s, prosody_t, 0.5) * (0.25 if squared else 1.0),
        "linguistic_embeddings": slow_cosine_term(student.linguistic_embeddings.tolist(), words.embeddings.tolist()),
        "prosodic_embeddings": slow_cosine_term(student.prosodic_embeddings.tolist(), prosody.embeddings.tolist()),
    }
    shares = {"cross_entropy": 1, **{name.replace("_weight", "s"): value for name, value in WEIGHTS.items()}}
    expected["loss"] = sum(shares[name] * value for name, value in expected.items())
    assert {name: float(value.detach()) for name, value in found.items()} == pytest.approx(expected, rel=1e-5)


def test_gradients_reach_the_student_only():
    student, words, prosody, labels = make_batch()
    emodistill_loss(student, labels, EmoDistillConfig(num_labels=4, **WEIGHTS), words, prosody)["loss"].backward()
    assert all(value.grad.abs().min() > 0 for value in student.values())
    assert all(x.grad is None for x in (words.logits, words.embeddings, prosody.logits, prosody.embeddings))


def test_large_temperature_matches_logits():
    """tau^2 KL -> |(s - s̄) - (t - t̄)|^2 / 2C an item (Hinton et al., 2015, Eq. 4); without tau^2 nothing is left."""
    student, words, _, _ = make_batch()
    logits = student.logits
    (gradient,) = torch.autograd.grad(logit_distillation_loss(logits, words.logits, 1e3), logits)
    centred = [x.detach() - x.detach().mean(-1, keepdim=True) for x in (logits, words.logits)]
    expected = (centred[0] - centred[1]) / logits.shape[1] / logits.shape[0]
    torch.testing.assert_close(gradient, expected, rtol=0.02, atol=1e-3)
    (plain,) = torch.autograd.grad(logit_distillation_loss(logits, words.logits, 1e3, False), logits)
    torch.testing.assert_close(plain, gradient / 1e6, rtol=0.01, atol=1e-10)


def test_small_temperature_is_the_teachers_decision():
    """tau KL -> max_c s_c - s_(argmax t), the student's margin to the class that the teacher names."""
    student, words, _, _ = make_batch()
    logits, tau = student.logits.double(), 0.01
    found = logit_distillation_loss(logits, words.logits.double(), tau, False) * tau
    decisions = words.logits.argmax(-1, keepdim=True)
    expected = float((logits.max(-1).values - logits.gather(1, decisions)[:, 0]).mean().detach())
    assert expected > 0.5 and float(found.detach()) == pytest.approx(expected, abs=0.02)


def test_equal_is_zero():
    student, *_ = make_batch()
    assert float(logit_distillation_loss(student.logits, student.logits + 7.0, 0.5).detach()) == pytest.approx(
        0, abs=1e-5
    )
    z = student.linguistic_embeddings.detach()
    assert float(embedding_distillation_loss(z, 3 * z)) == pytest.approx(0, abs=1e-6)
    assert float(embedding_distillation_loss(z, -z)) == pytest.approx(2, abs=1e-6)


def test_terms_of_weight_zero_need_no_teacher():
    student, words, prosody, labels = make_batch()
    none = dict.fromkeys(WEIGHTS, 0.0)
    alone = emodistill_loss(student, labels, EmoDistillConfig(num_labels=4, **none))
    assert list(alone) == ["loss", "cross_entropy"] and alone["loss"].equal(alone["cross_entropy"])
    one = EmoDistillConfig(num_labels=4, **{**none, "prosodic_embedding_weight": 1.0})
    found = emodistill_loss(student, labels, one, prosodic=prosody)
    assert list(found) == ["loss", "cross_entropy", "prosodic_embeddings"]
    with pytest.raises(ValueError, match="`prosodic` must be given: a weight of that teacher is above 0"):
        emodistill_loss(student, labels, one, linguistic=words)


def test_bad_input_is_named():
    student, words, prosody, labels = make_batch()
    with pytest.raises(ValueError, match=r"`teacher_logits` must have the shape .* got \[5, 3\] and \[5, 4\]"):
        logit_distillation_loss(student.logits, torch.zeros(5, 3), 1.0)
    with pytest.raises(ValueError, match="`temperature` must be positive, got 0"):
        logit_distillation_loss(student.logits, words.logits, 0)
    with pytest.raises(ValueError, match=r"`teacher_embeddings` must have the shape .* got \[5, 3\] and \[5, 6\]"):
        embedding_distillation_loss(student.linguistic_embeddings, prosody.embeddings)
