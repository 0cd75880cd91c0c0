"""What tests of detection share: reports by hand, a detector before the monitor's latch, references of every mode."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rftfm_ray.detection.detectors.base import Detector, Reading, Scores
from rftfm_ray.detection.latch import Latch, Mask
from rftfm_ray.detection.reference.fitting import fit_profile, series_of
from rftfm_ray.detection.reference.mixture import Mode, Reference, reference_of
from rftfm_ray.detection.reference.priors import NO_CRITIC, shipped
from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.reference.views import StepView, StepViews, values_of
from rftfm_ray.detection.state import State
from rftfm_ray.detection.suite import MonitorSettings
from rftfm_ray.signals.groups import PROMPT_DEPENDENT
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport, Symptom
from tests.unit.doubles import recorded_runs

DATA = Path(__file__).parent / "data"
SETTINGS = MonitorSettings(warmup=5, false_alarm_steps=1_000, noise=0.001, probe_size=256)
"""The settings that the recorded runs call for."""
NO_REFERENCE = reference_of(None, None)
"""Levels are all that a view has: enough for detectors that compare with nothing, or with the run's own past."""
LEARNT = {Mode.SMALL: 3, Mode.FULL: 12}
"""Healthy runs that the profile of each mode is fitted to."""

# A step with nothing the matter; every signal that is not named is NaN.
USUAL: Mapping[str, float] = {
    "valid_rate": 1.0,
    "loss": 0.1,
    "grad_norm": 1.0,
    "kl_ref": 0.1,
    "entropy": 1.0,
    "reward_mean": 0.5,
    "update_ratio": 1e-3,
    "changed_rate": 0.9,
    "vetoes": 0.0,
    "staleness": 0.0,
    "advantage_error": 1e-7,
    "credit_error": 0.0,
    "return_error": 0.0,
    "value_error": 0.0,
    "sample_mismatch_rate": 0.0,
    "update_gain": 1.0,
    "limit_excess": 0.0,
    "observation_decode_mismatch_rate": 0.0,
    "weights_mismatch": 0.0,
    "observation_mismatch_rate": 0.0,
    "replay_observation_mismatch_rate": 0.0,
    "termination_mismatch_rate": 0.0,
    "replay_termination_mismatch_rate": 0.0,
    "lr": 1e-4,
    "lr_excess": 0.0,
    "schedule_factor": 1.0,
    "schedule_excess": 0.0,
    "tool_call_count": 100.0,
    "tool_error_rate": 0.0,
    "tool_unparsable_rate": 0.0,
    "regrade_count": 32.0,
    "trained_mismatch_rate": 0.0,
    "regrade_error_mean": 0.0,
}


def report_of_values(step: int, values: Mapping[str, float], rest: float = math.nan) -> StepReport:
    """A report of one step; what `values` does not name is `rest`."""
    return StepReport(StepId(0, step, step), step - 1, tuple(values.get(signal.name, rest) for signal in SIGNALS))


def make_report(step: int, **values: float) -> StepReport:
    """A report of one step, with the usual values where none is given."""
    unknown = set(values) - set(INDEX)
    assert not unknown, f"no such signal: {unknown}"
    return report_of_values(step, {**USUAL, **values})


def make_reports(first: int = 1, /, **series: Sequence[float]) -> list[StepReport]:
    """Reports from step `first` on: one series per signal, the usual values for all others."""
    rows = zip(*series.values(), strict=True)
    return [make_report(step, **dict(zip(series, row, strict=True))) for step, row in enumerate(rows, first)]


