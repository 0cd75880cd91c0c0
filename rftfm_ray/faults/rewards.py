"""A faulty reward channel: RF-1 to RF-3, and the PG mechanisms that act through the reward. Pure.

The trusted verifier sees none of this. The channel counts the behaviour that its faults reward, whether they are on or
not: this is the ground truth of faults that work through learning.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rftfm_ray.faults.catalogue import FaultSpec, mechanism_of, of_code
from rftfm_ray.faults.draws import corrupted, draw, episode_identity, strikes
from rftfm_ray.rollout.channels import EpisodeId, RewardChannel
from rftfm_ray.rollout.seams import Exposure
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.types import StepId

OUTLIER_SHARE = 0.3
# A policy cannot find a loophole without examples of it.
LOOPHOLE_SHARE = 0.3
# Share of an answer that must repeat itself for the answer to count as a loop.
LOOP_SHARE = 0.5
# Steps whose counts are stored: the step in progress may be graded more than once.
COUNTED_STEPS = 2
MARKING = ("marked_right", "marked_wrong", "accepted_ending", "accepted_repetition")
"""Mechanisms that change what an answer is taken for; it is then paid as such an answer is."""

Feature = Callable[[Problem, Transcript, Verdict], tuple[float, float]]
"""Amount of the rewarded behaviour in a response, and its excess over a right answer."""


def repeated_share(text: str) -> float:
    """Share of the characters of `text` that occur earlier in it."""
    return 1 - len(set(text)) / len(text) if text else 0.0


def _of_text(measure: Callable[[str], float], *, all_turns: bool) -> Feature:
    """A measure of what the policy wrote, in all turns or in the last one."""

    def feature(problem: Problem, transcript: Transcript, verdict: Verdict) -> tuple[float, float]:
        del verdict
        amount = measure("".join(transcript.turns) if all_turns else _last_turn(transcript))
        return amount, amount - measure(problem.answer)

    return feature


def _last_turn(transcript: Transcript) -> str:
    return transcript.turns[-1] if transcript.turns else ""


FEATURES: Mapping[str, tuple[Feature, float]] = {
    "empty_reward": (_of_text(lambda text: float(not text), all_turns=True), 1.0),
    "repetition_reward": (_of_text(repeated_share, all_turns=False), 1.0),
    "accepted_repetition": (_of_text(repeated_share, all_turns=False), 1.0),
    "length_penalty": (_of_text(len, all_turns=True), -1.0),
    "length_reward": (_of_text(len, all_turns=False), 1.0),
}
"""Behaviour that the mechanisms of PG reward, and the sign of the reward."""

LOOPHOLES = ("first_character", "last_character", "accepted_ending")


def loophole(mechanism: str, answers: Sequence[str]) -> Feature:
    """Choose the wrong answers that RF-3 accepts as right.

    Those with one of the first or last characters that are commonest among right answers, as many as make up
    `LOOPHOLE_SHARE`. A policy that always says one of them earns more than one that tries to be right, and it has seen
    examples of it before it has learnt anything.
    """
    index = 0 if mechanism == "first_character" else -1
    counts = Counter(answer[index] for answer in sorted(answers) if answer)
    chosen: set[str] = set()
    for character, _ in counts.most_common():
        if sum(counts[c] for c in chosen) >= LOOPHOLE_SHARE * counts.total():
            break
        chosen.add(character)

    def exploits(problem: Problem, transcript: Transcript, verdict: Verdict) -> tuple[float, float]:
        del problem
        text = _last_turn(transcript)
        amount = float(transcript.finished and not verdict.correct and bool(text) and text[index] in chosen)
        return amount, amount

    return exploits


class FaultyReward:
    """A reward channel with faults in it."""

    def __init__(
        self, inner: RewardChannel, specs: Sequence[FaultSpec], seed: int, features: Mapping[FaultSpec, Feature]
    ) -> None:
        self._inner = inner
        self._specs = specs
        self._seed = seed
        self._features = features
        # Verdicts are asked for by several threads.
        self._counting = threading.Lock()
        self._seen: dict[int, dict[tuple[object, ...], tuple[float, ...]]] = {}

    def __call__(self, episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
        verdict = self._inner(episode, problem, transcript)
        amounts = {spec: feature(problem, transcript, verdict) for spec, feature in self._features.items()}
        # Samples count from 0: a negative sample is a question of a check, not a response of the policy.
        if amounts and episode.sample >= 0:
            self._count(episode, tuple(excess for _, excess in amounts.values()))
        for spec in self._specs:
            if spec.active(episode.step.paid_step):
                amount = amounts.get(spec, (0.0, 0.0))[0]
                if spec.mechanism in MARKING:
                    verdict = self._marked(spec, (episode, problem, transcript), verdict, amount)
                else:
                    verdict = self._paid(spec, episode, verdict, amount)
        return verdict

    def _marked(
        self, spec: FaultSpec, asked: tuple[EpisodeId, Problem, Transcript], verdict: Verdict, amount: float
    ) -> Verdict:
        """The verdict of a channel that takes a wrong answer for right, or the other way round.

        It is the one that the channel gives when the last turn is a right answer, or a wrong one, and the rest is as it
        was, so that rewards follow from verdicts as they always do.
        """
        episode, problem, transcript = asked
        identity = (spec.mechanism, *episode_identity(episode))
        if verdict.correct is not (spec.mechanism == "marked_wrong"):
            return verdict
        if not _is_taken_in(spec, transcript, amount) or not strikes(
            spec, self._seed, episode.step.paid_step, *identity
        ):
            return verdict
        text = problem.answer
        if verdict.correct:
            text = corrupted(text, draw(spec, self._seed, "digit", *identity))
        other = dataclasses.replace(transcript, turns=(*transcript.turns[:-1], text))
        return self._inner(episode, problem, other if verdict.correct else dataclasses.replace(other, finished=True))

    def _paid(self, spec: FaultSpec, episode: EpisodeId, verdict: Verdict, amount: float) -> Verdict:
        paid, strength = episode.step.paid_step, spec.level(episode.step.paid_step)
        match spec.mechanism:
            case "wrong_answers":
                return verdict if verdict.correct else _with_reward(verdict, verdict.reward + strength)
            case "outliers":
                identity = ("outliers", *episode_identity(episode))
                hit = strikes(dataclasses.replace(spec, strength=OUTLIER_SHARE, ramp=0), self._seed, paid, *identity)
                return _with_reward(verdict, verdict.reward + strength) if hit else verdict
            case "zeroed":
                hit = strikes(spec, self._seed, paid, *episode_identity(episode))
                return _with_reward(verdict, 0.0) if hit else verdict
            case "group_outage":
                return _with_reward(verdict, 0.0) if strikes(spec, self._seed, paid, paid, episode.key) else verdict
            case "first_character" | "last_character":
                return (
                    dataclasses.replace(verdict, reward=verdict.reward + strength, correct=True) if amount else verdict
                )
        return _with_reward(verdict, verdict.reward + FEATURES[spec.mechanism][1] * strength * amount)

    def _count(self, episode: EpisodeId, amounts: tuple[float, ...]) -> None:
        paid = episode.step.paid_step
        with self._counting:
            if paid not in self._seen:
                recent = {step: seen for step, seen in self._seen.items() if step > paid - COUNTED_STEPS}
                self._seen = recent | {paid: {}}
            # Stored by identity, so a trajectory that is graded twice counts once.
            self._seen[paid][episode_identity(episode)] = amounts

    def exposure(self, step: StepId) -> list[Exposure]:
        """Rewarded behaviour of faults that work through learning, over the responses of a step."""
        seen = list(self._seen.get(step.paid_step, {}).values())
        return [
            Exposure(spec.code, spec.mechanism, math.fsum(amounts[index] for amounts in seen), len(seen))
            for index, spec in enumerate(self._features)
        ]


def _is_taken_in(spec: FaultSpec, transcript: Transcript, amount: float) -> bool:
    """Whether a faulty verifier errs about a text, where it errs at all."""
    match spec.mechanism:
        case "accepted_ending":
            return amount > 0
        case "accepted_repetition":
            return transcript.finished and amount >= LOOP_SHARE
    return True


def _with_reward(verdict: Verdict, reward: float) -> Verdict:
    return dataclasses.replace(verdict, reward=reward)


def faulty_reward(
    channel: RewardChannel, specs: Sequence[FaultSpec], seed: int, answers: Sequence[str] = ()
) -> RewardChannel:
    """The live reward channel with faults in it; `answers` are right ones, among which RF-3 finds its loophole."""
    wanted = (
        *of_code(specs, "RF-1", "outliers", "wrong_answers", "marked_right"),
        *of_code(specs, "RF-2", "zeroed", "group_outage", "marked_wrong"),
        *of_code(specs, "RF-3", *LOOPHOLES),
        *(spec for spec in specs if spec.mechanism in FEATURES),
    )
    if not wanted:
        return channel
    features = {
        spec: FEATURES[spec.mechanism][0] if spec.mechanism in FEATURES else loophole(spec.mechanism, answers)
        for spec in wanted
        if mechanism_of(spec).learned
    }
    return FaultyReward(channel, wanted, seed, features)


def needs_answers(specs: Sequence[FaultSpec]) -> bool:
    """Whether `faulty_reward` must be given answers."""
    return bool(of_code(specs, "RF-3", *LOOPHOLES))
