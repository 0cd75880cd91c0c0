"""Detectors of laws and floors: one for each, as for identities. Pure; numpy.

A law needs no reference: a break is an alarm of its step. It goes by what configuration and levers declare, so that a
lever which takes it out of force closes its alarm.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, replace
from typing import ClassVar

import numpy as np

from rftfm_ray.config.declared import Declared, DeclaredCourse, declared_at
from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores
from rftfm_ray.detection.detectors.exact import onsets
from rftfm_ray.detection.laws.base import Law, Mask, Strength
from rftfm_ray.detection.laws.floors import ROWS as FLOOR_ROWS
from rftfm_ray.detection.laws.floors import Floor
from rftfm_ray.detection.laws.own_reward import (
    PARTS,
    ROWS,
    TOLERANCE,
    OwnRewardLaw,
    described,
    learn_own_reward,
)
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.detection.state import State
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.errors import StateError
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Evidence, Symptom

LAW, FLOOR = "law", "floor"
"""What the names of these detectors begin with."""
OWN_REWARD = "own_reward"
"""The law of rewards that a run shows by itself."""
FIRST_LEVERS = 18
"""Levers of the oldest states that are read; later ones are behind them."""
_LEVERS = tuple(item.name for item in fields(Levers))
_WHOLE = tuple(item.name for item in fields(Levers) if "int" in str(item.type))


class DeclaredDetector(Detector):
    """A detector that goes by what is declared: it follows the levers, and splits steps where a declaration changes.

    Args:
        course: what is declared for every part of the run; empty where nothing is.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {"_levers": Kind.ANY_ARRAY, "_since": Kind.INT}

    def __init__(self, course: DeclaredCourse) -> None:
        self._course = course
        self._levers = np.full(len(_LEVERS), np.nan)
        self._since = 0
        # Follows from the course and the levers: no part of the state.
        self._under: DeclaredCourse | None = None

    def adopt(self, levers: Levers) -> Collection[int]:
        """Go by these levers from the next step on; what the law says of earlier steps is over."""
        moved = np.array([math.nan if (value := getattr(levers, name)) is None else value for name in _LEVERS], float)
        if np.array_equal(moved, self._levers, equal_nan=True):
            return ()
        self._levers, self._under = moved, None
        self._since = 0
        return range(len(self.outputs))

    def observe(self, view: StepView) -> Scores:
        """Scores of the steps, by part of what is declared."""
        scores = Scores.quiet(view, len(self.outputs))
        with np.errstate(all="ignore"):
            if len(self._course) <= 1 and len(view):
                # The usual run, step by step: nothing to split.
                self._judge(view, declared_at(self._in_force(), int(view.steps[0])), scores)
            else:
                for rows, declared in self._parts(view):
                    self._judge(view.part(rows), declared, scores.part(rows))
        return scores

    @abstractmethod
    def _judge(self, view: StepView, declared: Declared | None, scores: Scores) -> None:
        """Fill in the scores of steps under one declaration."""

    def _parts(self, view: StepView) -> Iterator[tuple[slice, Declared | None]]:
        starts = {int(np.searchsorted(view.steps, first)) for first, _ in self._course}
        bounds = sorted({0, *(start for start in starts if 0 < start < len(view)), len(view)})
        for first, end in itertools.pairwise(bounds):
            yield slice(first, end), declared_at(self._in_force(), int(view.steps[first]))

    def _in_force(self) -> DeclaredCourse:
        """What is declared under the levers in force."""
        if self._under is None:
            levers = Levers(**{
                name: None if math.isnan(value) else (int(value) if name in _WHOLE else value)
                for name, value in zip(_LEVERS, self._levers.tolist(), strict=True)
            })  # fmt: skip
            self._under = tuple((first, declared.under(levers)) for first, declared in self._course)
        return self._under

    def load_state_dict(self, state: State) -> None:
        """Continue from a state, under its levers. Those that a state from before them does not know are nominal.

        Raises:
            StateError: when it is not a state of such a detector.
        """
        before, known = self._levers, state.get("levers")
        if isinstance(known, np.ndarray) and known.dtype == before.dtype and FIRST_LEVERS <= known.size < before.size:
            unknown = np.full(before.size - known.size, np.nan)
            state = {**state, "levers": np.concatenate([known.reshape(-1), unknown])}
        super().load_state_dict(state)
        self._under = None
        if np.isinf(self._levers).any():
            self._levers = before
            raise StateError(f"{type(self).__name__}.levers of the saved state has values that are not finite.")

    def _date(self, broken: Mask, measured: Mask, view: StepView, scores: Scores) -> None:
        """Onsets of breaks (N): a break goes on from one measured step to the next."""
        if not broken.any():
            self._since = 0 if measured.any() else self._since
            return
        rows = np.flatnonzero(measured)
        first, self._since = onsets(broken[rows], view.steps[rows], self._since)
        scores.onset[rows] = first[:, None]

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Restart: it must be seen broken again."""
        if not any(output.signal in signals for output in self.outputs):
            return ()
        self._since = 0
        return range(len(self.outputs))


class LawDetector(DeclaredDetector):
    """One law over a run."""

    STATE: ClassVar[Mapping[str, Kind]] = {**DeclaredDetector.STATE, "_last": Kind.ANY_FLOAT}

    def __init__(self, law: Law, course: DeclaredCourse) -> None:
        super().__init__(course)
        self.name = f"{LAW}:{law.name}"
        self.outputs = tuple(Output(law.signal, each, Evidence.LAW) for each in law.directions)
        self._law = law
        self._measured: dict[int, float] = {}
        self._last = math.nan

    def observe(self, view: StepView) -> Scores:
        """Infinite where the law is broken, 0 where it holds or need not, NaN where it says nothing of a step."""
        self._measured = {}
        return super().observe(view)

    def _judge(self, view: StepView, declared: Declared | None, scores: Scores) -> None:
        if declared is None or not self._law.applies(declared):
            self._since = 0
            return
        residual = self._law.residuals(view, declared)
        excess = self._law.excess(residual, view)
        unknown = np.isnan(residual)
        scores.score[unknown] = math.nan
        scores.reference[:] = (view.value(self._law.signal) - residual)[:, None]
        broken = np.zeros(len(view), bool)
        for column, output in enumerate(self.outputs):
            beyond = output.direction * excess > 1
            scores.score[beyond, column] = math.inf
            broken |= beyond
        self._date(broken, ~unknown, view, scores)
        self._measure(self._law.strength, broken, view, declared)

    def _measure(self, strength: Strength | None, broken: Mask, view: StepView, declared: Declared) -> None:
        if strength is None or not broken.any():
            return
        sizes = strength.measure(view, declared)
        for row in np.flatnonzero(broken).tolist():
            self._last = float(sizes[row])
            self._measured[int(view.steps[row])] = self._last

    def reason(self, output: int, reading: Reading) -> str:
        """What a break means, the value that shows it, what the law gives for it, and how strong the break is."""
        del output
        law = self._law
        said = f"{law.meaning} ({law.signal} is {reading.value:.4g}, and the law gives {reading.reference:.4g}"
        size = self._strength_at(reading.step)
        return f"{said})" if size is None or law.strength is None else f"{said}: {law.strength.what} {size:.3g})"

    def symptom(self, output: int, reading: Reading) -> Symptom:
        """The symptom, with the strength that the law measures."""
        return replace(super().symptom(output, reading), strength=self._strength_at(reading.step))

    def _strength_at(self, step: int) -> float | None:
        # A break that was last measured in an earlier chunk is the last one of all.
        size = self._measured.get(step, self._last)
        return size if self._law.strength is not None and math.isfinite(size) else None


class OwnRewardDetector(DeclaredDetector):
    """The law of rewards that a run shows in its first steps, where nobody declares one."""

    STATE: ClassVar[Mapping[str, Kind]] = {**DeclaredDetector.STATE, "_seen": Kind.ANY_ROWS}
    name = f"{LAW}:{OWN_REWARD}"
    outputs = (Output("reward_mean", 1, Evidence.LAW), Output("reward_mean", -1, Evidence.LAW))

    def __init__(self, course: DeclaredCourse) -> None:
        super().__init__(course)
        self._seen = np.zeros((0, 1 + len(PARTS)))
        # Follows from the rows that were seen, and is worked out once: no part of the state.
        self._fit: tuple[OwnRewardLaw | None] | None = None

    def _judge(self, view: StepView, declared: Declared | None, scores: Scores) -> None:
        if declared is not None and (declared.reward is not None or declared.reward_replaced):
            self._since = 0
            return
        table = np.stack([view.value(name) for name in ("reward_mean", *PARTS)], axis=1)
        known = np.flatnonzero(np.isfinite(table[:, 0]))
        missing = max(0, ROWS - len(self._seen))
        if missing:
            self._seen, self._fit = np.concatenate([self._seen, table[known[:missing]]]), None
        law = self._learnt() if len(self._seen) == ROWS else None
        scores.score[:] = math.nan
        later = known[missing:]
        if law is None or not len(later):
            return
        reward = table[later, 0]
        gap = law.residuals(reward, table[later, 1:])
        excess = gap / (TOLERANCE * np.maximum(1.0, np.abs(reward)))
        for column, output in enumerate(self.outputs):
            judged = np.where(np.isnan(gap), math.nan, 0.0)
            scores.score[later, column] = np.where(output.direction * excess > 1, math.inf, judged)
        scores.reference[later] = (reward - gap)[:, None]
        broken, measured = np.zeros(len(view), bool), np.zeros(len(view), bool)
        broken[later], measured[later] = np.abs(excess) > 1, ~np.isnan(gap)
        self._date(broken, measured, view, scores)

    def _learnt(self) -> OwnRewardLaw | None:
        if self._fit is None:
            self._fit = (learn_own_reward(self._seen[:, 0], self._seen[:, 1:]),)
        return self._fit[0]

    def load_state_dict(self, state: State) -> None:
        """Continue from a state, with the law that its rows show.

        Raises:
            StateError: when it is not a state of such a detector.
        """
        super().load_state_dict(state)
        self._fit = None

    def reason(self, output: int, reading: Reading) -> str:
        """The law as it was learnt, and how far the reward is from it."""
        del output
        law = self._learnt()
        rule = "a linear function of logged figures" if law is None else described(law, PARTS)
        return (
            f"the mean reward is {reading.value:.4g}, and {reading.reference:.4g} by the rule of its first {ROWS} "
            f"steps, which was exact: {rule}"
        )

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Learn the law again: what the reward is made of may have changed."""
        del step
        if "reward_mean" not in signals:
            return ()
        self._seen, self._since, self._fit = self._seen[:0], 0, None
        return range(len(self.outputs))


