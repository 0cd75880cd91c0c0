"""A remedy that waits for a person, as the journal keeps it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from rftfm_ray.incidents.entries import Entry, levers_of
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.types import Action, Levers


@dataclass(frozen=True, slots=True)
class AdvisedOrder:
    """A remedy that was decided on and not carried out, because a person has to allow it.

    Attributes:
        seq: number of the journal entry that advises it, by which one advice is told from a later one.
        order: what is carried out once it is approved. Its number is 0 until then, and its levers are those that the
            remedy itself sets; None leaves a lever as it is at that time.
    """

    seq: int
    order: Order


def advised_in(entry: Entry, base: Levers) -> AdvisedOrder:
    """The order that an entry advises; `base` are the levers that its own start from.

    The entry has every lever as it would have stood then. By the time it is approved others may have moved, so what is
    kept is what the remedy itself sets.

    Raises:
        GuardError: when a lever of the entry is unknown or out of bounds.
    """
    then = levers_of(entry)
    names = [item.name for item in fields(Levers) if getattr(then, item.name) != getattr(base, item.name)]
    own: dict[str, Any] = {name: getattr(then, name) for name in names}
    text = entry.text("actions") if entry.has("actions") else ""

    def step(name: str) -> int | None:
        return entry.integer(name) if entry.has(name) else None

    order = Order(
        number=0,
        incident=entry.incident,
        role=OrderRole.REMEDY,
        remedy=entry.text("remedy"),
        reason=entry.text("reason"),
        levers=Levers(**own),
        restore_step=step("restore_step"),
        skip_batches=step("skip_batches") or 0,
        halt=dict(entry.fields).get("halt") is True,
        actions=tuple(map(Action, filter(None, text.split(", ")))),
        critic_step=step("critic_step"),
        quarantine_from=step("quarantine_from"),
    )
    return AdvisedOrder(entry.seq, order)


def merged(base: Levers, wanted: Levers) -> Levers:
    """`base` with every lever that `wanted` sets."""
    chosen: dict[str, Any] = {item.name: getattr(wanted, item.name) for item in fields(Levers)}
    return replace(base, **{name: setting for name, setting in chosen.items() if setting is not None})
