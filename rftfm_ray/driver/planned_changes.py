"""Planned changes of a run: those of its configuration, and fault injection in the driver's own process."""

from __future__ import annotations

from rftfm_ray.config import made_changes
from rftfm_ray.detection.reference.comparison import assumptions, compare
from rftfm_ray.driver.guard import Guard
from rftfm_ray.driver.session import Session
from rftfm_ray.planning import RunPlan
from rftfm_ray.signals.effects import declared_change
from rftfm_ray.tasks.api import scaled_limits
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import StepId, TrainingCursor
from rftfm_ray.verdicts import ASSUMED_PROFILE, OTHER_PROFILE, Declaration, DeclaredChange


def declare_profile(plan: RunPlan, guard: Guard, step: StepId) -> None:
    """Declare at the start what the profile says nothing about, and what is believed of it: journal and report say it.

    No signal loses its reference by that: the monitor was built without them.
    """
    if plan.profile is None:
        return
    comparison = compare(plan.profile, plan.config)
    if comparison.differences:
        reason = f"the profile was {comparison}"
        guard.declare(Declaration(step, DeclaredChange(OTHER_PROFILE, step.step, (), reason)))
    assumed = assumptions(plan.profile, plan.config)
    if assumed:
        reason = f"the profile {', and '.join(assumed)}"
        guard.declare(Declaration(step, DeclaredChange(ASSUMED_PROFILE, step.step, (), reason)))


class PlannedChanges:
    """Makes the changes that are due at the beginning of a step, and declares the deliberate ones."""

    def __init__(self, plan: RunPlan, session: Session, guard: Guard, records: RunRecords) -> None:
        self._plan = plan
        self._session = session
        self._guard = guard
        self._records = records
        self._effects = plan.drill.effects()

    def token_limit(self, step: int) -> int:
        """Tokens that the model may choose in a trajectory of a step, over all its turns."""
        scale = self._plan.config.at(step).task.token_scale
        return sum(scaled_limits(self._plan.task.max_new_tokens, scale))

    def begin(self, position: TrainingCursor) -> None:
        """Make the changes that are due at the step of `position`, before its generation."""
        config, step = self._plan.config, position.id.step
        changes = made_changes(config.at(step - 1), config.at(step))
        for change in changes:
            self._records.event("declared", position.id, key=change.key, old=change.old, new=change.new)
        if changes:
            self._guard.declare(Declaration(position.id, declared_change(changes, step)))
        self._plan.drill.before_step(
            position.id.paid_step, self._session.restart_rollout, lambda: self._resume(position)
        )

    def end(self, position: TrainingCursor, entropy: float) -> None:
        """Record the effects of faults that have begun at the step of `position`."""
        if self._effects.waits:
            paid_step, exposures = position.id.paid_step, self._session.exposures(position.id)
            for effect in self._effects.observe(paid_step, exposures, entropy):
                self._records.event(
                    "fault_effect", position.id, code=effect.code, mechanism=effect.mechanism,
                    effect_step=effect.effect_step, amount=effect.amount,
                )  # fmt: skip

    def _resume(self, position: TrainingCursor) -> None:
        # In its own folder: the run may have a checkpoint of this step, and pruning must not remove others for it.
        saved = self._session.save(self._plan.folder / "controls")
        self._session.resume(saved)
        self._session.resync()
        self._session.parity()
        now = self._session.position.id
        self._records.event("resumed", now, checkpoint=saved)
        reason = f"goes on from step {now.step}"
        self._guard.declare(Declaration(position.id, DeclaredChange("resume", position.id.step, (), reason)))
