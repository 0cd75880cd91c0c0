"""Actors that outlive a run: who may follow on whom, and that nothing of the run before is left in them."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from rftfm_ray.actors import group as group_module
from rftfm_ray.actors import learner as learner_module
from rftfm_ray.actors import rollout as rollout_module
from rftfm_ray.actors import warm as warm_module
from rftfm_ray.actors.group import ActorGroup, reset_group
from rftfm_ray.actors.learner import LearnerActor, engine_key
from rftfm_ray.actors.roles import Role
from rftfm_ray.actors.warm import WarmActors, actors_key
from rftfm_ray.config import RolloutConfig, RunConfig, load_config
from rftfm_ray.errors import LearnerError, PlacementError, RolloutError
from rftfm_ray.faults.catalogue import FaultSpec, parse_fault
from rftfm_ray.faults.twins import parse_twin
from rftfm_ray.models import ASSETS
from rftfm_ray.planning import RunPlan
from rftfm_ray.rollout import engine as engine_module
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.training import learner as training_module
from rftfm_ray.training.learner import Learner
from rftfm_ray.types import Levers, Position, Sampling, StepId

TINY = str(ASSETS / "tiny")
SAMPLED = Sampling(1.0, 1.0)
POOL, HELDOUT = tuple(Calculator().pool(8, 0)), tuple(Calculator().heldout()[:8])
OTHERS = [
    "rollout.num_actors=2", "rollout.max_num_seqs=128", "rollout.max_model_len=64", "rollout.kv_cache_mib=32",
    "rollout.block_size=64", "model.path=builtin:small", "model.dtype=bfloat16", "placement.cpus_per_rollout=2",
    "placement.gpus_per_learner=1",
]  # fmt: skip
SAME = [
    "seed=9", "steps=7", "task.name=calculator", "algorithm.name=ppo", "algorithm.samples_per_prompt=4",
    "learner.lr=1e-5", "rollout.temperature=0.5", "rollout.top_p=0.9", "rollout.tool_retries=2", "guard.mode=off",
    "probe.size=64", "snapshots.keep=1", "inject=[RF-1@1:2]", "channels.replay_rate=1",
]  # fmt: skip


@pytest.mark.parametrize("override", OTHERS)
def test_run_that_needs_another_model_engine_or_place_needs_other_actors(override: str) -> None:
    assert actors_key(load_config(None, [override])) != actors_key(RunConfig())


@pytest.mark.parametrize("override", SAME)
def test_run_that_differs_in_what_a_reset_sets_can_follow(override: str) -> None:
    assert load_config(None, [override]) != RunConfig()
    assert actors_key(load_config(None, [override])) == actors_key(RunConfig())


def test_everything_that_the_engine_reads_is_part_of_what_actors_share() -> None:
    tree = ast.parse(Path(engine_module.__file__).read_text(encoding="utf-8"))
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    read = {node.attr for node in attributes if ast.unparse(node.value) == "config"}
    changed = {override.partition("=")[0].removeprefix("rollout.") for override in OTHERS}
    assert "max_model_len" in read <= set(RolloutConfig.model_fields)
    assert read <= changed, "no case above tells whether this is part of the key"


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ([], ["seed=3", "steps=9", "guard.mode=off", "algorithm.kl_coef=0.5", "snapshots.keep=1"], True),
        ([], ["algorithm.name=rloo"], True),
        ([], ["critic.lr=1e-4"], True),
        ([], ["algorithm.name=ppo"], False),
        (["algorithm.name=ppo"], ["algorithm.name=ppo", "critic.lr=1e-4"], False),
        ([], ["algorithm.kl_coef=0"], False),
        ([], ["learner.lr=1e-5"], False),
        ([], ["learner.zero_stage=1"], False),
        ([], ["model.path=builtin:small"], False),
    ],
    ids=lambda part: "+".join(part) if isinstance(part, list) else "",
)
def test_engine_and_reference_are_shared_where_they_are_the_same(
    first: list[str], second: list[str], shared: bool
) -> None:
    keys = [engine_key(load_config(None, overrides)) for overrides in (first, second)]
    assert (keys[0] == keys[1]) is shared


class Group:
    """Stands in for a group of actors."""

    def __init__(self, run: str) -> None:
        self.runs = [run]
        self.stopped = 0

    def stop(self) -> None:
        """Count it."""
        self.stopped += 1


class Starter:
    """Stands in for starting and resetting groups. `failing` is what the next of them raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[Group] = []
        self.told: list[tuple[Any, ...]] = []
        self.failing: BaseException | None = None
        monkeypatch.setattr(warm_module, "start_group", self.start)
        monkeypatch.setattr(warm_module, "reset_group", self.reset)

    def start(self, run: str, *arguments: Any, reusable: bool) -> Group:
        self._fail()
        assert reusable
        self.told.append((run, *arguments))
        self.groups.append(Group(run))
        return self.groups[-1]

    def reset(self, group: Group, run: str, *arguments: Any) -> Group:
        self._fail()
        self.told.append((run, *arguments))
        group.runs.append(run)
        return group

    def _fail(self) -> None:
        failing, self.failing = self.failing, None
        if failing is not None:
            raise failing


