"""From a row of a data set to a prompt, its answer, and what else a reward function may ask for. Pure.

Three forms are known by their columns. verl's has `reward_model.ground_truth` beside `prompt`; TRL's has `prompt` and
any further columns; in a plain one prompt and answer have the names that the configuration gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rftfm_ray.errors import DataError

Row = Mapping[str, Any]
Messages = Sequence[Mapping[str, str]]
Render = Callable[[Messages], str]
"""Writes chat messages as one text that ends where the model's answer begins."""

PROMPTS = ("prompt", "question", "problem", "instruction", "query", "input")
ANSWERS = ("answer", "solution", "ground_truth", "label", "target", "final_answer", "response")
"""Names of columns that hold prompts and right answers where the configuration names none, the likeliest first."""
TRUTH = "reward_model"
ROLES = ("system", "user", "assistant", "tool")


class Form(StrEnum):
    """What a data set looks like."""

    VERL = "verl"
    COLUMNS = "columns"


@dataclass(frozen=True, slots=True)
class Columns:
    """Where prompt and answer stand.

    Attributes:
        form: of the rows.
        prompt: column of the prompt.
        answer: column of the right answer; empty where there is none.
    """

    form: Form
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A row in the one form that is trained on.

    Attributes:
        prompt: as text, with the chat template where it is of messages.
        answer: the right one as text; empty where the data set holds none.
        columns: all of the row, and `messages` where the prompt is of messages.
    """

    prompt: str
    answer: str
    columns: Mapping[str, Any]


class BadRowError(ValueError):
    """A row that cannot be trained on: a clause that says what is wrong with it."""


def columns_of(row: Row, prompt: str | None, answer: str | None) -> Columns:
    """Where prompt and answer stand, by the first row.

    Args:
        row: the first one.
        prompt: column that the configuration names; None for one of `PROMPTS`.
        answer: the same of the answer, one of `ANSWERS`.

    Raises:
        DataError: when a named column is not there, or none holds a prompt; names those that there are.
    """
    found = sorted(row)
    for key, name in (("data.prompt", prompt), ("data.answer", answer)):
        if name is not None and name not in row:
            raise DataError(f"{key}={name} is no column; there are {', '.join(found)}.")
    column = prompt or next((name for name in PROMPTS if name in row), None)
    if column is None:
        raise DataError(f"No column is called {PROMPTS[0]}; set data.prompt to one of {', '.join(found)}.")
    truth = row.get(TRUTH)
    if answer is None and isinstance(truth, Mapping) and "ground_truth" in truth:
        return Columns(Form.VERL, column, TRUTH)
    return Columns(Form.COLUMNS, column, answer or next((name for name in ANSWERS if name in row), ""))


def sample_of(row: Row, columns: Columns, render: Render) -> Sample:
    """A row in the form that is trained on.

    Args:
        row: as it was read.
        columns: where prompt and answer stand.
        render: writes chat messages as text.

    Raises:
        BadRowError: when the prompt is missing, empty or neither text nor messages, or the answer is missing.
    """
    prompt = row.get(columns.prompt)
    further: dict[str, Any] = dict(row)
    if isinstance(prompt, str):
        text = prompt
    elif isinstance(prompt, Sequence) and prompt:
        messages = [_message(each) for each in prompt]
        text, further["messages"] = render(messages), messages
    elif prompt is None or prompt == []:
        raise BadRowError("has no prompt")
    else:
        raise BadRowError(f"has a prompt that is a {type(prompt).__name__}, and neither text nor chat messages")
    if not text.strip():
        raise BadRowError("has an empty prompt")
    return Sample(text, _answer(row, columns), further)


def _message(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not {"role", "content"} <= set(value):
        raise BadRowError("has a prompt with a message that has not both a role and a content")
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise BadRowError(f"has a prompt with a message of the role {role!r}, which is none of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise BadRowError(f"has a prompt with a message whose content is a {type(content).__name__}, and no text")
    return {"role": role, "content": content}


def _answer(row: Row, columns: Columns) -> str:
    if not columns.answer:
        return ""
    value = row.get(columns.answer)
    if columns.form is Form.VERL:
        value = value.get("ground_truth") if isinstance(value, Mapping) else None
    if value is None:
        raise BadRowError("has no answer")
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    except (TypeError, ValueError):
        raise BadRowError(f"has an answer that is a {type(value).__name__}, and no text") from None
