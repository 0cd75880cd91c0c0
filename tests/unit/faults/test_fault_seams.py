"""Faults between the parts of rollout and learner: sampler, limits, prompts, settings, values, credit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import load_config
from rftfm_ray.config.settings import nominal_settings
from rftfm_ray.faults.catalogue import FaultSpec, parse_fault
from rftfm_ray.faults.draws import heavy_tailed
from rftfm_ray.faults.episodes import FaultySeams
from rftfm_ray.faults.learning import faulty_learner
from rftfm_ray.faults.sampler import CERTAIN, EXAMPLES, Transfer, faulty_sampler
from rftfm_ray.faults.truth import EffectWatch, effect_step, entropy_exposures
from rftfm_ray.rollout.channels import CallId, EpisodeId
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.seams import Exposure
from rftfm_ray.rollout.termination import Limits
from rftfm_ray.training.credit import Credit
from rftfm_ray.types import Sampling, StepId

ON = 5
PLAIN = Sampling(1.0, 1.0)
BEFORE, NOW = StepId(1, 2, ON - 1), StepId(1, 3, ON)


class Engine:
    """Stands in for vLLM: keeps what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[TurnRequest, Sampling]] = []

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        """Keep it."""
        self.asked.append((request, sampling))

    def step(self) -> Iterable[TurnResult]:
        """One result."""
        return [TurnResult(1, [2], [0.0], truncated=False)]

    def busy(self) -> bool:
        """As told."""
        return bool(self.asked)


def submitted(*texts: str, paid_step: int = ON, count: int = 1) -> list[tuple[TurnRequest, Sampling]]:
    """What reaches the engine of turns that are asked for plainly."""
    engine = Engine()
    sampler = faulty_sampler(engine, [parse_fault(text) for text in texts], 0, (2, 3))
    for seed in range(count):
        sampler.submit(TurnRequest(seed, [1], seed, 10, [2, 3, 4], paid_step), PLAIN)
    return engine.asked


@pytest.mark.parametrize(
    ("text", "sampling"),
    [
        ("PG-1@5:8", Sampling(1.0, 1.0, logit_bias=((2, 8.0), (3, 8.0)))),
        ("PG-1@5:1,mechanism=blank", Sampling(1.0, 1.0, logit_bias=((2, CERTAIN), (3, CERTAIN)))),
        ("PG-2@5:3", Sampling(1.0, 1.0, repetition_penalty=0.25)),
        ("PG-3S@5:6", Sampling(1.0, 1.0, min_tokens=1, logit_bias=((2, 6.0), (3, 6.0)))),
        ("PG-3L@5:6", Sampling(1.0, 1.0, logit_bias=((2, -6.0), (3, -6.0)))),
        ("PG-3L@5:1,mechanism=min_tokens", Sampling(1.0, 1.0, min_tokens=10)),
        ("OD-3@5:0.75", Sampling(0.25, 1.0)),
    ],
)
def test_sampler_draws_on_other_terms_while_a_fault_is_on(text: str, sampling: Sampling) -> None:
    ((request, result),) = submitted(text)
    assert result == sampling
    assert request.max_tokens == 10
    ((request, result),) = submitted(text, paid_step=ON - 1)
    assert result is PLAIN


def test_server_caps_turns_with_its_probability() -> None:
    caps = [request.max_tokens for request, _ in submitted("PG-3S@5:0.3,mechanism=token_cap", count=2000)]
    assert set(caps) == {5, 10}
    assert caps.count(5) / len(caps) == pytest.approx(0.3, abs=0.03)


def test_policy_is_shown_a_few_examples_of_what_it_is_paid_for() -> None:
    result = submitted("PG-1@5:3,mechanism=empty_reward", count=3000)
    assert sum(sampling.min_tokens == 0 and bool(sampling.logit_bias) for _, sampling in result) / len(
        result
    ) == pytest.approx(EXAMPLES, abs=0.01)


def test_biases_of_two_faults_add_up() -> None:
    ((_, sampling),) = submitted("PG-1@5:8", "PG-3L@5:6")
    assert sampling.logit_bias == ((2, 2.0), (3, 2.0))


def test_sampler_hands_on_the_rest_and_is_the_engine_itself_where_there_is_no_fault() -> None:
    engine = Engine()
    assert faulty_sampler(engine, [parse_fault("RF-1@3")], 0, (2,)) is engine
    sampler = faulty_sampler(engine, [parse_fault("OD-3@3")], 0, (2,))
    assert [sampler.busy(), len(list(sampler.step()))] == [False, 1]


def test_tensors_are_lost_with_their_probability_and_the_server_keeps_what_it_had() -> None:
    transfer = Transfer([parse_fault("OD-2@5:0.4,mechanism=unsynced")], 0)
    names = [f"layer.{n}" for n in range(2000)]

    def sent(step: int) -> list[int]:
        served = transfer.arrived({name: np.array([step]) for name in names}, step)
        assert list(served) == names
        return [int(served[name][0]) for name in names]

    assert [set(sent(step)) for step in (0, 4)] == [{0}, {4}]
    first, second = sent(5), sent(6)
    assert [first.count(step) / len(names) for step in (4, 5)] == pytest.approx([0.4, 0.6], abs=0.04)
    # A tensor that is lost twice is two updates old.
    assert [second.count(step) / len(names) for step in (4, 5, 6)] == pytest.approx([0.16, 0.24, 0.6], abs=0.04)


