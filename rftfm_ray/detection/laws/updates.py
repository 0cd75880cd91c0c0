"""Laws of an update: parts of the loss, probability ratios, the reference before any update. Pure; numpy."""

from __future__ import annotations

import numpy as np

from rftfm_ray.config.declared import Aggregation, Declared, DeclaredRate, RateCourse
from rftfm_ray.detection.laws.base import Figures, Floats, Ints, Law, Mask, Strength, outside

# Estimators whose advantages have the mean 0 over the tokens of a step.
OVER_TOKENS = ("ppo", "reinforce_pp")


def _accepted(figures: Figures) -> Mask:
    """(N) whether no update of a step was refused; a log without that column refuses none."""
    return ~(figures.value("vetoes") > 0)


def _parts(figures: Figures, declared: Declared) -> Floats:
    """(N) the loss that its logged parts add up to under the declared weights."""
    parts = figures.value("policy_loss") - _bonus(figures, declared)
    if declared.kl_coef:
        parts = parts + declared.kl_coef * figures.value("kl_ref")
    if declared.value_coef is not None:
        parts = parts + declared.value_coef * figures.value("value_loss")
    return np.asarray(parts)


def _bonus(figures: Figures, declared: Declared) -> Floats:
    if not declared.entropy_coef:
        return np.zeros(len(figures.steps))
    return declared.entropy_coef * figures.value("entropy")


def _loss(figures: Figures, declared: Declared) -> Floats:
    return np.where(_accepted(figures), figures.value("loss") - _parts(figures, declared), np.nan)


def _entropy_coef(figures: Figures, declared: Declared) -> Floats:
    """The weight of an entropy bonus that would explain a loss that is off."""
    entropy = figures.value("entropy")
    return declared.entropy_coef - np.where(entropy > 0, _loss(figures, declared) / entropy, np.nan)


def _surrogate(figures: Figures, declared: Declared) -> Floats:
    del declared
    return np.where(_accepted(figures), figures.value("policy_loss"), np.nan)


def _centred_loss(figures: Figures, declared: Declared) -> Floats:
    """A loss whose surrogate is 0: at ratio 1 it is less the mean advantage, and that is 0 over whole groups.

    With a KL term, whose mean over sequences is not logged, all that is known of the rest is that it is not negative.
    """
    rest = figures.value("loss") + _bonus(figures, declared)
    return rest if declared.kl_coef == 0 else np.minimum(rest, 0.0)


def _centred_entropy_coef(figures: Figures, declared: Declared) -> Floats:
    entropy = figures.value("entropy")
    size = np.where(entropy > 0, _centred_loss(figures, declared) / entropy, np.nan)
    return declared.entropy_coef - size if declared.kl_coef == 0 else np.full_like(size, np.nan)


def _ratio(figures: Figures, declared: Declared) -> Floats:
    """The largest ratio, or the smallest one where that is further from 1, less 1."""
    del declared
    above, below = figures.value("ratio_max") - 1, figures.value("ratio_min") - 1
    return np.where(-below > above, below, above)


def _clip(figures: Figures, declared: Declared) -> Floats:
    del declared
    return figures.value("clip_high_rate") + figures.value("clip_low_rate")


def _start(figures: Figures, declared: Declared) -> Floats:
    del declared
    return np.where(figures.steps == 1, figures.value("kl_ref"), np.nan)


def _flat(figures: Figures, declared: Declared) -> Floats:
    del declared
    return np.where(figures.value("zero_variance_group_rate") == 1, figures.value("grad_norm"), np.nan)


def _rate(figures: Figures, declared: Declared) -> Floats:
    rate = declared.rate
    if rate is None:
        return np.full(len(figures.steps), np.nan)
    # Some trainers log the rate of a step before its schedule has counted it, and some after.
    before, after = _rate_after(rate, figures.steps - 1), _rate_after(rate, figures.steps)
    value = figures.value("lr")
    return outside(value, np.minimum(before, after), np.maximum(before, after)) / rate.peak


def _rate_after(rate: DeclaredRate, steps: Ints) -> Floats:
    """(N) the declared rate once so many steps are done."""
    done = steps.astype(np.float64)
    warm = done / rate.warmup_steps if rate.warmup_steps else np.ones_like(done)
    left = (rate.steps - done) / max(1, rate.steps - rate.warmup_steps)
    course = np.ones_like(done) if rate.course is RateCourse.CONSTANT else np.clip(left, 0.0, 1.0)
    return np.asarray(rate.peak * np.where(done < rate.warmup_steps, warm, course))


