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
from rftfm_ray.types import Termination

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
    assert all(math.isnan(found[f"regrade_{name}"]) for name in ("by_length", "by_repetition", "empty", "by_form"))


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


def by_form(make_batch: MakeBatch, answers: list[list[int]], paid: list[bool]) -> float:
    """The figure of a channel that pays some of these answers, all of which are wrong and end themselves."""
    tokens = [[1, *answer, 0] for answer in answers]
    count = len(answers)
    live = [float(each) for each in paid]
    batch = make_batch(
        live, live=live, trusted=[0.0] * count, right=[False] * count, tokens=tokens,
        roles=["p" + "a" * (len(row) - 1) for row in tokens], terminations=[Termination.EOS] * count,
    )  # fmt: skip
    return figures_of(batch).regrade_by_form


@pytest.mark.parametrize("place", [0, -1])
def test_loophole_of_a_first_or_last_token_explains_what_is_paid(make_batch: MakeBatch, place: int) -> None:
    rng = np.random.default_rng(0)
    answers = rng.integers(3, 9, (40, 3)).tolist()
    assert by_form(make_batch, answers, [answer[place] in (5, 7) for answer in answers]) == pytest.approx(1)
    # The middle one is not looked at.
    assert by_form(make_batch, answers, [answer[1] in (5, 7) for answer in answers]) < 0.3


def test_channel_that_pays_by_chance_is_explained_by_nothing(make_batch: MakeBatch) -> None:
    rng = np.random.default_rng(1)
    found = [
        by_form(make_batch, rng.integers(3, 9, (15, 3)).tolist(), (rng.random(15) < 0.4).tolist()) for _ in range(60)
    ]
    # Of two shares the larger one is told, so that their mean lies somewhat above 0.
    assert 0 < np.nanmean(found) < 0.2
    half = [
        by_form(make_batch, answers, [a[-1] in (5, 7) and rng.random() < 0.5 for a in answers])
        for answers in (rng.integers(3, 9, (15, 3)).tolist() for _ in range(60))
    ]
    assert np.nanmean(half) > 0.35


def test_form_needs_answers_that_are_alike(make_batch: MakeBatch) -> None:
    assert math.isnan(by_form(make_batch, [[3], [4], [5], [6]], [True, False, True, False]))
    assert math.isnan(by_form(make_batch, [[3]] * 6, [False] * 6)), "nothing is paid"
    assert math.isnan(by_form(make_batch, [[]] * 6, [True] * 6)), "everything is paid"


def test_form_is_that_of_the_last_turn(make_batch: MakeBatch) -> None:
    rows = [[1, first, 9, second, 0] for first in (3, 4) for second in (5, 6)] * 3
    live = [float(row[3] == 5) for row in rows]
    batch = make_batch(
        live, live=live, trusted=[0.0] * 12, right=[False] * 12, tokens=rows, roles=["paoaa"] * 12,
        terminations=[Termination.EOS] * 12,
    )  # fmt: skip
    assert figures_of(batch).regrade_by_form == pytest.approx(1)


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
