"""Figures of a step from hand-made batches, and the schema in which the guard sees them."""

from __future__ import annotations

import dataclasses
import math
import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.metrics import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, Timings, UpdateMetrics
from rftfm_ray.signals.schema import INDEX, SIGNALS, report_of, value
from rftfm_ray.tasks.api import ToolStatus
from rftfm_ray.telemetry.features import batch_metrics
from rftfm_ray.types import StepId, Termination

MakeBatch = Callable[..., TrajectoryBatch]
LIMIT = 10


def figures_of(batch: TrajectoryBatch) -> BatchMetrics:
    """The figures of a task that allows ten tokens."""
    return batch_metrics(batch, LIMIT)


def test_rewards_are_summarised(make_batch: MakeBatch) -> None:
    found = figures_of(make_batch([1.0, 0.0, 0.5, 0.5], correct=[True, False, False, False]))
    assert found.reward_mean == pytest.approx(0.5)
    assert found.reward_std == pytest.approx(math.sqrt(0.125))
    assert (found.reward_min, found.reward_max) == (0.0, 1.0)
    assert found.correct_rate == 0.25
    assert found.valid_rate == 1.0


def test_lengths_count_what_the_model_chose(make_batch: MakeBatch) -> None:
    found = figures_of(make_batch([0.0] * 4, roles=["ppaaooaa", "pa", "ppppp", "pooooaa"]))
    assert found.length_mean == pytest.approx((4 + 1 + 0 + 2) / 4)
    assert found.length_max == 4
    assert found.empty_rate == 0.5
    assert found.short_rate == 0.75


@pytest.mark.parametrize(("limit", "long"), [(4, 2 / 3), (5, 1 / 3), (6, 1 / 3), (7, 0.0)])
def test_long_is_more_than_four_fifths_of_what_the_task_allows(make_batch: MakeBatch, limit: int, long: float) -> None:
    # Five, four and one tokens; the masked trajectory does not count.
    batch = make_batch([0.0] * 4, roles=["paaoaaa", "paaaa", "pa", "paaaaaaaa"], valid=[True, True, True, False])
    assert batch_metrics(batch, limit).long_rate == pytest.approx(long)


def test_terminations_and_turns_are_shares_and_means(make_batch: MakeBatch) -> None:
    counts = {Termination.EOS: 1, Termination.STOP: 2, Termination.MAX_TOKENS: 3, Termination.MAX_TURNS: 4}
    ends = [end for end, count in counts.items() for _ in range(count)]
    found = figures_of(make_batch([0.0] * 10, terminations=ends, turns=range(10)))
    assert found.eos_rate == pytest.approx(1 / 10)
    assert found.stop_rate == pytest.approx(2 / 10)
    assert found.truncated_rate == pytest.approx(7 / 10)
    assert found.turn_limit_rate == pytest.approx(4 / 10)
    assert found.turns_mean == 4.5


def test_groups_without_spread_are_counted(make_batch: MakeBatch) -> None:
    rewards = [1.0, 1.0, 0.0, 1.0, 0.3, 0.3, 5.0]
    found = figures_of(make_batch(rewards, groups=[0, 0, 4, 4, 2, 2, 9]))
    assert found.zero_variance_group_rate == pytest.approx(3 / 4)


def test_spread_of_a_group_is_that_of_its_valid_members(make_batch: MakeBatch) -> None:
    batch = make_batch([1.0, 0.0, 0.0, 1.0], groups=[0, 0, 1, 1], valid=[True, False, True, True])
    assert figures_of(batch).zero_variance_group_rate == 0.5


def test_sampling_logprob_is_the_mean_over_chosen_tokens(make_batch: MakeBatch) -> None:
    found = figures_of(make_batch([0.0, 0.0], roles=["pao", "paa"]))
    assert found.sampling_logprob_mean == pytest.approx(-(2 + 102 + 103) / 3 / 1000)


@pytest.mark.filterwarnings("error")
def test_no_chosen_token_has_no_logprob(make_batch: MakeBatch) -> None:
    assert math.isnan(figures_of(make_batch([0.0], roles=["pp"])).sampling_logprob_mean)


