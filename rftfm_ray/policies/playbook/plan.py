"""What is known about remedying one fault at one place, as a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.signals.schema import value
from rftfm_ray.types import Action, Levers
from rftfm_ray.verdicts import Place, Remedy, StepReport

Setting: TypeAlias = tuple[Levers, str]
"""Levers to set, and why these."""

SourceCheck: TypeAlias = Callable[[Sequence[StepReport], Sequence[StepReport]], bool]
"""Whether a fault's cause is still active, from the reports of a window and those from before the fault."""

SHOWS_AFTER = 2
"""Steps until a remedy shows in what is trained on: one that is under way, and one under the remedy."""


def never_active(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """The check of a fault whose cause cannot be observed apart from its harm."""
    del reports, reference
    return False


@dataclass(frozen=True, slots=True)
class PlannedRemedy:
    """One remedy of a plan. Its inverse is the nominal value of its levers, to which they return.

    Attributes:
        name: as it stands in journal, metrics and report.
        moves: levers that it may set; their bounds are those of `policies.levers`.
        setting: the values for a context, with the reason; None where nothing has measured what they follow from.
        rollback: whether what was learnt since the onset is given up.
        skip_batches: batches of prompts that are left out after a rollback.
        quarantine: whether the prompts since the onset are kept out for the rest of the run.
        actions: what is done once, beside the levers.
        measured_by: detectors that may have measured the values, where they may go beyond their usual bounds.
        shows_after: steps until its effect can show; the verification takes no fewer.
    """

    name: str
    moves: tuple[str, ...]
    setting: Callable[[PolicyContext], Setting | None]
    rollback: bool = False
    skip_batches: int = 0
    actions: tuple[Action, ...] = ()
    measured_by: tuple[str, ...] = ()
    shows_after: int = SHOWS_AFTER
    quarantine: bool = False

    @property
    def is_costly(self) -> bool:
        """Whether it needs a ground: it gives up steps, or stops learning."""
        return self.rollback or "freeze_policy" in self.moves

    def made(self, ctx: PolicyContext) -> tuple[Remedy, str] | None:
        """The remedy for a context, with the reason; None where its values are not known."""
        setting = self.setting(ctx)
        if setting is None:
            return None
        levers, reason = setting
        remedy = Remedy(
            self.name,
            levers,
            rollback=self.rollback,
            skip_batches=self.skip_batches,
            measured_by=self.measured_by,
            actions=self.actions,
            quarantine=self.quarantine,
        )
        return remedy, reason


class Cause(StrEnum):
    """What is known of the cause of a fault under the levers that contain it."""

    ACTIVE = "active"
    OVER = "over"
    HIDDEN = "hidden"
    """Nothing shows it under these levers."""


@dataclass(frozen=True, slots=True)
class RemedyPlan:
    """The remedies of a fault at one place, and how its cause is told from its harm.

    Attributes:
        remedies: in the order in which they are tried; empty where people must decide.
        gentle: remedies without cost that are tried first where nothing allows a costly one yet.
        containing: levers that keep the fault's harm away while its cause is active. Any other lever that was moved
            for it only helped recovery, and returns as soon as the remedy is verified.
        hidden_by: containing levers under which nothing shows whether the cause is active. They do not return by
            themselves.
        inverted_by: containing levers that cancel the cause, so that what shows it is nominal while both are there;
            each with the check of the cause under it.
        breaks_under: levers that cancel the cause, and under which its checks stay broken all the same.
        source_active: whether the cause is still active, under any other containing lever or none.
        source_reads: signals that show whether it is; where none was measured, nobody knows.
        needs_reference: whether that cannot be ruled out without steps from before the fault.
        source_sides: signals that leave their usual band to a side (+1 above, -1 below) because of the cause alone,
            whatever becomes of the harm. Their alarms open incidents, but are expected while a containing lever is in
            force that neither hides nor cancels the cause.
        ask: what a person can do where no remedy is left.
    """

    remedies: tuple[PlannedRemedy, ...] = ()
    gentle: tuple[PlannedRemedy, ...] = ()
    containing: tuple[str, ...] = ()
    hidden_by: tuple[str, ...] = ()
    inverted_by: Mapping[str, SourceCheck] = field(default_factory=dict)
    breaks_under: tuple[str, ...] = ()
    source_active: SourceCheck = never_active
    source_reads: tuple[str, ...] = ()
    needs_reference: bool = False
    source_sides: tuple[tuple[str, int], ...] = ()
    ask: str = ""

    def cause(self, levers: Collection[str], reports: Sequence[StepReport], reference: Sequence[StepReport]) -> Cause:
        """What is known of the cause.

        Args:
            levers: off nominal that were moved for the fault.
            reports: of the window.
            reference: from before the fault.
        """
        containing = [name for name in self.containing if name in levers]
        if any(name in self.hidden_by for name in containing):
            return Cause.HIDDEN
        checks = [self.inverted_by[name] for name in containing if name in self.inverted_by] or [self.source_active]
        return Cause.ACTIVE if any(check(reports, reference) for check in checks) else Cause.OVER

    def cause_is_over(
        self, levers: Collection[str], reports: Sequence[StepReport], reference: Sequence[StepReport]
    ) -> bool:
        """Whether the cause is known to be over: what shows it was measured, and there is enough to compare with."""
        measured = not self.source_reads or any(
            math.isfinite(value(report, name)) for report in reports for name in self.source_reads
        )
        unknown = not reports or not measured or (self.needs_reference and not reference)
        return not unknown and self.cause(levers, reports, reference) is Cause.OVER

    def expected_under(self, lever: str) -> tuple[tuple[str, int], ...]:
        """Sides of the cause's signals whose alarms are expected while a lever is in force."""
        cancels = lever in self.inverted_by and lever not in self.breaks_under
        shows = lever in self.containing and lever not in self.hidden_by and not cancels
        return self.source_sides if shows else ()

    def shows_after(self, remedy: str) -> int:
        """Steps until a remedy's effect can show, by its name; those of any where it is none of the plan."""
        known = (*self.remedies, *self.gentle)
        return next((planned.shows_after for planned in known if planned.name == remedy), SHOWS_AFTER)


NO_PLAN = RemedyPlan()


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What is known about remedying one fault.

    Attributes:
        usual: its plan at the place where it sits most often, or where nothing tells the place.
        at: its plans at other places.
    """

    usual: RemedyPlan = NO_PLAN
    at: Mapping[Place, RemedyPlan] = field(default_factory=dict)

    def of(self, place: Place | None) -> RemedyPlan:
        """The plan at a place."""
        return self.usual if place is None else self.at.get(place, self.usual)

    @property
    def plans(self) -> tuple[RemedyPlan, ...]:
        """All of them."""
        return self.usual, *self.at.values()


def above(*signals: str) -> tuple[tuple[str, int], ...]:
    """Signals that a cause moves up."""
    return tuple((signal, 1) for signal in signals)


def below(*signals: str) -> tuple[tuple[str, int], ...]:
    """Signals that a cause moves down."""
    return tuple((signal, -1) for signal in signals)


def frozen(reason: str) -> PlannedRemedy:
    """The last remedy: the policy stands still, so that nothing gets worse until a person has looked."""

    def setting(ctx: PolicyContext) -> Setting:
        """The policy stands still until a person has looked."""
        del ctx
        return Levers(freeze_policy=1), reason

    return PlannedRemedy("freeze", ("freeze_policy",), setting)
