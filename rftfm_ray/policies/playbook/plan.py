"""What is known about remedying one fault, as a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.verdicts import Remedy, StepReport

Step: TypeAlias = Callable[[PolicyContext], tuple[Remedy, str]]
"""One remedy of a plan, made for its context, with the reason for it."""

SourceCheck: TypeAlias = Callable[[Sequence[StepReport], Sequence[StepReport]], bool]
"""Whether a fault's cause is still active, from the reports of a window and those from before the fault."""


def never_active(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """The check of a fault whose cause cannot be observed apart from its harm."""
    del reports, reference
    return False


@dataclass(frozen=True, slots=True)
class RemedyPlan:
    """One fault's remedies, and how its cause is told from its harm.

    Attributes:
        steps: remedies in the order in which they are tried; empty where people must decide.
        gentle: remedies without cost that are tried first where nothing allows a costly one yet.
        containing: levers that keep the fault's harm away while its cause is active. Any other lever that was moved
            for it only helped recovery, and returns as soon as the remedy is verified.
        source_active: whether the cause is still active, looked at past the containing levers.
        source_reads: signals that show whether it is; where none was measured, nobody knows.
        needs_reference: whether that cannot be ruled out without steps from before the fault.
        source_signals: signals that are high because of the cause alone, whatever becomes of the harm. Their alarms
            open incidents, but are expected while a containing lever is in force.
    """

    steps: tuple[Step, ...] = ()
    gentle: tuple[Step, ...] = ()
    containing: tuple[str, ...] = ()
    source_active: SourceCheck = never_active
    source_reads: tuple[str, ...] = ()
    needs_reference: bool = False
    source_signals: tuple[str, ...] = ()

    def source_over(self, reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
        """Whether the cause is known to be over: not active in `reports`, with enough before the fault to tell."""
        unknown = not reports or (self.needs_reference and not reference)
        return not (unknown or self.source_active(reports, reference))


NO_PLAN = RemedyPlan()
