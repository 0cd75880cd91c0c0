"""A rollout actor that is reset makes the trajectories that a new one makes, whatever it has made before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.actors import rollout as module
from rftfm_ray.actors.roles import Role
from rftfm_ray.actors.rollout import RolloutActor
from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RolloutConfig, RunConfig, load_config
from rftfm_ray.errors import ConfigError, SyncError
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.drill import Drill
from rftfm_ray.models import ASSETS
from rftfm_ray.rollout import engine
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.jobs import ProbeOrder, probe_jobs, step_jobs
from rftfm_ray.rollout.seams import RolloutSeams
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.rollout.weights import Served, WeightsUpdate, fingerprint, pack_weights
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Task
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.types import Levers, Sampling, StepId

TINY = str(ASSETS / "tiny")
STEP, SAMPLED = StepId(0, 5, 5), Sampling(1.0, 1.0)


class Seeded:
    """Stands in for vLLM: whether it calls the calculator, and what it answers, comes of the request's seed."""

    made = 0

    def __init__(self, model_path: str, dtype: str, config: RolloutConfig) -> None:
        Seeded.made += 1
        self._codec = TextCodec(model_path)
        self._queue: list[TurnResult] = []

    def load(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Take weights over."""
        self.arrays = arrays

    def fingerprints(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, int]]:
        """Of what was loaded last."""
        return {name: ("float32", fingerprint(self.arrays[name]).crc) for name in shapes}

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        asked, _, rest = self._codec.decode(request.tokens).partition("=")
        calls = not rest and asked.count("+") == 2 and request.seed % 4 > 0
        said = self._codec.encode(f"c{asked};" if calls else str(sum(map(int, asked.split("+"))) + request.seed % 3))
        said += [] if calls else list(self._codec.eos_ids[:1])
        self._queue.append(TurnResult(request.id, said, [-(request.seed % 7) / 7] * len(said), truncated=False))

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


@dataclasses.dataclass(frozen=True)
class Run:
    """What a rollout actor is told of a run."""

    name: str
    task: Task
    config: RunConfig
    drill: Drill

    def seams(self) -> RolloutSeams:
        """What a rollout actor of it is given."""
        return self.drill.rollout_seams(self.task.pool(self.config.task.pool_size, self.config.seed))


def run(name: str, *overrides: str, faults: Sequence[str] = (), task: type[Task] = Calculator) -> Run:
    """A run of a task, with faults as they are written for `inject`."""
    config = load_config(None, [f"task.name={task.name}", "guard.regrade_rate=0.5", *overrides])
    return Run(name, task(), config, Drill(config.seed, tuple(map(parse_fault, faults))))


SOUND = run("sound", "seed=1", "channels.golden_every=1", "channels.replay_rate=0.5", "channels.fingerprint_every=2")
FAULTY = run("faulty", "seed=2", "rollout.tool_retries=1", faults=["TE-1@1:0.5,instances=all", "RF-1@1:2"])
BLIND = run("blind", "seed=3", "guard.mode=off", faults=["RF-1@1:2,mechanism=wrong_answers"])
OTHER = run("other", "seed=4", task=Addition)
RUNS = (SOUND, FAULTY, BLIND, OTHER)


def weights(version: int) -> WeightsUpdate:
    """Weights of a version."""
    return pack_weights(version, {"weight": np.full(2, version, np.float32)})


MakeActor = Callable[[Run], RolloutActor]


@pytest.fixture
def make_actor(monkeypatch: pytest.MonkeyPatch) -> MakeActor:
    """Makes a rollout actor of a run in this process, on an engine that is no engine."""
    monkeypatch.setattr(module, "rename_process", lambda role: None)
    monkeypatch.setattr(module, "StateGauge", Mute)
    monkeypatch.setattr(engine, "VllmEngine", Seeded)
    monkeypatch.setattr(Seeded, "made", 0)
    return lambda of: RolloutActor(Role(of.name, "rollout", 0, ""), of.config, TINY, of.task, of.seams())


def reset(actor: RolloutActor, to: Run) -> RolloutActor:
    """Begin a run on an actor that is there."""
    actor.reset(Role(to.name, "rollout", 0, ""), to.config, to.task, to.seams())
    return actor


def made(actor: RolloutActor, of: Run) -> dict[str, Any]:
    """Everything that an actor gives away in a step of its run, but times."""
    problems = of.task.pool(8, 0)
    prepared = actor.prepare(problems, 2, of.task.heldout()[:4])
    served = [actor.load_weights(weights(version)) for version in (1, 2)]
    batch = actor.generate(step_jobs(problems, 8), STEP, SAMPLED, 2)
    revised = actor.revise(STEP)
    probed = actor.probe(ProbeOrder(probe_jobs(problems), probe_jobs(problems[:4]), SAMPLED, STEP, 2))
    return {
        "name": repr(actor), "parity": prepared, "served": served, "batch": columns(batch), "revised": columns(revised),
        "probed": dataclasses.replace(probed, seconds=0.0),
    }  # fmt: skip


def columns(batch: TrajectoryBatch) -> dict[str, Any]:
    """The columns of a batch as lists, without the times of its calls."""
    found = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    del found["call_latency_s"]
    return {name: np.asarray(column).tolist() for name, column in found.items()}


def spend(actor: RolloutActor, of: Run) -> None:
    """A run that ends in the middle of something: levers moved, weights of a later version, a step not revised."""
    actor.prepare(of.task.pool(8, 0), 2, of.task.heldout()[:4])
    actor.load_weights(weights(7))
    actor.set_levers(Levers(tool_instance=1, reward_limit=0.25, regrade_rate=1.0, tool_retries=3, refill_rounds=2))
    actor.generate(step_jobs(of.task.pool(8, 1), 4), STEP, SAMPLED, 7)


@pytest.mark.parametrize("after", RUNS, ids=lambda r: f"then-{r.name}")
@pytest.mark.parametrize("before", RUNS, ids=lambda r: r.name)
def test_reset_actor_makes_what_a_new_one_makes(make_actor: MakeActor, before: Run, after: Run) -> None:
    used = make_actor(before)
    spend(used, before)
    np.testing.assert_equal(made(reset(used, after), after), made(make_actor(after), after))
    assert Seeded.made == 2, "the engine of the reset one is the one that it had"


def test_runs_that_are_compared_are_told_apart_by_what_they_make(make_actor: MakeActor) -> None:
    batches = [made(make_actor(of), of)["batch"] for of in RUNS]
    for name in ("tokens", "reward", "logprobs"):
        assert len({repr(batch[name]) for batch in batches}) == len(RUNS), name
    sound, faulty, blind, _ = batches
    assert (len(sound["golden_live"]), len(blind["golden_live"])) == (8, 0)
    assert all(sound["valid"])
    assert 0 < sum(faulty["valid"]) < len(faulty["valid"])
    assert set(faulty["call_tries"]) == {1, 2}
    assert max(sound["reward"]) == 1.0 < max(faulty["live_reward"])


def test_reset_actor_serves_nothing_before_it_is_given_weights(make_actor: MakeActor) -> None:
    actor = make_actor(SOUND)
    actor.prepare(SOUND.task.pool(8, 0), 0, ())
    actor.load_weights(weights(3))
    jobs = step_jobs(SOUND.task.pool(2, 0), 2)
    assert len(actor.generate(jobs, STEP, SAMPLED, 3)) == 4
    reset(actor, FAULTY)
    for asked in (lambda: actor.generate(jobs, STEP, SAMPLED, 3), lambda: actor.score([[1, 2]], 3)):
        with pytest.raises(SyncError, match="rollout-0 holds model version -1 and was asked for 3"):
            asked()


def test_reset_actor_revises_no_step_of_the_run_before(make_actor: MakeActor) -> None:
    actor = make_actor(SOUND)
    spend(actor, SOUND)
    reset(actor, SOUND)
    with pytest.raises(ValueError, match="the last batch is not that of"):
        actor.revise(STEP)


def test_reset_actor_checks_prompts_against_the_task_of_its_own_run(make_actor: MakeActor) -> None:
    actor = make_actor(OTHER)
    actor.prepare(OTHER.task.pool(8, 0), 0, ())
    narrow = run("narrow", "rollout.max_model_len=16")
    reset(actor, narrow)
    with pytest.raises(ConfigError, match=r"task calculator takes .* more than rollout\.max_model_len=16"):
        actor.prepare(narrow.task.pool(8, 0), 0, ())


def test_reset_actor_compares_weights_as_often_as_its_own_run_asks(make_actor: MakeActor) -> None:
    actor = make_actor(run("each", "channels.fingerprint_every=1"))
    assert actor.load_weights(weights(1)) == Served(1, 1, ())
    assert reset(actor, BLIND).load_weights(weights(1)) == Served(1, 0, ())
    assert reset(actor, SOUND).load_weights(weights(2)) == Served(2, 1, ())