def test_tool_calls_are_counted_per_trajectory_and_by_status(make_batch: MakeBatch) -> None:
    statuses = [ToolStatus.OK, ToolStatus.ERROR, ToolStatus.OK, ToolStatus.UNPARSABLE, ToolStatus.UNPARSABLE]
    calls = [(owner, 0, status, 0.1, "2+2", "4") for owner, status in zip([0, 0, 2, 2, 2], statuses, strict=True)]
    found = figures_of(make_batch([0.0] * 4, calls=calls))
    assert found.tool_calls_mean == pytest.approx(5 / 4)
    assert found.tool_unparsable_rate == pytest.approx(2 / 5)
    assert found.tool_error_rate == pytest.approx(1 / 5)
    assert found.tool_timeout_rate == 0.0


def test_time_outs_are_errors_and_counted_by_themselves(make_batch: MakeBatch) -> None:
    statuses = [ToolStatus.OK, ToolStatus.ERROR, ToolStatus.TIMEOUT, ToolStatus.TIMEOUT, ToolStatus.UNPARSABLE]
    calls = [(0, 0, status, place / 2, "", "") for place, status in enumerate(statuses)]
    found = figures_of(make_batch([0.0], calls=calls))
    assert (found.tool_error_rate, found.tool_timeout_rate) == pytest.approx((3 / 5, 2 / 5))
    assert (found.tool_latency_s, found.tool_latency_max_s) == pytest.approx((1.0, 2.0))
    assert found.tool_error_latency_s == pytest.approx((0.5 + 1.0 + 1.5) / 3)


def test_sound_calls_have_a_latency_and_no_latency_of_failures(make_batch: MakeBatch) -> None:
    found = figures_of(make_batch([0.0], calls=[(0, 0, ToolStatus.OK, 0.25, "", "")]))
    assert (found.tool_error_rate, found.tool_timeout_rate, found.tool_latency_max_s) == (0.0, 0.0, 0.25)
    assert math.isnan(found.tool_error_latency_s)


def test_without_tool_calls_there_is_no_rate(make_batch: MakeBatch) -> None:
    found = figures_of(make_batch([0.0, 1.0]))
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
    expected = dataclasses.replace(figures_of(kept), **counts)
    np.testing.assert_equal(dataclasses.asdict(figures_of(both)), dataclasses.asdict(expected))


def test_calls_of_masked_trajectories_have_a_status_but_no_share_in_the_mean(make_batch: MakeBatch) -> None:
    good, bad = (0, 0, ToolStatus.OK, 0.1, "", ""), (1, 0, ToolStatus.ERROR, 0.1, "", "")
    found = figures_of(make_batch([1.0, 0.0], valid=[True, False], calls=[good, bad, bad]))
    assert found.tool_calls_mean == 1.0
    assert found.tool_error_rate == pytest.approx(2 / 3)


@pytest.mark.filterwarnings("error")
def test_all_masked_has_counts_and_nothing_else(make_batch: MakeBatch) -> None:
    ends = [Termination.FAILED, Termination.EOS]
    found = dataclasses.asdict(figures_of(make_batch([1.0, 1.0], valid=[False, False], terminations=ends)))
    counts = {"valid_rate": 0.0, "failed_rate": 0.5, "trajectory_count": 2.0, "tool_call_count": 0.0}
    counts |= dict.fromkeys(("regrade_count", "golden_count", "observation_count", "replay_count"), 0.0)
    counts |= {"known_call_count": 0.0, "termination_mismatch_rate": 0.0}
    assert {name: found.pop(name) for name in counts} == counts
    assert all(math.isnan(value) for value in found.values())


def test_quantiles_interpolate_between_rewards_and_lengths(make_batch: MakeBatch) -> None:
    roles = ["p" + "a" * n for n in (1, 2, 3, 4, 11)]
    found = figures_of(make_batch([0.0, 1.0, 2.0, 3.0, 10.0], roles=roles))
    assert (found.reward_q10, found.reward_q50, found.reward_q90) == pytest.approx((0.4, 2.0, 7.2))
    assert (found.length_q10, found.length_q50, found.length_q90) == pytest.approx((1.4, 3.0, 8.2))


