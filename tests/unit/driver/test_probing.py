"""The held-out probe: every problem once a round, both ways, and answers that add up to one result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.config import ProbeConfig
from rftfm_ray.driver.graded import probe_result
from rftfm_ray.driver.probing import HeldOutProbe, join
from rftfm_ray.driver.session import Session
from rftfm_ray.rollout.jobs import ProbeCounts
from rftfm_ray.types import ProbeResult, StepId, TrainingCursor


class Asked:
    """Stands in for a session: notes which problems it is asked for, and gives the answers that it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], list[int], float]] = []
        self.probe_parts: tuple[ProbeResult, ...] = ()

    def start_probe(self, greedy: slice, sampled: slice, after_s: float = 0.0) -> list[tuple[list[int], list[int]]]:
        """The places of the problems, in the place of references."""
        ours, drawn = (list(range(part.start, part.stop)) for part in (greedy, sampled))
        self.asked.append((ours, drawn, after_s))
        return [(ours, drawn)]

    def fetch_probe(self, counts: Sequence[tuple[list[int], list[int]]], made: TrainingCursor) -> ProbeResult:
        """Greedy answers are right where the place is even, sampled ones where it is a multiple of four."""
        ((greedy, drawn),) = counts
        right, drawn_right = sum(n % 2 == 0 for n in greedy), sum(n % 4 == 0 for n in drawn)
        counted = ProbeCounts(right, len(greedy), drawn_right, len(drawn), seconds=0.5)
        return probe_result(made.id.step, made.model_version, [counted])


def make_probe(**settings: Any) -> tuple[HeldOutProbe, Asked]:
    """A probe and what stands in for its session."""
    session = Asked()
    return HeldOutProbe(ProbeConfig(**settings), cast("Session", session)), session


def run(probe: HeldOutProbe, first: int, last: int) -> list[ProbeResult | None]:
    """The results of steps `first` to `last`; the weights of step n have version 10 n."""
    found = []
    for step in range(first, last + 1):
        id_, made = StepId(0, step, step), TrainingCursor(StepId(0, step - 1, step - 1), 10 * (step - 1), 0)
        found.append(probe.finish(probe.start(id_), id_, made))
    return found


@given(
    st.integers(16, 300).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))),
    st.floats(0, 1),
    st.integers(0, 2),
)
def test_every_problem_is_answered_once_a_round_both_ways(dealt: tuple[int, int], share: float, rounds: int) -> None:
    size, every = dealt
    probe, session = make_probe(size=size, every=every, sampled_share=share)
    run(probe, rounds * every + 1, (rounds + 1) * every)
    assert len(session.asked) == every
    assert [n for greedy, _, _ in session.asked for n in greedy] == list(range(size))
    assert [n for _, drawn, _ in session.asked for n in drawn] == list(range(round(size * share)))
    for sizes in zip(*((len(greedy), len(drawn)) for greedy, drawn, _ in session.asked), strict=True):
        assert max(sizes) - min(sizes) <= 1, "no step is asked for much more than another"


def test_round_ends_with_one_result_of_all_its_answers() -> None:
    probe, _ = make_probe(size=16, every=4, sampled_share=0.5)
    found = run(probe, 1, 8)
    assert [result is None for result in found] == [True, True, True, False] * 2
    assert found[3] == ProbeResult(
        step=3, model_version=30, accuracy=0.5, size=16, sampled_accuracy=0.25, sampled_size=8, seconds=2.0
    )
    assert found[7] == ProbeResult(7, 70, 0.5, 16, 0.25, 8, 2.0)


def test_round_of_uneven_parts_weighs_every_problem_the_same() -> None:
    probe, _ = make_probe(size=17, every=3, sampled_share=0.3)
    *_, result = run(probe, 1, 3)
    assert result is not None
    assert (result.size, result.sampled_size) == (17, 5)
    assert (result.accuracy, result.sampled_accuracy) == pytest.approx((9 / 17, 2 / 5))


def test_without_a_sampled_share_nothing_is_sampled() -> None:
    probe, session = make_probe(size=16, every=4, sampled_share=0)
    *_, result = run(probe, 1, 4)
    assert [drawn for _, drawn, _ in session.asked] == [[]] * 4
    assert result is not None
    assert (result.accuracy, result.sampled_size) == (0.5, 0)
    assert math.isnan(result.sampled_accuracy)


def test_answers_of_an_abandoned_attempt_do_not_count() -> None:
    probe, session = make_probe(size=16, every=4)
    assert run(probe, 1, 3) == [None] * 3
    probe.restart()
    # Back to step 2: what is left of that round makes no result, the next round is whole.
    session.asked.clear()
    found = run(probe, 3, 8)
    assert [result is None for result in found] == [True] * 5 + [False]
    assert found[-1] is not None
    assert (found[-1].size, found[-1].seconds) == (16, 2.0)
    assert len(session.asked) == 6


