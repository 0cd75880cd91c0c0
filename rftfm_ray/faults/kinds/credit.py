"""Faults of credit assignment: CA-1 to CA-3."""

from __future__ import annotations

from rftfm_ray.faults.kinds.base import CRITIC, FaultKind, Law, Mechanism, Strength, share_of
from rftfm_ray.verdicts import Place

CREDIT_FAULTS = (
    FaultKind(
        "CA-1", "the critic does not say what answers are worth",
        (
            Mechanism(
                "biased_values", Place.CRITIC, "adds the strength to every value", "value_bias", 1,
                Strength("added value, in units of the task's reward", 0.01, 100, 1), algorithms=CRITIC,
                shown_by="values",
            ),
            Mechanism(
                "wrong_targets", Place.CRITIC, "adds the strength to what the critic learns", "value_loss", 1,
                Strength("added target, in units of the task's reward", 0.01, 100, 3), algorithms=CRITIC,
                shown_by="returns",
            ),
            Mechanism(
                "crossed_values", Place.CRITIC,
                "a trajectory gets the values of another one: batches sorted by length, and the order not restored",
                "explained_variance", -1, share_of("a trajectory's values are another's", 0.5), algorithms=CRITIC,
                shown_by="values", since=2,
            ),
        ),
    ),
    FaultKind(
        "CA-2", "advantages are noisy with heavy tails, and rewards are not",
        (
            Mechanism(
                "late_noise", Place.BUFFER, "advantages are multiplied by 1 + strength times noise of Student's t(2)",
                "advantage_std", 1, Strength("scale of the noise", 0.01, 100, 3), shown_by="credit",
                breaks=(Law.ADVANTAGE_MEAN, Law.ADVANTAGE_SPREAD),
            ),
            Mechanism(
                "noise", Place.ESTIMATOR, "the same before the commit gate has looked", "advantage_std", 1,
                Strength("scale of the noise", 0.01, 100, 3), shown_by="advantages",
                breaks=(Law.ADVANTAGE_MEAN, Law.ADVANTAGE_SPREAD),
            ),
            Mechanism(
                "balanced_noise", Place.BUFFER,
                "heavy-tailed noise is added to advantages, and every group keeps its mean and spread: noise that is "
                "normalised with what it spoils", "credit_correlation", -1,
                Strength("noise, in units of the group's spread", 0.01, 100, 3), shown_by="credit", since=2,
            ),
        ),
    ),
    FaultKind(
        "CA-3", "credit goes to the wrong tokens",
        (
            Mechanism(
                "misplaced", Place.BUFFER, "a trajectory gets the advantage of another one", "credit_correlation", -1,
                share_of("a trajectory's advantage is another's", 0.5, low=0.001), shown_by="credit",
                breaks=(Law.ADVANTAGE_MEAN, Law.ADVANTAGE_SPREAD),
            ),
            Mechanism(
                "shifted", Place.ESTIMATOR, "advantages stand one token too early, across trajectories",
                "credit_correlation", -1, share_of("a trajectory's tokens are shifted", 0.5, low=0.001),
                shown_by="advantages", breaks=(Law.ADVANTAGE_MEAN, Law.ADVANTAGE_SPREAD),
            ),
            Mechanism(
                "discount", Place.ESTIMATOR, "the discount falls short by the strength",
                "return_early", -1, Strength("share of the discount that is lost", 0.005, 0.99, 0.5),
                algorithms=CRITIC, shown_by="returns", breaks=(Law.RETURNS,),
            ),
            Mechanism(
                "permuted", Place.BUFFER,
                "trajectories of a group get each other's advantages: results gathered in the order in which they came",
                "credit_correlation", -1, share_of("a trajectory's advantage is a sibling's", 0.5, low=0.001),
                shown_by="credit", since=2,
            ),
        ),
    ),
)  # fmt: skip
