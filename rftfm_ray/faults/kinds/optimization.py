"""Faults of the optimization: OD-1 to OD-3."""

from __future__ import annotations

from rftfm_ray.faults.kinds.base import FaultKind, Law, Mechanism, Strength, share_of
from rftfm_ray.verdicts import Place

OPTIMIZATION_FAULTS = (
    FaultKind(
        "OD-1", "updates are too large, and the policy runs away from its reference",
        (
            Mechanism(
                "gain", Place.OPTIMIZER,
                "multiplies the rate that the optimizer is told; the reported rate is the old one",
                "step_kl", 1, Strength("factor on the learning rate", 1, 100, 30, neutral=1), shown_by="update_gain",
            ),
            Mechanism(
                "schedule", Place.SCHEDULE, "multiplies the schedule's factor; the rate shows it",
                "step_kl", 1, Strength("factor on the learning rate", 1, 100, 30, neutral=1), shown_by="declared_rate",
            ),
            Mechanism(
                "lost_moments", Place.OPTIMIZER,
                "before every step the optimizer loses a share of its second moments, and Adam's steps grow: a state "
                "that is kept in too few bits", "step_kl", 1,
                Strength("share of the second moments that is lost", 0.001, 1, 0.9), shown_by="update_gain", since=2,
            ),
        ),
    ),
    FaultKind(
        "OD-2", "training goes on and the policy does not change",
        (
            Mechanism(
                "small_steps", Place.OPTIMIZER,
                "steps fall short by the strength; at 1 they do nothing", "update_ratio",
                -1, Strength("share of a step that is lost", 0.01, 1, 1), shown_by="update_gain",
                breaks=(Law.WEIGHTS,),
            ),
            Mechanism(
                "held_weights", Place.OPTIMIZER, "a share of the weights is left out of every step", "update_ratio", -1,
                Strength("share of the weights", 0.01, 0.99, 0.9), shown_by="update_gain", breaks=(Law.WEIGHTS,),
            ),
            Mechanism(
                "unsynced", Place.SYNC, "new weights do not reach the rollout, which says that they have", "rollout_kl",
                1, share_of("a tensor is lost on its way", 1.0), shown_by="served_weights",
                breaks=(Law.ROLLOUT,),
            ),
            Mechanism(
                "epsilon", Place.OPTIMIZER,
                "Adam's epsilon is larger than the gradients, and steps shrink: one meant for another precision",
                "update_ratio", -1, Strength("epsilon, in the unit of the gradient", 0.000001, 10, 0.1),
                shown_by="update_gain", since=2,
            ),
        ),
    ),
    FaultKind(
        "OD-3", "the policy is sure of everything, and explores no more",
        (
            Mechanism(
                "cold_sampler", Place.SAMPLER, "samples are drawn colder than it is said", "sampling_logprob_mean", 1,
                Strength("share of the temperature that is lost", 0.01, 0.99, 0.7), breaks=(Law.ROLLOUT,),
            ),
            Mechanism(
                "negative_entropy", Place.LOSS, "the entropy bonus has the wrong sign", "entropy", -1,
                Strength("entropy coefficient that is taken off", 0.001, 50, 5), learned=0.05, breaks=(Law.LOSS,),
            ),
            Mechanism(
                "colder", Place.SAMPLER,
                "samples are drawn colder than declared, and the learner goes by the same: a default of the model's "
                "generation configuration", "entropy", -1,
                Strength("share of the temperature that is lost", 0.01, 0.99, 0.7), breaks=(Law.ROLLOUT,), since=2,
            ),
        ),
    ),
)  # fmt: skip
