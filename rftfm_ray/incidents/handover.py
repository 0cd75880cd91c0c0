"""What a run that pauses for a person hands over to the run that continues it, beside its journal. Pure.

The journal holds what was decided. What is judged by, the newest reports and diagnoses, is written here as JSON that is
checked when it is read: a remedy that is approved days later is verified against the steps from before its fault.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from rftfm_ray.errors import GuardError
from rftfm_ray.incidents.decisions import DecisionsMemory
from rftfm_ray.incidents.manager_memory import ManagerMemory
from rftfm_ray.incidents.memory import MemoryShare, RunMemory
from rftfm_ray.incidents.muting import MutedFaults, MutedShare
from rftfm_ray.types import StepId

VERSION = 1


@dataclass(frozen=True, slots=True)
class Handover:
    """What a paused run hands over.

    Attributes:
        version: of this form.
        at: the last step that was made, whose checkpoint the run continues from.
        seq: number of journal entries that it belongs to.
        memory: newest reports, references and diagnoses.
        muted: faults that were left to people.
        waited: how often the policy waited, by incident and code.
        quiet: steps since an alarm of its own was active, by open incident.
        restore_steps: snapshots that remedies which wait for a person go back to.
    """

    version: int
    at: StepId
    seq: int
    memory: MemoryShare
    muted: tuple[MutedShare, ...]
    waited: tuple[tuple[int, str, int], ...]
    quiet: tuple[tuple[int, int], ...]
    restore_steps: tuple[int, ...]


_HANDOVER = TypeAdapter(Handover)


def handover_of(memory: ManagerMemory, at: StepId, restore_steps: tuple[int, ...]) -> Handover:
    """What the manager with this memory hands over after step `at`."""
    decisions = memory.decisions
    return Handover(
        VERSION, at, memory.seq, memory.run.share(), memory.muted.share(),
        tuple((incident, code, times) for (incident, code), times in decisions.waited.items()),
        tuple(memory.quiet.items()), restore_steps,
    )  # fmt: skip


def memory_of(handover: Handover, silence: int) -> ManagerMemory:
    """The memory of a manager that takes over; `silence`: steps after which a muted fault is over."""
    run, muted = RunMemory(), MutedFaults(silence)
    run.take_over(handover.memory)
    muted.take_over(handover.muted)
    waited = {(incident, code): times for incident, code, times in handover.waited}
    return ManagerMemory(handover.seq, run, muted, DecisionsMemory(waited), dict(handover.quiet), None, begun=False)


def write_handover(handover: Handover) -> bytes:
    """A handover as JSON; figures that are not finite stay what they are."""
    return json.dumps(asdict(handover)).encode()


def read_handover(text: bytes, name: str) -> Handover:
    """The handover in a file of this name.

    Raises:
        GuardError: when it holds none, or one of another version.
    """
    try:
        handover = _HANDOVER.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise GuardError(
            f"{name} is not what a paused run hands over ({first['msg']}); continue it under the version that wrote it."
        ) from None
    if handover.version != VERSION:
        raise GuardError(f"{name} is of version {handover.version}, and this is version {VERSION}; use that version.")
    return handover
