"""Decisions that wait for a person, as the loop sees them: answers are taken at step boundaries, and time runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from rftfm_ray.actors.guards import GuardGroup
from rftfm_ray.errors import GuardPausedError
from rftfm_ray.incidents.orders import Order
from rftfm_ray.incidents.requests import Reply, Wish
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.telemetry.requests import RequestBox
from rftfm_ray.telemetry.rundir import answer_command
from rftfm_ray.types import StepId

GONE = "The guard of this run is lost, so nobody can carry a remedy out; the journal says why."
OVER = "The run has ended, so nothing is carried out any more."


@dataclass(frozen=True, slots=True)
class Taken:
    """What the answers that were taken at a boundary have led to: journal entries, and the order that waits."""

    entries: tuple[Entry, ...] = ()
    order: Order | None = None


@dataclass(slots=True)
class WaitingDecisions:
    """Decisions that wait for a person.

    Attributes:
        group: monitor and controller.
        timeout_s: longest wait; None: no limit.
        approved: whether a person has approved a remedy in this run.
        since: by incident, when its decision began to wait, in seconds of the monotonic clock.
    """

    group: GuardGroup
    timeout_s: float | None
    approved: bool = False
    since: dict[int, float] = field(default_factory=dict)

    @property
    def _box(self) -> RequestBox:
        return RequestBox(Path(self.group.journal).parent)

    def note(self, entry: Entry) -> None:
        """Follow one journal entry."""
        if entry.kind is EntryKind.ADVISED:
            self.since[entry.incident] = time.monotonic()
        elif entry.kind in (EntryKind.APPROVED, EntryKind.REJECTED, EntryKind.CLOSED):
            self.since.pop(entry.incident, None)
        self.approved = self.approved or entry.kind is EntryKind.APPROVED

    def take(self, step: StepId) -> Taken:
        """Take the answers that were given since the last boundary, and reply to each.

        Raises:
            RftfmError: when the guard is lost; those who ask are told.
        """
        entries, order = list[Entry](), None
        requests = self._box.take()
        for number, request in enumerate(requests):
            try:
                answered = self.group.answer(request, step)
            except Exception:
                for unanswered in requests[number:]:
                    self._box.reply(Reply(unanswered.id, False, GONE))
                raise
            self._box.reply(answered.reply)
            for entry in answered.entries:
                self.note(entry)
            entries += answered.entries
            order = answered.order
        return Taken(tuple(entries), order)

    def decline(self, why: str) -> None:
        """Tell everybody who has answered that nothing comes of it."""
        for request in self._box.take():
            self._box.reply(Reply(request.id, False, why))

    def pause(self, step: StepId) -> tuple[tuple[Entry, ...], GuardPausedError] | None:
        """Pause the run where a decision has waited too long; `step` is the one under way.

        Returns the entries of the journal and the error that the run ends with; None where it goes on.

        Raises:
            RftfmError: when it cannot be journalled.
        """
        if self.timeout_s is None or not self.since:
            return None
        incident, began = min(self.since.items(), key=lambda item: item[1])
        waited = time.monotonic() - began
        if waited < self.timeout_s:
            return None
        last = StepId(step.attempt, step.step - 1, step.paid_step - 1)
        paused = self.group.pause(step, last, incident, waited)
        remedy = next((e.text("remedy") for e in paused.entries if e.kind is EntryKind.PAUSED), "") or "a remedy"
        approve, reject = (answer_command(Path(self.group.journal).parent, wish, incident) for wish in Wish)
        return paused.entries, GuardPausedError(
            f"Paused after step {last.step}: {remedy} for incident #{incident} has waited for a person for "
            f"{waited:.0f} s (guard.pause_timeout_s). Answer with `{approve}` or `{reject}`.",
            restore_steps=paused.restore_steps,
        )
