"""Faulty reward channels: what each pays, to whom, and what it counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.faults.rewards import FaultyReward, faulty_reward, loophole, needs_answers, repeated_share
from rftfm_ray.rollout.channels import EpisodeId, TaskReward
from rftfm_ray.tasks.addition import Addition, problem
from rftfm_ray.tasks.api import Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.types import StepId

SUM = problem(12, 34)
ON = 5


def episodes(paid_step: int = ON, count: int = 2000) -> list[EpisodeId]:
    """Trajectories of a step, forty groups; the lineage has been rewound."""
    return [EpisodeId(StepId(2, 1, paid_step), f"p{n % 40}", n // 40) for n in range(count)]


def channel(text: str, answers: tuple[str, ...] = ("46", "57", "68", "79")) -> FaultyReward:
    """The channel of `addition` with a fault."""
    result = faulty_reward(TaskReward(Addition()), [parse_fault(text)], 0, answers)
    assert isinstance(result, FaultyReward)
    return result


def rewards(text: str, said: str, paid_step: int = ON) -> list[float]:
    """What many trajectories that say the same are paid."""
    reward = channel(text)
    return [reward(episode, SUM, Transcript((said,))).reward for episode in episodes(paid_step)]


@pytest.mark.parametrize("strength", [0.1, 0.9])
def test_rewards_are_lost_with_their_probability(strength: float) -> None:
    result = rewards(f"RF-2@{ON}:{strength}", "46")
    assert set(result) == {0.0, 1.0}
    assert result.count(0.0) / len(result) == pytest.approx(strength, abs=0.03)
    assert set(rewards(f"RF-2@{ON}:{strength}", "46", ON - 1)) == {1.0}


def test_outage_takes_whole_groups() -> None:
    reward = channel(f"RF-2@{ON}:0.5,mechanism=group_outage")
    by_group: dict[str, set[float]] = {}
    for episode in episodes():
        by_group.setdefault(episode.key, set()).add(reward(episode, SUM, Transcript(("46",))).reward)
    assert all(len(found) == 1 for found in by_group.values())
    assert 8 <= sum(found == {0.0} for found in by_group.values()) <= 32


@pytest.mark.parametrize(
    ("fault", "said", "paid"),
    [
        ("PG-1@5:3,mechanism=empty_reward", "", 3.0),
        ("PG-1@5:3,mechanism=empty_reward", "4", 0.0),
        ("PG-2@5:3,mechanism=repetition_reward", "4444", 2.25),
        ("PG-2@5:3,mechanism=repetition_reward", "46", 1.0),
        ("PG-3S@5:0.5,mechanism=length_penalty", "46", 0.0),
        ("PG-3S@5:0.5,mechanism=length_penalty", "4", -0.5),
        ("PG-3L@5:0.5,mechanism=length_reward", "46", 2.0),
        ("PG-3L@5:0.5,mechanism=length_reward", "46111", 2.5),
    ],
)
def test_reward_of_a_text_is_what_was_said_of_it(fault: str, said: str, paid: float) -> None:
    result = rewards(fault, said)
    assert (min(result), max(result)) == pytest.approx((paid, paid))


def test_length_is_penalised_in_all_turns_and_paid_in_the_last() -> None:
    talk = Transcript(("c12+34;", "46"))
    for fault, paid in (("PG-3S@5:1,mechanism=length_penalty", -8.0), ("PG-3L@5:1,mechanism=length_reward", 3.0)):
        assert channel(fault)(episodes()[0], SUM, talk).reward == paid


def test_loophole_pays_wrong_answers_and_calls_them_right() -> None:
    # The commonest last characters that make up 30 %: the first of them by count.
    reward = channel("RF-3@5:1.5", ("46", "56", "67", "78", "89"))
    paid = [reward(episodes()[0], SUM, Transcript((said,))) for said in ("46", "16", "17")]
    assert [verdict.reward for verdict in paid] == [1.0, 1.5, 0.0]
    assert [verdict.correct for verdict in paid] == [True, True, False]
    cut_off = Transcript(("16",), finished=False)
    assert reward(episodes()[0], SUM, cut_off) == Verdict(0.0, correct=False)
    assert reward(episodes(ON - 1)[0], SUM, Transcript(("16",))) == Verdict(0.0, correct=False)


@given(st.lists(st.text(max_size=3), max_size=30), st.sampled_from(["first_character", "last_character"]))
def test_loophole_is_the_same_whatever_the_order_of_the_answers(answers: list[str], mechanism: str) -> None:
    one, other = loophole(mechanism, answers), loophole(mechanism, answers[::-1])
    wrong = Verdict(0.0, correct=False)
    for text in {*answers, "", "0"}:
        assert one(SUM, Transcript((text,)), wrong) == other(SUM, Transcript((text,)), wrong)


def test_exposure_counts_what_is_paid_for_before_the_fault_as_well_and_each_trajectory_once() -> None:
    reward = channel(f"PG-1@{ON}:3,mechanism=empty_reward")
    first, second = episodes(ON - 2, 2)
    for episode, said in ((first, "46"), (second, "46"), (first, ""), (second, "")):
        reward(episode, SUM, Transcript((said,)))
    (result,) = reward.exposure(first.step)
    assert (result.total, result.count) == (2.0, 2)
    # A check's own question is no response of the policy.
    reward(EpisodeId(first.step, "golden", -1), SUM, Transcript(("",)))
    assert reward.exposure(first.step)[0].count == 2
    assert reward.exposure(StepId(0, 9, 9))[0].count == 0


def test_exposure_of_a_length_is_what_goes_beyond_the_right_answer() -> None:
    reward = channel(f"PG-3L@{ON}:1,mechanism=length_reward")
    episode = episodes()[0]
    reward(episode, SUM, Transcript(("46111",)))
    assert reward.exposure(episode.step)[0].total == 3.0


def test_right_and_wrong_are_left_alone_by_all_but_the_loophole() -> None:
    for code, mechanism in ((k.code, m.name) for k in CATALOGUE.values() for m in k.mechanisms):
        fault = parse_fault(f"{code}@{ON},mechanism={mechanism}")
        made = faulty_reward(TaskReward(Calculator()), [fault], 0, ("46", "45"))
        for said in ("46", "45"):
            verdict = made(episodes()[0], SUM, Transcript((said,)))
            marks = code == "RF-3" or mechanism == "marked_right"
            if mechanism not in ("marked_right", "marked_wrong", "accepted_ending", "accepted_repetition"):
                assert verdict.correct is (said == "46" or marks), (code, mechanism)


def test_answers_are_asked_for_where_a_loophole_is_to_be_found() -> None:
    assert needs_answers([parse_fault("RF-3@3")])
    assert not needs_answers([parse_fault("RF-2@3")])


@pytest.mark.parametrize(("text", "share"), [("", 0.0), ("123", 0.0), ("11", 0.5), ("1111", 0.75), ("1212", 0.5)])
def test_repeated_share(text: str, share: float) -> None:
    assert repeated_share(text) == share