def test_groups_that_are_all_right_or_all_wrong_are_told_from_other_flat_ones(make_batch: MakeBatch) -> None:
    # Right; wrong; both in spite of equal rewards; right with rewards that differ; wrong with rewards that differ.
    rewards = [1.0, 1.0, 0.0, 0.0, 0.5, 0.5, 1.0, 0.8, 0.0, -0.2]
    correct = [True, True, False, False, True, False, True, True, False, False]
    found = figures_of(make_batch(rewards, groups=[5, 5, 2, 2, 7, 7, 1, 1, 9, 9], correct=correct))
    assert found.zero_variance_group_rate == pytest.approx(3 / 5)
    assert (found.all_right_group_rate, found.all_wrong_group_rate) == pytest.approx((1 / 5, 1 / 5))


def test_group_is_all_right_by_its_valid_members(make_batch: MakeBatch) -> None:
    batch = make_batch([1.0, 0.0], valid=[True, False], correct=[True, False])
    found = figures_of(batch)
    assert (found.all_right_group_rate, found.all_wrong_group_rate) == (1.0, 0.0)


def test_variety_counts_distinct_tokens_and_bigrams_within_a_trajectory(make_batch: MakeBatch) -> None:
    # Of 4 + 3 chosen tokens 2 + 3 are distinct; of 3 + 2 bigrams (5 6, 6 5, 5 6 and 5 6, 6 7) one is there twice.
    tokens = [[5, 5, 6, 5, 6], [5, 5, 6, 6, 7]]
    found = figures_of(make_batch([0.0, 0.0], roles=["paaaa", "paaoa"], tokens=tokens))
    assert found.unique_token_rate == pytest.approx(5 / 7)
    assert found.repeated_bigram_rate == pytest.approx(1 / 5)


def test_variety_of_a_masked_trajectory_does_not_count(make_batch: MakeBatch) -> None:
    tokens = [[5, 5, 6], [5, 8, 8]]
    found = figures_of(make_batch([0.0, 0.0], valid=[True, False], tokens=tokens))
    assert (found.unique_token_rate, found.repeated_bigram_rate) == (1.0, 0.0)


@pytest.mark.filterwarnings("error")
def test_single_tokens_have_no_bigrams(make_batch: MakeBatch) -> None:
    found = figures_of(make_batch([0.0, 0.0], roles=["pa", "pa"], tokens=[[5, 6], [5, 6]]))
    assert found.unique_token_rate == 1.0
    assert math.isnan(found.repeated_bigram_rate)


