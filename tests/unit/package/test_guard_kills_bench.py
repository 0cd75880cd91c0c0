"""The benchmark that kills the guard: what it plans, what it counts, and that every defect is counted as what it is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.guard_kills_counts import CONTINUABLE, LATE, LOST, STOPS, WAITS, Record, Row, counted, from_csv, to_csv
from benchmarks.guard_kills_page import FEWEST_KILLS, is_good, page, targets
from benchmarks.guard_kills_plan import ROLLBACK, TRIALS, kill_of
from benchmarks.guard_kills_points import CONTROLLER, MONITOR, POINTS, RANDOM, Arms, Kill
from benchmarks.guard_kills_watch import Delays
from rftfm_ray.actors.guards import MOST_LOSSES
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.types import Levers, StepId


def step(paid: int) -> StepId:
    """A step of a run without a rollback."""
    return StepId(0, paid, paid)


def journal(*parts: tuple[EntryKind, int, dict[str, Scalar]]) -> tuple[Entry, ...]:
    """Entries of one incident, numbered."""
    return tuple(
        Entry(number, kind, step(paid), 0 if kind is EntryKind.STARTED else 1, tuple(fields.items()))
        for number, (kind, paid, fields) in enumerate(parts, start=1)
    )


NAMED: dict[str, Scalar] = {"code": "RF-1", "family": "RF", "onset": 3, "onset_low": 3}
APPLIED: dict[str, Scalar] = {
    "order": 1,
    "remedy": "regrade",
    "role": "remedy",
    "seconds": 0.1,
    "halt": "no",
    "lever_regrade_rate": 1.0,
}
PARTS: list[tuple[EntryKind, int, dict[str, Scalar]]] = [
    (EntryKind.STARTED, 0, {}),
    (EntryKind.OPENED, 3, NAMED),
    (EntryKind.DIAGNOSED, 4, NAMED),
    (EntryKind.DECIDED, 4, {"order": 1, "remedy": "regrade"}),
    (EntryKind.APPLYING, 5, {"order": 1, "remedy": "regrade"}),
    (EntryKind.APPLIED, 5, APPLIED),
    (EntryKind.CLOSED, 9, {"state": "resolved"}),
]
STEPS = tuple(map(step, range(1, 11)))
USUAL = Record(
    entries=journal(*PARTS),
    told=tuple(range(1, 8)),
    carried=(1,),
    levers=Levers(regrade_rate=1.0),
    steps=STEPS,
    judged=frozenset(STEPS),
    unguarded=0,
)
ROW = Row(1, ROLLBACK, WAITS, "monitor judging 3", code="c")
LOSS: tuple[EntryKind, int, dict[str, Scalar]] = (EntryKind.LOST, 8, {"reason": "it died", "judged": 7})


def nonzero(record: Record, course: str = WAITS) -> dict[str, int]:
    """The counts of a record that are not 0."""
    row = counted(replace(ROW, course=course), USUAL, record)
    names = ("alarms_lost", "alarms_doubled", "remedies_lost", "remedies_doubled", "half_applied", "others", "untold",
             "unsaid")  # fmt: skip
    return {name: getattr(row, name) for name in names if getattr(row, name)}


def with_parts(*parts: tuple[EntryKind, int, dict[str, Scalar]], **changes: object) -> Record:
    """The usual record with another journal, all of which was passed on."""
    record = replace(USUAL, entries=journal(*parts), told=tuple(range(1, len(parts) + 1)))
    return replace(record, **changes)  # type: ignore[arg-type]


def test_equal_run_counts_nothing_and_neither_do_seconds_or_a_restart() -> None:
    restored: tuple[EntryKind, int, dict[str, Scalar]] = (EntryKind.RESTORED, 6, {"name": "monitor-0"})
    slower = (EntryKind.APPLIED, 5, APPLIED | {"seconds": 7.0})
    assert nonzero(USUAL) == {}
    assert nonzero(with_parts(*PARTS[:5], slower, restored, PARTS[6])) == {}


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ([*PARTS[:2], *PARTS[3:]], "alarms_lost"),
        ([*PARTS[:3], PARTS[2], *PARTS[3:]], "alarms_doubled"),
        ([*PARTS[:3], *PARTS[4:]], "remedies_lost"),
        ([*PARTS[:4], PARTS[3], *PARTS[4:]], "remedies_doubled"),
        (PARTS[:6], "others"),
        ([*PARTS, (EntryKind.KEPT, 9, {"lever": "regrade_rate"})], "others"),
    ],
)
def test_missing_and_added_entries_are_counted_as_what_they_are(
    changed: list[tuple[EntryKind, int, dict[str, Scalar]]], name: str
) -> None:
    assert nonzero(with_parts(*changed)) == {name: 1}


def test_entry_that_says_something_else_is_lost_and_new() -> None:
    other: tuple[EntryKind, int, dict[str, Scalar]] = (EntryKind.DIAGNOSED, 4, {**NAMED, "code": "RF-3"})
    assert nonzero(with_parts(*PARTS[:2], other, *PARTS[3:])) == {"alarms_lost": 1, "alarms_doubled": 1}


@pytest.mark.parametrize(
    "record",
    [
        replace(USUAL, carried=(1, 1)),  # Carried out twice and journalled once.
        replace(USUAL, carried=()),  # Journalled and not carried out.
        replace(USUAL, levers=Levers()),  # Its levers are not in force.
    ],
)
def test_order_that_took_effect_otherwise_than_the_journal_says_is_half_applied(record: Record) -> None:
    assert nonzero(record) == {"half_applied": 1}


def test_order_that_began_and_did_not_end_is_half_applied() -> None:
    assert nonzero(with_parts(*PARTS[:5], PARTS[6]))["half_applied"] >= 1


def test_order_whose_end_could_not_be_journalled_is_reported_by_the_entry_on_the_loss() -> None:
    reason = "order 1 was carried out, and that could not be journalled"
    named: tuple[EntryKind, int, dict[str, Scalar]] = (EntryKind.LOST, 6, {"reason": reason, "judged": 5})
    judged = frozenset(STEPS[:5])
    for loss, half in ((named, False), (LOSS, True)):
        record = with_parts(*PARTS[:5], loss, judged=judged, unguarded=5)
        assert ("half_applied" in nonzero(record, LOST)) is half


def test_entry_that_was_passed_on_twice_or_never_is_untold() -> None:
    assert nonzero(replace(USUAL, told=(1, 2, 3, 4, 5, 6))) == {"untold": 1}
    assert nonzero(replace(USUAL, told=(1, 2, 2, 3, 4, 5, 6, 7))) == {"untold": 1}


def test_boundary_without_a_verdict_must_be_called_late() -> None:
    late: tuple[EntryKind, int, dict[str, Scalar]] = (EntryKind.LATE, 7, {"waited_s": 0.05})
    passed = (step(7),)
    assert nonzero(replace(USUAL, unjudged=passed), LATE) == {"unsaid": 1}
    assert nonzero(with_parts(*PARTS[:6], late, PARTS[6], unjudged=passed), LATE) == {}


def test_step_without_a_verdict_must_be_reported() -> None:
    judged = frozenset(STEPS[:7])
    assert nonzero(replace(USUAL, judged=judged)) == {"unsaid": 3}
    lost = with_parts(*PARTS[:6], LOSS, judged=judged)
    assert nonzero(replace(lost, unguarded=3), LOST) == {}
    assert nonzero(replace(lost, unguarded=2), LOST) == {"unsaid": 1}
    # Without a summary the entry on the loss says it: after step 7 nobody watched.
    assert nonzero(replace(lost, unguarded=None), STOPS) == {}
    assert nonzero(replace(lost, unguarded=None, judged=frozenset(STEPS[:6])), STOPS) == {"unsaid": 1}


def test_lost_guard_is_asked_for_nothing_after_its_last_verdict_and_late_orders_for_no_step() -> None:
    early = with_parts(*PARTS[:1], (EntryKind.LOST, 3, {"reason": "it died", "judged": 2}), judged=frozenset(STEPS[:2]))
    record = replace(early, carried=(), levers=Levers(), unguarded=8)
    assert nonzero(record, LOST) == {}
    assert nonzero(replace(record, judged=frozenset(STEPS[:3]), unguarded=7), LOST) == {"alarms_lost": 1}
    later = [(kind, paid + (paid > 4), fields) for kind, paid, fields in PARTS]
    assert nonzero(with_parts(*later), LATE) == {}
    assert nonzero(with_parts(*later), WAITS) != {}


@pytest.mark.parametrize(
    "defect",
    [
        {"alarms_lost": 1}, {"alarms_doubled": 1}, {"remedies_lost": 1}, {"remedies_doubled": 1}, {"half_applied": 1},
        {"others": 1}, {"untold": 1}, {"unsaid": 1}, {"unmade": 1}, {"unequal": "grad_norm"}, {"error": "it failed"},
        {"course": STOPS},
    ],
)  # fmt: skip
def test_every_defect_misses_one_target(defect: dict[str, int | str]) -> None:
    rows = [replace(ROW, number=number) for number in range(1, FEWEST_KILLS + 2)]
    assert all(good for _, _, _, good in targets(rows))
    bad = replace(ROW, **defect)  # type: ignore[arg-type]
    assert sum(not good for _, _, _, good in targets([*rows, bad])) == 1
    assert not is_good(bad)
    assert "| NO |" in page([*rows, bad], len(rows), "head")


def test_too_few_kills_miss_their_target() -> None:
    assert [name for name, _, _, good in targets([ROW] * (FEWEST_KILLS - 1)) if not good] == ["kills"]


def test_run_that_has_to_stop_says_how_to_go_on() -> None:
    stopped = replace(ROW, course=STOPS, error=f"The guard was lost before step 8.{CONTINUABLE}")
    assert is_good(stopped)
    assert not is_good(replace(stopped, course=WAITS))


def test_rows_survive_their_file() -> None:
    rows = [replace(ROW, number=2, error='a "quoted", sentence', seconds=1.5), ROW]
    assert list(from_csv(to_csv(rows)).values()) == [rows[1], rows[0]]
    with pytest.raises(ValueError, match="another --out"):
        from_csv("number,fault\n1,x\n")


def test_plan_passes_every_point_with_enough_kills_that_a_guard_survives() -> None:
    kills = [kill for trial in TRIALS for kill in trial.kills]
    assert len(kills) >= FEWEST_KILLS
    assert {kill.point for kill in kills} == set(POINTS)
    assert {kill.victim for kill in kills} == {MONITOR, CONTROLLER}
    assert all(len(trial.kills) < MOST_LOSSES for trial in TRIALS)
    assert [trial.number for trial in TRIALS] == list(range(1, len(TRIALS) + 1))
    assert all(kill_of(kill.name) == kill for kill in kills)
    assert len({(trial.fault, trial.course, trial.kills) for trial in TRIALS}) == len(TRIALS)


def test_kill_is_made_as_often_as_it_is_ordered(tmp_path: Path) -> None:
    once, twice = Kill(MONITOR, "judging", "3"), Kill(CONTROLLER, "entry", "applied 1")
    arms = Arms(tmp_path / "kills")
    arms.arm((once, twice, twice))
    assert [arms.take(once), arms.take(once)] == [True, False]
    assert [arms.take(twice), arms.take(twice), arms.take(twice)] == [True, True, False]
    assert not arms.take(Kill(MONITOR, "judging", "4"))
    assert arms.made() == (once.name, twice.name, twice.name)


@pytest.mark.parametrize(("point", "longest"), zip(RANDOM, (2.0, 0.5), strict=True))
def test_random_delays_are_within_their_span_and_repeat(point: str, longest: float) -> None:
    drawn = [Delays(2.0, 0.5, seed).delay(Kill(MONITOR, point, "3")) for seed in range(200)]
    assert 0 <= min(drawn) < 0.1 * longest
    assert 0.9 * longest < max(drawn) <= longest
    assert math.isclose(drawn[7], Delays(2.0, 0.5, 7).delay(Kill(MONITOR, point, "3")))
