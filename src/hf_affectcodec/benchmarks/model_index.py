"""Measured results in a model card's `model-index`."""

import math
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard


TASK = "audio-to-audio"


def eval_results(table: dict, system: str, dataset: dict[str, str]) -> list[EvalResult]:
    """
    Args:
        table (`dict`): See [`~.tables.tabulate`].
        system (`str`): Name of the model in the table.
        dataset (`dict[str, str]`): `type` (Hub id), `name` and, if there is one, `split` of the data.

    Returns:
        `list[EvalResult]`: One for each column in which the system has a number, clips and failures with it.

    Raises:
        ValueError: The table has no such system, or `dataset` lacks a key.
    """
    if system not in table["systems"]:
        raise ValueError(f"`system` must be one of {list(table['systems'])}, got {system!r}")
    missing = sorted({"type", "name"} - dataset.keys())
    if missing:
        raise ValueError(f"`dataset` lacks {missing[0]!r}")
    protocol = table["protocol"]
    source = {"file": protocol["data"], "sha256": protocol["data_sha256"], "clips": table["n_clips"]}
    return [
        EvalResult(
            task_type=TASK,
            task_name="Speech coding",
            dataset_type=dataset["type"],
            dataset_name=dataset["name"],
            dataset_split=dataset.get("split"),
            dataset_args={**source, "failed": cell["n_failed"]},
            metric_type=name,
            # What stands behind a column is part of what it is called.
            metric_name=f"{table['columns'][name]['label']} ({_group_title(table, name)})",
            metric_value=round(cell["mean"], 4),
        )
        for name, cell in table["systems"][system]["metrics"].items()
        if math.isfinite(cell["mean"])
    ]


def _group_title(table: dict, column: str) -> str:
    return table["groups"][table["columns"][column]["group"]]["title"]


def write_model_index(card: str | Path, table: dict, system: str, dataset: dict[str, str]):
    """
    Puts the results into a card; what it says of the same column on the same data is replaced, the rest stays.

    Args:
        card (`str` or `Path`): `README.md` with a YAML head.
        table, system, dataset: See [`eval_results`].

    Raises:
        ValueError: See [`eval_results`]; or the card has no `model_name` to put results under, as a head without
            `model-index` has none, and no folder to take it from.
    """
    card = Path(card)
    results = eval_results(table, system, dataset)
    loaded = ModelCard.load(card)
    data = loaded.data
    kept = [old for old in data.eval_results or [] if not any(_same(old, new) for new in results)]
    data.eval_results = kept + results
    data.model_name = data.model_name or system
    loaded.save(card)


def _same(first: EvalResult, second: EvalResult) -> bool:
    return all(
        getattr(first, name) == getattr(second, name)
        for name in ("task_type", "dataset_type", "dataset_split", "metric_type")
    )
