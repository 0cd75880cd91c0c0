"""The monitor's judgement: reports in, assessments out, with windows that a rollback can rewind. Pure."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Sequence

from rftfm_ray.detection.battery import WatchSettings, battery
from rftfm_ray.detection.detectors import Detector
from rftfm_ray.diagnosis.classify import diagnose
from rftfm_ray.verdicts import Assessment, DeclaredChange, StepReport, Symptom

logger = logging.getLogger(__name__)


class Watch:
    """Runs the detectors over a run's reports and names what they find.

    Their state is kept at the steps at which the learner keeps snapshots, so that both can go back together.
    """

    def __init__(self, settings: WatchSettings, detectors: Sequence[Detector] | None = None) -> None:
        self._settings = settings
        self._detectors = list(battery(settings) if detectors is None else detectors)
        self._disabled: list[tuple[str, str]] = []
        self._kept: OrderedDict[int, list[Detector]] = OrderedDict()
        self._keep(0)

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the detectors that are at work."""
        return tuple(detector.name for detector in self._detectors)

    def assess(self, report: StepReport) -> Assessment:
        """Judge one report. A detector that raises is disabled, and the assessment says so once."""
        symptoms: list[Symptom] = []
        for detector in list(self._detectors):
            try:
                symptoms += detector.observe(report)
            except Exception as error:  # noqa: BLE001 - an evaluator's failure must not end a run
                self._disable(detector, f"{type(error).__name__}: {error}")
        if self._settings.keep_every and report.id.step % self._settings.keep_every == 0:
            self._keep(report.id.step)
        disabled, self._disabled = tuple(self._disabled), []
        return Assessment(report, diagnose(symptoms), disabled)

    def declare(self, change: DeclaredChange) -> None:
        """A change was made on purpose: its signals lose their reference, everything else is judged on."""
        for detector in list(self._detectors):
            try:
                detector.forget(change.signals, change.step)
                detector.settle(change.settled)
            except Exception as error:  # noqa: BLE001 - as above
                self._disable(detector, f"{type(error).__name__}: {error}")

    def rewind(self, step: int) -> None:
        """Go back to where the detectors stood after `step`, or at the newest kept step before it."""
        known = [kept for kept in self._kept if kept <= step]
        chosen = self._kept[max(known) if known else min(self._kept)]
        for later in [kept for kept in self._kept if kept > step]:
            del self._kept[later]
        names = set(self.active)
        self._detectors = [copy.deepcopy(d) for d in chosen if d.name in names]

    def _keep(self, step: int) -> None:
        self._kept[step] = copy.deepcopy(self._detectors)
        # One more than the learner keeps: its snapshot of a step is taken before the step is judged.
        while len(self._kept) > self._settings.keep + 1:
            self._kept.popitem(last=False)

    def _disable(self, detector: Detector, reason: str) -> None:
        logger.warning("detector %s is disabled: %s", detector.name, reason)
        self._detectors.remove(detector)
        self._disabled.append((detector.name, reason[:300]))
