"""
Malformed input at every entrance: each is a `ValueError` (of the command: exit status 2) with one line that names the
argument or the file. `EXAMPLES` says how many are thrown at which.
"""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from tiny import tiny_model

from hf_affectcodec import AffectCodecFeatureExtractor
from hf_affectcodec.audio import load_audio
from hf_affectcodec.cli import main
from hf_affectcodec.codes_file import AudioCodes, load_codes, save_codes


EXAMPLES = {
    "extractor": 150,
    "encode": 150,
    "forward": 60,
    "decode": 120,
    "codes": 40,
    "codes file": 120,
    "audio file": 100,
    "command": 50,
    "command line": 60,
}
HOP, RATE = 320, 16000
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
NO_TENSORS = [None, 3, "noise", [0.0] * 400, np.zeros((1, 1, 400), np.float32)]


def throw(name: str, cases, check):
    """Runs `check(case)` on `EXAMPLES[name]` cases, the same ones each time."""
    count = 0

    @settings(
        max_examples=EXAMPLES[name],
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def run(case):
        nonlocal count
        check(case)
        count += 1

    run()
    assert count >= EXAMPLES[name]


def assert_refused(name: str, function, *arguments, **keywords):
    with pytest.raises(ValueError) as caught:
        function(*arguments, **keywords)
    message = str(caught.value)
    assert name in message
    assert message.strip() and "\n" not in message and len(message) < 500


def noise(draw, *shape) -> np.ndarray:
    generator = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    return (generator.normal(size=shape) * 0.1).astype(np.float32)


def spoiled(draw, values: np.ndarray) -> np.ndarray:
    """A copy with one value that is not finite."""
    values = values.copy()
    values.flat[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from(NOT_FINITE))
    return values


def test_enough_are_thrown():
    assert sum(EXAMPLES.values()) >= 500


@st.composite
def extractor_cases(draw):
    kind = draw(
        st.sampled_from(["rate", "not finite", "overflow", "short", "dtype", "rank", "type", "ragged", "empty"])
    )
    clip = noise(draw, draw(st.integers(HOP, 2000)))
    if kind == "rate":
        others = st.integers(-1, 1 << 20) | st.floats() | st.text(max_size=6) | st.none() | st.booleans()
        return "`sampling_rate`", [clip], draw(others.filter(lambda rate: rate != RATE))
    if kind == "empty":
        return "`audio`", draw(st.sampled_from([[], (), np.zeros(0), torch.zeros(0)])), RATE
    if kind == "not finite":
        clip = spoiled(draw, clip.astype(draw(st.sampled_from(["float16", "float32", "float64"]))))
    elif kind == "overflow":
        clip = clip.astype(np.float64) * 1e300  # finite, but not in float32
    elif kind == "short":
        clip = clip[: draw(st.integers(0, HOP - 1))]
    elif kind == "dtype":
        clip = (clip * 1000).astype(
            draw(st.sampled_from(["int8", "int16", "int32", "int64", "uint8", "bool", "complex64"]))
        )
    elif kind == "rank":
        shape = draw(st.sampled_from([(), (2, 400), (400, 1), (1, 1, 400), (2, 3, 400)]))
        clip = noise(draw, *shape)
    elif kind == "type":
        clip = draw(
            st.sampled_from([None, "speech.wav", {"array": [0.0] * 400}, ["a"] * 400, [None] * 400, [[]], b"RIFF"])
        )
    elif kind == "ragged":
        clip = [[0.0] * draw(st.integers(1, 400)), [0.0] * draw(st.integers(401, 800))]
    if isinstance(clip, np.ndarray) and draw(st.booleans()):
        clip = torch.from_numpy(clip)
    if draw(st.booleans()):
        good = draw(st.integers(0, 3))
        return f"`audio[{good}]`", [noise(draw, 500) for _ in range(good)] + [clip, noise(draw, 400)], RATE
    return "`audio", clip, RATE


def test_feature_extractor():
    extractor = AffectCodecFeatureExtractor()

    def check(case):
        name, audio, rate = case
        assert_refused(name, extractor, audio, sampling_rate=rate, return_tensors="pt")

    throw("extractor", extractor_cases(), check)


def test_feature_extractor_without_a_rate():
    assert_refused("`sampling_rate`", AffectCodecFeatureExtractor(), np.zeros(400, np.float32))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@st.composite
def bad_masks(draw, batch, length, shortest):
    """Masks [batch, length] that are not ones, at least `shortest` a row, then zeros."""
    kind = draw(st.sampled_from(["type", "shape", "hole", "left", "empty"]))
    if kind == "type":
        return draw(st.sampled_from([[[1] * length] * batch, np.ones((batch, length)), "ones", 1]))
    mask = torch.ones(batch, length, dtype=draw(st.sampled_from([torch.bool, torch.long, torch.float32])))
    if kind == "shape":
        shapes = [(batch, length + 1), (batch + 1, length), (length,), (batch, 2, length), (batch, length, 1), ()]
        return torch.ones(draw(st.sampled_from(shapes)), dtype=mask.dtype)
    row = draw(st.integers(0, batch - 1))
    if kind == "hole":
        start = draw(st.integers(shortest, length - 2))
        mask[row, start : draw(st.integers(start + 1, length - 1))] = 0
    elif kind == "left":
        mask[row, : draw(st.integers(1, length - 1))] = 0
    else:
        mask[row, draw(st.integers(0, shortest - 1)) :] = 0
    return mask


@st.composite
def encode_cases(draw, for_encode=True):
    batch, length = draw(st.integers(1, 3)), draw(st.integers(2 * HOP, 5 * HOP))
    frames = -(-length // HOP)
    good = {"input_values": torch.from_numpy(noise(draw, batch, 1, length))}
    kinds = ["type", "rank", "dtype", "not finite", "short", "no batch", "mask", "mask", "features", "source"]
    kind = draw(st.sampled_from(kinds + ["num_quantizers"] * 2 * for_encode))
    if kind == "type":
        return good | {"input_values": draw(st.sampled_from(NO_TENSORS))}, "input_values"
    if kind == "rank":
        shapes = [(length,), (batch, length), (batch, 2, length), (1, batch, 1, length), (batch, length, 1), ()]
        return good | {"input_values": torch.zeros(draw(st.sampled_from(shapes)))}, "input_values"
    if kind == "dtype":
        dtypes = [torch.int16, torch.int32, torch.long, torch.uint8, torch.bool, torch.complex64]
        return good | {"input_values": good["input_values"].to(draw(st.sampled_from(dtypes)))}, "input_values"
    if kind == "not finite":
        values = torch.from_numpy(spoiled(draw, good["input_values"].numpy()))
        return good | {"input_values": values}, "input_values"
    if kind == "short":
        return good | {"input_values": good["input_values"][..., : draw(st.integers(0, HOP - 1))]}, "input_values"
    if kind == "no batch":
        return good | {"input_values": good["input_values"][:0]}, "input_values"
    if kind == "mask":
        return good | {"padding_mask": draw(bad_masks(batch, length, HOP))}, "padding_mask"
    if kind == "num_quantizers":
        values = (
            st.integers(max_value=0) | st.integers(min_value=9) | st.floats() | st.text(max_size=4) | st.booleans()
        )
        return good | {"num_quantizers": draw(values)}, "num_quantizers"
    if kind == "source":
        return good | {"guidance_source": draw(st.text(max_size=8).filter(lambda t: t != "none"))}, "guidance_source"
    name, width = draw(st.sampled_from([("emotion_features", 12), ("semantic_features", 10)]))
    values = noise(draw, batch, frames, width)
    wrong = [
        torch.from_numpy(spoiled(draw, values)),
        torch.from_numpy(values)[:, : frames - 1],
        torch.from_numpy(values)[..., : width - 1],
        torch.from_numpy(values)[0],
        torch.from_numpy(values).long(),
        values,
        "happy",
    ]
    return good | {name: draw(st.sampled_from(wrong))}, name


def test_encode(model):
    throw("encode", encode_cases(), lambda case: assert_refused(f"`{case[1]}", model.encode, **case[0]))


def test_forward(model):
    cases = encode_cases(for_encode=False)
    throw("forward", cases, lambda case: assert_refused(f"`{case[1]}", model, **case[0]))


@st.composite
def decode_cases(draw):
    batch, quantizers, frames = draw(st.integers(1, 3)), draw(st.integers(1, 8)), draw(st.integers(3, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    codes = torch.randint(0, 64, (batch, quantizers, frames), generator=generator)
    kind = draw(st.sampled_from(["range", "range", "type", "dtype", "rank", "empty", "mask", "mask"]))
    if kind == "range":
        codes = codes.to(draw(st.sampled_from([torch.int16, torch.int32, torch.int64])))
        above = st.integers(64, torch.iinfo(codes.dtype).max)
        below = st.integers(torch.iinfo(codes.dtype).min, -1)
        codes.view(-1)[draw(st.integers(0, codes.numel() - 1))] = draw(above | below)
        return {"audio_codes": codes}, "audio_codes"
    if kind == "type":
        return {"audio_codes": draw(st.sampled_from([codes.numpy(), codes.tolist(), None, "codes", 5]))}, "audio_codes"
    if kind == "dtype":
        dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.bool, torch.uint8, torch.int8, torch.complex64]
        return {"audio_codes": codes.to(draw(st.sampled_from(dtypes)))}, "audio_codes"
    if kind == "rank":
        return {"audio_codes": draw(st.sampled_from([codes[0], codes[0, 0], codes[None], codes.sum()]))}, "audio_codes"
    if kind == "empty":
        many = codes[:, :1].expand(batch, draw(st.integers(9, 20)), frames)
        return {"audio_codes": draw(st.sampled_from([codes[:0], codes[:, :0], codes[..., :0], many]))}, "audio_codes"
    return {"audio_codes": codes, "audio_codes_mask": draw(bad_masks(batch, frames, 1))}, "audio_codes_mask"


def test_decode(model):
    throw("decode", decode_cases(), lambda case: assert_refused(f"`{case[1]}`", model.decode, **case[0]))


GOOD_CODES = {
    "audio_codes": torch.arange(24, dtype=torch.int16).view(3, 8),
    "num_samples": 8 * HOP - 7,
    "sampling_rate": RATE,
    "hop_length": HOP,
    "codebook_size": 64,
    "model": "tiny",
    "codebooks_sha256": "0" * 64,
}


@st.composite
def codes_cases(draw):
    name = draw(st.sampled_from(sorted(GOOD_CODES)))
    codes = GOOD_CODES["audio_codes"]
    if name == "audio_codes":
        wrong = [codes.long(), codes.float(), codes[0], codes[None], codes[:, :-1], codes[:0], codes - 1, codes + 41]
        return name, draw(st.sampled_from([*wrong, codes.numpy(), codes.tolist(), None]))
    if name in ("model", "codebooks_sha256"):
        return name, draw(st.none() | st.integers() | st.binary(max_size=4))
    return name, draw(st.integers(max_value=0) | st.floats() | st.text(max_size=4) | st.none() | st.booleans())


def test_codes():
    throw("codes", codes_cases(), lambda case: assert_refused(f"`{case[0]}`", AudioCodes, **GOOD_CODES | dict([case])))


@st.composite
def bad_codes_files(draw):
    """Contents of files that hold no codes, made from one that does."""
    with tempfile.TemporaryDirectory() as folder:
        save_codes(Path(folder) / "a.safetensors", AudioCodes(**GOOD_CODES))
        content = (Path(folder) / "a.safetensors").read_bytes()
    kind = draw(st.sampled_from(["cut", "cut", "altered", "altered", "longer", "random", "weights", "text"]))
    if kind == "cut":
        return content[: draw(st.integers(0, len(content) - 1))]
    if kind == "altered":
        position = draw(st.integers(0, len(content) - 1).filter(lambda i: content[i : i + 2] != b"  "))
        return content[:position] + bytes([content[position] ^ draw(st.integers(1, 255))]) + content[position + 1 :]
    if kind == "longer":
        return content + draw(st.binary(min_size=1, max_size=20))
    if kind == "random":
        return draw(st.binary(max_size=200))
    if kind == "weights":
        tensors = {draw(st.text(min_size=1, max_size=5)): torch.zeros(draw(st.integers(0, 4)), 3)}
        return save(tensors, metadata=draw(st.none() | st.just({"format": "pt"})))
    return draw(st.text(max_size=200)).encode()


def test_codes_file(tmp_path):
    path = tmp_path / "a.safetensors"

    def check(content):
        path.write_bytes(content)
        assert_refused(f"{path}: ", load_codes, path)

    throw("codes file", bad_codes_files(), check)


def encoded(suffix: str, subtype: str | None = None, value=None, seconds=0.5, rate=RATE) -> bytes:
    samples = np.random.default_rng(0).normal(size=round(seconds * rate)) * 0.1
    if value is not None:
        samples[len(samples) // 2] = value
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=suffix, subtype=subtype)
    return file.getvalue()


@st.composite
def bad_audio_files(draw):
    """Contents of files that hold no usable audio, and a suffix."""
    suffix = draw(st.sampled_from(["wav", "flac", "aiff"]))
    kind = draw(st.sampled_from(["cut", "cut", "cut", "random", "text", "other", "no samples", "not finite", "lying"]))
    if kind == "cut":
        content = encoded(suffix)
        content = content[: draw(st.integers(0, len(content) * 9 // 10))]
    elif kind == "random":
        content = draw(st.binary(max_size=300))
    elif kind == "text":
        content = draw(st.text(max_size=300)).encode()
    elif kind == "other":
        heads = [b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"%PDF-1.7", b"\x1f\x8b\x08", b"\x7fELF", b"RIFF\xff\0\0\0AVI "]
        content = draw(st.sampled_from(heads)) + draw(st.binary(max_size=300))
    elif kind == "no samples":
        content = encoded(suffix, seconds=0)
    elif kind == "not finite":
        suffix, content = "wav", encoded("wav", "FLOAT", draw(st.sampled_from(NOT_FINITE)))
    else:
        suffix, content = "wav", bytearray(encoded("wav"))
        content[24:28] = draw(st.integers(0, 999) | st.integers(768_001, (1 << 32) - 1)).to_bytes(4, "little")
        content = bytes(content)
    return suffix, content


def test_audio_file(tmp_path):
    def check(case):
        path = tmp_path / f"a.{case[0]}"
        path.write_bytes(case[1])
        assert_refused(f"{path}: ", load_audio, path)

    throw("audio file", bad_audio_files(), check)


def run_command(*arguments) -> tuple[int, list[str]]:
    """Status, and the lines of stderr without the progress bar."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr, contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            status = error.code
    lines = [line.rsplit("\r", 1)[-1] for line in stderr.getvalue().splitlines()]
    return status, [line for line in lines if line.strip() and "file/s]" not in line]


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    return folder


def test_command_on_folders(saved, tmp_path):
    """Folders with one good file and some bad ones: the good one is done, each bad one is named in a line."""
    clip, codes = tmp_path / "good.wav", tmp_path / "good.safetensors"
    clip.write_bytes(encoded("wav"))
    assert run_command("encode", clip, codes, "--model", saved) == (0, [])

    def check(case):
        command, audio, garbled = case
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            source, out = Path(folder) / "in", Path(folder) / "out"
            source.mkdir()
            (source / "m.wav").write_bytes(clip.read_bytes())
            (source / "m.safetensors").write_bytes(codes.read_bytes())
            bad = []
            if command == "decode":
                bad = [source / f"{index}.safetensors" for index in range(len(garbled))]
                contents = garbled
            else:
                bad = [source / f"z{index}.{suffix}" for index, (suffix, _) in enumerate(audio)]
                contents = [content for _, content in audio]
            for path, content in zip(bad, contents, strict=True):
                path.write_bytes(content)
            status, lines = run_command(command, source, out, "--model", saved)
            assert status == 2
            assert len(lines) == len(bad) + 1
            for path, line in zip(bad, lines, strict=False):
                assert line.startswith(f"affectcodec: error: {path}: ")
            name = "m.safetensors" if command == "encode" else "m.wav"
            assert [path.name for path in out.rglob("*")] == [name]

    cases = st.tuples(
        st.sampled_from(["reconstruct", "encode", "decode"]),
        st.lists(bad_audio_files(), min_size=1, max_size=4),
        st.lists(bad_codes_files(), min_size=1, max_size=4),
    )
    throw("command", cases, check)


@st.composite
def bad_command_lines(draw):
    """Arguments after `IN OUT --model MODEL`, or instead of them, and what is to be named."""
    text = st.text(st.characters(codec="ascii", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
    kind = draw(st.sampled_from(["number", "device", "model", "suffix", "input", "output", "option"]))
    arguments = {"IN": "good.wav", "OUT": "out.wav", "--model": None}
    if kind == "number":
        number = st.integers(max_value=0) | st.integers(min_value=9) | st.floats().map(repr) | text
        value = draw(number.filter(lambda v: not str(v).isdigit() or int(v) not in range(1, 9)))
        return arguments | {"--num-quantizers": value}, "--num-quantizers"
    if kind == "device":
        return arguments | {"--device": draw(text.map(lambda t: "toaster" + t) | st.just("meta"))}, "`device`"
    if kind == "model":
        return arguments | {"--model": draw(text.map(lambda t: "/absent/" + t.replace("/", "")))}, "/absent/"
    if kind == "suffix":
        return arguments | {"--suffix": draw(text.map(lambda t: ".x" + t))}, "--suffix"
    if kind == "input":
        name = draw(text.map(lambda t: "absent_" + t.replace("/", "")))
        return arguments | {"IN": name}, name
    if kind == "output":
        name = draw(text.map(lambda t: "out_" + t.replace("/", "") + ".xyz"))
        return arguments | {"OUT": name}, name
    name = "--x" + draw(text).replace("=", "")
    return arguments | {name: "1"}, name


def test_command_lines(saved, tmp_path):
    (tmp_path / "good.wav").write_bytes(encoded("wav"))

    def check(case):
        options, name = case
        options = dict(options)
        paths = [tmp_path / options.pop("IN"), tmp_path / options.pop("OUT")]
        options["--model"] = options["--model"] or saved
        status, lines = run_command("reconstruct", *paths, *(f"{key}={value}" for key, value in options.items()))
        assert status == 2
        assert len(lines) == 1 and lines[0].startswith("affectcodec: error: ")
        assert name in lines[0]
        assert [path.name for path in tmp_path.iterdir()] == ["good.wav"]

    throw("command line", bad_command_lines(), check)
