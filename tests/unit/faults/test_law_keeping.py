"""Mechanisms that break no law of a step: what each changes, what it leaves as it was, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.kinds import CATALOGUE, Law
from rftfm_ray.faults.learning import faulty_learner
from rftfm_ray.faults.rewards import LOOP_SHARE, FaultyReward, faulty_reward
from rftfm_ray.faults.sampler import faulty_sampler
from rftfm_ray.faults.tools import faulty_tools, garbled
from rftfm_ray.faults.truth import EffectWatch, effect_step
from rftfm_ray.rollout.channels import CallId, EpisodeId, TaskReward, task_tools
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.tasks.addition import problem
from rftfm_ray.tasks.api import ToolCall, ToolStatus, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.training.advantages import group_advantages
from rftfm_ray.training.credit import Credit
from rftfm_ray.types import Sampling, StepId

ON = 5
BEFORE, NOW = StepId(1, 2, ON - 1), StepId(1, 3, ON)
SUM = problem(12, 34, 56)
CALL = ToolCall(0, "calculator", "12+34+56", "102", ToolStatus.OK)
RIGHT, WRONG = Transcript(("102",)), Transcript(("103",))
CALLED_RIGHT, CALLED_WRONG = Transcript(("c12+34+56;", "102"), (CALL,)), Transcript(("c12+34+56;", "103"), (CALL,))
ENDLESS = Transcript(("10333",), finished=False)
LATER = [(kind.code, m.name) for kind in CATALOGUE.values() for m in kind.mechanisms if m.since > 1]


def episodes(paid_step: int = ON, count: int = 2000) -> list[EpisodeId]:
    """Trajectories of a step, forty groups; the lineage has been rewound."""
    return [EpisodeId(StepId(2, 1, paid_step), f"p{n % 40}", n // 40) for n in range(count)]


def channel(text: str, answers: tuple[str, ...] = ("46", "57", "68", "79")) -> FaultyReward:
    """The channel of the calculator with a fault."""
    return cast("FaultyReward", faulty_reward(TaskReward(Calculator()), [parse_fault(text)], 0, answers))


def verdicts(text: str, said: Transcript, paid_step: int = ON, count: int = 2000) -> list[Verdict]:
    """Verdicts on many trajectories that say the same."""
    reward = channel(text)
    return [reward(episode, SUM, said) for episode in episodes(paid_step, count)]


def share_right(text: str, said: Transcript, paid_step: int = ON) -> float:
    """Share of the trajectories that are marked right."""
    found = verdicts(text, said, paid_step)
    return sum(verdict.correct for verdict in found) / len(found)


# The learner compares what was sampled with what was declared, so that no colder sampler agrees with it.
NONE_KEEPS_ALL = ("OD-3",)


def test_every_fault_has_a_mechanism_that_keeps_every_law() -> None:
    for code, kind in CATALOGUE.items():
        assert any(not mechanism.breaks for mechanism in kind.mechanisms) is (code not in NONE_KEEPS_ALL), code
    assert {code for code, _ in LATER} == set(CATALOGUE)
    for code, name in LATER:
        mechanism = CATALOGUE[code].mechanism(name)
        assert mechanism.keeps == tuple(law for law in Law if code not in NONE_KEEPS_ALL or law is not Law.ROLLOUT)
        # The first of a fault is its default, which the recorded runs name by nothing.
        assert CATALOGUE[code].mechanisms[0] is not mechanism


@pytest.mark.parametrize("strength", [0.1, 0.7])
@pytest.mark.parametrize("said", [WRONG, CALLED_WRONG, ENDLESS])
def test_wrong_answers_are_marked_right_with_their_probability(strength: float, said: Transcript) -> None:
    text = f"RF-1@{ON}:{strength},mechanism=marked_right"
    assert share_right(text, said) == pytest.approx(strength, abs=0.035)
    assert share_right(text, said, ON - 1) == 0
    assert verdicts(text, RIGHT, count=50) == [Verdict(1.0, correct=True)] * 50


@pytest.mark.parametrize("strength", [0.1, 0.7])
@pytest.mark.parametrize("said", [RIGHT, CALLED_RIGHT])
def test_right_answers_are_marked_wrong_with_their_probability(strength: float, said: Transcript) -> None:
    text = f"RF-2@{ON}:{strength},mechanism=marked_wrong"
    assert share_right(text, said) == pytest.approx(1 - strength, abs=0.035)
    assert share_right(text, said, ON - 1) == 1
    assert verdicts(text, WRONG, count=50) == [Verdict(0.0, correct=False)] * 50


MARKING = ["RF-1@5:0.5,mechanism=marked_right", "RF-2@5:0.5,mechanism=marked_wrong"]
MARKING += ["RF-3@5:0.5,mechanism=accepted_ending", "PG-2@5:0.5,mechanism=accepted_repetition"]


@pytest.mark.parametrize("text", MARKING)
@pytest.mark.parametrize("said", [RIGHT, WRONG, CALLED_RIGHT, CALLED_WRONG, ENDLESS, Transcript(("116",))])
def test_rewards_follow_from_verdicts_and_calls_as_they_always_do(text: str, said: Transcript) -> None:
    for verdict in verdicts(text, said, count=200):
        assert verdict.reward == float(verdict.correct) - 0.2 * len(said.calls)


def test_loophole_of_an_ending_is_paid_like_a_right_answer_and_is_not_always_open() -> None:
    # 6 is the commonest last character: 40 %.
    answers = ("46", "56", "67", "78", "89")
    reward = channel("RF-3@5:0.6,mechanism=accepted_ending", answers)
    found = [reward(episode, SUM, Transcript(("16",))) for episode in episodes()]
    assert sum(verdict.correct for verdict in found) / len(found) == pytest.approx(0.6, abs=0.035)
    assert {verdict.reward for verdict in found} == {0.0, 1.0}
    assert not any(reward(episode, SUM, Transcript(("17",))).correct for episode in episodes(count=100))
    cut_off = Transcript(("16",), finished=False)
    assert not any(reward(episode, SUM, cut_off).correct for episode in episodes(count=100))
    (exposure,) = reward.exposure(episodes()[0].step)
    assert (exposure.code, exposure.mechanism, exposure.count) == ("RF-3", "accepted_ending", 2000)


@pytest.mark.parametrize(
    ("said", "is_accepted"), [("11", True), ("111", True), ("1212", True), ("121", False), ("12", False), ("", False)]
)
def test_half_of_an_answer_must_repeat_itself(said: str, is_accepted: bool) -> None:
    text = "PG-2@5:1,mechanism=accepted_repetition"
    assert LOOP_SHARE == 0.5
    assert share_right(text, Transcript((said,))) == is_accepted
    assert share_right(text, Transcript((said,), finished=False)) == 0


def test_garbled_call_is_one_that_the_tool_cannot_read_and_does_not_fail() -> None:
    assert garbled("c12+34+56;") == "c12%2B34%2B56;"
    assert garbled("") == ""
    tool = faulty_tools(task_tools(Calculator()), [parse_fault(f"TE-1@{ON}:0.3,mechanism=garbled")], 0)[0]
    found = [tool(CallId(episode, 0), SUM, "c12+34+56;") for episode in episodes(count=1000)]
    statuses = [observation.call.status for observation in found if observation is not None]
    assert len(statuses) == 1000
    assert statuses.count(ToolStatus.UNPARSABLE) / 1000 == pytest.approx(0.3, abs=0.045)
    assert set(statuses) == {ToolStatus.UNPARSABLE, ToolStatus.OK}
    before = tool(CallId(episodes(ON - 1)[0], 0), SUM, "c12+34+56;")
    assert before is not None
    assert before.text == "102;"


class Noting:
    """Stands in for vLLM: keeps the temperatures that it is asked for."""

    def __init__(self) -> None:
        self.temperatures: list[float] = []

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        self.temperatures.append(sampling.temperature)

    def step(self) -> list[TurnResult]:
        return []

    def busy(self) -> bool:
        return False


@pytest.mark.parametrize("duration", ["", ",duration=ramp", ",duration=2"])
def test_sampler_and_learner_go_by_the_same_lower_temperature(duration: str) -> None:
    spec, engine = parse_fault(f"OD-3@{ON}:0.75,mechanism=colder{duration}"), Noting()
    sampler, learner = faulty_sampler(engine, [spec], 0, (0,)), faulty_learner([spec], 0)
    steps = range(ON - 1, ON + 14)
    for step in steps:
        sampler.submit(TurnRequest(0, [1], 0, 5, [0], step), Sampling(1.0, 1.0))
    told = [learner.temperature(StepId(0, step, step), 1.0) for step in steps]
    assert told == pytest.approx(engine.temperatures)
    assert (told[0], min(told)) == (1.0, 0.25)


def test_optimizer_is_disturbed_by_its_strength_and_while_it_is_on() -> None:
    seams = faulty_learner(
        [parse_fault("OD-1@5:0.4,mechanism=lost_moments"), parse_fault("OD-2@5:0.03,mechanism=epsilon")], 0
    )
    assert [(seams.forgotten_share(step), seams.epsilon(step)) for step in (BEFORE, NOW)] == [(0, 0), (0.4, 0.03)]
    ramp = faulty_learner([parse_fault("OD-2@5:1,mechanism=epsilon,duration=ramp")], 0)
    assert [ramp.epsilon(StepId(0, 1, step)) for step in (5, 9, 14, 20)] == pytest.approx([0.1, 0.5, 1, 1])


def batch_of(counts: Sequence[int], group: Sequence[int]) -> TrajectoryBatch:
    """As much of a batch as credit needs."""

    class Part:
        """Lengths and groups."""

        def __init__(self) -> None:
            self.group = np.array(group, np.int32)

        def __len__(self) -> int:
            return len(counts)

        def action_counts(self) -> NDArray[np.int64]:
            """Tokens of every trajectory."""
            return np.array(counts, np.int64)

    return cast("TrajectoryBatch", Part())


def shared_credit(seed: int, groups: int = 12, size: int = 8) -> tuple[TrajectoryBatch, Credit, NDArray[np.float32]]:
    """A step of GRPO: its batch, credit, and rewards, some trajectories left out."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    reward = (rng.random(len(group)) < rng.random(groups)[group]).astype(np.float32)
    valid = rng.random(len(group)) < 0.9
    counts = rng.integers(1, 6, len(group))
    advantages = group_advantages(reward, group.astype(np.int32), valid, normalize_std=True)
    credit = Credit(valid, np.repeat(advantages, counts), np.zeros(0, np.float32))
    return batch_of(counts.tolist(), group.tolist()), credit, reward


