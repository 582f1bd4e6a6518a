"""The causal recipe differs from the mini one in nothing else, trains, and what it trains streams."""

import dataclasses

import torch
import train_codec
from accelerate.state import AcceleratorState, GradientState, PartialState
from recipe import load_recipe
from test_train_codec import ROOT, data_root  # noqa: F401

from hf_affectcodec import AffectCodecModel


RECIPES = ROOT / "training/recipes/codec"


def test_only_the_direction_differs():
    causal = dataclasses.asdict(load_recipe(RECIPES / "affectcodec-mini-causal.yaml"))
    plain = dataclasses.asdict(load_recipe(RECIPES / "affectcodec-mini.yaml"))
    assert causal["model"].pop("causal") is True
    assert {name for name in plain if plain[name] != causal[name]} == {"name"}


def test_it_trains_and_streams(data_root, tmp_path):  # noqa: F811
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"""
base: {RECIPES / "affectcodec-mini-causal.yaml"}
name: tiny
model: {{hidden_size: 32, intermediate_size: 64, num_encoder_layers: 2, num_decoder_layers: 2, codebook_size: 32,
  codebook_dim: 16}}
discriminator: {{stft_filters: 4, stft_n_ffts: [256], stft_hop_lengths: [128], periods: [2], period_channels: [4, 8]}}
train: [{{source: "{data_root}/train.parquet"}}]
validation: []
steps: 3
discriminator_start: 1
batch_size: 2
kmeans_steps: [0]
kmeans_batches: 2
mixed_precision: "no"
"""
    )
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    train_codec.main(["--recipe", str(recipe), "--output-dir", str(tmp_path / "run")])
    model = AffectCodecModel.from_pretrained(tmp_path / "run/model").eval()
    waveform = torch.randn(1, 1, 16000) * 0.3
    stream = model.streaming(1)
    with torch.no_grad():
        codes = model.encode(waveform).audio_codes
        streamed = torch.cat([stream.encode(chunk).audio_codes for chunk in waveform.split(900, dim=-1)], dim=-1)
    assert codes.unique().numel() > 10 and torch.equal(streamed, codes)
