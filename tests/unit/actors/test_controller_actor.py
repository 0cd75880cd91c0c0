"""The controller actor as a plain object: what it journals before and after it acts, and what it does not do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rftfm_ray.actors import controller as controller_module
from rftfm_ray.actors.controller import ControllerActor
from rftfm_ray.actors.roles import Role
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.errors import GuardError, RecordError
from rftfm_ray.incidents.messages import GuardTotals, News, OrderResult, Permit, Settlement
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.signals.effects import expected_sides, signals_of
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.taxonomy import family_of
from rftfm_ray.telemetry.journal import JOURNAL, Journal, read_journal
from rftfm_ray.types import GuardMode, IncidentSummary, Levers, Settings, StepId
from rftfm_ray.verdicts import (
    Assessment,
    Decision,
    DeclaredChange,
    Diagnosis,
    Evidence,
    Expected,
    Family,
    Remedy,
    StepReport,
    Symptom,
)

K = EntryKind
PLAIN = IncidentSettings(
    mode=GuardMode.ACT, act_on=tuple(Family), verify_steps=2, verify_timeout_steps=8, cooldown_steps=0, budget=9,
    return_after=5, halts=False, probe_size=256,
    nominal=Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False),
)  # fmt: skip
START = StepId(0, 0, 0)
FOLLOWING = StepId(0, 7, 7)
DONE = OrderResult(0.25)
RETRY = Remedy("retry", Levers(tool_retries=2))
SLOW = Remedy("slow", Levers(lr_scale=0.5))
BACK = Remedy("back", Levers(lr_scale=0.5, kl_coef_scale=2.0), rollback=True)


@dataclass
class Ask:
    """A policy with one answer."""

    remedy: Remedy | None
    seen: list[PolicyContext] = field(default_factory=list)

    def decide(self, ctx: PolicyContext) -> Decision:
        """That answer."""
        self.seen.append(ctx)
        return Decision(self.remedy, "because")


@dataclass
class Ward:
    """A controller, its policy, and its journal."""

    actor: ControllerActor
    policy: Ask
    journal: Path
    said: list[Entry] = field(default_factory=list)

    def judge(self, *assessments: Assessment) -> News:
        """Hand assessments over."""
        news = self.actor.consider(assessments)
        self.said += news.entries
        return news

    def begin(self, number: int, probed: float = math.nan) -> Permit:
        """Ask whether an order may be carried out, with the held-out accuracy of now."""
        permit = self.actor.begin(number, FOLLOWING, probed)
        self.said += permit.entries
        return permit

    def done(self, number: int, result: OrderResult = DONE) -> Settlement:
        """Say what became of it."""
        settlement = self.actor.done(number, FOLLOWING, result)
        self.said += settlement.entries
        return settlement

    def carry_out(self, number: int, probed: float = math.nan) -> Settlement:
        """Take an order from its beginning to its end."""
        assert self.begin(number, probed).granted
        return self.done(number)

    def fall_ill(self, code: str = "TE-1", probability: float = 0.9, evidence: Evidence | None = None) -> News:
        """Five steps of health, with a probe in the fifth, and one of a fault, with an alarm of such evidence."""
        healthy = [Assessment(report(step), None) for step in range(1, 5)]
        kinds = () if evidence is None else (evidence,)
        symptoms = tuple(
            Symptom("test", "tool_error_rate", kind, True, 1, 1.0, 0.0, 2.0, 6, 6, "it is broken") for kind in kinds
        )
        diagnosis = Diagnosis(code, family_of(code), probability, (), symptoms, 6, 6, code)
        probed = Assessment(report(5, probe_accuracy=0.8), None)
        return self.judge(*healthy, probed, Assessment(report(6, tool_error_rate=0.5), diagnosis))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What stands in the journal."""
        return read_journal(self.journal)[0]

    @property
    def kinds(self) -> list[EntryKind]:
        """What kinds, after the start."""
        return [entry.kind for entry in self.entries[1:]]

    def last(self, kind: EntryKind) -> dict[str, Any]:
        """Fields of the newest entry of a kind."""
        return dict(next(entry.fields for entry in reversed(self.entries) if entry.kind is kind))


