"""Sequential statistics: closed forms, the life of an alarm, and how often it lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.detection.statistics.cusum import CAP, RECOVERED, Cusum, bernoulli_ratio, shift_ratio

THRESHOLD = math.log(10_000)
ratios = st.lists(st.floats(-50, 50), max_size=60)


def _run(cusum: Cusum, values: Sequence[float], first: int = 1) -> int | None:
    """Add every value; the first step with an alarm."""
    found = None
    for step, ratio in enumerate(values, first):
        cusum.add(ratio, step)
        if cusum.alarm and found is None:
            found = step
    return found


def test_sum_is_that_of_page() -> None:
    cusum, sums = Cusum(10.0), []
    for step, ratio in enumerate([1.0, -3.0, 2.0, 2.5, -1.0, -9.0, 4.0], 1):
        cusum.add(ratio, step)
        sums.append(cusum.sum)
    assert sums == [1.0, 0.0, 2.0, 4.5, 3.5, 0.0, 4.0]


def test_onset_is_the_step_of_the_change_on_clean_data() -> None:
    for change in (1, 2, 7, 40):
        cusum = Cusum(10.0)
        assert _run(cusum, [-1.0] * (change - 1) + [4.0] * 5) == change + 2
        assert cusum.onset == change


def test_onset_follows_the_latest_climb_from_zero() -> None:
    cusum = Cusum(10.0)
    _run(cusum, [-1.0, 4.0, 4.0, -20.0, -1.0, 6.0, 6.0])
    assert (cusum.alarm, cusum.onset) == (True, 6)


def test_onset_is_dated_by_step_where_steps_are_missing() -> None:
    cusum = Cusum(10.0)
    for step in (1, 2, 30, 34):
        cusum.add(6.0 if step >= 30 else -1.0, step)
    assert cusum.onset == 30


def test_alarm_opens_at_the_threshold_and_not_before() -> None:
    cusum = Cusum(8.0)
    cusum.add(math.nextafter(8.0, 0.0), 1)
    assert not cusum.alarm
    cusum.clear()
    cusum.add(8.0, 1)
    assert cusum.alarm


def test_open_alarm_keeps_its_onset_until_it_has_recovered() -> None:
    cusum = Cusum(8.0)
    _run(cusum, [-1.0, 5.0, 5.0])
    assert (cusum.alarm, cusum.onset) == (True, 2)
    cusum.add(-7.9, 4)
    assert cusum.sum == pytest.approx(2.1)
    assert (cusum.alarm, cusum.onset) == (True, 2)
    cusum.add(-0.2, 5)
    assert cusum.sum < RECOVERED * 8.0
    assert not cusum.alarm
    _run(cusum, [-9.0, -1.0, 9.0], 6)
    assert (cusum.alarm, cusum.onset) == (True, 8)


@pytest.mark.parametrize("length", [3, 30, 3000])
def test_recovery_takes_no_longer_after_a_longer_fault(length: int) -> None:
    cusum = Cusum(8.0)
    _run(cusum, [5.0] * length)
    assert cusum.sum == CAP * 8.0
    steps = 0
    while cusum.alarm:
        steps += 1
        cusum.add(-1.0, length + steps)
    assert steps == math.ceil((CAP - RECOVERED) * 8.0)


def test_cleared_sum_is_as_new() -> None:
    cusum = Cusum(8.0)
    _run(cusum, [5.0] * 4)
    cusum.clear()
    assert (cusum.sum, cusum.alarm) == (0.0, False)
    assert _run(cusum, [-1.0, 9.0], 5) == 6
    assert cusum.onset == 6


def test_infinite_evidence_is_held_at_the_cap() -> None:
    cusum = Cusum(8.0)
    cusum.add(math.inf, 1)
    assert (cusum.sum, cusum.alarm) == (CAP * 8.0, True)
    cusum.add(-math.inf, 2)
    assert (cusum.sum, cusum.alarm) == (0.0, False)


@given(st.floats(0.1, 20), ratios)
def test_sum_stays_between_zero_and_its_cap(threshold: float, values: list[float]) -> None:
    cusum = Cusum(threshold)
    for step, ratio in enumerate(values, 1):
        cusum.add(ratio, step)
        assert 0 <= cusum.sum <= CAP * threshold
        assert 0 <= cusum.onset <= step


@given(st.floats(0.1, 20), ratios)
def test_alarm_opens_only_with_a_sum_beyond_the_threshold(threshold: float, values: list[float]) -> None:
    cusum, before = Cusum(threshold), False
    for step, ratio in enumerate(values, 1):
        cusum.add(ratio, step)
        if cusum.alarm != before:
            assert cusum.sum >= threshold if cusum.alarm else cusum.sum <= RECOVERED * threshold
        assert cusum.alarm or cusum.sum < threshold
        before = cusum.alarm


def _false_alarms(draw: Sequence[Sequence[float]]) -> float:
    return fmean(_run(Cusum(THRESHOLD), values) is not None for values in draw)


def test_share_of_false_alarms_keeps_to_its_bound() -> None:
    """By Ville and a union over starts, at most 1,000 in 10,000; half of the threshold gives nine times as much."""
    rng = np.random.default_rng(11)
    normal = 0.5 * (rng.standard_normal((400, 1000)) - 0.25)
    tools = 50 * rng.binomial(100, 0.02, (400, 1000)) / 100
    hit, miss = math.log(0.15 / 0.02), math.log(0.85 / 0.98)
    assert _false_alarms(normal.tolist()) <= 0.1
    assert _false_alarms((tools * hit + (50 - tools) * miss).tolist()) <= 0.1
    # The bound is not kept by a sum that never comes near: a lower threshold of 100 steps must be passed often.
    assert fmean(_run(Cusum(math.log(100)), values) is not None for values in normal.tolist()) > 0.5


@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_delay_is_near_the_optimal_one(size: float) -> None:
    """ln(ARL) / (size^2 / 2) steps after the change, however long the run was healthy: the sum does not go below 0."""
    rng = np.random.default_rng(12)
    delays = []
    for _ in range(200):
        cusum = Cusum(THRESHOLD)
        healthy = (rng.standard_normal(200) * size - size**2 / 2).tolist()
        if _run(cusum, healthy) is None:
            delays.append(_run(cusum, ((rng.standard_normal(400) + size) * size - size**2 / 2).tolist(), 201))
    assert len(delays) >= 190
    found = fmean(delay - 200 for delay in delays if delay is not None)
    assert None not in delays
    assert found == pytest.approx(THRESHOLD / (size**2 / 2), rel=0.25)


def test_onset_estimate_is_centred_on_the_change() -> None:
    rng, off = np.random.default_rng(13), []
    for _ in range(200):
        cusum = Cusum(THRESHOLD)
        values = rng.standard_normal(160) + 2.0 * (np.arange(160) >= 100)
        for step, z in enumerate(values.tolist(), 1):
            cusum.add(shift_ratio(z, 2.0), step)
        off.append(cusum.onset - 101)
    assert float(np.median(off)) == 0
    assert fmean(abs(o) <= 2 for o in off) > 0.9


def test_bernoulli_ratio_is_that_of_its_probabilities() -> None:
    found = bernoulli_ratio(0.25, 8, usual=0.1, faulty=0.4)
    assert found == pytest.approx(math.log(0.4**2 * 0.6**6) - math.log(0.1**2 * 0.9**6))


def test_shift_ratio_is_that_of_its_densities() -> None:
    z, size = 1.7, 3.0
    assert shift_ratio(z, size) == pytest.approx(-((z - size) ** 2) / 2 + z**2 / 2)
    assert shift_ratio(1.5, 3.0) == 0.0


@given(st.floats(0.001, 0.4), st.floats(0.01, 0.5))
def test_bernoulli_ratio_has_an_expectation_of_one_under_the_usual_rate(usual: float, more: float) -> None:
    """What makes a threshold keep its bound: the mean of exp(ratio) over one trial is 1."""
    faulty = usual + more
    hit, miss = bernoulli_ratio(1.0, 1, usual, faulty), bernoulli_ratio(0.0, 1, usual, faulty)
    assert usual * math.exp(hit) + (1 - usual) * math.exp(miss) == pytest.approx(1.0)
    assert hit > 0 > miss
