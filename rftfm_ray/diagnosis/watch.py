"""The monitor's judgement: reports in, assessments out, with windows that a rollback can rewind. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from rftfm_ray.detection.monitor import Monitor
from rftfm_ray.detection.state import State
from rftfm_ray.diagnosis.classify import diagnose
from rftfm_ray.verdicts import Assessment, DeclaredChange, StepReport


class Watch:
    """Runs a monitor over a run's reports and names what it finds.

    Its state is kept at the steps at which the learner keeps snapshots, so that both can go back together.
    """

    def __init__(self, monitor: Monitor, keep_every: int, keep: int) -> None:
        self._monitor = monitor
        self._keep_every, self._most = keep_every, keep
        self._kept: OrderedDict[int, State] = OrderedDict()
        self._keep(0)

    def assess(self, reports: Sequence[StepReport]) -> list[Assessment]:
        """Judge reports in their order."""
        found = []
        for report in reports:
            (seen,) = self._monitor.observe([report])
            if self._keep_every and report.id.step % self._keep_every == 0:
                self._keep(report.id.step)
            found.append(Assessment(report, diagnose(seen.symptoms), seen.disabled))
        return found

    def declare(self, change: DeclaredChange) -> None:
        """A change was made on purpose: its signals lose their reference, everything else is judged on."""
        self._monitor.declare(change)

    def rewind(self, step: int) -> None:
        """Go back to where the detectors stood after `step`, or at the newest kept step before it."""
        known = [kept for kept in self._kept if kept <= step]
        self._monitor.load_state_dict(self._kept[max(known) if known else min(self._kept)])
        for later in [kept for kept in self._kept if kept > step]:
            del self._kept[later]

    def _keep(self, step: int) -> None:
        self._kept[step] = self._monitor.state_dict()
        # One more than the learner keeps: its snapshot of a step is taken before the step is judged.
        while len(self._kept) > self._most + 1:
            self._kept.popitem(last=False)
