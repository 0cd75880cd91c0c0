"""Figures of a step from hand-made batches, and the schema in which the guard sees them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.detection.signals import INDEX, SIGNALS, report_of, value
from rftfm_ray.tasks.api import ToolStatus
from rftfm_ray.telemetry.features import batch_metrics
from rftfm_ray.types import BatchMetrics, StepId, StepRow, Termination, Timings, UpdateMetrics

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


def test_masked_trajectories_are_left_out_of_all_but_the_counts(make_batch: MakeBatch) -> None:
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
    counts = {"valid_rate": 2 / 3, "failed_rate": 1 / 3, "trajectory_count": 3.0}
    expected = dataclasses.replace(batch_metrics(kept), **counts)
    np.testing.assert_equal(dataclasses.asdict(batch_metrics(both)), dataclasses.asdict(expected))


def test_calls_of_masked_trajectories_have_a_status_but_no_share_in_the_mean(make_batch: MakeBatch) -> None:
    good, bad = (0, 0, ToolStatus.OK, 0.1, "", ""), (1, 0, ToolStatus.ERROR, 0.1, "", "")
    found = batch_metrics(make_batch([1.0, 0.0], valid=[True, False], calls=[good, bad, bad]))
    assert found.tool_calls_mean == 1.0
    assert found.tool_error_rate == pytest.approx(2 / 3)


@pytest.mark.filterwarnings("error")
def test_all_masked_has_counts_and_nothing_else(make_batch: MakeBatch) -> None:
    ends = [Termination.FAILED, Termination.EOS]
    found = dataclasses.asdict(batch_metrics(make_batch([1.0, 1.0], valid=[False, False], terminations=ends)))
    counts = {"valid_rate": 0.0, "failed_rate": 0.5, "trajectory_count": 2.0, "tool_call_count": 0.0}
    counts["regrade_count"] = 0.0
    assert {name: found.pop(name) for name in counts} == counts
    assert all(math.isnan(value) for value in found.values())


def test_quantiles_interpolate_between_rewards_and_lengths(make_batch: MakeBatch) -> None:
    roles = ["p" + "a" * n for n in (1, 2, 3, 4, 11)]
    found = batch_metrics(make_batch([0.0, 1.0, 2.0, 3.0, 10.0], roles=roles))
    assert (found.reward_q10, found.reward_q50, found.reward_q90) == pytest.approx((0.4, 2.0, 7.2))
    assert (found.length_q10, found.length_q50, found.length_q90) == pytest.approx((1.4, 3.0, 8.2))


def test_groups_that_are_all_right_or_all_wrong_are_told_from_other_flat_ones(make_batch: MakeBatch) -> None:
    # Right; wrong; both in spite of equal rewards; right with rewards that differ; wrong with rewards that differ.
    rewards = [1.0, 1.0, 0.0, 0.0, 0.5, 0.5, 1.0, 0.8, 0.0, -0.2]
    correct = [True, True, False, False, True, False, True, True, False, False]
    found = batch_metrics(make_batch(rewards, groups=[5, 5, 2, 2, 7, 7, 1, 1, 9, 9], correct=correct))
    assert found.zero_variance_group_rate == pytest.approx(3 / 5)
    assert (found.all_right_group_rate, found.all_wrong_group_rate) == pytest.approx((1 / 5, 1 / 5))


def test_group_is_all_right_by_its_valid_members(make_batch: MakeBatch) -> None:
    batch = make_batch([1.0, 0.0], valid=[True, False], correct=[True, False])
    found = batch_metrics(batch)
    assert (found.all_right_group_rate, found.all_wrong_group_rate) == (1.0, 0.0)


def test_variety_counts_distinct_tokens_and_bigrams_within_a_trajectory(make_batch: MakeBatch) -> None:
    # Of 4 + 3 chosen tokens 2 + 3 are distinct; of 3 + 2 bigrams (5 6, 6 5, 5 6 and 5 6, 6 7) one is there twice.
    tokens = [[5, 5, 6, 5, 6], [5, 5, 6, 6, 7]]
    found = batch_metrics(make_batch([0.0, 0.0], roles=["paaaa", "paaoa"], tokens=tokens))
    assert found.unique_token_rate == pytest.approx(5 / 7)
    assert found.repeated_bigram_rate == pytest.approx(1 / 5)


def test_variety_of_a_masked_trajectory_does_not_count(make_batch: MakeBatch) -> None:
    tokens = [[5, 5, 6], [5, 8, 8]]
    found = batch_metrics(make_batch([0.0, 0.0], valid=[True, False], tokens=tokens))
    assert (found.unique_token_rate, found.repeated_bigram_rate) == (1.0, 0.0)


@pytest.mark.filterwarnings("error")
def test_single_tokens_have_no_bigrams(make_batch: MakeBatch) -> None:
    found = batch_metrics(make_batch([0.0, 0.0], roles=["pa", "pa"], tokens=[[5, 6], [5, 6]]))
    assert found.unique_token_rate == 1.0
    assert math.isnan(found.repeated_bigram_rate)


def test_retries_shadow_calls_latency_and_refills_are_shares_and_means(make_batch: MakeBatch) -> None:
    calls = [
        (0, 0, ToolStatus.OK, 0.25, "", ""),
        (1, 0, ToolStatus.OK, 0.5, "", ""),
        (1, 1, ToolStatus.OK, 1.5, "", ""),
    ]
    found = batch_metrics(
        make_batch(
            [0.0] * 4,
            valid=[True, True, True, False],
            calls=calls,
            tries=[1, 3, 2],
            shadow=[True, False, True, True],
            refills=[0, 2, 0, 1],
        )
    )
    assert found.tool_call_count == 3.0
    assert found.tool_retry_rate == pytest.approx(2 / 3)
    assert found.tool_shadow_error_rate == pytest.approx(1 / 4)
    assert found.tool_latency_s == pytest.approx(0.75)
    assert found.refilled_rate == pytest.approx(1 / 3)


def test_nothing_asked_is_nothing_measured(make_batch: MakeBatch) -> None:
    found = batch_metrics(make_batch([0.0, 1.0]))
    unknown = [found.tool_retry_rate, found.tool_shadow_error_rate, found.tool_latency_s]
    unknown += [found.regrade_mismatch_rate, found.regrade_error_mean, found.trained_mismatch_rate]
    assert all(math.isnan(value) for value in unknown)
    assert (found.regrade_count, found.tool_call_count, found.refilled_rate) == (0.0, 0.0, 0.0)


def test_regrading_compares_the_live_channel_and_what_trains_with_the_trusted_verifier(make_batch: MakeBatch) -> None:
    # Agreeing; live wrong and training; live wrong and replaced; live wrong by rounding; not asked.
    trusted = [1.0, 0.0, 1.0, 0.5, math.nan]
    live = [1.0, 4.0, -1.0, 0.500001, 9.0]
    trains = [1.0, 4.0, 1.0, 0.500001, 9.0]
    found = batch_metrics(make_batch(trains, live=live, trusted=trusted))
    assert found.regrade_count == 4.0
    assert found.regrade_mismatch_rate == pytest.approx(2 / 4)
    assert found.regrade_error_mean == pytest.approx((0 + 4 - 2 + 0) / 4, abs=1e-5)
    assert found.trained_mismatch_rate == pytest.approx(1 / 4)


def test_signals_are_the_figures_in_order_and_what_belongs_to_the_step() -> None:
    figures = [field.name for kind in (BatchMetrics, UpdateMetrics) for field in dataclasses.fields(kind)]
    extra = ["probe_accuracy", "parity_gap", "lr_excess", "schedule_excess", "probe_gap"]
    assert [signal.name for signal in SIGNALS] == figures + extra
    assert len(SIGNALS) >= 40
    assert {name: SIGNALS[place].name for name, place in INDEX.items()} == {name: name for name in figures + extra}
    assert all(signal.floor > 0 and signal.unit for signal in SIGNALS)


def test_report_holds_every_signal_of_its_step_and_keeps_what_is_not_a_number() -> None:
    def fill(kind: type[Any], start: float) -> Any:
        return kind(*(start + place for place in range(len(dataclasses.fields(kind)))))

    batch = dataclasses.replace(fill(BatchMetrics, 100.0), reward_mean=math.nan, correct_rate=0.75)
    update = fill(UpdateMetrics, 200.0)
    row = StepRow(StepId(1, 3, 5), 4, batch, update, fill(Timings, 0.0), 0.5, math.nan, 0.125, -0.25)
    report = report_of(row)
    assert (report.id, report.model_version, len(report.values)) == (row.id, 4, len(SIGNALS))
    parts: dict[str, float] = dataclasses.asdict(batch) | dataclasses.asdict(update)
    expected = parts | {"probe_accuracy": 0.5, "parity_gap": math.nan, "lr_excess": 0.125, "schedule_excess": -0.25}
    np.testing.assert_equal({name: value(report, name) for name in expected}, expected)
    assert value(report, "probe_gap") == 0.25
    assert math.isnan(value(report_of(dataclasses.replace(row, probe_accuracy=math.nan)), "probe_gap"))
