"""Checks of what the actors answer: equal weights, groups that differ, answers that are cut off, verdicts on them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.preflight.findings import Check, Finding, Grade, NotRun, Outcome

CUT_OFF = (0.25, 0.9)
"""Shares of answers at a limit from which a warning, and a critical finding, is due: at the second hardly a group holds
an answer that was completed, at the first a quarter of the samples teaches the limit instead of the task. In the first
step of recorded healthy runs at most 0.008 of the answers are cut off (`python -m benchmarks.preflight`)."""
EQUAL_GROUPS = 0.9
"""Share of groups with equal rewards from which a warning is due: a tenth of the samples is learnt from at most."""
MANY_GROUPS = 8
"""Groups that must all be equal before that is critical: in the first step of recorded healthy runs up to 0.375 of the
groups are equal (`python -m benchmarks.preflight`), so eight of eight are at a chance of 0.0004."""
FEW_ANSWERS = 16
"""Answers below which shares say nothing."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """An answer that the model gave, sampled as in training.

    Attributes:
        group: number of its prompt.
        cut_off: whether a limit of tokens or turns ended it.
        tool_failed: whether a tool call in it failed.
        reward: NaN without a verdict.
        correct: whether the verifier calls it right.
        asked: whether the verifier was asked about it.
    """

    group: int
    cut_off: bool
    tool_failed: bool
    reward: float
    correct: bool
    asked: bool = True


@dataclass(frozen=True, slots=True)
class LiveFacts:
    """What the actors have answered.

    Attributes:
        gap: largest difference in nats between log-probs of learner and rollout; NaN where it was not measured.
        limit: of `gap`.
        short_gap: the same for answers of a single token.
        mismatched: whether a rollout actor serves other weights than the learner's; None where nothing was compared.
        sampled: answers of a few groups; one group where rewards are compared within the step.
        resumed: largest difference between the weights of the next step with and without saving and loading; None where
            it was not tried.
        resume_reason: why it was not tried.
    """

    gap: float
    limit: float
    short_gap: float
    mismatched: bool | None
    sampled: Sequence[Sampled]
    resumed: float | None = None
    resume_reason: str = "a step after saving and loading is made by `rftfm preflight --full` alone"


def parity(facts: LiveFacts) -> Outcome:
    """Learner and rollout compute other log-probs of the same tokens."""
    return _parity(facts, facts.gap, "a prompt and its answer")


def short(facts: LiveFacts) -> Outcome:
    """They do so where an answer has a single token."""
    return _parity(facts, facts.short_gap, "a prompt and an answer of one token each")


def _parity(facts: LiveFacts, gap: float, of: str) -> Outcome:
    if math.isnan(gap):
        return NotRun("log-probs were not compared")
    if gap <= facts.limit:
        return None
    what = f"Log-probs of {of} differ by {gap:.3g} nats between learner and rollout, more than {facts.limit:g}."
    why = "Ratios and the KL penalty are computed from the wrong probabilities."
    return Finding(Grade.CRITICAL, what, why, "sync.parity_max_gap")


def weights(facts: LiveFacts) -> Outcome:
    """A rollout actor serves other weights than the learner's."""
    if facts.mismatched is None:
        return NotRun("no fingerprints were compared (channels.fingerprint_every=0 or guard.mode=off)")
    if not facts.mismatched:
        return None
    what = "A rollout actor serves other weights than the learner has sent."
    return Finding(Grade.CRITICAL, what, "It generates with another policy than the one that learns.", "model.path")


def groups(facts: LiveFacts) -> Outcome:
    """No group of answers holds different rewards."""
    graded: dict[int, list[Sampled]] = {}
    for each in facts.sampled:
        if not math.isnan(each.reward):
            graded.setdefault(each.group, []).append(each)
    whole = [group for group in graded.values() if len(group) > 1]
    if sum(map(len, whole)) < FEW_ANSWERS:
        return NotRun("too few answers have a verdict")
    equal = [group for group in whole if max(e.reward for e in group) == min(e.reward for e in group)]
    if len(equal) < EQUAL_GROUPS * len(whole):
        return None
    answers = [each for group in whole for each in group]
    right = sum(each.correct for each in answers) / len(answers)
    paid = Counter(f"{each.reward:g}" for each in answers).most_common(1)[0]
    what = (
        f"{len(equal)} of {len(whole)} groups of sampled answers hold equal rewards; {right:.0%} of the answers are "
        f"right, and {paid[1]} of {len(answers)} are paid {paid[0]}."
    )
    if right > 1 - (1 - EQUAL_GROUPS):
        return Finding(Grade.WARNING, what, "The model solves this task already; little is left to learn.", "task.name")
    why = "A group without a difference teaches nothing; take a model that solves some problems, or easier ones."
    certain = len(equal) == len(whole) >= MANY_GROUPS or len(graded) == 1
    return Finding(Grade.CRITICAL if certain else Grade.WARNING, what, why, "model.path")


def cut_off(facts: LiveFacts) -> Outcome:
    """A limit ends many answers."""
    if len(facts.sampled) < FEW_ANSWERS:
        return NotRun("too few answers were sampled")
    share = sum(each.cut_off for each in facts.sampled) / len(facts.sampled)
    if share < CUT_OFF[0]:
        return None
    what = f"A limit of tokens cuts off {share:.0%} of {len(facts.sampled)} sampled answers."
    why = "What is cut off is seldom right, so the limit is learnt from instead of the task."
    return Finding(Grade.CRITICAL if share >= CUT_OFF[1] else Grade.WARNING, what, why, "task.token_scale")


def verdicts(facts: LiveFacts) -> Outcome:
    """The verifier fails on answers that the model gives."""
    if len(facts.sampled) < FEW_ANSWERS:
        return NotRun("too few answers were sampled")
    asked = [each for each in facts.sampled if each.asked]
    failed = [each for each in asked if math.isnan(each.reward)]
    if not asked:
        return NotRun("no verdicts were left to ask for; raise preflight.verdicts")
    if not failed:
        return None
    what = f"The verifier gives no verdict on {len(failed)} of {len(asked)} answers of the model."
    grade = Grade.CRITICAL if 2 * len(failed) > len(asked) else Grade.WARNING
    return Finding(grade, what, "They are masked, so nothing is learnt from them.", "task.name")


def tool_calls(facts: LiveFacts) -> Outcome:
    """Tools fail in episodes of the model."""
    if len(facts.sampled) < FEW_ANSWERS:
        return NotRun("too few answers were sampled")
    failed = sum(each.tool_failed for each in facts.sampled)
    if not failed:
        return None
    what = f"A tool call failed in {failed} of {len(facts.sampled)} sampled episodes."
    grade = Grade.CRITICAL if 2 * failed > len(facts.sampled) else Grade.WARNING
    return Finding(grade, what, "Such episodes are masked; check the tool's address and its access.", "task.name")


def resume(facts: LiveFacts) -> Outcome:
    """The step after saving and loading is not the step without."""
    if facts.resumed is None:
        return NotRun(facts.resume_reason)
    if facts.resumed == 0:
        return None
    what = f"The weights of the next step differ by up to {facts.resumed:.3g} after a checkpoint was saved and loaded."
    return Finding(
        Grade.CRITICAL, what, "A resumed run is another run than one that was never stopped.", "learner.zero_stage"
    )


CHECKS: Mapping[str, Check[LiveFacts]] = {
    "live.parity": parity,
    "live.one_token": short,
    "live.weights": weights,
    "live.groups": groups,
    "live.cut_off": cut_off,
    "live.verdicts": verdicts,
    "live.tools": tool_calls,
    "live.resume": resume,
}
