"""How a run ended: no update, far below its start or its best, incidents that nobody has resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from rftfm_ray.config import load_config
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.runs.ending import LEAST_DROP, ending_problems, largest_drop
from rftfm_ray.runs.headline import headline
from rftfm_ray.runs.incidents import incidents_of
from rftfm_ray.runs.reader import Probe, RunData, Steps
from rftfm_ray.runs.verdict import tone, verdict
from rftfm_ray.types import StepId

CONFIG = load_config(None, [])
NAN = math.nan


def probes(*accuracies: float, size: int = 1024) -> tuple[Probe, ...]:
    """Probes five steps apart."""
    return tuple(Probe(5 * n, 5 * n, value, False, NAN, size) for n, value in enumerate(accuracies))


def make(
    asked: tuple[Probe, ...] = (),
    entries: tuple[Entry, ...] = (),
    *overrides: str,
    abandoned: tuple[bool, ...] = (False,) * 4,
    columns: Mapping[str, float] = MappingProxyType({}),
) -> RunData:
    """A run of four steps that were all made, with other values in columns of every step."""
    ids = tuple(StepId(0, n, n) for n in range(1, 5))
    values = {"lr": 3e-4, "vetoes": 0.0, "update_ratio": 1e-3, **columns}
    steps = Steps(ids, abandoned, {name: (value,) * 4 for name, value in values.items()})
    config = load_config(None, list(overrides))
    return RunData(Path("run"), config, steps, asked, entries, (), (), {"steps": 4}, journalled=bool(entries))


def incident(number: int, *kinds: tuple[EntryKind, dict[str, Any]]) -> tuple[Entry, ...]:
    """The entries of an incident after its opening."""
    opened = (EntryKind.OPENED, {"code": "OD-1", "family": "OD"})
    return tuple(
        Entry(n, kind, StepId(0, 3, 3), number, tuple(fields.items()))
        for n, (kind, fields) in enumerate((opened, *kinds), start=1)
    )


Story = tuple[tuple[EntryKind, dict[str, Any]], ...]


def kinds(data: RunData) -> list[str]:
    """Kinds of the problems."""
    return [problem.kind for problem in ending_problems(data)]


def test_run_that_learns_ends_without_a_problem() -> None:
    assert ending_problems(make(probes(0.3, 0.6, 0.95))) == ()
    assert ending_problems(make(probes(0.9, 0.95, 0.88))) == (), "a little lower is within its noise"


@pytest.mark.parametrize(
    ("accuracies", "kind", "message"),
    [
        (
            (0.9, 0.95, 0.4),
            "below_start",
            "Held-out accuracy began at 0.900, was 0.950 after step 5, and ended at 0.400.",
        ),
        ((0.3, 0.95, 0.5), "below_best", "Held-out accuracy was 0.950 after step 5 and ended at 0.500."),
        (
            (0.3, 0.95, 0.1),
            "below_start",
            "Held-out accuracy began at 0.300, was 0.950 after step 5, and ended at 0.100.",
        ),
    ],
)
def test_run_that_ends_far_lower_says_from_where(accuracies: tuple[float, ...], kind: str, message: str) -> None:
    (problem,) = ending_problems(make(probes(*accuracies)))
    assert (problem.kind, problem.message) == (kind, message)
    assert problem.before == accuracies[0 if kind == "below_start" else 1]
    assert problem.after == accuracies[-1]


def test_drop_counts_by_the_size_of_the_probes() -> None:
    """At 16 problems the standard error of a half is an eighth: a fall by a third may be chance."""
    assert kinds(make(probes(0.60, 0.30, size=16))) == []
    assert kinds(make(probes(0.60, 0.30, size=1024))) == ["below_start"]
    (few, equal), (many, same) = probes(0.5, 0.5, size=16), probes(0.5, 0.5, size=100_000)
    # Three standard errors of the difference of two rates of a half.
    assert largest_drop(few, equal) == pytest.approx(3 * math.sqrt(2 * 0.25 / 16), rel=1e-6)
    assert largest_drop(many, same) == LEAST_DROP
    assert largest_drop(few, equal, 100) > largest_drop(few, equal, 10) > largest_drop(few, equal)
    right, also = probes(1.0, 1.0, size=16)
    assert largest_drop(right, also) > 0.1, "the error of a rate of 1 is not 0"


def test_accuracies_that_are_unknown_or_undone_are_left_out() -> None:
    undone = Probe(7, 7, 1.0, True, NAN, 1024)
    assert kinds(make((*probes(0.3, 0.5), undone, *probes(0.3, 0.5)))) == []
    unknown, undone_unknown = (Probe(9, 9, NAN, gone, NAN, 0) for gone in (False, True))
    assert kinds(make((*probes(0.3), unknown, *probes(0.5)))) == []
    assert kinds(make((*probes(0.3), undone_unknown))) == []
    assert kinds(make(probes(0.9))) == []
    assert kinds(make()) == []


def test_end_that_no_verdict_speaks_of_is_a_problem() -> None:
    unknown = Probe(9, 9, NAN, False, NAN, 0)
    (last,) = ending_problems(make((*probes(0.3, 0.9), unknown)))
    said = "The last held-out probe could not be graded; the one of step 5 was 0.900: how good the model is at the end "
    assert (last.kind, last.message) == ("ungraded", f"{said}is not known.")
    (every,) = ending_problems(make((unknown, unknown)))
    assert every.message == "No held-out probe could be graded: how good the model is at the end is not known."
    assert kinds(make((*probes(0.9, 0.3), unknown))) == ["below_start", "ungraded"], "what is known counts too"


@pytest.mark.parametrize(
    ("columns", "overrides", "why"),
    [
        ({"lr": 0.0, "update_ratio": 0.0}, (), "the learning rate was 0 in every step"),
        ({"lr": 0.0, "update_ratio": NAN}, (), "the learning rate was 0 in every step"),
        ({"vetoes": 1.0, "update_ratio": 0.0}, (), "4 updates were refused"),
        ({"vetoes": 1.0, "update_ratio": NAN}, (), "4 updates were refused"),
        ({"vetoes": 2.0, "update_ratio": NAN}, ("algorithm.minibatches=2",), "8 updates were refused"),
        ({"update_ratio": 0.0}, (), "no weight changed"),
    ],
)
def test_run_without_a_single_update_says_why(columns: dict[str, float], overrides: tuple[str, ...], why: str) -> None:
    (problem,) = ending_problems(make((), (), *overrides, columns=columns))
    assert (problem.kind, problem.message) == ("no_update", f"The model was never updated in 4 steps: {why}.")


def test_one_update_is_enough() -> None:
    half = make((), (), "algorithm.minibatches=2", columns={"vetoes": 1.0, "update_ratio": NAN})
    assert kinds(half) == [], "one of two minibatches was refused"
    undone = make(abandoned=(True,) * 4, columns={"lr": 0.0})
    assert kinds(undone) == [], "no step is left to be judged"


@pytest.mark.parametrize(
    ("story", "words"),
    [
        (((EntryKind.CLOSED, {"state": "escalated", "reason": "x"}),), "was escalated to a person"),
        (((EntryKind.CLOSED, {"state": "given_up", "reason": "x"}),), "was given up: no remedy was left"),
        (((EntryKind.DIAGNOSED, {"code": "OD-1", "family": "OD"}),), "was still open at the end"),
    ],
    ids=["escalated", "given up", "diagnosed"],
)
def test_incident_that_nobody_resolved_is_a_problem(
    story: tuple[tuple[EntryKind, dict[str, Any]], ...], words: str
) -> None:
    (problem,) = ending_problems(make(probes(0.3, 0.9), incident(2, *story)))
    assert problem.kind == "incident"
    assert problem.incident == 2
    assert problem.message == f"Incident #2 (OD-1, opened at step 3) {words}."


@pytest.mark.parametrize("state", ["resolved", "cleared", None], ids=str)
def test_incident_that_is_over_or_only_suspected_is_no_problem(state: str | None) -> None:
    story = [(EntryKind.CLOSED, {"state": state, "reason": "the alarm cleared"})] if state else []
    assert ending_problems(make(probes(0.3, 0.9), incident(1, *story))) == ()
    (problem,) = ending_problems(make(probes(0.9, 0.9, 0.05), incident(1, *story)))
    assert problem.kind == "below_start", "what it did shows in the accuracy"


def test_run_with_a_cleared_incident_is_not_called_good() -> None:
    closed = (EntryKind.CLOSED, {"state": "cleared", "reason": "the alarm cleared"})
    data = make(probes(0.9, 0.9), (Entry(1, EntryKind.STARTED, StepId(0, 0, 0), 0, ()), *incident(1, closed)))
    incidents = incidents_of(data.entries)
    assert tone(data, incidents) == "open"
    assert "1 cleared, not verified" in verdict(data, incidents, ())[1][0]


@pytest.mark.parametrize(
    ("accuracies", "state", "expected"),
    [
        ((0.3, 0.9), "", []),
        ((0.9, 0.3), "", ["below_start"]),
        ((), "", ["incident"]),
        ((0.3, 0.9), "cleared", []),
        ((0.3, 0.9), "escalated", ["incident"]),
        ((0.3, 0.9), "given_up", ["incident"]),
        ((0.9, 0.3), "escalated", ["below_start", "incident"]),
    ],
)
def test_what_no_known_fault_explains_is_a_problem_where_a_person_must_look_or_accuracy_does_not_clear_it(
    accuracies: tuple[float, ...], state: str, expected: list[str]
) -> None:
    unknown = (EntryKind.DIAGNOSED, {"code": "UNKNOWN", "family": "UNKNOWN"})
    closed = [(EntryKind.CLOSED, {"state": state, "reason": "x"})] if state else []
    data = make(probes(*accuracies), incident(1, unknown, *closed))
    assert kinds(data) == expected
    assert tone(data, incidents_of(data.entries)) == ("bad" if expected else "open")


def test_run_whose_guard_was_lost_for_good_ends_with_a_problem() -> None:
    entries = (
        Entry(1, EntryKind.STARTED, StepId(0, 0, 0), 0, (("mode", "observe"),)),
        Entry(2, EntryKind.LOST, StepId(0, 2, 2), 0, (("reason", "monitor-0 died"), ("judged", 1))),
        Entry(3, EntryKind.ENDED, StepId(0, 4, 4), 0, (("unguarded", 3),)),
    )
    data = make(probes(0.3, 0.9), entries)
    data = replace(data, events=({"kind": "guard_lost", "reason": "monitor-0 died"},))
    (problem,) = ending_problems(data)
    assert problem.kind == "guard_lost"
    assert problem.message == "The guard was lost on the way, after step 1; 3 steps unguarded: monitor-0 died."
    assert tone(data, ()) == "bad"
    paragraphs = [headline(data, (), ()), *verdict(data, (), ())[1]]
    assert sum("monitor-0 died" in text for text in paragraphs) == 1, "it is said once"
