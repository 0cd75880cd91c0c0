"""The runs and trials of `benchmarks.guard_kills`: which fault, whom to kill, and where."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.guard_kills_counts import LATE, LOST, STOPS, WAITS
from benchmarks.guard_kills_points import CONTROLLER, MONITOR, Kill

ROLLBACK, REGRADE = "rollback", "regrade"
FAULTS = {
    # Suspected at step 12, named at 17, rolled back to 5 before 18; resolved at 30, a lever returns at 31.
    ROLLBACK: ("inject=['OD-1@10:30']", "steps=18"),
    # Suspected at step 8, named at 10, trusted rewards from 11; resolved at 20, the lever returns at 21.
    REGRADE: ("inject=['RF-1@8:2,duration=4']", "steps=22"),
}
"""What is injected, by the remedy that follows. Steps above are consumed ones, which no rollback rewinds."""

# More steps for runs in which an order may come late: the lever's return still has to come.
LONGER: dict[str, tuple[str, ...]] = {ROLLBACK: (), REGRADE: ("steps=40",)}

# `point key` of trials with one kill, by fault and victim.
SINGLE: dict[tuple[str, str], tuple[str, ...]] = {
    (ROLLBACK, MONITOR): (
        "judging 12", "judged 12", "assessed 12", "unpublished 12", "judging 17", "ordered 1", "begun 1", "restored 1",
        "moved 1", "applied 1", "untold 1", "changing 1", "rewound 1", "changed 1", "judging 19",
    ),
    (ROLLBACK, CONTROLLER): (
        "considering 12", "torn opened", "written held", "entry decided 1", "written decided 1", "ordered 1",
        "written confirmed 1", "entry applying 1", "torn applying 1", "written applying 1", "granted 1", "restored 1",
        "moved 1", "applied 1", "written applied 1", "settled 1", "untold 1", "copied 16",
    ),
    (REGRADE, MONITOR): (
        "judged 8", "saving 8", "saved 12", "stepped 10", "applied 1", "changing 1", "judging 15", "judged 20",
        "applied 2", "changing 2", "changed 2",
    ),
    (REGRADE, CONTROLLER): (
        "entry opened", "written opened", "entry diagnosed", "considered 10", "granting 1", "settling 1",
        "entry applied 1", "torn applied 1", "written declared", "considered 15", "entry outcome", "written outcome",
        "torn closed", "written returning 2", "written applying 2", "applied 2", "copying 12", "ending", "torn ended",
        "ended",
    ),
}  # fmt: skip
# Trials with two kills: both actors at once, one after the other, or the same one again while it comes back.
DOUBLE: tuple[tuple[str, tuple[str, ...]], ...] = (
    (ROLLBACK, ("monitor restored 1", "controller restored 1")),
    (ROLLBACK, ("monitor applied 1", "controller applied 1")),
    (ROLLBACK, ("monitor stepped 17", "controller stepped 17")),
    (ROLLBACK, ("monitor rewound 1", "monitor loaded")),
    (ROLLBACK, ("controller written applied 1", "controller returned")),
    (REGRADE, ("monitor judging 10", "monitor judging 10")),
    (REGRADE, ("controller written applied 1", "monitor changing 1")),
    (REGRADE, ("monitor judged 20", "controller entry outcome")),
    (REGRADE, ("controller torn decided 1", "controller returning")),
    (REGRADE, ("monitor saved 8", "monitor loading")),
)
ANY: tuple[tuple[str, str], ...] = (
    (ROLLBACK, "monitor any 17"), (ROLLBACK, "controller any 17"), (ROLLBACK, "monitor verdict 12"),
    (ROLLBACK, "controller verdict 17"), (REGRADE, "monitor any 10"), (REGRADE, "controller any 20"),
    (REGRADE, "monitor verdict 20"), (REGRADE, "controller verdict 10"),
)  # fmt: skip
# Trials in which steps are trained without a verdict.
UNGUARDED: tuple[tuple[str, str, str], ...] = (
    (LATE, ROLLBACK, "monitor judging 5"), (LATE, ROLLBACK, "controller considering 5"),
    (LATE, ROLLBACK, "monitor changing 1"), (LATE, REGRADE, "monitor judging 10"),
    (LATE, REGRADE, "controller written decided 1"), (LATE, REGRADE, "controller considering 15"),
    (LOST, REGRADE, "monitor judging 15"), (LOST, REGRADE, "controller considering 10"),
    (LOST, REGRADE, "controller granting 1"), (LOST, REGRADE, "controller applied 1"),
    (STOPS, ROLLBACK, "monitor judging 12"), (STOPS, ROLLBACK, "controller applied 1"),
    (STOPS, REGRADE, "controller considering 10"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: its number, the run that it repeats, how that goes on (`COURSES`), and the kills in it."""

    number: int
    fault: str
    course: str
    kills: tuple[Kill, ...]


def kill_of(name: str) -> Kill:
    """The kill of a name."""
    victim, point, *key = name.split(" ", 2)
    return Kill(victim, point, *key)


def all_trials() -> tuple[Trial, ...]:
    """All trials. Numbers stay when trials are added at the end of the last group."""
    planned: list[tuple[str, str, tuple[str, ...]]] = []
    for (fault, victim), names in SINGLE.items():
        planned += [(WAITS, fault, (f"{victim} {name}",)) for name in names]
    planned += [(WAITS, fault, names) for fault, names in DOUBLE]
    planned += [(WAITS, fault, (name,)) for fault, name in ANY]
    planned += [(course, fault, (name,)) for course, fault, name in UNGUARDED]
    return tuple(
        Trial(number, fault, course, tuple(map(kill_of, names)))
        for number, (course, fault, names) in enumerate(planned, start=1)
    )


TRIALS = all_trials()
