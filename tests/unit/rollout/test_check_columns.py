"""Columns of the checks on transcripts: what was read against what was said, and what was asked for and given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from rftfm_ray.rollout.check_columns import decoded_as_said, limit_excess
from rftfm_ray.rollout.episode import Episode, TurnLimit, start
from rftfm_ray.rollout.jobs import step_jobs
from rftfm_ray.tasks.addition import problem
from rftfm_ray.tasks.api import Observation, ToolCall, ToolStatus
from tests.unit.doubles import Characters

(JOB,) = step_jobs([problem(12, 34)], 1)


class LossyCharacters(Characters):
    """A tokenizer that knows no capital letters."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.lower())


def episode_of(*observed: tuple[str, str]) -> Episode:
    """An episode whose tools have said the first text of each pair, and whose tokens say the second."""
    episode = start(JOB, Characters().encode("12+34="))
    for turn, (said, read) in enumerate(observed):
        episode.tokens += Characters().encode("c;")
        call = ToolCall(turn, "calculator", "", said, ToolStatus.OK)
        episode.observations.append(Observation(said, call))
        tokens = Characters().encode(read)
        episode.observed.append((len(episode.tokens), len(episode.tokens) + len(tokens)))
        episode.tokens += tokens
    return episode


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        ([("46;", "46;")], [True]), ([("46;", "45;")], [False]), ([("46;", "46")], [False]), ([("46;", "")], [False]),
        ([("", "")], [True]), ([("1;", "1;"), ("", ""), ("2;", "3;")], [True, True, False]), ([], []),
    ],
)  # fmt: skip
def test_observation_is_decoded_from_its_own_tokens(observed: list[tuple[str, str]], expected: list[bool]) -> None:
    assert decoded_as_said([episode_of(*observed), episode_of(("7;", "7;"))], Characters()) == [*expected, True]


def test_what_a_tokenizer_loses_is_no_corruption() -> None:
    said: Sequence[tuple[str, str]] = [("Ok 46;", "ok 46;"), ("Ok 46;", "ok 45;"), ("Ok 46;", "Ok 46;")]
    assert decoded_as_said([episode_of(*said)], LossyCharacters()) == [True, False, True]


@pytest.mark.parametrize(
    ("turn", "excess", "short"),
    [
        (TurnLimit(12, 12, 12, truncated=True), 0.0, False),
        (TurnLimit(12, 12, 5, truncated=False), 0.0, False),
        (TurnLimit(12, 12, 6, truncated=True), 0.0, True),
        (TurnLimit(12, 6, 6, truncated=True), -math.log(2), False),
        (TurnLimit(12, 24, 20, truncated=False), math.log(2), False),
        (TurnLimit(1, 0, 0, truncated=True), 0.0, False),
    ],
)
def test_limits_asked_for_and_given_are_two_figures(turn: TurnLimit, excess: float, short: bool) -> None:
    assert limit_excess(turn) == pytest.approx(excess)
    assert turn.is_cut_short is short
