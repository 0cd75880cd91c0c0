"""The monitor and the controller of a run, called by typed methods. No other module calls them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rftfm_ray.actors.calls import Limit, Pending, wait_for
from rftfm_ray.actors.controller import ControllerActor
from rftfm_ray.actors.group import START
from rftfm_ray.actors.monitor import MonitorActor
from rftfm_ray.actors.placement import actor_options
from rftfm_ray.actors.recovery import Call, Recoverable
from rftfm_ray.actors.roles import Role
from rftfm_ray.detection.monitor import monitor_plan
from rftfm_ray.errors import GuardError, RftfmError, StateError
from rftfm_ray.incidents.messages import (
    Answered,
    GuardTotals,
    Inherited,
    News,
    OrderResult,
    Paused,
    Permit,
    Restoration,
    Settlement,
)
from rftfm_ray.incidents.requests import Request
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.incidents.state import Entry
from rftfm_ray.planning import RunPlan
from rftfm_ray.policies.loading import BUILT_IN, PLAYBOOK
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.telemetry.rundir import MONITOR_STATE
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import Declaration, StepReport

logger = logging.getLogger(__name__)

# Judging a report takes a millisecond; longer than this is a hang.
JUDGE_S = 60.0
ANSWER = Limit(60.0)
# Steps between saved states: what a new actor has to take in again takes well under a second.
SAVE_STEPS = 50
# An actor that is lost this often within so many consumed steps would be lost again.
MOST_LOSSES, LOSS_STEPS = 3, 20
# Files of the monitor's states: the two newest stay, while a third is written.
STATE_FILES = 3


class GuardGroup:
    """Monitor and controller. They take no CPU and live on the driver's node, whose disk they use.

    A lost actor is replaced by a new one in the same state: the monitor from its state file and the calls since, the
    controller from the journal and the calls since. The call that was lost is then made again, so every report is
    judged once, and every entry is journalled once. Calls may come from two threads.
    """

    def __init__(self, monitor: Recoverable, controller: Recoverable, policy_timeout_s: float = 0.0) -> None:
        self._monitor = monitor
        self._controller = controller
        # An order may have the policy asked for another one, or taken back with a rollback.
        self._order_limit = Limit(ANSWER.seconds + policy_timeout_s)
        self._lock = threading.Lock()
        self._step = StepId(0, 0, 0)
        self._journal = Path()
        # Calls that wait for the next one, so that nobody waits for them.
        self._notes: deque[Call] = deque()
        self._losses: list[int] = []
        self._restored: list[Restoration] = []
        self._entries: list[Entry] = []
        self._saves = 0
        self._saves_monitor = True

    @property
    def journal(self) -> Path:
        """The journal of the run."""
        return self._journal

    def attach(
        self, journal: Path, start: StepId, levers: Levers, policy_state: str = "", inherited: Inherited | None = None
    ) -> News:
        """Wait until both can work; the controller opens its journal, with the levers in force.

        `policy_state` is what the policy remembers from the checkpoint that the run goes on from; empty without one.
        With what a paused run has handed over it continues a copy of that run's journal, which holds what the policy
        remembers, and the monitor a copy of its state; the news then has an order that a person has approved meanwhile.

        Raises:
            RftfmError: when one of them cannot start.
        """
        self._journal, self._step = journal, start
        if inherited is None:
            call = Call("attach", (str(journal), start, levers, policy_state))
            wait_for([self._controller.submit(call)], START, "starting")
            self._save_controller()
            return News(())
        call = Call("take_over", (str(journal), start, levers, inherited))
        news = cast("News", wait_for([self._controller.submit(call)], START, "taking over")[0])
        self._save_controller()
        self._load_monitor(Call("load", (str(journal.parent / MONITOR_STATE),)))
        return news

    def _load_monitor(self, restoring: Call) -> None:
        """Give a new monitor the state of another run's; without one that it can load it begins anew."""
        try:
            wait_for([self._monitor.submit(restoring)], START, "loading its state")
        except StateError as error:
            logger.warning("The monitor begins with a new reference: %s", error)
            return
        self._monitor.saved(restoring)

    def pause(self, step: StepId, last: StepId, incident: int, waited_s: float) -> Paused:
        """Journal that the run ends until a person answers, and save what the run that continues it needs.

        Raises:
            RftfmError: when the controller was lost, or nothing can be written.
        """
        with self._lock:
            self._step = step
            self._send_notes()
            call = Call("pause", (step, last, incident, waited_s))
            paused = cast("Paused", self._ask(self._controller, call, ANSWER, "pausing the run")[1])
            try:
                path = str(self._journal.parent / MONITOR_STATE)
                wait_for([self._monitor.submit(Call("save", (path,)))], ANSWER, "saving its state")
            except RftfmError as error:
                logger.warning("The monitor's state was not saved, so the continued run has a new one: %s", error)
            return replace(paused, entries=self._in_order(paused.entries))

    def judge(self, items: Sequence[StepReport | Declaration], policy_timeout_s: float) -> News:
        """Judge reports and declared changes, in their order.

        The policy has its time limit twice for each of them: to be told of an outcome, and to decide.

        Raises:
            RftfmError: when monitor or controller was lost and could not be brought back.
        """
        steps = sum(isinstance(item, StepReport) for item in items)
        with self._lock:
            self._step = items[-1].id
            self._send_notes()
            # The assessments go from actor to actor; only the news comes back here.
            assess, limit = Call("assess", (items,), steps), Limit(JUDGE_S + 2 * policy_timeout_s * len(items))
            assessed, _ = self._ask(self._monitor, assess, Limit(JUDGE_S), "judging a step")
            consider = Call("consider", (assessed.reference,), steps)
            _, news = self._ask(self._controller, consider, limit, "judging a step")
            self._save_if_due()
            judged = cast("News", news)
            return replace(judged, entries=self._in_order(judged.entries))

    def note_probe(self, step: StepId, accuracy: float) -> None:
        """Journal the held-out accuracy before the first step.

        Raises:
            RftfmError: when the controller was lost and could not be brought back.
        """
        with self._lock:
            self._ask(self._controller, Call("note_probe", (step, accuracy)), ANSWER, "journalling the first probe")

    def note_late(self, step: StepId, waited_s: float) -> None:
        """Journal with the next call that a verdict came after its boundary, without waiting."""
        self._notes.append(Call("note_late", (step, waited_s)))

    def note_hook_failed(self, hook: str, reason: str) -> None:
        """Journal with the next call that `guard.on_incident` could not be called, without waiting. From any thread."""
        self._notes.append(Call("note_hook_failed", (self._step, hook, reason)))

    def answer(self, request: Request, step: StepId) -> Answered:
        """Follow a person's answer to a decision that waits, or journal why it cannot be followed.

        Raises:
            RftfmError: when the controller was lost and could not be brought back.
        """
        with self._lock:
            self._step = step
            self._send_notes()
            made = self._ask(self._controller, Call("answer", (request, step)), ANSWER, "taking a person's answer")[1]
            answered = cast("Answered", made)
            return replace(answered, entries=self._in_order(answered.entries))

    def begin(self, number: int, step: StepId, probed: float, graded: int = 0) -> Permit:
        """Journal that an order is about to be carried out, or why it is not.

        Raises:
            RftfmError: when that could not be journalled; the order must not be carried out.
        """
        with self._lock:
            self._step = step
            self._send_notes()
            call = Call("begin", (number, step, probed, graded))
            permit = cast(
                "Permit", self._ask(self._controller, call, self._order_limit, f"beginning order {number}")[1]
            )
            return replace(permit, entries=self._in_order(permit.entries))

    def done(self, number: int, step: StepId, result: OrderResult) -> Settlement:
        """Journal the result of an order, and declare its change to the monitor.

        Raises:
            RftfmError: when one of them was lost and could not be brought back.
        """
        with self._lock:
            self._send_notes()
            call = Call("done", (number, step, result))
            ended = self._ask(self._controller, call, self._order_limit, f"ending order {number}")[1]
            settlement = cast("Settlement", ended)
            if settlement.change is not None:
                changed = Call("changed", (settlement.change, settlement.rewound_to))
                self._ask(self._monitor, changed, ANSWER, f"taking in what order {number} has changed")
            return replace(settlement, entries=self._in_order(settlement.entries))

    def finish(self, last: StepId, limit: Limit) -> GuardTotals:
        """End the journal; returns the totals of the run's guard.

        Raises:
            RftfmError: when the controller was lost and could not be brought back.
        """
        with self._lock:
            self._step = last
            self._send_notes()
            totals = self._ask(self._controller, Call("finish", (last,)), limit, "ending the journal")[1]
            ended = cast("GuardTotals", totals)
            return replace(ended, entries=self._in_order(ended.entries), restarts=len(self._losses))

    def stop(self) -> None:
        """End both. Safe to call twice."""
        for actor in (self._monitor, self._controller):
            actor.stop()

    def _ask(self, actor: Recoverable, call: Call, limit: Limit, doing: str) -> tuple[Pending[object], object]:
        """Make a call until it has a result, and remember it; a lost actor is replaced in between."""
        restored = False
        while True:
            pending = actor.submit(call)
            try:
                result = wait_for([pending], limit, doing)[0]
                break
            except GuardError as error:
                if actor.answers():
                    # The call itself fails, and would fail again.
                    raise
                self._restored.append(self._replace(actor, call, error))
                restored = True
        actor.record(call)
        if restored:
            self._note_restored()
        return pending, result

    def _replace(self, actor: Recoverable, call: Call, error: GuardError) -> Restoration:
        """Replace a lost actor.

        Raises:
            RftfmError: when it was lost too often, or no saved state can be read.
        """
        began, reason = time.perf_counter(), str(error)
        while True:
            now = self._step.paid_step
            self._losses.append(now)
            if sum(at > now - LOSS_STEPS for at in self._losses) >= MOST_LOSSES:
                raise GuardError(f"The guard was lost {MOST_LOSSES} times within {LOSS_STEPS} steps: {error}")
            logger.warning("%s was lost and is replaced: %s", actor.role.name, error)
            try:
                replayed = actor.replace()
            except GuardError as failed:
                error = failed
                continue
            return Restoration(actor.role.name, reason, replayed, call.steps, time.perf_counter() - began)

    def _note_restored(self) -> None:
        while self._restored:
            call = Call("note_restored", (self._step, self._restored.pop(0)))
            _, entries = self._ask(self._controller, call, ANSWER, "journalling that the guard came back")
            self._entries += cast("tuple[Entry, ...]", entries)

    def _send_notes(self) -> None:
        while self._notes:
            self._ask(self._controller, self._notes[0], ANSWER, "journalling a note")
            self._notes.popleft()

    def _in_order(self, entries: Sequence[Entry]) -> tuple[Entry, ...]:
        """The entries of a call and those that were journalled beside it, in the order of the journal."""
        beside, self._entries = self._entries, []
        return tuple(sorted((*beside, *entries), key=lambda entry: entry.seq))

    def _save_if_due(self) -> None:
        if self._controller.unsaved_steps >= SAVE_STEPS:
            self._save_controller()
        if self._saves_monitor and self._monitor.unsaved_steps >= SAVE_STEPS:
            self._save_monitor()

    def _save_controller(self) -> None:
        pending = self._controller.submit(Call("state"))
        try:
            # It is an argument by reference, so it does not pass through this process.
            wait_for([pending], ANSWER, "saving its state")
        except GuardError as error:
            # The calls so far are remembered, and the next call notices the loss.
            logger.warning("The controller's state was not saved: %s", error)
            return
        self._controller.saved(Call("reattach", (str(self._journal), pending.reference)))

    def _save_monitor(self) -> None:
        path = str(self._journal.parent / "guard" / f"monitor-{self._saves % STATE_FILES}.safetensors")
        try:
            wait_for([self._monitor.submit(Call("save", (path,)))], ANSWER, "saving its state")
        except StateError as error:
            # A detector of the user's cannot be saved: all calls are remembered instead.
            logger.warning("The monitor's state is not saved: %s", error)
            self._saves_monitor = False
        except GuardError as error:
            logger.warning("The monitor's state was not saved: %s", error)
        else:
            self._saves += 1
            self._monitor.saved(Call("load", (path,)))