def _has_one_update(declared: Declared) -> bool:
    return declared.updates == 1 and not declared.frozen


def _is_centred(declared: Declared) -> bool:
    """Whether the surrogate of a step is less the mean of advantages over whole groups."""
    plain = declared.advantage_clip is None and not declared.reweights_tokens and not declared.group_filter
    plain = plain and declared.value_coef is None
    by_sequence = declared.aggregation is Aggregation.SEQUENCE and declared.estimator in ("grpo", "rloo")
    return _has_one_update(declared) and plain and by_sequence


UPDATE_LAWS: tuple[Law, ...] = (
    Law(
        "loss", "loss", ("policy_loss", "kl_ref", "entropy", "value_loss", "vetoes"),
        "the loss is the sum of its declared parts",
        "the loss is not the sum of its declared parts",
        1e-5,
        "float32 sums over one minibatch; the largest gap of recorded healthy steps is 3e-7",
        lambda declared: _has_one_update(declared) and declared.aggregation is Aggregation.TOKEN,
        _loss,
        Strength("as an entropy bonus of coefficient", _entropy_coef),
    ),
    Law(
        "surrogate", "policy_loss", ("vetoes",),
        "at ratio 1 the policy loss is less the mean advantage of the tokens, which is 0",
        "the policy loss is not 0 at ratio 1, so that the advantages in the loss do not have the mean 0 over tokens",
        1e-5,
        "float32 sums over one minibatch; the largest policy loss of recorded healthy steps with a critic is 3e-8",
        lambda declared: (
            _has_one_update(declared)
            and declared.estimator in OVER_TOKENS
            and declared.aggregation is Aggregation.TOKEN
            and declared.advantage_clip is None
            and not declared.reweights_tokens
        ),
        _surrogate,
    ),
    Law(
        "centred_loss", "loss", ("entropy",),
        "at ratio 1 the loss is its KL term less the entropy bonus: the mean advantage of whole groups is 0",
        "the loss holds more than the declared KL term and entropy bonus, though the advantages have the mean 0",
        1e-4,
        "trainers round the loss of a step to four digits, and add it up in the precision of the model",
        _is_centred,
        _centred_loss,
        Strength("as an entropy bonus of coefficient", _centred_entropy_coef),
    ),
    Law(
        "ratio", "ratio_max", ("ratio_min",),
        "before the first update of a step all probability ratios are 1",
        "probability ratios differ from 1 though the step makes one update: its old log-probs are not the policy's",
        1e-3,
        "two forward passes of one model in other micro batches differ by rounding; in one pass they are equal",
        _has_one_update,
        _ratio,
    ),
    Law(
        "clip", "clip_high_rate", ("clip_low_rate",),
        "before the first update of a step no ratio is clipped",
        "ratios are clipped though the step makes one update: its old log-probs are not the policy's",
        0.0005,
        "rounding clips no ratio; this is one token of two thousand",
        _has_one_update,
        _clip,
        direction=1,
    ),
    Law(
        "start", "kl_ref", (),
        "before any update the policy is its reference",
        "policy and reference differ before any update",
        1e-4,
        "k3 of a gap of 0.014 nats: rounding in bfloat16 is below it, and float32 gives 0",
        lambda declared: declared.starts_at_reference and declared.kl_coef > 0 and _has_one_update(declared),
        _start,
        direction=1,
    ),
    Law(
        "flat", "grad_norm", ("zero_variance_group_rate",),
        "without a difference of rewards inside any group there is no gradient",
        "there is a gradient though no group has different rewards, and no other part of the loss is declared",
        1e-4,
        "a gradient of rounding: the advantages are 0, or 0 up to the last digit of the reward over 1e-4",
        lambda declared: (
            declared.estimator in ("grpo", "rloo") and declared.kl_coef == 0 and declared.entropy_coef == 0
            and declared.value_coef is None and not declared.frozen
        ),
        _flat,
        direction=1,
    ),
    Law(
        "rate", "lr", (),
        "the learning rate follows its declared course",
        "the learning rate is not the declared one",
        1e-4,
        "the share of the peak rate that rounding in a log explains",
        lambda declared: declared.rate is not None,
        _rate,
    ),
)  # fmt: skip
"""Laws of loss, ratios and learning rate."""