Admit = Callable[..., Ward]


@pytest.fixture
def admit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Admit:
    """Make a controller with a policy of one answer."""
    # This process keeps its name.
    monkeypatch.setattr(controller_module, "rename_process", lambda role: None)

    def make(remedy: Remedy | None = RETRY, start: StepId = START, levers: Levers | None = None, **how: Any) -> Ward:
        journal = tmp_path / JOURNAL
        settings = replace(PLAIN, **how)
        role = Role("run-1", "controller", 0, "a test")
        policy = Ask(remedy)
        actor = ControllerActor(role, settings, SafePolicy(policy, "ask", 30.0))
        actor.attach(str(journal), start, levers if levers is not None else Levers())
        return Ward(actor, policy, journal)

    return make


def report(step: int, attempt: int = 0, **signals: float) -> StepReport:
    """A step without a finding, but for the signals that are given, after which steps 0 and 5 can be gone back to."""
    values = dict.fromkeys(INDEX, 0.0) | {"probe_accuracy": math.nan} | signals
    assert len(values) == len(SIGNALS), "no such signal"
    return StepReport(StepId(attempt, step, step), step, tuple(values[signal.name] for signal in SIGNALS), (0, 5))


def test_journal_begins_with_who_guards_and_how(admit: Admit) -> None:
    ward = admit(mode=GuardMode.ADVISE, act_on=(Family.TE, Family.OD), levers=Levers(lr_scale=0.5))
    (started,) = ward.entries
    assert (started.kind, started.id, started.incident) == (K.STARTED, START, 0)
    assert dict(started.fields) == {"mode": "advise", "act_on": "TE,OD", "policy": "ask", "lever_lr_scale": 0.5}


def test_resumed_run_says_so(admit: Admit) -> None:
    ward = admit(start=StepId(1, 12, 15))
    assert ward.kinds == [K.DECLARED]
    assert ward.last(K.DECLARED) == {"change": "resume", "reason": "goes on from step 12"}


def test_news_tell_every_entry_once_and_the_order_that_waits(admit: Admit) -> None:
    ward = admit()
    first = ward.judge(Assessment(report(1), None))
    assert [entry.kind for entry in first.entries] == [K.STARTED]
    assert first.order is None
    ill = ward.fall_ill()
    assert [entry.kind for entry in ill.entries] == [K.OPENED, K.DIAGNOSED, K.DECIDED]
    assert ill.order is not None
    assert (ill.order.number, ill.order.remedy) == (1, "retry")
    again = ward.judge(Assessment(report(7), None))
    assert (again.entries, again.order) == ((), ill.order), "it waits still"
    ward.carry_out(1)
    assert tuple(ward.said) == ward.entries


