"""Measured strengths of the levels easy, hard and harm, by task, algorithm, mechanism and background.

The table is written by `python -m benchmarks.calibrate_faults`; its columns are explained in docs/faults.md.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from importlib.resources import files
from typing import Any

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import FaultError

LEVELS = ("easy", "hard")
"""Levels by how far a signal moves."""
HARM = "harm"
"""The level by what it costs in held-out accuracy."""
NAMED_LEVELS = (*LEVELS, HARM)
TABLE = "calibration.json"


class Finding(StrEnum):
    """What a search for a level has come to."""

    REACHED = ""
    NEVER = "no strength reaches the level"
    BELOW = "below the background"
    NO_HARM = "no strength is harmful"


@dataclass(frozen=True, slots=True)
class Calibration:
    """One row: how far a mechanism at a strength moves its signal, in standard deviations between healthy runs.

    Attributes:
        task: name of the task.
        algorithm: name of the algorithm.
        code: the fault.
        mechanism: its mechanism.
        level: one of `NAMED_LEVELS`.
        strength: the strength; the largest one where the level is out of reach.
        signal: the telemetry signal that was named in advance.
        d: mean shift over the five steps after the effect's onset, in the direction in which the signal moves, over
            the calibration seeds; NaN for harm, as `d_fresh` and `reached`.
        d_fresh: the same over seeds that had no part in choosing the strength.
        seeds: calibration seeds.
        seeds_fresh: fresh seeds.
        reached: share of the fresh runs in which the effect came in time.
        confirmed: whether the fresh seeds lie in the level's range: at least 4 for easy, 1 to 2 for hard, a loss of at
            least 0.15 for harm.
        accuracy_loss: loss of held-out accuracy at the end of a run without a guard, against the healthy run of the
            same seed, mean over seeds; null where it was not measured.
        loss_seeds: how many.
        harmful: whether that is at least 0.10; null where it was not measured.
        dirty: whether it was measured in runs with the background of the benchmark, against healthy ones with the same.
        finding: why there is no strength of the level.
        loss_fresh: the loss over fresh seeds, of harm alone.
    """

    task: str
    algorithm: str
    code: str
    mechanism: str
    level: str
    strength: float
    signal: str
    d: float
    d_fresh: float
    seeds: int
    seeds_fresh: int
    reached: float
    confirmed: bool
    accuracy_loss: float | None = None
    loss_seeds: int = 0
    harmful: bool | None = None
    dirty: bool = False
    finding: Finding = Finding.REACHED
    loss_fresh: float | None = None

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Calibration:
        """A row as `to_json` gave it; other keys are left out."""
        known = {field.name: row[field.name] for field in fields(cls) if field.name in row}
        known |= {name: math.nan for name in ("d", "d_fresh", "reached") if known[name] is None}
        return cls(**{**known, "finding": Finding(known.get("finding", ""))})

    def to_json(self) -> dict[str, Any]:
        """Its fields; null for NaN, which JSON does not have, and without those that say nothing."""
        row = {name: None if value != value else value for name, value in asdict(self).items()}
        silent = {"dirty": False, "finding": "", "loss_fresh": None, "accuracy_loss": None, "harmful": None}
        return {name: value for name, value in row.items() if name not in silent or value != silent[name]}


def is_dirty(config: RunConfig) -> bool:
    """Whether a run has a background, and so the strengths that were measured with one."""
    return config.background.is_on or config.background.preset is not None


@functools.cache
def table() -> tuple[Calibration, ...]:
    """All rows that the package ships."""
    file = files("rftfm_ray.faults").joinpath(TABLE)
    if not file.is_file():
        return ()
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return tuple(map(Calibration.from_json, rows))


@dataclass(frozen=True, slots=True)
class StrengthKey:
    """What has a strength of its own: a mechanism at a level, in runs of a task and algorithm, clean or dirty."""

    task: str
    algorithm: str
    code: str
    mechanism: str
    level: str
    dirty: bool = False


def calibration_of(key: StrengthKey) -> Calibration | None:
    """The row of a strength. An algorithm without one of its own takes that of `grpo`, then any."""
    wanted_row = key.task, key.code, key.mechanism, key.level, key.dirty
    rows = [row for row in table() if (row.task, row.code, row.mechanism, row.level, row.dirty) == wanted_row]
    for wanted in (key.algorithm, "grpo"):
        own = next((row for row in rows if row.algorithm == wanted), None)
        if own is not None:
            return own
    return rows[0] if rows else None


def calibrated(key: StrengthKey) -> float:
    """The strength of `calibration_of`.

    Raises:
        FaultError: when there is none for the task, or no strength is harmful.
    """
    row = calibration_of(key)
    if row is not None and row.finding is not Finding.NO_HARM:
        return row.strength
    where = f"on task {key.task}" + (" with a background" if key.dirty else "")
    why = "" if row is None else f" (searched up to {row.strength:g}: {row.finding})"
    raise FaultError(
        f"{key.code} by {key.mechanism} has no strength that is called {key.level} {where}{why}; give a number, see "
        "rftfm faults list."
    )
