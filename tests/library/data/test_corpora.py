import dataclasses

import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from hf_affectcodec.cli import main
from hf_affectcodec.data import corpora
from hf_affectcodec.data.corpora import CORPORA, corpora_table, find_corpus, require_corpus


NAMES = [
    "librispeech",
    "vctk",
    "aishell3",
    "audioset",
    "msp-podcast",
    "cmu-mosei",
    "libritts",
    "emovoice-db",
    "secap",
    "iemocap",
    "crema-d",
    "msp-improv",
    "nnime",
    "biic-podcast",
    "emilia",
    "open-prompts",
    "expressive-voices",
]
CODEC_TRAINING = ("librispeech", "vctk", "aishell3", "audioset", "msp-podcast", "cmu-mosei")


def test_every_corpus_is_there_once():
    assert [corpus.name for corpus in CORPORA] == NAMES


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.name)
def test_entries_are_well_formed(corpus):
    assert dataclasses.is_dataclass(corpus) and corpus.used_for and corpus.how_to_get
    with pytest.raises(dataclasses.FrozenInstanceError):
        corpus.name = "other"
    if corpus.hub_id is not None:
        validate_repo_id(corpus.hub_id)
        assert corpus.source == corpus.hub_id
    else:
        assert corpus.config is None
    assert set(corpus.splits) <= {"train", "validation", "test"}
    assert all(names and all(names) for names in corpus.splits.values())
    assert corpus.columns is None or "audio" in corpus.columns
    assert corpus.hours is None or corpus.hours > 0
    assert corpus.license != corpora.AGREEMENT or (corpus.gated and corpus.hub_id is None)
    assert not any("|" in str(value) or "\n" in str(value) for value in vars(corpus).values())


def test_training_mixture_is_the_papers():
    """The hours that the paper gives for its parts; they add up to less than the 2.3k that it gives for the whole."""
    used = [corpus for corpus in CORPORA if "codec training" in corpus.used_for]
    assert tuple(corpus.name for corpus in used) == CODEC_TRAINING
    assert sum(corpus.hours for corpus in used) == 2061


def test_speaker_column():
    assert find_corpus("librispeech").speaker_column == "speaker_id"
    assert find_corpus("secap").speaker_column is None


def test_command_prints_every_row(capsys):
    assert main(["corpora"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(CORPORA)
    assert {line.count(" | ") for line in lines} == {11}
    assert [line.split(" | ")[0][2:] for line in lines[2:]] == NAMES
    assert "None" not in corpora_table() and "local path, licence needed" in corpora_table()
    assert "| 101,000 |" in corpora_table()


def test_local_copy(tmp_path):
    with pytest.raises(FileNotFoundError, match="IEMOCAP is not at .*release form.*own agreement"):
        require_corpus("iemocap", tmp_path)
    (tmp_path / "clips.parquet").write_bytes(b"x")
    assert require_corpus("iemocap", tmp_path) == str(tmp_path)
    assert require_corpus("iemocap", tmp_path / "clips.parquet") == str(tmp_path / "clips.parquet")
    with pytest.raises(FileNotFoundError, match="not at"):
        require_corpus("librispeech", tmp_path / "nothing")


@pytest.mark.parametrize("name", [corpus.name for corpus in CORPORA if corpus.hub_id is None])
def test_without_a_copy_the_line_says_how_to_get_one(name):
    with pytest.raises(FileNotFoundError) as caught:
        require_corpus(name)
    message = str(caught.value)
    assert "\n" not in message and find_corpus(name).how_to_get in message and "licence:" in message


def test_unknown_name():
    with pytest.raises(ValueError, match="`name` must be one of librispeech, .*got 'libri'"):
        require_corpus("libri")


@pytest.mark.parametrize(
    "raised, expected, words",
    [
        (GatedRepoError, PermissionError, "is gated: accept its terms at https://huggingface.co/datasets/amphion/"),
        (RepositoryNotFoundError, FileNotFoundError, "the Hub knows no data set amphion/Emilia-Dataset"),
        (HfHubHTTPError, ConnectionError, "does not answer for amphion/Emilia-Dataset .first line.;"),
        (OSError, ConnectionError, "does not answer"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, raised, expected, words):
    def refuse(repo_id, repo_type):
        assert (repo_id, repo_type) == ("amphion/Emilia-Dataset", "dataset")
        error = raised.__new__(raised)
        error.args = ("first line\nsecond line",)
        raise error

    monkeypatch.setattr(corpora, "auth_check", refuse)
    with pytest.raises(expected, match=words) as caught:
        require_corpus("emilia")
    assert "\n" not in str(caught.value)


def test_what_the_hub_grants(monkeypatch):
    monkeypatch.setattr(corpora, "auth_check", lambda repo_id, repo_type: None)
    assert require_corpus("librispeech") == "openslr/librispeech_asr"


def test_no_network_is_one_line(monkeypatch):
    """The real client against a port where nobody listens."""
    from huggingface_hub import HfApi

    monkeypatch.setattr(corpora, "auth_check", HfApi(endpoint="http://127.0.0.1:9").auth_check)
    with pytest.raises(ConnectionError, match="LibriSpeech: the Hub does not answer"):
        require_corpus("librispeech")