def test_order_is_written_before_it_is_carried_out_and_after(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    assert ward.begin(1).granted
    assert ward.kinds == [K.OPENED, K.DIAGNOSED, K.DECIDED, K.APPLYING]
    assert ward.last(K.APPLYING) == {"order": 1, "remedy": "retry", "restore_step": None}
    settlement = ward.done(1)
    assert ward.kinds[4:] == [K.APPLIED, K.DECLARED]
    assert {entry.id for entry in ward.entries[-3:]} == {FOLLOWING}
    assert ward.last(K.APPLIED) == {
        "order": 1, "remedy": "retry", "role": "remedy", "seconds": 0.25, "halt": "no", "restored": None,
        "lever_tool_retries": 2,
    }  # fmt: skip
    assert settlement.change is not None
    assert settlement.change.signals == signals_of(["tool_retries"])
    assert settlement.rewound_to is None


def test_order_is_carried_out_once(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    assert ward.begin(1).granted
    assert not ward.begin(1).granted, "it is under way"
    ward.done(1)
    kinds = ward.kinds
    assert not ward.begin(1).granted
    with pytest.raises(GuardError, match="Order 1 ends and was not begun"):
        ward.done(1)
    assert ward.kinds == kinds


def test_order_that_is_under_way_is_not_given_again(admit: Admit) -> None:
    """A verdict that was late is considered while the order of an earlier one is being carried out."""
    ward = admit()
    order = ward.fall_ill().order
    assert ward.judge(Assessment(report(7), None)).order == order
    ward.begin(1)
    assert ward.judge(Assessment(report(8), None)).order is None


@pytest.mark.parametrize("number", [0, 2, 99])
def test_wrong_number_does_nothing(admit: Admit, number: int) -> None:
    ward = admit()
    assert not ward.begin(number).granted
    order = ward.fall_ill().order
    kinds = ward.kinds
    assert not ward.begin(number).granted
    ward.begin(1)
    with pytest.raises(GuardError, match=f"Order {number} ends and was not begun"):
        ward.done(number)
    assert ward.kinds == [*kinds, K.APPLYING]
    assert order is not None


def test_end_of_an_order_that_was_not_begun_is_refused(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    kinds = ward.kinds
    with pytest.raises(GuardError, match="Order 1 ends and was not begun"):
        ward.done(1)
    assert ward.kinds == kinds


def test_order_that_fails_half_way_is_written_down_and_changes_nothing(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    ward.begin(1)
    settlement = ward.done(1, OrderResult(0.5, "The learner is gone."))
    assert ward.kinds[-2:] == [K.APPLYING, K.FAILED]
    assert ward.last(K.FAILED) == {"order": 1, "reason": "The learner is gone."}
    assert (settlement.change, settlement.rewound_to) == (None, None)


def test_failed_order_is_not_tried_again(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    ward.begin(1)
    ward.done(1, OrderResult(0.5, "The learner is gone."))
    assert not ward.begin(1).granted
    assert ward.judge().order is None


def test_rollback_is_confirmed_and_says_how_far_the_monitor_goes_back(admit: Admit) -> None:
    ward = admit(BACK)
    ward.fall_ill("OD-1", 0.95)
    settlement = ward.carry_out(1, probed=0.2)
    assert ward.kinds == [K.OPENED, K.DIAGNOSED, K.DECIDED, K.CONFIRMED, K.APPLYING, K.APPLIED, K.DECLARED]
    confirmed = ward.last(K.CONFIRMED)
    assert (confirmed["order"], confirmed["probe_before"], confirmed["probe_now"]) == (1, 0.8, 0.2)
    assert (ward.last(K.APPLYING)["restore_step"], ward.last(K.APPLIED)["restored"]) == (5, 5)
    # From the first step after the snapshot; rewound detectors are not settled.
    levers = Levers(lr_scale=0.5, kl_coef_scale=2.0)
    expected = Expected(expected_sides(levers), (("update_gain", 1),))
    change = DeclaredChange("levers", 6, ("kl_ref", "loss"), "order 1: back", expected=expected, levers=levers)
    assert settlement.change == change
    assert settlement.rewound_to == 5


def test_rollback_goes_to_a_snapshot_that_the_learner_held_when_the_step_was_made(admit: Admit) -> None:
    ward = admit(BACK)
    ward.fall_ill("OD-1")
    assert ward.policy.seen[-1].snapshots == (0, 5)
    ward = admit(BACK)
    diagnosis = Diagnosis("OD-1", Family.OD, 0.9, (), (), 6, 6, "")
    order = ward.judge(Assessment(replace(report(6), snapshots=(0, 2, 4, 6)), diagnosis)).order
    assert ward.policy.seen[-1].snapshots == (0, 2, 4, 6)
    assert order is not None
    assert order.restore_step == 4


def test_steps_that_a_rollback_undoes_are_no_evidence_any_more(admit: Admit) -> None:
    ward = admit(BACK)
    ward.fall_ill("OD-1")
    ward.carry_out(1, probed=0.2)
    diagnosis = Diagnosis("OD-1", Family.OD, 0.9, (), (), 6, 6, "")
    again = replace(report(6, 1), id=StepId(1, 6, 8))
    ward.judge(Assessment(again, diagnosis))
    # The fault is back at once, so the policy is asked again.
    assert [(r.id.attempt, r.id.step) for r in ward.policy.seen[-1].reports] == [
        *((0, step) for step in range(1, 6)), (1, 6),
    ]  # fmt: skip


COSTLY = [BACK, Remedy("stop", halt=True), Remedy("freeze", Levers(freeze_policy=1))]


@pytest.mark.parametrize("remedy", COSTLY, ids=lambda remedy: remedy.name)
def test_costly_order_that_is_not_confirmed_may_not_be_carried_out(admit: Admit, remedy: Remedy) -> None:
    ward = admit(remedy)
    order = ward.fall_ill("OD-1", 1.0).order
    assert order is not None
    assert order.is_costly
    assert not ward.begin(1, probed=0.8).granted
    assert ward.kinds[-1] is K.UNCONFIRMED
    reason = "held-out accuracy is 0.800, was 0.800: it stands, and no broken identity of the fault shows damage"
    assert ward.last(K.UNCONFIRMED)["reason"] == reason
    assert ward.judge().order is None
    assert not ward.begin(1, probed=0.2).granted


def test_gentle_order_is_not_confirmed(admit: Admit) -> None:
    ward = admit(RETRY)
    order = ward.fall_ill(probability=0.95).order
    assert order is not None
    assert not order.is_costly
    assert ward.begin(1).granted
    assert K.CONFIRMED not in ward.kinds


def test_end_that_the_guard_orders_is_not_asked_to_be_confirmed(admit: Admit) -> None:
    ward = admit(None, verify_steps=1, halts=True)
    order = ward.fall_ill(evidence=Evidence.IDENTITY).order
    assert order is not None
    assert (order.halt, order.is_costly) == (True, False)
    ward.carry_out(1)
    assert ward.last(K.APPLIED)["halt"] == "yes"


def test_change_that_moves_no_signal_is_told_and_not_journalled(admit: Admit) -> None:
    ward = admit(SLOW)
    ward.fall_ill("OD-1")
    settlement = ward.carry_out(1)
    change = settlement.change
    assert ward.kinds[-1] is K.APPLIED
    assert change is not None
    assert (change.step, change.signals, change.reason, settlement.rewound_to) == (7, (), "order 1: slow", None)
    assert change.settled == FINGERPRINTS["OD-1"].harm, "what is seen of it from now on speaks of the remedy"


def test_late_verdict_is_journalled(admit: Admit) -> None:
    ward = admit()
    ward.actor.note_late(FOLLOWING, 0.123456)
    assert ward.last(K.LATE) == {"waited_s": 0.123}
    assert ward.entries[-1].id == FOLLOWING


def test_end_counts_what_there_was(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    ward.carry_out(1)
    ward.judge(Assessment(report(7), None), Assessment(report(8, probe_accuracy=0.8), None))
    diagnosis = Diagnosis("OD-1", Family.OD, 0.3, (), (), 9, 9, "")
    ward.judge(Assessment(report(9), diagnosis))
    totals = ward.actor.finish(StepId(0, 9, 9))
    assert [entry.kind for entry in totals.entries] == [K.ENDED]
    assert dict(totals.entries[0].fields) == {"incidents": 2, "remedies": 1, "open": 1}
    resolved = IncidentSummary("TE-1", 6, 6, "resolved", ("retry",), "resolved")
    suspected = IncidentSummary("OD-1", 9, 9, "suspected", (), None)
    assert totals == GuardTotals((resolved, suspected), 1, ward.entries[-1:])


def test_nothing_is_done_that_cannot_be_journalled(admit: Admit, monkeypatch: pytest.MonkeyPatch) -> None:
    ward = admit()
    ward.fall_ill()

    def full(self: Journal, entry: Entry) -> None:
        raise RecordError("full")

    monkeypatch.setattr(Journal, "write", full)
    with pytest.raises(RecordError):
        ward.begin(1)
    monkeypatch.undo()
    with pytest.raises(GuardError, match="was not begun"):
        ward.done(1)
