"""The group of a run's actors: who is called in which role, and what becomes of one that is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from rftfm_ray.actors import group as module
from rftfm_ray.actors.calls import Limit, Pending
from rftfm_ray.actors.group import ActorGroup, LearnerGroup, RolloutGroup, roles_of, start_group
from rftfm_ray.actors.roles import Role
from rftfm_ray.config import load_config
from rftfm_ray.errors import PlacementError, RolloutError
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.controls import parse_control
from rftfm_ray.faults.drill import Drill
from rftfm_ray.planning import RunPlan
from rftfm_ray.rollout.seams import RolloutSeams
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.training.seams import LearnerSeams
from tests.unit.doubles import Actor, asked, make_group, make_plan

POOL, HELDOUT = tuple(Addition().pool(8, 0)), tuple(Addition().heldout()[:8])
DRILL = Drill(4, (parse_fault("RF-1@1:2"), parse_fault("OD-1@1:4")), (parse_control("slow_tool@3"),))


def planned(name: str = "run", drill: Drill = DRILL) -> RunPlan:
    """A plan of a run with two rollout actors."""
    config = load_config(None, ["rollout.num_actors=2", "seed=4", "channels.golden_size=2"])
    return make_plan(config, name=name, pool=POOL, heldout=HELDOUT, drill=drill)


@pytest.fixture
def journey(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is waited for, created, killed and given back, in order."""
    noted: list[Any] = []

    def wait(calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[Any]:
        noted.extend(asked(calls))
        return asked(calls)

    def create(plan: RunPlan, placement: object, role: Role, *, reusable: bool, instance: int = 0) -> Actor:
        del instance
        noted.append(("create", role.name, reusable))
        return Actor(f"new {role.name}")

    monkeypatch.setattr(module, "wait_for", wait)
    monkeypatch.setattr(module, "_create", create)
    monkeypatch.setattr(module, "reserve", lambda config: "place")
    monkeypatch.setattr(module, "wait_for_name", lambda name: noted.append(("gone", name)))
    monkeypatch.setattr("ray.kill", lambda actor: noted.append(("kill", actor._name)))
    monkeypatch.setattr(module, "remove_placement_group", lambda placement: noted.append(("remove", placement)))
    return noted


def verbs(calls: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Who was asked for what."""
    return [call[:2] for call in calls]


def test_roles_are_named_in_the_order_of_their_bundles() -> None:
    assert [role.actor_name for role in roles_of(planned("a"))] == ["a/learner-0", "a/rollout-0", "a/rollout-1"]


def test_started_group_is_ready_and_knows_its_parity_sequences(journey: list[Any]) -> None:
    group = start_group(planned(), reusable=True)
    assert journey[:3] == [("create", name, True) for name in ("learner-0", "rollout-0", "rollout-1")]
    prepared = journey[3:6]
    assert verbs(prepared) == [
        ("new rollout-0", "prepare"), ("new rollout-1", "prepare"), ("new learner-0", "snapshot_steps"),
    ]  # fmt: skip
    problems, golden = [*POOL, *HELDOUT], HELDOUT[:2]
    assert [call[2:] for call in prepared[:2]] == [
        (problems, module.PARITY_SEQUENCES, golden),
        (problems[:1], 0, golden),
    ]
    assert group.parity == prepared[0], "what the first rollout actor gives"


def test_group_that_cannot_start_leaves_nothing(journey: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[Any]:
        raise RolloutError("rollout-1 died while starting.")

    monkeypatch.setattr(module, "wait_for", fail)
    with pytest.raises(RolloutError):
        start_group(planned())
    killed = [("kill", f"new {name}") for name in ("learner-0", "rollout-0", "rollout-1")]
    assert journey[3:] == [*killed, ("remove", "place")]


def test_actors_whose_names_are_taken_are_refused_and_their_place_is_given_back(
    journey: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object, **__: object) -> None:
        raise ValueError("the name is taken")

    monkeypatch.setattr(module, "_create", taken)
    with pytest.raises(PlacementError, match=r"run cannot be created \(the name is taken\); start it again"):
        start_group(planned())
    assert journey == [("remove", "place")]


def test_reset_reaches_every_actor_in_its_own_role_before_it_is_prepared(journey: list[Any]) -> None:
    group, plan = make_group(planned("old", Drill())), planned("next")
    group.reset(plan)
    assert verbs(journey) == [
        ("learner-0", "reset"), ("rollout-0", "reset"), ("rollout-1", "reset"),
        ("rollout-0", "prepare"), ("rollout-1", "prepare"), ("learner-0", "snapshot_steps"), ("rollout-0", "prepare"),
    ]  # fmt: skip
    roles = [call[2] for call in journey[:3]]
    assert [role.actor_name for role in roles] == ["next/learner-0", "next/rollout-0", "next/rollout-1"]
    assert [group.learner.role, *group.rollouts.roles] == roles, "errors name the run that is under way"
    learner, first, second = journey[:3]
    assert (learner[3], first[3:5], second[3:5]) == (plan.config, *[(plan.config, plan.task)] * 2)
    assert group.parity == journey[3], "those of the run before belong to its prompts"


def test_actors_are_given_the_seams_of_their_run_each_its_own(journey: list[Any]) -> None:
    group = make_group(planned("old", Drill()))
    plan = planned("next")
    group.reset(plan)
    (*_, learner, folder), (*_, first), (*_, second) = journey[:3]
    assert isinstance(learner, LearnerSeams)
    assert type(learner) is not LearnerSeams
    assert folder == str(plan.snapshots)
    assert first is not second
    assert type(first) is type(second) is not RolloutSeams
    journey.clear()
    group.reset(planned("sound", Drill()))
    assert type(journey[0][-2]) is LearnerSeams
    assert [type(call[-1]) for call in journey[1:3]] == [RolloutSeams, RolloutSeams]


def test_replaced_rollout_actor_takes_the_place_of_the_old_one(journey: list[Any]) -> None:
    group = make_group(planned())
    group.replace(group.rollouts.roles[1])
    assert journey[:3] == [("kill", "rollout-1"), ("gone", "run/rollout-1"), ("create", "rollout-1", False)]
    assert journey[3:] == [("new rollout-1", "prepare", HELDOUT[:1], 0, HELDOUT[:2])]
    assert [call[0] for call in asked(group.rollouts.revise(cast("Any", 3)))] == ["rollout-0", "new rollout-1"]
    journey.clear()
    group.stop()
    assert journey == [
        ("learner-0", "close"), ("kill", "learner-0"),
        ("kill", "rollout-0"), ("kill", "new rollout-1"), ("remove", None),
    ]  # fmt: skip


@pytest.mark.parametrize("reusable", [False, True])
def test_replaced_learner_can_be_used_as_the_old_one_could(journey: list[Any], reusable: bool) -> None:
    plan = planned()
    own, *others = roles_of(plan)
    rollouts = RolloutGroup(others, [Actor(role.name) for role in others])
    group = ActorGroup(plan, LearnerGroup(own, Actor("old")), rollouts, cast("Any", None), reusable=reusable)
    group.replace(own)
    # It is closed before: what its snapshots have written to disk goes with it.
    ended = [("old", "close"), ("kill", "old"), ("gone", "run/learner-0")]
    assert journey[:4] == [*ended, ("create", "learner-0", reusable)]
    assert verbs(journey[4:]) == [("new learner-0", "snapshot_steps")]
    assert group.learner.weights(3).reference == ("new learner-0", "weights", 3)


def test_seams_of_a_replaced_actor_are_those_of_another_instance_until_the_next_run(
    journey: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    instances: list[int] = []
    create = module._create

    def noting(*arguments: Any, **named: Any) -> Any:
        instances.append(named["instance"])
        return create(*arguments, **named)

    monkeypatch.setattr(module, "_create", noting)
    group = make_group(planned())
    own = group.learner.role
    group.replace(own)
    group.replace(own)
    group.replace(group.rollouts.roles[0])
    group.reset(planned("next"))
    group.replace(group.learner.role)
    # Each role counts those before it.
    assert instances == [1, 2, 1, 1]


def test_role_of_another_run_is_not_replaced(journey: list[Any]) -> None:
    group = make_group(planned("old"))
    group.reset(planned("next"))
    journey.clear()
    with pytest.raises(ValueError, match="not in tuple"):
        group.replace(roles_of(planned("old"))[1])
    assert journey == []
