"""Contrasts and their sums on simulated residuals: what is seen, how soon, and how seldom they are wrong."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.detection.statistics.correlations import Moments, shrunken
from rftfm_ray.detection.statistics.matched_filters import (
    REMEMBERED_SETS,
    Contrast,
    ContrastKind,
    Cusums,
    FilterBank,
    LongRun,
)
from rftfm_ray.detection.statistics.recursions import MANY
from rftfm_ray.detection.statistics.thresholds import FALSE_ALARM_STEPS, LEAST, budget_factor, level_for, peaks
from rftfm_ray.errors import StateError
from tests.unit.detection.test_correlations import healthy, truth

Floats = NDArray[np.float64]
NAMES = tuple(f"s{n}" for n in range(12))
BLOCK = 40
SIZE = 2.0


@pytest.fixture(scope="module")
def bank() -> FilterBank:
    """A bank from a hundred healthy runs."""
    correlation = shrunken(Moments.of([healthy(seed) for seed in range(100)]).correlation(), 0.1)
    return FilterBank(NAMES, correlation, np.ones(24))


@pytest.fixture(scope="module")
def levels(bank: FilterBank) -> Floats:
    """Levels at which all contrasts together are wrong once in 2,000 steps, if they were independent."""
    table = np.concatenate([peaks(Cusums(bank, SIZE).over(healthy(seed)), BLOCK) for seed in range(100, 300)])
    return np.array([level_for(table[:, place], BLOCK, 1 / 2000 / 48) for place in range(48)])


def shifted(seed: int, shift: Floats, onset: int = 10) -> Floats:
    """Residuals of a run with a fault from step `onset` on."""
    run = healthy(seed)
    run[onset - 1 :] += shift
    return run


def first(bank: FilterBank, levels: Floats, residuals: Floats) -> tuple[int, Contrast] | None:
    """The first alarm of a run, and what raised it."""
    over = Cusums(bank, SIZE).over(residuals) / levels
    steps = np.flatnonzero(over.max(1) >= 1)
    return (int(steps[0]) + 1, bank.contrasts()[int(over[steps[0]].argmax())]) if len(steps) else None


def test_contrasts_are_named_in_the_order_of_the_sums(bank: FilterBank) -> None:
    contrasts = bank.contrasts()
    assert len(contrasts) == 48 == Cusums(bank, SIZE).over(healthy(0)).shape[1]
    assert [str(contrasts[place]) for place in (0, 12, 24, 47)] == [
        "signal:s0+", "conditional:s0+", "signal:s0-", "conditional:s11-",
    ]  # fmt: skip
    step = np.zeros((1, 12))
    step[0, 4] = -3.0
    raised = Cusums(bank, SIZE).over(step)[0]
    assert contrasts[int(raised.argmax())] in (
        Contrast(ContrastKind.SIGNAL, "s4", -1), Contrast(ContrastKind.CONDITIONAL, "s4", -1),
    )  # fmt: skip


def test_contrasts_have_a_spread_of_one(bank: FilterBank) -> None:
    spreads = bank.along(np.concatenate([healthy(seed) for seed in range(900, 1000)])).std(0)
    # Less where two go together so closely that what is left is hardly more than what the correlation is shrunk by.
    close = np.isin(np.arange(24), (12, 13))
    assert spreads[~close] == pytest.approx(np.ones(22), abs=0.08)
    assert (spreads[close] < 0.85).all()


def test_long_run_variances_make_them_smaller(bank: FilterBank) -> None:
    wide = FilterBank(bank.signals, bank.covariance, np.full(24, 4.0))
    np.testing.assert_allclose(wide.along(healthy(3)), bank.along(healthy(3)) / 2)


def test_healthy_runs_alarm_as_seldom_as_asked(bank: FilterBank, levels: Floats) -> None:
    alarms = sum(first(bank, levels, healthy(seed)) is not None for seed in range(5000, 5500))
    # 20,000 steps at one in 2,000, fewer because contrasts share their mistakes.
    assert 1 <= alarms <= 14


def test_each_kind_of_shift_is_seen_by_its_kind_of_contrast(bank: FilterBank, levels: Floats) -> None:
    marginal, apart = np.zeros(12), np.zeros(12)
    marginal[9], apart[0] = 4.0, 1.2
    for shift, wanted in ((marginal, tuple(ContrastKind)), (apart, (ContrastKind.CONDITIONAL,))):
        alarms = [first(bank, levels, shifted(seed, shift)) for seed in range(40)]
        seen = [alarm for alarm in alarms if alarm is not None and alarm[0] >= 10]
        assert len(seen) >= 38
        assert np.median([step for step, _ in seen]) - 10 <= 4
        assert sum(contrast.kind in wanted for _, contrast in seen) > 20


def test_what_is_shifted_in_one_of_two_that_go_together_is_hardly_seen_in_itself(
    bank: FilterBank, levels: Floats
) -> None:
    apart = np.zeros(12)
    apart[0] = 1.2
    alone = [place for place, one in enumerate(bank.contrasts()) if one.kind is ContrastKind.SIGNAL]
    over = [(Cusums(bank, SIZE).over(shifted(seed, apart)) / levels)[:20, alone].max() for seed in range(40)]
    assert sum(one >= 1 for one in over) < 20


def test_conditional_is_on_what_was_measured_at_the_step(bank: FilterBank) -> None:
    run = healthy(78, 400)
    gapped = run.copy()
    gapped[:, 1] = np.nan
    contrasts = bank.along(gapped)
    assert np.isnan(contrasts[:, [1, 13]]).all()
    assert np.isfinite(np.delete(contrasts, [1, 13], 1)).all()
    # Without the signal that it nearly is, the first one is as wide as ever, and not as if that had left it behind.
    assert contrasts[:, 12].std() == pytest.approx(1.0, abs=0.1)
    part = FilterBank(tuple(np.delete(NAMES, 1)), np.delete(np.delete(bank.covariance, 1, 0), 1, 1), np.ones(22))
    np.testing.assert_allclose(np.delete(contrasts, [1, 13], 1), part.along(np.delete(gapped, 1, 1)))


def test_what_is_not_measured_holds_its_sums(bank: FilterBank) -> None:
    cusums = Cusums(bank, SIZE, 5.0)
    before = cusums.over(np.full((3, 12), 2.0))[-1]
    assert before.max() > 0
    gap = np.full((4, 12), np.nan)
    assert (cusums.over(gap) == before).all()
    gap[:, 0] = -9.0
    after = cusums.over(gap)[-1]
    moved = np.flatnonzero(after != before)
    assert {bank.contrasts()[place].signal for place in moved} == {"s0"}


@pytest.mark.parametrize("prior_weight", [math.inf, 5.0])
@pytest.mark.parametrize("gaps", [False, True])
def test_chunks_give_what_single_steps_give(bank: FilterBank, prior_weight: float, *, gaps: bool) -> None:
    rng = np.random.default_rng(5)
    run = healthy(77, 300) * rng.choice([1.0, 3.0], size=(300, 1))
    if gaps:
        run[3::4, 2:5], run[17:19] = np.nan, np.nan
    limits = np.linspace(8.0, 20.0, 300)[:, None]
    single, chunked = (Cusums(bank, SIZE, prior_weight, 12.0) for _ in range(2))
    one_by_one = np.concatenate([single.over(run[row : row + 1], limits[row : row + 1]) for row in range(300)])
    bounds = [0, 1, 2, 70, 71, 200, 300]
    chunks = [chunked.over(run[a:b], limits[a:b]) for a, b in itertools.pairwise(bounds)]
    np.testing.assert_array_equal(np.concatenate(chunks), one_by_one)
    np.testing.assert_array_equal(Cusums(bank, SIZE, prior_weight, 12.0).over(run, limits), one_by_one)
    assert 8 < one_by_one.max() <= 20


def test_long_chunks_are_worked_out_in_blocks_to_the_same(bank: FilterBank) -> None:
    rng = np.random.default_rng(6)
    run = healthy(79, 3 * MANY + 17) * rng.choice([1.0, 4.0], size=(3 * MANY + 17, 1), p=[0.9, 0.1])
    run[:, 4] = np.nan
    single, whole = Cusums(bank, SIZE, 5.0), Cusums(bank, SIZE, 5.0)
    one_by_one = np.concatenate([single.over(step[None], 30.0) for step in run])
    np.testing.assert_allclose(whole.over(run, 30.0), one_by_one, atol=1e-10)
    np.testing.assert_allclose(whole.over(run[:9], 30.0), single.over(run[:9], 30.0), atol=1e-10)


def test_state_goes_on_where_it_was_saved(bank: FilterBank) -> None:
    run = healthy(80, 60)
    cusums, other = Cusums(bank, SIZE, 5.0), Cusums(bank, SIZE, 5.0)
    cusums.over(run[:30])
    saved = cusums.state_dict()
    other.load_state_dict(copy.deepcopy(saved))
    after = cusums.over(run[30:])
    np.testing.assert_array_equal(other.over(run[30:]), after)
    assert np.abs(Cusums(bank, SIZE, 5.0).over(run[30:]) - after).max() > 0.1
    other.load_state_dict(saved)
    np.testing.assert_array_equal(other.over(run[30:]), after)
    for damaged in ({**saved, "sums": np.zeros(3)}, {**saved, "sums": np.full(48, np.nan)}, {"sums": saved["sums"]}):
        with pytest.raises(StateError):
            other.load_state_dict(damaged)


def test_sums_stop_growing_and_come_back(bank: FilterBank) -> None:
    gone = np.concatenate([np.full((60, 12), 8.0), np.zeros((80, 12))])
    capped, free = Cusums(bank, SIZE).over(gone, 30.0), Cusums(bank, SIZE).over(gone)
    assert capped.max() == 30.0
    assert (capped[-1] == 0).all()
    assert free[-1].max() > 100
    cusums = Cusums(bank, SIZE)
    cusums.over(gone[:5])
    cusums.clear()
    assert (cusums.sums == 0).all()


def test_runs_of_another_kind_are_judged_by_what_they_vary_by_themselves(bank: FilterBank, levels: Floats) -> None:
    """Half as wide again, and neighbours alike: by the bank's own spreads most of them alarm."""

    def other(seed: int) -> Floats:
        run = 1.5 * healthy(seed, 80)
        for step in range(1, len(run)):
            run[step] = 0.3 * run[step - 1] + np.sqrt(1 - 0.3**2) * run[step]
        return run

    alarmed = {
        weight: sum(bool((Cusums(bank, SIZE, weight).over(other(seed)) >= levels).any()) for seed in range(60))
        for weight in (math.inf, 4.0)
    }
    assert alarmed[math.inf] > 40
    assert alarmed[4.0] < alarmed[math.inf] / 3
    # A shift in a run of the bank's own kind is still seen.
    shift = 4.0 * np.eye(12)[9]
    runs = [Cusums(bank, SIZE, 4.0).over(shifted(seed, shift, 20)) for seed in range(40)]
    assert sum(bool((run[19:] >= levels).any()) for run in runs) > 28


