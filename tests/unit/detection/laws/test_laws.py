"""Laws from first principles: random steps keep them, a fault of the kind that each is about breaks it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.config.declared import Aggregation, Declared, DeclaredRate, Normalization, RateCourse, RewardRule
from rftfm_ray.detection.laws.base import Figures
from rftfm_ray.detection.laws.table import FLOOR_TABLE, LAWS
from rftfm_ray.signals.schema import INDEX
from tests.unit.detection.laws.figures import (
    Floats,
    Logged,
    by_group,
    declared,
    logged,
    over_tokens,
    random_batch,
    spread_of,
)

PLAIN = RewardRule((("correct_rate", 1.0), ("tool_calls_mean", -0.2)), 0.2)
seeds = st.integers(0, 2**32 - 1)


def is_broken(name: str, figures: Figures, facts: Declared) -> bool:
    """Whether any step breaks a law."""
    law = LAWS[name]
    excess = law.excess(law.residuals(figures, facts), figures)
    return bool(np.any([each * excess > 1 for each in law.directions]))


def is_silent(name: str, figures: Figures, facts: Declared) -> bool:
    """Whether a law says nothing of any step."""
    law = LAWS[name]
    return not law.applies(facts) or bool(np.isnan(law.residuals(figures, facts)).all())


def test_every_law_is_named_once_and_says_what_it_reads() -> None:
    for name, law in LAWS.items():
        assert law.name == name
        assert {law.signal, *law.columns} <= set(INDEX)
        assert law.tolerance > 0
        assert all((law.states, law.meaning, law.reason))
    for floor in FLOOR_TABLE.values():
        assert {floor.law.signal, *floor.law.columns} <= set(INDEX)
        assert floor.factor > 1
        assert floor.why


@given(seeds, st.integers(2, 16), st.integers(2, 12))
def test_advantages_of_groups_have_the_mean_and_spread_of_their_normalisation(seed: int, groups: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    batch, facts = random_batch(rng, groups, n), declared(group_size=n, reward=RewardRule((), 1.0))
    figures = {**batch.figures(), **spread_of(by_group(batch))}
    assert not is_broken("advantage_mean", logged(**figures), facts)
    assert not is_broken("advantage_spread", logged(**figures), facts)
    assert not is_silent("advantage_spread", logged(**figures), facts)


@given(seeds, st.integers(2, 16), st.floats(0.0, 0.6))
def test_masked_members_leave_bounds_that_hold(seed: int, groups: int, masked: float) -> None:
    batch = random_batch(np.random.default_rng(seed), groups, masked=masked)
    figures = {**batch.figures(), **spread_of(by_group(batch))}
    facts = declared(reward=RewardRule((), 1.0))
    assert not is_broken("advantage_spread", logged(**figures), facts)
    assert is_broken("advantage_spread", logged(**{**figures, "advantage_std": 1.5}), facts)


@given(seeds)
def test_a_filter_leaves_out_what_has_no_spread(seed: int) -> None:
    batch = random_batch(np.random.default_rng(seed), 16)
    advantages = by_group(batch)
    kept = advantages[np.repeat(np.ptp(batch.reward, axis=1) > 0, 8)]
    if not len(kept):
        return
    figures = logged(**batch.figures(), **spread_of(kept))
    assert not is_broken("advantage_spread", figures, declared(group_filter=True, reward=RewardRule((), 1.0)))
    assert is_broken("advantage_spread", figures, declared(reward=RewardRule((), 1.0))) is (batch.flat_share > 0.02)


@given(seeds)
def test_whitened_advantages_have_the_deviation_1(seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = random_batch(rng)
    tokens = rng.normal(size=int(batch.length.sum())) * 10.0 ** rng.integers(-2, 3)
    advantages, facts = over_tokens(batch, tokens), declared(estimator="ppo", normalization=Normalization.BATCH)
    figures = {**batch.figures(), **spread_of(advantages)}
    assert not is_broken("advantage_mean", logged(**figures), facts)
    assert not is_broken("advantage_spread", logged(**figures), facts)
    noise = advantages * (1 + 3 * rng.standard_t(2, len(advantages)))
    assert is_broken("advantage_spread", logged(**{**figures, **spread_of(noise)}), facts)


@given(seeds)
def test_leave_one_out_with_a_deviation_is_inflated(seed: int) -> None:
    batch = random_batch(np.random.default_rng(seed), 16)
    facts = declared(estimator="rloo", reward=RewardRule((), 1.0))
    figures = {**batch.figures(), **spread_of(by_group(batch) * 8 / 7)}
    assert not is_broken("advantage_spread", logged(**figures), facts)
    assert is_silent(
        "advantage_spread", logged(**figures), declared(estimator="rloo", normalization=Normalization.NONE)
    )


def test_a_small_spread_of_unknown_rewards_breaks_nothing() -> None:
    batch = random_batch(np.random.default_rng(3))
    small = type(batch)(batch.reward * 1e-4, batch.valid, batch.length)
    figures = {**small.figures(), **spread_of(by_group(small))}
    assert not is_broken("advantage_spread", logged(**figures), declared())
    assert is_broken("advantage_spread", logged(**figures), declared(reward=RewardRule((), 1.0)))


def test_noise_on_advantages_and_advantages_of_others_break_the_laws_of_credit() -> None:
    rng = np.random.default_rng(5)
    batch, facts = random_batch(rng), declared(reward=RewardRule((), 1.0))
    sound = by_group(batch)
    noise = sound * (1 + 3 * rng.standard_t(2, len(sound)))
    assert is_broken("advantage_mean", logged(**batch.figures(), **spread_of(noise)), facts)
    assert is_broken("advantage_spread", logged(**batch.figures(), **spread_of(noise)), facts)
    others = np.where(rng.random(len(sound)) < 0.5, np.roll(sound, 1), sound)
    assert is_broken("advantage_mean", logged(**batch.figures(), **spread_of(others)), facts)


@pytest.mark.parametrize(
    ("law", "facts"),
    [
        ("advantage_mean", {"advantage_clip": 1.0}), ("advantage_mean", {"estimator": "reinforce_pp"}),
        ("advantage_spread", {"advantage_clip": 1.0}), ("advantage_spread", {"normalization": Normalization.NONE}),
        ("loss", {"updates": 2}), ("loss", {"aggregation": Aggregation.SEQUENCE}), ("loss", {"frozen": True}),
        ("surrogate", {}), ("surrogate", {"estimator": "ppo", "updates": 2}),
        ("surrogate", {"estimator": "ppo", "advantage_clip": 1.0}),
        ("surrogate", {"estimator": "ppo", "reweights_tokens": True}),
        ("centred_loss", {"aggregation": Aggregation.SEQUENCE, "value_coef": 0.5}),
        ("flat", {"kl_coef": 0.0, "value_coef": 0.5}),
        ("centred_loss", {}), ("centred_loss", {"aggregation": Aggregation.SEQUENCE, "reweights_tokens": True}),
        ("centred_loss", {"aggregation": Aggregation.SEQUENCE, "updates": 2}),
        ("ratio", {"updates": 2}), ("clip", {"updates": 4}), ("start", {"kl_coef": 0.0}),
        ("start", {"starts_at_reference": False}), ("flat", {}), ("flat", {"kl_coef": 0.0, "entropy_coef": 0.1}),
        ("rate", {}), ("reward", {}), ("reward", {"reward": PLAIN, "reward_replaced": True}), ("turns", {}),
        ("limit", {}),
    ],
)  # fmt: skip
def test_law_does_not_apply_where_the_configuration_takes_it_out_of_force(law: str, facts: dict[str, object]) -> None:
    assert not LAWS[law].applies(declared(**facts))


@given(seeds, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_returns_are_discounted_over_the_answers(seed: int, gamma: float) -> None:
    batch = random_batch(np.random.default_rng(seed))
    early = (batch.reward * gamma ** (batch.length - 1)).mean()
    figures = {**batch.figures(), "return_late": float(batch.reward.mean())}
    facts = declared(gamma=gamma)
    assert not is_broken("returns", logged(**figures, return_early=float(early)), facts)
    assert is_broken("returns", logged(**figures, return_early=figures["return_late"] + 0.01), facts)
    if gamma < 1 and early < figures["return_late"] - 1e-3:
        assert is_broken("returns", logged(**figures, return_early=float(early)), declared())
        negative = {**figures, "reward_min": -1.0}
        assert is_silent("returns", logged(**negative, return_early=float(early)), facts)


@given(st.floats(-3, 3), st.floats(0, 5), st.floats(0.01, 2), st.floats(0, 9))
def test_loss_is_the_sum_of_its_parts_and_reads_off_an_entropy_bonus(
    policy: float, kl: float, h: float, v: float
) -> None:
    parts = {"policy_loss": policy, "kl_ref": kl, "entropy": h, "value_loss": v, "vetoes": 0.0}
    for facts, weight in ((declared(), 0.0), (declared(value_coef=0.1), 0.1), (declared(entropy_coef=0.3), 0.0)):
        bonus = facts.entropy_coef * h
        loss = policy + 0.02 * kl + weight * v - bonus
        assert not is_broken("loss", logged(**parts, loss=loss), facts)
        hidden = logged(**parts, loss=loss + 5 * h)
        assert is_broken("loss", hidden, facts)
        strength = LAWS["loss"].strength
        assert strength is not None
        assert strength.measure(hidden, facts)[0] == pytest.approx(facts.entropy_coef - 5, rel=1e-6, abs=1e-6)
        refused = logged(**{**parts, "vetoes": 1.0}, loss=loss + 5 * h)
        assert is_silent("loss", refused, facts)


def test_part_of_a_loss_that_is_not_logged_says_nothing_unless_it_is_declared_to_be_none() -> None:
    assert is_silent("loss", logged(loss=1.0, policy_loss=0.1, vetoes=0.0), declared())
    assert is_broken("loss", logged(loss=1.0, policy_loss=0.1), declared(kl_coef=0.0))


def test_surrogate_is_0_where_advantages_are_centred_over_what_the_loss_averages() -> None:
    facts = declared(estimator="reinforce_pp", normalization=Normalization.BATCH)
    assert not is_broken("surrogate", logged(policy_loss=2e-8, vetoes=0.0), facts)
    assert is_broken("surrogate", logged(policy_loss=-0.02, vetoes=0.0), facts)


def test_loss_of_centred_sequences_is_its_kl_term_and_bonus() -> None:
    facts = declared(aggregation=Aggregation.SEQUENCE, kl_coef=0.0, entropy_coef=0.1)
    assert not is_broken("centred_loss", logged(loss=-0.07, entropy=0.7), facts)
    hidden = logged(loss=-0.07 - 0.35, entropy=0.7)
    assert is_broken("centred_loss", hidden, facts)
    strength = LAWS["centred_loss"].strength
    assert strength is not None
    assert strength.measure(hidden, facts)[0] == pytest.approx(0.6)
    with_kl = declared(aggregation=Aggregation.SEQUENCE)
    assert not is_broken("centred_loss", logged(loss=0.3, entropy=0.7), with_kl)
    assert is_broken("centred_loss", logged(loss=-0.3, entropy=0.7), with_kl)
    assert np.isnan(strength.measure(logged(loss=-0.3, entropy=0.7), with_kl)).all()


@pytest.mark.parametrize(("low", "high", "broken"), [(1.0, 1.0, False), (1.0, 1.1, True), (0.9, 1.0, True)])
def test_ratios_are_1_before_the_first_update(low: float, high: float, broken: bool) -> None:
    assert is_broken("ratio", logged(ratio_min=low, ratio_max=high), declared()) is broken


def test_nothing_is_clipped_before_the_first_update() -> None:
    assert not is_broken("clip", logged(clip_high_rate=0.0, clip_low_rate=0.0), declared())
    assert is_broken("clip", logged(clip_high_rate=0.0, clip_low_rate=0.01), declared())


def test_policy_is_its_reference_at_step_1_alone() -> None:
    assert is_broken("start", logged(kl_ref=0.01), declared())
    assert not is_broken("start", logged(kl_ref=1e-7), declared())
    assert is_silent("start", logged(2, kl_ref=0.01), declared())


def test_no_gradient_without_a_difference_of_rewards() -> None:
    facts = declared(kl_coef=0.0)
    assert is_broken("flat", logged(zero_variance_group_rate=1.0, grad_norm=0.3), facts)
    assert not is_broken("flat", logged(zero_variance_group_rate=1.0, grad_norm=0.0), facts)
    assert is_silent("flat", logged(zero_variance_group_rate=0.9, grad_norm=0.3), facts)


@pytest.mark.parametrize("course", RateCourse)
def test_rate_follows_its_course(course: RateCourse) -> None:
    rate = DeclaredRate(1e-3, 100, 10, course)
    # Logged with the step counted, and before.
    for steps in (np.arange(1, 101), np.arange(100)):
        after = np.ones(100) if course is RateCourse.CONSTANT else (100 - steps) / 90
        lr = 1e-3 * np.where(steps < 10, steps / 10, after)
        assert not is_broken("rate", Logged({"lr": lr}), declared(rate=rate))
        assert is_broken("rate", Logged({"lr": lr * np.where(steps > 50, 1.3, 1.0)}), declared(rate=rate))


@given(seeds)
def test_mean_reward_is_the_declared_function_of_its_parts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    right, calls = rng.random(128) < 0.5, rng.integers(0, 3, 128)
    reward = right - 0.2 * calls
    parts = {"correct_rate": float(right.mean()), "tool_calls_mean": float(calls.mean())}
    facts = declared(reward=PLAIN)
    assert not is_broken("reward", logged(**parts, reward_mean=float(reward.mean())), facts)
    bonus = logged(**parts, reward_mean=float((reward + 2 * ~right).mean()))
    assert is_broken("reward", bonus, facts) is bool((~right).any())
    assert not is_broken(
        "reward", logged(**parts, reward_mean=float(3 * reward.mean())), declared(reward=PLAIN.scaled(3))
    )


@pytest.mark.parametrize(
    ("turns", "calls", "by_turns", "truncated", "broken"),
    [
        (1.75, 0.75, 0.0, 0.0, False), (1.75, 1.0, 0.25, 0.25, False), (1.8, 0.75, 0.0, 0.0, True),
        (1.7, 0.75, 0.0, 0.0, True), (1.7, 0.75, 0.0, 0.1, False), (1.7, 0.75, 0.0, 0.04, True),
        (1.8, 0.75, 0.0, 0.5, True),
    ],
)  # fmt: skip
def test_turns_are_calls_and_the_one_that_ends(
    turns: float, calls: float, by_turns: float, truncated: float, broken: bool
) -> None:
    figures = logged(turns_mean=turns, tool_calls_mean=calls, turn_limit_rate=by_turns, truncated_rate=truncated)
    assert is_broken("turns", figures, declared(turn_per_call=True)) is broken


@pytest.mark.parametrize(
    ("longest", "cut", "broken"), [(9.0, 0.0, False), (16.0, 0.1, False), (8.0, 0.1, True), (17.0, 0.0, True)]
)
def test_answers_end_at_the_declared_limit(longest: float, cut: float, broken: bool) -> None:
    assert is_broken("limit", logged(length_max=longest, truncated_rate=cut), declared(token_limit=16)) is broken


@pytest.mark.parametrize(
    ("valid", "failed", "broken"),
    # What has no verdict is masked beside what has failed.
    [(1.0, 0.0, False), (0.9, 0.1, False), (0.85, 0.1, False), (1.0, 1 / 4096, True), (0.95, 0.1, True)],
)
def test_what_a_failure_has_ended_may_not_train(valid: float, failed: float, broken: bool) -> None:
    assert is_broken("masked", logged(valid_rate=valid, failed_rate=failed), declared()) is broken


def test_tolerance_grows_with_figures_above_1() -> None:
    facts = declared(reward=RewardRule((("correct_rate", 1000.0),)))
    assert not is_broken("reward", logged(correct_rate=0.5, reward_mean=500.001), facts)
    assert is_broken("reward", logged(correct_rate=0.5, reward_mean=500.1), facts)


def test_unknown_figures_are_no_break() -> None:
    facts = declared(reward=PLAIN, turn_per_call=True, token_limit=8, kl_coef=0.0)
    for name in LAWS:
        assert not is_broken(name, logged(x=math.nan), facts)


def test_figures_of_several_steps_are_judged_one_by_one() -> None:
    mean: Floats = np.array([0.0, 0.1, math.nan, 0.0])
    law = LAWS["advantage_mean"]
    figures = Logged({"advantage_mean": mean})
    excess = law.excess(law.residuals(figures, declared()), figures)
    assert (np.abs(excess) > 1).tolist() == [False, True, False, False]