class FloorDetector(DeclaredDetector):
    """One floor over a run: what its first steps show, times a factor, bounded by what is declared."""

    STATE: ClassVar[Mapping[str, Kind]] = {**DeclaredDetector.STATE, "_largest": Kind.FLOAT, "_count": Kind.INT}

    def __init__(self, floor: Floor, course: DeclaredCourse) -> None:
        super().__init__(course)
        self.name = f"{FLOOR}:{floor.law.name}"
        self.outputs = tuple(Output(floor.law.signal, each, Evidence.TELEMETRY) for each in floor.law.directions)
        self._floor = floor
        self._largest, self._count = 0.0, 0

    def _judge(self, view: StepView, declared: Declared | None, scores: Scores) -> None:
        law = self._floor.law
        if declared is None or not law.applies(declared):
            self._since = 0
            return
        residual = law.residuals(view, declared)
        size = np.maximum(1.0, np.abs(view.value(law.signal)))
        rows = np.flatnonzero(np.isfinite(residual))
        known = self._floor.known(view, declared)
        relative = residual / size
        limits = np.full(len(view), np.nan)
        for row in rows.tolist():
            learnt = self._largest if self._count >= FLOOR_ROWS else math.nan
            limits[row] = self._floor.limit(learnt, known[row])
            # A step that is beyond what is known to be too much shows no floor.
            if self._count < FLOOR_ROWS and not abs(relative[row]) > limits[row]:
                self._largest, self._count = max(self._largest, abs(float(relative[row]))), self._count + 1
        scores.score[:] = math.nan
        share = relative[rows] / limits[rows]
        for column, output in enumerate(self.outputs):
            # Nothing is an alarm before there is a limit, and an alarm is over once the figure is below it.
            beyond = output.direction * share
            scores.score[rows, column] = np.where(beyond > 1, beyond, 0.0)
        scores.reference[:] = (view.value(law.signal) - residual)[:, None]
        broken, judged = np.zeros(len(view), bool), np.zeros(len(view), bool)
        broken[rows], judged[rows] = scores.score[rows].max(axis=1) > 1, True
        self._date(broken, judged, view, scores)

    def reason(self, output: int, reading: Reading) -> str:
        """What lies beyond the floor."""
        law = self._floor.law
        return (
            f"{law.meaning}: {self.outputs[output].signal} is {reading.value:.3g}, {reading.score:.3g} times the limit "
            f"that this run's own noise and its configuration leave"
        )

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Learn the floor again."""
        del step
        if self._floor.law.signal not in signals:
            return ()
        self._largest, self._count, self._since = 0.0, 0, 0
        return range(len(self.outputs))
