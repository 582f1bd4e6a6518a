"""
The corpora of the papers, and this project's own: where each is, what is in it, what it is for.

`None` stands for what is not known here. Nothing is guessed: facts are those of the papers, of the corpora's own pages
and of their cards on the Hub, as they stood when this was written.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import auth_check
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

from .error_text import first_line


AGREEMENT = "own agreement"  # to be signed with the owners; the speech may not be passed on


@dataclass(frozen=True)
class Corpus:
    """
    Args:
        name (`str`): What recipes and the command call it.
        title (`str`): What everybody calls it.
        hub_id (`str`, *optional*): Data set on the Hub that `datasets` loads; `None`: a local path is needed.
        config (`str`, *optional*): Its configuration.
        splits (`dict[str, tuple[str, ...]]`): Our `train` / `validation` / `test` to the names of its splits; those
            that the paper uses.
        columns (`dict[str, str]`, *optional*): Our column names to its own; `None`: not known.
        hours (`float`, *optional*): Hours that the paper uses, else of the whole corpus.
        languages (`tuple[str, ...]`): Language codes; empty: many, or not known.
        license (`str`, *optional*): Of the speech; `None`: not known, ask the owners.
        used_for (`str`): What the papers (or we) use it for.
        how_to_get (`str`): For a person, in one line.
        gated (`bool`, *optional*, defaults to `False`): Whether an agreement stands before the download.
    """

    name: str
    title: str
    hub_id: str | None
    config: str | None
    splits: dict[str, tuple[str, ...]]
    columns: dict[str, str] | None
    hours: float | None
    languages: tuple[str, ...]
    license: str | None
    used_for: str
    how_to_get: str
    gated: bool = False

    @property
    def speaker_column(self) -> str | None:
        """Its column that names the speaker, where it is known."""
        return (self.columns or {}).get("speaker_id")

    @property
    def source(self) -> str:
        """Hub id, or in words what takes its place."""
        if self.hub_id is not None:
            return self.hub_id
        return "local path, licence needed" if self.gated else "local path"


CORPORA = (
    Corpus(
        name="librispeech",
        title="LibriSpeech",
        hub_id="openslr/librispeech_asr",
        config="all",
        splits={
            "train": ("train.clean.100", "train.clean.360"),
            "validation": ("validation.clean", "validation.other"),
            "test": ("test.clean", "test.other"),
        },
        columns={"audio": "audio", "text": "text", "speaker_id": "speaker_id"},
        hours=460,
        languages=("en",),
        license="CC BY 4.0",
        used_for="codec training (clean-100 and clean-360), codec evaluation (test-clean, test-other)",
        how_to_get="open on the Hub",
    ),
    Corpus(
        name="vctk",
        title="VCTK 0.92",
        hub_id=None,
        config=None,
        splits={"train": ("train",)},
        columns={"audio": "audio", "text": "text", "speaker_id": "speaker_id"},
        hours=44,
        languages=("en",),
        license="CC BY 4.0",
        used_for="codec training",
        how_to_get=(
            "the Hub's CSTR-Edinburgh/vctk is a loading script, which datasets >= 4 refuses; download it from "
            "https://datashare.ed.ac.uk/handle/10283/3443 and write it as Parquet with these columns"
        ),
    ),
    Corpus(
        name="aishell3",
        title="AISHELL-3",
        hub_id=None,
        config=None,
        splits={"train": ("train",)},
        columns=None,
        hours=85,
        languages=("zh",),
        license="Apache-2.0",
        used_for="codec training",
        how_to_get="download data_aishell3.tgz (19 GB) from https://openslr.org/93",
    ),
    Corpus(
        name="audioset",
        title="AudioSet (subset)",
        hub_id="agkphysics/AudioSet",
        config="unbalanced",
        splits={"train": ("train",)},
        columns={"audio": "audio", "id": "video_id", "labels": "human_labels"},
        hours=1000,
        languages=(),
        license="CC BY 4.0 (labels; the sound is of YouTube videos)",
        used_for="codec training (the paper does not say which 1,000 hours)",
        how_to_get="open on the Hub, 2.4 TB for the whole",
    ),
    Corpus(
        name="msp-podcast",
        title="MSP-Podcast",
        hub_id=None,
        config=None,
        splits={},
        columns=None,
        hours=407,
        languages=("en",),
        license=AGREEMENT,
        used_for="codec training, SER (EMO-SUPERB; Interspeech 2025 challenge)",
        how_to_get="sign the agreement: https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Podcast.html",
        gated=True,
    ),
    Corpus(
        name="cmu-mosei",
        title="CMU-MOSEI",
        hub_id=None,
        config=None,
        splits={},
        columns=None,
        hours=65,
        languages=("en",),
        license=None,
        used_for="codec training",
        how_to_get="from its authors: https://github.com/A2Zadeh/CMU-MultimodalSDK",
    ),
    Corpus(
        name="libritts",
        title="LibriTTS",
        hub_id="mythicinfinity/libritts",
        config="all",
        splits={
            "train": ("train.clean.100", "train.clean.360", "train.other.500"),
            "validation": ("dev.clean", "dev.other"),
            "test": ("test.clean", "test.other"),
        },
        columns=None,
        hours=585,
        languages=("en",),
        license="CC BY 4.0",
        used_for="TTS training and evaluation",
        how_to_get="open on the Hub",
    ),
    Corpus(
        name="emovoice-db",
        title="EmoVoice-DB",
        hub_id="yhaha/EmoVoice-DB",
        config=None,
        splits={},
        columns=None,
        hours=40.45,
        languages=("en",),
        license="MIT",
        used_for="codec evaluation (speech made by GPT-4o-audio, not recorded)",
        how_to_get="open on the Hub",
    ),
    Corpus(
        name="secap",
        title="SECAP",
        hub_id=None,
        config=None,
        splits={},
        columns=None,
        hours=None,
        languages=("zh",),
        license=None,
        used_for="codec evaluation",
        how_to_get="the folder dataset/ of https://github.com/thuhcsi/SECap",
    ),
    Corpus(
        name="iemocap",
        title="IEMOCAP",
        hub_id=None,
        config=None,
        splits={},
        columns=None,
        hours=12,
        languages=("en",),
        license=AGREEMENT,
        used_for="SER (EMO-SUPERB; EmoDistill)",
        how_to_get="sign the release form: https://sail.usc.edu/iemocap/",
        gated=True,
    ),
    Corpus(
        name="crema-d",
        title="CREMA-D",
        hub_id=None,
        config=None,
        splits={},
        columns=None,
        hours=None,
        languages=("en",),
        license="ODbL",
        used_for="SER (EMO-SUPERB)",
        how_to_get="git lfs clone https://github.com/CheyneyComputerScience/CREMA-D (folder AudioWAV)",
    ),
    Corpus(
        name="msp-improv",
        title="MSP-IMPROV",
        hub_id=None,
        config=None,
        splits={},
        columns=None,
        hours=None,
        languages=("en",),
        license=AGREEMENT,
        used_for="SER (EMO-SUPERB)",
        how_to_get="sign the agreement: https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Improv.html",
        gated=True,
    ),
    Corpus(
        name="nnime",
        title="NNIME",
        hub_id=None,
        config=None,
        splits={},
        columns=None,
        hours=11,
        languages=("zh",),
        license=AGREEMENT,
        used_for="SER (EMO-SUPERB)",
        how_to_get="from its owners: https://nnime.ee.nthu.edu.tw/",
        gated=True,
    ),
    Corpus(
        name="biic-podcast",
        title="BIIC-Podcast",
        hub_id=None,
        config=None,
        splits={},
        columns=None,
        hours=None,
        languages=("zh",),
        license=AGREEMENT,
        used_for="SER (EMO-SUPERB)",
        how_to_get="from its owners: https://biic.ee.nthu.edu.tw/",
        gated=True,
    ),
    Corpus(
        name="emilia",
        title="Emilia",
        hub_id="amphion/Emilia-Dataset",
        config=None,
        splits={"train": ("train",)},
        columns={"audio": "mp3", "metadata": "json"},
        hours=101_000,
        languages=("zh", "en", "ja", "fr", "de", "ko"),
        license="CC BY-NC 4.0 (its Emilia-YODAS part: CC BY 4.0)",
        used_for="nothing in the papers; training beyond them",
        how_to_get="accept its terms on the Hub; text, speaker and language are in the JSON of each clip",
        gated=True,
    ),
    Corpus(
        name="open-prompts",
        title="Open prompts",
        hub_id=None,
        config=None,
        splits={"train": ("train",), "validation": ("validation",), "test": ("test",)},
        columns={"audio": "audio", "text": "text", "language": "language", "speaker_id": "speaker_id"},
        hours=1.97,
        languages=("en", "es", "fr", "it", "ru"),
        license="CC BY-SA 3.0 (en, es, fr), CC BY 3.0 (it, ru)",
        used_for="training and testing the small codec of this project",
        how_to_get="python training/build_open_speech.py --out data",
    ),
    Corpus(
        name="expressive-voices",
        title="Expressive voices",
        hub_id=None,
        config=None,
        splits={"train": ("train",)},
        columns={
            "audio": "audio",
            "text": "line",
            "emotion": "emotion",
            "language": "language",
            "speaker_id": "speaker_id",
        },
        hours=0.2,
        languages=(),
        license="GPL 2",
        used_for="testing emotion (weak labels) in this project",
        how_to_get="python training/build_open_speech.py --out data",
    ),
)


def find_corpus(name: str) -> Corpus:
    """
    Raises:
        `ValueError`: There is none of that name.
    """
    for corpus in CORPORA:
        if corpus.name == name:
            return corpus
    raise ValueError(f"`name` must be one of {', '.join(corpus.name for corpus in CORPORA)}, got {name!r}")


def require_corpus(name: str, path: "str | os.PathLike | None" = None) -> str:
    """
    What [`load_clips`] takes as its source for a corpus, once it is certain that the corpus can be had.

    Args:
        name (`str`): Of the catalogue.
        path (`str` or `os.PathLike`, *optional*): A local copy. Without it the Hub is asked whether it gives access.

    Returns:
        `str`: `path`, or the Hub id.

    Raises:
        `ValueError`: There is no corpus of that name.
        `FileNotFoundError`: It is not at `path`, or not on the Hub; the line says how to get it.
        `PermissionError`: It is gated and access was not granted; the line says how to get it.
        `ConnectionError`: The Hub does not answer.
    """
    corpus = find_corpus(name)
    terms = f"licence: {corpus.license or 'not known'}"
    if path is not None:
        if Path(path).is_file() or (Path(path).is_dir() and any(Path(path).iterdir())):
            return os.fspath(path)
        raise FileNotFoundError(f"{corpus.title} is not at {os.fspath(path)!r}; {corpus.how_to_get} ({terms})")
    if corpus.hub_id is None:
        raise FileNotFoundError(f"{corpus.title} needs a local path; {corpus.how_to_get} ({terms})")
    page = f"https://huggingface.co/datasets/{corpus.hub_id}"
    try:
        auth_check(corpus.hub_id, repo_type="dataset")
    except GatedRepoError as error:
        raise PermissionError(
            f"{corpus.title} is gated: accept its terms at {page}, then `hf auth login` ({terms})"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{corpus.title}: the Hub knows no data set {corpus.hub_id} that you may see; look at {page}, or pass a path"
        ) from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise ConnectionError(
            f"{corpus.title}: the Hub does not answer for {corpus.hub_id} ({first_line(error)}); try again, or pass a path"
        ) from error
    return corpus.hub_id


def corpora_table() -> str:
    """The catalogue as Markdown, one row a corpus; `?` is what is not known."""
    header = ("name", "corpus", "source", "config", "splits", "columns", "speaker column", "hours")
    header += ("languages", "licence", "used for", "how to get")
    rows = [header, ("---",) * len(header)]
    for corpus in CORPORA:
        columns = ", ".join(f"{ours}={theirs}" for ours, theirs in (corpus.columns or {}).items())
        rows.append(
            (
                corpus.name,
                corpus.title,
                corpus.source + (" (gated)" if corpus.gated and corpus.hub_id else ""),
                corpus.config or "-",
                ", ".join(name for names in corpus.splits.values() for name in names) or "?",
                columns or "?",
                corpus.speaker_column or "?",
                "?" if corpus.hours is None else f"{corpus.hours:,}",
                " ".join(corpus.languages) or "?",
                corpus.license or "?",
                corpus.used_for,
                corpus.how_to_get,
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