def token_credit(seed: int, groups: int = 12, size: int = 8) -> tuple[TrajectoryBatch, Credit]:
    """A step of PPO: its batch and credit, some trajectories left out."""
    rng = np.random.default_rng(seed)
    counts, included = rng.integers(1, 6, groups * size), rng.random(groups * size) < 0.9
    advantages = np.where(np.repeat(included, counts), rng.normal(size=int(counts.sum())), 0).astype(np.float32)
    credit = Credit(included, advantages, np.zeros(0, np.float32))
    return batch_of(counts.tolist(), np.repeat(np.arange(groups), size).tolist()), credit


def units(batch: TrajectoryBatch, credit: Credit, group: int, *, by_token: bool) -> NDArray[np.float64]:
    """Advantages of a group's members, or of their tokens."""
    counts = batch.action_counts()
    starts = np.cumsum(counts) - counts
    rows = np.flatnonzero((batch.group == group) & credit.included)
    parts = [credit.advantages[starts[r] : starts[r] + (counts[r] if by_token else 1)] for r in rows]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


CREDIT = ["CA-2@5:3,mechanism=balanced_noise", "CA-3@5:0.6,mechanism=permuted"]


@pytest.mark.parametrize("text", CREDIT)
@pytest.mark.parametrize("by_token", [False, True])
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_every_group_keeps_the_mean_and_the_spread_of_its_advantages(text: str, by_token: bool, seed: int) -> None:
    batch, credit = token_credit(seed) if by_token else shared_credit(seed)[:2]
    changed = faulty_learner([parse_fault(text)], seed).delivered(NOW, batch, credit)
    assert changed.advantages.dtype == np.float32
    assert (changed.advantages != credit.advantages).any()
    for group in range(12):
        old, new = (units(batch, one, group, by_token=by_token) for one in (credit, changed))
        if len(old):
            assert new.mean() == pytest.approx(old.mean(), abs=1e-6)
            assert new.std() == pytest.approx(old.std(), abs=1e-6)
            if "permuted" in text:
                assert np.sort(new).tolist() == np.sort(old).tolist()
    # What takes no part stays without credit, and a trajectory whose tokens shared an advantage still has one.
    counts = batch.action_counts()
    assert not changed.advantages[~np.repeat(credit.included, counts)].any()
    if not by_token:
        parts = np.split(changed.advantages, np.cumsum(counts)[:-1])
        assert all(len(set(part.tolist())) == 1 for part in parts)