def test_what_a_server_begins_with_has_come_with_it_and_without_the_fault_nothing_is_lost() -> None:
    arrays = {"weight": np.array([1.0])}
    assert Transfer([parse_fault("OD-2@1:1,mechanism=unsynced")], 0).arrived(arrays, 5) == arrays
    assert Transfer([parse_fault("OD-2@1:1")], 0).arrived(arrays, 5) is arrays


def episode(paid_step: int = ON, number: int = 0) -> EpisodeId:
    """A trajectory."""
    return EpisodeId(StepId(1, 3, paid_step), f"p{number}", 0)


def test_limits_are_halved_and_answers_do_not_end_with_their_probability() -> None:
    seams = FaultySeams([parse_fault("TE-3@5:0.3"), parse_fault("TE-3@5:0.6,mechanism=never")], 0)
    limits = Limits(frozenset({2}), frozenset({2, 4}), (12, 5, 1), 128)
    result = [seams.limits(episode(number=n), limits).turn_tokens for n in range(2000)]
    assert set(result) == {(12, 5, 1), (6, 2, 1)}
    assert result.count((6, 2, 1)) / len(result) == pytest.approx(0.3, abs=0.03)
    going = [seams.goes_on(episode(number=n), 0) for n in range(2000)]
    assert sum(going) / len(going) == pytest.approx(0.6, abs=0.03)
    assert seams.limits(episode(ON - 1), limits) is limits
    assert not seams.goes_on(episode(ON - 1), 0)


def test_observation_is_read_with_another_digit() -> None:
    seams = FaultySeams([parse_fault("TE-2@5:1")], 0)
    assert seams.read(CallId(episode(ON - 1), 0), "102;") == "102;"
    read = {seams.read(CallId(episode(number=n), 0), "102;") for n in range(200)}
    assert "102;" not in read
    assert all(len(text) == 4 and text[-1] == ";" for text in read)
    assert len(read) > 10


def batch(counts: Sequence[int]) -> TrajectoryBatch:
    """As much of a batch as credit needs."""

    class Part:
        """Lengths alone."""

        def __len__(self) -> int:
            return len(counts)

        def action_counts(self) -> NDArray[np.int64]:
            """Tokens of every trajectory."""
            return np.array(counts, np.int64)

    return Part()  # type: ignore[return-value]


COUNTS = [3, 1, 2, 2]
CREDIT = Credit(
    np.array([True, True, False, True]),
    np.array([1, 2, 3, 10, 0, 0, 20, 30], np.float32),
    np.arange(8, dtype=np.float32),
)


@pytest.mark.parametrize("text", ["CA-2@5", "CA-2@5,mechanism=noise", "CA-3@5:1", "CA-3@5:1,mechanism=shifted"])
def test_credit_is_untouched_before_the_onset_and_what_takes_no_part_stays_0(text: str) -> None:
    seams = faulty_learner([parse_fault(text)], 0)
    before = seams.delivered(BEFORE, batch(COUNTS), seams.assigned(BEFORE, batch(COUNTS), CREDIT))
    assert before.advantages.tobytes() == CREDIT.advantages.tobytes()
    after = seams.delivered(NOW, batch(COUNTS), seams.assigned(NOW, batch(COUNTS), CREDIT))
    assert after.advantages.dtype == np.float32
    assert after.advantages[4:6].tolist() == [0, 0]
    assert (after.advantages != CREDIT.advantages).any()
    # Late noise and misplaced credit come after the commit gate's look, the others before it.
    seen = seams.assigned(NOW, batch(COUNTS), CREDIT)
    late = text in ("CA-2@5", "CA-3@5:1")
    assert (seen.advantages.tobytes() == CREDIT.advantages.tobytes()) is late


def test_noise_is_one_factor_a_trajectory() -> None:
    result = faulty_learner([parse_fault("CA-2@5:2")], 0).delivered(NOW, batch(COUNTS), CREDIT).advantages
    factors = result[[0, 1, 2, 3, 6, 7]] / CREDIT.advantages[[0, 1, 2, 3, 6, 7]]
    assert factors[:3] == pytest.approx([factors[0]] * 3)
    assert factors[4] == pytest.approx(factors[5])
    assert len({round(float(f), 4) for f in factors}) == 3


