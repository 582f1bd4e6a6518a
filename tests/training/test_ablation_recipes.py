"""Tables 5 to 10 as recipes: rows differ where their table says and nowhere else, each trains, each with its own terms."""

import inspect
import itertools
import json
import math
import re
import shlex
import zlib
from pathlib import Path

import extract_features
import numpy as np
import pytest
import test_codec_distillation
import torch
import train_codec
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState
from codec_distillation import distillation_losses
from recipe import load_recipe
from test_codec_distillation import RECIPE, cache  # noqa: F401
from test_train_codec import ROOT, data_root  # noqa: F401
from tiny import tiny_model

from hf_affectcodec import AffectCodecConfig
from hf_affectcodec.data.features import TeacherFeatures
from hf_affectcodec.modeling.modeling_affectcodec import AffectCodecOutput
from hf_affectcodec.teachers.mfcc import MfccTeacher


RECIPES = ROOT / "training/recipes/codec"
CACHE = "data/features/open-prompts-train"
NO_GUIDANCE = {"model.guidance_sources": [], "model.self_guidance": False, "loss_weights.self_guidance": 0.0}
NO_RELATIONAL = {"loss_weights.relational": 0.0}
NO_ALIGNMENT = {"loss_weights.alignment": 0.0}

# By table the default row, the paper's method (in Table 10 with our teacher), and what each row changes of it.
DEFAULT_ROWS = {
    "table5": "full",
    "table6": "cross-before",
    "table7": "both",
    "table8": "soft-emotion",
    "table9": "q1",
    "table10": "egemaps",
}
CHANGES = {
    "table5": {
        "base": NO_GUIDANCE | NO_RELATIONAL | NO_ALIGNMENT,
        "eg": NO_RELATIONAL | NO_ALIGNMENT,
        "rp": NO_GUIDANCE | NO_ALIGNMENT,
        "ew": NO_GUIDANCE | NO_RELATIONAL,
        "eg-rp": NO_ALIGNMENT,
        "eg-ew": NO_RELATIONAL,
        "rp-ew": NO_GUIDANCE,
    },
    "table6": {
        "cross-after": {"model.guidance_order": "after"},
        "self-before": {"model.guidance_attention": "self"},
        "self-after": {"model.guidance_attention": "self", "model.guidance_order": "after"},
        "none": {"model.guidance_attention": "none"},
        "emo-only": {"model.guidance_sources": ["emotion"]},
        "sem-only": {"model.guidance_sources": ["semantic"]},
    },
    "table7": {
        "none": NO_RELATIONAL,
        "feature": NO_RELATIONAL
        | {
            "model.feature_distillation_sources": ["emotion", "semantic"],
            "loss_weights.feature_distillation": 1.0,
        },
        "emotion": {"relational_semantic": 0.0},
        "semantic": {"relational_emotion": 0.0},
    },
    "table8": {
        "soft": {"alignment_by_emotion": False},
        "hard-emotion": {"alignment_window": 0},
        "hard": {"alignment_window": 0, "alignment_by_emotion": False},
    },
    "table9": {
        "q1-4": {"model.distillation_num_quantizers": 4},
        "q1-8": {"model.distillation_num_quantizers": 8},
    },
    "table10": {
        "clap": {"model.emotion_feature_size": 768, "teachers.folder": f"{CACHE}-clap"},
        "clep-dg": {"model.emotion_feature_size": 768, "teachers.folder": f"{CACHE}-clep-dg"},
        "clap-mst": {"model.emotion_feature_size": 1024, "teachers.folder": f"{CACHE}-clap-mst"},
        "audioclip": {"model.emotion_feature_size": 2048, "teachers.folder": f"{CACHE}-audioclip"},
        "mfcc": {"model.emotion_feature_size": 20, "teachers.folder": f"{CACHE}-mfcc"},
    },
}

# Distillation terms of a row; those not named here have all three of the paper's method and ours.
ALL_TERMS = {"relational", "alignment", "self_guidance"}
TERMS = {
    ("table5", "base"): set(),
    ("table5", "eg"): {"self_guidance"},
    ("table5", "rp"): {"relational"},
    ("table5", "ew"): {"alignment"},
    ("table5", "eg-rp"): {"relational", "self_guidance"},
    ("table5", "eg-ew"): {"alignment", "self_guidance"},
    ("table5", "rp-ew"): {"relational", "alignment"},
    ("table7", "none"): {"alignment", "self_guidance"},
    ("table7", "feature"): {"feature_distillation", "alignment", "self_guidance"},
}

