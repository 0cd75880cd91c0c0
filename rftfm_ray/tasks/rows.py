"""Rows of a task as people have them: every field is text, or the run is refused with the row and the field."""

from __future__ import annotations

from collections.abc import Sequence

from rftfm_ray.errors import TaskError
from rftfm_ray.tasks.api import Problem

FIELDS = ("key", "prompt", "answer")
"""Fields of a `Problem`, all of them text."""

LONGEST_SHOWN = 60
"""Characters of a value that an error shows."""


def check_rows(task: str, source: str, rows: Sequence[object]) -> None:
    """Refuse a row that is not a `Problem`, or has a field that is not text.

    Args:
        task: name of the task.
        source: where the rows come from: `pool` or `heldout`.
        rows: in their order.

    Raises:
        TaskError: names the row, the field and the fix.
    """
    for index, row in enumerate(rows):
        if not isinstance(row, Problem):
            raise TaskError(
                f"Task {task} gave {row!r:.200} as a problem in row {index} of {source}; give rftfm_ray.Problem values."
            )
        for field in FIELDS:
            value: object = getattr(row, field)
            if not isinstance(value, str):
                raise TaskError(
                    f"Task {task}: Problem.{field} in row {index} of {source} is {_kind(value)}, {_shown(value)}, and "
                    f"must be text; {_fix(field, value)}."
                )


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return f"{_article(name)} {name}"


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def _fix(field: str, value: object) -> str:
    if value is None:
        return f"give the row {_article(field)} {field}, or leave the row out"
    if isinstance(value, list | tuple | dict):
        kind = "chat messages" if field == "prompt" else "values"
        how = "by the chat template of the model's tokenizer" if field == "prompt" else "as the verifier compares it"
        return f"write these {kind} as one string, {how}"
    return f"give str({field})"
