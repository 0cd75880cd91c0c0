"""Directions and their levels on simulated residuals: what is seen, how soon, and how seldom they are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.detection.statistics.matched_filters import (
    CAP,
    Bank,
    Direction,
    Sort,
    Sums,
    Template,
    build,
    correlation_of,
    covariance_of,
)
from rftfm_ray.detection.statistics.thresholds import level_for, levels_for, peaks

Floats = NDArray[np.float64]
NAMES = tuple(f"s{n}" for n in range(12))
STEPS, BLOCK = 40, 40


def truth() -> Floats:
    """Correlation of healthy residuals: the first two are nearly one, the next four go together."""
    found = np.eye(len(NAMES))
    found[0, 1] = found[1, 0] = 0.97
    found[2:6, 2:6] = 0.6
    np.fill_diagonal(found, 1.0)
    return found


ROOT = np.linalg.cholesky(truth())


def healthy(seed: int, steps: int = STEPS) -> Floats:
    """Residuals of a healthy run."""
    return np.random.default_rng(seed).normal(size=(steps, len(NAMES))) @ ROOT.T


def shifted(seed: int, shift: Floats, onset: int = 10) -> Floats:
    """Those of a run with a fault from step `onset` on."""
    found = healthy(seed)
    found[onset - 1 :] += shift
    return found


def sums(bank: Bank, residuals: Floats) -> Floats:
    """All sums of a run (steps, K)."""
    return Sums(bank).over(residuals)


SPREAD = np.array([0.5, 0.4, 0, 0, 0, 0, 0.5, -0.4, 0.5, 0, 0.4, 0])
TEMPLATES = (Template("spread", SPREAD), Template("nothing", np.zeros(len(NAMES))))


@pytest.fixture(scope="module")
def bank() -> Bank:
    """A bank from a hundred healthy runs."""
    correlation = correlation_of([healthy(seed) for seed in range(100)])
    return build(NAMES, np.ones(len(NAMES), bool), correlation, TEMPLATES)


@pytest.fixture(scope="module")
def levels(bank: Bank) -> Floats:
    """Levels at which all directions together are wrong once in 2,000 steps, if they were independent."""
    runs = [sums(bank, healthy(seed)) for seed in range(100, 300)]
    return levels_for(runs, BLOCK, 1 / 2000 / len(bank.directions))


def first(bank: Bank, levels: Floats, residuals: Floats) -> tuple[int, str] | None:
    """The first alarm of a run, and what raised it."""
    over = sums(bank, residuals) / levels
    steps = np.flatnonzero(over.max(1) >= 1)
    return (int(steps[0]) + 1, str(bank.directions[int(over[steps[0]].argmax())])) if len(steps) else None


def test_correlation_is_found_with_gaps_and_is_one_of_something() -> None:
    runs = [healthy(seed) for seed in range(60)]
    found = correlation_of(runs)
    assert np.abs(found - truth()).max() < 0.12
    for place, run in enumerate(runs):
        run[place % 7 :: 3, place % 12] = np.nan
        run[:, 11] = np.nan
    gapped = correlation_of(runs)
    assert np.abs(gapped - truth())[:11, :11].max() < 0.12
    assert (gapped[11] == np.eye(12)[11]).all()
    assert np.linalg.eigvalsh(gapped).min() > 0


def test_directions_have_a_spread_of_one(bank: Bank) -> None:
    table = np.concatenate([healthy(seed) for seed in range(900, 1000)])
    found = (table @ bank.weights.T).std(0)
    # Less where two go together so closely that what is left is hardly more than what the correlation is shrunk by.
    close = np.array([d.sort is Sort.RELATION and d.name in ("s0", "s1") for d in bank.directions])
    assert found[~close] == pytest.approx(np.ones(sum(~close)), abs=0.08)
    assert (found[close] < 0.85).all()
    assert len(bank.directions) == 4 * len(NAMES) + 1, "what moves nothing is no direction"


def test_healthy_runs_alarm_as_seldom_as_asked(bank: Bank, levels: Floats) -> None:
    alarms = sum(first(bank, levels, healthy(seed)) is not None for seed in range(5000, 5500))
    # 20,000 steps at one in 2,000, fewer because directions share their mistakes.
    assert 1 <= alarms <= 14


def test_each_sort_of_shift_is_seen_by_its_sort_of_direction(bank: Bank, levels: Floats) -> None:
    marginal = np.zeros(12)
    marginal[9] = 4.0
    apart = np.zeros(12)
    apart[0] = 1.2
    # A signal that goes with no other is its own relation.
    alone = (Sort.SIGNAL, Sort.RELATION)
    for shift, wanted, late in ((marginal, alone, 4), (apart, (Sort.RELATION,), 4), (3 * SPREAD, (Sort.FAULT,), 5)):
        found = [first(bank, levels, shifted(seed, shift)) for seed in range(40)]
        seen = [alarm for alarm in found if alarm is not None and alarm[0] >= 10]
        assert len(seen) >= 38
        assert np.median([step for step, _ in seen]) - 10 <= late
        assert sum(name.startswith(wanted) for _, name in seen) > 20


def test_what_is_shifted_in_one_of_two_that_go_together_is_hardly_seen_without_relations(
    levels: Floats, bank: Bank
) -> None:
    apart = np.zeros(12)
    apart[0] = 1.2
    keep = [place for place, direction in enumerate(bank.directions) if direction.sort is Sort.SIGNAL]
    alone = Bank(
        bank.signals, tuple(bank.directions[p] for p in keep), bank.weights[keep], bank.sizes[keep], bank.covariance
    )
    found = [first(alone, levels[keep], shifted(seed, apart)) for seed in range(40)]
    assert sum(alarm is not None and alarm[0] <= 20 for alarm in found) < 20


def test_gaps_say_nothing_and_what_is_not_measured_has_no_direction() -> None:
    measured = np.ones(12, bool)
    measured[3] = False
    bank = build(NAMES, measured, np.eye(12), TEMPLATES)
    assert "s3" not in {direction.name for direction in bank.directions}
    assert (bank.weights[:, 3] == 0).all()
    gap = np.full(12, np.nan)
    assert (Sums(bank).add(gap) == 0).all()
    assert Direction(Sort.SIGNAL, "s0", -1) in bank.directions


def test_step_by_step_and_at_once_are_the_same(bank: Bank) -> None:
    run = healthy(77)
    run[3::4, 2:5] = np.nan
    watch = Sums(bank)
    one_by_one = np.stack([watch.add(step) for step in run])
    assert one_by_one == pytest.approx(sums(bank, run), abs=1e-12)


def test_what_is_missing_is_as_the_others_make_one_expect(bank: Bank) -> None:
    run = healthy(78, 400)
    gapped = run.copy()
    gapped[:, 1] = np.nan
    filled = bank.filled(gapped)
    assert (filled[:, [0, *range(2, 12)]] == run[:, [0, *range(2, 12)]]).all()
    # It goes with the first signal at 0.97, of which the shrunken correlation keeps 0.87.
    assert np.corrcoef(filled[:, 1], run[:, 1])[0, 1] > 0.95
    # Taken for zero, the first would seem to have left it behind in healthy runs.
    relation = bank.directions.index(Direction(Sort.RELATION, "s0", 1))
    left = [table @ bank.weights[relation] for table in (filled, np.nan_to_num(gapped))]
    assert left[0].std() < 1 < 2 < left[1].std()


def test_sums_with_levels_stop_growing_and_come_back(bank: Bank, levels: Floats) -> None:
    gone = np.concatenate([np.full((60, 12), 8.0), np.zeros((80, 12))])
    capped, free = Sums(bank, levels).over(gone) / levels, Sums(bank).over(gone) / levels
    assert capped.max() == pytest.approx(CAP)
    assert (capped[-1] == 0).all()
    assert free[-1].max() > 1


def test_runs_of_another_kind_are_judged_by_what_they_vary_by_themselves(bank: Bank, levels: Floats) -> None:
    """Half as wide again, and neighbours alike: by the bank's own spreads most of them alarm."""

    def other(seed: int) -> Floats:
        found = 1.5 * healthy(seed, 80)
        for step in range(1, len(found)):
            found[step] = 0.3 * found[step - 1] + np.sqrt(1 - 0.3**2) * found[step]
        return found

    alarmed = {
        believed: sum(bool((Sums(bank, levels, believed).over(other(seed)) >= levels).any()) for seed in range(60))
        for believed in (np.inf, 4.0)
    }
    assert alarmed[np.inf] > 40
    assert alarmed[4.0] < alarmed[np.inf] / 3
    # A shift in a run of the bank's own kind is still seen.
    found = [Sums(bank, levels, 4.0).over(shifted(seed, 2 * SPREAD, 20)) for seed in range(40)]
    assert sum(bool((run[19:] >= levels).any()) for run in found) > 24