def test_retries_shadow_calls_latency_and_refills_are_shares_and_means(make_batch: MakeBatch) -> None:
    calls = [
        (0, 0, ToolStatus.OK, 0.25, "", ""),
        (1, 0, ToolStatus.OK, 0.5, "", ""),
        (1, 1, ToolStatus.OK, 1.5, "", ""),
    ]
    found = figures_of(
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
    found = figures_of(make_batch([0.0, 1.0]))
    unknown = [found.tool_retry_rate, found.tool_shadow_error_rate, found.tool_latency_s]
    unknown += [found.regrade_mismatch_rate, found.regrade_error_mean, found.trained_mismatch_rate]
    assert all(math.isnan(value) for value in unknown)
    assert (found.regrade_count, found.tool_call_count, found.refilled_rate) == (0.0, 0.0, 0.0)


def test_regrading_compares_the_live_channel_and_what_trains_with_the_trusted_verifier(make_batch: MakeBatch) -> None:
    # Agreeing; live wrong and training; live wrong and replaced; live wrong by rounding; not asked.
    trusted = [1.0, 0.0, 1.0, 0.5, math.nan]
    live = [1.0, 4.0, -1.0, 0.500001, 9.0]
    trains = [1.0, 4.0, 1.0, 0.500001, 9.0]
    found = figures_of(make_batch(trains, live=live, trusted=trusted))
    assert found.regrade_count == 4.0
    assert found.regrade_mismatch_rate == pytest.approx(2 / 4)
    assert found.regrade_error_mean == pytest.approx((0 + 4 - 2 + 0) / 4, abs=1e-5)
    assert found.trained_mismatch_rate == pytest.approx(1 / 4)


MEASURED = (BatchMetrics, UpdateMetrics, CreditMetrics, CheckMetrics)


def test_signals_are_the_figures_in_order_and_the_gaps_of_the_probe() -> None:
    figures = [field.name for kind in MEASURED for field in dataclasses.fields(kind)]
    names = [*figures, "probe_gap", "sampled_gap", "verifier_error_rate"]
    assert [signal.name for signal in SIGNALS] == names
    assert {name: SIGNALS[place].name for name, place in INDEX.items()} == {name: name for name in names}
    assert all(signal.floor > 0 and signal.unit for signal in SIGNALS)


def test_report_holds_every_signal_of_its_step_and_keeps_what_is_not_a_number() -> None:
    def fill(kind: type[Any], start: float) -> Any:
        return kind(*(start + place for place in range(len(dataclasses.fields(kind)))))

    batch = dataclasses.replace(fill(BatchMetrics, 100.0), reward_mean=math.nan, correct_rate=0.75)
    checks = dataclasses.replace(fill(CheckMetrics, 400.0), probe_accuracy=0.5, parity_gap=math.nan)
    update, credit = fill(UpdateMetrics, 200.0), fill(CreditMetrics, 300.0)
    row = StepRow(StepId(1, 3, 5), 4, batch, update, credit, fill(Timings, 0.0), checks)
    report = report_of(row)
    assert (report.id, report.model_version, len(report.values)) == (row.id, 4, len(SIGNALS))
    expected = {k: v for part in (batch, update, credit, checks) for k, v in dataclasses.asdict(part).items()}
    np.testing.assert_equal({name: value(report, name) for name in expected}, expected)
    assert value(report, "probe_gap") == 0.25
    assert value(report, "sampled_gap") == 0.75 - checks.probe_sampled_accuracy
    unknown = dataclasses.replace(row, checks=dataclasses.replace(checks, probe_accuracy=math.nan))
    assert math.isnan(value(report_of(unknown), "probe_gap"))


def naive_variety(batch: TrajectoryBatch) -> dict[str, float]:
    """Figures of variety once more, by sets of tuples."""
    said: dict[int, list[tuple[int, ...]]] = {}
    for i in np.flatnonzero(batch.valid):
        row = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]))
        said.setdefault(int(batch.group[i]), []).append(tuple(batch.tokens[row][batch.action[row]].tolist()))
    rows = [row for members in said.values() for row in members]

    def grams(size: int) -> list[list[tuple[int, ...]]]:
        return [[row[i : i + size] for i in range(len(row) - size + 1)] for row in rows]

    def own(size: int) -> float:
        return sum(len(set(row)) for row in grams(size)) / sum(map(len, grams(size)))

    bigrams = [gram for row in grams(2) for gram in row]
    return {
        "unique_token_rate": own(1),
        "repeated_bigram_rate": 1 - own(2),
        "repeated_trigram_rate": 1 - own(3),
        "distinct_bigram_rate": len(set(bigrams)) / len(bigrams),
        "distinct_sample_rate": float(np.mean([len(set(members)) / len(members) for members in said.values()])),
    }


@given(seed=st.integers(0, 10**6), span=st.sampled_from([1, 2, 3, 2**31 - 1]))
def test_variety_is_that_of_sets_of_tuples(make_batch: MakeBatch, seed: int, span: int) -> None:
    rng = random.Random(seed)
    roles = ["p" * rng.randint(0, 2) + "".join(rng.choices("ao", [3, 1], k=rng.randint(0, 6))) for _ in range(12)]
    batch = make_batch(
        [0.0] * 13,
        roles=[*roles, "paaa"],
        tokens=[[rng.randint(0, span) for _ in row] for row in (*roles, "paaa")],
        groups=sorted(rng.randint(0, 4) for _ in range(13)) if seed % 2 else [rng.randint(0, 4) for _ in range(13)],
        valid=[*(rng.random() < 0.8 for _ in roles), True],
    )
    found = figures_of(batch)
    expected = naive_variety(batch)
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, abs=1e-12)


