"""What is carried out at a boundary: a decision of a policy that passed safety, or one of the framework's own. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rftfm_ray.types import Action, Levers


class OrderRole(StrEnum):
    """What an order is for: a policy's remedy, undoing one that did not help, a lever's way back, or the end."""

    REMEDY = "remedy"
    UNDO = "undo"
    RETURN = "return"
    HALT = "halt"


@dataclass(frozen=True, slots=True)
class Order:
    """A decision that passed safety, ready to be carried out at the next boundary.

    Attributes:
        number: counts the orders of a run; an order is carried out once.
        incident: id of the incident that it is for; 0 for none.
        role: what it is for.
        remedy: its name in journal, metrics and report.
        reason: why, in one sentence.
        levers: every lever as it is to stand afterwards.
        restore_step: snapshot to go back to, or None.
        skip_batches: batches of prompts to leave out after it.
        halt: end the run after a checkpoint.
        actions: what is done once, beside the levers.
        critic_step: snapshot that the critic's head goes back to, or None.
        quarantine_from: step from which on prompts are kept out for the rest of the run, or None.
    """

    number: int
    incident: int
    role: OrderRole
    remedy: str
    reason: str
    levers: Levers
    restore_step: int | None = None
    skip_batches: int = 0
    halt: bool = False
    actions: tuple[Action, ...] = ()
    critic_step: int | None = None
    quarantine_from: int | None = None

    @property
    def regenerates(self) -> bool:
        """Whether the trajectories of the step under way are made again: other weights have made those that are."""
        return Action.RESYNC in self.actions or Action.RESTART_ROLLOUT in self.actions

    @property
    def is_costly(self) -> bool:
        """Whether a probe is made first: for a remedy that gives up steps, stops learning, or ends the run."""
        costs = self.restore_step is not None or self.halt or self.levers.freeze_policy == 1
        return self.role is OrderRole.REMEDY and costs