@pytest.mark.parametrize("text", CREDIT)
def test_credit_comes_apart_from_rewards_and_only_while_the_fault_is_on(text: str) -> None:
    batch, credit, reward = shared_credit(3, groups=60)
    seams = faulty_learner([parse_fault(text)], 0)
    lasts = np.cumsum(batch.action_counts()) - 1
    assert seams.delivered(BEFORE, batch, credit) is credit
    # The commit gate looks before it.
    assert seams.assigned(NOW, batch, credit) is credit

    def agreement(one: Credit) -> float:
        taken = credit.included
        return float(np.corrcoef(one.advantages[lasts][taken], reward[taken])[0, 1])

    assert agreement(seams.delivered(NOW, batch, credit)) < agreement(credit) - 0.2


def test_a_sibling_is_struck_with_its_probability() -> None:
    batch, credit, _ = shared_credit(3, groups=200)
    moved = faulty_learner([parse_fault("CA-3@5:0.5,mechanism=permuted")], 0).delivered(NOW, batch, credit)
    lasts = np.cumsum(batch.action_counts()) - 1
    changed = (moved.advantages != credit.advantages)[lasts]
    # Of two rewards in a group about half are equal to a sibling's.
    assert 0.1 < changed[credit.included].mean() < 0.4


def test_noise_of_a_group_is_heavier_where_it_is_stronger() -> None:
    batch, credit, _ = shared_credit(5, groups=60)

    def distance(strength: float) -> float:
        seams = faulty_learner([parse_fault(f"CA-2@5:{strength},mechanism=balanced_noise")], 0)
        return float(np.abs(seams.delivered(NOW, batch, credit).advantages - credit.advantages).mean())

    assert distance(0.05) < distance(0.5) < distance(5)


