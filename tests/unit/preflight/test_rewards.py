"""Checks of the reward: each finds a reward with its bug, and is silent on the sound one."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import pytest
import torch

from rftfm_ray.preflight.asking import AskLimits
from rftfm_ray.preflight.findings import Checked, Grade
from rftfm_ray.preflight.rewards import CHECKS, SLOW_STEP_S
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Observation, Problem, Task, ToolCall, ToolStatus, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from tests.unit.preflight.doubles import LIMITS, Reward, Sums, asked, finding, is_right, judged, last, names, sums

QUICK = AskLimits(verdicts=400, seconds=1.0, call_s=0.2, workers=8)


@pytest.mark.parametrize("task", [Sums(), Addition(), Calculator()], ids=lambda task: task.name)
def test_sound_task_is_silent_in_every_check(task: Task) -> None:
    checked = judged(task)
    assert checked.findings == ()
    assert checked.not_run == ()
    assert set(checked.passed) == set(CHECKS)


def binary(problem: Problem, transcript: Transcript) -> float:
    """1 for the right answer."""
    return float(is_right(problem, transcript))


@pytest.mark.parametrize(
    ("reward", "cause"),
    [
        (lambda p, t: None, "returns Verdict(reward=None"),
        (lambda p, t: float("nan"), "returns Verdict(reward=nan"),
        (lambda p, t: torch.tensor(binary(p, t)), "returns Verdict(reward=tensor("),
        (lambda p, t: str(binary(p, t)), "returns Verdict(reward='"),
        (lambda p, t: [binary(p, t)], "returns Verdict(reward=["),
        (lambda p, t: 1 / 0, "raises ZeroDivisionError"),
    ],
    ids=["None", "NaN", "tensor", "text", "list", "raises"],
)
def test_reward_that_always_fails_is_critical_with_its_cause(reward: Reward, cause: str) -> None:
    found = finding(judged(sums(lambda p, t: Verdict(reward(p, t), is_right(p, t)))), "reward.fails")
    assert (found.grade, found.key) == (Grade.CRITICAL, "task.name")
    assert f"The verifier {cause}" in found.what


@pytest.mark.parametrize("value", [None, 1.0, (1.0, True), {"reward": 1.0}])
def test_verifier_that_gives_no_verdict_is_critical(value: object) -> None:
    found = finding(judged(sums(lambda p, t: value)), "reward.fails")
    assert found.grade is Grade.CRITICAL
    assert type(value).__name__ in found.what or repr(value) in found.what


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64, int, bool])
def test_finite_number_of_any_type_is_taken(kind: Any) -> None:
    checked = judged(sums(lambda p, t: Verdict(kind(is_right(p, t)), np.bool_(is_right(p, t)))))  # type: ignore[arg-type]
    assert checked.findings == ()


def test_failure_on_wrong_answers_alone_is_critical_because_nothing_is_compared() -> None:
    """A mean over nothing: right answers are all that is not masked."""
    found = finding(
        judged(sums(lambda p, t: Verdict(1.0 if is_right(p, t) else float("nan"), is_right(p, t)))), "reward.fails"
    )
    assert found.grade is Grade.CRITICAL
    assert "nothing is learnt" in found.why


def test_failure_on_odd_texts_alone_is_a_warning_that_names_them() -> None:
    def parsed(problem: Problem, transcript: Transcript) -> Verdict:
        right = last(transcript).strip().isascii() and is_right(problem, transcript)
        if "\x00" in last(transcript) or len(last(transcript)) > 4300:
            raise ValueError("unreadable")
        return Verdict(float(right), right)

    found = finding(judged(sums(parsed)), "reward.fails")
    assert found.grade is Grade.WARNING
    assert "raises ValueError" in found.what
    assert "a very long" in found.what


def test_constant_reward_is_critical() -> None:
    checked = judged(sums(lambda p, t: Verdict(0.5, is_right(p, t))))
    assert names(checked) == {"reward.same"}
    assert "are paid 0.5" in finding(checked, "reward.same").what
    assert finding(checked, "reward.same").grade is Grade.CRITICAL


def test_inverted_reward_is_critical() -> None:
    checked = judged(sums(lambda p, t: Verdict(-binary(p, t), is_right(p, t))))
    found = finding(checked, "reward.right")
    assert found.grade is Grade.CRITICAL
    assert "paid -1 on average, less than a wrong one with 0" in found.what


def test_reward_for_a_comparison_with_the_prompt_is_critical() -> None:
    checked = judged(sums(lambda p, t: Verdict(float(last(t) == p.prompt), is_right(p, t))))
    assert finding(checked, "reward.right").grade is Grade.CRITICAL
    assert "the prompt again" in finding(checked, "reward.nothing").what


def test_bonus_for_length_without_a_cap_is_found() -> None:
    checked = judged(sums(lambda p, t: Verdict(binary(p, t) + 0.3 * len(last(t)), is_right(p, t))))
    assert "a very long text" in finding(checked, "reward.wrong").what


def test_partial_credit_for_contained_digits_is_found_as_hidden() -> None:
    def shared(problem: Problem, transcript: Transcript) -> Verdict:
        wanted = set(problem.answer)
        return Verdict(sum(c in last(transcript) for c in wanted) / len(wanted), is_right(problem, transcript))

    checked = judged(sums(shared))
    found = finding(checked, "reward.hidden")
    assert found.grade is Grade.WARNING
    assert "reward.right" not in names(checked)


def test_default_reward_above_that_of_a_wrong_answer_pays_for_doing_nothing() -> None:
    """A parser that gives its default of 0 to what it cannot read, beside -1 for a wrong number."""

    def defaulting(default: float) -> Reward:
        def verify(problem: Problem, transcript: Transcript) -> Verdict:
            if not last(transcript).strip().lstrip("-").isdecimal():
                return Verdict(default, correct=False)
            return Verdict(1.0 if is_right(problem, transcript) else -1.0, is_right(problem, transcript))

        return verify

    checked = judged(sums(defaulting(0.0)))
    assert names(checked) == {"reward.nothing"}
    found = finding(checked, "reward.nothing")
    assert found.grade is Grade.WARNING
    assert "paid more than an honest wrong answer: a blank" in found.what
    assert judged(sums(defaulting(-1.0))).findings == ()


def test_refusing_to_answer_may_be_paid_more_than_a_wrong_answer() -> None:
    def abstaining(problem: Problem, transcript: Transcript) -> Verdict:
        reward = 0.0 if last(transcript) == "I don't know." else 2 * binary(problem, transcript) - 1
        return Verdict(reward, is_right(problem, transcript))

    assert judged(sums(abstaining)).findings == ()


def test_doing_nothing_paid_as_a_right_answer_is_critical() -> None:
    checked = judged(sums(lambda p, t: Verdict(float(p.answer.startswith(last(t).strip())), is_right(p, t))))
    assert finding(checked, "reward.nothing").grade is Grade.CRITICAL


def test_verifier_that_calls_wrong_answers_right_is_critical() -> None:
    checked = judged(sums(lambda p, t: Verdict(binary(p, t), correct=last(t).isdecimal())))
    assert finding(checked, "reward.marked").grade is Grade.CRITICAL


def test_reference_that_is_refused_is_counted() -> None:
    def picky(problem: Problem, transcript: Transcript) -> Verdict:
        right = is_right(problem, transcript) and int(problem.key) % 4 > 0
        return Verdict(float(right), right)

    found = finding(judged(sums(picky)), "reward.reference")
    assert found.grade is Grade.WARNING
    assert found.what == "The verifier calls 5 of 20 references wrong."


def test_reference_that_raises_is_counted_and_leaves_the_other_rows() -> None:
    def reference(self: Task, problem: Problem) -> Transcript:
        if int(problem.key) % 2:
            raise LookupError(problem.answer)
        return Transcript((problem.answer,))

    found = finding(judged(sums(reference=reference)), "reward.reference")
    assert found.what == "Task.reference raises LookupError for 16 of 32 problems of the pool."


def test_judge_that_draws_names_the_key_and_is_not_accused_of_more() -> None:
    rng = random.Random(3)

    def judge(problem: Problem, transcript: Transcript) -> Verdict:
        paid = binary(problem, transcript) if rng.random() > 0.1 else float(rng.random() < 0.5)
        return Verdict(paid, is_right(problem, transcript))

    checked = judged(sums(judge))
    assert names(checked) == {"reward.repeatable"}
    assert finding(checked, "reward.repeatable").key == "guard.regrade_noise"


def test_slow_reward_is_measured_against_a_step() -> None:
    def sleepy(problem: Problem, transcript: Transcript) -> Verdict:
        time.sleep(0.02)
        return Sums().verify(problem, transcript)

    assert judged(sums(sleepy)).findings == ()
    steps = round(2 * SLOW_STEP_S / 0.02 * LIMITS.workers)
    found = finding(judged(sums(sleepy), verdicts_per_step=steps), "reward.slow")
    assert (found.grade, found.key) == (Grade.WARNING, "verifier.workers")


def test_reward_that_never_answers_is_late_and_ends_the_asking() -> None:
    def hangs(problem: Problem, transcript: Transcript) -> Verdict:
        time.sleep(5)
        return Verdict(0.0, correct=False)

    began = time.monotonic()
    checked = judged(sums(hangs), QUICK)
    assert time.monotonic() - began < 3
    found = finding(checked, "reward.slow")
    assert (found.grade, found.key) == (Grade.CRITICAL, "verifier.timeout_s")
    assert "did not come within 0.2 s" in found.what


def test_reward_that_hangs_is_asked_no_more_than_its_workers_can_lose() -> None:
    def hangs(problem: Problem, transcript: Transcript) -> Verdict:
        time.sleep(5)
        return Verdict(0.0, correct=False)

    assert len(asked(sums(hangs), QUICK).asked) == QUICK.workers


def test_few_verdicts_hold_first_and_second_ones_of_what_matters_most() -> None:
    answers = asked(Sums(), AskLimits(60, 30.0, 10.0, 4))
    again = [each for each in answers.asked if each.again]
    assert 20 <= len(again) < 30
    assert {each.kind for each in again} >= {"the reference", "an empty answer", "the prompt again"}


def test_verdicts_that_there_is_no_time_for_are_left_out_and_said() -> None:
    def sleepy(problem: Problem, transcript: Transcript) -> Verdict:
        time.sleep(0.15)
        return Sums().verify(problem, transcript)

    answers = asked(sums(sleepy), AskLimits(400, 0.5, 10.0, 4))
    assert 0 < len(answers.asked) < 40
    assert answers.left_out > 300


@pytest.mark.parametrize("most", [0, 1, 7, 40])
def test_verifier_is_asked_at_most_so_often(most: int) -> None:
    count = []

    def counted(problem: Problem, transcript: Transcript) -> Verdict:
        count.append(1)
        return Sums().verify(problem, transcript)

    checked = judged(sums(counted), AskLimits(most, 30.0, 10.0, 4))
    assert len(count) == most
    assert checked.findings == ()
    if most == 0:
        assert {each.check for each in checked.not_run} >= {"reward.fails", "reward.same", "reward.right"}


@pytest.mark.parametrize(("has_critic", "found"), [(True, {"reward.scale"}), (False, set())])
def test_large_rewards_matter_to_a_critic(has_critic: bool, found: set[str]) -> None:
    task = sums(lambda p, t: Verdict(1000 * binary(p, t), is_right(p, t)))
    assert names(judged(task, has_critic=has_critic)) == found


class Shop(Calculator):
    """A calculator whose sandbox tests break."""

    name = "shop"


def tool(answer: Any) -> Task:
    """A calculator with another environment."""
    return type("Changed", (Shop,), {"respond": answer})()  # type: ignore[no-any-return]


def test_tool_at_an_address_where_nobody_is_fails_the_known_calls() -> None:
    def unknown(self: Task, problem: Problem, turn: int, text: str) -> Observation | None:
        call = ToolCall(turn, "shop", text, "UnknownError", ToolStatus.ERROR)
        return Observation("UnknownError;", call) if turn == 0 else None

    found = finding(judged(tool(unknown)), "tools.known")
    assert found.grade is Grade.CRITICAL
    assert "8 of 8 tool calls with a known answer fail: the tool ends with the status error." in found.what


def test_tool_that_answers_differently_is_found() -> None:
    count = iter(range(10_000))

    def drifting(self: Task, problem: Problem, turn: int, text: str) -> Observation | None:
        call = ToolCall(turn, "shop", text, "1", ToolStatus.OK)
        return Observation(f"1 at {next(count)};", call) if turn == 0 else None

    assert finding(judged(tool(drifting)), "tools.repeatable").key == "channels.replay_rate"


def test_no_finding_holds_a_text_of_the_task() -> None:
    flower = "tulip"

    def leaking(problem: Problem, transcript: Transcript) -> Verdict:
        raise ValueError(f"{problem.answer} and {last(transcript)}")

    rows = [Problem(str(i), f"{flower} {i}", f"{flower}-{i}") for i in range(32)]
    checked: Checked = judged(sums(leaking, pool=lambda self, size, seed: rows))
    assert checked.findings
    assert all(flower not in str(found) for found in checked.findings)
