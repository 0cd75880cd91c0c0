"""Levers of generation against the faults that they undo: terms of the sampler, tokens, the clean path, masks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import pytest

from rftfm_ray.batch import TrajectoryBatch, seals
from rftfm_ray.config import ChannelsConfig
from rftfm_ray.errors import RewardError
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.episodes import FaultySeams
from rftfm_ray.faults.sampler import faulty_sampler
from rftfm_ray.faults.tools import faulty_tools
from rftfm_ray.rollout.asking import Masks, asked_sampling, masks_of
from rftfm_ray.rollout.channels import EpisodeId, Grader, TaskReward, ToolPool, task_tools
from rftfm_ray.rollout.checks import Checks
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.environment import Channels
from rftfm_ray.rollout.episodes import EpisodeRules, EpisodeRunner, ServedModel
from rftfm_ray.rollout.jobs import EpisodeJob, step_jobs
from rftfm_ray.signals.schema import verifier_error_rate
from rftfm_ray.tasks.addition import problem
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.telemetry.features import batch_metrics
from rftfm_ray.types import Levers, Sampling, StepId, Termination
from tests.unit.doubles import Characters

NOW, DECLARED = StepId(0, 5, 5), Sampling(0.7, 1.0)
JOBS = step_jobs([problem(12, 34, 10 + n) for n in range(4)], 4)
END = 0
ALL = ChannelsConfig(replay_rate=1.0)


class Talking:
    """Stands in for vLLM: calls the calculator and answers; remembers what it was asked for."""

    def __init__(self) -> None:
        self._queue: list[TurnResult] = []
        self.asked: list[tuple[TurnRequest, Sampling]] = []

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        self.asked.append((dataclasses.replace(request, tokens=tuple(request.tokens)), sampling))
        asked, _, rest = Characters().decode(request.tokens).partition("=")
        seen = rest.split(";")[-2] if rest.endswith(";") else str(sum(map(int, asked.split("+"))))
        text = f"{seen}\0" if rest or request.seed % 3 == 0 else f"c{asked};"
        cut = len(text) > request.max_tokens
        tokens = Characters().encode(text[: request.max_tokens])
        self._queue.append(TurnResult(request.id, tokens, [-1.0] * len(tokens), cut))

    def step(self) -> Iterable[TurnResult]:
        done, self._queue = self._queue, []
        return done

    def busy(self) -> bool:
        return bool(self._queue)


def runner_of(*faults: str, settings: ChannelsConfig | None = ALL) -> tuple[EpisodeRunner, Talking]:
    """A runner of the calculator with faults in every part of its way, and the engine behind them."""
    specs, task, engine = [parse_fault(text) for text in faults], Calculator(), Talking()
    pool = ToolPool(task, faulty_tools(task_tools(task), specs, 1))
    checks = None if settings is None else Checks(task, settings, 1)
    channels = Channels(pool, Grader(task, TaskReward(task), 1, 0.0), checks)
    model = ServedModel(faulty_sampler(engine, specs, 1, (END,)), Characters(), 128, engine)
    return EpisodeRunner(model, task, EpisodeRules(1), channels, FaultySeams(specs, 1, ("7", "8"))), engine


def play(
    *faults: str, levers: Levers | None = None, jobs: list[EpisodeJob] = JOBS, settings: ChannelsConfig | None = ALL
) -> tuple[TrajectoryBatch, Talking]:
    """A batch under faults and levers, and the engine with what it was asked for."""
    runner, engine = runner_of(*faults, settings=settings)
    runner.set_levers(levers or Levers())
    return runner.run(jobs, NOW, DECLARED, 7), engine


def is_as_declared(sampling: Sampling) -> bool:
    """Whether the sampler draws from the declared distribution; a bias of 0 is none."""
    bias = all(nats == 0 for _, nats in sampling.logit_bias)
    near = math.isclose(sampling.temperature, DECLARED.temperature, rel_tol=1e-12)
    return bias and near and dataclasses.replace(sampling, logit_bias=(), temperature=0.7) == DECLARED


INVERSES = [
    ("PG-1@5:15", Levers(end_bias=-15.0)),
    ("PG-3L@5:27", Levers(end_bias=27.0)),
    ("OD-3@5:0.7", Levers(temperature_scale=1 / 0.3)),
    ("OD-3@5:0.7,mechanism=colder", Levers(temperature_scale=1 / 0.3)),
    *(
        (text, Levers(rollout_path=1))
        for text in (
            "PG-1@5:15", "PG-1@5:1,mechanism=blank", "PG-2@5:10", "PG-3S@5:12", "PG-3L@5:27", "OD-3@5:0.7",
            "PG-3L@5:1,mechanism=min_tokens",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "levers"), INVERSES)
def test_inverse_restores_what_the_sampler_was_declared_with(fault: str, levers: Levers) -> None:
    broken = [sampling for _, sampling in play(fault)[1].asked]
    assert not any(map(is_as_declared, broken))
    mended, clean = play(fault, levers=levers)[1].asked, play()[1].asked
    assert all(is_as_declared(sampling) for _, sampling in mended)
    assert [request for request, _ in mended] == [request for request, _ in clean]


def test_shorter_answers_lose_their_bias_and_keep_their_least_token() -> None:
    _, sampling = play("PG-3S@5:12", levers=Levers(end_bias=-12.0))[1].asked[0]
    assert is_as_declared(dataclasses.replace(sampling, min_tokens=0))
    assert sampling.min_tokens == 1


def test_greedy_answers_and_nominal_levers_are_asked_as_ever() -> None:
    greedy = [dataclasses.replace(job, greedy=True) for job in JOBS[:2]]
    _, engine = play(jobs=greedy, levers=Levers(temperature_scale=2.0, end_bias=3.0))
    assert {sampling for _, sampling in engine.asked} == {Sampling(0.0, 1.0)}
    assert asked_sampling(DECLARED, Levers(), (END,)) is DECLARED
    biased = dataclasses.replace(DECLARED, logit_bias=((END, 2.0), (7, 1.0)))
    found = asked_sampling(biased, Levers(temperature_scale=2.0, end_bias=-0.5), (END, 3))
    assert found == Sampling(1.4, 1.0, logit_bias=((END, 1.5), (7, 1.0), (3, -0.5)))


CUTS = ["TE-3@5:1", "PG-3S@5:1,mechanism=token_cap", "TE-3@5:0.5,mechanism=all_limits"]


@pytest.mark.parametrize("fault", CUTS)
def test_twice_the_tokens_undo_half_of_them_and_the_source_shows_on(fault: str) -> None:
    clean, broken = play()[0], play(fault)[0]
    assert (broken.termination == Termination.MAX_TOKENS).any()
    assert not (clean.termination == Termination.MAX_TOKENS).any()
    mended = play(fault, levers=Levers(tokens_scale=2.0))[0]
    np.testing.assert_array_equal(mended.tokens, clean.tokens)
    np.testing.assert_array_equal(mended.termination, clean.termination)
    assert mended.termination_ok.all()
    if "token_cap" in fault:
        assert not mended.turn_limit_excess.any()
    else:
        assert mended.turn_limit_excess == pytest.approx(math.log(0.5), abs=0.1)


def test_limits_of_an_episode_stay_what_they_were_when_the_lever_moves() -> None:
    runner, engine = runner_of("TE-3@5:1")
    first = runner.run(JOBS, NOW, DECLARED, 7)
    assert (first.termination == Termination.MAX_TOKENS).any()
    runner.set_levers(Levers(tokens_scale=2.0))
    again = runner.revise(NOW)
    assert again.termination_ok.all()
    np.testing.assert_array_equal(again.tokens, first.tokens)
    declared = engine.asked[0][0].max_tokens
    engine.asked.clear()
    runner.run(JOBS, NOW, DECLARED, 7)
    assert engine.asked[0][0].max_tokens == 2 * declared


def test_path_moves_back_with_its_lever() -> None:
    runner, engine = runner_of("PG-2@5:10")
    for path, declared in ((None, False), (1, True), (0, False), (1, True), (None, False)):
        engine.asked.clear()
        runner.set_levers(Levers(rollout_path=path))
        runner.run(JOBS, NOW, DECLARED, 7)
        assert all(is_as_declared(sampling) is declared for _, sampling in engine.asked)


MASKS = [
    ("TE-2@5:0.5", Levers(mask_undecoded=1)),
    ("TE-2@5:0.5,mechanism=crossed", Levers(mask_undecoded=1)),
    ("TE-2@5:0.5,mechanism=source", Levers(mask_unreplayed=1)),
    ("TE-3@5:0.5,mechanism=early", Levers(mask_unreplayed=1)),
    ("PG-3S@5:0.5,mechanism=token_cap", Levers(mask_truncated=1)),
    ("TE-3@5:0.5", Levers(mask_truncated=1)),
]


@pytest.mark.parametrize(("fault", "levers"), MASKS)
def test_mask_keeps_what_a_fault_has_spoiled_out_of_the_loss_and_counts_it(fault: str, levers: Levers) -> None:
    clean, broken, masked = play()[0], play(fault)[0], play(fault, levers=levers)[0]
    assert broken.valid.all()
    assert not broken.masked.any()
    spoiled = ~broken.correct
    assert 0 < spoiled.sum() < len(spoiled)
    np.testing.assert_array_equal(masked.masked, spoiled)
    np.testing.assert_array_equal(masked.valid, ~spoiled)
    np.testing.assert_array_equal(masked.tokens, broken.tokens)
    # It has a verdict, and its seal says that it takes no part.
    np.testing.assert_array_equal(masked.reward, broken.reward)
    np.testing.assert_array_equal(masked.seal, seals(masked))
    figures, usual = batch_metrics(masked, 40), batch_metrics(clean, 40)
    assert figures.failed_rate == pytest.approx(spoiled.mean())
    assert figures.valid_rate == pytest.approx(1 - spoiled.mean())
    assert verifier_error_rate(figures.valid_rate, figures.failed_rate) == 0
    assert (figures.correct_rate, usual.correct_rate) == (1.0, 1.0)


@pytest.mark.parametrize("levers", [Levers(mask_undecoded=1), Levers(mask_unreplayed=1), Levers(mask_truncated=1)])
def test_mask_leaves_a_healthy_batch_alone(levers: Levers) -> None:
    batch = play(levers=levers)[0]
    assert batch.valid.all()
    assert not batch.masked.any()


def test_mask_by_replay_looks_at_every_episode() -> None:
    few = ChannelsConfig(replay_rate=0.1)
    fault = "TE-2@5:1,mechanism=source"
    assert play(fault, settings=few)[0].replayed.sum() < 8
    batch = play(fault, settings=few, levers=Levers(mask_unreplayed=1))[0]
    called = np.bincount(batch.call_trajectory, minlength=len(batch)) > 0
    np.testing.assert_array_equal(batch.replayed, called)
    np.testing.assert_array_equal(batch.masked, ~batch.correct)


def test_mask_takes_effect_on_the_batch_that_is_revised() -> None:
    runner, _ = runner_of("TE-2@5:0.5")
    assert runner.run(JOBS, NOW, DECLARED, 7).valid.all()
    runner.set_levers(Levers(mask_undecoded=1))
    assert not runner.revise(NOW).valid.all()
    runner.set_levers(Levers())
    assert runner.revise(NOW).valid.all()


def test_mask_without_checks_still_decodes_and_replays_nothing() -> None:
    batch = play("TE-2@5:0.5", settings=None, levers=Levers(mask_undecoded=1))[0]
    np.testing.assert_array_equal(batch.masked, ~batch.correct)
    source = play("TE-2@5:0.5,mechanism=source", settings=None, levers=Levers(mask_unreplayed=1))[0]
    assert source.valid.all()


def test_failure_is_no_finding_of_a_mask() -> None:
    every = Levers(mask_undecoded=1, mask_unreplayed=1, mask_truncated=1)
    batch = play("TE-1@5:0.5", levers=every)[0]
    failed = batch.termination == Termination.FAILED
    assert failed.any()
    assert not batch.masked.any()
    np.testing.assert_array_equal(batch.valid, ~failed)


def test_masks_are_those_of_the_levers() -> None:
    assert masks_of(Levers()) == masks_of(Levers(mask_truncated=0)) == Masks()
    assert masks_of(Levers(mask_undecoded=1, mask_unreplayed=0)) == Masks(undecoded=True)
    assert masks_of(Levers(mask_unreplayed=1, mask_truncated=1)) == Masks(unreplayed=True, truncated=True)


def test_answer_without_a_verdict_is_no_finding_of_a_mask() -> None:
    runner, _ = runner_of("TE-3@5:1")
    runner.set_levers(Levers(mask_truncated=1))
    cut = runner.run(JOBS, NOW, DECLARED, 7).masked
    runner._channels.grader._channel = unavailable
    batch = runner.revise(NOW)
    assert cut.any()
    assert not batch.masked.any()
    assert not batch.valid.any()


def unavailable(episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
    """A reward function that fails."""
    raise RewardError("The verifier is down.")


@pytest.mark.parametrize("fault", ["PG-1@5:1,mechanism=answered_prompt", "PG-3S@5:1,mechanism=begun_prompt"])
def test_clean_path_takes_prompts_from_the_problems_themselves(fault: str) -> None:
    usual, _ = play()
    spoiled, _ = play(fault)
    mended, _ = play(fault, levers=Levers(rollout_path=1))
    assert not np.array_equal(spoiled.prompt_length, usual.prompt_length)
    np.testing.assert_array_equal(mended.prompt_length, usual.prompt_length)
    np.testing.assert_array_equal(mended.tokens, usual.tokens)
