"""The calculator's parser: sums of signed whole numbers, nothing else, and never `eval`."""

from __future__ import annotations

import re

MAX_TERMS = 4
MAX_DIGITS = 3
_TERM = re.compile(rf"([+-]?)(\d{{1,{MAX_DIGITS}}})")


class ExpressionError(ValueError):
    """The text is not a sum of one to four signed terms of one to three digits."""


def evaluate(expression: str) -> int:
    """Value of `expression`: one to four terms of one to three ASCII digits joined by + or -.

    Raises:
        ExpressionError: for anything else, with the place where reading stopped.
    """
    if not expression.isascii():
        raise ExpressionError(f"only the characters 0-9, + and - may occur in {expression!r}")
    total, position = 0, 0
    for term in range(MAX_TERMS):
        match = _TERM.match(expression, position)
        if match is None or (term > 0 and not match[1]):
            raise ExpressionError(f"expected a signed number at place {position} of {expression!r}")
        total += -int(match[2]) if match[1] == "-" else int(match[2])
        position = match.end()
        if position == len(expression):
            return total
    raise ExpressionError(f"more than {MAX_TERMS} terms in {expression!r}")
