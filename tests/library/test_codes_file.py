import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hf_affectcodec.codes_file import AudioCodes, CodesFileError, load_codes, save_codes


def some_codes(**changes) -> AudioCodes:
    values = {
        "audio_codes": torch.randint(0, 1024, (8, 7), generator=torch.Generator().manual_seed(0)).short(),
        "num_samples": 2001,
        "sampling_rate": 16000,
        "hop_length": 320,
        "codebook_size": 1024,
        "model": "someone/affectcodec@main",
        "codebooks_sha256": "0" * 64,
    }
    return AudioCodes(**{**values, **changes})


def fields_of(path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["affectcodec_codes"])


def assert_equal(first: AudioCodes, second: AudioCodes):
    assert first.audio_codes.dtype == second.audio_codes.dtype == torch.int16
    assert torch.equal(first.audio_codes, second.audio_codes)
    for field in dataclasses.fields(AudioCodes)[1:]:
        assert getattr(first, field.name) == getattr(second, field.name)


def assert_refused(path, *words):
    with pytest.raises(CodesFileError) as caught:
        load_codes(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("num_quantizers", [1, 8])
def test_round_trip(tmp_path, num_quantizers):
    codes = some_codes(audio_codes=some_codes().audio_codes[:num_quantizers])
    save_codes(tmp_path / "a.safetensors", codes)
    assert_equal(load_codes(tmp_path / "a.safetensors"), codes)


def test_what_the_file_holds(tmp_path):
    path = tmp_path / "a.safetensors"
    save_codes(path, some_codes())
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["audio_codes"]
        assert file.get_slice("audio_codes").get_dtype() == "I16"
        assert file.get_slice("audio_codes").get_shape() == [8, 7]
    fields = fields_of(path)
    assert len(fields.pop("sha256")) == 64
    assert fields == {
        "version": 1,
        "num_samples": 2001,
        "sampling_rate": 16000,
        "hop_length": 320,
        "codebook_size": 1024,
        "model": "someone/affectcodec@main",
        "codebooks_sha256": "0" * 64,
    }


def test_equal_codes_give_equal_files(tmp_path):
    for index in range(5):
        save_codes(tmp_path / f"{index}.safetensors", some_codes())
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_properties():
    codes = some_codes()
    assert codes.bitrate == 4000.0
    assert codes.seconds == 2001 / 16000
    assert codes.num_quantizers == 8
    assert some_codes(codebook_size=1025).bitrate == 4400.0  # 11 bits a code


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"audio_codes": torch.zeros(8, 7)}, "audio_codes"),
        ({"audio_codes": torch.zeros(8, 7, dtype=torch.long)}, "audio_codes"),
        ({"audio_codes": [[1]]}, "audio_codes"),
        ({"audio_codes": torch.zeros(7, dtype=torch.int16)}, "audio_codes"),
        ({"audio_codes": torch.zeros(0, 7, dtype=torch.int16)}, "audio_codes"),
        ({"audio_codes": torch.zeros(8, 6, dtype=torch.int16)}, "audio_codes"),
        ({"audio_codes": torch.full((8, 7), 1024, dtype=torch.int16)}, "audio_codes"),
        ({"audio_codes": torch.full((8, 7), -1, dtype=torch.int16)}, "audio_codes"),
        ({"num_samples": 7 * 320 + 1}, "audio_codes"),
        ({"num_samples": 0}, "num_samples"),
        ({"num_samples": 2001.0}, "num_samples"),
        ({"sampling_rate": "16000"}, "sampling_rate"),
        ({"hop_length": -320}, "hop_length"),
        ({"codebook_size": True}, "codebook_size"),
        ({"codebook_size": 40000}, "codebook_size"),
        ({"model": None}, "model"),
        ({"codebooks_sha256": 5}, "codebooks_sha256"),
    ],
)
def test_codes_are_checked(changes, word):
    with pytest.raises(ValueError, match=f"^`{word}` ") as caught:
        some_codes(**changes)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_refused(tmp_path):
    path, cut = tmp_path / "a.safetensors", tmp_path / "cut.safetensors"
    save_codes(path, some_codes())
    content = path.read_bytes()
    for length in range(0, len(content), 3):
        cut.write_bytes(content[:length])
        assert_refused(cut)
    cut.write_bytes(content + b"\0")
    assert_refused(cut)


