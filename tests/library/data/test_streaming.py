"""Streams: everything once an epoch, exact crops, exact resumes, bad clips, mixtures, and the Hub by range requests."""

import io
import json
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from huggingface_hub.errors import HfHubHTTPError

from hf_affectcodec.audio import AudioFileError, load_audio
from hf_affectcodec.benchmarks import streaming as streaming_benchmark
from hf_affectcodec.data import streamed_clips
from hf_affectcodec.data.crop_stream import CropStream, TooManyBadClipsError
from hf_affectcodec.data.streamed_clips import StreamedClip
from hf_affectcodec.data.streaming import StreamedCrops, StreamSource, load_first_clips, open_stream


sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from loopback_hub import LoopbackHub  # noqa: E402


CROP = 100


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def encode(samples: np.ndarray, rate: int = 16_000, kind: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()


def ramp(clip: int, length: int) -> np.ndarray:
    """Samples that say where they are: clip c, sample i holds 500 * c + i + 1 (lengths below 500)."""
    return (500 * clip + np.arange(length) + 1).astype(np.int16)


def write_shards(
    folder, lengths_by_shard: list[list[int]], broken: tuple[int, ...] = (), prefix="s"
) -> list[np.ndarray]:
    """Parquet files of ramps, clips numbered through; the broken ones lose their end. Returns the ramps."""
    folder.mkdir(exist_ok=True)
    ramps = []
    for shard, lengths in enumerate(lengths_by_shard):
        rows = []
        for length in lengths:
            clip = len(ramps)
            ramps.append(ramp(clip, length))
            content = encode(ramps[-1], kind="WAV")
            rows.append({"bytes": content[:-50] if clip in broken else content, "path": f"{prefix}{clip}.wav"})
        audio = pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        names = [row["path"] for row in rows]
        pq.write_table(
            pa.table({"audio": audio, "id": names}), folder / f"train-{shard:05d}.parquet", row_group_size=2
        )
    return ramps


LENGTHS = [[250, 99, 100, 330], [420, 100, 7], [199, 200, 201, 499, 50], [301, 120]]
COLUMNS = {"audio": "audio", "key": "id"}


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path / "set", LENGTHS)
    return tmp_path / "set"


def rows_of(folder):
    return open_stream(f"{folder}/*.parquet", column_map=COLUMNS)


def crops_of(folder, **options) -> list[dict]:
    return list(CropStream(rows_of(folder), CROP, COLUMNS, **{"epochs": 1, "buffer_size": 6, **options}))


# --- crops -----------------------------------------------------------------------------------------------------------


