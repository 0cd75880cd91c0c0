"""What a report says of what was brought about on purpose: faults that grow or are learnt, controls and changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rftfm_ray.config import parse_config
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.report import build_report
from rftfm_ray.runs.incidents import Incident
from rftfm_ray.runs.planned import (
    background_words,
    change_words,
    changes_of,
    control_words,
    controls_of,
    disturbances_of,
    drill,
    faults_of,
)
from rftfm_ray.telemetry.events import EventLog
from rftfm_ray.telemetry.parts import PartFolder
from rftfm_ray.telemetry.recorder import STEP_SCHEMA
from rftfm_ray.types import StepId
from tests.unit.doubles import row

Event = dict[str, Scalar]
RAMP: Event = {
    "kind": "fault", "code": "RF-1", "mechanism": "outliers", "strength": 2.0, "switch_step": 4, "effect_step": 13,
    "ramp": 9, "duration": None,
}  # fmt: skip
LEARNED: Event = {"kind": "fault", "code": "RF-3", "mechanism": "last_character", "switch_step": 3, "effect_step": None}
BEGUN: Event = {"kind": "fault_effect", "code": "RF-3", "mechanism": "last_character", "effect_step": 14}
CONTROL: Event = {"kind": "control", "name": "slow_tool", "declared": False, "strength": 0.005, "switch_step": 6}
CHANGE: Event = {
    "kind": "declared", "key": "learner.lr", "old": 2e-4, "new": 6e-5, "attempt": 0, "step": 9, "paid_step": 9,
}  # fmt: skip


def incident(opened: int, code: str = "RF-1") -> Incident:
    """An incident that was opened at a consumed step."""
    entry = Entry(1, EntryKind.OPENED, StepId(0, opened, opened), 1, (("code", code),))
    result = Incident(1, entry.id)
    result.entries.append(entry)
    return result


@pytest.mark.parametrize(
    ("opened", "said"),
    [
        (15, "opened 2 consumed steps later"),
        (13, "opened at that very step"),
        (8, "opened 5 consumed steps before its effect"),
    ],
)
def test_fault_that_grows_is_marked_where_it_began_and_its_delay_counts_from_its_effect(opened: int, said: str) -> None:
    (fault,) = faults_of([RAMP])
    assert (fault.onset, fault.full, fault.effect) == (4, 13, 13)
    words = drill(fault, [incident(opened)], 30)
    assert "from consumed step 4 on, growing to its full strength of 2 at consumed step 13;" in words
    assert said in words


def test_background_is_named_with_its_sizes_as_far_as_they_can_be_read() -> None:
    event: Event = {"kind": "background", "tool_failures": 0.0212, "verifier_errors": 0.005, "walk": "far", "x": -1.0}
    assert background_words(disturbances_of([RAMP, event])) == (
        "Background of an experiment, from the first step to the last: tool_failures=0.0212, verifier_errors=0.005."
    )
    assert background_words(disturbances_of([RAMP, CONTROL])) == ""


def test_fault_that_is_learnt_says_when_its_effect_began_and_whether_it_did() -> None:
    (waiting,), (begun,) = faults_of([LEARNED]), faults_of([LEARNED, BEGUN])
    assert "; it has had no effect yet; no incident" in drill(waiting, [], 30)
    assert "; its effect began at consumed step 14; no incident" in drill(begun, [], 30)
    assert "opened 3 consumed steps later" in drill(begun, [incident(17, "RF-3")], 30)


def test_control_that_nobody_declared_says_whether_it_was_taken_for_a_fault() -> None:
    (control,) = controls_of([CONTROL, CONTROL])
    assert control_words(control, [], 30) == (
        "Benign control: slow_tool from consumed step 6 on, which nobody declared; no incident was opened after it."
    )
    assert "incident 1 was opened 3 consumed steps later" in control_words(control, [incident(9)], 30)
    assert "has not come so far" in control_words(control, [], 5)
    assert controls_of([CONTROL | {"kind": "twin"}]) == (control,), "as older records call it"
    (declared,) = controls_of([CONTROL | {"declared": True}])
    assert control_words(declared, [], 30).endswith("which was declared.")


def test_declared_change_is_told_in_full() -> None:
    (change,) = changes_of([CHANGE])
    assert change_words(change) == "Declared: learner.lr from 0.0002 to 6e-05 at step 9."


@pytest.mark.parametrize(
    "event",
    [RAMP | {"switch_step": "soon"}, CONTROL | {"switch_step": -1}, CHANGE | {"old": "much"}, CHANGE | {"step": None},
     {"kind": "fault"}, {"kind": "control"}, {"kind": "declared"}],
)  # fmt: skip
def test_records_that_tell_nothing_are_left_out(event: Event) -> None:
    assert (faults_of([event]), controls_of([event]), changes_of([event])) == ((), (), ())


def test_marks_and_sentences_stand_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(parse_config({"steps": 12}).to_yaml())
    PartFolder(tmp_path / "steps", STEP_SCHEMA).write([row(StepId(0, n, n)) for n in range(1, 18)])
    log = EventLog(tmp_path / "events.jsonl")
    for event in (RAMP, LEARNED, BEGUN, CONTROL):
        log.append(str(event["kind"]), None, **{key: value for key, value in event.items() if key != "kind"})
    log.append("declared", StepId(0, 9, 9), key="<b>learner.lr", old=2e-4, new=6e-5)
    log.close()
    html = build_report(tmp_path)
    assert html.count('id="reward-injected-') == 2
    assert html.count('id="reward-planned-') == 2
    # They would run into each other, and stand there as one.
    assert ">injected RF-3, injected RF-1, control slow_tool, lr</text>" in html.replace("&lt;b&gt;learner.", "")
    assert "declared change, or injected benign control" in html
    assert "Declared: &lt;b&gt;learner.lr from 0.0002 to 6e-05 at step 9." in html
    assert "its effect began at consumed step 14" in html
