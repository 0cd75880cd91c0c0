"""MonitorActor: a thin shell over detection and diagnosis. It sees reports, and no trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rftfm_ray.actors.roles import Role, keep_working, rename_process
from rftfm_ray.detection.monitor import MonitorPlan
from rftfm_ray.detection.state import check_keys, part_from, scalar_from
from rftfm_ray.detection.statefile import load_state, save_state
from rftfm_ray.diagnosis.assessor import build_assessor
from rftfm_ray.diagnosis.model import DiagnosisModel
from rftfm_ray.errors import StateError
from rftfm_ray.files import PRIVATE_DIR
from rftfm_ray.telemetry.metrics import StateGauge
from rftfm_ray.types import ActorState
from rftfm_ray.verdicts import Assessment, Declaration, DeclaredChange, StepReport

STATE_OWNER = "monitor actor"


class MonitorActor:
    """Judges step reports in their order."""

    def __init__(self, role: Role, plan: MonitorPlan, diagnosis: DiagnosisModel | None = None) -> None:
        rename_process(role)
        keep_working()
        self._role = role
        self._assessor = build_assessor(plan, diagnosis)
        self._attempt = self._newest = 0
        # Names of disabled detectors that were reported: a restored assessor reports them again.
        self._reported: set[str] = set()
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
        assessment = self._assessor.assess([report])[0]
        if not assessment.disabled:
            return assessment
        disabled = tuple((name, reason) for name, reason in assessment.disabled if name not in self._reported)
        self._reported |= {name for name, _ in disabled}
        return replace(assessment, disabled=disabled)

    def changed(self, change: DeclaredChange, rewound_to: int | None) -> None:
        """Take a declared change; with `rewound_to` the run was also rolled back to that step."""
        if rewound_to is not None:
            self._assessor.rewind(rewound_to)
            self._attempt = self._newest + 1
        self._assessor.declare(change)

    def ping(self) -> None:
        """Answer, as a sign of life."""

    def save(self, path: str) -> None:
        """Write everything that later assessments depend on to a file, atomically.

        Raises:
            StateError: when a part of it cannot be saved; then nothing is written.
        """
        target = Path(path)
        target.parent.mkdir(mode=PRIVATE_DIR, exist_ok=True)
        counts = {"attempt": self._attempt, "newest": self._newest}
        reported = dict.fromkeys(sorted(self._reported), True)
        save_state(target, {"assessor": self._assessor.state_dict(), **counts, "reported": reported}, STATE_OWNER)

    def load(self, path: str) -> None:
        """Continue from a file that `save` has written.

        Raises:
            StateError: when it cannot be read, is damaged, or is the state of something else; names it and the fix.
        """
        state = load_state(Path(path), STATE_OWNER)
        try:
            check_keys(state, ("assessor", "attempt", "newest", "reported"))
            attempt, newest = scalar_from(state, "attempt", int), scalar_from(state, "newest", int)
            reported = set(part_from(state, "reported"))
            self._assessor.load_state_dict(part_from(state, "assessor"))
        except StateError as error:
            raise StateError(f"{path} cannot be loaded: {error}") from None
        self._attempt, self._newest, self._reported = attempt, newest, reported
