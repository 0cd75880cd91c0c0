"""Checks of the reward and the tools, by what the task's own code has said."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rftfm_ray.preflight.answers import ANOTHER, REFERENCE, REFUSAL, Worth
from rftfm_ray.preflight.asking import Asked, TaskAnswers, kinds_of
from rftfm_ray.preflight.findings import Check, Finding, Grade, NotRun, Outcome, listed

TOLERANCE = 1e-6
"""Rewards closer than this, relative to the largest one, are equal."""
SLOW_STEP_S = 60.0
"""Seconds of grading a step above which the reward is called slow: a step of a large model takes about that long."""
SLOW_CALL_S = 10.0
"""Seconds of one tool call above which the tool is called slow: episodes wait for every turn."""
LARGE_REWARD = 10.0
"""Rewards above this make the value loss, which grows with their square, a hundred times that of rewards up to 1."""
FEW = 3
"""Verdicts on a kind of answer that must agree where the verifier contradicts itself."""
MOSTLY = 0.5
"""Share above which something that happens now and then is called usual."""


@dataclass(frozen=True, slots=True)
class RewardFacts:
    """What the checks of the reward need.

    Attributes:
        answers: of the task's code.
        verdicts_per_step: the most verdicts that a step asks for.
        at_a_time: verdicts that are given at a time.
        has_critic: whether a critic learns the rewards.
        regrade_noise: share of verdicts that may differ by `guard.regrade_noise`.
        timeout_s: `verifier.timeout_s`.
    """

    answers: TaskAnswers
    verdicts_per_step: int
    at_a_time: int
    has_critic: bool
    regrade_noise: float
    timeout_s: float


def fails(facts: RewardFacts) -> Outcome:
    """The verifier raises or returns something that is not a verdict."""
    asked = facts.answers.asked
    failed = [each for each in asked if each.error]
    if not asked:
        return NotRun("the verifier was not asked")
    if not failed:
        return None
    how = Counter(each.error for each in failed).most_common(1)[0][0]
    what = f"The verifier {how} on {len(failed)} of {len(asked)} answers: {listed(list(kinds_of(failed)))}."
    honest = [[each for each in asked if each.kind == kind] for kind in (REFERENCE, ANOTHER)]
    if any(sum(bool(each.error) for each in part) > MOSTLY * len(part) for part in honest if part):
        why = "Most answers would be masked, the others have nothing to be compared with, and nothing is learnt."
        return Finding(Grade.CRITICAL, what, why, "task.name")
    why = "Such answers are masked: the policy is neither paid nor punished for them."
    return Finding(Grade.WARNING, what, why, "task.name")


def same(facts: RewardFacts) -> Outcome:
    """Whatever is answered is paid alike."""
    answered = facts.answers.answered
    if {each.worth is Worth.RIGHT for each in answered} != {True, False}:
        return NotRun("no verdict on a right answer, or on none that is not")
    rewards = [each.reward for each in answered]
    if not _equal(min(rewards), max(rewards), facts):
        return None
    what = f"All {len(answered)} answers, right and wrong ones, are paid {rewards[0]:g}."
    why = "A group whose rewards are equal teaches nothing, so no update will change the policy."
    return Finding(Grade.CRITICAL, what, why, "task.name")


def right(facts: RewardFacts) -> Outcome:
    """On average a right answer is paid no more than the right answer to another problem."""
    pairs = _pairs(facts.answers, {ANOTHER})
    if not pairs:
        return NotRun("no problem has a verdict on a right and on a wrong answer")
    if same(facts) is not None:
        return NotRun("every answer is paid alike")
    paid, wrong = (statistics.fmean(column) for column in zip(*pairs, strict=True))
    if paid > wrong and not _equal(paid, wrong, facts):
        return None
    how = "less than" if paid < wrong and not _equal(paid, wrong, facts) else "no more than"
    what = f"A right answer is paid {paid:.3g} on average, {how} a wrong one with {wrong:.3g} ({len(pairs)} problems)."
    return Finding(Grade.CRITICAL, what, "Training would unlearn right answers, or not prefer them.", "task.name")


def wrong(facts: RewardFacts) -> Outcome:
    """Some kinds of wrong answers are paid as much as the right one."""
    kinds = _paid_as_right(facts, (Worth.WRONG, Worth.ODD))
    if not kinds or same(facts) is not None or isinstance(right(facts), Finding):
        return None
    what = f"These wrong answers are paid as much as the right one: {listed(kinds)}."
    why = "The policy is paid for them, and may learn them instead of right answers."
    return Finding(Grade.WARNING, what, why, "task.name")


def hidden(facts: RewardFacts) -> Outcome:
    """The right answer among others is paid as if it were given."""
    if not any(each.worth is Worth.HIDDEN for each in facts.answers.answered):
        return NotRun("no verdict on an answer that hides the right one")
    kinds = _paid_as_right(facts, (Worth.HIDDEN,))
    if not kinds or same(facts) is not None or isinstance(right(facts), Finding):
        return None
    what = f"An answer that only contains the right one is paid as much: {listed(kinds)}."
    why = "The policy may learn to list answers, and held-out accuracy would not show it."
    return Finding(Grade.WARNING, what, why, "task.name")


def nothing(facts: RewardFacts) -> Outcome:
    """Not answering is paid as much as a right answer, or more than an honest wrong one."""
    better: list[set[str]] = []
    for rewards in _by_problem(facts.answers).values():
        tries = [r.reward for r in rewards if r.worth is Worth.WRONG and r.kind.startswith(ANOTHER)]
        idle = [r for r in rewards if r.worth is Worth.NOTHING and r.kind != REFUSAL]
        if idle and tries:
            best = max(tries)
            better.append({r.kind for r in idle if r.reward > best and not _equal(r.reward, best, facts)})
    if not better:
        return NotRun("no problem has a verdict on doing nothing and on an honest answer")
    if same(facts) is not None:
        return None
    if kinds := _paid_as_right(facts, (Worth.NOTHING,)):
        what = f"Doing nothing is paid as much as a right answer: {listed(kinds)}."
        return Finding(Grade.CRITICAL, what, "The policy would learn to answer nothing.", "task.name")
    always = set.intersection(*better) if len(better) > 1 else set()
    if not always:
        return None
    what = f"Doing nothing is paid more than an honest wrong answer: {listed(sorted(always))}."
    why = "While most answers are wrong, the policy is paid for not trying."
    return Finding(Grade.WARNING, what, why, "task.name")


def marked(facts: RewardFacts) -> Outcome:
    """Wrong answers are called right, so that held-out accuracy says nothing."""
    wrong_ones = [a for a in facts.answers.answered if a.kind == ANOTHER]
    if not wrong_ones:
        return NotRun("no verdict on a wrong answer")
    called = sum(each.correct for each in wrong_ones)
    if called <= MOSTLY * len(wrong_ones):
        return None
    what = f"{called} of {len(wrong_ones)} right answers to another problem are called right."
    return Finding(Grade.CRITICAL, what, "Held-out accuracy would be high whatever is learnt.", "task.name")


def reference(facts: RewardFacts) -> Outcome:
    """References to some rows cannot be made, or are refused."""
    answers = facts.answers
    broken = [r.row for r in answers.references if r.transcript is None]
    asked = [each for each in answers.answered if each.kind == REFERENCE]
    refused = sum(not each.correct for each in asked)
    if not answers.references:
        return NotRun("no reference was made")
    if broken:
        how = next(r.error for r in answers.references if r.transcript is None)
        what = f"Task.reference {how} for {len(broken)} of {len(answers.references)} problems of the pool."
        return Finding(
            Grade.WARNING, what, "Known answers check the reward and the tools while it trains.", "task.name"
        )
    if not refused:
        return None
    what = f"The verifier calls {refused} of {len(asked)} references wrong."
    why = "A right answer to such a problem is not paid, and held-out accuracy cannot reach 1."
    return Finding(Grade.CRITICAL if refused > MOSTLY * len(asked) else Grade.WARNING, what, why, "task.name")


def repeatable(facts: RewardFacts) -> Outcome:
    """The same answer is paid differently when it is asked about twice."""
    first = {(a.problem, a.kind): a.reward for a in facts.answers.answered}
    pairs = [(first[a.problem, a.kind], a.reward) for a in facts.answers.asked if a.again and a.ok
             and (a.problem, a.kind) in first]  # fmt: skip
    if not pairs:
        return NotRun("no answer was asked about twice")
    differing = sum(not _equal(a, b, facts) for a, b in pairs)
    if not differing:
        return None
    what = f"{differing} of {len(pairs)} answers got another reward when they were asked about again."
    why = (
        "The verifier is not deterministic: the guard compares live rewards with graded-again ones, and takes "
        f"guard.regrade_noise={facts.regrade_noise:g} of them to differ."
    )
    return Finding(Grade.WARNING, what, why, "guard.regrade_noise")


def slow(facts: RewardFacts) -> Outcome:
    """Grading a step takes long, or a verdict never came."""
    asked = facts.answers.asked
    late = sum(each.late for each in asked)
    limit = facts.answers.limits
    if late:
        what = f"{late} of {len(asked)} verdicts did not come within {min(limit.call_s, limit.seconds):g} s."
        why = f"After verifier.timeout_s={facts.timeout_s:g} s such an answer is masked, and its thread is lost."
        return Finding(Grade.CRITICAL if late > MOSTLY * len(asked) else Grade.WARNING, what, why, "verifier.timeout_s")
    times = [each.seconds for each in asked if math.isfinite(each.seconds)]
    if not times:
        return NotRun("no verdict was timed")
    step_s = statistics.fmean(times) * facts.verdicts_per_step / facts.at_a_time
    if step_s <= SLOW_STEP_S:
        return None
    what = (
        f"A verdict takes {statistics.fmean(times):.2g} s, so the {facts.verdicts_per_step} of a step take about "
        f"{step_s:.0f} s, {facts.at_a_time} at a time."
    )
    return Finding(Grade.WARNING, what, "The actors wait for the reward most of the time.", "verifier.workers")


def scale(facts: RewardFacts) -> Outcome:
    """Rewards are so large that a critic's loss outweighs the policy's."""
    if not facts.has_critic:
        return None
    honest = [abs(each.reward) for each in facts.answers.answered if each.worth in (Worth.RIGHT, Worth.WRONG)]
    if not honest:
        return NotRun("no verdict on an honest answer")
    if max(honest) <= LARGE_REWARD:
        return None
    what = f"Rewards reach {max(honest):.3g} in size, and the critic's loss grows with their square."
    return Finding(Grade.WARNING, what, "The value loss may drown the policy's.", "critic.value_coef")


def tools(facts: RewardFacts) -> Outcome:
    """Known tool calls fail."""
    calls = facts.answers.calls
    if not calls:
        return None
    bad = [call for call in calls if not call.ok]
    if not bad:
        return None
    how = next((call.error for call in bad if call.error), "gives another answer than the reference")
    what = f"{len(bad)} of {len(calls)} tool calls with a known answer fail: the tool {how}."
    why = "Episodes that call it are masked or misled; check its address and its access."
    return Finding(Grade.CRITICAL if len(bad) > MOSTLY * len(calls) else Grade.WARNING, what, why, "task.name")


def tools_repeat(facts: RewardFacts) -> Outcome:
    """A tool answers the same call differently."""
    working = [call for call in facts.answers.calls if call.ok]
    differing = sum(not call.repeated for call in working)
    if not differing:
        return None
    what = f"{differing} of {len(working)} tool calls were answered differently when they were made again."
    why = "Replayed episodes would be called altered; set channels.replay_rate=0 if the tool is so by design."
    return Finding(Grade.WARNING, what, why, "channels.replay_rate")


def tools_slow(facts: RewardFacts) -> Outcome:
    """A tool call takes long."""
    times = [call.seconds for call in facts.answers.calls if math.isfinite(call.seconds)]
    if not times or max(times) <= SLOW_CALL_S:
        return None
    what = f"A tool call took {max(times):.3g} s."
    return Finding(Grade.WARNING, what, "Every turn of an episode waits for its call.", "verifier.timeout_s")


CHECKS: Mapping[str, Check[RewardFacts]] = {
    "reward.fails": fails,
    "reward.same": same,
    "reward.right": right,
    "reward.wrong": wrong,
    "reward.hidden": hidden,
    "reward.nothing": nothing,
    "reward.marked": marked,
    "reward.reference": reference,
    "reward.repeatable": repeatable,
    "reward.slow": slow,
    "reward.scale": scale,
    "tools.known": tools,
    "tools.repeatable": tools_repeat,
    "tools.slow": tools_slow,
}


def _by_problem(answers: TaskAnswers) -> dict[int, list[Asked]]:
    grouped: dict[int, list[Asked]] = {}
    for each in answers.answered:
        grouped.setdefault(each.problem, []).append(each)
    return grouped


def _pairs(answers: TaskAnswers, kinds: set[str]) -> list[tuple[float, float]]:
    """The reward of the reference and the largest of some kinds, for each problem that has both."""
    pairs = []
    for rewards in _by_problem(answers).values():
        paid = [each.reward for each in rewards if each.kind == REFERENCE]
        others = [each.reward for each in rewards if each.kind in kinds]
        if paid and others:
            pairs.append((paid[0], max(others)))
    return pairs


def _paid_as_right(facts: RewardFacts, worths: tuple[Worth, ...]) -> list[str]:
    """Kinds of some worth that are paid at least as much as the reference.

    One verdict shows it. Of a verifier that contradicts itself all verdicts on a kind must, and at least three.
    """
    paid = {each.problem: each.reward for each in facts.answers.answered if each.kind == REFERENCE}
    shown: dict[str, list[bool]] = {}
    for each in facts.answers.asked:
        if each.ok and each.worth in worths and each.kind != REFUSAL and each.problem in paid:
            right_paid = paid[each.problem]
            as_right = each.reward > right_paid or _equal(each.reward, right_paid, facts)
            shown.setdefault(each.kind, []).append(as_right)
    if not isinstance(repeatable(facts), Finding):
        return [kind for kind, seen in shown.items() if any(seen)]
    return [kind for kind, seen in shown.items() if len(seen) >= FEW and all(seen)]


def _equal(a: float, b: float, facts: RewardFacts) -> bool:
    largest = max((abs(each.reward) for each in facts.answers.answered if each.worth is not Worth.ODD), default=1.0)
    return abs(a - b) <= TOLERANCE * max(largest, TOLERANCE)
