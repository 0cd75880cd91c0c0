"""MonitorActor: a thin shell over detection and diagnosis. It sees reports, and no trajectories."""

from __future__ import annotations

from collections.abc import Sequence

from rftfm_ray.actors.roles import Role, rename_process
from rftfm_ray.detection.monitor import MonitorPlan
from rftfm_ray.diagnosis.assessor import build_assessor
from rftfm_ray.telemetry.metrics import StateGauge
from rftfm_ray.types import ActorState
from rftfm_ray.verdicts import Assessment, Declaration, DeclaredChange, StepReport


class MonitorActor:
    """Judges step reports in their order."""

    def __init__(self, role: Role, plan: MonitorPlan) -> None:
        rename_process(role)
        self._role = role
        self._assessor = build_assessor(plan)
        self._attempt = self._newest = 0
        self._gauge = StateGauge(role.run, role.name)
        self._gauge.set(ActorState.IDLE)

    def __repr__(self) -> str:
        return repr(self._role)

    def assess(self, items: Sequence[StepReport | Declaration]) -> tuple[Assessment | Declaration, ...]:
        """One assessment for every report; a declaration takes effect at its position, and is passed on there."""
        self._gauge.set(ActorState.JUDGING)
        judged = tuple(self._declare(item) if isinstance(item, Declaration) else self._assess(item) for item in items)
        self._gauge.set(ActorState.IDLE)
        return judged

    def _declare(self, declaration: Declaration) -> Declaration:
        if declaration.id.attempt >= self._attempt:
            self._assessor.declare(declaration.change)
        return declaration

    def _assess(self, report: StepReport) -> Assessment:
        if report.id.attempt < self._attempt:
            # A late report: a rollback has ended its attempt, so it is not part of the watched lineage.
            return Assessment(report, None)
        self._newest = report.id.attempt
        return self._assessor.assess([report])[0]

    def changed(self, change: DeclaredChange, rewound_to: int | None) -> None:
        """Take a declared change; with `rewound_to` the run was also rolled back to that step."""
        if rewound_to is not None:
            self._assessor.rewind(rewound_to)
            self._attempt = self._newest + 1
        self._assessor.declare(change)
