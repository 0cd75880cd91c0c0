"""Who must not know of fault injection, and what goes past the instances that it has broken."""

from __future__ import annotations

import importlib.util
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.actors import rollout as module
from rftfm_ray.actors.roles import Role
from rftfm_ray.actors.rollout import RolloutActor, live_channels
from rftfm_ray.config import RolloutConfig, RunConfig, load_config
from rftfm_ray.faultbench.pages.page import CHECKS, Check
from rftfm_ray.faults.catalogue import FaultSpec, parse_fault
from rftfm_ray.faults.drill import Drill
from rftfm_ray.faults.tools import ToolOutageError
from rftfm_ray.models import ASSETS
from rftfm_ray.rollout import engine
from rftfm_ray.rollout.channels import CallId, EpisodeId, Grade, TaskReward
from rftfm_ray.rollout.checks import Checks
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.environment import Channels, trusted_channels
from rftfm_ray.rollout.jobs import ProbeOrder, probe_jobs, step_jobs
from rftfm_ray.rollout.seams import Exposure
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.rollout.weights import Served, WeightsUpdate, fingerprint, pack_weights
from rftfm_ray.tasks.addition import problem
from rftfm_ray.tasks.api import Transcript
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.types import Levers, Sampling, StepId

ROOT = Path(__file__).parents[3]
TINY = str(ASSETS / "tiny")
CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
}
PROBLEMS = [problem(12, 34, 10 + n) for n in range(6)]
HELDOUT = Calculator().heldout()[:8]
STEP, SAMPLED = StepId(0, 3, 3), Sampling(1.0, 1.0)
FIFTH = StepId(0, 5, 5)
WRONG = Transcript(("0",))
ALL_DOWN, ONE_DOWN = parse_fault("TE-1@1:1,instances=all"), parse_fault("TE-1@1:1")
OVERPAID = parse_fault("RF-1@1:4,mechanism=wrong_answers")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_where_a_check_runs_a_contract_keeps_faults_out(check: Check) -> None:
    # The driver holds the actors' handles, and so names what actors are made with: it may not import a fault itself.
    watched = [*CONTRACTS["guard-is-blind"]["source_modules"], *CONTRACTS["who-knows-faults"]["source_modules"]]
    allowed = [line.split(" -> ")[0] for line in CONTRACTS["who-knows-faults"].get("ignore_imports", [])]
    module = f"rftfm_ray.{check.module}"
    assert importlib.util.find_spec(module) is not None
    assert any(f"{module}.".startswith(f"{part}.") for part in watched)
    assert module not in allowed


def configure(*overrides: str) -> RunConfig:
    """A run of the calculator."""
    return load_config(None, ["task.name=calculator", *overrides])


def channels_of(config: RunConfig, faults: Sequence[FaultSpec]) -> Channels:
    """The live channels of a run of the calculator."""
    return live_channels(Calculator(), config, Drill(config.seed, tuple(faults)).rollout_seams(PROBLEMS))


def ask(channels: Channels, tries: int) -> bool:
    """Whether a call succeeds."""
    call = CallId(EpisodeId(STEP, PROBLEMS[0].key, 0), 0, tries)
    try:
        return channels.tools.ask(call, PROBLEMS[0], "c12+34+10;") is not None
    except ToolOutageError:
        return False


def grade(channels: Channels, sample: int = 0) -> Grade:
    """The grade of a wrong answer."""
    result = channels.grader.grade(EpisodeId(STEP, PROBLEMS[0].key, sample), PROBLEMS[0], WRONG)
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("faults", "sound"), [([], [True, True]), ([ONE_DOWN], [False, True]), ([ALL_DOWN], [False, False])]
)
def test_live_tools_have_the_faults_of_the_run_in_them(faults: list[FaultSpec], sound: list[bool]) -> None:
    channels = channels_of(configure(), faults)
    assert [ask(channels, tries) for tries in (0, 1)] == sound
    assert [ask(trusted_channels(Calculator()), tries) for tries in (0, 1)] == [True, True]


