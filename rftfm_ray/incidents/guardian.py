"""The guard of a run as one object without actors: assessor, incident manager and journal. Pure.

It guards anything that gives step reports: a recorded run, the log of another trainer, a trainer in this process. In a
run on Ray its two halves are separate actors (`MonitorActor`, `ControllerActor`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.diagnosis.assessor import Assessor
from rftfm_ray.incidents.decisions import Snapshots
from rftfm_ray.incidents.ledger import Ledger, Sink
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.orders import Order
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import GuardState
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.types import IncidentSummary, Levers, StepId
from rftfm_ray.verdicts import Assessment, Declaration, StepReport


class Guardian:
    """Judges the steps of a run and gives orders. The caller carries out an order between `begin` and `done`.

    Args:
        assessor: judges reports; the guardian takes ownership of it.
        settings: of the incident manager.
        policy: makes the decisions.
        snapshots: gives the steps that the learner can go back to; called only when a decision is due.
        sink: takes every entry of the journal before the state changes.
    """

    def __init__(
        self, assessor: Assessor, settings: IncidentSettings, policy: SafePolicy, snapshots: Snapshots, sink: Sink
    ) -> None:
        self._assessor = assessor
        self._manager = IncidentManager(settings, policy, snapshots, Ledger(sink))

    @property
    def state(self) -> GuardState:
        """Incidents, levers and orders: the fold of the journal."""
        return self._manager.state

    @property
    def pending(self) -> Order | None:
        """The order that waits for a boundary; None once it has begun."""
        return self._manager.pending

    def start(self, step: StepId, levers: Levers | None = None) -> None:
        """Begin the journal, with the step that the run starts from and the levers in force; None: all nominal."""
        self._manager.start(step, levers if levers is not None else Levers())

    def note_probe(self, step: StepId, accuracy: float) -> None:
        """Take note of the held-out accuracy before the first step."""
        self._manager.note_probe(step, accuracy)

    def step(self, report: StepReport) -> tuple[Assessment, Order | None]:
        """Judge the next step; returns the assessment and the new order, if any."""
        return self.steps([report])[0]

    def steps(self, reports: Sequence[StepReport]) -> list[tuple[Assessment, Order | None]]:
        """Judge the next steps, in their order, including those after an order."""
        return [(assessment, self._manager.consider(assessment)) for assessment in self._assessor.assess(reports)]

    def declare(self, declaration: Declaration) -> None:
        """Take note of a deliberate change, between the steps so far and the next one."""
        self._assessor.declare(declaration.change)
        self._manager.note_declared(declaration)

    def begin(self, order: Order, step: StepId, probed: float = math.nan) -> Order | None:
        """Announce that the pending order is about to be carried out; returns the order to carry out, None for none.

        It is another one where the pending order was costly and had no ground, and the policy has one without cost.
        `step` is the one under way, `probed` the held-out accuracy of the weights in force, for a costly order.
        """
        return self._manager.begin(order, step, probed)

    def fail(self, order: Order, step: StepId, reason: str) -> None:
        """Note that the begun order failed half way: training must not continue."""
        self._manager.fail(order, step, reason)

    def done(self, order: Order, step: StepId, seconds: float) -> None:
        """Note that the begun order was carried out in `seconds`; a rollback also rewinds the guard."""
        change = self._manager.done(order, step, seconds)
        if order.restore_step is not None:
            self._assessor.rewind(order.restore_step)
        self._assessor.declare(change)

    def finish(self, last: StepId) -> tuple[tuple[IncidentSummary, ...], int]:
        """End the journal at the last step; returns the incidents and the number of applied remedies."""
        return self._manager.finish(last)