def test_scale_of_a_run_is_known_from_the_steps_before_alone() -> None:
    wide = np.full((40, 1), 3.0) * np.where(np.arange(40) % 2, 1, -1)[:, None]
    scaled = LongRun(1, 4.0).scaled(wide)
    assert scaled[0, 0] == wide[0, 0]
    assert np.abs(scaled[-1, 0]) < 1.3, "as wide as that is usual by now"
    assert LongRun(1, math.inf).scaled(wide) is wide


def test_few_degrees_of_freedom_make_far_residuals_less_rare() -> None:
    bank, step = FilterBank(NAMES, np.eye(12), np.ones(24)), 6.0 * np.eye(12)[:1]
    sure, unsure = (Cusums(bank, SIZE, freedom=freedom).over(step).max() for freedom in (math.inf, 8.0))
    # 6 of Student's t with 8 degrees of freedom are as rare as 3.5 of a normal one.
    assert sure == pytest.approx(SIZE * (6 - 1), rel=0.05)
    assert unsure < 0.6 * sure


def test_single_blip_of_any_size_counts_no_more_than_the_most() -> None:
    bank = FilterBank(NAMES, np.eye(12), np.ones(24))
    blips = [Cusums(bank, SIZE).over(size * np.eye(12)[:1]).max() for size in (8.0, 1e6, 1e300)]
    assert blips == [14.0] * 3


