"""`affectcodec publish` against a Hub on 127.0.0.1, by the real clients, each in a process of its own."""

import functools
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
import torch
import yaml
from huggingface_hub import HfApi, constants
from loopback_hub import LoopbackHub
from safetensors.torch import load
from tiny import tiny_model
from transformers import AutoModel

from hf_affectcodec import AffectCodecDiscriminator, AffectCodecDiscriminatorConfig, inference, pretrained_path
from hf_affectcodec import hub as hub_module
from hf_affectcodec.benchmarks import codec_table
from hf_affectcodec.hub import CardValues, check_staged, stage_codec
from hf_affectcodec.remote_code import load_in_clean_process


REPO = "org/affectcodec"
RECIPE = {"name": "tiny", "seed": 0, "steps": 5, "batch_size": 2, "crop_seconds": 1.0, "discriminator": {}}
RECIPE |= {"discriminator_start": 0, "train": [], "validation": []}


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """A tiny model with everything a published one has."""
    root = tmp_path_factory.mktemp("publish")
    tiny_model(guidance_sources=[], alignment_feature_size=None).save_pretrained(root / "model")
    discriminator = AffectCodecDiscriminatorConfig(stft_n_ffts=(), num_scales=0, period_channels=(2, 4, 4, 4, 4))
    AffectCodecDiscriminator(discriminator).save_pretrained(root / "discriminator")
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (root / "log.jsonl").write_text('{"step": 5, "seconds": 36.0}\n')
    pyarrow.parquet.write_table(clips(1), root / "test.parquet")
    files = {"recipe_file": root / "recipe.yaml", "log_file": root / "log.jsonl"}
    files |= {"discriminator_dir": root / "discriminator"}
    stage_codec(root / "model", root / "staged", **files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec_table, "METRICS", {"lsd": codec_table.METRICS["lsd"]})
        options = ["--models", str(root / "staged"), "--data", str(root / "test.parquet"), "--out", str(root / "out")]
        assert codec_table.main(options) == 0
        card = CardValues(REPO, hardware="a test", train_minutes=1, num_voices=1, languages=("en",))
        results = {"results_json": root / "out" / "table.json", "card_values": card}
        stage_codec(root / "model", root / "staged", **files, **results, overwrite=True)
    return root / "staged"


def clips(count: int) -> pa.Table:
    rows = []
    for index in range(count):
        file = io.BytesIO()
        soundfile.write(file, 0.1 * np.random.default_rng(index).standard_normal(16000), 16000, format="FLAC")
        rows.append({"bytes": file.getvalue(), "path": f"{index}.flac"})
    audio = pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    return pa.table({"audio": audio, "text": [f"clip {index}" for index in range(count)]})


@pytest.fixture
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def unchecked(hub, monkeypatch):
    """`publish` in this process, pointed at the loopback Hub, without the checks before it and the long pauses."""
    monkeypatch.setattr(hub_module, "HfApi", functools.partial(HfApi, endpoint=hub.endpoint, token="hf_loopback"))
    monkeypatch.setattr(hub_module, "check_staged", lambda folder: None)
    monkeypatch.setattr(hub_module, "PAUSE", 0.01)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return hub_module.publish


def run(hub, home, *arguments, **variables):
    environment = hub.environment(home) | variables
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=home)


def test_publish_then_load_without_the_package(hub, unchecked, staged, tmp_path):
    """What is shorter here than in the two slow tests below: no check before the upload, and one clean process."""
    address = unchecked(staged, REPO, private=True)
    repository = hub.repositories["model", REPO]
    assert address == f"{hub.endpoint}/{REPO}/commit/{repository.commits[-1][0]}"
    assert len(repository.messages) == 1  # one commit: no half of it was ever to be seen
    assert repository.files == files_of(staged)
    assert "model.safetensors" in repository.large and repository.private
    environment = hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "0"}
    found = load_in_clean_process(REPO, False, environment, subfolders=("discriminator",))
    assert found["package"] is False and found["weights"] == weights_of(AutoModel.from_pretrained(staged))
    discriminator = AutoModel.from_pretrained(staged, subfolder="discriminator")
    assert found["discriminator"] == ["AffectCodecDiscriminator", weights_of(discriminator)]
    assert any(f"/{REPO}/resolve/" in path and status == 200 for _, path, status in hub.requests)


