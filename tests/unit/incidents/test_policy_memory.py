"""What a policy remembers: noted after every call, taken back by a rollback, given back to a new instance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from rftfm_ray.incidents.entries import Entry
from rftfm_ray.incidents.ledger import Journalled, Ledger
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.policy_memory import PolicyState, metrics_of, read_policy_state
from rftfm_ray.incidents.state import EntryKind as K
from rftfm_ray.incidents.state import replay
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.types import GuardMode, Levers, StepId
from rftfm_ray.verdicts import Decision, IncidentState, Outcome, OutcomeKind, Remedy
from tests.texts import without_places
from tests.unit.incidents.managed import FAILING, PLAIN, VERIFY, ManagedRun, fault

SLOW = Remedy("slow", Levers(lr_scale=0.5))
BACK = Remedy("back", Levers(lr_scale=0.25), rollback=True)


class Learner:
    """Gives its remedies in order, and remembers steps that it decided at and outcomes that it was told."""

    def __init__(self, *remedies: Remedy | None) -> None:
        self.remedies = remedies
        self.steps: list[int] = []
        self.told: list[str] = []

    def decide(self, ctx: PolicyContext) -> Decision:
        """The remedy by the number of those tried."""
        self.steps.append(ctx.step.step)
        remedy = self.remedies[min(len(ctx.tried), len(self.remedies) - 1)]
        return Decision(remedy, "next", (("at", ctx.step.paid_step),))

    def observe(self, outcome: Outcome) -> None:
        """Remember it."""
        self.told.append(f"{outcome.code} {outcome.remedy} {outcome.kind}{' again' if outcome.abandoned else ''}")

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"steps": list(self.steps), "told": list(self.told)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """All of it again."""
        self.steps, self.told = list(state["steps"]), list(state["told"])

    def metrics(self) -> Mapping[str, float]:
        """How much that is."""
        return {"decisions": len(self.steps)}


class Wanting(Learner):
    """One of its optional methods fails."""

    def __init__(self, method: str) -> None:
        super().__init__(SLOW, None)
        self.method = method

    def state_dict(self) -> dict[str, Any]:
        """May raise."""
        self._may_raise("state_dict")
        return super().state_dict()

    def metrics(self) -> Mapping[str, float]:
        """May raise."""
        self._may_raise("metrics")
        return super().metrics()

    def observe(self, outcome: Outcome) -> None:
        """May raise."""
        self._may_raise("observe")

    def _may_raise(self, method: str) -> None:
        if method == self.method:
            raise ValueError("on purpose")


def states(run: ManagedRun) -> list[dict[str, Any]]:
    """The policy's own states in the journal, oldest first."""
    texts = [entry.text("state") for entry in run.entries if entry.kind is K.POLICY_STATE]
    found = [read_policy_state(text) for text in texts]
    return [json.loads(state.own) for state in found if state is not None and state.own]


def remedied(policy: Learner, **changed: Any) -> ManagedRun:
    """A run whose first remedy was ineffective: it began at step 1, with the fault from step 6 on."""
    run = ManagedRun(policy=policy, snapshots=(0, 5), levers=Levers(), **changed)
    run.pass_steps(5)
    assert run.begin_fault() is not None
    run.carry_out()
    for _ in range(VERIFY):
        run.tick(fault(), **FAILING)
    return run


def test_state_is_noted_at_the_start_and_after_every_call() -> None:
    run = remedied(Learner(SLOW, None))
    first: dict[str, list[str]] = {"steps": [], "told": []}
    told = ["TE-1 slow ineffective"]
    assert states(run) == [
        first,
        {"steps": [6], "told": []},
        {"steps": [6], "told": told},
        {"steps": [6, 9], "told": told},
    ]
    noted = run.last(K.POLICY_STATE)
    assert (noted.text("policy"), metrics_of(noted)) == ("script", (("decisions", 2.0),))
    assert run.manager.state == replay(tuple(run.entries))


def test_policy_without_a_state_leaves_nothing_in_the_journal() -> None:
    run = ManagedRun(SLOW, levers=Levers())
    run.begin_fault()
    assert K.POLICY_STATE not in run.kinds


def test_rollback_takes_the_policy_back_and_tells_it_its_outcomes_again() -> None:
    policy = Learner(SLOW, BACK, None)
    run = remedied(policy)
    assert policy.steps == [6, 9]
    assert run.pending.restore_step == 5
    run.carry_out()
    # Both decisions were made at steps that are given up; the outcome of the first remedy is known all the same.
    assert (policy.steps, policy.told) == ([], ["TE-1 slow ineffective again"])
    noted = run.last(K.POLICY_STATE)
    assert noted.text("reason") == "back to its state at step 5, and told again of 1 outcome"
    assert run.manager.state.policy.states[-1][0] == 5
    # The decision that ordered the rollback is what the new attempt begins with.
    state = read_policy_state(run.manager.state.policy.newest)
    assert state is not None
    assert state.decision == (("at", 9),)
    assert run.manager.state == replay(tuple(run.entries))


def test_outcome_that_was_told_again_is_not_told_twice_by_a_second_rollback_to_that_step() -> None:
    policy = Learner(SLOW, BACK, Remedy("further", Levers(lr_scale=0.1), rollback=True), None)
    run = remedied(policy)
    run.carry_out()
    while run.manager.pending is None:
        run.tick(fault(), **FAILING)
    run.carry_out()
    assert policy.told == ["TE-1 slow ineffective again", "TE-1 back ineffective again"]


