"""The monitor's judgement: reports in, assessments out, with windows that a rollback can rewind. Pure."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Sequence

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.reference.residuals import Prompts, Usual, levels_of
from rftfm_ray.detection.suite import WatchSettings, battery
from rftfm_ray.diagnosis.classify import diagnose
from rftfm_ray.signals.groups import FOLLOWING
from rftfm_ray.verdicts import Assessment, DeclaredChange, StepReport, Symptom

logger = logging.getLogger(__name__)

PROMPTS = "prompts_changed"
"""What notices that nobody's prompts are those of the profile is called in `Assessment.disabled`."""


class Watch:
    """Runs the detectors over a run's reports and names what they find.

    Their state is kept at the steps at which the learner keeps snapshots, so that both can go back together.
    """

    def __init__(self, settings: WatchSettings, detectors: Sequence[Detector] | None = None) -> None:
        self._settings = settings
        self._detectors = list(battery(settings) if detectors is None else detectors)
        self._prompts = None if settings.profile is None else Prompts(Usual(settings.profile))
        self._disabled: list[tuple[str, str]] = []
        self._kept: OrderedDict[int, tuple[list[Detector], Prompts | None]] = OrderedDict()
        self._keep(0)

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the detectors that are at work."""
        return tuple(detector.name for detector in self._detectors)

    def assess(self, report: StepReport) -> Assessment:
        """Judge one report. A detector that raises is disabled, and the assessment says so once."""
        if self._prompts_changed(report):
            # Nobody has declared it, and it is no fault: what follows from the prompts has no reference any more.
            self._forget(FOLLOWING, report.id.step)
        symptoms: list[Symptom] = []
        for detector in list(self._detectors):
            try:
                symptoms += detector.observe(report)
            except Exception as error:  # noqa: BLE001 - an evaluator's failure must not end a run
                self._disable(detector, error)
        if self._settings.keep_every and report.id.step % self._settings.keep_every == 0:
            self._keep(report.id.step)
        disabled, self._disabled = tuple(self._disabled), []
        return Assessment(report, diagnose(symptoms), disabled)

    def declare(self, change: DeclaredChange) -> None:
        """A change was made on purpose: its signals lose their reference, everything else is judged on."""
        if self._prompts is not None:
            try:
                self._prompts.forget(change.signals)
            except Exception as error:  # noqa: BLE001 - as below
                self._without_prompts(error)
        self._forget(change.signals, change.step, change.settled)

    def _prompts_changed(self, report: StepReport) -> bool:
        if self._prompts is None:
            return False
        try:
            return self._prompts.add(report.id.step, levels_of(report.values))[1]
        except Exception as error:  # noqa: BLE001 - an evaluator's failure must not end a run
            self._without_prompts(error)
            return False

    def _without_prompts(self, error: Exception) -> None:
        self._prompts = None
        self._say_disabled(PROMPTS, error)

    def _forget(self, signals: Sequence[str], step: int, settled: Sequence[str] = ()) -> None:
        for detector in list(self._detectors):
            try:
                detector.forget(signals, step)
                detector.settle(settled)
            except Exception as error:  # noqa: BLE001 - as above
                self._disable(detector, error)

    def rewind(self, step: int) -> None:
        """Go back to where the detectors stood after `step`, or at the newest kept step before it."""
        known = [kept for kept in self._kept if kept <= step]
        chosen, prompts = self._kept[max(known) if known else min(self._kept)]
        for later in [kept for kept in self._kept if kept > step]:
            del self._kept[later]
        names = set(self.active)
        self._detectors = [copy.deepcopy(d) for d in chosen if d.name in names]
        # Once disabled it stays so: what was kept before the failure would fail again.
        self._prompts = None if self._prompts is None else copy.deepcopy(prompts)

    def _keep(self, step: int) -> None:
        self._kept[step] = copy.deepcopy((self._detectors, self._prompts))
        # One more than the learner keeps: its snapshot of a step is taken before the step is judged.
        while len(self._kept) > self._settings.keep + 1:
            self._kept.popitem(last=False)

    def _disable(self, detector: Detector, error: Exception) -> None:
        self._detectors.remove(detector)
        self._say_disabled(detector.name, error)

    def _say_disabled(self, name: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        logger.warning("detector %s is disabled: %s", name, reason)
        self._disabled.append((name, reason[:300]))
