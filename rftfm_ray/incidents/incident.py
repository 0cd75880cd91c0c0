"""One incident, as a value. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.incidents.advice import AdvisedOrder
from rftfm_ray.types import Check, StepId
from rftfm_ray.verdicts import Family, IncidentState, Place, Tried


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident, from suspicion to its end.

    Attributes:
        id: number of the incident in the run, from 1.
        state: its stage.
        code: of the fault.
        family: of the fault.
        place: where its source sits, as far as the newest diagnosis or decision told.
        opened: step whose report opened it.
        onset: estimated first step of the fault.
        onset_low: earliest step at which the fault may have begun.
        tried: remedies that were applied for it.
        ordered: number of its order that is not yet carried out; 0 for none.
        advised: whether a remedy was advised and nobody has approved it, so that no other one is decided on.
        advice: the remedy that was advised, until it is carried out or rejected; with `ordered` it is approved.
        unconfirmed_at: consumed step at which an order was last dropped because the probe did not confirm it.
        unconfirmed: number of such orders.
        reason: why its last remedy was judged as it was, or why it was closed.
        probe: held-out accuracy that was last measured before the alarm; None when there was none.
        shown: whether more than telemetry showed the fault when its newest remedy was decided on.
        asked: checks that were asked for to name it.
        waiting: the one of them that is not answered; None where all are.
        asked_at: consumed step at which it was asked for.
        sets: levers that its newest remedy sets, whether or not that moves them.
        awaited: what the verdict on its newest remedy waits for, as it was journalled last; empty for nothing.
    """

    id: int
    state: IncidentState
    code: str
    family: Family
    opened: StepId
    onset: int
    onset_low: int
    tried: tuple[Tried, ...] = ()
    ordered: int = 0
    advised: bool = False
    advice: AdvisedOrder | None = None
    unconfirmed_at: int | None = None
    unconfirmed: int = 0
    reason: str = ""
    probe: float | None = None
    place: Place | None = None
    shown: bool = False
    asked: tuple[Check, ...] = ()
    waiting: Check | None = None
    asked_at: int = 0
    sets: tuple[str, ...] = ()
    awaited: str = ""

    @property
    def waiting_advice(self) -> AdvisedOrder | None:
        """The remedy that waits for a person; None where none does."""
        return None if self.ordered or self.state.final else self.advice
