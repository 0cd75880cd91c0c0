"""Figures of a step from hand-made batches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.tasks.api import ToolStatus
from rftfm_ray.telemetry.features import batch_metrics
from rftfm_ray.types import Termination

MakeBatch = Callable[..., TrajectoryBatch]


def test_rewards_are_summarised(make_batch: MakeBatch) -> None:
    found = batch_metrics(make_batch([1.0, 0.0, 0.5, 0.5], correct=[True, False, False, False]))
    assert found.reward_mean == pytest.approx(0.5)
    assert found.reward_std == pytest.approx(math.sqrt(0.125))
    assert (found.reward_min, found.reward_max) == (0.0, 1.0)
    assert found.correct_rate == 0.25
    assert found.valid_rate == 1.0


def test_lengths_count_what_the_model_chose(make_batch: MakeBatch) -> None:
    found = batch_metrics(make_batch([0.0] * 4, roles=["ppaaooaa", "pa", "ppppp", "pooooaa"]))
    assert found.length_mean == pytest.approx((4 + 1 + 0 + 2) / 4)
    assert found.length_max == 4
    assert found.empty_rate == 0.5


def test_terminations_and_turns_are_shares_and_means(make_batch: MakeBatch) -> None:
    counts = {Termination.EOS: 1, Termination.STOP: 2, Termination.MAX_TOKENS: 3, Termination.MAX_TURNS: 4}
    ends = [end for end, count in counts.items() for _ in range(count)]
    found = batch_metrics(make_batch([0.0] * 10, terminations=ends, turns=range(10)))
    assert found.eos_rate == pytest.approx(1 / 10)
    assert found.truncated_rate == pytest.approx(7 / 10)
    assert found.turns_mean == 4.5


def test_groups_without_spread_are_counted(make_batch: MakeBatch) -> None:
    rewards = [1.0, 1.0, 0.0, 1.0, 0.3, 0.3, 5.0]
    found = batch_metrics(make_batch(rewards, groups=[0, 0, 4, 4, 2, 2, 9]))
    assert found.zero_variance_group_rate == pytest.approx(3 / 4)


def test_spread_of_a_group_is_that_of_its_valid_members(make_batch: MakeBatch) -> None:
    batch = make_batch([1.0, 0.0, 0.0, 1.0], groups=[0, 0, 1, 1], valid=[True, False, True, True])
    assert batch_metrics(batch).zero_variance_group_rate == 0.5


def test_sampling_logprob_is_the_mean_over_chosen_tokens(make_batch: MakeBatch) -> None:
    found = batch_metrics(make_batch([0.0, 0.0], roles=["pao", "paa"]))
    assert found.sampling_logprob_mean == pytest.approx(-(2 + 102 + 103) / 3 / 1000)


@pytest.mark.filterwarnings("error")
def test_no_chosen_token_has_no_logprob(make_batch: MakeBatch) -> None:
    assert math.isnan(batch_metrics(make_batch([0.0], roles=["pp"])).sampling_logprob_mean)


def test_tool_calls_are_counted_per_trajectory_and_by_status(make_batch: MakeBatch) -> None:
    statuses = [ToolStatus.OK, ToolStatus.ERROR, ToolStatus.OK, ToolStatus.UNPARSABLE, ToolStatus.UNPARSABLE]
    calls = [(owner, 0, status, 0.1, "2+2", "4") for owner, status in zip([0, 0, 2, 2, 2], statuses, strict=True)]
    found = batch_metrics(make_batch([0.0] * 4, calls=calls))
    assert found.tool_calls_mean == pytest.approx(5 / 4)
    assert found.tool_unparsable_rate == pytest.approx(2 / 5)
    assert found.tool_error_rate == pytest.approx(1 / 5)


def test_without_tool_calls_there_is_no_rate(make_batch: MakeBatch) -> None:
    found = batch_metrics(make_batch([0.0, 1.0]))
    assert found.tool_calls_mean == 0.0
    assert math.isnan(found.tool_unparsable_rate)
    assert math.isnan(found.tool_error_rate)


def test_masked_trajectories_are_left_out_of_all_but_the_valid_rate(make_batch: MakeBatch) -> None:
    kept = make_batch([1.0, 0.0], roles=["paoa", "paa"], correct=[True, False], groups=[3, 3], turns=[2, 1])
    both = make_batch(
        [1.0, 0.0, 9.0],
        roles=["paoa", "paa", "paaaaaa"],
        correct=[True, False, True],
        groups=[3, 3, 5],
        valid=[True, True, False],
        terminations=[Termination.EOS, Termination.EOS, Termination.FAILED],
        turns=[2, 1, 9],
    )
    expected = dataclasses.replace(batch_metrics(kept), valid_rate=2 / 3)
    np.testing.assert_equal(dataclasses.asdict(batch_metrics(both)), dataclasses.asdict(expected))


def test_calls_of_masked_trajectories_have_a_status_but_no_share_in_the_mean(make_batch: MakeBatch) -> None:
    good, bad = (0, 0, ToolStatus.OK, 0.1, "", ""), (1, 0, ToolStatus.ERROR, 0.1, "", "")
    found = batch_metrics(make_batch([1.0, 0.0], valid=[True, False], calls=[good, bad, bad]))
    assert found.tool_calls_mean == 1.0
    assert found.tool_error_rate == pytest.approx(2 / 3)


def test_all_masked_has_a_valid_rate_of_zero_and_nothing_else(make_batch: MakeBatch) -> None:
    found = dataclasses.asdict(batch_metrics(make_batch([1.0, 1.0], valid=[False, False])))
    assert found.pop("valid_rate") == 0.0
    assert all(math.isnan(value) for value in found.values())