def planned(name: str, *overrides: str, faults: tuple[FaultSpec, ...] = ()) -> RunPlan:
    """A plan of a run of the calculator."""
    config = load_config(None, ["task.name=calculator", "channels.golden_size=2", *overrides])
    facts, nobody = cast("Any", SimpleNamespace(path=Path(TINY))), cast("Any", None)
    return RunPlan(name, config, Path(name), Calculator(), POOL, HELDOUT, facts, None, faults, nobody, None)


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> Starter:
    return Starter(monkeypatch)


def test_next_run_is_made_on_the_same_actors_where_it_can_be(starter: Starter) -> None:
    spike = (parse_fault("RF-1@1:2"),)
    plans = [planned("a"), planned("b", "seed=5", faults=spike), planned("c", "rollout.max_num_seqs=64"), planned("d")]
    with WarmActors() as warm:
        taken = [cast("Any", warm.take(plan)) for plan in plans]
        assert [group.stopped for group in starter.groups] == [1, 1, 0]
    assert [group.runs for group in starter.groups] == [["a", "b"], ["c"], ["d"]]
    assert [group.stopped for group in starter.groups] == [1, 1, 1], "the last one ends with the block"
    assert taken == [starter.groups[n] for n in (0, 0, 1, 2)]


def test_new_and_reset_actors_are_told_the_same_of_a_run(starter: Starter) -> None:
    spike = (parse_fault("RF-1@1:2"),)
    slow = (parse_twin("slow_tool@3"),)
    first, second = planned("a"), dataclasses.replace(planned("b", "seed=5", faults=spike), twins=slow)
    with WarmActors() as warm:
        warm.take(first)
        warm.take(second)
    problems, golden = [*POOL, *HELDOUT], HELDOUT[:2]
    assert starter.told == [
        ("a", first.config, TINY, first.task, problems, (), (), golden),
        ("b", second.config, second.task, problems, spike, slow, golden),
    ]


def test_an_interrupt_while_actors_are_reset_ends_them(starter: Starter) -> None:
    warm = WarmActors()
    warm.take(planned("a"))
    starter.failing = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        warm.take(planned("b"))
    assert [group.stopped for group in starter.groups] == [1]
    warm.take(planned("b"))
    assert [group.runs for group in starter.groups] == [["a"], ["b"]]


def test_actors_that_have_died_are_ended_and_made_anew(starter: Starter, caplog: pytest.LogCaptureFixture) -> None:
    warm = WarmActors()
    warm.take(planned("a"))
    starter.failing = RolloutError("an actor died")
    warm.take(planned("b"))
    assert [group.stopped for group in starter.groups] == [1, 0]
    assert [group.runs for group in starter.groups] == [["a"], ["b"]]
    assert "an actor died" in caplog.text


