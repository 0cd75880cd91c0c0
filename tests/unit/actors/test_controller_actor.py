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
from rftfm_ray.actors.group import ActorGroup
from rftfm_ray.actors.roles import Role
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.errors import LearnerError, RecordError
from rftfm_ray.incidents.messages import GuardTotals, News
from rftfm_ray.incidents.settings import IncidentSettings
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.taxonomy import family_of
from rftfm_ray.telemetry.journal import JOURNAL, Journal, read_journal
from rftfm_ray.types import GuardMode, Levers, Position, Settings, StepId
from rftfm_ray.verdicts import Assessment, Decision, DeclaredChange, Diagnosis, Family, Order, Remedy, StepReport

K = EntryKind
PLAIN = IncidentSettings(
    mode=GuardMode.ACT, act_on=tuple(Family), verify_steps=2, cooldown_steps=0, budget=9, return_after=5, halts=False,
    probe_size=256, nominal=Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False),
)  # fmt: skip
START = StepId(0, 0, 0)
STAND, PROMPT_DEPENDENT = Position(StepId(0, 6, 6), 6, 96), StepId(0, 7, 7)
RESTORED = Position(StepId(1, 5, 7), 7, 80)
RETRY = Remedy("retry", Levers(tool_retries=2))
SLOW = Remedy("slow", Levers(lr_scale=0.5))
BACK = Remedy("back", Levers(lr_scale=0.5, kl_coef_scale=2.0), rollback=True)


@dataclass
class Hands:
    """An executor that does nothing, and remembers what the journal held when it was asked to."""

    journal: Path
    accuracy: float = 0.2
    error: Exception | None = None
    orders: list[tuple[Order, Position, StepId]] = field(default_factory=list)
    told: list[tuple[DeclaredChange, int | None]] = field(default_factory=list)
    groups: list[ActorGroup] = field(default_factory=list)
    probed: list[Position] = field(default_factory=list)
    seen: list[tuple[str, EntryKind]] = field(default_factory=list)

    def _look(self, call: str) -> None:
        self.seen.append((call, read_journal(self.journal)[0][-1].kind))

    def snapshots(self) -> tuple[int, ...]:
        """Two of them."""
        return (0, 5)

    def probe(self, stand: Position) -> float:
        """Held-out accuracy, as it was set."""
        self._look("probe")
        self.probed.append(stand)
        return self.accuracy

    def carry_out(self, order: Order, stand: Position, following: StepId) -> tuple[Position | None, str]:
        """Remember it."""
        self._look("carry_out")
        self.orders.append((order, stand, following))
        if self.error is not None:
            raise self.error
        return (None if order.restore_step is None else RESTORED), "checkpoint-6" if order.halt else ""

    def tell_monitor(self, change: DeclaredChange, rewound_to: int | None) -> None:
        """Remember it."""
        self._look("tell_monitor")
        self.told.append((change, rewound_to))

    def regroup(self, group: ActorGroup) -> None:
        """Remember it."""
        self.groups.append(group)


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
    """A controller, its hands, and its journal."""

    actor: ControllerActor
    policy: Ask
    hands: Hands
    journal: Path
    said: list[Entry] = field(default_factory=list)

    def judge(self, *assessments: Assessment) -> News:
        """Hand assessments over."""
        news = self.actor.consider(assessments)
        self.said += news.entries
        return news

    def execute(self, number: int, stand: Position = STAND) -> News:
        """Reach a boundary with an order."""
        news = self.actor.execute(number, stand, PROMPT_DEPENDENT)
        self.said += news.entries
        return news

    def fall_ill(self, code: str = "TE-1", probability: float = 0.9) -> News:
        """Five steps of health, with a probe in the fifth, and one of a fault."""
        healthy = [Assessment(report(step), None) for step in range(1, 5)]
        diagnosis = Diagnosis(code, family_of(code), probability, (), (), 6, 6, code)
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
        hands = Hands(journal)
        actor.attach(str(journal), hands, start, levers if levers is not None else Levers())
        return Ward(actor, policy, hands, journal)

    return make


