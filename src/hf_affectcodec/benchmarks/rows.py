"""Rows of measurements on disk: one JSON line each, written as they are measured, read again by the run that goes on."""

import json
import math
from pathlib import Path


def _finite(value):
    """JSON has no NaN: it becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def dump(value: "dict | list", indent: int | None = None) -> str:
    """JSON in which NaN is null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)


class Rows:
    """
    Rows of one protocol in a JSONL file: the protocol on the first line, then one line a system and clip, written as
    soon as it is measured. A last line cut short by a killed process is dropped.

    Args:
        path (`Path`): The file; made if missing.
        protocol (`dict`): What the rows are measured by.

    Attributes:
        by_key (`dict`): The rows by system, fingerprint and clip.

    Raises:
        ValueError: The file holds rows of another protocol, or a line is not JSON.
    """

    def __init__(self, path: Path, protocol: dict):
        self.path = path
        self.by_key: dict[tuple[str, str, int], dict] = {}
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dump({"protocol": protocol}) + "\n", encoding="utf-8")
            return
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            with open(path, "r+b") as file:
                file.truncate(len(whole))
        try:
            lines = [json.loads(line) for line in whole.decode().splitlines()]
        except ValueError as error:
            raise ValueError(f"`out`: {path.name} has a line that is not JSON ({error})") from error
        if not lines:
            path.write_text(dump({"protocol": protocol}) + "\n", encoding="utf-8")
            return
        found, wanted = lines[0].get("protocol", {}), json.loads(dump(protocol))
        changed = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        if changed:
            raise ValueError(f"`out`: {path.name} holds rows of another protocol ({', '.join(changed)} differ)")
        for row in lines[1:]:
            if "metrics" in row:
                row["metrics"] = {key: math.nan if value is None else value for key, value in row["metrics"].items()}
            self.add(row)

    @staticmethod
    def key(system, clip: int) -> tuple[str, str, int]:
        """Of a system, which has a `name` and a `fingerprint`, and a clip's index."""
        return system.name, system.fingerprint, clip

    def add(self, row: dict):
        self.by_key[row["system"], row["fingerprint"], row["clip"]] = row

    def append(self, row: dict):
        self.add(row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(dump(row) + "\n")