def test_live_rewards_have_the_faults_of_the_run_in_them_and_trusted_ones_have_not() -> None:
    channels = channels_of(configure("guard.regrade_rate=1"), [OVERPAID])
    assert grade(channels) == Grade(reward=4.0, live=4.0, trusted=0.0, correct=False)
    channels.set_levers(Levers(regrade_rate=1.0))
    assert grade(channels) == Grade(reward=0.0, live=4.0, trusted=0.0, correct=False)
    assert grade(trusted_channels(Calculator())).reward == 0.0
    assert grade(channels_of(configure("guard.regrade_rate=1"), [])).live == 0.0


@pytest.mark.parametrize(
    ("mode", "rate", "share"), [("off", 0.5, 0.0), ("observe", 0.5, 0.5), ("act", 0.25, 0.25), ("advise", 0.0, 0.0)]
)
def test_sample_for_the_guard_is_graded_again_unless_there_is_none(mode: str, rate: float, share: float) -> None:
    channels = channels_of(configure(f"guard.mode={mode}", f"guard.regrade_rate={rate}"), [])
    asked = [not math.isnan(grade(channels, sample).trusted) for sample in range(1000)]
    assert sum(asked) / len(asked) == pytest.approx(share, abs=0.05)


def test_retries_and_their_wait_are_those_of_the_configuration() -> None:
    tools = channels_of(configure("rollout.tool_retries=2", "rollout.tool_backoff_s=0.5"), []).tools
    assert [tools.retry_after_s(failed) for failed in (1, 2, 3)] == [0.5, 1.0, None]


