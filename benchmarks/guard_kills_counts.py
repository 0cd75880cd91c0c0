"""What a trial of `benchmarks.guard_kills` recorded, compared with the same run without a kill. Pure."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields, replace

from rftfm_ray.incidents.state import Entry, EntryKind, replay
from rftfm_ray.types import Levers, StepId

# Entries that only a restart or a slow verdict adds.
ADDED = (EntryKind.RESTORED, EntryKind.LATE)
ALARMS = (EntryKind.OPENED, EntryKind.DIAGNOSED)
REMEDIES = (EntryKind.DECIDED, EntryKind.CONFIRMED, EntryKind.UNCONFIRMED, EntryKind.RETURNING, EntryKind.APPLYING,
            EntryKind.APPLIED, EntryKind.FAILED)  # fmt: skip
WAITS, LATE, LOST, STOPS = "waits", "late", "lost", "stops"
COURSES = {
    WAITS: "boundaries wait for the guard as long as it takes to bring it back, so nothing may differ",
    LATE: "boundaries wait for 0.5 s, less than a restart takes, so steps are trained before the verdict on the step "
    "before; each must be journalled as late",
    LOST: "the first loss counts as final and `guard.on_lost=continue`: every unguarded step must be reported",
    STOPS: "the first loss counts as final and `guard.on_lost=stop`: the run must end with a checkpoint",
}
"""How a run goes on after the kill."""
# Ends the error of a run that stopped as it should.
CONTINUABLE = " It left a valid checkpoint and the command that continues."


@dataclass(frozen=True, slots=True)
class Record:
    """What a run left behind, and what its driver saw.

    Attributes:
        entries: the journal.
        told: numbers of the entries that the run passed on to its listener, in order.
        carried: numbers of the orders that the driver carried out to their end.
        levers: in force in the driver at the end.
        steps: the steps that have a row.
        judged: the steps whose report got a verdict.
        unjudged: boundaries that were passed while a report before them had no verdict.
        unguarded: steps without a verdict that the run's summary reports; None without a summary.
    """

    entries: tuple[Entry, ...] = ()
    told: tuple[int, ...] = ()
    carried: tuple[int, ...] = ()
    levers: Levers = field(default_factory=Levers)
    steps: tuple[StepId, ...] = ()
    judged: frozenset[StepId] = frozenset()
    unjudged: tuple[StepId, ...] = ()
    unguarded: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One finished trial.

    Attributes:
        number: of the trial; it determines everything up to `kills`.
        fault: name of the run that it repeats.
        course: a name of `COURSES`.
        kills: names of the planned kills, separated by semicolons.
        code: digest of the sources of the package and of this benchmark.
        unmade: planned kills whose point was not passed.
        restarts: actors that came back.
        late: boundaries that the journal calls late.
        unguarded: steps without a verdict that the run reports after the guard was lost for good.
        alarms_lost: entries of the usual run on alarms and diagnoses that are missing.
        alarms_doubled: such entries that the usual run does not have.
        remedies_lost: entries of the usual run on orders that are missing.
        remedies_doubled: such entries that the usual run does not have.
        half_applied: orders that did not begin once, end once and take effect once, as the journal says.
        others: all other entries that are missing or that the usual run does not have.
        untold: entries that the run did not pass on to its listener exactly once.
        unsaid: steps that were trained without a verdict, and that the run does not report.
        unequal: columns of the rows that differ from the usual run, times aside, separated by semicolons.
        error: why the run ended early.
        seconds: it took.
    """

    number: int
    fault: str
    course: str
    kills: str
    code: str = ""
    unmade: int = 0
    restarts: int = 0
    late: int = 0
    unguarded: int = 0
    alarms_lost: int = 0
    alarms_doubled: int = 0
    remedies_lost: int = 0
    remedies_doubled: int = 0
    half_applied: int = 0
    others: int = 0
    untold: int = 0
    unsaid: int = 0
    unequal: str = ""
    error: str = ""
    seconds: float = 0.0

    @property
    def ended_as_it_should(self) -> bool:
        """Whether the run ended as its course says."""
        return self.error.endswith(CONTINUABLE) if self.course == STOPS else not self.error


Key = Callable[[Entry], Hashable]


def exact(entry: Entry) -> Hashable:
    """Everything that an entry says but how long something took."""
    return entry.kind, entry.id, entry.incident, tuple(item for item in entry.fields if item[0] != "seconds")


def coarse(entry: Entry) -> Hashable:
    """What an entry says that does not depend on the step of a boundary."""
    return entry.kind, entry.incident, entry.text("code"), entry.text("remedy")


def difference(usual: Sequence[Entry], own: Sequence[Entry], kinds: Iterable[EntryKind], key: Key) -> tuple[int, int]:
    """Entries of some kinds that are lost, and those that are doubled or new."""
    wanted = set(kinds)
    first, second = (Counter(key(entry) for entry in entries if entry.kind in wanted) for entries in (usual, own))
    return (first - second).total(), (second - first).total()


