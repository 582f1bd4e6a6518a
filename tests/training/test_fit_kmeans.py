import io
import json
import os

import fit_kmeans
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from fit_kmeans import StreamCache, main
from safetensors import safe_open
from sharded_output import AudioRows
from sklearn.cluster import KMeans
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from hf_affectcodec.data.kmeans_tokens import (
    LayerCentroids,
    assign_tokens,
    centroids_path,
    fit_layer,
    load_centroids,
    save_centroids,
    stack_layers,
)


CLIPS = 7


@pytest.fixture
def source(tmp_path):
    """Seven clips of noise, 0.2 to 0.8 s."""
    audio = []
    for index in range(CLIPS):
        buffer = io.BytesIO()
        noise = np.random.default_rng(index).standard_normal(3200 + 1601 * index) * 0.1
        soundfile.write(buffer, noise, 16_000, format="FLAC")
        audio.append({"bytes": buffer.getvalue(), "path": f"clip{index}.flac"})
    column = pa.array(audio, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"audio": column}), tmp_path / "source.parquet")
    return str(tmp_path / "source.parquet")


@pytest.fixture
def hubert(tmp_path):
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=8,
        conv_dim=(4,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=1,
    )
    HubertModel(config).save_pretrained(tmp_path / "hubert")
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(tmp_path / "hubert")
    return str(tmp_path / "hubert")


def chunks_of(frames, size=37):
    def frames_of_pass(number):
        order = np.random.default_rng(number).permutation(len(frames))
        for start in range(0, len(frames), size):
            yield frames[order[start : start + size]]

    return frames_of_pass


def test_assignment_is_brute_force():
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((300, 5)) * [1, 1, 50, 1, 1] + [0, 0, 20, 0, 0]
    mean, std = frames.mean(0), frames.std(0)
    centroids = rng.standard_normal((17, 5))
    layer = LayerCentroids(*(torch.from_numpy(x).float() for x in (centroids, mean, std)), {})
    expected = []
    for frame in frames:
        z = (frame - mean) / std
        distances = [sum((z[c] - centroid[c]) ** 2 for c in range(5)) for centroid in centroids]
        expected.append(distances.index(min(distances)))
    assert assign_tokens(torch.from_numpy(frames), layer).tolist() == expected
    many = torch.from_numpy(frames).repeat(60, 1)  # more than are assigned at once
    assert assign_tokens(many, layer).tolist() == expected * 60


def test_planted_clusters_are_found():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((6, 4)) * 10
    labels = rng.integers(6, size=2000)
    frames = centres[labels] + rng.standard_normal((2000, 4)) * 0.1
    layer = fit_layer(chunks_of(frames), 6, passes=3, batch_size=500)
    tokens = assign_tokens(torch.from_numpy(frames), layer).numpy()
    pairs = set(zip(labels.tolist(), tokens.tolist(), strict=True))
    assert len(pairs) == 6 and len({token for _, token in pairs}) == 6  # one token a cluster, and the other way
    found = layer.centroids.numpy() * layer.std.numpy() + layer.mean.numpy()
    for label, token in pairs:
        assert np.abs(found[token] - centres[label]).max() < 0.05
    assert layer.metadata["usage"] == 1 and layer.metadata["explained"] > 0.999


@pytest.mark.parametrize("standardize", [True, False])
def test_inertia_is_near_full_kmeans(standardize):
    rng = np.random.default_rng(1)
    frames = rng.standard_normal((3000, 6)) * [1, 1, 1, 1, 1, 5] + 3
    layer = fit_layer(chunks_of(frames), 16, passes=8, batch_size=600, standardize=standardize)
    scaled = (frames - frames.mean(0)) / frames.std(0) if standardize else frames
    full = KMeans(16, n_init=3, random_state=0).fit(scaled).inertia_ / len(frames)
    assert full * 0.999 < layer.metadata["inertia"] < full * 1.15
    # what the metadata says, counted by hand
    tokens = assign_tokens(torch.from_numpy(frames), layer).numpy()
    centroids = layer.centroids.numpy()
    by_hand = np.mean([((z - centroids[t]) ** 2).sum() for z, t in zip(scaled, tokens, strict=True)])
    assert layer.metadata["inertia"] == pytest.approx(by_hand, rel=1e-4)
    assert layer.metadata["explained"] == pytest.approx(1 - by_hand / scaled.var(0).sum(), abs=1e-4)
    shares = np.bincount(tokens, minlength=16) / len(tokens)
    assert layer.metadata["usage"] == pytest.approx((shares > 0).mean())
    assert layer.metadata["perplexity"] == pytest.approx(np.exp(-sum(p * np.log(p) for p in shares if p)), rel=1e-4)
    assert (layer.std == 1).all() != standardize
    again = fit_layer(chunks_of(frames), 16, passes=8, batch_size=600, standardize=standardize)
    assert again.centroids.equal(layer.centroids)