def test_every_altered_byte_is_refused_or_changes_nothing(tmp_path):
    path, altered = tmp_path / "a.safetensors", tmp_path / "altered.safetensors"
    save_codes(path, some_codes())
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        for flip in (0x01, 0x80):
            altered.write_bytes(content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :])
            try:
                codes = load_codes(altered)
            except CodesFileError as error:
                assert str(error).startswith(f"{altered}: ") and "\n" not in str(error)
                refused += 1
            else:
                assert_equal(codes, some_codes())
    assert refused > 1.8 * len(content)


def test_foreign_files_are_refused(tmp_path):
    weights = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3, 3)}, weights)
    assert_refused(weights, "not one of codes")
    save_file({"weight": torch.zeros(3, 3)}, weights, metadata={"format": "pt"})
    assert_refused(weights, "not one of codes")
    for content in (b"", b"RIFF\x24\0\0\0WAVEfmt ", b"\x80\x04\x95", b"\0" * 100, b"\xff" * 100, b"PK\x03\x04"):
        (tmp_path / "x.safetensors").write_bytes(content)
        assert_refused(tmp_path / "x.safetensors", "not a safetensors file")
    assert_refused(tmp_path / "absent.safetensors", "no such file")
    assert_refused(tmp_path, "not a file")


@pytest.mark.parametrize(
    ("tensors", "change", "words"),
    [
        ({"audio_codes": torch.zeros(8, 7)}, {}, ["audio_codes", "F32"]),
        ({"audio_codes": torch.zeros(1, 8, 7, dtype=torch.int16)}, {}, ["audio_codes", "[1, 8, 7]"]),
        ({"codes": torch.zeros(8, 7, dtype=torch.int16)}, {}, ["audio_codes", "codes"]),
        ({"audio_codes": torch.zeros(8, 7, dtype=torch.int16), "more": torch.zeros(1)}, {}, ["alone", "more"]),
        ({}, {}, ["audio_codes"]),
        ({"audio_codes": torch.zeros(8, 7, dtype=torch.int16)}, {}, ["checksum"]),
        ({"audio_codes": torch.zeros(8, 7, dtype=torch.int16)}, {"version": 2}, ["version 2"]),
        ({"audio_codes": torch.zeros(8, 7, dtype=torch.int16)}, {"version": None}, ["version None"]),
        ({"audio_codes": torch.zeros(8, 7, dtype=torch.int16)}, {"extra": 1}, ["extra"]),
    ],
)
def test_other_content_is_refused(tmp_path, tensors, change, words):
    path = tmp_path / "a.safetensors"
    save_codes(path, some_codes())
    fields = fields_of(path) | change
    save_file(tensors, path, metadata={"affectcodec_codes": json.dumps(fields)})
    assert_refused(path, *words)


@pytest.mark.parametrize("text", ["", "no json", "[]", "5", "null", "{}", "[" * 100_000, '{"version": 1}'])
def test_other_metadata_is_refused(tmp_path, text):
    path = tmp_path / "a.safetensors"
    save_file({"audio_codes": torch.zeros(8, 7, dtype=torch.int16)}, path, metadata={"affectcodec_codes": text})
    assert_refused(path)


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_codes(path, some_codes())
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hf_affectcodec.codes_file.os.replace", fail)
    with pytest.raises(CodesFileError, match="a.safetensors: cannot be written .No space left on device.$"):
        save_codes(path, some_codes(model="another"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_is_not_there(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "absent" / "a.safetensors", tmp_path / "file" / "a.safetensors"):
        with pytest.raises(CodesFileError, match="cannot be written") as caught:
            save_codes(path, some_codes())
        assert str(caught.value).startswith(str(path))
