"""Checks of what actors answer, and how outcomes are gathered, shown and written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.preflight.findings import Checked, Finding, Grade, NotRun, Outcome, listed, of_data, run_checks, skipped
from rftfm_ray.preflight.live import CHECKS, LiveFacts, Sampled
from tests.unit.preflight.doubles import finding, names


def sampled(groups: int = 8, size: int = 8, right: float = 0.5) -> list[Sampled]:
    """Groups of answers of which a share is right."""
    return [
        Sampled(g, False, False, float(k < right * size), k < right * size) for g in range(groups) for k in range(size)
    ]


SOUND = LiveFacts(1e-5, 1e-3, 1e-5, False, tuple(sampled()), 0.0)


def checked(facts: LiveFacts) -> Checked:
    """The checks of what actors answer."""
    return run_checks(CHECKS, facts)


def test_sound_actors_are_silent() -> None:
    assert (checked(SOUND).findings, checked(SOUND).not_run) == ((), ())


@pytest.mark.parametrize(
    ("facts", "check"),
    [
        (replace(SOUND, gap=2e-3), "live.parity"),
        (replace(SOUND, gap=math.inf), "live.parity"),
        (replace(SOUND, short_gap=0.2), "live.one_token"),
        (replace(SOUND, mismatched=True), "live.weights"),
        (replace(SOUND, resumed=1e-7), "live.resume"),
        (replace(SOUND, sampled=tuple(sampled(right=0.0))), "live.groups"),
        (replace(SOUND, sampled=tuple(replace(s, cut_off=True) for s in SOUND.sampled)), "live.cut_off"),
        (replace(SOUND, sampled=tuple(replace(s, tool_failed=True) for s in SOUND.sampled)), "live.tools"),
    ],
)
def test_what_is_broken_is_critical(facts: LiveFacts, check: str) -> None:
    outcome = checked(facts)
    assert names(outcome) == {check}
    assert finding(outcome, check).grade is Grade.CRITICAL


def test_answers_without_a_verdict_are_counted() -> None:
    without = tuple(replace(s, reward=math.nan) if i % 4 == 0 else s for i, s in enumerate(SOUND.sampled))
    found = finding(checked(replace(SOUND, sampled=without)), "live.verdicts")
    assert (found.grade, "on 16 of 64 answers" in found.what) == (Grade.WARNING, True)
    unasked = tuple(replace(s, reward=math.nan, asked=False) for s in SOUND.sampled)
    assert "live.verdicts" in {each.check for each in checked(replace(SOUND, sampled=unasked)).not_run}


def test_solved_task_is_a_warning_and_an_unsolved_one_critical() -> None:
    found = finding(checked(replace(SOUND, sampled=tuple(sampled(right=1.0)))), "live.groups")
    assert (found.grade, "100% of the answers are right" in found.what) == (Grade.WARNING, True)
    found = finding(checked(replace(SOUND, sampled=tuple(sampled(right=0.0)))), "live.groups")
    assert "8 of 8 groups" in found.what
    assert "0% of the answers are right, and 64 of 64 are paid 0" in found.what


def test_few_groups_that_are_equal_are_a_warning_but_where_all_answers_are_one_group() -> None:
    few = replace(SOUND, sampled=tuple(sampled(7, right=0.0)))
    assert finding(checked(few), "live.groups").grade is Grade.WARNING
    one = replace(SOUND, sampled=tuple(replace(s, group=0) for s in sampled(7, right=0.0)))
    assert finding(checked(one), "live.groups").grade is Grade.CRITICAL


def test_one_group_with_a_difference_is_enough_of_four_and_not_of_twenty() -> None:
    one = (*sampled(1), *(replace(s, group=s.group + 1) for s in sampled(3, right=0.0)))
    assert checked(replace(SOUND, sampled=one)).findings == ()
    many = (*sampled(1), *(replace(s, group=s.group + 1) for s in sampled(19, right=0.0)))
    assert finding(checked(replace(SOUND, sampled=many)), "live.groups").grade is Grade.WARNING


@pytest.mark.parametrize(("cut", "grade"), [(15, None), (16, Grade.WARNING), (57, Grade.WARNING), (58, Grade.CRITICAL)])
def test_share_of_cut_answers_has_two_limits(cut: int, grade: Grade | None) -> None:
    answers = tuple(replace(s, cut_off=i < cut) for i, s in enumerate(SOUND.sampled))
    found = checked(replace(SOUND, sampled=answers)).findings
    assert [each.grade for each in found] == ([] if grade is None else [grade])


def test_nothing_asked_is_not_run_with_its_reason() -> None:
    nothing = LiveFacts(math.nan, 1e-3, math.nan, None, ())
    outcome = checked(nothing)
    assert outcome.findings == ()
    assert outcome.passed == ()
    assert {each.check for each in outcome.not_run} == set(CHECKS)
    assert all(each.reason for each in outcome.not_run)


def broken(facts: int) -> NoReturn:
    """A check with a bug."""
    raise IndexError(f"no row {facts}")


def test_check_that_raises_has_not_run_and_leaves_the_others() -> None:
    def sound(facts: int) -> Outcome:
        return None

    def found(facts: int) -> Outcome:
        return Finding(Grade.NOTE, "It is odd.", "So what.", "steps")

    outcome = run_checks({"a": broken, "b": sound, "c": found}, 3)
    assert outcome.not_run == (NotRun("IndexError: no row 3", "a"),)
    assert outcome.passed == ("b",)
    assert outcome.findings == (Finding(Grade.NOTE, "It is odd.", "So what.", "steps", "c"),)
    assert skipped({"a": broken, "b": sound}, "no time").not_run == (NotRun("no time", "a"), NotRun("no time", "b"))


def test_summary_counts_and_names_what_has_not_run() -> None:
    finding_ = Finding(Grade.CRITICAL, "What.", "Why.", "steps", "c")
    outcome = Checked((finding_,), ("a", "b"), (NotRun("no time", "d"),), 17, 1.26)
    assert outcome.summary() == (
        "Preflight: 3 checks ran in 1.3 s, 1 found something (1 critical); the verifier was asked 17 times; not run: d."
    )
    assert "asked 17 times (5 more were left out); not run" in replace(outcome, left_out=5).summary()
    assert str(finding_) == "c: What. Why. Key: steps."


@given(st.text(), st.sampled_from(Grade), st.text(), st.floats(0, 1e6))
def test_json_holds_every_finding_on_one_line(what: str, grade: Grade, reason: str, seconds: float) -> None:
    outcome = Checked((Finding(grade, what, "w", "k", "c"),), ("p",), (NotRun(reason, "n"),), 3, seconds)
    line = outcome.to_json()
    assert "\n" not in line
    read = json.loads(line)
    assert read["findings"] == [{"check": "c", "grade": grade.value, "what": what, "why": "w", "key": "k"}]
    assert read["not_run"] == [{"check": "n", "reason": reason}]
    assert (read["passed"], read["verdicts"]) == (["p"], 3)
    assert read["seconds"] == pytest.approx(seconds, abs=1e-3)


def test_sum_of_outcomes_keeps_all() -> None:
    part = Checked(passed=("a",), verdicts=1, seconds=0.5)
    assert part + part == Checked(passed=("a", "a"), verdicts=2, seconds=1.0)


@pytest.mark.parametrize(("count", "text"), [(1, "0"), (4, "0, 1, 2, 3"), (6, "0, 1, 2, 3 and 2 more")])
def test_long_lists_are_cut(count: int, text: str) -> None:
    assert listed([str(n) for n in range(count)]) == text


def test_findings_about_a_data_set_name_its_own_keys() -> None:
    keys = {
        "reward.hidden": ("task.name", "reward.functions"), "live.verdicts": ("task.name", "reward.functions"),
        "rows.blank": ("task.name", "data.train"), "live.cut_off": ("task.token_scale", "data.max_new_tokens"),
        "live.parity": ("sync.dtype", "sync.dtype"),
    }  # fmt: skip
    found = Checked(tuple(Finding(Grade.WARNING, "What.", "Why.", old, check) for check, (old, _) in keys.items()))
    assert [finding.key for finding in of_data(found).findings] == [new for _, new in keys.values()]