def test_covariance_holds_spreads_of_at_most_one_and_at_least_a_few_tenths() -> None:
    scale = np.array([3.0, 0.5, 0.01, *np.ones(9)])
    found = np.sqrt(np.diag(covariance_of([healthy(seed) * scale for seed in range(20)])))
    assert found[:3] == pytest.approx([1.0, 0.5, 0.3], abs=0.03)
    assert found[3:] == pytest.approx(np.ones(9), abs=0.05)


def test_a_bank_like_another_has_its_directions(bank: Bank) -> None:
    weak = Template("spread", 0.31 * np.eye(12)[0])
    wide = 9 * np.eye(12)
    assert Direction(Sort.FAULT, "spread", 1) not in build(NAMES, np.ones(12, bool), wide, (weak,)).directions
    assert build(NAMES, np.ones(12, bool), wide, (weak,), like=bank).directions == bank.directions


def test_single_blip_of_any_size_counts_no_more_than_the_most() -> None:
    bank = build(NAMES, np.ones(12, bool), np.eye(12), ())
    blip = np.zeros(12)
    blip[0] = 1e6
    assert Sums(bank).add(blip).max() == Sums(bank).add(np.minimum(blip, 8.0)).max() < 20


def test_level_is_exceeded_as_seldom_as_asked_also_beyond_what_was_seen() -> None:
    rng = np.random.default_rng(0)
    found = np.array([level_for(rng.exponential(2.0, 400), 40, 1e-5) for _ in range(50)])
    # P(peak > h) = e^(-h/2) = 40e-5.
    assert np.median(found) == pytest.approx(-2 * np.log(40e-5), rel=0.1)
    assert level_for(np.zeros(400), 40, 1e-3) >= 3.0
    assert level_for(np.ones(5), 40, 1e-3) == pytest.approx(np.log(1000))
    assert level_for(np.full(5, 30.0), 40, 1e-3) == 60, "what few runs have shown is not rare"


def test_peaks_are_those_of_blocks() -> None:
    run = np.arange(10.0, dtype=np.float64)[:, None]
    assert peaks(run, 4)[:, 0].tolist() == [3, 7, 9]
    assert peaks(run, 8)[:, 0].tolist() == [7]
    assert peaks(run, 40)[:, 0].tolist() == [9]