def test_actors_that_could_not_be_started_leave_nothing_behind(starter: Starter) -> None:
    warm = WarmActors()
    warm.take(planned("a"))
    starter.failing = PlacementError("there is no room")
    with pytest.raises(PlacementError):
        warm.take(planned("b", "rollout.max_num_seqs=64"))
    assert [group.stopped for group in starter.groups] == [1]
    warm.close()
    warm.close()
    assert [group.stopped for group in starter.groups] == [1]


class Method:
    """A remote method that says what it was called with."""

    def __init__(self, actor: str, name: str) -> None:
        self._called = (actor, name)

    def remote(self, *arguments: object) -> tuple[object, ...]:
        return (*self._called, *arguments)


class Handle:
    """Stands in for the handle of an actor."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Method:
        return Method(self._name, method)


def test_reset_reaches_every_actor_in_its_own_role_before_it_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[tuple[Any, ...]] = []

    def wait(references: Sequence[tuple[Any, ...]], timeout_s: float, doing: str) -> list[tuple[Any, ...]]:
        waited.extend(references)
        return list(references)

    monkeypatch.setattr(group_module, "wait_for", wait)
    config, task, faults = load_config(None, ["rollout.num_actors=2", "seed=4"]), Addition(), [parse_fault("RF-1@1:2")]
    old = ActorGroup(Handle("learner"), [Handle("first"), Handle("second")], ((1, 2),), cast("Any", "place"))
    twins = [parse_twin("slow_tool@3")]
    new = reset_group(old, "next", config, task, POOL, faults, twins, HELDOUT)
    assert [(actor, verb) for actor, verb, *_ in waited] == [
        ("learner", "reset"), ("first", "reset"), ("second", "reset"),
        ("first", "prepare"), ("learner", "snapshot_steps"), ("second", "prepare"),
    ]  # fmt: skip
    roles = [call[2] for call in waited[:3]]
    assert [role.actor_name for role in roles] == ["next/learner-0", "next/rollout-0", "next/rollout-1"]
    assert waited[0][3:] == (config, faults)
    assert [call[3:] for call in waited[1:3]] == [(config, task, faults, twins)] * 2
    assert (new.learner, new.rollouts, new.placement) == (old.learner, old.rollouts, old.placement)
    assert new.parity == waited[3], "those of the run before belong to its prompts"


class Mute:
    """Stands in for a gauge: Ray is not there."""

    def __init__(self, *arguments: object) -> None:
        pass

    def set(self, *arguments: object) -> None:
        pass


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors in this process: no gauges, and the process keeps its name."""
    for module in (rollout_module, learner_module):
        monkeypatch.setattr(module, "rename_process", lambda role: None)
        monkeypatch.setattr(module, "StateGauge", Mute)


class Engine:
    """Stands in for DeepSpeed: one number, which learning moves."""

    def __init__(self) -> None:
        self.weight = torch.zeros(1)

    def state(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight.clone()}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.weight = tensors["weight"].clone()


class Light(Learner):
    """A learner without a model."""

    made = 0

    def __init__(self, config: RunConfig, model_path: str, *rest: Any) -> None:
        Light.made += 1
        assert model_path == TINY
        self.engine = cast("Any", Engine())
        self.begin(config, *rest)


MakeLearner = Callable[..., LearnerActor]
TOO_FAST, TOO_FAR = parse_fault("OD-1@1:30,mechanism=schedule"), parse_fault("OD-1@1:10,mechanism=gain")
FIRST = ["steps=20", "seed=1", "learner.lr=0.5"]


@pytest.fixture
def make_learner(quiet: None, monkeypatch: pytest.MonkeyPatch) -> MakeLearner:
    """Makes learner actors in this process: `make_learner(fault, ..., reusable=True)`, on the configuration FIRST."""
    monkeypatch.setattr(training_module, "Learner", Light)
    monkeypatch.setattr(Light, "made", 0)

    def make(*faults: FaultSpec, reusable: bool = True) -> LearnerActor:
        return LearnerActor(Role("old", "learner", 0, ""), load_config(None, FIRST), TINY, faults, reusable=reusable)

    return make


