"""Our own detector on recorded runs: the bank of directions against profiles, with everything fitted on one split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rftfm_ray.detection.bank import LEAST_SPREAD, Bank, Sums, Template, build, correlation_of
from rftfm_ray.detection.evidence import TELEMETRY
from rftfm_ray.detection.limits import level_for, peaks
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.cells import Cells, Floats, cell_of
from rftfm_ray.faultbench.clairvoyant import WINDOW, Fault, fault_of
from rftfm_ray.faultbench.dataset import Recorded
from rftfm_ray.faultbench.plan import Kind

# Steps to a block of a run whose peaks are counted, and healthy steps to one false alarm of all directions together.
BLOCK, FALSE_ALARM_STEPS = 30, 2000.0

Measured = tuple[bool, ...]


class BankScorer:
    """Score: the largest sum of evidence of any direction, over the level that it seldom reaches in healthy runs."""

    name = "rftfm"

    def __init__(self) -> None:
        self._cells: Cells | None = None
        self._correlation: Floats = np.eye(len(TELEMETRY))
        self._spreads: Floats = np.ones(len(TELEMETRY))
        self._templates: tuple[Template, ...] = ()
        self._levels: dict[str, float] = {}
        self._usual = 1.0
        self._banks: dict[Measured, Bank] = {}

    def fit(self, runs: Sequence[Recorded]) -> None:
        """Learn profiles, correlations, templates of faults, and levels from the calibrate split."""
        sound = [run for run in runs if run.entry.kind is Kind.HEALTHY]
        self._cells = Cells(sound)
        left_out = self._left_out(sound)
        if not left_out:
            raise BenchError("There are no three healthy runs of one kind to learn from; make more.")
        self._correlation = correlation_of(list(left_out.values()))
        table = np.concatenate(list(left_out.values()))
        self._spreads = np.sqrt(np.nanmean(np.where(np.isnan(table).all(0), 0.0, table) ** 2, axis=0))
        self._spreads = np.clip(self._spreads, LEAST_SPREAD, 1.0)
        self._templates = self._found_templates(runs, {run.entry.seed: run for run in sound})
        self._banks.clear()
        self._fit_levels(list(left_out.values()))

    def _left_out(self, sound: Sequence[Recorded]) -> Mapping[str, Floats]:
        """Residuals of healthy runs, each against the profile of the others of its kind, as a new run has them."""
        found = {}
        for run in sound:
            others = [one for one in sound if one is not run and cell_of(one.entry) == cell_of(run.entry)]
            if len(others) >= 2:
                found[run.entry.name] = Cells(others).residuals(run)
        return found

    def _found_templates(self, runs: Sequence[Recorded], healthy: Mapping[int, Recorded]) -> tuple[Template, ...]:
        """Mean shift of every mechanism at every level, over the first steps of its effect."""
        found: dict[Fault, list[Floats]] = {}
        for run in runs:
            effect = run.outcome.effects[0] if run.entry.kind is Kind.FAULT else None
            if effect is None or effect > len(run):
                continue
            one, other = self._residuals(run), self._residuals(healthy[run.entry.seed])
            steps = slice(effect - 1, min(effect - 1 + WINDOW, len(one), len(other)))
            apart = np.nan_to_num(np.clip(one, -8, 8)[steps] - np.clip(other, -8, 8)[steps], nan=0.0)
            found.setdefault(fault_of(run.entry), []).append(apart.mean(0))
        return tuple(
            Template(" ".join(fault), np.stack(shifts).mean(0)) for fault, shifts in sorted(found.items())
        )  # fmt: skip

    def _residuals(self, run: Recorded) -> Floats:
        if self._cells is None:
            raise ValueError("fit it first")
        return self._cells.residuals(run)

    def _bank(self, residuals: Floats) -> Bank:
        measured = np.isfinite(residuals[0])
        key = tuple(measured.tolist())
        if key not in self._banks:
            self._banks[key] = build(TELEMETRY, measured, self._spreads, self._correlation, self._templates)
        return self._banks[key]

    def _sums(self, residuals: Floats) -> tuple[Bank, Floats]:
        bank = self._bank(residuals)
        watch = Sums(bank)
        return bank, np.stack([watch.add(step) for step in residuals])

    def _fit_levels(self, healthy: Sequence[Floats]) -> None:
        found: dict[str, list[Floats]] = {}
        for residuals in healthy:
            bank, sums = self._sums(residuals)
            highest = peaks(sums, BLOCK)
            for place, direction in enumerate(bank.directions):
                found.setdefault(str(direction), []).append(highest[:, place])
        per_step = 1 / FALSE_ALARM_STEPS / max(1, len(found))
        self._levels = {name: level_for(np.concatenate(some), BLOCK, per_step) for name, some in found.items()}
        self._usual = math.log(1 / per_step)

    def scores(self, run: Recorded) -> Floats:
        """Scores (N) of a run; 1 is where a direction is at its level."""
        return self.evidence(run)[0]

    def evidence(self, run: Recorded) -> tuple[Floats, list[str]]:
        """Scores (N), and what gave each."""
        bank, sums = self._sums(self._residuals(run))
        names = [str(direction) for direction in bank.directions]
        over = sums / np.array([self._levels.get(name, self._usual) for name in names])
        return over.max(1), [names[place] for place in over.argmax(1).tolist()]