@lru_cache(maxsize=1)
def recorded_faults() -> dict[str, list[StepReport]]:
    """Reports of the runs in `data/*.csv` by the name of the run."""
    runs: dict[str, list[StepReport]] = {}
    for path in sorted(DATA.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                run, step = row.pop("run"), int(row.pop("step"))
                values = {name: float(text) if text else math.nan for name, text in row.items()}
                runs.setdefault(run, []).append(report_of_values(step, values))
    return runs


@lru_cache(maxsize=1)
def healthy_runs() -> list[list[StepReport]]:
    """Twenty healthy runs of one task, algorithm and size; profiles are fitted to the first `LEARNT`."""
    return [list(run.reports()) for run in recorded_runs(2)]


@lru_cache(maxsize=2)
def profile_of(count: int) -> Profile:
    """The profile that is fitted to so many healthy runs."""
    series = [series_of(run) for run in healthy_runs()[:count]]
    return fit_profile(series, None, shipped(NO_CRITIC).healthy)


@lru_cache(maxsize=3)
def reference(mode: Mode) -> Reference:
    """What a run is compared with in one mode; without a profile by the shipped priors alone."""
    profile = None if mode is Mode.NONE else profile_of(LEARNT[mode])
    made = reference_of(profile, shipped(NO_CRITIC))
    assert made.mode is mode
    return made


def view_of(reports: Sequence[StepReport], known: Reference = NO_REFERENCE) -> StepView:
    """All steps of a run in one view."""
    return StepViews(known).observe(*values_of(reports))


def tree(state: State) -> dict[str, Any]:
    """A state as nested dictionaries that a test may change; arrays are shared."""
    return {name: tree(value) if isinstance(value, Mapping) else value for name, value in state.items()}


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of chunks as those of all their steps."""
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in Scores.__slots__))


def assert_same(left: Scores, right: Scores, rounding: float = 0.0) -> None:
    """Equal bit for bit, or up to a relative error by rounding; NaN equals NaN."""
    for name in Scores.__slots__:
        one, other = getattr(left, name), getattr(right, name)
        if rounding and one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rounding, rounding, err_msg=name)
        else:
            np.testing.assert_array_equal(one, other, name)


class Watched:
    """A detector before the latch, as the monitor has it.

    Args:
        detector: fresh, or with a past of its own.
        known: what the run is compared with; without it, its views have neither levels nor residuals.
    """

    def __init__(self, detector: Detector, known: Reference | None = None) -> None:
        self.detector = detector
        self._latch = Latch(len(detector.outputs))
        self._views = None if known is None else StepViews(known)

    def observe(self, reports: Sequence[StepReport]) -> dict[int, list[Symptom]]:
        """Take the next steps at once; the symptoms of each step that has some."""
        steps, values = values_of(reports)
        if self._views is None:
            return self.see([StepView.without_residuals(steps, values)])
        return self.see(self._views.observe(steps, values).pieces())

    def see(self, pieces: Iterable[StepView]) -> dict[int, list[Symptom]]:
        """The same of pieces of views, which begin where the prompts have changed."""
        symptoms: dict[int, list[Symptom]] = {}
        for view in pieces:
            if view.prompts_changed[0]:
                self._latch.close(self.detector.forget(PROMPT_DEPENDENT, int(view.steps[0])))
            scores = self.detector.observe(view)
            is_open = self._latch.add(scores.score)
            for row in np.flatnonzero(is_open.any(1)).tolist():
                symptoms[int(view.steps[row])] = self._symptoms(view, scores, is_open, row)
        return symptoms

    def show(self, first: int = 1, /, **series: Sequence[float]) -> dict[int, list[Symptom]]:
        """The same of one series per signal, from step `first` on."""
        return self.observe(make_reports(first, **series))

    def _symptoms(self, view: StepView, scores: Scores, is_open: Mask, row: int) -> list[Symptom]:
        symptoms, step = list[Symptom](), int(view.steps[row])
        for output in np.flatnonzero(is_open[row]).tolist():
            value = float(view.values[row, INDEX[self.detector.signal_at(output, step)]])
            now = Reading(
                step, value, float(scores.reference[row, output]), float(scores.score[row, output]),
                int(scores.onset[row, output]),
            )  # fmt: skip
            symptoms.append(self.detector.symptom(output, self._latch.reading(output, now)))
        return symptoms

    def forget(self, signals: Collection[str], step: int) -> None:
        """A change was declared."""
        if self._views is not None:
            self._views.forget(tuple(signals))
        self._latch.close(self.detector.forget(signals, step))

    def settle(self, signals: Collection[str]) -> None:
        """Something has been done about some signals."""
        self._latch.close(self.detector.settle(signals))
