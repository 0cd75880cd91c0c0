"""The page on laws and floors. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.detection.detectors.laws import LAW, OWN_REWARD
from rftfm_ray.detection.laws.own_reward import PARTS, ROWS, TOLERANCE
from rftfm_ray.detection.laws.table import FLOOR_TABLE, LAWS
from rftfm_ray.diagnosis.log_laws import SHOWN
from rftfm_ray.diagnosis.meaning import BREAKS


@dataclass(frozen=True, slots=True)
class LawFigures:
    """A law on healthy runs: steps on which it was judged, largest residual over tolerance, steps that break it."""

    name: str
    steps: int
    largest: float
    broken: int


@dataclass(frozen=True, slots=True)
class FloorFigures:
    """A floor on healthy runs: steps with a figure beyond it."""

    name: str
    broken: int


@dataclass(frozen=True, slots=True)
class MechanismFigures:
    """A mechanism: its runs, those in which each law or floor breaks, and steps from the switch to each first break."""

    name: str
    runs: int
    breaks: Mapping[str, int]
    delays: Sequence[int]


def page(
    runs: int, steps: int, laws: Sequence[LawFigures], floors: Sequence[FloorFigures], found: Sequence[MechanismFigures]
) -> str:
    """The page: what every law states, what it was measured to be, and what breaks it."""
    broken = sum(each.broken for each in laws)
    of_laws = [
        "law", "what holds", "figure", "tolerance, and why", "healthy steps", "largest residual / tolerance",
        "steps broken", "on logs of others",
    ]  # fmt: skip
    of_floors = [
        "floor",
        "what holds without noise",
        "least floor, and why",
        "times the first steps",
        "steps beyond it",
    ]
    of_meaning = ["law or floor", "where it can act", "too large: nats by fault", "too small: nats by fault"]
    of_faults = ["mechanism", "runs", "breaks", "steps from the switch to the first break (median, largest)"]
    parts = ", ".join(f"`{name}`" for name in PARTS)
    return f"""# Laws

Made by `python -m benchmarks.laws` from {runs} recorded runs without a fault, of {steps:,} steps, and from those with
one; the report split of the benchmark is left out.

A law is a relation between the logged figures of a step that holds by definition of the algorithm and of what the
configuration declares. It needs no reference and no warm-up, so that it speaks in the first step of a run. What a lever
changes on purpose is declared, and no break; a law that the configuration takes out of force says nothing. Broken steps
of all laws in these runs: {broken}.

{_table(of_laws, _laws(laws))}

`{OWN_REWARD}` stands for tasks that declare no reward: where the mean reward of the first {ROWS} steps is an exact
linear function of {parts}, a later reward that is not so is broken ([own_reward.py][own]). Here it is tried on tasks
that do declare theirs.

[own]: ../rftfm_ray/detection/laws/own_reward.py

## What a break can mean

{_table(of_meaning, _meanings())}

A fault that cannot break a law is taken to be fifty times less likely where it is broken. The strength that a law reads
off, such as the weight of a hidden entropy bonus, stands in its alarm.

## Floors

A figure that is 0 only where a stack adds no noise: how far a healthy run is from that is learnt in its first steps,
and bounded by what the configuration accepts (`sync.parity_max_gap`). It counts as telemetry.

{_table(of_floors, _floors(floors))}

## What breaks in runs with a fault

Share of runs in which each breaks from the step on at which the fault is switched on; faults that break nothing keep
every law.

{_table(of_faults, _found(found))}
"""


def _table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _laws(figures: Sequence[LawFigures]) -> Iterator[Sequence[str]]:
    for each in figures:
        law = LAWS.get(each.name)
        states = "the mean reward is the linear function of its parts that the first steps show"
        about = (states, "`reward_mean`", f"{TOLERANCE:g}: rounding of the learnt weights") if law is None else (
            law.states, f"`{law.signal}`", f"{law.tolerance:g}: {law.reason}"
        )  # fmt: skip
        is_on = "yes" if each.name in SHOWN or each.name == OWN_REWARD else "no"
        largest = "-" if math.isnan(each.largest) or not each.steps else f"{each.largest:.2g}"
        yield f"`{each.name}`", *about, f"{each.steps:,}", largest, f"{each.broken}", is_on


def _floors(figures: Sequence[FloorFigures]) -> Iterator[Sequence[str]]:
    for each in figures:
        floor = FLOOR_TABLE.get(each.name.partition(":")[2])
        if floor is None:
            about = ("tools do not fail", "the upper end of the rate that the first steps allow", "3")
        else:
            law = floor.law
            about = (law.states, f"{law.tolerance:g}: {law.reason}", f"{floor.factor:g}: {floor.why}")
        yield f"`{each.name.partition(':')[2]}`", *about, f"{each.broken}"


def _meanings() -> Iterator[Sequence[str]]:
    for name, meaning in BREAKS.items():
        sides = (meaning.above, meaning.below)
        written = [", ".join(f"{code} {nats:g}" for code, nats in side.items()) or "-" for side in sides]
        yield f"`{name.removeprefix(f'{LAW}:')}`", ", ".join(meaning.places), *written


def _found(found: Sequence[MechanismFigures]) -> Iterator[Sequence[str]]:
    for each in found:
        shares = sorted(each.breaks.items(), key=lambda pair: (-pair[1], pair[0]))
        said = ", ".join(f"`{name}` {100 * count / each.runs:.0f} %" for name, count in shares) or "-"
        delays = each.delays
        when = f"{sorted(delays)[len(delays) // 2]}, {max(delays)}" if delays else "-"
        yield each.name, f"{each.runs}", said, when