def test_rollback_without_a_state_of_its_own_tells_nothing_again() -> None:
    class Plain:
        """Observes, and keeps no state."""

        def __init__(self) -> None:
            self.told: list[Outcome] = []

        def decide(self, ctx: PolicyContext) -> Decision:
            """One remedy, and then a rollback."""
            return Decision((SLOW, BACK)[min(1, len(ctx.tried))], "next")

        def observe(self, outcome: Outcome) -> None:
            """Remember it."""
            self.told.append(outcome)

    policy = Plain()
    run = remedied(policy)  # type: ignore[arg-type]
    run.carry_out()
    assert [(told.kind, told.abandoned) for told in policy.told] == [(OutcomeKind.INEFFECTIVE, False)]


def test_state_of_a_decision_survives_a_rollback_to_before_the_first_one() -> None:
    run = ManagedRun(SLOW, BACK, None, snapshots=(0, 5), levers=Levers())
    run.script.counts = True
    run.pass_steps(5)
    run.begin_fault()
    run.carry_out()
    for _ in range(VERIFY):
        run.tick(fault(), **FAILING)
    run.carry_out()
    for _ in range(VERIFY):
        run.tick(fault(), **FAILING)
    assert [ctx.state for ctx in run.script.seen] == [(), (("asked", 1),), (("asked", 2),)]


@pytest.mark.parametrize("method", ["state_dict", "metrics", "observe"])
def test_optional_method_that_raises_costs_no_decision_and_is_told(method: str) -> None:
    run = remedied(Wanting(method))
    failed = [entry for entry in run.entries if entry.kind is K.POLICY_FAILED]
    assert {without_places(entry.text("reason")) for entry in failed} == {f"{method} raised ValueError: on purpose"}
    assert {entry.text("method") for entry in failed} == {method}
    assert [tried.remedy for tried in run.incident.tried] == ["slow"]
    assert run.now() is IncidentState.ESCALATED


def resumed(policy: Learner, saved: str) -> list[Entry]:
    """The journal of a run that goes on from step 7 of another one."""
    entries: list[Entry] = []
    manager = IncidentManager(PLAIN, SafePolicy(policy, "script", 30.0), lambda: (), Ledger(entries.append))
    manager.start(StepId(0, 7, 7), Levers(), saved)
    return entries


def test_resumed_run_gives_the_policy_what_the_checkpoint_holds() -> None:
    before = remedied(Learner(SLOW, None)).manager.state.policy.newest
    policy = Learner(SLOW, None)
    entries = resumed(policy, before)
    assert (policy.steps, policy.told) == ([6, 9], ["TE-1 slow ineffective"])
    assert replay(tuple(entries)).policy.newest == before


@pytest.mark.parametrize(
    ("saved", "why"),
    [
        (PolicyState("other.py:Mine", '{"steps": [1]}').to_text(), "is of policy other.py:Mine"),
        ("{", "cannot be read"),
        ('{"policy": "script", "own": 3, "decision": {}}', "cannot be read"),
        ('{"policy": "script", "own": "", "decision": {"at": [1]}}', "cannot be read"),
    ],
)
def test_state_of_another_policy_is_not_taken_up_and_that_is_told(saved: str, why: str) -> None:
    policy = Learner(SLOW)
    entries = resumed(policy, saved)
    (failed,) = (entry for entry in entries if entry.kind is K.POLICY_FAILED)
    assert failed.text("reason") == f"the state in the checkpoint {why}, so the policy starts without it"
    assert policy.steps == []


def test_state_that_the_policy_refuses_is_told() -> None:
    entries = resumed(Learner(SLOW), PolicyState("script", "{}").to_text())
    (failed,) = (entry for entry in entries if entry.kind is K.POLICY_FAILED)
    assert without_places(failed.text("reason")) == "load_state_dict raised KeyError: 'steps'"


def test_new_instance_of_the_controller_goes_on_with_the_same_state() -> None:
    run = remedied(Learner(SLOW, None))
    memory, policy = run.manager.memory(), Learner(SLOW, None)
    ledger = Ledger(lambda _: None, Journalled(tuple(run.entries), memory.seq))
    manager = IncidentManager(PLAIN, SafePolicy(policy, "script", 30.0), lambda: (0, 5), ledger)
    manager.restore(memory)
    assert (policy.steps, policy.told) == ([6, 9], ["TE-1 slow ineffective"])
    assert manager.state == run.manager.state


def test_another_policy_takes_over_nothing() -> None:
    run = remedied(Learner(SLOW, None))
    memory, policy = run.manager.memory(), Learner(SLOW, None)
    ledger = Ledger(lambda _: None, Journalled(tuple(run.entries), memory.seq))
    IncidentManager(PLAIN, SafePolicy(policy, "another", 30.0), lambda: (0, 5), ledger).restore(memory)
    assert (policy.steps, policy.told) == ([], [])


def test_decision_that_asks_is_advised_in_act_as_well() -> None:
    class Asking(Learner):
        """Asks a person first."""

        def decide(self, ctx: PolicyContext) -> Decision:
            """A remedy to approve."""
            return Decision(SLOW, "shall I?", ask=True)

    run = ManagedRun(policy=Asking(), levers=Levers(), mode=GuardMode.ACT)
    assert run.begin_fault() is None
    assert run.last(K.ADVISED).text("reason") == "shall I?"
    assert K.DECIDED not in run.kinds


def test_state_is_the_same_after_its_text() -> None:
    state = PolicyState("mine.py:Mine", '{"a": 1}', (("tries", 2), ("why", "so"), ("sure", True), ("share", 0.5)))
    assert read_policy_state(state.to_text()) == state
    assert [read_policy_state(text) for text in ("", "[]", "3", "null", '{"policy": 1}')] == [None] * 5