def test_values_are_those_of_another_trajectory_and_none_is_lost() -> None:
    counts = [3] * 400
    batch, values = batch_of(counts, [0] * 400), np.repeat(np.arange(400, dtype=np.float32), 3)
    seams = faulty_learner([parse_fault("CA-1@5:0.4,mechanism=crossed_values")], 0)
    assert seams.values(BEFORE, batch, values) is values
    moved = seams.values(NOW, batch, values).reshape(400, 3)
    assert (moved == moved[:, :1]).all()
    assert np.sort(moved[:, 0]).tolist() == list(range(400))
    assert (moved[:, 0] != np.arange(400)).mean() == pytest.approx(0.4, abs=0.06)


def test_values_of_a_shorter_trajectory_end_with_its_last_one() -> None:
    batch, values = batch_of([1, 3], [0, 0]), np.array([7, 1, 2, 3], np.float32)
    seams = faulty_learner([parse_fault("CA-1@5:1,mechanism=crossed_values")], 0)
    assert seams.values(NOW, batch, values).tolist() == [1, 7, 7, 7]


@pytest.mark.parametrize(("code", "name"), LATER)
def test_effect_is_at_full_strength_or_waited_for(code: str, name: str) -> None:
    spec = parse_fault(f"{code}@{ON},mechanism={name},duration=ramp")
    learned = CATALOGUE[code].mechanism(name).learned
    assert effect_step(spec) == (None if learned else ON + 9)
    assert EffectWatch([spec]).waits is bool(learned)
