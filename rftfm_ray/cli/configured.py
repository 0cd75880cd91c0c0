"""The configuration that a command is given: a file and keys, or keys alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rftfm_ray.config import RunConfig, known_keys, load_config

FILE_HELP = "YAML configuration, for example examples/calculator.yaml; without one, the first of the keys."


def configured(first: str, overrides: Sequence[str]) -> RunConfig:
    """The configuration of a command whose first argument is a file, or already a key.

    Raises:
        ConfigError: one sentence that names the file or key and the fix.
    """
    # Not as a path: it would take a slash from the URL of a value.
    if first.partition("=")[0] in known_keys() and not Path(first).exists():
        return load_config(None, [first, *overrides])
    return load_config(Path(first), list(overrides))
