"""Credit of a step: who takes part, what every token gets, and the figures of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import load_config
from rftfm_ray.config.settings import effective, nominal_settings
from rftfm_ray.metrics import CreditMetrics
from rftfm_ray.training.advantages import gae, group_advantages, leave_one_out_advantages, returns_to_go
from rftfm_ray.training.credit import Credit, CreditErrors, Rule, assign, credit_metrics, members, rule_of
from rftfm_ray.types import Levers

MakeBatch = Callable[..., TrajectoryBatch]
Values = NDArray[np.float32]
ESTIMATORS = ("grpo", "rloo", "reinforce_pp", "ppo")
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)

# A masked member, an empty one, a group of one, and a group of equal rewards.
REWARDS = [1.0, 0.0, 0.5, 9.0, 3.0, 2.0, 2.0]
GROUPS = [0, 0, 0, 0, 1, 2, 2]
VALID = [True, True, True, False, True, True, True]
COUNTS = [3, 1, 0, 2, 2, 1, 4]
VALUES = np.linspace(-0.5, 1.5, sum(COUNTS)).astype(np.float32)


def rule(estimator: str, **changes: Any) -> Rule:
    """A rule without clip and filter."""
    return dataclasses.replace(Rule(estimator, False, 1.0, 0.95, None, False), **changes)


@pytest.fixture
def batch(make_batch: MakeBatch) -> TrajectoryBatch:
    return make_batch(REWARDS, roles=["p" + "a" * n for n in COUNTS], groups=GROUPS, valid=VALID)


def _rows(credit: Credit) -> list[list[float]]:
    """Advantages by trajectory."""
    return [row.tolist() for row in np.split(credit.advantages, np.cumsum(COUNTS)[:-1])]


def test_masked_and_empty_trajectories_take_no_part(batch: TrajectoryBatch) -> None:
    assert members(batch, rule("grpo")).tolist() == [True, True, False, False, True, True, True]


def test_filter_leaves_out_groups_of_equal_rewards_and_of_one(batch: TrajectoryBatch) -> None:
    kept = members(batch, rule("grpo", group_filter=True))
    assert kept.tolist() == [True, True, False, False, False, False, False]


@pytest.mark.parametrize(("name", "half"), [("grpo", 0.5), ("rloo", 0.75)])
def test_all_tokens_of_a_trajectory_share_a_group_relative_advantage(
    batch: TrajectoryBatch, name: str, half: float
) -> None:
    # The empty trajectory has a reward, and so a share in its group's mean.
    credit = assign(batch, rule(name))
    assert _rows(credit) == [[half] * 3, [-half], [], [0, 0], [0, 0], [0], [0] * 4]
    assert len(credit.returns) == 0


def test_baseline_of_the_whole_step_counts_tokens(batch: TrajectoryBatch) -> None:
    mean = (3 * 1 + 0 + 2 * 3 + 2 + 4 * 2) / 11
    found = _rows(assign(batch, rule("reinforce_pp")))
    expected = [[1 - mean] * 3, [-mean], [], [0, 0], [3 - mean] * 2, [2 - mean], [2 - mean] * 4]
    assert found == [pytest.approx(row) for row in expected]


def test_baseline_of_the_whole_step_knows_the_filter(batch: TrajectoryBatch) -> None:
    found = _rows(assign(batch, rule("reinforce_pp", group_filter=True)))
    assert found == [pytest.approx([0.25] * 3), pytest.approx([-0.75]), [], [0, 0], [0, 0], [0], [0] * 4]


@pytest.mark.parametrize("normalize_std", [False, True])
def test_estimates_are_centred_over_the_tokens_that_take_part(batch: TrajectoryBatch, normalize_std: bool) -> None:
    credit = assign(batch, rule("ppo", normalize_std=normalize_std), VALUES)
    raw = gae(np.nan_to_num(batch.reward), VALUES, np.array(COUNTS), 1.0, 0.95)
    kept = np.repeat(credit.included, COUNTS)
    assert kept.sum() == 11
    spread = math.sqrt(raw[kept].var(ddof=1) + 1e-8) if normalize_std else 1.0
    np.testing.assert_allclose(credit.advantages[kept], (raw[kept] - raw[kept].mean()) / spread, rtol=1e-5, atol=1e-6)
    assert not credit.advantages[~kept].any()
    np.testing.assert_allclose(credit.returns[kept], (raw + VALUES)[kept], rtol=1e-6)


def test_a_critic_without_values_is_refused(batch: TrajectoryBatch) -> None:
    with pytest.raises(ValueError, match="critic's values"):
        assign(batch, rule("ppo"))


@every_estimator
@pytest.mark.parametrize("normalize_std", [False, True])
def test_clip_bounds_what_the_estimator_gives(batch: TrajectoryBatch, estimator: str, normalize_std: bool) -> None:
    free, tight = (
        assign(batch, rule(estimator, normalize_std=normalize_std, clip=clip), VALUES) for clip in (None, 0.4)
    )
    assert np.abs(free.advantages).max() > 0.4
    np.testing.assert_array_equal(tight.advantages, np.clip(free.advantages, np.float32(-0.4), np.float32(0.4)))
    np.testing.assert_array_equal(tight.returns, free.returns)


@every_estimator
def test_what_a_masked_trajectory_holds_changes_nothing(batch: TrajectoryBatch, estimator: str) -> None:
    other = dataclasses.replace(batch, reward=np.where(batch.valid, batch.reward, 1e6).astype(np.float32))
    values = np.where(np.repeat(VALID, COUNTS), VALUES, 5).astype(np.float32)
    whole, changed = assign(batch, rule(estimator), VALUES), assign(other, rule(estimator), values)
    np.testing.assert_array_equal(whole.advantages, changed.advantages)


@every_estimator
@pytest.mark.parametrize("filtered", [False, True])
def test_step_without_anything_to_learn_is_all_zero(make_batch: MakeBatch, estimator: str, filtered: bool) -> None:
    batch = make_batch([1.0, 1.0], roles=["pa", "paa"], valid=[filtered, filtered])
    found = rule(estimator, group_filter=filtered)
    credit = assign(batch, found, np.zeros(3, np.float32))
    assert not credit.included.any()
    assert credit.advantages.tolist() == [0, 0, 0]
    metrics = credit_metrics(batch, credit, found, CreditErrors(math.nan), None)
    assert math.isnan(metrics.advantage_mean)
    assert metrics.advantage_max == 0


@pytest.mark.parametrize(("name", "estimator"), [("grpo", group_advantages), ("rloo", leave_one_out_advantages)])
def test_advantages_of_a_step_are_those_of_the_estimator(
    batch: TrajectoryBatch, name: str, estimator: Callable[..., Values]
) -> None:
    expected = estimator(batch.reward, batch.group, batch.valid, normalize_std=True)
    found = assign(batch, rule(name, normalize_std=True)).advantages
    np.testing.assert_array_equal(found, np.repeat(expected, COUNTS))


def test_rule_is_that_of_configuration_and_levers() -> None:
    config = load_config(None, ["algorithm.name=ppo", "critic.gamma=0.9", "critic.gae_lambda=0.5"])
    nominal = nominal_settings(config)
    assert rule_of(config, nominal) == Rule("ppo", True, 0.9, 0.5, None, False)
    levers = Levers(gamma=0.75, gae_lambda=0.25, advantage_clip=2.0, group_filter=1)
    assert rule_of(config, effective(nominal, 1.0, levers)) == Rule("ppo", True, 0.75, 0.25, 2.0, True)


@pytest.mark.parametrize(("name", "usual"), [("grpo", True), ("rloo", False), ("reinforce_pp", True), ("ppo", True)])
def test_deviation_counts_as_each_was_published_or_as_said(name: str, usual: bool) -> None:
    for value, expected in (("null", usual), ("true", True), ("false", False)):
        config = load_config(None, [f"algorithm.name={name}", f"algorithm.normalize_std={value}"])
        assert rule_of(config, nominal_settings(config)).normalize_std == expected


def _metrics(batch: TrajectoryBatch, given: Rule, values: Values | None = None) -> CreditMetrics:
    return credit_metrics(batch, assign(batch, given, values), given, CreditErrors(0.25), values)


def test_figures_count_trajectories_where_they_share_an_advantage(batch: TrajectoryBatch) -> None:
    found = _metrics(batch, rule("grpo"))
    units = np.array([0.5, -0.5, 0, 0, 0])
    assert (found.advantage_mean, found.advantage_max, found.advantage_error) == (0, 0.5, 0.25)
    assert found.advantage_std == pytest.approx(units.std())
    assert found.advantage_kurtosis == pytest.approx((units**4).mean() / (units**2).mean() ** 2)
    assert (found.advantage_early, found.advantage_late) == (0, 0)
    assert math.isnan(found.value_early)
    assert math.isnan(found.explained_variance)


def test_figures_count_tokens_where_each_has_its_own(batch: TrajectoryBatch) -> None:
    given = rule("ppo", normalize_std=True, gamma=0.5)
    credit, found = assign(batch, given, VALUES), _metrics(batch, given, VALUES)
    kept = np.repeat(credit.included, COUNTS)
    assert found.advantage_std == pytest.approx(math.sqrt(10 / 11), rel=1e-4)
    assert found.advantage_max == np.abs(credit.advantages).max()
    firsts, lasts = [0, 3, 6, 8, 9], [2, 3, 7, 8, 12]
    assert kept[firsts].all()
    assert found.advantage_early == pytest.approx(credit.advantages[firsts].mean())
    assert found.advantage_late == pytest.approx(credit.advantages[lasts].mean())
    assert found.value_early == pytest.approx(VALUES[firsts].mean())
    assert found.value_late == pytest.approx(VALUES[lasts].mean())
    assert found.return_early == pytest.approx(np.mean([0.25, 0, 1.5, 2, 0.25]))
    assert found.return_late == pytest.approx(np.mean([1, 0, 3, 2, 2]))


def test_perfect_critic_explains_all_and_a_constant_one_nothing(batch: TrajectoryBatch) -> None:
    returns = returns_to_go(np.nan_to_num(batch.reward), np.array(COUNTS), 0.5)
    given = rule("ppo", gamma=0.5)
    perfect = _metrics(batch, given, returns.astype(np.float32))
    assert perfect.explained_variance == pytest.approx(1, abs=1e-9)
    assert [perfect.value_bias, perfect.value_slope] == pytest.approx([0, 1], abs=1e-7)
    constant = _metrics(batch, given, np.full(len(returns), 7.0, np.float32))
    assert constant.explained_variance == pytest.approx(0, abs=1e-9)
    kept = np.repeat(members(batch, given), COUNTS)
    assert constant.value_bias == pytest.approx(7 - returns[kept].mean())
    assert math.isnan(constant.value_slope)
    halved = _metrics(batch, given, (returns / 2 + 1).astype(np.float32))
    assert halved.value_slope == pytest.approx(2, rel=1e-6)
    assert halved.explained_variance == pytest.approx(0.75, rel=1e-6)
    assert halved.value_bias == pytest.approx(1 - returns[kept].mean() / 2, rel=1e-5)
    wrong = _metrics(batch, given, (-returns).astype(np.float32))
    assert wrong.explained_variance == pytest.approx(-3, rel=1e-6)


@pytest.mark.parametrize(("filtered", "rate"), [(False, 0), (True, 2 / 3)])
def test_rate_of_groups_that_the_filter_leaves_out(batch: TrajectoryBatch, filtered: bool, rate: float) -> None:
    assert _metrics(batch, rule("grpo", group_filter=filtered)).filtered_group_rate == pytest.approx(rate)


def test_group_that_is_masked_is_not_filtered(make_batch: MakeBatch) -> None:
    batch = make_batch([1.0, 0.0, 1.0], groups=[0, 0, 1], valid=[True, True, False])
    assert _metrics(batch, rule("grpo", group_filter=True)).filtered_group_rate == 0


def _long(make_batch: MakeBatch, critic: str, seed: int) -> tuple[TrajectoryBatch, Values]:
    """64 trajectories of 4 to 12 tokens in groups of eight, and a critic's values."""
    draw = np.random.default_rng(seed)
    counts, reward = draw.integers(4, 13, 64), draw.random(64)
    batch = make_batch(reward.tolist(), roles=["p" + "a" * n for n in counts], groups=(np.arange(64) // 8).tolist())
    ahead = np.concatenate([np.arange(n)[::-1] for n in counts])
    known = np.exp(-ahead / 3)
    said = {
        "new": np.zeros(len(ahead)),
        "rough": draw.normal(0.5, 0.1, len(ahead)),
        "wise": 0.5 * (1 - known) + 0.9 * known * np.repeat(reward, counts) + draw.normal(0, 0.05, len(ahead)),
    }
    return batch, said[critic].astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
@pytest.mark.parametrize("critic", ["new", "rough", "wise"])
def test_credit_lags_by_as_many_tokens_as_it_is_shifted(
    make_batch: MakeBatch, critic: str, lam: float, seed: int
) -> None:
    batch, values = _long(make_batch, critic, seed)
    given = rule("ppo", normalize_std=True, gae_lambda=lam)
    credit = assign(batch, given, values)
    healthy = credit_metrics(batch, credit, given, CreditErrors(0.0), values)
    assert healthy.credit_lag == 0
    # A critic that knows the end leaves less of the reward to the last token.
    assert healthy.credit_correlation > (0.2 if critic == "wise" else 0.8)
    for lag in (1, 3):
        shifted = dataclasses.replace(credit, advantages=np.roll(credit.advantages, -lag))
        found = credit_metrics(batch, shifted, given, CreditErrors(0.0), values)
        assert found.credit_lag == lag
        # At lambda 0 a new critic gives the tokens before the last nothing at all.
        assert not found.credit_correlation >= healthy.credit_correlation


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_pp"])
def test_credit_that_all_tokens_share_does_not_lag(make_batch: MakeBatch, name: str) -> None:
    for seed in range(10):
        batch, _ = _long(make_batch, "new", seed)
        found = _metrics(batch, rule(name, normalize_std=True))
        assert found.credit_lag == 0
        assert found.credit_correlation > 0.85
