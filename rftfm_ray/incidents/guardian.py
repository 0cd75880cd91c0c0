"""The guard of a run as one object without actors: assessor, incident manager and journal. Pure.

Whoever has step reports can be guarded by it: a recorded run, the log of another trainer, a trainer in this process.
In a run on Ray its halves live in two actors (`MonitorActor`, `ControllerActor`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.diagnosis.assessor import Assessor
from rftfm_ray.incidents.decisions import Snapshots
from rftfm_ray.incidents.ledger import Ledger, Sink
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import GuardState
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.types import IncidentSummary, Levers, StepId
from rftfm_ray.verdicts import Assessment, Declaration, Order, StepReport


class Guardian:
    """Judges the steps of a run and gives orders. An order is carried out by others, between `begin` and `done`.

    Args:
        assessor: judges reports; the guardian's own from now on.
        settings: of the incident manager.
        policy: asked for decisions.
        snapshots: steps that the learner can go back to; asked only when a decision is due.
        sink: takes every entry of the journal before it counts.
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

    def step(self, report: StepReport) -> tuple[Assessment, Order | None]:
        """Judge the next step; with the new order that it leads to, if any."""
        return self.steps([report])[0]

    def steps(self, reports: Sequence[StepReport]) -> list[tuple[Assessment, Order | None]]:
        """Judge the next steps, in their order. All of them count, also those after an order."""
        return [(assessment, self._manager.consider(assessment)) for assessment in self._assessor.assess(reports)]

    def declare(self, declaration: Declaration) -> None:
        """Take note of a deliberate change, between the steps so far and the next one."""
        self._assessor.declare(declaration.change)
        self._manager.note_declared(declaration)

    def begin(self, order: Order, step: StepId, probed: float = math.nan) -> bool:
        """Announce that the pending order is about to be carried out; whether it may be (`IncidentManager.begin`).

        `step` is the one under way, `probed` the held-out accuracy of the weights in force, for a costly order.
        """
        return self._manager.begin(order, step, probed)

    def fail(self, order: Order, step: StepId, reason: str) -> None:
        """Note that the order that was begun failed half way: then nobody may train on."""
        self._manager.fail(order, step, reason)

    def done(self, order: Order, step: StepId, seconds: float) -> None:
        """Note that the order that was begun was carried out in some seconds; a rollback rewinds the guard as well."""
        change = self._manager.done(order, step, seconds)
        if order.restore_step is not None:
            self._assessor.rewind(order.restore_step)
        self._assessor.declare(change)

    def finish(self, last: StepId) -> tuple[tuple[IncidentSummary, ...], int]:
        """End the journal at the last step; the incidents of the run, and how many remedies were applied."""
        return self._manager.finish(last)
