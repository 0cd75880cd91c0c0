"""Which answers a reward channel is wrong about, and what turns and observations of a step show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.metrics import BatchMetrics
from rftfm_ray.telemetry.features import batch_metrics

MakeBatch = Callable[..., TrajectoryBatch]


def figures_of(batch: TrajectoryBatch) -> BatchMetrics:
    """The figures of a task that allows ten tokens."""
    return batch_metrics(batch, 10)


# Right, wrong, right, wrong, wrong but empty, right; a mean answer has two tokens and its end.
SPLIT: dict[str, Any] = {
    "roles": ["paaa", "paaa", "paaaa", "paa", "pa", "paaaaa"],
    "tokens": [[1, 5, 6, 0], [1, 5, 5, 0], [1, 5, 6, 7, 0], [1, 5, 0], [1, 0], [1, 5, 5, 5, 5, 0]],
    "trusted": [1.0, 0.0, 1.0, 0.0, 0.0, 1.0],
    "right": [True, False, True, False, False, True],
}
CONTENT, REPEATED = [2.0, 2.0, 3.0, 1.0, 0.0, 4.0], [0.0, 1 / 3, 0.0, 0.0, 0.0, 3 / 5]


def split(make_batch: MakeBatch, error: list[float]) -> dict[str, float]:
    """The figures of a live channel that is wrong by so much on each answer."""
    live = [trusted + each for trusted, each in zip(SPLIT["trusted"], error, strict=True)]
    found = dataclasses.asdict(figures_of(make_batch(live, live=live, **SPLIT)))
    return {name: figure for name, figure in found.items() if name.startswith("regrade_")}


def test_channel_that_agrees_hits_nothing_and_has_no_pattern(make_batch: MakeBatch) -> None:
    found = split(make_batch, [0.0] * 6)
    assert (found["regrade_hit_right"], found["regrade_hit_wrong"]) == (0, 0)
    assert all(math.isnan(found[f"regrade_{name}"]) for name in ("by_length", "by_repetition", "empty"))


@pytest.mark.parametrize(
    ("error", "right", "wrong", "empty"),
    [
        # Pays every wrong answer; pays some of both; loses what right answers earn; pays empty answers.
        ([0, 3, 0, 3, 3, 0], 0, 1, 1 / 3),
        ([3, 3, 0, 0, 0, 0], 1 / 3, 1 / 3, 0),
        ([-1, 0, -1, 0, 0, -1], -1, 0, 0),
        ([0, 0, 0, 0, 5, 0], 0, 1 / 3, 1),
        # As often up as down.
        ([1, 0, -1, 0, 0, 0], 0, 0, 0),
    ],
)
def test_errors_are_split_by_what_they_hit(
    make_batch: MakeBatch, error: list[float], right: float, wrong: float, empty: float
) -> None:
    found = split(make_batch, error)
    told = [found[f"regrade_{name}"] for name in ("hit_right", "hit_wrong", "empty")]
    assert told == pytest.approx([right, wrong, empty])


@pytest.mark.parametrize("size", [0.7, -0.7])
def test_errors_that_follow_length_or_repetition_say_so(make_batch: MakeBatch, size: float) -> None:
    sign = math.copysign(1, size)
    assert split(make_batch, [size * each for each in CONTENT])["regrade_by_length"] == pytest.approx(sign)
    # What repeats itself in only two answers is wrong in too few to be a pattern.
    assert math.isnan(split(make_batch, [size * each for each in REPEATED])["regrade_by_repetition"])
    shifted = split(make_batch, [size * (each + 1) for each in REPEATED])
    assert shifted["regrade_by_repetition"] == pytest.approx(sign)
    expected = np.corrcoef([each + 1 for each in REPEATED], CONTENT)[0, 1] * sign
    assert shifted["regrade_by_length"] == pytest.approx(expected)


def test_right_and_wrong_are_what_the_trusted_verifier_says(make_batch: MakeBatch) -> None:
    """A channel that also calls the answer right does not move it to the right ones."""
    live = [3.0, 1.0]
    batch = make_batch(live, live=live, trusted=[0.0, 1.0], right=[False, True], correct=[True, True])
    found = figures_of(batch)
    assert (found.regrade_hit_right, found.regrade_hit_wrong) == (0, 1)


def test_limits_and_decoded_observations_are_means_over_turns(make_batch: MakeBatch) -> None:
    found = figures_of(
        make_batch(
            [0.0],
            turn_limit_excess=[0.0, -0.6, 0.0],
            turn_cut_short=[True, False, False, False],
            observation_decode_ok=[True, False],
        )
    )
    assert found.limit_excess == pytest.approx(-0.2)
    assert found.cut_short_rate == 0.25
    assert found.observation_decode_mismatch_rate == 0.5
    nothing = figures_of(make_batch([0.0]))
    assert all(math.isnan(each) for each in (
        nothing.limit_excess, nothing.cut_short_rate, nothing.observation_decode_mismatch_rate,
    ))  # fmt: skip