# The widths of the teachers stay the recipe's own.
TINY = [
    "steps=2",
    "batch_size=2",
    "crop_seconds=0.5",
    "model.hidden_size=32",
    "model.intermediate_size=32",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
    "model.codebook_size=16",
    "model.codebook_dim=16",
    "model.self_guidance_hidden_size=8",
    "discriminator=null",
    "validation=[]",
    "warmup_steps=0",
    "kmeans_steps=[0]",
    "kmeans_batches=1",
    "log_every=1",
]
LOG_BOOKKEEPING = re.compile("step|seconds|nonfinite_steps|grad_norm|total|learning_rate|usage_.*|perplexity_.*")


def rows_of(table) -> dict:
    return {path.stem: path for path in sorted((RECIPES / table).glob("*.yaml"))}


def flat(recipe) -> dict:
    """Everything that a recipe decides, by dotted name; the model's values with their defaults filled in."""
    values = recipe.to_dict()
    values["model"] = AffectCodecConfig(**values["model"]).to_dict()
    leaves = {}

    def add(prefix, value):
        if isinstance(value, dict):
            for key, child in value.items():
                add(f"{prefix}{key}.", child)
        else:
            leaves[prefix[:-1]] = list(value) if isinstance(value, tuple) else value

    add("", values)
    return leaves


def test_every_table_is_expected_here():
    assert {path.name for path in RECIPES.glob("table*")} == set(DEFAULT_ROWS) == set(CHANGES)


@pytest.mark.parametrize("table", CHANGES)
def test_rows_differ_in_what_their_table_is_about(table):
    recipes = {row: flat(load_recipe(path)) for row, path in rows_of(table).items()}
    default = recipes.pop(DEFAULT_ROWS[table])
    full = flat(load_recipe(RECIPES / "table5/full.yaml"))
    assert {**default, "name": "full"} == full
    found = {
        row: {key: value for key, value in values.items() if value != default.get(key)}
        for row, values in recipes.items()
    }
    assert found == {row: {"name": row} | changes for row, changes in CHANGES[table].items()}
    assert all(values.keys() == default.keys() for values in recipes.values())


@pytest.mark.parametrize("table", CHANGES)
def test_rows_train_with_their_own_terms(table, data_root, tmp_path, cache, monkeypatch):  # noqa: F811
    planted = TeacherFeatures.load

    def load(cls, folder, teachers, standardize):
        """The other test's features, but every folder its own emotion features, as every encoder has."""
        assert standardize == ["emotion", "semantic"]
        features = planted(folder, teachers, standardize)
        generator = np.random.default_rng(zlib.crc32(Path(folder).name.encode()))
        for array in features.values["emotion"].values():
            array[:] = generator.standard_normal(array.shape)
        return features

    monkeypatch.setattr(TeacherFeatures, "load", classmethod(load))
    weights = {}
    for row, path in rows_of(table).items():
        changes = [*TINY, f'train=[{{source: "{data_root}/train.parquet"}}]']
        model = load_recipe(path).model
        sizes = {"emotion": model["emotion_feature_size"], "semantic": 512, "text": 384}
        monkeypatch.setattr(test_codec_distillation, "SIZES", sizes)
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        recipe = load_recipe(path, overrides=changes)
        folder = tmp_path / row
        folder.mkdir()
        trainer = train_codec.build_trainer(recipe, [], folder)
        crops = train_codec.build_crops(recipe, trainer.model.config, trainer.accelerator)
        train_codec.train(trainer, crops, [], folder, None, None)

        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        expected = TERMS.get((table, row), ALL_TERMS)
        assert [entry["step"] for entry in log] == [1, 2]
        for entry in log:
            terms = {key: value for key, value in entry.items() if not LOG_BOOKKEEPING.fullmatch(key)}
            assert terms.keys() == {"mel", "commitment"} | expected, row
            assert entry["nonfinite_steps"] == 0 and all(terms[name] > 0 for name in expected), row
            total = 15 * terms["mel"] + 10 * terms["commitment"] + sum(terms[name] for name in expected)
            assert entry["total"] == pytest.approx(total, rel=1e-5), row
        weights[row] = trainer.model.state_dict()

    # A change that the step ignores would train the same network twice.
    for (first, a), (second, b) in itertools.combinations(weights.items(), 2):
        same = a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)
        assert not same, f"{first} and {second}"


