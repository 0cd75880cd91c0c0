"""Carrying out the guard's orders with the run's session: levers everywhere, and the rollback as one transaction.

A rollback puts back everything that determines the next step (model, optimizer, schedule, gate, data cursor,
detector windows), raises attempt and model version, hands the weights to every rollout actor and probes parity; only
then may training go on. What is abandoned stays on disk until retention removes it.
"""

from __future__ import annotations

import contextlib
import math
import time

from rftfm_ray.driver.guard import Guard
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import GuardHaltError, RftfmError
from rftfm_ray.incidents.messages import OrderResult
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Order


class RemedyExecutor:
    """Takes orders through: confirmed and journalled by the guard, carried out, journalled again."""

    def __init__(self, session: Session, guard: Guard, records: RunRecords, probe_size: int) -> None:
        self._session = session
        self._guard = guard
        self._records = records
        self._probe_size = probe_size

    def execute(self, order: Order, step: StepId) -> bool:
        """Carry an order out at the boundary before the update of `step`; whether that was done.

        Raises:
            GuardHaltError: when the order ends the run.
            RftfmError: when it fails half way: then nobody may train on.
        """
        probed = self._session.probe(self._probe_size).accuracy if order.is_costly else math.nan
        if not self._guard.begin(order, step, probed):
            return False
        began = time.perf_counter()
        try:
            checkpoint = self.carry_out(order, step)
        except Exception as error:
            # What has gone wrong with the order is what the user must hear of, not that it could not be journalled.
            with contextlib.suppress(RftfmError):
                self._guard.done(order, step, OrderResult(time.perf_counter() - began, str(error) or repr(error)))
            raise
        self._guard.done(order, step, OrderResult(time.perf_counter() - began))
        self._records.event("remedy", step, remedy=order.remedy, rollback=order.restore_step is not None)
        if order.halt:
            raise GuardHaltError(
                f"The guard ended the run at step {self._session.position.id.step}: {order.reason} The journal says "
                f"why; go on with --resume {checkpoint}."
            )
        return True

    def carry_out(self, order: Order, step: StepId) -> str:
        """Do what an order says; the checkpoint of an order that ends the run, else empty.

        Raises:
            RftfmError: when an actor fails, or the rollout actors do not serve the weights that were gone back to.
        """
        session = self._session
        if order.restore_step is not None:
            session.rollback(order.restore_step, order.skip_batches, step.paid_step)
        session.move_levers(order.levers)
        if order.restore_step is not None:
            session.resync()
            session.parity()
        return session.save() if order.halt else ""
