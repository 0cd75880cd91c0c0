"""Measured strengths of the levels easy and hard, by task, algorithm and mechanism.

The table is written by `python benchmarks/calibrate_faults.py`; its columns are explained in docs/faults.md.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, fields
from importlib.resources import files

from rftfm_ray.errors import FaultError

LEVELS = ("easy", "hard")
TABLE = "calibration.json"


@dataclass(frozen=True, slots=True)
class Calibration:
    """One row: how far a mechanism at a strength moves its signal, in standard deviations between healthy runs.

    Attributes:
        task: name of the task.
        algorithm: name of the algorithm.
        code: the fault.
        mechanism: its mechanism.
        level: `easy` or `hard`.
        strength: the strength.
        signal: the telemetry signal that was named in advance.
        d: mean shift over the five steps after the effect's onset, in the direction in which the signal moves, over
            the calibration seeds.
        d_fresh: the same over seeds that had no part in choosing the strength.
        seeds: calibration seeds.
        seeds_fresh: fresh seeds.
        reached: share of the fresh runs in which the effect came in time.
        confirmed: whether the fresh seeds lie in the level's range: at least 4 for easy, 1 to 2 for hard.
        accuracy_loss: loss of held-out accuracy at the end of a run without a guard, against the healthy run of the
            same seed, mean over seeds; null where it was not measured.
        loss_seeds: how many.
        harmful: whether that is at least 0.10; null where it was not measured.
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


@functools.cache
def table() -> tuple[Calibration, ...]:
    """All rows that the package ships."""
    file = files("rftfm_ray.faults").joinpath(TABLE)
    if not file.is_file():
        return ()
    names = {field.name for field in fields(Calibration)}
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return tuple(Calibration(**{name: value for name, value in row.items() if name in names}) for row in rows)


def calibrated(task: str, algorithm: str, code: str, mechanism: str, level: str) -> float:
    """Strength of a mechanism at a level. An algorithm without a row of its own takes that of `grpo`, then any.

    Raises:
        FaultError: when there is none for the task.
    """
    rows = [r for r in table() if (r.task, r.code, r.mechanism, r.level) == (task, code, mechanism, level)]
    for wanted in (algorithm, "grpo"):
        strength = next((row.strength for row in rows if row.algorithm == wanted), None)
        if strength is not None:
            return strength
    if rows:
        return rows[0].strength
    raise FaultError(
        f"{code} by {mechanism} has no strength that is called {level} on task {task}; give a number, see rftfm faults "
        "list."
    )