@pytest.mark.parametrize("row", sorted(CHANGES["table10"]))
def test_table_10_says_how_its_caches_are_made(row):
    """The command in a recipe's head is one that `extract_features.py` takes, and fills the folder that the recipe reads."""
    path = RECIPES / f"table10/{row}.yaml"
    comment = "".join(line[1:] for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    comment = comment.replace("\\\n", "")  # the shell's continued lines
    command = shlex.split(comment[comment.index("python training/extract_features.py") :])
    options = extract_features.parse_arguments(command[2:])
    recipe = load_recipe(path)
    assert str(options.output_dir) == recipe.teachers.folder and options.transcripts == "text"
    teachers = {name: (kind, keys) for name, kind, keys in map(extract_features.parse_teacher, options.teacher)}
    assert teachers.keys() == {recipe.teachers.emotion, recipe.teachers.semantic, recipe.teachers.text}
    for kind, keys in teachers.values():
        inspect.signature((extract_features.ENCODERS | extract_features.SIGNAL_TEACHERS)[kind]).bind(**keys)
    if row == "mfcc":
        assert MfccTeacher().feature_size == recipe.model["emotion_feature_size"]


# Where a prediction equals its teacher the L1 term is 0 and the cosine 1; log(1 + 1 / e) is left.
FLOOR = math.log(1 + math.exp(-1))


def feature_distillation_recipe(tmp_path):
    path = tmp_path / "feature.yaml"
    path.write_text(RECIPE)
    only = yaml.safe_dump({"feature_distillation": 1.0}, default_flow_style=True).strip()
    changes = [f"loss_weights={only}", "model.feature_distillation_sources=[emotion, semantic]"]
    return load_recipe(path, overrides=changes)


def loss_after_training_the_heads(recipe, model, latents, batch) -> float:
    """The heads of both teachers, 200 steps of Adam."""
    mask = torch.ones(latents.shape[:2], dtype=torch.bool)
    mask[0, 15:] = False
    parameters = list(model.feature_distillation_heads.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=200)
    for _ in range(200):
        projected = {source: head(latents) for source, head in model.feature_distillation_heads.items()}
        outputs = AffectCodecOutput(audio_codes_mask=mask, projected_features=projected)
        losses = distillation_losses(recipe, outputs, batch)
        assert losses.keys() == {"feature_distillation"}
        optimizer.zero_grad()
        losses["feature_distillation"].backward()
        optimizer.step()
        schedule.step()
    return float(losses["feature_distillation"].detach())


def test_feature_distillation_finds_planted_teachers(tmp_path):
    recipe = feature_distillation_recipe(tmp_path)
    generator = torch.Generator().manual_seed(0)
    emotion, semantic = (torch.randn(4, 20, size, generator=generator) for size in (12, 10))
    mixing = torch.linalg.qr(torch.randn(32, 22, generator=generator)).Q.T
    latents = torch.cat([emotion, semantic], -1) @ mixing  # both teachers lie in it, mixed
    batch = {"emotion_features": emotion, "semantic_features": semantic}
    sources = {"feature_distillation_sources": ("emotion", "semantic")}
    found = loss_after_training_the_heads(recipe, tiny_model(**sources), latents, batch)
    assert 2 * FLOOR <= found < 2 * FLOOR + 0.01
    # Latents of other frames hold nothing of them.
    strange = loss_after_training_the_heads(recipe, tiny_model(**sources), latents.flip(0, 1), batch)
    assert strange > 2 * FLOOR + 1


def test_feature_distillation_reaches_the_encoder_and_no_teacher(tmp_path):
    recipe = feature_distillation_recipe(tmp_path)
    model = tiny_model(feature_distillation_sources=("emotion", "semantic")).train()
    batch = {
        f"{source}_features": torch.randn(2, 10, size, requires_grad=True)
        for source, size in (("emotion", 12), ("semantic", 10))
    }
    outputs = model(torch.randn(2, 1, 3200) * 0.3)
    outputs.distillation_latents.retain_grad()
    distillation_losses(recipe, outputs, batch)["feature_distillation"].backward()
    assert bool((outputs.distillation_latents.grad.abs().sum(-1) > 0).all())
    assert all(features.grad is None for features in batch.values())
    moved = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().max() > 0)}
    assert {name.split(".")[0] for name in moved} == {"encoder", "quantizer", "feature_distillation_heads"}
