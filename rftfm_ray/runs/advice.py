"""Advice about incidents that the guard may not act on: what it would have done, and the command that lets it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.policies.loading import PLAYBOOK
from rftfm_ray.policies.playbook import plan_of
from rftfm_ray.runs.incidents import Incident
from rftfm_ray.runs.reader import RunData
from rftfm_ray.runs.words import listed, text_of
from rftfm_ray.types import GuardMode
from rftfm_ray.verdicts import Family, IncidentState


@dataclass(frozen=True, slots=True)
class Advice:
    """Sentences about incidents that wait for somebody, and the command that lets the guard act; it may be empty."""

    sentences: tuple[str, ...] = ()
    command: str = ""


def advice(data: RunData, incidents: Sequence[Incident]) -> Advice:
    """Advice about the unresolved incidents that the guard may not act on: by its mode, or by `guard.act_on`.

    Empty when there is no such incident: where the guard may act, the journal says why it did not.
    """
    unresolved = [incident for incident in incidents if incident.state != IncidentState.RESOLVED]
    if data.mode in (GuardMode.OBSERVE, GuardMode.ADVISE):
        # What a person has approved was done.
        waiting = [i for i in unresolved if all(r.applied is None for r in i.remediations)]
    else:
        # In act a remedy is advised where the family is not among those that the guard may act on, or where the policy
        # asks a person.
        waiting = [
            incident for incident in unresolved
            if incident.family not in _allowed(data) and any(r.advised for r in incident.remediations)
        ]  # fmt: skip
    sentences = tuple(dict.fromkeys(_would(data, incident) for incident in waiting))
    families = _families(data, waiting)
    return Advice(sentences, command(data, families) if families and data.config is not None else "")


def command(data: RunData, families: Sequence[str]) -> str:
    """The command that trains with the run's configuration and a guard that may act on `families`."""
    config = data.run_dir.absolute() / "config.yaml"
    return f"rftfm train {shlex.quote(str(config))} --guard act 'guard.act_on=[{','.join(families)}]'"


def _would(data: RunData, incident: Incident) -> str:
    """What the guard does about one incident where it may act."""
    about = f"Incident #{incident.id} ({incident.code})"
    own = data.config.guard.policy if data.config is not None else None
    if own not in (None, PLAYBOOK):
        return f"{about}: if the guard may act, the policy {own} decides."
    advised = [r.remedy for r in incident.remediations if r.advised]
    if advised:
        return f"{about}: if it may act, the guard applies {listed(list(dict.fromkeys(advised)))}."
    plan = plan_of(incident.code, incident.place)
    names = [remedy.name for remedy in plan.remedies]
    if not names:
        return f"{about}: the playbook has no remedy for it; look at its signals."
    later = f", and {listed(names[1:])} if that does not help" if len(names) > 1 else ""
    return f"{about}: if it may act, the guard tries {names[0]}{later}."


def _families(data: RunData, incidents: Sequence[Incident]) -> list[str]:
    """Families that the guard must be allowed to act on: those of the incidents, and those that are allowed already."""
    known = {family.value for family in Family if family is not Family.UNKNOWN}
    needed = {i.family for i in incidents if i.family in known and plan_of(i.code, i.place).remedies}
    if not needed:
        return []
    return [family.value for family in Family if family.value in needed | (_allowed(data) & known)]


def _allowed(data: RunData) -> set[str]:
    """Families that the guard may act on."""
    started = [entry for entry in data.entries if entry.kind is EntryKind.STARTED]
    return {name.strip() for name in text_of(started[-1], "act_on").split(",")} if started else set()