def report(step: int, attempt: int = 0, **signals: float) -> StepReport:
    """A step without a finding, but for the signals that are given."""
    values = dict.fromkeys(INDEX, 0.0) | {"probe_accuracy": math.nan} | signals
    assert len(values) == len(SIGNALS), "no such signal"
    return StepReport(StepId(attempt, step, step), step, tuple(values[signal.name] for signal in SIGNALS))


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
    ward.execute(1)
    assert tuple(ward.said) == ward.entries


def test_what_is_done_is_written_before_and_after(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    news = ward.execute(1)
    assert ward.kinds == [K.OPENED, K.DIAGNOSED, K.DECIDED, K.APPLYING, K.APPLIED, K.DECLARED]
    assert ward.hands.seen == [("carry_out", K.APPLYING), ("tell_monitor", K.DECLARED)]
    ((order, stand, following),) = ward.hands.orders
    assert (order.number, order.levers, stand, following) == (1, Levers(tool_retries=2), STAND, PROMPT_DEPENDENT)
    assert {entry.id for entry in ward.entries[-3:]} == {PROMPT_DEPENDENT}
    assert ward.last(K.APPLYING) == {"order": 1, "remedy": "retry", "restore_step": None}
    applied = ward.last(K.APPLIED)
    assert applied.pop("seconds") >= 0
    assert applied == {
        "order": 1, "remedy": "retry", "role": "remedy", "halt": "no", "restored": None, "lever_tool_retries": 2,
    }  # fmt: skip
    assert news.change is not None
    assert (news.change.remedy, news.change.reason, news.change.levers) == ("retry", "because", Levers(tool_retries=2))
    assert (news.change.position, news.change.halt, news.change.checkpoint) == (None, False, "")


def test_order_is_carried_out_once(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    ward.execute(1)
    kinds = ward.kinds
    assert ward.execute(1) == News(())
    assert (len(ward.hands.orders), ward.kinds) == (1, kinds)


@pytest.mark.parametrize("number", [0, 2, 99])
def test_wrong_number_does_nothing(admit: Admit, number: int) -> None:
    ward = admit()
    assert ward.execute(number).change is None
    order = ward.fall_ill().order
    kinds = ward.kinds
    assert ward.execute(number).change is None
    assert (ward.hands.orders, ward.kinds) == ([], kinds)
    assert ward.judge().order == order, "it waits still"


def test_order_that_fails_half_way_is_written_down_and_the_error_goes_on(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    ward.hands.error = LearnerError("The learner is gone.")
    with pytest.raises(LearnerError, match="gone"):
        ward.execute(1)
    assert ward.kinds[-2:] == [K.APPLYING, K.FAILED]
    assert ward.last(K.FAILED) == {"order": 1, "reason": "The learner is gone."}
    assert ward.hands.told == []


def test_any_error_is_written_down(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    ward.hands.error = KeyError("a bug")
    with pytest.raises(KeyError):
        ward.execute(1)
    assert ward.kinds[-1] is K.FAILED


def test_failed_order_is_not_tried_again(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    ward.hands.error = LearnerError("The learner is gone.")
    with pytest.raises(LearnerError):
        ward.execute(1)
    ward.hands.error = None
    ward.execute(1)
    assert len(ward.hands.orders) == 1


def test_rollback_is_confirmed_told_and_hands_back_where_the_run_stands(admit: Admit) -> None:
    ward = admit(BACK)
    ward.fall_ill("OD-1", 0.7)
    news = ward.execute(1)
    assert ward.kinds == [K.OPENED, K.DIAGNOSED, K.DECIDED, K.CONFIRMED, K.APPLYING, K.APPLIED, K.DECLARED]
    assert [call for call, _ in ward.hands.seen] == ["probe", "carry_out", "tell_monitor"]
    assert ward.hands.probed == [STAND]
    confirmed = ward.last(K.CONFIRMED)
    assert (confirmed["order"], confirmed["probe_before"], confirmed["probe_now"]) == (1, 0.8, 0.2)
    assert (ward.last(K.APPLYING)["restore_step"], ward.last(K.APPLIED)["restored"]) == (5, 5)
    assert news.change is not None
    assert news.change.position == RESTORED
    change = DeclaredChange("levers", 6, ("kl_ref",), "order 1: back", mitigated=())
    assert ward.hands.told == [(change, 5)], "from the first step after the snapshot; rewound detectors are not settled"


def test_steps_that_a_rollback_undoes_are_no_evidence_any_more(admit: Admit) -> None:
    ward = admit(BACK)
    ward.fall_ill("OD-1")
    ward.execute(1)
    diagnosis = Diagnosis("OD-1", Family.OD, 0.9, (), (), 6, 6, "")
    again = [replace(report(step, 1), id=StepId(1, step, step + 2)) for step in (6, 7)]
    ward.judge(*(Assessment(each, diagnosis) for each in again))
    assert [(r.id.attempt, r.id.step) for r in ward.policy.seen[-1].reports] == [
        *((0, step) for step in range(1, 6)), (1, 6), (1, 7),
    ]  # fmt: skip


@pytest.mark.parametrize("remedy", [BACK, Remedy("stop", halt=True)])
def test_costly_order_that_is_not_confirmed_is_not_carried_out(admit: Admit, remedy: Remedy) -> None:
    ward = admit(remedy)
    ward.fall_ill("OD-1", 0.7)
    ward.hands.accuracy = 0.8
    news = ward.execute(1)
    assert news.change is None
    assert (ward.hands.orders, ward.hands.told) == ([], [])
    assert ward.kinds[-1] is K.UNCONFIRMED
    assert "not enough" in ward.last(K.UNCONFIRMED)["reason"]
    assert ward.judge().order is None
    assert ward.execute(1).change is None


def test_clear_evidence_needs_no_fallen_probe(admit: Admit) -> None:
    ward = admit(BACK)
    ward.fall_ill("OD-1", 0.95)
    ward.hands.accuracy = 0.8
    assert ward.execute(1).change is not None


def test_gentle_order_is_not_probed(admit: Admit) -> None:
    ward = admit(RETRY)
    ward.fall_ill(probability=0.7)
    ward.hands.accuracy = 0.8
    assert ward.execute(1).change is not None
    assert ward.hands.probed == []


def test_end_that_the_guard_orders_is_not_asked_to_be_confirmed(admit: Admit) -> None:
    ward = admit(None, verify_steps=1, halts=True)
    ward.fall_ill()
    news = ward.execute(1)
    assert news.change is not None
    assert (news.change.halt, news.change.checkpoint, ward.hands.probed) == (True, "checkpoint-6", [])
    assert ward.last(K.APPLIED)["halt"] == "yes"


def test_change_that_moves_no_signal_is_told_and_not_journalled(admit: Admit) -> None:
    ward = admit(SLOW)
    ward.fall_ill("OD-1")
    ward.execute(1)
    assert ward.kinds[-1] is K.APPLIED
    ((change, rewound),) = ward.hands.told
    assert (change.step, change.signals, change.reason, rewound) == (7, (), "order 1: slow", None)
    assert change.settled == FINGERPRINTS["OD-1"].harm, "what is seen of it from now on speaks of the remedy"


def test_late_verdict_is_journalled(admit: Admit) -> None:
    ward = admit()
    ward.actor.note_late(PROMPT_DEPENDENT, 0.123456)
    assert ward.last(K.LATE) == {"waited_s": 0.123}
    assert ward.entries[-1].id == PROMPT_DEPENDENT


def test_end_counts_what_there_was(admit: Admit) -> None:
    ward = admit()
    ward.fall_ill()
    ward.execute(1)
    ward.judge(Assessment(report(7), None), Assessment(report(8), None))
    diagnosis = Diagnosis("OD-1", Family.OD, 0.3, (), (), 9, 9, "")
    ward.judge(Assessment(report(9), diagnosis))
    totals = ward.actor.finish(StepId(0, 9, 9))
    assert (totals.incidents, totals.remedies) == (2, 1)
    assert [entry.kind for entry in totals.entries] == [K.ENDED]
    assert dict(totals.entries[0].fields) == {"incidents": 2, "remedies": 1, "open": 1}
    assert totals == GuardTotals(2, 1, ward.entries[-1:])


def test_nothing_is_done_that_cannot_be_journalled(admit: Admit, monkeypatch: pytest.MonkeyPatch) -> None:
    ward = admit()
    ward.fall_ill()

    def full(self: Journal, entry: Entry) -> None:
        raise RecordError("full")

    monkeypatch.setattr(Journal, "write", full)
    with pytest.raises(RecordError):
        ward.execute(1)
    assert (ward.hands.orders, ward.hands.told) == ([], [])