def test_bad_arguments_are_named(tmp_path):
    frames = chunks_of(np.zeros((10, 3)))
    for arguments, message in (
        ({"num_clusters": 11}, "`num_clusters` is 11, and there are only 10 frames"),
        ({"num_clusters": 0}, "`num_clusters` must be at least 1"),
        ({"num_clusters": 4, "batch_size": 3}, "`batch_size` must be at least `num_clusters`"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_layer(frames, **arguments)
    with pytest.raises(ValueError, match="there are no centroids at"):
        load_centroids(tmp_path / "none.safetensors")


def test_centroids_on_disk(tmp_path):
    layers = [
        LayerCentroids(torch.randn(4, 3), torch.randn(3), torch.rand(3), {"num_clusters": 4, "layer": j})
        for j in (2, 5)
    ]
    for layer in layers:
        save_centroids(layer, centroids_path(tmp_path, layer.metadata["layer"], 4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["layer-02_k-4.safetensors", "layer-05_k-4.safetensors"]
    loaded = [load_centroids(centroids_path(tmp_path, j, 4)) for j in (2, 5)]
    centroids, mean, std = stack_layers(loaded)
    assert centroids.shape == (2, 4, 3) and mean.shape == std.shape == (2, 3)
    assert centroids[1].equal(layers[1].centroids) and std[0].equal(layers[0].std)
    assert loaded[1].metadata == layers[1].metadata


def options(source, hubert, out, *more):
    options = ["--source", source, "--encoder", hubert, "--layers", "2", "0", "--clusters", "4", "9"]
    return [*options, "--output-dir", str(out), "--passes", "3", *more]


def test_from_the_command_line_and_on_again(source, hubert, tmp_path, monkeypatch):
    out = tmp_path / "out"
    main(options(source, hubert, out))
    names = ["layer-00_k-4", "layer-00_k-9", "layer-02_k-4", "layer-02_k-9"]
    paths = [out / f"{name}.safetensors" for name in names]
    assert sorted(out.glob("*.safetensors")) == paths
    layer = load_centroids(paths[3])
    assert layer.metadata["layer"] == 2 and layer.metadata["seed"] == 0 and layer.centroids.shape == (9, 8)

    # the frames are the encoder's, of that layer
    model, extractor = HubertModel.from_pretrained(hubert).eval(), Wav2Vec2FeatureExtractor.from_pretrained(hubert)
    frames = []
    for _, waveform, _ in AudioRows(source, "train").read(0, CLIPS, 16000):
        inputs = extractor(waveform.numpy(), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            frames.append(model(**inputs, output_hidden_states=True).hidden_states[2][0])
    frames = torch.cat(frames)
    assert layer.metadata["frames"] == len(frames)
    assert torch.allclose(layer.mean, frames.mean(0), atol=1e-3)
    assert torch.allclose(layer.std, frames.std(0, correction=0), atol=1e-3)
    distances = torch.cdist((frames - layer.mean) / layer.std, layer.centroids).min(1).values.square()
    assert layer.metadata["inertia"] == pytest.approx(float(distances.mean()), rel=1e-2)

    # one fit is lost: only it is made again, and alike; the encoder is not run again
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    paths[1].unlink()
    monkeypatch.setattr(fit_kmeans.TokenFusionWaveformEncoder, "__call__", lambda *_: pytest.fail("ran again"))
    main(options(source, hubert, out))
    for path in paths:
        assert path.read_bytes() == before[path][1]
        assert (path.stat().st_mtime_ns == before[path][0]) == (path != paths[1])
    with pytest.raises(ValueError, match="was made with another frames_per_clip"):
        main(options(source, hubert, out, "--frames-per-clip", "3"))


class Killed(BaseException):
    pass


class DyingEncoder:
    """Codes that say which clip they are of; dies at the n-th."""

    def __init__(self, fatal=None):
        self.calls, self.fatal = 0, fatal

    def __call__(self, waveform):
        if self.calls == self.fatal:
            raise Killed
        self.calls += 1
        return torch.full((3 + len(waveform) % 3, 2), len(waveform))


def test_a_killed_encoding_goes_on(source, tmp_path):
    rows = AudioRows(source, "train")
    with pytest.raises(Killed):
        StreamCache(tmp_path / "cache", CLIPS, {"a": (1, 2)}, 2).fill(rows, DyingEncoder(5))
    encoder = DyingEncoder()
    cache = StreamCache(tmp_path / "cache", CLIPS, {"a": (1, 2)}, 2)
    cache.fill(rows, encoder)
    assert encoder.calls == 3  # the half file's clip again, and the two that were left
    for index in range(CLIPS):
        assert cache.read(index).unique().tolist() == [3200 + 1601 * index]
    assert not [name for name in os.listdir(tmp_path / "cache") if name.endswith(".tmp")]
    with pytest.raises(ValueError, match="was made with another a; name another folder"):
        StreamCache(tmp_path / "cache", CLIPS, {"a": (1, 3)}, 2)


def test_frames_of_a_stream_in_a_drawn_order(source, tmp_path):
    class Encoder:
        def __call__(self, waveform):
            return torch.stack([torch.full((2, 4), len(waveform) / 1e3), torch.arange(8.0).view(2, 4)], dim=1)

    cache = StreamCache(tmp_path / "cache", CLIPS, {}, 3)
    cache.fill(AudioRows(source, "train"), Encoder())
    orders = [[float(frames[0, 0]) for frames in cache.frames(0, seed)] for seed in (0, 0, 1)]
    expected = [float(torch.tensor((3200 + 1601 * i) / 1e3).half()) for i in range(CLIPS)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2]) == expected
    assert all(np.array_equal(frames, np.arange(8.0).reshape(2, 4)) for frames in cache.frames(1, 0))


def test_a_part_of_each_clip(source, hubert, tmp_path):
    main(options(source, hubert, tmp_path / "out", "--frames-per-clip", "3"))
    with safe_open(tmp_path / "out/layers/streams-00000-of-00001.safetensors", "pt") as file:
        assert all(file.get_tensor(str(i)).shape == (3, 2, 8) for i in range(CLIPS))
        assert json.loads(file.metadata()["settings"])["layers"] == [2, 0]
