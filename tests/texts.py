"""What tests make of texts that name a place in the code of a test."""

from __future__ import annotations

import re

_PLACE = re.compile(r" at [\w.-]+\.py:\d+(?=:)")


def without_places(text: str) -> str:
    """The text without the files and lines of code that raised."""
    return _PLACE.sub("", text)
