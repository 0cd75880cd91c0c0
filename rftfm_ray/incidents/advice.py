"""A remedy that waits for a person, as the journal keeps it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from rftfm_ray.incidents.entries import Entry, levers_of
from rftfm_ray.types import Action, Levers


@dataclass(frozen=True, slots=True)
class Advice:
    """A remedy that was decided on and not carried out, because a person has to allow it.

    Attributes:
        seq: number of the journal entry that advises it, by which one advice is told from a later one.
        remedy: its name.
        reason: why, in one sentence.
        levers: those that it sets; None leaves a lever as it is when it is carried out.
        restore_step: snapshot to go back to, or None.
        skip_batches: batches of prompts to leave out after it.
        halt: end the run after a checkpoint.
        actions: what is done once, beside the levers.
        critic_step: snapshot that the critic's head goes back to, or None.
    """

    seq: int
    remedy: str
    reason: str
    levers: Levers
    restore_step: int | None = None
    skip_batches: int = 0
    halt: bool = False
    actions: tuple[Action, ...] = ()
    critic_step: int | None = None


def advice_of(entry: Entry, base: Levers) -> Advice:
    """The advice of an entry; `base` are the levers that its own start from.

    The entry has every lever as it would have stood then. By the time it is approved others may have moved, so what is
    kept is what the remedy itself sets.

    Raises:
        GuardError: when a lever of the entry is unknown or out of bounds.
    """
    then = levers_of(entry)
    names = [item.name for item in fields(Levers) if getattr(then, item.name) != getattr(base, item.name)]
    own: dict[str, Any] = {name: getattr(then, name) for name in names}
    text = entry.text("actions") if entry.has("actions") else ""
    return Advice(
        seq=entry.seq,
        remedy=entry.text("remedy"),
        reason=entry.text("reason"),
        levers=Levers(**own),
        restore_step=entry.integer("restore_step") if entry.has("restore_step") else None,
        skip_batches=entry.integer("skip_batches") if entry.has("skip_batches") else 0,
        halt=dict(entry.fields).get("halt") is True,
        actions=tuple(map(Action, filter(None, text.split(", ")))),
        critic_step=entry.integer("critic_step") if entry.has("critic_step") else None,
    )


def merged(base: Levers, wanted: Levers) -> Levers:
    """`base` with every lever that `wanted` sets."""
    chosen: dict[str, Any] = {item.name: getattr(wanted, item.name) for item in fields(Levers)}
    return replace(base, **{name: setting for name, setting in chosen.items() if setting is not None})
