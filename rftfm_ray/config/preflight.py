"""Preflight: what is checked before the first step, and what becomes of what is found."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field

from rftfm_ray.config.sections import Cadence, Integer, Seconds, Section


class PreflightMode(StrEnum):
    """What a run does with what preflight finds."""

    WARN = "warn"
    STOP = "stop"
    OFF = "off"


def _off(value: object) -> object:
    # To YAML 1.1 a bare off is false.
    return PreflightMode.OFF.value if value is False else value


class PreflightConfig(Section):
    """Checks before step 0 of a run, and of `rftfm preflight`."""

    mode: Annotated[PreflightMode, BeforeValidator(_off)] = PreflightMode.WARN
    """`warn`: say what is found, in the terminal and the report, and go on; `stop`: end before step 0 where something
    critical is found; `off`: check nothing."""
    verdicts: Cadence = 500
    """Verdicts at most that the task's verifier is asked for, by a copy of the task in a process of its own; 0: none.
    Fewer where each of them costs money."""
    timeout_s: Seconds = 10.0
    """Seconds that verdicts and known tool calls may take together beside the start of the actors, and again that the
    run may wait for the rest after it; what is left out is said."""
    groups: Annotated[Integer, Field(ge=0, le=64)] = 8
    """Prompts that the model answers in preflight, each `algorithm.samples_per_prompt` times; 0: none."""
