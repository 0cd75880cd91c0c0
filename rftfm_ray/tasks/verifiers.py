"""Verifiers that ship: what the text of an answer is worth against the right one, 1 or 0. Pure.

All but `code` compare an answer, as text, number, expression or JSON; `code` runs it, in a process with limits.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

from rftfm_ray.config.data import ANSWER
from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.tasks.code_verifier import passes

Check = Callable[[str, str], bool]
"""Whether an answer (first) is the right one (second)."""

REGEX, JSON = "regex:", "json:"
FUNCTIONS = "reward.functions"
"""Key that names verifiers and functions."""
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
# A number as people write it: signs, thousands separators, decimals, an exponent, or a fraction of whole numbers.
_NUMBER = re.compile(r"[-+\u2212]?(?:\d[\d,\u202f\u00a0]*)?\.?\d+(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?%?")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
# How people mark the final answer: GSM8K's four hashes, and words.
_MARKED = re.compile(r"(?:####|answer\s*(?:is|:|=))\s*(.+)", re.IGNORECASE)
_CHOICE = re.compile(r"\(?\b([A-Z])\b\)?")
TOLERANCE = 1e-6
"""Largest difference of two numbers that are called equal, as a share of the right one; none of whole numbers."""
LONGEST = 100_000
"""Characters at the end of an answer that are read; what stands before them is no final answer."""


def exact(answer: str, truth: str) -> bool:
    """Whether an answer is the right one but for space at its ends and between its words."""
    return answer.split() == truth.split()


def numeric(answer: str, truth: str) -> bool:
    r"""Whether the final number of an answer is that of the right one.

    The final number is the one in the last `\boxed{}`, else after the last `####` or "answer is", else the last one.

    Raises:
        RewardError: when the right answer holds no number.
    """
    wanted = final_number(truth)
    if wanted is None:
        raise RewardError(f"The right answer {truth[:60]!r} holds no number; use another verifier for it.")
    given = final_number(answer)
    if given is None or (wanted.is_integer() and given.is_integer()):
        return given == wanted
    return math.isclose(given, wanted, rel_tol=TOLERANCE, abs_tol=1e-12)


def final_number(text: str) -> float | None:
    """The number that a text ends with, as `numeric` reads it; None without one."""
    tail = text[-LONGEST:]
    boxed, marked = _BOXED.findall(tail), _MARKED.findall(tail)
    for part in (*boxed[-1:], *marked[-1:], tail):
        numbers = _NUMBER.findall(part)
        # What follows a mark begins with the answer; a whole text ends with it.
        if numbers:
            return _value(numbers[0] if part is not tail and part not in boxed[-1:] else numbers[-1])
    return None


def _value(written: str) -> float | None:
    text = re.sub(r"[,\u202f\u00a0\s]", "", written).replace("\u2212", "-")
    percent = text.endswith("%")
    top, _, bottom = text.rstrip("%").partition("/")
    try:
        value = float(Decimal(top)) / float(Decimal(bottom or "1"))
    except (InvalidOperation, ZeroDivisionError, OverflowError):
        return None
    return value / 100 if percent else value


def choice(answer: str, truth: str) -> bool:
    """Whether the final letter of an answer is that of the right one, as of a question with choices A, B, C.

    Raises:
        RewardError: when the right answer holds no letter.
    """
    wanted = _letter(truth)
    if not wanted:
        raise RewardError(f"The right answer {truth[:60]!r} holds no capital letter; use another verifier for it.")
    return _letter(answer) == wanted


def _letter(text: str) -> str:
    tail = text[-LONGEST:]
    boxed, marked = _BOXED.findall(tail), _MARKED.findall(tail)
    for part in (*boxed[-1:], *marked[-1:], tail):
        letters: list[str] = _CHOICE.findall(part)
        if letters:
            return letters[-1] if part is tail else letters[0]
    return ""


def matches(pattern: str, key: str = FUNCTIONS) -> Check:
    """Whether an answer matches a pattern anywhere; `{answer}` in it stands for the right answer.

    Raises:
        TaskError: when the pattern is no regular expression.
    """
    try:
        re.compile(pattern.replace(ANSWER, "x"), re.DOTALL)
    except re.error as error:
        raise TaskError(f"{key}={REGEX}{pattern} is no regular expression ({error}); correct it.") from None

    def check(answer: str, truth: str) -> bool:
        return re.search(pattern.replace(ANSWER, re.escape(truth)), answer[-LONGEST:], re.DOTALL) is not None

    return check


def mathematical(answer: str, truth: str) -> bool:
    r"""Whether the final expression of an answer equals the right one, by math-verify (the extra `rftfm_ray[math]`).

    Fractions, roots, sets, intervals and equations, in LaTeX or plain. It has no time limit of its own: whoever asks
    does so in a process that can be ended.

    Raises:
        RewardError: when the right answer holds no expression.
    """
    from math_verify import parse, verify

    wanted = parse(truth, parsing_timeout=None) or parse(f"${truth}$", parsing_timeout=None)
    if not wanted:
        raise RewardError(f"The right answer {truth[:60]!r} holds no expression; use another verifier for it.")
    return bool(verify(wanted, parse(answer[-LONGEST:], parsing_timeout=None), timeout_seconds=None))


def fits_schema(path: str, key: str = FUNCTIONS) -> Check:
    """Whether an answer is JSON that fits a schema in a file: the whole of it, or its last fenced block.

    Raises:
        TaskError: when the file holds no JSON schema.
    """
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        schema = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        kind = validator_for(schema)
        kind.check_schema(schema)
    except OSError as error:
        raise TaskError(f"{key}={JSON}{path} cannot be read ({error.strerror}); check the path.") from None
    except (ValueError, SchemaError) as error:
        reason = error.message if isinstance(error, SchemaError) else str(error)
        raise TaskError(f"{key}={JSON}{path} holds no JSON schema ({reason}); correct it.") from None

    def check(answer: str, truth: str) -> bool:
        del truth
        blocks = _FENCED.findall(answer[-LONGEST:])
        try:
            value = json.loads(blocks[-1] if blocks else answer[-LONGEST:])
        except (ValueError, RecursionError):
            return False
        return bool(kind(schema).is_valid(value))

    return check


VERIFIERS: Mapping[str, Check] = {
    "exact": exact, "numeric": numeric, "choice": choice, "math": mathematical, "code": passes,
}  # fmt: skip
"""Verifiers by the names that `reward.functions` knows them by."""
PLAIN = ("exact", "numeric", "choice")
"""Those that end at once, whatever the answer."""
SOLVED = (*PLAIN, "math")
"""Those that compare an answer with the right one, which therefore solves its row."""


def compares(name: str) -> bool:
    """Whether a verifier reads the right answer of a row."""
    return name in VERIFIERS or (name.startswith(REGEX) and ANSWER in name)


def ships(name: str) -> bool:
    """Whether a name is that of a verifier that ships."""
    return name in VERIFIERS or name.startswith((REGEX, JSON))


def verifier_of(name: str, key: str = FUNCTIONS) -> Check | None:
    """The verifier of a name, which the configuration gives under `key`; None where it is none that ships.

    Raises:
        TaskError: for a pattern that is no regular expression, a file that is no schema, or a package that is missing.
    """
    if name.startswith(REGEX):
        return matches(name.removeprefix(REGEX), key)
    if name.startswith(JSON):
        return fits_schema(name.removeprefix(JSON), key)
    if name == "math" and importlib.util.find_spec("math_verify") is None:
        raise TaskError(f"{key}=math needs a package that is not installed; pip install math-verify.")
    return VERIFIERS.get(name)
