"""The monitor and the controller of a run, called by typed methods. No other module calls them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rftfm_ray.actors.calls import Limit, Pending, wait_for
from rftfm_ray.actors.controller import ControllerActor
from rftfm_ray.actors.group import START
from rftfm_ray.actors.monitor import MonitorActor
from rftfm_ray.actors.placement import actor_options
from rftfm_ray.actors.roles import Role
from rftfm_ray.detection.monitor import monitor_plan
from rftfm_ray.incidents.messages import GuardTotals, News, OrderResult, Permit, Settlement
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.planning import RunPlan
from rftfm_ray.policies.loading import PLAYBOOK
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import Assessment, Declaration, StepReport

T = TypeVar("T")
Assessed = tuple[Assessment | Declaration, ...]

# Judging a report takes a millisecond; longer than this is a hang.
JUDGE_S = 60.0
ANSWER = Limit(60.0)


class GuardGroup:
    """Monitor and controller. They take no CPU and live on the driver's node, whose disk they use."""

    def __init__(self, roles: tuple[Role, Role], monitor: ActorHandle, controller: ActorHandle) -> None:
        self._monitor_role, self._controller_role = roles
        self._monitor = monitor
        self._controller = controller

    def attach(self, journal: Path, start: StepId, levers: Levers) -> None:
        """Wait until both can work; the controller opens its journal, with the levers in force.

        Raises:
            RftfmError: when one of them cannot start.
        """
        attached: Pending[None] = self._of_controller(self._controller.attach.remote(str(journal), start, levers))
        wait_for([attached], START, "starting")

    def judge(self, items: Sequence[StepReport | Declaration], policy_timeout_s: float) -> News:
        """Judge reports and declared changes, in their order. The policy has its time limit for each of them.

        Raises:
            RftfmError: when monitor or controller has died.
        """
        # The assessments go from actor to actor; only the news comes back here.
        assessed: Pending[Assessed] = self._of_monitor(self._monitor.assess.remote(items))
        call = self._controller.consider.remote(assessed.reference)
        judged: Pending[News] = self._of_controller(call, assessed)
        return wait_for([judged], Limit(JUDGE_S + policy_timeout_s * len(items)), "judging a step")[0]

    def note_probe(self, step: StepId, accuracy: float) -> None:
        """Journal the held-out accuracy before the first step, without waiting."""
        self._controller.note_probe.remote(step, accuracy)

    def note_late(self, step: StepId, waited_s: float) -> None:
        """Journal that a verdict came after its boundary, without waiting."""
        self._controller.note_late.remote(step, waited_s)

    def begin(self, number: int, step: StepId, probed: float) -> Permit:
        """Journal that an order is about to be carried out, or why it is not.

        Raises:
            RftfmError: when that could not be journalled; the order must not be carried out.
        """
        permit: Pending[Permit] = self._of_controller(self._controller.begin.remote(number, step, probed))
        return wait_for([permit], ANSWER, f"beginning order {number}")[0]

    def done(self, number: int, step: StepId, result: OrderResult) -> Settlement:
        """Journal the result of an order, and declare its change to the monitor.

        Raises:
            RftfmError: when one of them has died; the state of the run is then unknown.
        """
        ended: Pending[Settlement] = self._of_controller(self._controller.done.remote(number, step, result))
        settlement = wait_for([ended], ANSWER, f"ending order {number}")[0]
        if settlement.change is not None:
            taken: Pending[None] = self._of_monitor(
                self._monitor.changed.remote(settlement.change, settlement.rewound_to)
            )
            wait_for([taken], ANSWER, f"taking in what order {number} has changed")
        return settlement

    def finish(self, last: StepId, limit: Limit) -> GuardTotals:
        """End the journal; returns the totals of the run's guard.

        Raises:
            RftfmError: when the controller has died.
        """
        totals: Pending[GuardTotals] = self._of_controller(self._controller.finish.remote(last))
        return wait_for([totals], limit, "ending the journal")[0]

    def stop(self) -> None:
        """End both. Safe to call twice."""
        for actor in (self._monitor, self._controller):
            ray.kill(actor)

    def _of_monitor(self, reference: ObjectRef[T]) -> Pending[T]:
        return Pending(reference, self._monitor_role)

    def _of_controller(self, reference: ObjectRef[T], *inputs: Pending[object]) -> Pending[T]:
        return Pending(reference, self._controller_role, inputs)


def start_guard(plan: RunPlan) -> GuardGroup:
    """Create monitor and controller of a run, to start beside the other actors. They do not know its drill."""
    config, guard = plan.config, plan.config.guard
    watched, incidents = monitor_plan(config, plan.profile, plan.detectors), incident_settings(config)
    fallback = Playbook() if guard.fallback == "playbook" and guard.policy is not None else None
    policy = SafePolicy(plan.policy, guard.policy or PLAYBOOK, guard.policy_timeout_s, fallback)
    acts = f"mode={guard.mode}, act_on={'+'.join(guard.act_on) or 'nothing'}, policy={policy.name}"
    monitor = Role(plan.name, "monitor", 0, f"detectors={len(watched.build().active)}")
    controller = Role(plan.name, "controller", 0, acts)
    return GuardGroup(
        (monitor, controller),
        _create(MonitorActor, monitor, watched),
        _create(ControllerActor, controller, incidents, policy),
    )


def _create(kind: type, role: Role, *arguments: object) -> ActorHandle:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = actor_options(role, 0.0, 0.0) | {"scheduling_strategy": here}
    return ray.remote(kind).options(**options).remote(role, *arguments)