def weights_of(model) -> str:
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def files_of(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_shipped_checkpoint_is_published_and_loads_in_clean_processes(hub, tmp_path):
    folder = pretrained_path()
    repo_id = re.search(r'from_pretrained\("([^"]+)"', (folder / "README.md").read_text("utf-8"))[1]
    process = run(hub, tmp_path, "-m", "hf_affectcodec.cli", "publish", str(folder), repo_id, "--private")
    assert process.returncode == 0, process.stderr
    repository = hub.repositories["model", repo_id]
    assert process.stdout.strip() == f"{hub.endpoint}/{repo_id}/commit/{repository.commits[-1][0]}"
    assert len(repository.messages) == 1 and repository.files == files_of(folder) and repository.private

    environment = hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "0"}
    remote = load_in_clean_process(repo_id, package=False, environment=environment)
    packaged = load_in_clean_process(repo_id, package=True, environment=environment)
    here = load_in_clean_process(folder, package=True)
    assert remote.pop("package") is False and packaged.pop("package") and here.pop("package")
    assert remote == packaged == here and remote["dtypes"] == ["torch.float32"]


@pytest.mark.slow
def test_a_hub_that_errs_while_loading_gives_one_line(hub, staged, tmp_path):
    hub.add("model", REPO, files_of(staged))
    hub.fail("GET", r"model\.safetensors", times=1000, status=500)
    call = f"from hf_affectcodec.inference import load_codec; print(load_codec('{REPO}').name)"
    process = run(hub, tmp_path, "-c", call)
    last = process.stderr.strip().splitlines()[-1]
    assert process.returncode == 1 and last.startswith(f"ValueError: `model` '{REPO}' cannot be loaded: "), (
        process.stderr
    )
    assert not list(tmp_path.rglob("snapshots/*/model.safetensors"))
    hub.faults.clear()
    process = run(hub, tmp_path, "-c", call)
    assert process.stdout.strip() == f"{REPO}@{hub.repositories['model', REPO].commits[-1][0]}", process.stderr


def test_a_codec_of_the_hub_is_named_with_its_commit(staged, monkeypatch):
    """The Hub is a folder here; really loaded from it in the slow test above."""
    for cls in (inference.AutoConfig, inference.AffectCodecModel):
        load = cls.from_pretrained
        monkeypatch.setattr(cls, "from_pretrained", lambda source, load=load, **options: load(staged, **options))
    monkeypatch.setattr(inference, "commit_of", lambda source, revision: f"commit of {source} {revision}")
    codec = inference.load_codec(REPO)
    assert codec.name == f"{REPO}@commit of {REPO} main" and codec.encode(torch.zeros(1, 640)).model == codec.name


