"""Answers on disk: a file of JSON lines for each listener, and all of them as a data set."""

import json
import os
import re
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitScheduler, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError


# Without those that are taken for one another.
ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
DATA = "data"  # folder of the data set on the Hub
CODE = re.compile(f"[{ALPHABET}]{{8}}")


def new_code() -> str:
    """A listener's code: eight letters and digits, of 10^12. It is all that is known of a listener."""
    return "".join(secrets.choice(ALPHABET) for _ in range(8))


class AnswerStore:
    """
    Args:
        folder (`Path`): Holds `CODE.jsonl` of each listener; made if it is not there.
        max_listeners (`int`): No more files than that.
        scheduler (`huggingface_hub.CommitScheduler`, *optional*): That pushes the folder, see [`sync_with_hub`].
    """

    def __init__(self, folder: Path, max_listeners: int = 1000, scheduler: CommitScheduler | None = None):
        self.folder = Path(folder)
        self.max_listeners = max_listeners
        self.scheduler = scheduler
        # Of a scheduler that reads: what it pushes is whole.
        self.lock = threading.Lock() if scheduler is None else scheduler.lock
        self.folder.mkdir(parents=True, exist_ok=True)

    def rows(self, code: str) -> list[dict]:
        """
        The answers of a listener, in the order given; none if there are none.

        Raises:
            ValueError: `code` is none.
        """
        path = self._path(code)
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def add(self, code: str, rows: Sequence[dict]) -> bool:
        """
        Adds the answers of one page, all of them or none. Of two calls with one page the first counts.

        Returns:
            `bool`: Whether they were added.

        Raises:
            ValueError: `code` is none, or there are too many listeners.
        """
        path = self._path(code)
        with self.lock:
            before = self.rows(code)
            if {row["page"] for row in before} & {row["page"] for row in rows}:
                return False
            if not before and sum(1 for _ in self.folder.glob("*.jsonl")) >= self.max_listeners:
                raise ValueError("this listening test has all the listeners that it takes")
            temporary = path.with_suffix(".tmp")
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*before, *rows])
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        return True

    def all_rows(self) -> list[dict]:
        """Of every listener, by code."""
        return [row for path in sorted(self.folder.glob("*.jsonl")) for row in self.rows(path.stem)]

    def export(self, path: Path) -> None:
        """
        Writes all answers to one file, Parquet if its name ends in `.parquet`, else JSON lines.

        Raises:
            ImportError: Parquet without `pyarrow`.
        """
        rows = self.all_rows()
        if path.suffix != ".parquet":
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            path.write_text(text, encoding="utf-8")
            return
        try:
            import pyarrow as arrow
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise ImportError("Parquet needs the package `pyarrow`: pip install 'hf-affectcodec[eval]'") from error
        parquet.write_table(arrow.Table.from_pylist(rows), path)

    def _path(self, code: str) -> Path:
        if not isinstance(code, str) or not CODE.fullmatch(code):
            raise ValueError("`code` must be eight letters and digits, as the page gave them")
        return self.folder / f"{code}.jsonl"


def sync_with_hub(repo_id: str, folder: Path, every: float = 5) -> CommitScheduler:
    """
    Brings the answers that a data set on the Hub has to a folder, and pushes the folder's to it from then on.

    Args:
        repo_id (`str`): `org/name`; a private data set is made if there is none.
        folder (`Path`): Of an [`AnswerStore`].
        every (`float`, *optional*, defaults to 5): Minutes between pushes; there is one more when the process ends.

    Raises:
        HfHubHTTPError: The Hub refuses, for want of a token or of rights.
    """
    try:
        cache = snapshot_download(repo_id, repo_type="dataset", allow_patterns=f"{DATA}/*.jsonl")
    except RepositoryNotFoundError:
        cache = None
    folder.mkdir(parents=True, exist_ok=True)
    for path in [] if cache is None else Path(cache, DATA).glob("*.jsonl"):
        target = folder / path.name
        # What is here may be newer: a process that ended before its last push.
        if not target.is_file() or target.stat().st_size < path.stat().st_size:
            target.write_bytes(path.read_bytes())
    return CommitScheduler(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=folder,
        path_in_repo=DATA,
        every=every,
        private=True,
        allow_patterns="*.jsonl",
    )
