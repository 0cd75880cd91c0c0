"""Floors: figures that are 0 where a stack adds no noise of its own, and small where it does. Pure; numpy.

A law holds by definition; a floor is how far a healthy run of this stack is from what would hold without rounding,
failing tools or several updates per step. What the configuration accepts bounds it from the first step on; its first
steps then show it. Beyond a multiple of it lies telemetry, not a broken law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rftfm_ray.config.declared import Aggregation, Declared
from rftfm_ray.detection.laws.base import Figures, Floats, Law
from rftfm_ray.detection.laws.updates import UPDATE_LAWS

ROWS = 8
"""Measured steps that a floor is learnt from."""
# Below this rate an update may leave a float32 weight unchanged.
LEAST_RATE = 1e-7


@dataclass(frozen=True, slots=True)
class Floor:
    """One floor.

    Attributes:
        law: the relation that would hold without noise; its tolerance is the least that the floor can be.
        factor: times the largest residual of the first steps that is no alarm.
        why: the reason for the factor.
        known: (N) the largest residual by what is declared or probed at each step; NaN where nothing says it. Before
            the floor is learnt it is the only limit, and later the smaller of the two counts.
    """

    law: Law
    factor: float
    why: str
    known: Callable[[Figures, Declared], Floats]

    def limit(self, learnt: float, known: Floats) -> Floats:
        """(N) largest residual that is no alarm, by the largest one of the first steps, NaN before it is learnt."""
        return np.asarray(np.maximum(self.law.tolerance, np.fmin(self.factor * learnt, known)))


def _unknown(figures: Figures, declared: Declared) -> Floats:
    del declared
    return np.full(len(figures.steps), np.nan)


def _gap_bound(figures: Figures, declared: Declared) -> Floats:
    """k3 is half the square of a small gap: no mean of it is larger than that of the largest gap that is accepted."""
    gap = np.nan if declared.parity_gap is None else declared.parity_gap
    return np.full(len(figures.steps), np.expm1(gap) - gap)


def _rollout(figures: Figures, declared: Declared) -> Floats:
    del declared
    return figures.value("rollout_kl")


def _unchanged(figures: Figures, declared: Declared) -> Floats:
    """Share of the weights that a step left as they were, less than 0 so that too little change is too little."""
    del declared
    made = (figures.value("vetoes") == 0) & (figures.value("grad_norm") > 0) & (figures.value("lr") >= LEAST_RATE)
    return np.where(made & (figures.value("valid_rate") > 0), figures.value("changed_rate") - 1, np.nan)


def _half_unchanged(figures: Figures, declared: Declared) -> Floats:
    """Where most weights of a step stay, as those of unused tokens do, their share says nothing."""
    del declared
    return np.full(len(figures.steps), 0.5)


def _several_updates(declared: Declared) -> bool:
    several = declared.updates > 1 or declared.aggregation is Aggregation.SEQUENCE
    return several and declared.aggregation is not Aggregation.CONSTANT and not declared.frozen


def _kl_old(figures: Figures, declared: Declared) -> Floats:
    del declared
    return figures.value("kl_old")


_LOSS = next(law for law in UPDATE_LAWS if law.name == "loss")

FLOORS: tuple[Floor, ...] = (
    Floor(
        Law(
            "rollout", "rollout_kl", (),
            "rollout and learner give a sampled token the same log-prob",
            "what was sampled from is not the policy that learns",
            1e-8,
            "k3 of a gap of 1e-4 nats, as kernels in float32 differ by",
            lambda _: True,
            _rollout,
            direction=1,
        ),
        10.0,
        "rounding follows the size of the logits, which training changes by less than the root of it",
        _gap_bound,
    ),
    Floor(
        Law(
            "weights", "changed_rate", ("vetoes", "grad_norm", "lr", "valid_rate"),
            "an update changes every weight",
            "updates leave weights as they were",
            2e-2,
            "weights whose update is lost in rounding: 0.3 % in recorded healthy runs in float32, 0.6 % once converged",
            lambda declared: declared.full_precision,
            _unchanged,
            direction=-1,
        ),
        2.0,
        "tokens that are not in a step leave their embeddings alone, and steps differ in their tokens",
        _half_unchanged,
    ),
    Floor(
        Law(
            "loss_parts", "loss", _LOSS.columns,
            "the loss is the sum of its declared parts, up to the weights of minibatches or sequences",
            "the loss is further from the sum of its declared parts than in the first steps",
            1e-2,
            "means over minibatches and over tokens differ by what their sizes differ",
            _several_updates,
            _LOSS.residual,
            _LOSS.strength,
        ),
        10.0,
        "parts of the loss grow with the policy's distance to its reference, and their differences with them",
        _unknown,
    ),
    Floor(
        Law(
            "old_policy", "kl_old", (),
            "the updates of a step are made by the policy that its ratios are measured from",
            "the updates of a step move the policy further from where it was before than those of the first steps",
            5e-2,
            "k3 of a gap of a third of a nat, which a clip at 0.2 to 0.3 lets several updates reach",
            lambda declared: declared.updates > 1 and not declared.frozen,
            _kl_old,
            direction=1,
        ),
        10.0,
        "the first updates of a run are its largest, and gradients come and go",
        _unknown,
    ),
)  # fmt: skip
"""Floors of a run's own log; that of failing tools is a rate (`detectors.rates.LearntRateDetector`)."""
