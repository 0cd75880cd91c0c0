"""MonitorActor: a thin shell over detection and diagnosis. Holds the windows; sees reports, never a trajectory."""

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
        """One assessment for every report; a declaration counts from its place on, and is handed on in it."""
        self._gauge.set(ActorState.JUDGING)
        found = tuple(self._declare(item) if isinstance(item, Declaration) else self._assess(item) for item in items)
        self._gauge.set(ActorState.IDLE)
        return found

    def _declare(self, declaration: Declaration) -> Declaration:
        if declaration.id.attempt >= self._attempt:
            self._assessor.declare(declaration.change)
        return declaration

    def _assess(self, report: StepReport) -> Assessment:
        if report.id.attempt < self._attempt:
            # It is late: its attempt was ended by a rollback, so it does not belong to the lineage that is watched.
            return Assessment(report, None)
        self._newest = report.id.attempt
        return self._assessor.assess([report])[0]

    def changed(self, change: DeclaredChange, rewound_to: int | None) -> None:
        """Something was changed on purpose; with `rewound_to` the run has gone back to that step as well."""
        if rewound_to is not None:
            self._assessor.rewind(rewound_to)
            self._attempt = self._newest + 1
        self._assessor.declare(change)