def half_applied(record: Record) -> int:
    """Orders that did not begin once, end once and take effect once, and levers that the journal does not know.

    An order whose end could not be journalled because the guard was lost counts unless the entry on the loss names it.
    """
    counts = {
        kind: Counter(entry.integer("order") for entry in record.entries if entry.kind is kind)
        for kind in (EntryKind.APPLYING, EntryKind.APPLIED, EntryKind.FAILED)
    }
    begun, applied, failed = counts.values()
    carried = Counter(record.carried)
    lost = " ".join(entry.text("reason") for entry in record.entries if entry.kind is EntryKind.LOST)
    numbers = {*begun, *applied, *failed, *carried}
    bad = {
        number
        for number in numbers
        if (begun[number], applied[number] + failed[number]) != (1, 1) or carried[number] != applied[number]
    }
    bad -= {number for number in bad if f"order {number} " in lost}
    # After the last order was reported as unknown, nothing is asked of the levers.
    known = not lost or bool(bad)
    moved = known and record.levers != replay(record.entries).levers
    return len(bad) + moved


def untold(record: Record) -> int:
    """Entries that the run did not pass on to its listener exactly once."""
    told = Counter(record.told)
    return sum(told[entry.seq] != 1 for entry in record.entries)


def unsaid(record: Record) -> int:
    """Steps that were trained without a verdict on what came before, and that the run does not report.

    A boundary that did not wait must be journalled as late. A step that never got a verdict must be in the number that
    the summary reports, or lie after the last judged step of the entry on the guard's loss where there is no summary.
    """
    late = {entry.id for entry in record.entries if entry.kind is EntryKind.LATE}
    lost = next((entry for entry in record.entries if entry.kind is EntryKind.LOST), None)
    end = float("inf") if lost is None else lost.id.paid_step
    passed = sum(step.paid_step < end and step not in late for step in record.unjudged)
    never = [step for step in record.steps if step not in record.judged]
    if record.unguarded is not None:
        reported = record.unguarded
    elif lost is None:
        reported = 0
    else:
        reported = sum(step.attempt == lost.id.attempt and step.step > lost.integer("judged") for step in never)
    return passed + abs(len(never) - reported)


def counted(row: Row, usual: Record, own: Record) -> Row:
    """A row with its counts; its course says how much of the usual run has to be there."""
    if row.course == LATE:
        # A late order is carried out some steps later, and what follows it is another course of the run.
        alarms = difference(usual.entries, own.entries, (EntryKind.OPENED,), coarse)
        remedies, others = difference(usual.entries, own.entries, (EntryKind.APPLIED,), coarse), (0, 0)
    elif row.course in (LOST, STOPS):
        last = max((step.paid_step for step in own.judged), default=0)
        expected = [entry for entry in usual.entries if entry.id.paid_step <= last]
        alarms = difference(expected, own.entries, ALARMS, exact)
        # Orders of the boundary at which the guard was lost are those of a step without a verdict.
        lost, _ = difference(expected, own.entries, REMEDIES, exact)
        _, doubled = difference(usual.entries, own.entries, REMEDIES, exact)
        remedies, others = (lost, doubled), (0, 0)
    else:
        rest = tuple(kind for kind in EntryKind if kind not in (*ADDED, *ALARMS, *REMEDIES))
        alarms, remedies, others = (
            difference(usual.entries, own.entries, kinds, exact) for kinds in (ALARMS, REMEDIES, rest)
        )
    return replace(
        row,
        alarms_lost=alarms[0],
        alarms_doubled=alarms[1],
        remedies_lost=remedies[0],
        remedies_doubled=remedies[1],
        half_applied=half_applied(own),
        others=sum(others),
        untold=untold(own),
        unsaid=unsaid(own),
    )


_READERS: dict[str, Callable[[str], int | float | str]] = {"int": int, "float": float, "str": str}


def to_csv(rows: Iterable[Row]) -> str:
    """Rows as CSV, in order of their numbers."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in fields(Row)])
    writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: row.number))
    return file.getvalue()


def from_csv(text: str) -> dict[int, Row]:
    """Rows by their numbers.

    Raises:
        ValueError: when the columns are not those of this version.
    """
    reader = csv.DictReader(io.StringIO(text))
    names = [column.name for column in fields(Row)]
    if reader.fieldnames != names:
        raise ValueError("the columns are those of another version of this benchmark; give another --out")
    readers = [_READERS[str(column.type)] for column in fields(Row)]
    rows = [Row(*(read(line[name]) for name, read in zip(names, readers, strict=True))) for line in reader]  # type: ignore[arg-type]
    return {row.number: row for row in rows}
