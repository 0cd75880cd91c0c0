"""The monitor: the detector suite over live runs, recorded runs and logs of other trainers. Pure; numpy.

It turns step reports into views once, gives them to every detector, and turns their scores into alarms. The detectors
depend on what is known of healthy runs (the reference), never on the source of the reports.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.detectors.base import Detector, Reading, Scores
from rftfm_ray.detection.latch import Latch, Mask
from rftfm_ray.detection.observed import Observation, Observed
from rftfm_ray.detection.reference.comparison import compare
from rftfm_ray.detection.reference.mixture import Reference, reference_of
from rftfm_ray.detection.reference.priors import CRITIC, NO_CRITIC, shipped
from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.reference.views import Floats, Ints, StepView, StepViews, values_of
from rftfm_ray.detection.state import State, check_keys, part_from, scalar_from
from rftfm_ray.detection.statefile import REMOVE, load_state, save_state
from rftfm_ray.detection.suite import MonitorSettings, build_detectors, monitor_settings
from rftfm_ray.errors import DetectorError, StateError
from rftfm_ray.signals.groups import PROMPT_DEPENDENT
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import DeclaredChange, Evidence, StepReport, Symptom

logger = logging.getLogger(__name__)
# By row, the detectors that failed there, and with what.
Failures = dict[int, list[tuple[str, Exception]]]

VIEWS = "views"
"""Name of the part that computes residuals, as `Observation.disabled` gives it."""
CHUNK = 512
"""Steps that are judged at a time, so that memory does not grow with the log."""
STATE_FILE = "monitor"


@dataclass(frozen=True, slots=True)
class MonitorPlan:
    """Everything that a monitor is built from; it is sent by value to the process that builds it.

    Attributes:
        settings: how the run is watched.
        profile: healthy runs of its kind; None without.
        critic: whether the run's algorithm has a critic.
        detectors: the user's own.
        keep_every: steps between states that a rollback can go back to; 0 for none.
        keep: number of states that are kept.
        moved: signals that the profile says nothing about, because the run has another configuration.
        reference: what the run is compared with, instead of the profile and the installed priors; None for those.
    """

    settings: MonitorSettings
    profile: Profile | None = None
    critic: bool = False
    detectors: tuple[Detector, ...] = ()
    keep_every: int = 0
    keep: int = 0
    moved: tuple[str, ...] = ()
    reference: Reference | None = None

    def build(self) -> Monitor:
        """A new monitor.

        Raises:
            ProfileError: when the profile or the installed priors are damaged.
            DetectorError: when two detectors have the same name.
        """
        reference = self.reference
        if reference is None:
            reference = reference_of(self.profile, shipped(CRITIC if self.critic else NO_CRITIC), self.moved)
        return Monitor(self.settings, reference, copy.deepcopy(self.detectors))


def monitor_plan(config: RunConfig, profile: Profile | None = None, detectors: Sequence[Detector] = ()) -> MonitorPlan:
    """The plan of the monitor for a run's configuration, with its profile and the user's detectors.

    The profile may be of runs of another configuration: what that moves is left out of it.
    """
    snapshots = config.snapshots
    return MonitorPlan(
        monitor_settings(config), profile, config.algorithm.name == "ppo", tuple(detectors), snapshots.every,
        snapshots.keep, () if profile is None else compare(profile, config).moved,
    )  # fmt: skip


class Monitor:
    """Watches one run.

    Args:
        settings: how it is watched.
        reference: what it is compared with.
        detectors: the user's own, in addition to the detector suite of `build_detectors`.
        shipped: False leaves out the detector suite.

    Raises:
        DetectorError: when two detectors have the same name, or one has that of the views.
    """

    def __init__(
        self,
        settings: MonitorSettings,
        reference: Reference,
        detectors: Sequence[Detector] = (),
        *,
        shipped: bool = True,
    ) -> None:
        self._views: StepViews | None = StepViews(reference)
        all_detectors = [*(build_detectors(settings, reference) if shipped else ()), *detectors]
        self._detectors = {detector.name: detector for detector in all_detectors}
        names = [VIEWS, *(detector.name for detector in all_detectors)]
        self._has_user_detectors = bool(detectors)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DetectorError(f"Two parts of the monitor are named {twice!r}; rename the one in guard.detectors.")
        # The detector output of each column of the latch, and the columns of each detector.
        self._outputs = [
            (detector.name, number) for detector in all_detectors for number in range(len(detector.outputs))
        ]
        ends = np.cumsum([len(detector.outputs) for detector in all_detectors]).tolist()
        self._columns = dict(zip(self._detectors, map(slice, [0, *ends], ends), strict=False))
        outputs = [output for detector in all_detectors for output in detector.outputs]
        self._alarms = {
            evidence: np.flatnonzero([output.alarm and output.evidence is evidence for output in outputs])
            for evidence in Evidence
        }
        self._latch = Latch(len(self._outputs))
        # Signals that settle once more after the next step.
        self._settling: tuple[str, ...] = ()
        self._disabled: dict[str, str] = {}
        self._unreported: list[tuple[str, str]] = []

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the detectors that are not disabled."""
        return tuple(self._detectors)

    @property
    def has_user_detectors(self) -> bool:
        """Whether it was given detectors of the user's, whose state may turn out to be one that cannot be saved."""
        return self._has_user_detectors

    def observe(self, reports: Sequence[StepReport]) -> list[Observation]:
        """Judge the next steps, in their order. The chunk size does not change the verdicts."""
        return [observation for observed in self.watch(reports) for observation in observed]

    def watch(self, reports: Sequence[StepReport]) -> Iterator[Observed]:
        """The same for a long log: its observations are made where they are asked for."""
        if self._settling and reports:
            first, reports = reports[:1], reports[1:]
            yield from self._judge(first)
            self._settle(self._settling)
            self._settling = ()
        for start in range(0, len(reports), CHUNK):
            yield from self._judge(reports[start : start + CHUNK])

    def declare(self, change: DeclaredChange) -> None:
        """Take a declared change: its signals lose their reference, and evidence against settled ones restarts at 0.

        It restarts again after the step under way, whose trajectories are older than the change: an alarm that they
        raise says nothing of a remedy, and may stay open for as many steps as a remedy is given.
        """
        self._forget(change.signals, change.step)
        self._settle(change.settled)
        self._settling = tuple(dict.fromkeys((*self._settling, *change.settled)))
        levers = change.levers
        if levers is not None:
            self._each(lambda detector: detector.adopt(levers))

    def _settle(self, signals: Collection[str]) -> None:
        self._each(lambda detector: detector.settle(signals))

    def _judge(self, reports: Sequence[StepReport]) -> Iterator[Observed]:
        steps, values = values_of(reports)
        done = 0
        for view in self._views_of(steps, values):
            if view.prompts_changed[0]:
                # An undeclared change of prompts is not a fault: signals that depend on them lose their reference.
                self._forget(PROMPT_DEPENDENT, int(view.steps[0]), views=False)
            yield from self._observed(reports[done : done + len(view)], view)
            done += len(view)

    def _views_of(self, steps: Ints, values: Floats) -> list[StepView]:
        if self._views is not None:
            try:
                return list(self._views.observe(steps, values).pieces())
            except Exception as error:  # noqa: BLE001 - detectors without a reference continue after any error
                self._disable(VIEWS, error)
        return [StepView.without_residuals(steps, values)]

    def _observed(self, reports: Sequence[StepReport], view: StepView) -> Iterator[Observed]:
        scores, failures = self._score(view)
        if not failures:
            yield self._latched(reports, view, scores)
            return
        # A detector is disabled at the step at which it failed: what it said before stands.
        for first, end in itertools.pairwise((*sorted({0, *failures}), len(reports))):
            for name, error in failures.get(first, ()):
                self._disable(name, error)
            yield self._latched(reports[first:end], view.part(slice(first, end)), scores.part(slice(first, end)))

    def _latched(self, reports: Sequence[StepReport], view: StepView, scores: Scores) -> Observed:
        is_open = self._latch.add(scores.score)
        highest = self._highest(scores.score, is_open)
        alarmed = np.flatnonzero(is_open.any(1)).tolist()
        symptoms, disabled = dict[int, tuple[Symptom, ...]](), dict[int, tuple[tuple[str, str], ...]]()
        # What was disabled before is said at the first row, whether or not it has an alarm.
        for row in dict.fromkeys([0, *alarmed]) if len(reports) else ():
            if is_open[row].any():
                symptoms[row] = tuple(self._symptoms(scores, view, row, is_open[row]))
            if self._unreported:
                disabled[row], self._unreported = tuple(self._unreported), []
        return Observed(reports, view, highest, symptoms, disabled)

    def _score(self, view: StepView) -> tuple[Scores, Failures]:
        """Scores (N, outputs) of all detectors; NaN for those that are disabled, and from where they fail."""
        scores, failures = Scores.quiet(view, len(self._latch)), Failures()
        scores.score[:] = math.nan
        for name, detector in self._detectors.items():
            columns = self._columns[name]
            for rows, part in _shown_at_once(detector, view):
                try:
                    with np.errstate(all="ignore"):
                        self._insert(scores, rows, columns, detector.observe(part))
                except Exception as error:  # noqa: BLE001 - a detector's failure must not end a run
                    scores.score[rows, columns] = math.nan
                    failures.setdefault(rows.start, []).append((name, error))
                    break
        return scores, failures

    def _insert(self, scores: Scores, rows: slice, columns: slice, own: Scores) -> None:
        if not isinstance(own, Scores):
            raise TypeError(f"it observed a {type(own).__name__}, not Scores")
        wanted = rows.stop - rows.start, columns.stop - columns.start
        for table, part in ((scores.score, own.score), (scores.onset, own.onset), (scores.reference, own.reference)):
            if np.shape(part) != wanted:
                raise ValueError(f"its scores have shape {np.shape(part)}, and steps and outputs {wanted}")
            table[rows, columns] = part

    def _highest(self, score: Floats, is_open: Mask) -> Floats:
        """The largest score (N, 4) of any alarm, by evidence; an open alarm without a score counts as 1."""
        known = np.where(np.isnan(score), is_open, score)
        return np.stack([known[:, columns].max(1, initial=0.0) for columns in self._alarms.values()], axis=1)

    def _symptoms(self, scores: Scores, view: StepView, row: int, is_open: Mask) -> Iterator[Symptom]:
        step = int(view.steps[row])
        for column in np.flatnonzero(is_open).tolist():
            name, output = self._outputs[column]
            detector = self._detectors.get(name)
            if detector is None:
                continue
            try:
                value = float(view.values[row, INDEX[detector.signal_at(output, step)]])
                reference, score = float(scores.reference[row, column]), float(scores.score[row, column])
                now = Reading(step, value, reference, score, int(scores.onset[row, column]))
                yield detector.symptom(output, self._latch.reading(column, now))
            except Exception as error:  # noqa: BLE001 - as above
                self._disable(name, error)

    def _forget(self, signals: Collection[str], step: int, *, views: bool = True) -> None:
        if views and self._views is not None:
            try:
                self._views.forget(tuple(signals))
            except Exception as error:  # noqa: BLE001 - as above
                self._disable(VIEWS, error)
        self._each(lambda detector: detector.forget(signals, step))

    def _each(self, restart: Callable[[Detector], Collection[int]]) -> None:
        """Restart part of every detector, and close the alarms that this ends."""
        for name, detector in list(self._detectors.items()):
            try:
                columns, outputs = self._columns[name], restart(detector)
                # An output that does not exist raises here, so that no other detector's alarm is closed.
                self._latch.close([range(columns.start, columns.stop)[output] for output in outputs])
            except Exception as error:  # noqa: BLE001 - as above
                self._disable(name, error)

    def _disable(self, name: str, error: Exception) -> None:
        kind = "" if isinstance(error, DetectorError) else f"{type(error).__name__}: "
        self._drop(name, f"{kind}{' '.join(str(error).split())}"[:300])

    def _drop(self, name: str, reason: str) -> None:
        if name in self._disabled:
            return
        logger.warning("detector %s is disabled: %s", name, reason)
        self._disabled[name] = reason
        self._unreported.append((name, reason))
        if name == VIEWS:
            self._views = None
            for dependent in [detector.name for detector in self._detectors.values() if detector.needs_views]:
                self._drop(dependent, "it judges levels and residuals, which are no longer computed")
            return
        del self._detectors[name]
        columns = self._columns[name]
        self._latch.close(range(columns.start, columns.stop))

    def state_dict(self) -> State:
        """A copy of everything that later verdicts depend on."""
        parts: dict[str, State] = {}
        for name, part in [(VIEWS, self._views), *self._detectors.items()]:
            if part is None:
                continue
            try:
                parts[name] = part.state_dict()
            except Exception as error:  # noqa: BLE001 - as above
                self._disable(name, error)
        settling = dict.fromkeys(self._settling, True)
        return {
            "parts": parts, "latch": self._latch.state_dict(), "disabled": dict(self._disabled), "settling": settling,
        }  # fmt: skip

    def load_state_dict(self, state: State) -> None:
        """Continue from a state. A detector that is disabled here or in the state stays disabled: it would fail again.

        Raises:
            StateError: when it is not a state of such a monitor; this monitor is then unchanged.
        """
        before, loaded = self.state_dict(), False
        try:
            self._load(state)
            loaded = True
        finally:
            if not loaded:
                self._load(before)

    def _load(self, state: State) -> None:
        check_keys(state, ("parts", "latch", "disabled", "settling"))
        parts, disabled = part_from(state, "parts"), part_from(state, "disabled")
        reasons = {name: scalar_from(disabled, name, str) for name in disabled}
        check_keys({**parts, **disabled}, (VIEWS, *self._columns))
        both = set(parts) & set(disabled)
        if both:
            raise StateError(f"The saved state has {min(both)!r} both disabled and active.")
        own = {VIEWS: self._views, **self._detectors}
        for name, part in own.items():
            if part is not None and name in parts:
                part.load_state_dict(part_from(parts, name))
        self._latch.load_state_dict(part_from(state, "latch"))
        self._settling = tuple(part_from(state, "settling"))
        for name, reason in reasons.items():
            self._drop(name, reason)
        for name in self._disabled:
            if name != VIEWS:
                self._latch.close(range(self._columns[name].start, self._columns[name].stop))

    def save(self, path: Path) -> None:
        """Write the state to a file atomically."""
        save_state(path, self.state_dict(), STATE_FILE)

    def load(self, path: Path) -> None:
        """Continue from a file that `save` has written.

        Raises:
            StateError: when it cannot be read, is damaged, or is the state of another monitor; names it and the fix.
        """
        state = load_state(path, STATE_FILE)
        try:
            self.load_state_dict(state)
        except StateError as error:
            raise StateError(f"{path} is not a state of this monitor ({str(error).rstrip('.')}); {REMOVE}.") from None


def _shown_at_once(detector: Detector, view: StepView) -> Iterable[tuple[slice, StepView]]:
    """The steps in the portions in which a detector is shown them, with their rows."""
    if not detector.step_by_step:
        return ((slice(0, len(view)), view),)
    return ((rows, view.part(rows)) for rows in (slice(row, row + 1) for row in range(len(view))))
