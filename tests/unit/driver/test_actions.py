"""What remedies do once, beside levers: weights sent again, rollout actors replaced, the critic's head put back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rftfm_ray.actors.calls import Limit, Pending
from rftfm_ray.config import load_config
from rftfm_ray.driver import session as module
from rftfm_ray.driver.remediation import MOST_SENDS, RemedyExecutor
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import PolicyError, SyncError
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.safety import check_decision
from rftfm_ray.rollout.weights import Served
from rftfm_ray.telemetry.rundir import HANDED_ON
from rftfm_ray.types import Action, Levers, RunFacts, Settings, StepId, TrainingCursor
from rftfm_ray.verdicts import Decision, Diagnosis, Family, Remedy
from tests.unit.doubles import make_group, make_plan

STEP, NOW = StepId(0, 7, 7), TrainingCursor(StepId(0, 6, 6), 6, 96)
MOVED = Levers(credit_source=1)
PLAIN = Order(1, 1, OrderRole.REMEDY, "mend", "because", MOVED)


class World:
    """A session, a guard and records: everything that is asked of them, in order.

    `mismatches`: what sends of the weights find, one after the other.
    """

    def __init__(self, mismatches: Sequence[float] = (), errors: str = "") -> None:
        self.journey: list[tuple[Any, ...]] = []
        self.position = NOW
        self._mismatches = list(mismatches)
        self._errors = errors

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any, **fields: Any) -> Any:
            self.journey.append((name, *arguments, *([fields] if fields else [])))
            if name == self._errors:
                raise SyncError("they differ by 3 nats.")
            if name == "resync":
                return self._mismatches.pop(0) if self._mismatches else 0.0
            return arguments[0] if name == "begin" else None

        return note

    def carry_out(self, *actions: Action, **fields: Any) -> list[tuple[Any, ...]]:
        """The calls of an order with those actions."""
        parts = cast("Any", self)
        RemedyExecutor(parts, parts, parts, 80).carry_out(dataclasses.replace(PLAIN, actions=actions, **fields), STEP)
        return self.journey


def test_order_without_actions_moves_its_levers_alone() -> None:
    assert World().carry_out() == [("move_levers", MOVED)]
    assert not PLAIN.regenerates


@pytest.mark.parametrize(
    ("mismatches", "sent", "last"),
    [((0.0,), 1, 0.0), ((1.0, 0.0), 2, 0.0), ((1.0,) * 5, MOST_SENDS, 1.0), ((math.nan, 0.0), 2, 0.0)],
)
def test_weights_are_sent_until_they_are_served_by_hash(mismatches: Sequence[float], sent: int, last: float) -> None:
    calls = World(mismatches).carry_out(Action.RESYNC)
    assert calls == [
        ("move_levers", MOVED), *[("resync", {"verify": True})] * sent,
        ("event", "resync", STEP, {"sent": sent, "mismatch": last}),
    ]  # fmt: skip


def test_rollout_actors_are_replaced_and_probed() -> None:
    calls = World().carry_out(Action.RESTART_ROLLOUT)
    assert calls == [("move_levers", MOVED), ("restart_rollout", {"every": True}), ("parity",)]
    with pytest.raises(SyncError, match="3 nats"):
        World(errors="parity").carry_out(Action.RESTART_ROLLOUT)


@pytest.mark.parametrize("back", [None, 3])
def test_new_learner_goes_on_from_the_state_that_is_to_hold_before_levers_move(back: int | None) -> None:
    calls = World().carry_out(Action.RESTART_LEARNER, restore_step=back)
    first, last = (["rollback"], ["resync"]) if back else ([], [])
    assert [call[0] for call in calls] == [*first, "restart_learner", "move_levers", *last, "parity"]


def test_learner_is_replaced_after_its_state_is_saved_and_takes_it_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session, journey = make_session(monkeypatch, 1)
    session._plan = dataclasses.replace(session._plan, folder=tmp_path)
    handed_on = tmp_path / HANDED_ON
    handed_on.mkdir(parents=True)
    state = SimpleNamespace(
        levers=MOVED, probe=(), policy="kept", quarantine=(), attempt=0, step=6, paid_step=6, model_version=6, cursor=96
    )

    def answer(calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[Any]:
        del limit
        journey.extend(cast("Any", call.reference) for call in calls)
        return [{"writing a checkpoint": "saved", "loading a checkpoint": state}.get(doing)] * len(calls)

    monkeypatch.setattr(module, "wait_for", answer)
    monkeypatch.setattr(session._group, "replace", lambda role: journey.append((role.name, "replace")))
    session.restart_learner()
    assert [call[1] for call in journey if call[0] == "learner-0"] == ["save", "replace", "load", "set_levers"]
    assert journey[0][2].keep_all, "what else is saved there stays"
    assert (session.levers, session.policy_state, session.position) == (MOVED, "kept", NOW)
    assert not handed_on.exists()
    # The guard remembers what it knew at the steps at which a snapshot is due, and at no other.
    state.step = 5
    session.restart_learner()
    assert journey[-1][1] == "take_snapshot"


def test_critic_goes_back_and_the_policy_stays() -> None:
    calls = World().carry_out(Action.RESET_CRITIC, critic_step=4)
    assert calls == [("move_levers", MOVED), ("reset_critic", 4)]


def test_rollback_that_sends_weights_again_sends_them_verified() -> None:
    calls = World().carry_out(Action.RESYNC, restore_step=3)
    assert [call[0] for call in calls] == ["rollback", "move_levers", "resync", "event", "parity"]


def test_prompts_that_are_kept_out_are_recorded() -> None:
    calls = World().carry_out(restore_step=3, quarantine_from=5)
    assert calls[0] == ("rollback", 3, 0, 7, 5)
    assert calls[1][:2] == ("event", "quarantine")
    assert calls[1][-1]["first"] == 5


@pytest.mark.parametrize("action", Action)
def test_trajectories_of_other_weights_are_made_again(action: Action) -> None:
    anew = action in (Action.RESYNC, Action.RESTART_ROLLOUT)
    assert dataclasses.replace(PLAIN, actions=(action,)).regenerates is anew


def make_session(monkeypatch: pytest.MonkeyPatch, actors: int) -> tuple[Session, list[tuple[Any, ...]]]:
    """A session on actors that say what they were asked, in order."""
    plan, journey = make_plan(load_config(None, [f"rollout.num_actors={actors}"])), list[tuple[Any, ...]]()

    def wait(calls: Sequence[Pending[Any]], limit: Limit, doing: str) -> list[Any]:
        del limit, doing
        journey.extend(cast("Any", call.reference) for call in calls)
        return [Served(6, 2, ("weight",)) for _ in calls]

    monkeypatch.setattr(module, "wait_for", wait)
    return Session(plan, make_group(plan), NOW), journey


def test_verified_send_compares_whatever_the_cadence(monkeypatch: pytest.MonkeyPatch) -> None:
    session, journey = make_session(monkeypatch, 2)
    assert session.resync(verify=True) == 1.0
    assert [call[1:] for call in journey] == [("load_weights", ("learner-0", "weights", 6), True)] * 2
    journey.clear()
    session.resync()
    assert [call[1:] for call in journey] == [("load_weights", ("learner-0", "weights", 6))] * 2


def test_every_actor_is_replaced_before_levers_and_weights_come(monkeypatch: pytest.MonkeyPatch) -> None:
    session, journey = make_session(monkeypatch, 2)
    monkeypatch.setattr(session._group, "replace", lambda role: journey.append((role.name, "replace")))
    session.restart_rollout(every=True)
    assert [call[1] for call in journey] == [*["replace"] * 2, *["set_levers"] * 3, *["load_weights"] * 2]
    assert [name for name, *_ in journey[:2]] == ["rollout-0", "rollout-1"]
    journey.clear()
    session.reset_critic(4)
    assert journey == [("learner-0", "restore_critic", 4)]


NOMINAL = Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False)


def context(*snapshots: int, algorithm: str = "ppo") -> PolicyContext:
    """A fault that began with step 5."""
    diagnosis = Diagnosis("CA-1", Family.CA, 0.9, (), (), 5, 5, "")
    facts = RunFacts(algorithm, 8, 1.0)
    return PolicyContext(STEP, diagnosis, (), Levers(), NOMINAL, snapshots, 4, (), facts=facts)


@pytest.mark.parametrize(
    ("remedy", "ctx", "reason"),
    [
        (Remedy("r", actions=(Action.RESET_CRITIC,)), context(4, algorithm="grpo"), "algorithm.name=grpo has none"),
        (Remedy("r", actions=(Action.RESET_CRITIC,)), context(5, 6), r"the snapshots are of steps \[5, 6\]"),
        (Remedy("r", MOVED, rollback=True, actions=(Action.RESET_CRITIC,)), context(4), "rollback does already"),
        (Remedy("r", actions=cast("Any", "resync")), context(), "give a tuple of Action"),
        (Remedy("r", actions=cast("Any", ("resync",))), context(), "give a tuple of Action"),
    ],
)
def test_action_that_cannot_be_carried_out_is_refused(remedy: Remedy, ctx: PolicyContext, reason: str) -> None:
    with pytest.raises(PolicyError, match=rf"^Remedy r.*{reason}.*\.$"):
        check_decision(Decision(remedy, ""), ctx)


def test_actions_that_can_be_carried_out_pass() -> None:
    for remedy in (
        Remedy("r", actions=(Action.RESET_CRITIC,)),
        Remedy("r", actions=(Action.RESYNC, Action.RESTART_ROLLOUT)),
        Remedy("r", rollback=True, actions=(Action.RESTART_LEARNER,)),
        Remedy("r", MOVED, rollback=True, actions=(Action.RESYNC,)),
    ):
        assert check_decision(Decision(remedy, ""), context(4)).remedy == remedy
