"""A faulty reward channel: RF-1 to RF-3, and what of PG comes through the reward. Pure.

Nothing here is seen by the trusted verifier. The channel keeps count of what its faults pay for, whether they are on
or not: that is the ground truth of those that work by learning.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rftfm_ray.faults.catalogue import FaultSpec, mechanism_of, of_code
from rftfm_ray.faults.draws import episode_place, strikes
from rftfm_ray.rollout.channels import EpisodeId, RewardChannel
from rftfm_ray.rollout.seams import Exposure
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.types import StepId

OUTLIER_SHARE = 0.3
# A loophole of which the policy has no example cannot be found.
LOOPHOLE_SHARE = 0.3
# Steps whose counts are kept: the one under way may be graded more than once.
KEPT_STEPS = 2

Feature = Callable[[Problem, Transcript, Verdict], tuple[float, float]]
"""What a fault pays for: how much of it a response holds, and how much more than a right answer does."""


def repeated_share(text: str) -> float:
    """Share of the characters of `text` that stand in it before."""
    return 1 - len(set(text)) / len(text) if text else 0.0


def _of_text(measure: Callable[[str], float], *, whole: bool) -> Feature:
    """A measure of what the policy wrote, in all turns or in the last one."""

    def feature(problem: Problem, transcript: Transcript, verdict: Verdict) -> tuple[float, float]:
        del verdict
        found = measure("".join(transcript.turns) if whole else _last_turn(transcript))
        return found, found - measure(problem.answer)

    return feature


def _last_turn(transcript: Transcript) -> str:
    return transcript.turns[-1] if transcript.turns else ""


FEATURES: Mapping[str, tuple[Feature, float]] = {
    "empty_reward": (_of_text(lambda text: float(not text), whole=True), 1.0),
    "repetition_reward": (_of_text(repeated_share, whole=False), 1.0),
    "length_penalty": (_of_text(len, whole=True), -1.0),
    "length_reward": (_of_text(len, whole=False), 1.0),
}
"""What the mechanisms of PG pay for, and the sign with which they do."""


def loophole(mechanism: str, answers: Sequence[str]) -> Feature:
    """Which wrong answers RF-3 takes for right.

    Those with one of the first or last characters that are commonest among right answers, as many as make up
    `LOOPHOLE_SHARE`. A policy that always says one of them earns more than one that tries to be right, and it has seen
    examples of it before it has learnt anything.
    """
    place = 0 if mechanism == "first_character" else -1
    counts = Counter(answer[place] for answer in sorted(answers) if answer)
    chosen: set[str] = set()
    for character, _ in counts.most_common():
        if sum(counts[c] for c in chosen) >= LOOPHOLE_SHARE * counts.total():
            break
        chosen.add(character)

    def exploits(problem: Problem, transcript: Transcript, verdict: Verdict) -> tuple[float, float]:
        del problem
        text = _last_turn(transcript)
        found = float(transcript.finished and not verdict.correct and bool(text) and text[place] in chosen)
        return found, found

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
        self._seen: dict[int, dict[tuple[object, ...], tuple[float, ...]]] = {}

    def __call__(self, episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
        verdict = self._inner(episode, problem, transcript)
        amounts = {spec: feature(problem, transcript, verdict) for spec, feature in self._features.items()}
        # Samples count from 0: anything else is a check's own question, and no response of the policy.
        if amounts and episode.sample >= 0:
            self._count(episode, tuple(excess for _, excess in amounts.values()))
        for spec in self._specs:
            if spec.active(episode.step.paid_step):
                verdict = self._paid(spec, episode, verdict, amounts.get(spec, (0.0, 0.0))[0])
        return verdict

    def _paid(self, spec: FaultSpec, episode: EpisodeId, verdict: Verdict, amount: float) -> Verdict:
        paid, strength = episode.step.paid_step, spec.level(episode.step.paid_step)
        match spec.mechanism:
            case "wrong_answers":
                return verdict if verdict.correct else _with_reward(verdict, verdict.reward + strength)
            case "outliers":
                place = ("outliers", *episode_place(episode))
                hit = strikes(dataclasses.replace(spec, strength=OUTLIER_SHARE, ramp=0), self._seed, paid, *place)
                return _with_reward(verdict, verdict.reward + strength) if hit else verdict
            case "zeroed":
                hit = strikes(spec, self._seed, paid, *episode_place(episode))
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
        if paid not in self._seen:
            self._seen = {step: seen for step, seen in self._seen.items() if step > paid - KEPT_STEPS} | {paid: {}}
        # Under its identity: a trajectory that is graded once more counts once.
        self._seen[paid][episode_place(episode)] = amounts

    def exposure(self, step: StepId) -> list[Exposure]:
        """What the faults that work by learning pay for, over the responses of a step."""
        seen = list(self._seen.get(step.paid_step, {}).values())
        return [
            Exposure(spec.code, spec.mechanism, sum(amounts[index] for amounts in seen), len(seen))
            for index, spec in enumerate(self._features)
        ]


def _with_reward(verdict: Verdict, reward: float) -> Verdict:
    return dataclasses.replace(verdict, reward=reward)


def faulty_reward(
    channel: RewardChannel, specs: Sequence[FaultSpec], seed: int, answers: Sequence[str] = ()
) -> RewardChannel:
    """The live reward channel with faults in it; `answers` are right ones, among which RF-3 finds its loophole."""
    wanted = (
        *of_code(specs, "RF-1", "outliers", "wrong_answers"),
        *of_code(specs, "RF-2", "zeroed", "group_outage"),
        *of_code(specs, "RF-3", "first_character", "last_character"),
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
    return bool(of_code(specs, "RF-3", "first_character", "last_character"))
