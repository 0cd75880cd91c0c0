"""Actors that outlive a run: who may follow on whom, and who ends them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, cast

import pytest

from rftfm_ray.actors import warm as warm_module
from rftfm_ray.actors.learner import engine_key
from rftfm_ray.actors.warm import WarmActors, actors_key
from rftfm_ray.config import RolloutConfig, RunConfig, load_config
from rftfm_ray.errors import PlacementError, RolloutError
from rftfm_ray.planning import RunPlan
from rftfm_ray.rollout import engine as engine_module
from tests.unit.doubles import make_plan

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
    """Stands in for a group of actors: the runs that were made on it."""

    def __init__(self, starter: Starter, plan: RunPlan) -> None:
        self._starter = starter
        self.plans = [plan]
        self.stopped = 0

    @property
    def runs(self) -> list[str]:
        """Their names."""
        return [plan.name for plan in self.plans]

    def reset(self, plan: RunPlan) -> None:
        """Begin another run."""
        self._starter.fail()
        self.plans.append(plan)

    def stop(self) -> None:
        """Count it."""
        self.stopped += 1


class Starter:
    """Stands in for starting groups. `failing` is what the next start or reset raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[Group] = []
        self.failing: BaseException | None = None
        monkeypatch.setattr(warm_module, "start_group", self.start)

    def start(self, plan: RunPlan, *, reusable: bool) -> Group:
        self.fail()
        assert reusable
        self.groups.append(Group(self, plan))
        return self.groups[-1]

    def fail(self) -> None:
        failing, self.failing = self.failing, None
        if failing is not None:
            raise failing


def planned(name: str, *overrides: str) -> RunPlan:
    """A plan of a run."""
    return make_plan(load_config(None, list(overrides)), name=name)


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> Starter:
    return Starter(monkeypatch)


def test_next_run_is_made_on_the_same_actors_where_it_can_be(starter: Starter) -> None:
    plans = [planned("a"), planned("b", "seed=5"), planned("c", "rollout.max_num_seqs=64"), planned("d")]
    with WarmActors() as warm:
        taken = [cast("Any", warm.take(plan)) for plan in plans]
        assert [group.stopped for group in starter.groups] == [1, 1, 0]
    assert [group.runs for group in starter.groups] == [["a", "b"], ["c"], ["d"]]
    assert [group.stopped for group in starter.groups] == [1, 1, 1], "the last one ends with the block"
    assert taken == [starter.groups[n] for n in (0, 0, 1, 2)]
    assert [plan for group in starter.groups for plan in group.plans] == plans


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
