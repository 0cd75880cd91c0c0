"""Carries out the guard's orders with the run's session: levers, and the rollback as one transaction.

A rollback restores everything that determines the next step (model, optimizer, schedule, gate, data cursor,
detector windows), raises attempt and model version, sends the weights to every rollout actor and probes parity.
Training continues only after that. Records of the abandoned attempt stay on disk until retention removes them.
"""

from __future__ import annotations

import contextlib
import math
import time

from rftfm_ray.driver.guard import Guard
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import GuardHaltError, GuardLostError, GuardPausedError, RftfmError
from rftfm_ray.incidents.messages import OrderResult
from rftfm_ray.incidents.orders import Order
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import Action, StepId

RESTARTS = {Action.RESTART_ROLLOUT, Action.RESTART_LEARNER}
# Times that weights are sent before it is left to what judges the remedy.
MOST_SENDS = 3


class RemedyExecutor:
    """Executes orders: the guard confirms and journals an order before it is carried out, and journals its result."""

    def __init__(self, session: Session, guard: Guard, records: RunRecords, probe_size: int) -> None:
        self._session = session
        self._guard = guard
        self._records = records
        self._probe_size = probe_size

    def order_at(self, step: StepId) -> Order | None:
        """The order for the boundary before the update of `step`, if any; what the guard asks for is passed on.

        Raises:
            GuardLostError: when the guard is lost and the run must not continue unguarded; a checkpoint is written.
            GuardPausedError: when a decision has waited for a person too long; a checkpoint is written, and one of each
                snapshot that a remedy which waits goes back to.
        """
        try:
            order = self._guard.boundary(step)
        except GuardLostError as error:
            checkpoint = self._session.save()
            raise GuardLostError(str(error), checkpoint) from error
        except GuardPausedError as error:
            checkpoint = self._session.save()
            self._session.hold(error.restore_steps)
            raise GuardPausedError(str(error), checkpoint, error.restore_steps) from error
        self._session.ask(self._guard.asked())
        return order

    def execute(self, order: Order, step: StepId) -> Order | None:
        """Carry out an order at the boundary before the update of `step`, or the one that the guard puts in its place.

        Returns:
            The order that was carried out; None for none.

        Raises:
            GuardHaltError: when the order ends the run.
            RftfmError: when it fails half way; training must not continue.
        """
        probed, graded = self._confirming_probe(order) if order.is_costly else (math.nan, 0)
        begun = self._guard.begin(order, step, probed, graded)
        if begun is None:
            return None
        began = time.perf_counter()
        try:
            checkpoint = self.carry_out(begun, step)
        except Exception as error:
            # The user must see the error of the order, not that of journalling it.
            with contextlib.suppress(RftfmError):
                self._guard.done(begun, step, OrderResult(time.perf_counter() - began, str(error) or repr(error)))
            raise
        self._guard.done(begun, step, OrderResult(time.perf_counter() - began))
        self._records.event("remedy", step, remedy=begun.remedy, rollback=begun.restore_step is not None)
        if begun.halt:
            at, why = self._session.position.id.step, begun.reason.rstrip(".")
            raise GuardHaltError(
                f"The guard ended the run at step {at}: {why}. The journal says more.",
                checkpoint,
            )
        return begun

    def _confirming_probe(self, order: Order) -> tuple[float, int]:
        """Held-out accuracy of the weights in force, on which a costly order depends, and the number of graded answers.

        The fewer answers there are, the more may be chance.
        """
        result = self._session.probe(self._probe_size)
        self._records.confirming_probe(result, self._session.position.id, order.remedy)
        return result.accuracy, result.size

    def carry_out(self, order: Order, step: StepId) -> str:
        """Carry out an order; returns the checkpoint of an order that ends the run, else an empty text.

        Raises:
            RftfmError: when an actor fails, or the rollout actors do not serve the restored weights.
        """
        session = self._session
        if order.restore_step is not None:
            quarantined = session.rollback(
                order.restore_step, order.skip_batches, step.paid_step, order.quarantine_from
            )
            if order.quarantine_from is not None:
                self._records.event("quarantine", step, first=order.quarantine_from, prompts=quarantined)
        if Action.RESTART_LEARNER in order.actions:
            session.restart_learner()
        session.move_levers(order.levers)
        if order.critic_step is not None:
            session.reset_critic(order.critic_step)
        if Action.RESTART_ROLLOUT in order.actions:
            session.restart_rollout(every=True)
        if Action.RESYNC in order.actions:
            self._resync(step)
        elif order.restore_step is not None:
            session.resync()
        if order.restore_step is not None or RESTARTS & set(order.actions):
            session.parity()
        return session.save() if order.halt else ""

    def _resync(self, step: StepId) -> None:
        """Send the weights until all rollout actors serve them by hash, a few times at most; records how it went.

        A sync that still loses some is no reason to end the run here: what verifies the remedy sees it.
        """
        mismatch, sent = math.nan, 0
        while sent < MOST_SENDS and mismatch != 0:
            mismatch, sent = self._session.resync(verify=True), sent + 1
        self._records.event("resync", step, sent=sent, mismatch=mismatch)