def test_attempt_that_begins_with_a_round_makes_a_result_of_its_own_answers() -> None:
    probe, _ = make_probe(size=16, every=4)
    run(probe, 1, 6)
    probe.restart()
    *_, result = run(probe, 5, 8)
    assert result is not None
    assert (result.size, result.seconds) == (16, 2.0)


@pytest.mark.parametrize("first", [2, 3, 4])
def test_run_that_begins_in_the_middle_of_a_round_leaves_it_unfinished(first: int) -> None:
    probe, _ = make_probe(size=16, every=4)
    found = run(probe, first, 12)
    assert [step for step, result in enumerate(found, first) if result] == [8, 12]


@pytest.mark.parametrize("spread", [True, False])
def test_probe_that_is_never_due_asks_for_nothing(spread: bool) -> None:
    probe, session = make_probe(every=0, spread=spread)
    assert run(probe, 1, 9) == [None] * 9
    assert session.asked == []


def test_probe_that_is_not_spread_asks_for_all_at_once_and_not_before_the_first_round() -> None:
    probe, session = make_probe(size=16, every=4, sampled_share=0.25, spread=False)
    found = run(probe, 1, 9)
    # Before the first step the large probe has been made.
    assert [step for step, result in enumerate(found, 1) if result] == [5, 9]
    assert session.asked == [(list(range(16)), list(range(4)), 0.0)] * 2
    assert found[4] == ProbeResult(4, 40, 0.5, 16, 0.25, 4, 0.5)


def test_share_of_an_update_waits_for_the_reference_and_a_whole_probe_does_not() -> None:
    for spread, expected in ((True, 0.05), (False, 0.0)):
        probe, session = make_probe(size=16, every=1, spread=spread)
        probe.after_s = 0.05
        run(probe, 2, 2)
        assert [after_s for _, _, after_s in session.asked] == [expected]


def part(step: int, accuracy: float, size: int, sampled: float, sampled_size: int, seconds: float) -> ProbeResult:
    """A part of a result, of the version that is named like its step."""
    return ProbeResult(step, step, accuracy, size, sampled, sampled_size, seconds)


def test_join_weighs_by_size_and_is_called_by_the_newest() -> None:
    joined = join([part(4, 1.0, 30, 0.5, 2, 0.5), part(5, 0.5, 10, 0.0, 6, 0.25)])
    assert joined == ProbeResult(5, 5, 35 / 40, 40, 1 / 8, 8, 0.75)


def test_part_without_a_problem_weighs_nothing() -> None:
    joined = join([part(1, 0.25, 4, math.nan, 0, 1.0), part(2, math.nan, 0, 0.75, 4, 1.0)])
    assert joined == ProbeResult(2, 2, 0.25, 4, 0.75, 4, 2.0)


def test_join_of_nothing_that_was_sampled_is_not_known() -> None:
    joined = join([part(1, 1.0, 4, math.nan, 0, 1.0), part(2, 0.0, 4, math.nan, 0, 1.0)])
    assert (joined.accuracy, joined.sampled_size) == (0.5, 0)
    assert math.isnan(joined.sampled_accuracy)


def test_join_of_one_part_is_that_part() -> None:
    assert join([part(3, 0.125, 16, 0.5, 4, 0.1)]) == part(3, 0.125, 16, 0.5, 4, 0.1)


def test_round_goes_on_where_a_checkpoint_has_left_it() -> None:
    straight, _ = make_probe(every=5, size=40)
    *_, expected = run(straight, 1, 5)
    probe, session = make_probe(every=5, size=40)
    run(probe, 1, 3)
    resumed, other = make_probe(every=5, size=40)
    other.probe_parts = session.probe_parts
    assert run(resumed, 4, 5) == [None, expected]


def graded_part(accuracy: float, size: int, ungraded: int) -> ProbeResult:
    """A part of a probe, greedy and sampled alike."""
    return ProbeResult(3, 30, accuracy, size, accuracy, size, 0.5, ungraded, ungraded)


def test_answers_without_a_verdict_are_left_out_of_the_accuracy() -> None:
    result = join([graded_part(0.5, 10, 2), graded_part(math.nan, 0, 8), graded_part(1.0, 10, 0)])
    assert (result.accuracy, result.size, result.ungraded) == (0.75, 20, 10)
    assert (result.sampled_accuracy, result.sampled_size, result.sampled_ungraded) == (0.75, 20, 10)


@pytest.mark.parametrize(("graded", "ungraded"), [(0, 16), (7, 9)])
def test_accuracy_is_unknown_where_too_few_answers_could_be_graded(graded: int, ungraded: int) -> None:
    counted = ProbeCounts(graded, graded, 0, 4, 0.5, ungraded)
    result = probe_result(3, 30, [counted])
    assert math.isnan(result.accuracy)
    assert (result.size, result.ungraded, result.sampled_accuracy) == (0, 16, 0.0)
    assert math.isnan(join([result, result]).accuracy)
    assert probe_result(3, 30, [ProbeCounts(4, 8, 0, 0, 0.5, 8)]).accuracy == 0.5