def test_repeated_loop_has_few_trigrams_and_compresses(make_batch: MakeBatch) -> None:
    rng = random.Random(0)
    roles = ["p" + "a" * 60] * 16
    varied = [[rng.randint(0, 10**5) for _ in range(61)] for _ in roles]
    loop = [[7, 8, 9] * 20 + [7] for _ in roles]
    sound, broken = (figures_of(make_batch([0.0] * 16, roles=roles, tokens=tokens)) for tokens in (varied, loop))
    assert (sound.repeated_trigram_rate, broken.repeated_trigram_rate) == pytest.approx((0.0, 55 / 58))
    assert (sound.distinct_bigram_rate, broken.distinct_bigram_rate) == pytest.approx((1.0, 3 / (16 * 59)), abs=1e-3)
    assert (sound.distinct_sample_rate, broken.distinct_sample_rate) == (1.0, 1 / 16)
    assert broken.compress_ratio < 0.05 < 0.5 < sound.compress_ratio


def test_compressed_are_the_chosen_tokens_of_valid_trajectories(make_batch: MakeBatch) -> None:
    batch = make_batch([0.0] * 3, roles=["paoa", "paa", "paa"], valid=[True, False, True])
    raw = np.array([2, 4, 202, 203], "<i4").tobytes()
    assert figures_of(batch).compress_ratio == len(zlib.compress(raw, 1)) / len(raw)


def test_siblings_that_say_nothing_are_the_same(make_batch: MakeBatch) -> None:
    found = figures_of(make_batch([0.0] * 3, roles=["p", "pa", "p"]))
    assert found.distinct_sample_rate == pytest.approx(2 / 3)
    assert figures_of(make_batch([0.0, 0.0], roles=["p", "p"])).distinct_sample_rate == 0.5


def test_golden_responses_are_judged_by_what_came_back(make_batch: MakeBatch) -> None:
    found = figures_of(
        make_batch(
            [0.0],
            golden_right=[True, True, True, False, False],
            golden_live=[1.0, 3.0, math.nan, 0.000001, 0.5],
            golden_again=[1.0, 1.0, 1.0, math.nan, 0.5],
            golden_trusted=[1.0, 1.0, 1.0, 0.0, -0.5],
        )
    )
    assert (found.golden_count, found.golden_mismatch_rate) == (4.0, 2 / 4)
    assert (found.golden_right_error, found.golden_wrong_error) == pytest.approx((1.0, 0.5), abs=1e-5)
    # Of the three that came twice one is paid otherwise the second time.
    assert found.golden_repeat_mismatch_rate == pytest.approx(1 / 3)
    down = figures_of(
        make_batch([0.0], golden_right=[True], golden_live=[math.nan], golden_again=[math.nan], golden_trusted=[1.0])
    )
    assert (down.golden_count, math.isnan(down.golden_mismatch_rate), math.isnan(down.golden_right_error)) == (
        0.0,
        True,
        True,
    )


def test_checks_are_shares_of_what_was_checked(make_batch: MakeBatch) -> None:
    found = figures_of(
        make_batch(
            [0.0] * 4,
            known_ok=[True, False, True],
            observation_ok=[True, True, True, False, True],
            termination_ok=[True, False, True, False],
            replayed=[True, True, True, False],
            replay_observation_ok=[True, False, False, True],
            replay_termination_ok=[True, True, False, True],
        )
    )
    assert (found.known_call_count, found.known_call_error_rate) == pytest.approx((3.0, 1 / 3))
    assert (found.observation_count, found.observation_mismatch_rate) == pytest.approx((5.0, 1 / 5))
    assert (found.replay_count, found.termination_mismatch_rate) == (3.0, 0.5)
    assert found.replay_observation_mismatch_rate == pytest.approx(2 / 3)
    assert found.replay_termination_mismatch_rate == pytest.approx(1 / 3)


def test_checks_that_were_not_due_are_not_measured(make_batch: MakeBatch) -> None:
    found = figures_of(make_batch([0.0]))
    rates = [found.golden_mismatch_rate, found.golden_right_error, found.golden_wrong_error]
    rates += [found.golden_repeat_mismatch_rate]
    rates += [found.known_call_error_rate, found.observation_mismatch_rate]
    rates += [found.replay_observation_mismatch_rate, found.replay_termination_mismatch_rate]
    assert all(math.isnan(rate) for rate in rates)
    assert found.termination_mismatch_rate == 0.0
