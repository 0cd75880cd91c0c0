"""What `guard.on_incident` may be."""

from __future__ import annotations

import shlex
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def _checked(target: str) -> str:
    problem = hook_problem(target)
    if problem:
        raise ValueError(f"guard.on_incident={target} {problem}")
    return target


Hook = Annotated[str, AfterValidator(_checked)]


def hook_problem(target: str) -> str:
    """What is wrong with a hook, as the end of a sentence; empty when nothing is."""
    if "://" in target.split(" ")[0]:
        try:
            parts = urlsplit(target)
            is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_whole = False
        return "" if is_whole else "is not a URL that can be called; give http://HOST/PATH or https://HOST/PATH"
    try:
        words = shlex.split(target)
    except ValueError as error:
        return f"cannot be split into words ({error}); check its quotes"
    return "" if words and words[0] else "names no command; give a command, a URL, or leave it out"
