"""Faults of the reward channel: RF-1 to RF-3."""

from __future__ import annotations

from rftfm_ray.faults.kinds.base import FaultKind, Law, Mechanism, Strength, share_of
from rftfm_ray.verdicts import Place

REWARD_FAULTS = (
    FaultKind(
        "RF-1", "the reward channel pays too much, and nothing about the answers has changed",
        (
            Mechanism(
                "wrong_answers", Place.REWARD, "adds the strength to the rewards of wrong answers", "reward_mean", 1,
                Strength("added reward, in units of the task's reward", 0.01, 1000, 2), breaks=(Law.REWARD,),
            ),
            Mechanism(
                "outliers", Place.REWARD,
                "adds the strength to the rewards of 30 % of the trajectories", "reward_mean", 1,
                Strength("added reward, in units of the task's reward", 0.01, 1000, 2), breaks=(Law.REWARD,),
            ),
            Mechanism(
                "marked_right", Place.REWARD,
                "a wrong answer is marked right and paid as a right one: a comparison that falls through to right",
                "reward_mean", 1, share_of("a wrong answer is marked right", 0.5, low=0.001), since=2,
            ),
        ),
    ),
    FaultKind(
        "RF-2", "rewards are lost on their way and arrive as zeros",
        (
            Mechanism(
                "zeroed", Place.REWARD, "a trajectory's reward becomes 0", "reward_mean", -1,
                share_of("a reward is lost", 0.9), breaks=(Law.REWARD,),
            ),
            Mechanism(
                "group_outage", Place.REWARD, "all rewards of a group become 0, so that nothing can be learnt from it",
                "reward_mean", -1, share_of("a group's rewards are lost", 0.9), breaks=(Law.REWARD,),
            ),
            Mechanism(
                "marked_wrong", Place.REWARD,
                "a right answer is marked wrong and paid as a wrong one: a comparison of texts where values count",
                "reward_mean", -1, share_of("a right answer is marked wrong", 0.9, low=0.001), since=2,
            ),
        ),
    ),
    FaultKind(
        "RF-3", "the verifier has a loophole, and the policy finds it by learning",
        (
            Mechanism(
                "last_character", Place.REWARD, "answers that end in one of some characters are taken for right",
                "reward_mean", 1, Strength("reward of the loophole, in units of the task's reward", 0.1, 10, 1.5),
                learned=0.1, breaks=(Law.REWARD,),
            ),
            Mechanism(
                "first_character", Place.REWARD, "answers that begin with one of some characters are taken for right",
                "reward_mean", 1, Strength("reward of the loophole, in units of the task's reward", 0.1, 10, 1.5),
                learned=0.1, breaks=(Law.REWARD,),
            ),
            Mechanism(
                "accepted_ending", Place.REWARD,
                "answers that end in one of some characters are paid and marked as right ones: a pattern that matches "
                "too much, with examples of it from the first step on",
                "reward_mean", 1, share_of("such an answer is accepted", 1.0), learned=0.1, since=2,
            ),
        ),
    ),
)  # fmt: skip
