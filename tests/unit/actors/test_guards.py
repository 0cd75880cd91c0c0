"""Monitor and controller as one: what goes from the one to the other, and who is told what an order has changed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from rftfm_ray.actors import guards as module
from rftfm_ray.actors import recovery
from rftfm_ray.actors.calls import Limit, Pending
from rftfm_ray.actors.guards import GuardGroup, start_guard
from rftfm_ray.actors.recovery import Recoverable
from rftfm_ray.actors.roles import Role
from rftfm_ray.config import load_config
from rftfm_ray.detection.detectors.custom import CustomDetector
from rftfm_ray.detection.reference.comparison import facts_of
from rftfm_ray.faults.background import dirty
from rftfm_ray.faults.drill import expanded
from rftfm_ray.incidents.messages import GuardTotals, News, OrderResult, Permit, Settlement
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import DeclaredChange, StepReport
from tests.unit.detection.user_detectors import Shift
from tests.unit.doubles import Actor, make_plan

STEP = StepId(0, 6, 6)
FOR_SEED_0 = dirty(0).minibatches
REPORTS = [StepReport(STEP, 6, ()), StepReport(StepId(0, 7, 7), 7, ())]
CHANGE = DeclaredChange("levers", 7, ("kl_ref",), "order 1: back")
ROLES = Role("run", "monitor", 0, ""), Role("run", "controller", 0, "")


class Journey:
    """What was waited for: the calls in order; `answers` are their results by the name of the method."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Pending[Any]] = []
        self.limits: list[Limit] = []
        self.answers: dict[str, Any] = {}
        monkeypatch.setattr(module, "wait_for", self._wait)
        monkeypatch.setattr(recovery, "wait_for", self._wait)

    def _wait(self, calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[Any]:
        self.calls += calls
        self.limits.append(limit)
        return [self.answers.get(cast("Any", call.reference)[1]) for call in calls]

    @property
    def made(self) -> list[Any]:
        """Who was asked for what."""
        return [call.reference for call in self.calls]


@pytest.fixture
def journey(monkeypatch: pytest.MonkeyPatch) -> Journey:
    return Journey(monkeypatch)


@pytest.fixture
def group() -> GuardGroup:
    monitor, controller = (Recoverable(role, lambda role=role: Actor(role.kind)) for role in ROLES)  # type: ignore[misc]
    return GuardGroup(monitor, controller)


def test_assessments_go_from_the_monitor_to_the_controller_by_reference(group: GuardGroup, journey: Journey) -> None:
    journey.answers = {"consider": News(())}
    assert group.judge(REPORTS, 30.0) == News(())
    assert journey.made == [("monitor", "assess", REPORTS), ("controller", "consider", ("monitor", "assess", REPORTS))]
    assert [call.role.name for call in journey.calls] == ["monitor-0", "controller-0"], "either may be to blame"
    assert journey.limits[1].seconds > 2 * 30, "a policy may take its time for each of them"


@pytest.mark.parametrize("rewound_to", [None, 5])
def test_monitor_is_told_what_an_order_has_changed_once_that_is_journalled(
    group: GuardGroup, journey: Journey, rewound_to: int | None
) -> None:
    settlement = Settlement((), CHANGE, rewound_to)
    journey.answers, result = {"done": settlement}, OrderResult(0.5)
    assert group.done(1, STEP, result) == settlement
    assert journey.made == [("controller", "done", 1, STEP, result), ("monitor", "changed", CHANGE, rewound_to)]
    assert [call.role.name for call in journey.calls] == ["controller-0", "monitor-0"]


def test_monitor_is_not_told_of_an_order_that_failed(group: GuardGroup, journey: Journey) -> None:
    journey.answers = {"done": Settlement(())}
    group.done(1, STEP, OrderResult(0.5, "it broke"))
    assert [call[0] for call in journey.made] == ["controller"]


def test_controller_is_asked_before_an_order_and_at_both_ends_of_a_run(group: GuardGroup, journey: Journey) -> None:
    permit = Permit((), Order(3, 1, OrderRole.REMEDY, "retry", "because", Levers(tool_retries=2)))
    totals = GuardTotals()
    journey.answers = {"begin": permit, "finish": totals}
    group.attach(Path("journal.jsonl"), STEP, Levers(), "remembered")
    assert group.begin(3, STEP, 0.25, 200) == permit
    assert group.finish(STEP, Limit(30.0)) == totals
    assert journey.made == [
        ("controller", "attach", "journal.jsonl", STEP, Levers(), "remembered"),
        ("controller", "state"),
        ("controller", "begin", 3, STEP, 0.25, 200),
        ("controller", "finish", STEP),
    ]
    assert journey.limits[-1] == Limit(30.0)


def test_guard_is_made_of_settings_that_name_no_drill(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    def create(kind: type, role: Role, *arguments: object) -> Actor:
        made.append((kind.__name__, role, *arguments))
        return Actor(role.name)

    monkeypatch.setattr(module, "_create", create)
    overrides = ["guard.mode=act", "guard.act_on=[OD,TE]", "inject=[OD-1@12:30,lr_step@7:0.5]"]
    start_guard(make_plan(load_config(None, overrides), policy=Playbook()))
    assert [(kind, role.name) for kind, role, *_ in made] == [
        ("MonitorActor", "monitor-0"), ("ControllerActor", "controller-0"),
    ]  # fmt: skip
    assert made[1][1].detail == "mode=act, act_on=OD+TE, policy=playbook"
    assert "OD-1" not in repr([arguments for _, _, *arguments in made])
    assert "lr_step" not in repr([arguments for _, _, *arguments in made])


def test_guard_sees_of_a_background_its_minibatches_and_precision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def create(kind: type, role: Role, *arguments: object) -> Actor:
        made.append(re.sub(r" at 0x\w+", "", repr((role, arguments))))
        return Actor(role.name)

    monkeypatch.setattr(module, "_create", create)
    config = load_config(None, ["guard.mode=act", "background.preset=dirty", "task.name=calculator"])
    ordinary = load_config(
        None,
        ["guard.mode=act", "task.name=calculator", "sync.dtype=bfloat16", f"algorithm.minibatches={FOR_SEED_0}"],
    )
    policy = Playbook()
    for each in (expanded(config), ordinary):
        start_guard(make_plan(each, policy=policy))
    assert expanded(config).background.is_on
    assert made[:2] == made[2:]
    assert len(made) == 4
    assert facts_of(expanded(config)) == facts_of(ordinary)
    assert {"sync.dtype": "bfloat16", "algorithm.minibatches": FOR_SEED_0}.items() <= facts_of(ordinary).items()
    assert not [key for key in facts_of(expanded(config)) if "background" in key]


def test_monitor_has_the_detectors_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    def create(kind: type, role: Role, *arguments: object) -> Actor:
        made.append((role, *arguments))
        return Actor(role.name)

    monkeypatch.setattr(module, "_create", create)
    plain, mine = make_plan(load_config(None, []), policy=Playbook()), CustomDetector(Shift())
    start_guard(plain)
    start_guard(replace(plain, detectors=(mine,)))
    (before, *_), _, (role, watched, _), _ = made
    assert watched.detectors == (mine,)
    assert watched.build().active[-1] == mine.name
    assert int(role.detail.removeprefix("detectors=")) == int(before.detail.removeprefix("detectors=")) + 1