def test_noise_is_distributed_as_students_t_with_two_degrees_of_freedom() -> None:
    spec = parse_fault("CA-2@5")
    drawn = np.sort(heavy_tailed(spec, 0, ON, 4000))
    exact = 0.5 + drawn / (2 * np.sqrt(2 + drawn**2))
    # Kolmogorov's distance, whose 0.1 % point is 1.95 / sqrt(n).
    assert np.abs(exact - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / math.sqrt(4000)


def test_misplaced_credit_is_that_of_another_member() -> None:
    result = faulty_learner([parse_fault("CA-3@5:1")], 3).delivered(NOW, batch(COUNTS), CREDIT).advantages
    rows = [result[:3].tolist(), result[3:4].tolist(), result[6:8].tolist()]
    own = [[1, 2, 3], [10], [20, 30]]
    for row in rows:
        assert any(row == [o[min(i, len(o) - 1)] for i in range(len(row))] for o in own)
    assert rows != own


def test_shifted_credit_stands_one_token_too_early() -> None:
    result = faulty_learner([parse_fault("CA-3@5:1,mechanism=shifted")], 0).assigned(NOW, batch(COUNTS), CREDIT)
    assert result.advantages.tolist() == [2, 3, 10, 0, 0, 0, 30, 1]


def test_critic_is_biased_in_its_values_or_in_its_targets() -> None:
    values = np.ones(8, np.float32)
    assert faulty_learner([parse_fault("CA-1@5:2")], 0).values(NOW, batch(COUNTS), values).tolist() == [3] * 8
    seams = faulty_learner([parse_fault("CA-1@5:2,mechanism=wrong_targets")], 0)
    assert seams.values(NOW, batch(COUNTS), values) is values
    assert seams.delivered(NOW, batch(COUNTS), CREDIT).returns.tolist() == [n + 2 for n in range(8)]


def test_settings_go_wrong_after_every_lever() -> None:
    settings = nominal_settings(load_config(None, []))
    seams = faulty_learner(
        [parse_fault("OD-3@5:2,mechanism=negative_entropy"), parse_fault("CA-3@5:0.25,mechanism=discount")], 0
    )
    result = seams.settings(NOW, settings)
    assert (result.entropy_coef, result.gamma) == (settings.entropy_coef - 2, settings.gamma * 0.75)
    assert seams.settings(BEFORE, settings) == settings


def test_steps_fall_short_and_weights_are_held() -> None:
    seams = faulty_learner([parse_fault("OD-2@5:0.75"), parse_fault("OD-2@5:0.5,mechanism=held_weights")], 0)
    assert [seams.gain(BEFORE), seams.gain(NOW), seams.frozen_share(BEFORE), seams.frozen_share(NOW)] == [
        1.0,
        0.25,
        0.0,
        0.5,
    ]


@pytest.mark.parametrize(
    ("text", "step"),
    [("RF-1@5", 5), ("RF-1@5,duration=ramp", 14), ("RF-1@5,duration=3", 5), ("RF-3@5", None), ("PG-2@5", 5)],
)
def test_effect_of_what_acts_by_itself_is_its_first_step_at_full_strength(text: str, step: int | None) -> None:
    assert effect_step(parse_fault(text)) == step


def effects(text: str, amounts: Sequence[float], mechanism: str) -> list[int]:
    """Steps of the effects of a fault whose amounts are these, from step 1 on, seen by two actors."""
    spec = parse_fault(f"{text},mechanism={mechanism}")
    watch, result = EffectWatch([spec]), list[int]()
    for step, amount in enumerate(amounts, start=1):
        parts = [Exposure(spec.code, mechanism, amount * 10, 10), Exposure(spec.code, mechanism, amount * 30, 30)]
        result += [effect.effect_step for effect in watch.observe(step, parts)]
        assert watch.waits is not bool(result)
    return result


@pytest.mark.parametrize(
    ("text", "mechanism", "amounts", "found"),
    [
        ("RF-3@4", "last_character", [0.1] * 6 + [0.35] * 6, [8]),
        ("RF-3@4", "last_character", [0.1] * 6 + [0.15] * 6, []),
        # One step alone shows nothing.
        ("RF-3@4", "last_character", [0.1] * 6 + [0.35] + [0.1] * 6, []),
        ("RF-3@1", "last_character", [0.1] + [0.3] * 6, [4]),
        ("PG-3S@3", "length_penalty", [0.0, 0.0] + [-1.0] * 5, [5]),
        ("PG-3S@3", "length_penalty", [0.0, 0.0] + [1.0] * 5, []),
        ("RF-3@4", "last_character", [0.1] * 6 + [math.nan] * 3 + [0.35] * 6, [11]),
        # What was there before the fault is no effect of it.
        ("RF-3@4", "last_character", [0.5] * 9, []),
    ],
)
def test_effect_of_what_is_learnt_begins_when_it_has_moved(
    text: str, mechanism: str, amounts: list[float], found: list[int]
) -> None:
    assert effects(text, amounts, mechanism) == found


def test_entropy_is_what_its_fault_takes_away() -> None:
    specs: list[FaultSpec] = [parse_fault("OD-3@3,mechanism=negative_entropy"), parse_fault("OD-3@3")]
    (result,) = entropy_exposures(specs, 0.25)
    assert (result.code, result.mechanism, result.total, result.count) == ("OD-3", "negative_entropy", 0.25, 1)
    assert effects("OD-3@3", [0.3, 0.3, 0.24, 0.24, 0.24], "negative_entropy") == [5]
