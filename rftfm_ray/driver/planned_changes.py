"""What is planned for the steps of a run: changes of its configuration, and benign twins that its own process brings
about."""

from __future__ import annotations

from rftfm_ray.actors.calls import wait_for
from rftfm_ray.actors.group import ActorGroup, replace_rollout
from rftfm_ray.config import made_changes
from rftfm_ray.driver.guard import Guard
from rftfm_ray.driver.session import Session
from rftfm_ray.faults.rewards import Exposure
from rftfm_ray.faults.truth import EffectWatch, entropy_exposures
from rftfm_ray.planning import RunPlan
from rftfm_ray.signals.effects import declared_change
from rftfm_ray.tasks.api import scaled_limits
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import Position
from rftfm_ray.verdicts import Declaration, DeclaredChange


class Course:
    """Makes what is due at the beginning of a step, and says what is made on purpose."""

    def __init__(
        self, planned: RunPlan, session: Session, group: ActorGroup, guard: Guard, records: RunRecords, digest: str
    ) -> None:
        self._planned = planned
        self._session = session
        self._group = group
        self._guard = guard
        self._records = records
        self._digest = digest
        self._effects = EffectWatch(planned.faults)

    def token_limit(self, step: int) -> int:
        """Tokens that the model may choose in a trajectory of a step, over all its turns."""
        task = self._planned.task
        return sum(scaled_limits(task.max_new_tokens, self._planned.config.at(step).task.token_scale))

    def begin(self, position: Position) -> None:
        """Make what is due at the step that leads to `position`, before anything is generated for it."""
        config, step = self._planned.config, position.id.step
        made = made_changes(config.at(step - 1), config.at(step))
        for change in made:
            self._records.event("declared", position.id, key=change.key, old=change.old, new=change.new)
        if made:
            self._guard.declare(Declaration(position.id, declared_change(made, step)))
        for twin in self._planned.twins:
            if twin.onset == position.id.paid_step and twin.name == "restart_rollout":
                self._restart_rollout()
            if twin.onset == position.id.paid_step and twin.name == "resume":
                self._resume(position)

    def end(self, position: Position, entropy: float) -> None:
        """Record the effects of faults that have begun with the step that has led to `position`."""
        if self._effects.waits:
            paid = position.id.paid_step
            exposures = self._exposures(position) + entropy_exposures(self._planned.faults, entropy)
            for effect in self._effects.observe(paid, exposures):
                self._records.event(
                    "fault_effect", position.id, code=effect.code, mechanism=effect.mechanism,
                    effect_step=effect.effect_step, amount=effect.amount,
                )  # fmt: skip

    def _exposures(self, position: Position) -> list[Exposure]:
        """What the rewards of a fire drill pay for, and how much of it the responses of the step hold."""
        asked = [actor.exposure.remote(position.id) for actor in self._group.rollouts]
        limit = self._planned.config.rollout.timeout_s
        found: list[list[Exposure]] = wait_for(asked, limit, "counting what is paid for")
        return [exposure for part in found for exposure in part]

    def _restart_rollout(self) -> None:
        planned = self._planned
        replace_rollout(
            self._group, 0, planned.name, planned.config, str(planned.facts.path), planned.task, planned.faults,
            planned.twins, planned.golden,
        )  # fmt: skip
        self._guard.regroup(self._group)
        self._session.move_levers(self._session.levers)
        self._session.resync()

    def _resume(self, position: Position) -> None:
        # Not among the run's checkpoints: one of this step may be there, and none of them is to be removed for it.
        saved = self._session.save(self._planned.folder / "twins", self._digest)
        self._session.resume(saved)
        self._session.resync()
        self._session.parity()
        stand = self._session.position.id
        self._records.event("resumed", stand, checkpoint=saved)
        reason = f"goes on from step {stand.step}"
        self._guard.declare(Declaration(position.id, DeclaredChange("resume", position.id.step, (), reason)))