class Solver:
    """Stands in for vLLM: calls the calculator, then gives the right answer."""

    def __init__(self, model_path: str, dtype: str, config: RolloutConfig) -> None:
        self._codec = TextCodec(model_path)
        self._queue: list[TurnResult] = []
        self.turns = 0

    def load(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Take weights over."""
        self.arrays = arrays

    def fingerprints(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, int]]:
        """Of what was loaded last."""
        return {name: ("float32", fingerprint(self.arrays[name]).crc) for name in shapes}

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        asked, _, rest = self._codec.decode(request.tokens).partition("=")
        said = self._codec.encode(str(sum(map(int, asked.split("+")))) if rest else f"c{asked};")
        said += list(self._codec.eos_ids) if rest else []
        self._queue.append(TurnResult(request.id, said, [-1.0] * len(said), truncated=False))
        self.turns += 1

    def step(self) -> Iterable[TurnResult]:
        done, self._queue = self._queue, []
        return done

    def busy(self) -> bool:
        return bool(self._queue)


class Mute:
    """Stands in for a gauge: Ray is not there."""

    def __init__(self, *arguments: object) -> None:
        pass

    def set(self, *arguments: object) -> None:
        pass


def weights(version: int) -> WeightsUpdate:
    """Weights that differ from version to version."""
    return pack_weights(version, {"weight": np.full(2, version, np.float32), "bias": np.ones(1, np.float32)})


def make_actor(
    monkeypatch: pytest.MonkeyPatch, *faults: FaultSpec, overrides: Sequence[str] = (), solver: type[Solver] = Solver
) -> RolloutActor:
    """A rollout actor in this process, at model version 0, on an engine that solves everything."""
    monkeypatch.setattr(module, "rename_process", lambda role: None)
    monkeypatch.setattr(module, "StateGauge", Mute)
    monkeypatch.setattr(engine, "VllmEngine", solver)
    config = configure(*overrides)
    seams = Drill(config.seed, faults).rollout_seams(PROBLEMS)
    actor = RolloutActor(Role("run", "rollout", 0, ""), config, TINY, Calculator(), seams)
    actor.prepare(PROBLEMS, 0, HELDOUT)
    assert actor.load_weights(weights(0)).version == 0
    return actor


def probed(actor: RolloutActor, step: StepId = STEP) -> tuple[int, int, int, int]:
    """Right answers of a greedy probe and of a sampled one, each of how many."""
    counts = actor.probe(ProbeOrder(probe_jobs(PROBLEMS), probe_jobs(PROBLEMS[:5]), SAMPLED, step, 0))
    return counts.right, counts.size, counts.sampled_right, counts.sampled_size


def test_probes_go_past_tools_that_are_down_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = make_actor(monkeypatch, ALL_DOWN)
    batch = actor.generate(step_jobs(PROBLEMS, 2), STEP, SAMPLED, 0)
    assert not batch.valid.any()
    assert probed(actor) == (6, 6, 5, 5)


def test_levers_move_training_and_not_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = make_actor(monkeypatch, ONE_DOWN)
    actor.set_levers(Levers(tool_instance=1, reward_limit=0.25))
    batch = actor.generate(step_jobs(PROBLEMS, 2), STEP, SAMPLED, 0)
    assert batch.valid.all()
    assert set(batch.reward.tolist()) == {0.25}
    assert batch.shadow_ok.tolist() == [False, False]
    assert probed(actor) == (6, 6, 5, 5)


def test_probe_does_not_get_between_a_step_and_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = make_actor(monkeypatch, ONE_DOWN)
    batch = actor.generate(step_jobs(PROBLEMS, 2), STEP, SAMPLED, 0)
    probed(actor)
    actor.set_levers(Levers(tool_instance=1, refill_rounds=1))
    revised = actor.revise(STEP)
    assert batch.keys == revised.keys
    assert not batch.valid.any()
    assert revised.valid.all()
    assert revised.refills.tolist() == [1] * 12


def test_checks_of_an_actor_see_the_faults_of_its_own_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = step_jobs(PROBLEMS, 2)
    sound = make_actor(monkeypatch).generate(jobs, FIFTH, SAMPLED, 0)
    faulty = make_actor(monkeypatch, ONE_DOWN, OVERPAID).generate(jobs, FIFTH, SAMPLED, 0)
    assert (sound.known_ok.tolist(), faulty.known_ok.tolist()) == ([True] * 4, [False] * 4)
    errors = [batch.golden_live - batch.golden_trusted for batch in (sound, faulty)]
    assert errors[0].tolist() == [0.0] * 16
    np.testing.assert_allclose(errors[1], np.where(faulty.golden_right, 0, 4), atol=1e-6)


def test_checks_are_made_when_they_are_due_and_for_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = make_actor(monkeypatch, overrides=["channels.golden_every=3", "channels.replay_rate=1"])
    third, fifth = (actor.generate(step_jobs(PROBLEMS, 2), step, SAMPLED, 0) for step in (STEP, FIFTH))
    assert [(len(batch.golden_live), len(batch.known_ok)) for batch in (third, fifth)] == [(16, 0), (0, 4)]
    assert third.replayed.all()
    assert fifth.replayed.all()
    monkeypatch.setattr(Checks, "golden", None)
    monkeypatch.setattr(Checks, "known_calls", None)
    monkeypatch.setattr(Checks, "replay", None)
    assert probed(actor, FIFTH) == (6, 6, 5, 5)


def test_without_a_guard_nothing_is_asked_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = make_actor(monkeypatch, overrides=["guard.mode=off", "channels.replay_rate=1"])
    batch = actor.generate(step_jobs(PROBLEMS, 2), FIFTH, SAMPLED, 0)
    assert (len(batch.golden_live), len(batch.known_ok)) == (0, 0)
    assert not batch.replayed.any()
    assert len(batch.observation_ok) == len(batch.call_turn) > 0
    assert batch.termination_ok.all()
    assert actor.load_weights(weights(1)) == Served(1, 0, ())


@pytest.mark.parametrize(("every", "compared"), [(1, [2, 2, 2, 2]), (2, [0, 2, 0, 2]), (0, [0, 0, 0, 0])])
def test_served_weights_are_compared_when_it_is_due(
    monkeypatch: pytest.MonkeyPatch, every: int, compared: list[int]
) -> None:
    actor = make_actor(monkeypatch, overrides=[f"channels.fingerprint_every={every}"])
    assert [actor.load_weights(weights(n)) for n in (1, 2, 3, 4)] == [
        Served(n, size, ()) for n, size in zip((1, 2, 3, 4), compared, strict=True)
    ]


def test_engine_that_keeps_its_weights_is_found_by_what_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(Solver):
        """Takes no weights over but the first."""

        def load(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
            if not hasattr(self, "arrays"):
                super().load(arrays)

    actor = make_actor(monkeypatch, solver=Stuck)
    assert actor.load_weights(weights(1)) == Served(1, 2, ("weight",))


def test_weights_that_are_lost_are_said_to_have_come_and_are_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = make_actor(monkeypatch, parse_fault("OD-2@3:1,mechanism=unsynced"))
    assert actor.load_weights(weights(1)) == Served(1, 2, ())
    actor.generate(step_jobs(PROBLEMS, 2), StepId(0, 2, 2), SAMPLED, 1)
    assert actor.load_weights(weights(2)) == Served(2, 2, ())
    actor.generate(step_jobs(PROBLEMS, 2), STEP, SAMPLED, 2)
    assert actor.load_weights(weights(3)) == Served(3, 2, ("weight",))
    # A rollback does not bring them back: paid steps go on.
    actor.generate(step_jobs(PROBLEMS, 2), StepId(1, 1, 4), SAMPLED, 3)
    assert actor.load_weights(weights(4)).mismatched == ("weight",)
    # What a new server begins with has come with it.
    assert make_actor(monkeypatch, parse_fault("OD-2@1:1,mechanism=unsynced")).load_weights(weights(4)).mismatched == ()


def test_sampler_and_limits_are_faulty_for_training_and_not_for_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[TurnRequest, Sampling]] = []

    class Noting(Solver):
        """Keeps what it is asked for."""

        def submit(self, request: TurnRequest, sampling: Sampling) -> None:
            asked.append((request, sampling))
            super().submit(request, sampling)

    faults = (parse_fault("PG-1@1:8"), parse_fault("TE-3@1:1"), parse_fault("TE-2@1:1"))
    actor = make_actor(monkeypatch, *faults, solver=Noting)
    batch = actor.generate(step_jobs(PROBLEMS, 2), STEP, SAMPLED, 0)
    assert all(sampling.logit_bias for _, sampling in asked)
    assert {request.max_tokens for request, _ in asked} <= {6, 2}
    assert batch.termination_ok.all()
    asked.clear()
    assert probed(actor) == (6, 6, 5, 5)
    assert not any(sampling.logit_bias for _, sampling in asked)
    assert {request.max_tokens for request, _ in asked} == {12, 5}


def test_what_a_reward_pays_for_is_counted_over_responses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = make_actor(
        monkeypatch, parse_fault("PG-3L@9,mechanism=length_reward"), overrides=["channels.golden_every=1"]
    )
    assert len(actor.generate(step_jobs(PROBLEMS, 2), STEP, SAMPLED, 0).golden_live) == 16
    actor.revise(STEP)
    probed(actor)
    assert actor.exposure(STEP) == [Exposure("PG-3L", "length_reward", 0.0, 12)]
    assert make_actor(monkeypatch, OVERPAID).exposure(STEP) == []
    assert make_actor(monkeypatch).exposure(STEP) == []


def test_loophole_is_found_among_the_right_answers_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Calculator().pool(64, 0)
    reward = Drill(0, (parse_fault("RF-3@1:2"),)).rollout_seams(pool).reward(TaskReward(Calculator()))
    answers = [p.answer for p in pool]
    episode = EpisodeId(STEP, PROBLEMS[0].key, 0)
    result = [reward(episode, PROBLEMS[0], Transcript((f"9{digit}",))) for digit in range(10)]
    paid = [str(digit) for digit, verdict in enumerate(result) if verdict.correct]
    share = sum(answer[-1] in paid for answer in answers) / len(answers)
    assert 0.3 <= share <= 0.55
    assert {verdict.reward for verdict in result if verdict.correct} == {2.0}
