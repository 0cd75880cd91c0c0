"""Runs as they are followed, made up: alarms at given steps, and nothing measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.features import FIGURES, Window, features_of
from rftfm_ray.diagnosis.findings import READ
from rftfm_ray.diagnosis.weighing import Case
from rftfm_ray.faultbench.naming.named import Ranker
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.faultbench.teaching.following import Diagnosed, Followed
from rftfm_ray.verdicts import Evidence, Symptom

STEPS, ONSET = 40, 16


def alarm(detector: str, signal: str, evidence: Evidence, onset: int = ONSET) -> Symptom:
    """An alarm of a detector."""
    return Symptom(detector, signal, evidence, True, 1, 1.0, 0.0, 9.0, onset, onset, f"{signal} is high")


TELEMETRY = alarm("change", "reward_mean", Evidence.TELEMETRY)
IDENTITY = alarm("identity:advantages", "advantage_error", Evidence.IDENTITY)


def entry_of(
    inject: str = "RF-1@16:hard,mechanism=wrong_answers", *, seed: int = 1, split: Split = Split.TUNE
) -> Entry:
    """A run with a fault, or a healthy one where nothing is injected."""
    if not inject:
        return Entry(f"healthy-{seed}", Kind.HEALTHY, split, seed, "addition", "grpo", "tiny", STEPS)
    name = f"{inject.partition('@')[0]}-{inject.rpartition('=')[2]}-{seed}"
    return Entry(name, Kind.FAULT, split, seed, "addition", "grpo", "tiny", STEPS, (inject,), "hard", ONSET)


def followed(entry: Entry, alarms: Mapping[int, Sequence[Symptom]], *, effect: int = ONSET) -> Followed:
    """A run with alarms by step."""
    has_fault = bool(entry.codes)
    window = Window(np.zeros((1, len(COLUMNS))), np.zeros(len(FIGURES)), profiled=True)
    diagnosed = tuple(
        Diagnosed(step, min(step, ONSET), Case(tuple(some), (), (), features_of(some, (), window)))
        for step, some in alarms.items()
    )
    return Followed(
        entry, ONSET if has_fault else 0, effect if has_fault else 0, np.zeros((STEPS, len(COLUMNS))),
        np.ones(STEPS, np.bool_), np.full((STEPS, len(READ)), np.nan),
        tuple(tuple(alarms.get(step, ())) for step in range(1, STEPS + 1)), diagnosed,
    )  # fmt: skip


def alarmed(entry: Entry, *symptoms: Symptom, since: int = ONSET) -> Followed:
    """A run with the same alarms from a step to its end."""
    return followed(entry, dict.fromkeys(range(since, STEPS + 1), symptoms or (TELEMETRY,)))


def stating(by_step: Mapping[int, tuple[str, float]], otherwise: tuple[str, float] = ("UNKNOWN", 0.9)) -> Ranker:
    """States a name with a probability at some steps; RF-1 is second everywhere."""
    return lambda _, diagnosed: [by_step.get(diagnosed.step, otherwise), ("RF-1", 0.1)]
