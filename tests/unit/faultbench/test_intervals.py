"""Limits of shares and rates against published values, simulation and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.faultbench.scoring.intervals import (
    by_seed,
    clopper_pearson,
    delays,
    exact_share,
    f1,
    precision_recall,
    rate_upper,
)


def test_limits_are_those_of_the_paper_s_false_alarms() -> None:
    # 1 of 11 healthy runs flagged: 9.1 %, 0.2 to 41.3 %.
    share = exact_share(1, 11)
    assert share.rate == pytest.approx(0.0909, abs=1e-4)
    assert (share.low95, share.high95) == pytest.approx((0.0023, 0.4128), abs=1e-4)


@given(st.integers(1, 200), st.data())
def test_limits_enclose_the_share_and_narrow(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, total))
    low, high = clopper_pearson(count, total)
    assert 0 <= low <= count / total <= high <= 1
    wider = clopper_pearson(count, total, 0.99)
    assert wider[0] <= low
    assert wider[1] >= high


def test_upper_limit_of_nothing_is_three() -> None:
    assert rate_upper(0, 1.0) == pytest.approx(3.0, abs=0.005)
    assert math.isnan(rate_upper(0, 0.0))


def test_upper_limit_holds_in_nineteen_of_twenty_cases() -> None:
    counts = np.random.default_rng(1).poisson(30.0, 4000)
    assert np.mean([rate_upper(int(k), 2.0) >= 15.0 for k in counts]) == pytest.approx(0.955, abs=0.015)


def test_bootstrap_over_seeds_is_wider_where_runs_of_a_seed_agree() -> None:
    rng = np.random.default_rng(2)
    hits = (rng.random(60) < 0.7).tolist()
    apart = by_seed([(seed, hit) for seed, hit in enumerate(hits * 4)])
    together = by_seed([(seed, hit) for seed, hit in enumerate(hits) for _ in range(4)])
    assert apart.rate == together.rate
    assert together.high95 - together.low95 > 1.6 * (apart.high95 - apart.low95)
    assert by_seed([(seed, hit) for seed, hit in enumerate(hits)]) == by_seed(list(enumerate(hits)))


def test_bootstrap_knows_doubt_where_all_runs_agree() -> None:
    share = by_seed([(seed, True) for seed in (1, 1, 2, 2, 3, 3)])
    assert (share.rate, share.high95) == (1.0, 1.0)
    assert share.low95 == pytest.approx(clopper_pearson(3, 3)[0])
    assert math.isnan(by_seed([]).rate)


def test_delay_counts_runs_that_nobody_found() -> None:
    summary = delays([0, 1, 2, 3, None])
    assert (summary.median, summary.p90, summary.censored, summary.total) == (2.0, math.inf, 1, 5)
    assert delays([None, None, 4]).median == math.inf
    assert delays([2, 1]).median == 1.0
    assert math.isnan(delays([]).median)


def test_flagging_everything_scores_the_paper_s_figure() -> None:
    # 320 easy faults and 11 healthy runs, all flagged: F1 98.31.
    scored = precision_recall([True] * 331, [True] * 320 + [False] * 11)
    assert scored["f1"] == pytest.approx(0.9831, abs=1e-4)
    assert precision_recall([False] * 3, [True, True, False]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert f1(0.0, 0.0) == 0.0
