"""The monitor: the one assembly of detectors, for live runs, recorded runs and the logs of other trainers. Pure; numpy.

It turns step reports into views once, hands them to every detector, and makes alarms of their scores. What it watches
depends on what is known of healthy runs (the reference), never on where the reports come from.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.detectors.base import Detector, Reading, Scores
from rftfm_ray.detection.latch import Latch, Mask
from rftfm_ray.detection.reference.mixture import Reference, reference_of
from rftfm_ray.detection.reference.priors import CRITIC, NO_CRITIC, shipped
from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.reference.views import Floats, Ints, StepView, StepViews, values_of
from rftfm_ray.detection.state import State, check_keys, part_from
from rftfm_ray.detection.statefile import load_state, save_state
from rftfm_ray.detection.suite import MonitorSettings, build_detectors, monitor_settings
from rftfm_ray.errors import StateError
from rftfm_ray.signals.groups import PROMPT_DEPENDENT
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import DeclaredChange, Evidence, StepReport, Symptom

logger = logging.getLogger(__name__)

VIEWS = "views"
"""What works out residuals is called in `Observation.disabled`."""
CHUNK = 512
"""Steps that are judged at a time: memory stays small however long a log is."""
STATE_FILE = "monitor"


@dataclass(frozen=True, slots=True)
class EvidenceScores:
    """The largest score of any alarm at one step in units of its threshold, by the kind of its evidence; 0 for none."""

    telemetry: float = 0.0
    channel: float = 0.0
    identity: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """What the monitor makes of one step.

    Attributes:
        report: of the step.
        symptoms: that stand now, alarms and notices.
        scores: the largest score of any alarm, by evidence.
        disabled: detectors that were disabled since the last observation, and why.
    """

    report: StepReport
    symptoms: tuple[Symptom, ...]
    scores: EvidenceScores = EvidenceScores()
    disabled: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class MonitorPlan:
    """All that a monitor is made of, to be shipped by value and built where it works.

    Attributes:
        settings: how the run is watched.
        profile: healthy runs of its kind; None without.
        critic: whether the run's algorithm has a critic.
        detectors: of the user's.
        keep_every: steps between states that a rollback can go back to; 0 for none.
        keep: how many of them are kept.
    """

    settings: MonitorSettings
    profile: Profile | None = None
    critic: bool = False
    detectors: tuple[Detector, ...] = ()
    keep_every: int = 0
    keep: int = 0

    def build(self) -> Monitor:
        """A new monitor.

        Raises:
            ProfileError: when the profile or the installed priors are damaged.
        """
        reference = reference_of(self.profile, shipped(CRITIC if self.critic else NO_CRITIC))
        return Monitor(self.settings, reference, copy.deepcopy(self.detectors))


def monitor_plan(config: RunConfig, profile: Profile | None = None, detectors: Sequence[Detector] = ()) -> MonitorPlan:
    """The monitor that a run's configuration calls for, with the profile and the detectors that it names."""
    snapshots = config.snapshots
    return MonitorPlan(
        monitor_settings(config), profile, config.algorithm.name == "ppo", tuple(detectors), snapshots.every,
        snapshots.keep,
    )  # fmt: skip