def test_weights_of_many_sets_of_signals_do_not_fill_the_memory() -> None:
    bank = FilterBank(NAMES, truth(), np.ones(24))
    rng = np.random.default_rng(7)
    run = np.where(rng.random((600, 12)) < 0.5, np.nan, rng.normal(size=(600, 12)))
    together = bank.along(run)
    assert len(bank._weights) <= REMEMBERED_SETS
    np.testing.assert_array_equal(np.concatenate([bank.along(step[None]) for step in run]), together)


def test_level_is_exceeded_as_seldom_as_asked_also_beyond_what_was_seen() -> None:
    rng = np.random.default_rng(0)
    levels = np.array([level_for(rng.exponential(2.0, 400), 40, 1e-5) for _ in range(50)])
    # P(peak > h) = e^(-h/2) = 40e-5.
    assert np.median(levels) == pytest.approx(-2 * np.log(40e-5), rel=0.1)
    assert level_for(np.zeros(400), 40, 1e-3) >= 3.0
    assert level_for(np.ones(5), 40, 1e-3) == pytest.approx(np.log(1000))
    assert level_for(np.full(5, 30.0), 40, 1e-3) == 60, "what few runs have shown is not rare"


def test_peaks_are_those_of_blocks() -> None:
    run = np.arange(10.0, dtype=np.float64)[:, None]
    assert peaks(run, 4)[:, 0].tolist() == [3, 7, 9]
    assert peaks(run, 8)[:, 0].tolist() == [7]
    assert peaks(run, 40)[:, 0].tolist() == [9]


def test_thresholds_rise_with_the_steps_to_a_false_alarm() -> None:
    assert budget_factor(FALSE_ALARM_STEPS) == 1.0
    factors = [budget_factor(steps) for steps in (100, 1_000, 2_000, 10_000, 1_000_000)]
    assert factors == sorted(factors)
    assert factors[-1] == pytest.approx(1 + 0.18 * math.log(500))
    assert budget_factor(1.0) == LEAST