def start_guard(plan: RunPlan) -> GuardGroup:
    """Create monitor and controller of a run, to start beside the other actors. They do not know its drill."""
    config, guard = plan.config, plan.config.guard
    watched = monitor_plan(config, plan.profile, plan.detectors)
    incidents = incident_settings(config, calls_tools=len(plan.task.max_new_tokens) > 1)
    is_own = guard.policy is not None and guard.policy not in BUILT_IN
    fallback = Playbook() if guard.fallback == "playbook" and is_own else None
    policy = SafePolicy(plan.policy, guard.policy or PLAYBOOK, guard.policy_timeout_s, fallback)
    acts = f"mode={guard.mode}, act_on={'+'.join(guard.act_on) or 'nothing'}, policy={policy.name}"
    monitor = Role(plan.name, "monitor", 0, f"detectors={len(watched.build().active)}")
    controller = Role(plan.name, "controller", 0, acts)
    return GuardGroup(
        Recoverable(monitor, lambda: _create(MonitorActor, monitor, watched, plan.diagnosis)),
        Recoverable(controller, lambda: _create(ControllerActor, controller, incidents, policy)),
        guard.policy_timeout_s,
    )


def _create(kind: type, role: Role, *arguments: object) -> ActorHandle:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = actor_options(role, 0.0, 0.0) | {"scheduling_strategy": here}
    return ray.remote(kind).options(**options).remote(role, *arguments)