def test_crops_are_where_they_say_and_tile_their_clip(folder):
    crops = crops_of(folder, seed=3)
    lengths = [length for shard in LENGTHS for length in shard]
    starts = {}
    for crop in crops:
        clip = int(crop["key"][1:-4])
        expected = ramp(clip, lengths[clip])[crop["start"] : crop["start"] + CROP]
        assert (crop["values"] * 32768).tolist() == expected.tolist()
        assert crop["name"].startswith(f"s{clip}.wav (stream, shard ")
        starts.setdefault(clip, []).append(crop["start"])
    for clip, length in enumerate(lengths):
        assert len(starts[clip]) == max(length // CROP, 1)
        gaps = np.diff(sorted(starts[clip]))
        assert (gaps == CROP).all() and min(starts[clip]) >= 0
        assert max(starts[clip]) + min(CROP, length) <= length
    # drawn, not fixed: over epochs a clip of 199 begins anywhere in 0..99
    many = CropStream(rows_of(folder), CROP, COLUMNS, epochs=60, buffer_size=100)
    seen = {crop["start"] for crop in many if crop["key"] == "s7.wav"}
    assert min(seen) < 10 and max(seen) > 89 and len(seen) > 30


def test_at_most_so_many_crops_of_a_clip(folder):
    lengths = [length for shard in LENGTHS for length in shard]
    chosen = set()
    for seed in range(6):
        counts = Counter(crop["key"] for crop in crops_of(folder, seed=seed, crops_per_clip=2))
        assert [counts[f"s{clip}.wav"] for clip in range(len(lengths))] == [min(max(n // CROP, 1), 2) for n in lengths]
        chosen |= {
            crop["start"] // CROP for crop in crops_of(folder, seed=seed, crops_per_clip=1) if crop["key"] == "s4.wav"
        }
    assert len(chosen) > 1


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_crop_is_the_slice_of_the_resampled_clip(rate, kind, monkeypatch):
    """To rounding: torchaudio sums in another order where the input has another length."""
    noise = np.random.default_rng(0).standard_normal((rate * 2 + 7, 2)) * 0.1
    content = encode(noise, rate, kind)
    whole = load_audio(content)[0].numpy()
    clip = StreamedClip.open({"bytes": content, "path": None}, 16_000, "clip")
    assert clip.length == len(whole) and clip.waveform is None
    for start in (0, 1, 12_345, clip.length - 800):
        crop = clip.crop(start, 800)
        assert len(crop) == min(800, clip.length - start)
        np.testing.assert_allclose(crop, whole[start : start + 800], atol=2e-6)


@pytest.mark.parametrize("kind", ["OGG", "MP3"])
def test_crops_of_lossy_files(kind):
    """A pure tone, of which a decoder that starts in the middle of an MP3 makes silence."""
    content = encode(0.3 * np.sin(2 * np.pi * 220 * np.arange(80_000) / 16_000), 16_000, kind)
    clip = StreamedClip.open({"bytes": content, "path": None}, 16_000, "clip")
    whole = load_audio(content)[0].numpy()
    assert clip.length == len(whole) and clip.waveform is None
    for start in (0, 700, 16_000, 40_000, 79_200):
        np.testing.assert_allclose(clip.crop(start, 800), whole[start : start + 800], atol=1e-5)


def test_a_crop_of_a_long_clip_reads_little_of_it(tmp_path, monkeypatch):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.random.default_rng(0).standard_normal(16_000 * 120) * 0.1, 16_000, format="WAV")
    read = []

    class Counting(io.FileIO):
        def read(self, size=-1):
            content = super().read(size)
            read.append(len(content))
            return content

    monkeypatch.setattr(streamed_clips, "open", lambda path, mode: Counting(path, mode), raising=False)
    clip = StreamedClip.open({"bytes": None, "path": str(path)}, 16_000, "long")
    clip.crop(16_000 * 100, 16_000)
    assert 32_000 <= sum(read) < 70_000 and path.stat().st_size > 3_800_000


def test_what_cannot_be_sought_is_decoded_whole_and_said(tmp_path, caplog):
    """An MP3 whose first frame says nothing of its length."""
    content = encode(0.3 * np.sin(np.arange(160_000) / 20), 16_000, "MP3")
    frames = content.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4))
    assert frames != content
    rows = [{"bytes": frames, "path": f"{index}.mp3"} for index in range(2)]
    audio = pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"audio": audio}), tmp_path / "mp3.parquet")
    with caplog.at_level(logging.WARNING):
        crops = list(CropStream(open_stream(tmp_path / "mp3.parquet"), 16_000, epochs=1))
    assert [record.message.count("decoded whole") for record in caplog.records] == [1]
    whole = load_audio(frames)[0].numpy()
    assert len(crops) == 2 * (len(whole) // 16_000)
    for crop in crops:
        np.testing.assert_allclose(crop["values"], whole[crop["start"] :][:16_000], atol=2**-15)


def test_gain(folder):
    plain = {(crop["key"], crop["start"]): crop["values"] for crop in crops_of(folder)}
    gains = []
    for crop in crops_of(folder, gain_db=(-12.0, 3.0)):
        ratio = crop["values"] / plain[crop["key"], crop["start"]]
        assert np.ptp(ratio) < 1e-5
        gains.append(20 * np.log10(ratio[0]))
    assert -12 <= min(gains) < -9 and 0 < max(gains) <= 3


# --- shards, ranks, workers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consumers", [1, 2, 3, 4, 5, 20])
def test_the_union_over_ranks_is_everything_once(folder, consumers):
    """Four shards, 14 clips: fewer, as many and more ranks than shards, and more than clips."""
    whole = Counter((crop["key"], crop["start"]) for crop in crops_of(folder, seed=1))
    assert set(whole.values()) == {1} and len({key for key, _ in whole}) == 14
    parts = []
    for consumer in range(consumers):
        try:
            parts.append(crops_of(folder, seed=1, consumer=consumer, num_consumers=consumers))
        except StopIteration:
            parts.append([])
    assert Counter((crop["key"], crop["start"]) for part in parts for crop in part) == whole
    if consumers == 4:  # a shard each
        assert sorted(len({crop["key"] for crop in part}) for part in parts) == [2, 3, 4, 5]


def test_a_rank_reads_its_own_shards_only(folder):
    keys = [{crop["key"] for crop in crops_of(folder, consumer=rank, num_consumers=2)} for rank in (0, 1)]
    (folder / "train-00000.parquet").rename(folder / "gone")
    write_shards(folder / "other", [[100]])
    (folder / "other" / "train-00000.parquet").rename(folder / "train-00000.parquet")
    now = [{crop["key"] for crop in crops_of(folder, consumer=rank, num_consumers=2)} for rank in (0, 1)]
    assert sum(before == after for before, after in zip(keys, now, strict=True)) == 1


def test_epochs_are_shuffled_anew(folder):
    stream = CropStream(rows_of(folder), CROP, COLUMNS, epochs=3, buffer_size=6)
    epochs = [[], [], []]
    for crop in stream:
        epochs[stream.epoch].append(crop["key"])
    assert Counter(epochs[0]) == Counter(epochs[1]) == Counter(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    files = [key for shard in range(4) for key in [f"s{clip}.wav" for clip in ([0, 4, 7, 12][shard],)]]
    assert len({tuple(sorted(files, key=epoch.index)) for epoch in epochs}) > 1  # the shards' order too
    assert [crop["key"] for crop in crops_of(folder, seed=1)] != epochs[0]


def batches(crops, steps):
    return [crops[step] for step in steps]


def assert_same(first: list[dict], second: list[dict]):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
            assert same, key


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_resume_twice(tmp_path, workers):
    """Over several epochs and blocks, bad clips among them, from states that went through JSON."""
    write_shards(tmp_path / "a", LENGTHS, broken=(1, 8))
    write_shards(tmp_path / "b", [[150, 210], [300]], prefix="t")
    sources = [
        StreamSource(f"{tmp_path}/a/*.parquet", column_map=COLUMNS, weight=3),
        StreamSource(f"{tmp_path}/b/*.parquet", column_map=COLUMNS, weight=1),
    ]
    options = {"buffer_size": 7, "gain_db": (-6, 0), "max_bad_share": 0.9, "seed": 5, "rank": 1, "world_size": 2}

    def start():
        return StreamedCrops(sources, CROP, 3, num_workers=workers, read_ahead=2, **options)

    before = torch.get_rng_state()
    unbroken = start()
    expected = batches(unbroken, range(40))
    assert torch.equal(torch.get_rng_state(), before)
    crops = start()
    for stops in ((0, 11), (11, 24), (24, 40)):
        assert_same(batches(crops, range(*stops)), expected[slice(*stops)])
        state = json.loads(json.dumps(crops.state_dict(stops[1])))
        assert len(json.dumps(state)) < 3000 * max(workers, 1)
        again = start()
        again.load_state_dict(state)
        crops = again
    assert crops.counts() == unbroken.counts() or workers  # workers may have read further ahead
    assert unbroken.counts()["bad_clips"] > 0


def test_state_after_every_single_crop(folder):
    stream = CropStream(rows_of(folder), CROP, COLUMNS, epochs=2, buffer_size=4, num_consumers=2)
    keys, states = [], [stream.state_dict()]
    for crop in stream:
        keys.append((crop["key"], crop["start"]))
        states.append(stream.state_dict())
    for done, state in enumerate(states):
        again = CropStream(rows_of(folder), CROP, COLUMNS, epochs=2, buffer_size=4, num_consumers=2)
        again.load_state_dict(state)
        assert [(crop["key"], crop["start"]) for crop in again] == keys[done:]
        assert again.counts == stream.counts


def test_looking_ahead_and_back(folder):
    """What k-means of the codebooks does: the batches it looked at are trained on after it."""
    plain = batches(StreamedCrops([StreamSource(f"{folder}/*.parquet")], CROP, 2), range(9))
    crops = StreamedCrops([StreamSource(f"{folder}/*.parquet")], CROP, 2, read_ahead=3)
    assert_same(
        batches(crops, [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 2]), [plain[i] for i in (0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 2)]
    )
    state = crops.state_dict(3)
    with pytest.raises(ValueError, match="`step` must be at least 2"):
        crops[1]
    with pytest.raises(ValueError, match="`step` must be 2 to 6, got 7"):
        crops.state_dict(7)
    crops = StreamedCrops([StreamSource(f"{folder}/*.parquet")], CROP, 2)
    crops.load_state_dict(state)
    assert_same(batches(crops, range(3, 9)), plain[3:])


def test_ranks_and_workers_split_an_epoch(folder):
    """Two ranks of two workers, a shard each: worker w of rank r gives the batches w, w + 2, ... of that rank."""
    sources = [StreamSource(f"{folder}/*.parquet")]
    keys = []
    for rank in (0, 1):
        crops = StreamedCrops(sources, CROP, 1, rank=rank, world_size=2, num_workers=2, crops_per_clip=1)
        names = [crops[step]["name"][0].split()[0] for step in range(10)]
        for worker in (0, 1):
            own = crops_of(folder, consumer=2 * rank + worker, num_consumers=4, crops_per_clip=1, buffer_size=512)
            keys.append([crop["key"] for crop in own])
            assert names[worker::2][: len(own)] == keys[-1][:5]
    assert sorted(key for part in keys for key in part) == sorted(f"s{clip}.wav" for clip in range(14))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_two_resumes_in_any_world_lose_and_repeat_nothing(folder, ranks, workers):
    """Every rank is stopped twice in its first epoch; all ranks' crops together are those of one, once each."""
    whole = Counter((crop["key"], crop["start"]) for crop in crops_of(folder, seed=4))
    found = Counter()
    for rank in range(ranks):

        def start(rank=rank):
            layout = {"rank": rank, "world_size": ranks, "num_workers": workers}
            source = StreamSource(f"{folder}/*.parquet", column_map=COLUMNS)
            return StreamedCrops([source], CROP, 1, seed=4, buffer_size=6, **layout)

        crops, step, epochs = start(), 0, [0]
        while min(epochs) == 0:
            batch = crops[step]
            state = crops.state_dict(step + 1)
            epochs = [0 if s is None else s["sources"][0]["first"]["epoch"] for s in state["workers"]]
            if epochs[step % max(workers, 1)] == 0:
                found[batch["key"][0], int(batch["start"][0])] += 1
            step += 1
            if step in (2, 3):
                crops = start()
                crops.load_state_dict(json.loads(json.dumps(state)))
    assert found == whole and set(whole.values()) == {1}


def test_states_of_another_layout_are_refused(folder):
    sources = [StreamSource(f"{folder}/*.parquet")]
    state = StreamedCrops(sources, CROP, 2, world_size=2).state_dict(0)
    for options, words in (
        ({}, "`world_size` must be 2"),
        ({"world_size": 2, "num_workers": 1}, "`num_workers` must be 0"),
        ({"world_size": 2, "rank": 1}, "`rank` must be 0"),
    ):
        with pytest.raises(ValueError, match=words):
            StreamedCrops(sources, CROP, 2, **options).load_state_dict(state)


# --- mixtures --------------------------------------------------------------------------------------------------------


def test_weights_are_shares_of_crops_and_small_sources_repeat(tmp_path):
    write_shards(tmp_path / "a", [[100] * 30, [100] * 30])
    write_shards(tmp_path / "b", [[100, 100]], prefix="t")
    sources = [StreamSource(f"{tmp_path}/a/*.parquet", weight=3), StreamSource(f"{tmp_path}/b/*.parquet", weight=1)]
    crops = StreamedCrops(sources, CROP, 20, seed=2)
    names = [name.split()[0] for step in range(20) for name in crops[step]["name"]]
    share = sum(name.startswith("t") for name in names) / 400
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)
    small = [name for name in names if name.startswith("t")]
    assert all(set(small[i : i + 2]) == {"t0.wav", "t1.wav"} for i in range(0, len(small) - 1, 2))
    large = [name for name in names if name.startswith("s")]
    assert len(set(large[:60])) == 60 and len(set(large[60:120])) == 60
    other = StreamedCrops(sources, CROP, 20, seed=2, rank=1, world_size=2)
    assert [name.split()[0] for name in other[0]["name"]] != names[:20]


# --- bad clips -------------------------------------------------------------------------------------------------------


def test_bad_clips_are_skipped_counted_and_named(tmp_path, caplog):
    write_shards(tmp_path / "set", LENGTHS, broken=(0, 5))
    stream = CropStream(rows_of(tmp_path / "set"), CROP, COLUMNS, epochs=2, buffer_size=5, min_samples=20)
    with caplog.at_level(logging.WARNING):
        keys = {crop["key"] for crop in stream}
    assert keys == {f"s{clip}.wav" for clip in range(14)} - {"s0.wav", "s5.wav", "s6.wav"}
    assert (stream.counts.opened, stream.counts.bad, stream.counts.short) == (28, 4, 2)
    bad = [record.message for record in caplog.records]
    assert len(bad) == 4 and all("truncated" in line and "skipped" in line for line in bad)
    assert {line.split(" (stream, shard ")[0] for line in bad} == {"s0.wav", "s5.wav"}


def test_too_many_bad_clips_stop_with_one_line(tmp_path):
    write_shards(tmp_path / "set", [[100] * 20, [100] * 20], broken=tuple(range(0, 40, 4)))
    options = {"epochs": 1, "buffer_size": 4, "min_opened": 12}
    assert len(crops_of(tmp_path / "set", max_bad_share=0.5, **options)) == 30
    assert len(crops_of(tmp_path / "set", max_bad_share=0.05, **{**options, "min_opened": 41})) == 30
    with pytest.raises(TooManyBadClipsError) as caught:
        crops_of(tmp_path / "set", max_bad_share=0.05, label="corpus train", **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("corpus train: ") and "more than 5.0%" in message
    met, of = int(message.split()[2]), int(message.split()[4])
    assert of >= 12 and message.count("truncated") == min(met, 5) and f"({met / of:.1%})" in message


def test_a_worker_hands_its_error_on_as_one_line(tmp_path):
    write_shards(tmp_path / "set", [[100] * 8], broken=tuple(range(8)))
    crops = StreamedCrops([StreamSource(f"{tmp_path}/set/*.parquet")], CROP, 2, num_workers=1, min_opened=5)
    with pytest.raises(TooManyBadClipsError, match="^.*train: .* clips .100.0%. cannot be read[^\n]*$"):
        crops[0]


def test_a_source_without_a_single_clip_says_so(tmp_path):
    write_shards(tmp_path / "set", [[10, 10]])
    crops = StreamedCrops([StreamSource(f"{tmp_path}/set/*.parquet")], CROP, 2, min_samples=50)
    with pytest.raises(ValueError, match="nothing for consumer 0 of 1 in 2 epochs .4 clips met, 0 bad, 4 too short."):
        crops[0]


def test_what_decodes_badly_is_found_while_cropping(tmp_path):
    """A FLAC whose header is whole: only its decoder notices."""
    noise = np.random.default_rng(0).standard_normal(40_000) * 0.1
    good = encode(noise)
    damaged = good[:30_000] + bytes(4_000) + good[34_000:]
    rows = [{"bytes": content, "path": f"{index}.flac"} for index, content in enumerate([good, damaged, good])]
    audio = pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"audio": audio}), tmp_path / "a.parquet")
    stream = CropStream(open_stream(tmp_path / "a.parquet"), 4_000, epochs=1)
    counts = Counter(crop["name"].split()[0] for crop in stream)
    assert counts["0.flac"] == counts["2.flac"] == 10 and counts["1.flac"] < 10
    assert stream.counts.bad == 1 and stream.counts.opened == 3