def reset(actor: LearnerActor, *faults: FaultSpec, overrides: Sequence[str] = ("seed=2",)) -> Any:
    """Begin another run on the actor; gives what it learns with."""
    actor.reset(Role("next", "learner", 0, ""), load_config(None, [*FIRST, *overrides]), faults)
    return actor._learner


def use(actor: LearnerActor) -> None:
    """What a run leaves behind: moved weights, levers, a gate that knows norms, a snapshot, spent random numbers."""
    learner = actor._learner
    cast("Any", learner.engine).weight += 1
    learner.gate.restore([3.0, 4.0])
    actor.set_levers(Levers(lr_scale=0.1))
    actor.take_snapshot(Position(StepId(0, 5, 5), 5, 80))
    torch.rand(3)


def test_learner_begins_anew_on_the_model_that_it_has(make_learner: MakeLearner) -> None:
    actor = make_learner()
    for seed in (2, 3):
        use(actor)
        learner = reset(actor, overrides=[f"seed={seed}"])
        assert learner.engine.weight.tolist() == [0.0]
        assert (learner.levers, learner.gate.norms, actor.snapshot_steps()) == (Levers(), (), ())
        drawn = torch.rand(3)
        assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(seed)))
        assert repr(actor).startswith("learner-0(run=next")
    assert Light.made == 1


def test_learner_has_the_faults_of_its_own_run_only(make_learner: MakeLearner) -> None:
    actor, step = make_learner(TOO_FAST), StepId(0, 3, 3)
    assert actor._learner.settings(step).lr == pytest.approx(0.5 * 30)
    learner = reset(actor)
    assert (learner.settings(step).lr, learner._seams.gain(step)) == (0.5, 1.0)
    learner = reset(actor, TOO_FAR)
    assert (learner.settings(step).lr, learner._seams.gain(step)) == (0.5, 10.0)
    learner = reset(actor, TOO_FAST)
    assert (learner.settings(step).lr, learner._seams.gain(step)) == (pytest.approx(0.5 * 30), 1.0)


def test_learner_goes_by_the_settings_of_its_own_run(make_learner: MakeLearner) -> None:
    actor, step = make_learner(), StepId(0, 3, 3)
    overrides = ["algorithm.clip_low=0.5", "snapshots.keep=1", "gate.grad_norm_window=2", "guard.mode=off"]
    learner = reset(actor, overrides=overrides)
    assert learner.settings(step).clip_low == 0.5
    assert not learner._watched
    learner.gate.restore([1.0, 2.0, 3.0])
    assert learner.gate.norms == (2.0, 3.0)
    for n in (1, 2):
        actor.take_snapshot(Position(StepId(0, n, n), n, 0))
    assert actor.snapshot_steps() == (2,)
    assert reset(actor)._watched
    assert Light.made == 1


def test_learner_that_needs_another_engine_gets_one_and_its_first_state(make_learner: MakeLearner) -> None:
    actor = make_learner()
    use(actor)
    learner = reset(actor, overrides=["learner.weight_decay=0.1"])
    assert (Light.made, learner.engine.weight.tolist()) == (2, [0.0])
    use(actor)
    learner = reset(actor, overrides=["learner.weight_decay=0.1", "seed=7"])
    assert (Light.made, learner.engine.weight.tolist()) == (2, [0.0])
    reset(actor)
    assert Light.made == 3


def test_learner_that_keeps_no_first_state_cannot_be_reset(make_learner: MakeLearner) -> None:
    actor = make_learner(reusable=False)
    with pytest.raises(LearnerError, match=r"learner-0 has not kept its first state; create it with reusable=True\."):
        reset(actor)
