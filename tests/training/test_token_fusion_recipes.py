"""The grid of the study: every recipe is a system that can be built, and each cell of the grid is there."""

from pathlib import Path

import pytest
from train_token_fusion import build_config, build_extractor, load_recipe


RECIPES = Path(__file__).resolve().parents[2] / "training/recipes/token_fusion"


@pytest.fixture(scope="module")
def studies():
    """By folder and file name: recipe, configuration."""
    found = {}
    for path in sorted(RECIPES.rglob("*.yaml")):
        recipe = load_recipe(path, "data")
        config = build_config(recipe)
        extractor = build_extractor(recipe, config)
        # the openSMILE features that are asked for are those that the model reads
        assert (config.opensmile_fusion == "none") == (extractor.opensmile_feature_set is None), path
        sizes = {("eGeMAPSv02", "functionals"): 88, ("eGeMAPSv02", "lld"): 25, ("ComParE_2016", "functionals"): 6373}
        if extractor.opensmile_feature_set is not None:
            assert sizes[extractor.opensmile_feature_set, config.opensmile_level] == config.opensmile_size, path
        # centroids are an encoder's
        assert recipe.centroids is None or (config.quantized and config.tokenizer_kind == "encoder"), path
        if path.parent.name in ("msp-podcast", "expressive-voices"):
            assert recipe.name == f"{path.parent.name}-{path.stem}"
        found.setdefault(path.parent.name, {})[path.stem] = (recipe, config)
    return found


def test_the_papers_grid(studies):
    configs = {name: config for name, (_, config) in studies["msp-podcast"].items()}
    assert all(
        recipe.labels == studies["msp-podcast"]["dasb-six"][0].labels for recipe, _ in studies["msp-podcast"].values()
    )
    single = [
        config.tokenizer_layers for name, config in configs.items() if name.startswith("single") and name[7:].isdigit()
    ]
    assert single == [[layer] for layer in range(1, 25)]
    assert configs["all-24"].tokenizer_layers == list(range(1, 25)) and configs["top-two"].tokenizer_layers == [23, 24]
    assert configs["dasb-six"].tokenizer_layers == [1, 3, 7, 12, 18, 23]
    for layers in ("dasb-six", "all-24", "top-two"):
        clusters = {c.vocab_size for n, c in configs.items() if n == layers or n.startswith(f"{layers}-k-")}
        assert clusters == {256, 512, 1000, 2000, 4000}
        assert (
            not configs[f"{layers}-continuous"].quantized and configs[f"{layers}-egemaps"].opensmile_fusion == "late"
        )
        assert configs[f"{layers}-continuous"].tokenizer_layers == configs[layers].tokenizer_layers
    codecs = {c.tokenizer_model for c in configs.values() if c.tokenizer_kind == "codec"}
    assert {name.rpartition("/")[2] for name in codecs} == {
        "affectcodec-mini",
        "encodec_24khz",
        "dac_24khz",
        "speechtokenizer",
    }
    for name in configs:
        if name.startswith("codec") and not name.endswith("egemaps"):
            assert configs[f"{name}-egemaps"].opensmile_fusion == "late"
    # runs that share a cache must have the same streams in it
    streams = {}
    for recipe, config in studies["msp-podcast"].values():
        made = (config.tokenizer_model, config.tokenizer_layers, config.num_streams, config.tokenizer_bandwidth)
        assert streams.setdefault(recipe.cache, made) == made, recipe.name


def test_the_small_grid(studies):
    configs = {name: config for name, (_, config) in studies["expressive-voices"].items()}
    assert {c.vocab_size for n, c in configs.items() if n.startswith("whisper")} == {256, 500, 1000, 2000}
    for quantized in (True, False):
        singles = {
            c.single_stream for n, c in configs.items() if n.startswith("whisper-single") and c.quantized == quantized
        }
        assert singles == set(range(7))
    last = {name: c for name, c in configs.items() if name.startswith("whisper-6")}
    assert all(c.tokenizer_layers == [6] and c.num_streams == 1 for c in last.values())
    assert {c.vocab_size for c in last.values()} == {256, 500, 1000, 2000}
    for name in ("whisper-6", "whisper-6-egemaps"):  # the same system but for the quantisation
        quantized, continuous = (last[n].to_dict() for n in (name, f"{name}-continuous"))
        assert {k for k in quantized if quantized[k] != continuous[k]} == {"quantized"}
    assert {c.tokenizer_kind for c in configs.values()} == {"encoder", "codec", "log_mel"}
    assert {c.opensmile_fusion for c in configs.values()} == {"none", "early", "late", "gate"}
    streams = {}
    for recipe, config in studies["expressive-voices"].values():
        made = (config.tokenizer_model, config.tokenizer_layers, config.num_streams)
        assert streams.setdefault(recipe.cache, made) == made, recipe.name
