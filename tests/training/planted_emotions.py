"""
A planted corpus: of the two bits of a label one is in the words and one in the prosody, both clearly; the speech has both,
faintly and among much else, and six in ten of the training labels are drawn anew. Who reads words or prosody sees through
the noise in the labels; who has only the speech learns it by heart.
"""

import numpy as np
import torch
from emodistill_data import EmoDistillRecipe, EmotionClips, Training
from recipe import DataSource
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from train_emodistill import (
    descriptor_batches,
    student_batches,
    text_batches,
    train_student,
    train_teacher,
)
from transformers import BertConfig, HubertConfig, PreTrainedTokenizerFast

from hf_affectcodec.data.clips import Clips
from hf_affectcodec.modeling.configuration_emodistill import (
    EmoDistillConfig,
    EmoDistillLinguisticTeacherConfig,
    EmoDistillProsodicTeacherConfig,
)
from hf_affectcodec.modeling.modeling_emodistill import EmoDistillForAudioClassification
from hf_affectcodec.modeling.modeling_emodistill_linguistic_teacher import EmoDistillLinguisticTeacher
from hf_affectcodec.modeling.modeling_emodistill_prosodic_teacher import EmoDistillProsodicTeacher


WORDS = ("grey", "gold")
CHANNELS = 40
TRAIN, VALIDATION, TEST = range(160), range(160, 168), range(168, 968)
LABELS = {"id2label": {i: f"{i}" for i in range(4)}, "label2id": {f"{i}": i for i in range(4)}}
SIZES = {"linguistic": 16, "prosodic": 12}
TINY_HUBERT = {
    "hidden_size": CHANNELS,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "conv_dim": (4,) * 7,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 1,
}
TINY_BERT = {
    "vocab_size": len(WORDS) + 3,
    "hidden_size": SIZES["linguistic"],
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[SEP]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=32)


def plant(seed: int) -> EmotionClips:
    """Labels are 2 * (bit of the words) + (bit of the prosody); those of the training rows are noisy."""
    rng = np.random.default_rng(seed)
    count = TEST.stop
    rows = np.arange(count)
    true = rows % 4
    words, prosody = true // 2, true % 2
    # of each class the same number is drawn anew, and all classes alike: the noise favours none
    anew = (rows < VALIDATION.stop) & (rows // 4 % 5 < 3)
    labels = np.where(anew, rows // 20 % 4, true)
    directions = np.linalg.qr(rng.standard_normal((CHANNELS, 2)))[0]
    signs = 2 * np.stack([words, prosody], 1) - 1
    speech = 1.2 * signs @ directions.T + rng.standard_normal((count, CHANNELS))
    transcripts = [WORDS[bit] for bit in words]
    descriptors = 0.01 * rng.standard_normal((count, 12, 25)).astype(np.float32)
    descriptors[:, :, 3] += signs[:, 1:]
    return EmotionClips(
        Clips([], 16_000, [f"{row}" for row in range(count)]),
        labels.tolist(),
        ["ada"] * count,
        streams=list(torch.from_numpy(speech).float()[:, None]),
        opensmile=list(descriptors),
        transcripts=transcripts,
    )


def recipe() -> EmoDistillRecipe:
    student = Training(epochs=30, learning_rate=3e-3, keep_best=False)
    return EmoDistillRecipe("planted", DataSource("none"), list(LABELS["label2id"]), "none", "none", student=student)


def train_teachers(clips: EmotionClips, seed: int) -> tuple[dict, dict]:
    """Teachers, and what they say of all clips."""
    torch.manual_seed(seed)
    words = EmoDistillLinguisticTeacher(
        EmoDistillLinguisticTeacherConfig(text_config=BertConfig(**TINY_BERT), pooling="mean", **LABELS)
    )
    prosody = EmoDistillProsodicTeacher(
        EmoDistillProsodicTeacherConfig(hidden_sizes=[SIZES["prosodic"]], depths=[1], stem_kernel_size=3, **LABELS)
    )
    # few enough not to learn the noise in the labels
    settings = {
        "linguistic": Training(epochs=15, learning_rate=5e-3, encoder_learning_rate=5e-3, keep_best=False),
        "prosodic": Training(epochs=10, learning_rate=5e-3, keep_best=False),
    }
    models = {"linguistic": words, "prosodic": prosody}
    batches = {"linguistic": text_batches(clips, tiny_tokenizer()), "prosodic": descriptor_batches(clips)}
    said = {}
    for name, model in models.items():
        models[name], said[name], _ = train_teacher(
            model, batches[name], clips, TRAIN, VALIDATION, settings[name], seed
        )
    return models, said


def student_accuracy(clips: EmotionClips, said: dict, seed: int) -> float:
    """
    Of a student of the logits of these teachers, on the test rows; those that are missing have no weight. All else, the steps
    and the start included, is the same.
    """
    weights = {f"{name}_embedding_weight": 0.0 for name in SIZES}
    for name in SIZES:
        weights |= {f"{name}_temperature": 1.0, f"{name}_logit_weight": 1.5 * (name in said)}
    torch.manual_seed(seed)
    student = EmoDistillForAudioClassification(
        EmoDistillConfig(
            encoder_config=HubertConfig(**TINY_HUBERT),
            linguistic_size=SIZES["linguistic"],
            prosodic_size=SIZES["prosodic"],
            projection_hidden_size=32,
            classifier_hidden_size=32,
            **weights,
            **LABELS,
        )
    )
    study = recipe()
    study.seed = seed
    make_batch = student_batches(study, clips, None)
    student, _ = train_student(student, make_batch, clips, said, TRAIN, VALIDATION, study)
    with torch.no_grad():
        logits = student(**make_batch(TEST)).logits
    return float((logits.argmax(-1) == torch.tensor(clips.labels)[TEST.start :]).float().mean())