@pytest.mark.parametrize(
    "method, pattern", [("PUT", "/lfs/"), ("POST", "/preupload/"), ("POST", "/commit/"), ("POST", "/repos/create")]
)
def test_errors_that_pass_are_retried(hub, unchecked, staged, method, pattern):
    hub.fail(method, pattern, times=1, status=500)
    unchecked(staged, REPO)
    assert hub.faults[0].times == 0
    assert len(hub.repositories["model", REPO].messages) == 1
    assert hub.repositories["model", REPO].files.keys() >= {"model.safetensors", "README.md", "SHA256SUMS"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("pattern", ["/lfs/", "/commit/"])
def test_a_connection_that_breaks_is_retried(hub, unchecked, staged, pattern, when):
    """After the commit was made, too, when only its answer is lost: there is no second one."""
    hub.fail("PUT" if pattern == "/lfs/" else "POST", pattern, times=1, hang_up=when)
    unchecked(staged, REPO)
    assert hub.faults[0].times == 0
    repository = hub.repositories["model", REPO]
    assert len(repository.messages) == 1
    assert repository.files["model.safetensors"] == (staged / "model.safetensors").read_bytes()


def test_slow_answers_are_waited_for(hub, unchecked, staged):
    for method, pattern in (("POST", "/preupload/"), ("PUT", "/lfs/"), ("POST", "/commit/")):
        hub.fail(method, pattern, times=1, delay=0.3)
    unchecked(staged, REPO)
    assert len(hub.repositories["model", REPO].messages) == 1
    assert sum("/commit/" in path for _, path, _ in hub.requests) == 1


def test_a_connection_that_stays_broken_leaves_nothing_half_published(hub, unchecked, staged, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # its own pauses add up
    hub.fail("PUT", "/lfs/", times=1000, hang_up="before")
    with pytest.raises(ConnectionError, match=f"{REPO}: the Hub did not take the upload") as caught:
        unchecked(staged, REPO)
    assert "\n" not in str(caught.value)
    assert hub.repositories["model", REPO].files == {}


def test_a_run_is_pushed_without_a_card(hub, unchecked, staged, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(staged.parent / "model", run / "model")
    for name in ("recipe.yaml", "log.jsonl"):
        shutil.copy(staged.parent / name, run / name)
    repository = hub.add("model", REPO, {"notes.md": b"mine"})
    address = hub_module.push_run(run, REPO)
    assert address.endswith(repository.commits[-1][0]) and len(repository.messages) == 2
    files = repository.files
    assert files["notes.md"] == b"mine" and "README.md" not in files and "modeling_affectcodec.py" in files
    stored = load(files["model.safetensors"])
    original = load((run / "model" / "model.safetensors").read_bytes())
    assert stored.keys() == original.keys() and all(torch.equal(stored[name], original[name]) for name in stored)
    shutil.copytree(staged.parent / "discriminator", run / "discriminator")
    hub_module.push_run(run, REPO)
    assert "discriminator/model.safetensors" in repository.files
    with pytest.raises(ValueError, match="`model_dir` .* does not exist"):
        hub_module.push_run(tmp_path / "nothing", REPO)


def test_errors_that_stay_leave_nothing_half_published(hub, unchecked, staged):
    repository = hub.add("model", REPO, {"README.md": b"before"})
    hub.fail("POST", "/commit/", times=100, status=500)
    with pytest.raises(ConnectionError, match=f"{REPO}: the Hub did not take the upload") as caught:
        unchecked(staged, REPO)
    assert "\n" not in str(caught.value)
    assert repository.files == {"README.md": b"before"}
    assert sum("/commit/" in path for _, path, _ in hub.requests) == 3


def test_a_refusal_is_not_retried(hub, unchecked, staged):
    hub.fail("POST", "/repos/create", times=100, status=403)
    with pytest.raises(ConnectionError, match="did not take the upload"):
        unchecked(staged, REPO)
    assert sum("/repos/create" in path for _, path, _ in hub.requests) == 1 and not hub.repositories


def test_what_was_there_before_is_replaced(hub, unchecked, staged):
    repository = hub.add("model", REPO, {"README.md": b"before", "old.py": b"x", ".gitattributes": b"y"})
    unchecked(staged, REPO)
    assert "old.py" not in repository.files and repository.files["README.md"] != b"before"
    assert len(repository.messages) == 2


def test_a_file_that_arrives_changed_is_found(hub, unchecked, staged, monkeypatch):
    commit = hub.commit

    def spoil(repository, files, message):
        return commit(repository, {**files, "recipe.yaml": b"other"}, message)

    monkeypatch.setattr(hub, "commit", spoil)
    with pytest.raises(ValueError, match="recipe.yaml did not arrive as it was sent"):
        unchecked(staged, REPO)


def test_what_is_not_sound_is_not_uploaded(hub, unchecked, staged, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is not the one that README.md was written for"):
        unchecked(staged, "org/other")
    monkeypatch.setattr(hub_module, "check_staged", check_staged)
    changed, bare = tmp_path / "changed", tmp_path / "bare"
    shutil.copytree(staged, changed)
    (changed / "log.jsonl").write_text("{}")
    shutil.copytree(staged, bare)
    (bare / "README.md").unlink()
    hub_module.write_sums(bare)
    for folder, repo_id, words in (
        (changed, REPO, "log.jsonl has changed"),
        (bare, REPO, "has no README.md"),
        (tmp_path / "nothing", REPO, "is no folder"),
        (staged, "noslash", "`repo_id` must look like org/name"),
    ):
        with pytest.raises(ValueError, match=words):
            unchecked(folder, repo_id)
    assert hub.requests == []


@pytest.mark.parametrize(
    "fault", [{"cut_after": 100_000}, {"hang_up": "before"}, {"delay": 2.5}], ids=lambda fault: [*fault][0]
)
def test_a_download_is_taken_up_again(hub, tmp_path, fault):
    content = bytes(np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8))
    hub.add("model", REPO, {"model.safetensors": content})
    hub.fail("GET", "/resolve/", times=1, **fault)
    call = f"from huggingface_hub import hf_hub_download as d; print(d('{REPO}', 'model.safetensors'))"
    process = run(hub, tmp_path, "-c", call, HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert process.returncode == 0, process.stderr
    assert hub.faults[0].times == 0
    with open(process.stdout.strip(), "rb") as file:
        assert file.read() == content


STREAM = f"""
import json
from datasets import Audio, load_dataset

rows = load_dataset("{REPO}", split="train", streaming=True).cast_column("audio", Audio(decode=False))
print(json.dumps([row["text"] for row in rows]))
"""


def test_datasets_streams_by_ranges(hub, tmp_path):
    pytest.importorskip("datasets")
    file = io.BytesIO()
    pyarrow.parquet.write_table(clips(6), file)
    hub.add("dataset", REPO, {"data/train-00000-of-00001.parquet": file.getvalue(), "README.md": b"---\n---\n"})
    process = run(hub, tmp_path, "-c", STREAM)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == [f"clip {index}" for index in range(6)]
    assert any(".parquet" in path and status == 206 for _, path, status in hub.requests)