class Monitor:
    """Watches one run.

    Args:
        settings: how it is watched.
        reference: what it is compared with.
        detectors: of the user's, beside those that `build_detectors` gives.
    """

    def __init__(self, settings: MonitorSettings, reference: Reference, detectors: Sequence[Detector] = ()) -> None:
        self._views: StepViews | None = StepViews(reference)
        found = [*build_detectors(settings, reference), *detectors]
        self._detectors = {detector.name: detector for detector in found}
        if len(self._detectors) < len(found):
            names = [detector.name for detector in found]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two detectors are called {twice!r}")
        self._latches = {name: Latch(len(detector.outputs)) for name, detector in self._detectors.items()}
        self._disabled: list[tuple[str, str]] = []

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the detectors that are at work."""
        return tuple(self._detectors)

    def observe(self, reports: Sequence[StepReport]) -> list[Observation]:
        """Judge the next steps, in their order. Their number changes no verdict."""
        found = list[Observation]()
        for start in range(0, len(reports), CHUNK):
            found += self._judge(reports[start : start + CHUNK])
        return found

    def declare(self, change: DeclaredChange) -> None:
        """A change was made on purpose: its signals lose their reference, and what was settled begins anew."""
        self._forget(change.signals, change.step)
        self._each(lambda detector: detector.settle(change.settled))

    def _judge(self, reports: Sequence[StepReport]) -> Iterator[Observation]:
        steps, values = values_of(reports)
        done = 0
        for view in self._viewed(steps, values):
            if view.prompts_changed[0]:
                # Nobody declared it, and it is no fault: what follows from the prompts has no reference any more.
                self._forget(PROMPT_DEPENDENT, int(view.steps[0]), views=False)
            yield from self._seen(reports[done : done + len(view)], view)
            done += len(view)

    def _viewed(self, steps: Ints, values: Floats) -> list[StepView]:
        if self._views is not None:
            try:
                return list(self._views.observe(steps, values).pieces())
            except Exception as error:  # noqa: BLE001 - whatever it is, what needs no reference goes on
                self._views = None
                self._say_disabled(VIEWS, error)
        return [StepView.without_residuals(steps, values)]

    def _seen(self, reports: Sequence[StepReport], view: StepView) -> Iterator[Observation]:
        scored = list[tuple[Detector, Scores, Mask]]()
        for name, detector in list(self._detectors.items()):
            try:
                scores = detector.observe(view)
                scored.append((detector, scores, self._latches[name].add(scores.score)))
            except Exception as error:  # noqa: BLE001 - a detector's failure must not end a run
                self._disable(name, error)
        standing: list[list[tuple[Detector, Scores, list[int]]]] = [[] for _ in reports]
        for detector, scores, opened in scored:
            for row in np.flatnonzero(opened.any(1)).tolist():
                standing[row].append((detector, scores, np.flatnonzero(opened[row]).tolist()))
        highest = _highest(scored, len(view))
        for row, report in enumerate(reports):
            symptoms = tuple(self._symptoms(standing[row], view, row))
            disabled, self._disabled = tuple(self._disabled), []
            yield Observation(report, symptoms, highest[row], disabled)

    def _symptoms(
        self, standing: Sequence[tuple[Detector, Scores, list[int]]], view: StepView, row: int
    ) -> Iterator[Symptom]:
        step = int(view.steps[row])
        for detector, scores, outputs in standing:
            for output in outputs:
                latch = self._latches.get(detector.name)
                if latch is None:
                    break
                try:
                    signal = detector.signal_at(output, step)
                    value = float(view.values[row, INDEX[signal]])
                    reference, score = float(scores.reference[row, output]), float(scores.score[row, output])
                    now = Reading(step, value, reference, score, int(scores.onset[row, output]))
                    yield detector.symptom(output, latch.reading(output, now))
                except Exception as error:  # noqa: BLE001 - as above
                    self._disable(detector.name, error)
                    break

    def _forget(self, signals: Collection[str], step: int, *, views: bool = True) -> None:
        if views and self._views is not None:
            try:
                self._views.forget(tuple(signals))
            except Exception as error:  # noqa: BLE001 - as above
                self._views = None
                self._say_disabled(VIEWS, error)
        self._each(lambda detector: detector.forget(signals, step))

    def _each(self, do: Callable[[Detector], Collection[int]]) -> None:
        """Ask every detector to begin something anew, and end the alarms that this ends."""
        for name, detector in list(self._detectors.items()):
            try:
                self._latches[name].close(do(detector))
            except Exception as error:  # noqa: BLE001 - as above
                self._disable(name, error)

    def _disable(self, name: str, error: Exception) -> None:
        if self._detectors.pop(name, None) is not None:
            del self._latches[name]
            self._say_disabled(name, error)

    def _say_disabled(self, name: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        logger.warning("detector %s is disabled: %s", name, reason)
        self._disabled.append((name, reason[:300]))

    def state_dict(self) -> State:
        """A copy of all that later verdicts depend on."""
        return {
            "views": {} if self._views is None else self._views.state_dict(),
            "detectors": {name: detector.state_dict() for name, detector in self._detectors.items()},
            "latches": {name: latch.state_dict() for name, latch in self._latches.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state. A detector that has been disabled since then stays so, for it would fail again.

        Raises:
            StateError: when it is not a state of such a monitor; then everything is as before.
        """
        before = self.state_dict()
        try:
            self._load(state)
        except StateError:
            self._load(before)
            raise

    def _load(self, state: State) -> None:
        check_keys(state, ("views", "detectors", "latches"))
        detectors, latches = part_from(state, "detectors"), part_from(state, "latches")
        for name, detector in self._detectors.items():
            detector.load_state_dict(part_from(detectors, name))
            self._latches[name].load_state_dict(part_from(latches, name))
        if self._views is not None:
            self._views.load_state_dict(part_from(state, "views"))

    def save(self, path: Path) -> None:
        """Write the state to a file, whole or not at all."""
        save_state(path, self.state_dict(), STATE_FILE)

    def load(self, path: Path) -> None:
        """Go on from a file that `save` has written.

        Raises:
            StateError: when it cannot be read, is damaged, or is the state of another monitor; names it and the fix.
        """
        try:
            self.load_state_dict(load_state(path, STATE_FILE))
        except StateError as error:
            raise StateError(f"{path} cannot be loaded: {error}") from None


def _highest(scored: Sequence[tuple[Detector, Scores, Mask]], rows: int) -> list[EvidenceScores]:
    """The largest score of any alarm at each step, by evidence; what stands unmeasured counts as just raised."""
    best = {evidence: np.zeros(rows) for evidence in Evidence}
    for detector, scores, opened in scored:
        known = np.where(np.isnan(scores.score), np.where(opened, 1.0, 0.0), scores.score)
        for evidence in Evidence:
            columns = [k for k, one in enumerate(detector.outputs) if one.alarm and one.evidence is evidence]
            if columns:
                best[evidence] = np.maximum(best[evidence], known[:, columns].max(1))
    kinds = (Evidence.TELEMETRY, Evidence.CHANNEL, Evidence.IDENTITY)
    return [EvidenceScores(*three) for three in zip(*(best[kind].tolist() for kind in kinds), strict=True)]
