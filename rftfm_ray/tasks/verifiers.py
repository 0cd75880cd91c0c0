"""Verifiers that ship: what the text of an answer is worth against the right one, 1 or 0. Pure.

None of them evaluates an answer: it is compared as text or as a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation

from rftfm_ray.errors import RewardError, TaskError

Check = Callable[[str, str], bool]
"""Whether an answer (first) is the right one (second)."""

REGEX = "regex:"
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


def matches(pattern: str) -> Check:
    """Whether an answer matches a pattern anywhere; `{answer}` in it stands for the right answer.

    Raises:
        TaskError: when the pattern is no regular expression.
    """
    try:
        re.compile(pattern.replace("{answer}", "x"), re.DOTALL)
    except re.error as error:
        raise TaskError(f"reward.functions={REGEX}{pattern} is no regular expression ({error}); correct it.") from None

    def check(answer: str, truth: str) -> bool:
        return re.search(pattern.replace("{answer}", re.escape(truth)), answer[-LONGEST:], re.DOTALL) is not None

    return check


VERIFIERS: Mapping[str, Check] = {"exact": exact, "numeric": numeric, "choice": choice}
"""Verifiers by the names that `reward.functions` knows them by."""


PLAIN = ("exact", "numeric", "choice")
"""Those that end at once, whatever the answer."""


def verifier_of(name: str) -> Check | None:
    """The verifier of a name; None where it is none that ships.

    Raises:
        TaskError: for a pattern that is no regular expression.
    """
    return matches(name.removeprefix(REGEX)) if name.startswith(REGEX) else VERIFIERS.get(name)