# --- sources ---------------------------------------------------------------------------------------------------------


def test_audio_folder(tmp_path):
    (tmp_path / "set" / "train").mkdir(parents=True)
    for index in range(5):
        (tmp_path / "set" / "train" / f"{index}.wav").write_bytes(encode(ramp(index, 130), kind="WAV"))
    parts = [
        list(CropStream(open_stream(tmp_path / "set"), CROP, consumer=rank, num_consumers=2, epochs=1))
        for rank in (0, 1)
    ]
    names = sorted(crop["name"].split(" (")[0][-5:] for part in parts for crop in part)
    assert names == [f"{index}.wav" for index in range(5)]
    assert [len(clip) for clip in load_first_clips(StreamSource(tmp_path / "set"), 3)] == [130] * 3


def test_bad_sources(folder):
    for source, split, columns, words in [
        (folder / "missing.parquet", "train", None, "cannot be streamed"),
        (folder / "missing", "train", None, "cannot be streamed"),
        ([folder, folder], "train", None, "must name Parquet files"),
        (f"{folder}/*.parquet", "train", {"audio": "speech"}, r"columns \['speech'\]"),
        (f"{folder}/*.parquet", "train", {"text": "id"}, "`column_map` must name"),
        (folder, "train[:2]", None, "have no slices"),
        (f"{folder}/*.parquet", "train[:2]", None, "have no slices"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            open_stream(source, split, columns)
        assert "\n" not in str(caught.value)
    good = StreamSource(f"{folder}/*.parquet")
    for options, words in [
        ({"sources": []}, "`sources` is empty"),
        ({"sources": [StreamSource(f"{folder}/*.parquet", weight=0)]}, "`weight` of .* must be above 0"),
        ({"sources": [good, StreamSource(f"{folder}/*.parquet", column_map=COLUMNS)]}, "the same columns"),
        (
            {"sources": [StreamSource(good.source, column_map={"audio": "audio", "name": "id"})]},
            "must not use .'name'",
        ),
        ({"rank": 1}, "`rank` must be 0 to 0"),
        ({"crop_samples": 0}, "`crop_samples`"),
        ({"buffer_size": 0}, "`buffer_size`"),
        ({"max_bad_share": 2.0}, "`max_bad_share`"),
        ({"gain_db": (1, 0)}, "`gain_db`"),
    ]:
        with pytest.raises(ValueError, match=words):
            StreamedCrops(**{"sources": [good], "crop_samples": CROP, "batch_size": 2, **options})


def test_without_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install hf-affectcodec\[train\]"):
        open_stream("any")


def test_a_cut_line_is_not_a_bad_clip(monkeypatch):
    content = encode(ramp(0, 400), kind="WAV")

    class Remote(io.BytesIO):
        works_up_to = 20

        def read(self, size=-1):
            if self.tell() + max(size, 0) > Remote.works_up_to:
                raise HfHubHTTPError.__new__(HfHubHTTPError)
            return super().read(size)

    monkeypatch.setattr("fsspec.open", lambda file, mode: Remote(content))
    audio = {"bytes": None, "path": "hf://datasets/org/set/0.wav"}
    with pytest.raises(ConnectionError, match="^clip: cannot be fetched"):
        StreamedClip.open(audio, 16_000, "clip")
    Remote.works_up_to = 10_000
    clip = StreamedClip.open(audio, 16_000, "clip")
    assert clip.crop(100, 200).size == 200
    Remote.works_up_to = 200  # inside of libsndfile, which knows no exceptions
    with pytest.raises(ConnectionError, match="^clip: cannot be fetched"):
        clip.crop(100, 200)

    def missing(file, mode):
        raise FileNotFoundError(file)

    monkeypatch.setattr("fsspec.open", missing)
    with pytest.raises(AudioFileError, match="^clip: no such file$"):
        StreamedClip.open(audio, 16_000, "clip")


def test_a_shard_that_cannot_be_fetched_is_said_in_one_line(folder, monkeypatch):
    def down(self, size):
        raise HfHubHTTPError.__new__(HfHubHTTPError)

    monkeypatch.setattr(datasets.IterableDataset, "iter", down)
    with pytest.raises(ConnectionError, match="^stream: shard [0-3] cannot be fetched .HfHubHTTPError.$"):
        crops_of(folder)
    crops = StreamedCrops([StreamSource(f"{folder}/*.parquet")], CROP, 2, num_workers=1)  # through a worker, too
    with pytest.raises(ConnectionError, match="train: shard [0-3] cannot be fetched"):
        crops[0]


CLIENT = """
import json, sys
from hf_affectcodec.data.streaming import StreamedCrops, StreamSource
def start():
    sources = [StreamSource("org/parquet", weight=2), StreamSource("org/folder")]
    return StreamedCrops(sources, 1000, 2, buffer_size=8, num_workers=int(sys.argv[1]))
crops = start()
names = [crops[step]["name"] for step in range(6)]
again = start()
again.load_state_dict(json.loads(json.dumps(crops.state_dict(6))))
rest = [again[step]["name"] for step in range(6, 10)]
assert rest == [crops[step]["name"] for step in range(6, 10)]
print(json.dumps(names + rest))
"""


def test_from_the_hub_by_ranges(tmp_path):
    """The real clients against a Hub on 127.0.0.1; of a long wav they take the header and the crop."""
    write_shards(tmp_path / "set", LENGTHS)
    files = {f"data/{path.name}": path.read_bytes() for path in sorted((tmp_path / "set").iterdir())}
    noise = np.random.default_rng(0).standard_normal(16_000 * 600) * 0.1
    with LoopbackHub() as hub:
        hub.add("dataset", "org/parquet", files)
        hub.add("dataset", "org/folder", {"train/long.wav": encode(noise, kind="WAV")})
        hub.fail("GET", r"long\.wav", times=1, status=500)
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, "1"], env=hub.environment(tmp_path / "home"), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        names = [name for batch in json.loads(done.stdout.splitlines()[-1]) for name in batch]
        assert {name.split(" (")[0].rsplit("@")[-1].split("/")[-1] for name in names} > {"long.wav"}
        answers = [(path, status) for method, path, status in hub.requests if method == "GET" and "/resolve/" in path]
        assert sum("long.wav" in path and status == 206 for path, status in answers) > 0
        assert not any("long.wav" in path and status == 200 for path, status in answers)
        assert hub.faults[0].times == 0


def test_benchmark_counts_what_it_reads(monkeypatch, capsys):
    monkeypatch.setattr(streaming_benchmark, "FILE_RATE", 22_050)
    monkeypatch.setattr(streaming_benchmark, "torchcodec_works", lambda: False)
    streaming_benchmark.main(["--clips", "5", "--seconds", "1", "--crop-seconds", "0.3", "--rounds", "1"])
    said = capsys.readouterr().out
    rows = [line.split(" | ") for line in said.splitlines()[4:]]
    assert [int(row[1]) for row in rows] == [5, 5, 15] and rows[0][-1].startswith("1.0")
    assert "plain `datasets` is left out" in said


@pytest.mark.skipif(not streaming_benchmark.torchcodec_works(), reason="torchcodec finds no FFmpeg")
def test_benchmark_with_plain_datasets(monkeypatch, capsys):
    monkeypatch.setattr(streaming_benchmark, "FILE_RATE", 22_050)
    streaming_benchmark.main(["--clips", "5", "--seconds", "1", "--crop-seconds", "0.3", "--rounds", "1"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert [int(row[1]) for row in rows] == [5, 5, 5, 15] and rows[0][0] == "| plain `datasets`, one crop each"
    assert rows[0][-1].startswith("1.0")
