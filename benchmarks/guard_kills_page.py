"""The page of `benchmarks.guard_kills`, and its targets."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.guard_kills_counts import COURSES, Row
from benchmarks.guard_kills_plan import FAULTS, kill_of
from benchmarks.guard_kills_points import INSIDE_MONITOR, POINTS, RANDOM, SAVE_STEPS

# What every trial is counted by: column and name.
COUNTED = (
    ("alarms_lost", "alarms and diagnoses lost"),
    ("alarms_doubled", "alarms and diagnoses doubled"),
    ("remedies_lost", "entries on remedies lost"),
    ("remedies_doubled", "entries on remedies doubled"),
    ("half_applied", "orders half applied, or applied more than once"),
    ("unsaid", "steps without a verdict that the run does not report"),
    ("others", "other entries of the journal lost or doubled"),
    ("untold", "entries not passed on to the user exactly once"),
    ("unmade", "planned kills whose point was not passed"),
)
FEWEST_KILLS = 60


def kills_in(row: Row) -> list[str]:
    """Names of the kills of a trial."""
    return row.kills.split(";")


def targets(rows: Sequence[Row]) -> list[tuple[str, str, str, bool]]:
    """What is asked of the trials: name, target, value, and whether it is reached."""
    kills = sum(len(kills_in(row)) - row.unmade for row in rows)
    totals = [(name, sum(getattr(row, column) for row in rows)) for column, name in COUNTED]
    apart = sum(bool(row.unequal) for row in rows)
    ended = sum(not row.ended_as_it_should for row in rows)
    return [
        ("kills", f">= {FEWEST_KILLS}", str(kills), kills >= FEWEST_KILLS),
        *((name, "0", str(total), total == 0) for name, total in totals),
        ("runs whose rows differ from those of the run without a kill, times aside", "0", str(apart), apart == 0),
        ("runs that ended otherwise than they should", "0", str(ended), ended == 0),
    ]


def is_good(row: Row) -> bool:
    """Whether a trial met every target."""
    return row.ended_as_it_should and not row.unequal and not any(getattr(row, column) for column, _ in COUNTED)


def page(rows: Sequence[Row], planned: int, head: str) -> str:
    """The document.

    Args:
        rows: of the finished trials.
        planned: how many trials there are.
        head: command, machine and versions.
    """
    judged = "\n".join(f"| {name} | {target} | {value} | {'yes' if good else 'NO'} |"
                       for name, target, value, good in targets(rows))  # fmt: skip
    faults = "\n".join(f"- `{name}`: {', '.join(f'`{override}`' for override in FAULTS[name])}" for name in FAULTS)
    courses = "\n".join(f"- `{name}`: {text}" for name, text in COURSES.items())
    return f"""# Monitor and controller killed at every sub-step of an incident

{head}

Runs of `examples/addition.yaml` in `act` with a fault, real processes, and SIGKILL to the monitor's or the controller's
process at a chosen point. Journal, orders, verdicts and rows of every run are compared with those of the same run
without a kill, called the usual run below. States of the two actors are saved every {SAVE_STEPS} steps instead of 50,
so that runs this short pass that too.

{faults}

{len(rows)} of {planned} trials are finished; {sum(map(is_good, rows))} of them meet every target.

| over all trials | target | measured | reached |
|---|---|---|---|
{judged}

## What is counted

An entry of the journal is equal to the usual run's when kind, step, incident and every field are, seconds aside.
Entries on a restart or a late verdict are not compared. An order is half applied unless it begins once, ends once and
is carried out once by the driver, and the driver's levers at the end are those that the journal comes to. A step is
unguarded when its boundary was passed while an earlier report had no verdict, or when its report never got one; the
journal must call the boundary late, or the summary must count the step. Rows must be equal bit for bit. How the run
goes on after the kill:

{courses}

In `late` alarms and applied remedies are compared without their steps: an order that comes late is carried out later,
and the rest is another course of the run. In `lost` and `stops` what the usual run journalled after the last judged
step is not asked for. Rows are compared in `waits`.

## Points

A kill inside an actor is exact: the process sends SIGKILL to itself between two statements. So is one between two calls
of the driver: the actor is idle, and the driver kills it by its process id. The last two are drawn evenly with a fixed
seed, from the median step and the median verdict of the usual run. The shipped code has no hook for this: the
benchmark starts subclasses of the two actors and replaces methods of the driver in its own process.

{_points(rows)}

## Trials

{_trials(rows)}
"""


def _points(rows: Sequence[Row]) -> str:
    lines = ["| point | where | kills | what has happened |", "|---" * 4 + "|"]
    for point, sentence in POINTS.items():
        number = sum(kill_of(name).point == point for row in rows for name in kills_in(row))
        lines.append(f"| `{point}` | {_where(point)} | {number} | {sentence} |")
    return "\n".join(lines)


def _where(point: str) -> str:
    names = list(POINTS)
    if point in RANDOM:
        return "random"
    if point in INSIDE_MONITOR:
        return "monitor, exact"
    inside = names.index(point) < names.index("assessed")
    return "controller, exact" if inside else "driver, exact"


def _trials(rows: Sequence[Row]) -> str:
    lines = ["| trial | run | goes on | kills | restarts | late | unguarded | s | good |", "|---" * 9 + "|"]
    for row in rows:
        kills = ", ".join(f"`{name}`" for name in kills_in(row))
        lines.append(
            f"| {row.number} | {row.fault} | {row.course} | {kills} | {row.restarts} | {row.late} | {row.unguarded} | "
            f"{row.seconds:.0f} | {'yes' if is_good(row) else 'NO: ' + _why(row)} |"
        )
    return "\n".join(lines)


def _why(row: Row) -> str:
    counted = [f"{name} {getattr(row, column)}" for column, name in COUNTED if getattr(row, column)]
    counted += [f"rows differ in {row.unequal.replace(';', ', ')}"] if row.unequal else []
    counted += [row.error or "it did not end"] if not row.ended_as_it_should else []
    return "; ".join(counted).replace("|", "/")
