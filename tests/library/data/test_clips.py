import io
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from hf_affectcodec.audio import AudioFileError
from hf_affectcodec.data.clips import Clips, RandomCrops, load_clips


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def flac(samples: int, rate: int = 16_000, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).standard_normal(samples) * 0.1
    soundfile.write(buffer, noise, rate, format="FLAC")
    return buffer.getvalue()


def write_parquet(path, clips: list[bytes], column: str = "audio") -> None:
    audio = [{"bytes": content, "path": f"clip{index}.flac"} for index, content in enumerate(clips)]
    table = pa.table(
        {
            column: pa.array(audio, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "sentence": [f"text {index}" for index in range(len(clips))],
        }
    )
    pq.write_table(table, path)


# --- load_clips ------------------------------------------------------------------------------------------------------


def test_parquet_files(tmp_path):
    write_parquet(tmp_path / "a.parquet", [flac(1000, seed=1), flac(800, 8000, seed=2)])
    write_parquet(tmp_path / "b.parquet", [flac(50, seed=3)])
    for source in (
        [tmp_path / "a.parquet", str(tmp_path / "b.parquet")],
        str(tmp_path / "*.parquet"),
    ):
        clips = load_clips(source, "validation", {"audio": "audio", "text": "sentence"}, progress=False)
        assert [len(waveform) for waveform in clips.waveforms] == [1000, 1600, 50]
        assert clips.names == ["clip0.flac", "clip1.flac", "clip0.flac"]
        assert clips.columns == {"text": ["text 0", "text 1", "text 0"]}
        assert clips.sampling_rate == 16_000 and clips.seconds == 2650 / 16_000 and len(clips) == 3
    expected = soundfile.read(io.BytesIO(flac(1000, seed=1)), dtype="int16")[0]
    assert clips.waveforms[0].dtype == np.int16 and (clips.waveforms[0] == expected).all()


def test_folder_of_parquet_by_split_and_slice(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    write_parquet(folder / "train-00000-of-00001.parquet", [flac(100), flac(200)], column="speech")
    write_parquet(folder / "test-00000-of-00001.parquet", [flac(300)], column="speech")
    columns = {"audio": "speech"}
    assert [len(w) for w in load_clips(folder, "test", columns, progress=False).waveforms] == [300]
    assert [len(w) for w in load_clips(folder, "train[1:]", columns, progress=False).waveforms] == [200]
    assert len(load_clips(folder, "train", columns, sampling_rate=8000, progress=False).waveforms[1]) == 100


def test_audio_folder(tmp_path):
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    for index in range(2):
        (folder / "train" / f"{index}.flac").write_bytes(flac(100 + index))
    clips = load_clips(folder, progress=False)
    assert [len(waveform) for waveform in clips.waveforms] == [100, 101]
    assert [name.rsplit("/")[-1] for name in clips.names] == ["0.flac", "1.flac"]


def test_a_bad_clip_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", [flac(100), flac(9000)[:-400]])
    with pytest.raises(AudioFileError, match="^clip1.flac: "):
        load_clips(tmp_path / "a.parquet", progress=False)


def test_bad_sources(tmp_path):
    write_parquet(tmp_path / "a.parquet", [flac(100)])
    (tmp_path / "broken.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-50])
    for source, split, columns, words in [
        (tmp_path / "missing.parquet", "train", None, "cannot be loaded"),
        (tmp_path / "broken.parquet", "train", None, "cannot be loaded"),
        (tmp_path / "missing", "train", None, "cannot be loaded"),
        ([tmp_path, tmp_path], "train", None, "must name Parquet files"),
        (tmp_path / "a.parquet", "train", {"audio": "speech"}, r"columns \['speech'\]"),
        (tmp_path / "a.parquet", "train", {"text": "sentence"}, "`column_map` must name"),
        (tmp_path / "a.parquet", "train[:0]", None, "corresponds to no data"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            load_clips(source, split, columns, progress=False)
        assert "\n" not in str(caught.value)


def test_without_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install hf-affectcodec\[train\]"):
        load_clips("any")


# --- RandomCrops -----------------------------------------------------------------------------------------------------


@pytest.fixture
def waveforms():
    """Clips whose samples say where they are: clip c, sample i holds 1000 * c + i + 1."""
    return [(1000 * clip + np.arange(length) + 1).astype(np.int16) for clip, length in enumerate([400, 100, 37, 900])]


def test_a_batch_holds_what_it_says(waveforms):
    crops = RandomCrops(waveforms, crop_samples=100, batch_size=64, seed=3)
    seen = set()
    for step in range(20):
        batch = crops[step]
        assert batch["input_values"].shape == (64, 1, 100) and batch["input_values"].dtype == torch.float32
        assert batch["padding_mask"].shape == (64, 100) and batch["padding_mask"].dtype == torch.bool
        assert batch["clip_index"].dtype == batch["start"].dtype == torch.int64
        for row in range(64):
            clip, start = batch["clip_index"][row].item(), batch["start"][row].item()
            seen.add((clip, start))
            expected = waveforms[clip][start : start + 100]
            assert len(expected) == min(100, len(waveforms[clip]))
            values = batch["input_values"][row, 0] * 32768
            assert values[: len(expected)].tolist() == expected.tolist()
            assert (values[len(expected) :] == 0).all()
            assert batch["padding_mask"][row].tolist() == [i < len(expected) for i in range(100)]
    assert {start for clip, start in seen if clip == 0} >= {0, 300}  # both ends are reached
    assert {clip for clip, _ in seen} == {0, 1, 2, 3}


def test_a_batch_is_a_function_of_seed_and_step(waveforms):
    crops = RandomCrops(waveforms, 50, 8, seed=5)
    first = [crops[step] for step in range(4)]
    np.random.seed(1)
    torch.manual_seed(1)
    again = RandomCrops(waveforms, 50, 8, seed=5)
    for step in (3, 1, 2, 0):  # any order
        assert all(torch.equal(again[step][key], first[step][key]) for key in first[step])
    assert not torch.equal(first[0]["start"], first[1]["start"])
    assert not torch.equal(RandomCrops(waveforms, 50, 8, seed=6)[0]["start"], first[0]["start"])


def test_the_stream_is_pinned(waveforms):
    """A run resumed with a later version goes on with the same crops."""
    batch = RandomCrops(waveforms, 50, 4, seed=0)[1000]
    assert batch["clip_index"].tolist() == [3, 0, 3, 1]
    assert batch["start"].tolist() == [683, 254, 647, 23]


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_split_the_global_batch(waveforms, world_size):
    whole = RandomCrops(waveforms, 50, 2 * world_size, seed=5, gain_db=(-6, 0))
    parts = [
        RandomCrops(waveforms, 50, 2, seed=5, rank=rank, world_size=world_size, gain_db=(-6, 0))
        for rank in range(world_size)
    ]
    for step in (0, 7):
        for key, value in whole[step].items():
            assert torch.equal(torch.cat([part[step][key] for part in parts]), value)


def test_clips_are_drawn_by_length(waveforms):
    batch = RandomCrops(waveforms, 10, 40_000, seed=1)[0]
    shares = torch.bincount(batch["clip_index"], minlength=4) / 40_000
    expected = torch.tensor([400, 100, 37, 900]) / 1437
    assert torch.allclose(shares, expected, atol=0.01)
    starts = batch["start"][batch["clip_index"] == 3]
    assert starts.min() == 0 and starts.max() == 890 and abs(starts.float().mean() - 445) < 10


def test_gain(waveforms):
    plain = RandomCrops(waveforms, 50, 400, seed=2)[0]["input_values"]
    scaled = RandomCrops(waveforms, 50, 400, seed=2, gain_db=(-12, 6))[0]["input_values"]
    gains = 20 * torch.log10(scaled.abs().amax((1, 2)) / plain.abs().amax((1, 2)))
    assert gains.min() >= -12.001 and gains.max() <= 6.001
    assert gains.min() < -11 and gains.max() > 5 and abs(gains.mean() + 3) < 0.6
    loud = RandomCrops([np.full(100, 30_000, np.int16)], 50, 20, gain_db=(3, 20))[0]["input_values"]
    assert torch.allclose(loud.abs().amax((1, 2)), torch.ones(20))
    silent = RandomCrops([np.zeros(100, np.int16)], 50, 2, gain_db=(-3, 20))[0]["input_values"]
    assert (silent == 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_clips_keep_their_scale(dtype):
    values = RandomCrops([np.full(10, 0.25, dtype)], 4, 1)[0]["input_values"]
    assert values.tolist() == [[[0.25] * 4]]


def test_in_a_data_loader(waveforms):
    crops = RandomCrops(Clips(waveforms, 16_000, ["a", "b", "c", "d"]), 50, 4, seed=5)
    loader = torch.utils.data.DataLoader(crops, batch_size=None, sampler=range(10, 14), num_workers=1)
    for step, batch in enumerate(loader, 10):
        assert all(torch.equal(batch[key], value) for key, value in crops[step].items())


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"clips": []}, "`clips` is empty"),
        ({"clips": [np.zeros(0, np.int16)]}, "item 0 must have shape"),
        ({"clips": [np.zeros((1, 5), np.int16)]}, "item 0 must have shape"),
        ({"clips": [np.zeros(5, np.int32)]}, "item 0 must be int16"),
        ({"crop_samples": 0}, "`crop_samples`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"seed": -1}, "`seed`"),
        ({"rank": 2, "world_size": 2}, "`rank`"),
        ({"gain_db": (3, -3)}, "`gain_db`"),
    ],
)
def test_arguments_are_checked(waveforms, arguments, words):
    with pytest.raises(ValueError, match=words):
        RandomCrops(**({"clips": waveforms, "crop_samples": 10, "batch_size": 2} | arguments))
    with pytest.raises(ValueError, match="`step`"):
        RandomCrops(waveforms, 10, 2)[-1]
