"""Reads intended events from the records: background, injected faults, benign controls and declared changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.runs.incidents import Incident
from rftfm_ray.runs.reader import MOST_STEPS, Event, event_step
from rftfm_ray.runs.words import as_number, clean, figure, plural

# Event kind of a benign control, and its name in older records.
CONTROL_KINDS = ("control", "twin")


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that was injected; steps are paid ones.

    Attributes:
        code: the fault.
        mechanism: its mechanism.
        onset: first step that it was on at.
        strength: NaN when it is not recorded.
        duration: steps that it was on for; None to the end.
        full: first step at its full strength, where that grew; None where it did not.
        learned: whether it works through learning.
        effect: first step of its effect; None while it has had none.
    """

    code: str
    mechanism: str
    onset: int
    strength: float
    duration: int | None = None
    full: int | None = None
    learned: bool = False
    effect: int | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """A benign control: it looks like a fault but is not one."""

    name: str
    declared: bool
    onset: int


@dataclass(frozen=True, slots=True)
class Change:
    """A key of the configuration that took another value on purpose."""

    key: str
    old: float
    new: float
    step: int
    paid_step: int


def faults_of(events: Sequence[Event]) -> tuple[Fault, ...]:
    """The faults of a run."""
    begun = {
        (event.get("code"), event.get("mechanism")): _step(event.get("effect_step"))
        for event in events
        if event.get("kind") == "fault_effect"
    }
    faults = []
    for event in events:
        onset = next((s for name in ("switch_step", "onset") if (s := _step(event.get(name))) is not None), None)
        if event.get("kind") != "fault" or onset is None:
            continue
        effect, ramp, steps = (_step(event.get(name)) for name in ("effect_step", "ramp", "duration"))
        code, mechanism = event.get("code"), event.get("mechanism")
        # A fault that acts by itself records its effect step in advance; older records never do.
        learned = "effect_step" in event and effect is None
        faults.append(
            Fault(
                clean(str(code or "?"), 60), clean(str(mechanism or "?"), 60), onset,
                as_number(event.get("strength")), steps or None, onset + ramp if ramp else None, learned,
                begun.get((code, mechanism)) if learned else effect,
            )
        )  # fmt: skip
    return tuple(dict.fromkeys(faults))


def controls_of(events: Sequence[Event]) -> tuple[Control, ...]:
    """The benign controls of a run."""
    controls = []
    for event in events:
        onset = _step(event.get("switch_step"))
        if event.get("kind") in CONTROL_KINDS and onset is not None:
            controls.append(Control(clean(str(event.get("name") or "?"), 60), event.get("declared") is True, onset))
    return tuple(dict.fromkeys(controls))


def changes_of(events: Sequence[Event]) -> tuple[Change, ...]:
    """The declared changes of a run; a change that is repeated after a rollback occurs twice."""
    changes = []
    for event in events:
        position, values = event_step(event), [as_number(event.get(name)) for name in ("old", "new")]
        if event.get("kind") == "declared" and position is not None and all(map(math.isfinite, values)):
            key = clean(str(event.get("key") or "?"), 60)
            changes.append(Change(key, values[0], values[1], position.step, position.paid_step))
    return tuple(changes)


def disturbances_of(events: Sequence[Event]) -> dict[str, float]:
    """The background of a run: its disturbances and their sizes; empty without one."""
    fields = next((event for event in events if event.get("kind") == "background"), {})
    sizes = {clean(str(name), 60): as_number(size) for name, size in fields.items() if isinstance(size, float)}
    return {name: size for name, size in sizes.items() if math.isfinite(size) and size > 0}


def background_words(disturbances: Mapping[str, float]) -> str:
    """Describe a background; empty without one."""
    if not disturbances:
        return ""
    sizes = ", ".join(f"{name}={figure(size)}" for name, size in disturbances.items())
    return f"Background of an experiment, from the first step to the last: {sizes}."


def _step(value: object) -> int | None:
    number = as_number(value)
    return int(number) if 0 <= number <= MOST_STEPS else None


def drill(fault: Fault, incidents: Sequence[Incident], now: int) -> str:
    """Describe the result of an injected fault: which incident named it, and how soon after its effect."""
    lasted = _duration_words(fault)
    text = f"Injected fault: {fault.code} ({fault.mechanism}) from consumed step {fault.onset} {lasted};"
    if now < fault.onset:
        return f"{text} the run has not come so far."
    if fault.learned:
        text += f" its effect began at consumed step {fault.effect}," if fault.effect else " it has had no effect yet,"
        text = text.removesuffix(",") + ";"
    later = [incident for incident in incidents if incident.opened.paid_step >= fault.onset]
    named = [incident for incident in later if incident.code == fault.code]
    if not later:
        return f"{text} no incident was opened after it."
    first = (named or later)[0]
    opened = _opened(first, fault)
    if named:
        return f"{text} incident {first.id} named it, {opened}."
    return f"{text} no incident named it, and incident {first.id}, {opened}, called it {first.code}."


def not_claimed(faults: Sequence[Fault], incidents: Sequence[Incident]) -> list[Incident]:
    """The incidents that no injected fault explains by its code and onset; a control may have caused these."""
    return [
        incident
        for incident in incidents
        if not any(fault.code == incident.code and incident.opened.paid_step >= fault.onset for fault in faults)
    ]


def _duration_words(fault: Fault) -> str:
    lasted = "on" if fault.duration is None else f"to {fault.onset + fault.duration - 1}"
    known = math.isfinite(fault.strength)
    if fault.full is not None:
        strength = f" of {figure(fault.strength)}" if known else ""
        return f"{lasted}, growing to its full strength{strength} at consumed step {fault.full}"
    return lasted + (f" with strength {figure(fault.strength)}" if known else "")


def _opened(incident: Incident, fault: Fault) -> str:
    since = fault.effect or fault.onset
    waited = incident.opened.paid_step - since
    if waited > 0:
        return f"opened {plural(waited, 'consumed step')} later"
    return "opened at that very step" if waited == 0 else f"opened {plural(-waited, 'consumed step')} before its effect"


def change_words(change: Change) -> str:
    """Describe a declared change."""
    return f"Declared: {change.key} from {figure(change.old)} to {figure(change.new)} at step {change.step}."


def control_words(control: Control, incidents: Sequence[Incident], now: int) -> str:
    """Describe a benign control, and whether an undeclared one was taken for a fault."""
    text = f"Benign control: {control.name} from consumed step {control.onset} on"
    if now < control.onset:
        return f"{text}; the run has not come so far."
    if control.declared:
        return f"{text}, which was declared."
    later = [incident for incident in incidents if incident.opened.paid_step >= control.onset]
    if not later:
        return f"{text}, which nobody declared; no incident was opened after it."
    waited = plural(later[0].opened.paid_step - control.onset, "consumed step")
    return f"{text}, which nobody declared; incident {later[0].id} was opened {waited} later."
