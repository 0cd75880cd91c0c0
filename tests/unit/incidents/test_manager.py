"""What becomes of one incident, one tick at a time: scripted policies, hand-made assessments, no actor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from rftfm_ray.config import RunConfig
from rftfm_ray.diagnosis.fingerprints import family_of
from rftfm_ray.errors import RecordError
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.manager import PATIENCE, Treatment, TreatmentSettings, treatment_settings
from rftfm_ray.incidents.state import Entry, EntryKind, Incident, Scalar, lever_fields, replay
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import GuardMode, Levers, Settings, StepId
from rftfm_ray.verdicts import (
    Assessment,
    Decision,
    Diagnosis,
    Family,
    IncidentState,
    Order,
    OrderRole,
    OutcomeKind,
    Remedy,
    StepReport,
    Tried,
)

NOMINAL = Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False)
PLAIN = TreatmentSettings(
    mode=GuardMode.ACT, act_on=tuple(Family), verify_steps=3, cooldown_steps=0, budget=4, return_after=5, halts=False,
    probe_size=256, nominal=NOMINAL,
)  # fmt: skip
FIRST = Remedy("first", Levers(tool_instance=1))
SECOND = Remedy("second", Levers(tool_retries=2))
BACK = Remedy("back", Levers(lr_scale=0.5), rollback=True, skip_batches=2)
SICK = {"tool_error_rate": 0.5}


class Script:
    """A policy that gives its answers in their order, and its last one from then on."""

    def __init__(self, answers: Sequence[Remedy | None]) -> None:
        self.answers = list(answers)
        self.seen: list[PolicyContext] = []

    def decide(self, ctx: PolicyContext) -> Decision:
        """The next answer."""
        self.seen.append(ctx)
        remedy = self.answers[min(len(self.seen), len(self.answers)) - 1]
        why = f"{remedy.name} is next" if remedy else "nothing is left"
        return Decision(remedy, why, (("asked", len(self.seen)),))


class Clinic:
    """Treatment within what the controller makes around it. Five usual steps have passed."""

    def __init__(self, *answers: Remedy | None, snapshots: tuple[int, ...] = (0, 5), **changed: Any) -> None:
        self.entries: list[Entry] = []
        self.script = Script(answers)
        policy = SafePolicy(self.script, "script", 30.0)
        self.ledger = Ledger(self.entries.append)
        self.treatment = Treatment(replace(PLAIN, **changed), policy, lambda: snapshots, self.ledger)
        self.attempt = self.step = self.paid = 0
        self.pass_by(5)

    def tick(self, diagnosis: Diagnosis | None = None, **signals: float) -> Order | None:
        """One more step is judged."""
        self.step, self.paid = self.step + 1, self.paid + 1
        usual = {"probe_accuracy": math.nan, "lr": 1e-3, "update_ratio": 0.01}
        values = dict.fromkeys(INDEX, 0.0) | usual | signals
        assert len(values) == len(SIGNALS), "no such signal"
        place = StepId(self.attempt, self.step, self.paid)
        report = StepReport(place, self.paid, tuple(values[signal.name] for signal in SIGNALS))
        return self.treatment.consider(Assessment(report, diagnosis))

    def pass_by(self, steps: int, diagnosis: Diagnosis | None = None, **signals: float) -> None:
        """Several equal steps that lead to no order."""
        for _ in range(steps):
            assert self.tick(diagnosis, **signals) is None

    def carry_out(self) -> Order:
        """Do what the pending order says, at the boundary of the step under way."""
        order = self.treatment.pending
        assert order is not None
        following = StepId(self.attempt, self.step + 1, self.paid + 1)
        told: dict[str, Scalar] = {"order": order.number, "remedy": order.remedy, "role": order.role.value}
        told |= {"halt": "yes" if order.halt else "no", **dict(lever_fields(order.levers))}
        self.ledger.write(EntryKind.APPLIED, following, order.incident, tuple(told.items()))
        self.treatment.settle()
        if order.restore_step is not None:
            self.treatment.rewind(order.restore_step)
            # The step under way has been paid for and is thrown away.
            self.attempt, self.step, self.paid = self.attempt + 1, order.restore_step, self.paid + 1
        return order

    def fall_ill(self, diagnosis: Diagnosis | None = None, **signals: float) -> Order | None:
        """The first step of a fault."""
        return self.tick(diagnosis or fault(), **(signals or SICK))

    @property
    def incident(self) -> Incident:
        """The newest incident."""
        return self.ledger.state.incidents[-1]

    def now(self) -> IncidentState:
        """The newest incident's state."""
        return self.incident.state

    @property
    def kinds(self) -> list[EntryKind]:
        """Kinds of the entries, in their order."""
        return [entry.kind for entry in self.entries]

    def last(self, kind: EntryKind) -> Entry:
        """The newest entry of a kind."""
        return next(entry for entry in reversed(self.entries) if entry.kind is kind)


def fault(code: str = "TE-1", probability: float = 0.9, onset: int = 6) -> Diagnosis:
    """A diagnosis."""
    return Diagnosis(code, family_of(code), probability, (), (), onset, onset, f"{code} it is")


K = EntryKind


def test_life_of_an_incident_that_is_contained() -> None:
    clinic = Clinic(FIRST)
    assert clinic.fall_ill(fault(probability=0.5)) is None
    assert clinic.now() is IncidentState.SUSPECTED
    order = clinic.tick(fault(), **SICK)
    assert clinic.now() is IncidentState.TREATING
    expected = Order(1, 1, OrderRole.REMEDY, "first", "first is next", Levers(tool_instance=1))
    assert order == expected
    assert clinic.carry_out() == expected
    assert clinic.now() is IncidentState.VERIFYING
    clinic.pass_by(2, None, tool_shadow_error_rate=0.5)
    assert clinic.now() is IncidentState.VERIFYING
    clinic.tick(None, tool_shadow_error_rate=0.5)
    assert clinic.now() is IncidentState.RESOLVED
    assert clinic.incident.tried == (Tried("first", 8, Levers(), OutcomeKind.CONTAINED),)
    assert clinic.kinds == [K.OPENED, K.DIAGNOSED, K.DECIDED, K.APPLIED, K.OUTCOME, K.CLOSED]
    assert clinic.ledger.state.levers == Levers(tool_instance=1)
    assert clinic.ledger.state.owners == (("tool_instance", 1),)


def test_entries_tell_the_whole_story() -> None:
    clinic = Clinic(FIRST)
    clinic.fall_ill(fault(probability=0.87654))
    named = {"code": "TE-1", "family": "TE", "onset": 6, "onset_low": 6, "probability": 0.8765}
    assert dict(clinic.last(K.OPENED).fields) == named | {"reason": ""}
    assert dict(clinic.last(K.DIAGNOSED).fields) == named | {"summary": "TE-1 it is", "rivals": "", "evidence": ""}
    decided = dict(clinic.last(K.DECIDED).fields)
    assert {"order": 1, "remedy": "first", "policy": "script", "lever_tool_instance": 1}.items() <= decided.items()
    clinic.carry_out()
    clinic.pass_by(3)
    outcome = dict(clinic.last(K.OUTCOME).fields)
    assert (outcome["outcome"], outcome["remedy"]) == ("cured", "first")
    assert str(clinic.last(K.CLOSED).text("reason")).startswith("cured by first")
    assert {(entry.id.step, entry.incident) for entry in clinic.entries} == {(6, 1), (7, 1), (9, 1)}
    assert [entry.seq for entry in clinic.entries] == list(range(1, len(clinic.entries) + 1))


def test_suspicion_that_fades_is_resolved_by_itself() -> None:
    clinic = Clinic(FIRST)
    clinic.fall_ill(fault(probability=0.5))
    clinic.pass_by(2)
    clinic.tick(fault(probability=0.5))
    clinic.pass_by(2)
    assert clinic.now() is IncidentState.SUSPECTED, "silence counts from its last alarm"
    clinic.pass_by(1)
    assert clinic.now() is IncidentState.RESOLVED
    assert clinic.incident.reason == "the alarm has gone by itself"
    assert clinic.kinds == [K.OPENED, K.CLOSED]


def test_unlikely_explanation_is_only_suspected_until_patience_ends() -> None:
    clinic = Clinic(FIRST)
    clinic.fall_ill(fault(probability=0.4))
    clinic.pass_by(PATIENCE - 1, fault(probability=0.4))
    assert clinic.now() is IncidentState.SUSPECTED
    assert clinic.tick(fault(probability=0.4)) is not None
    assert clinic.kinds == [K.OPENED, K.DIAGNOSED, K.DECIDED]


@pytest.mark.parametrize(("probability", "named"), [(0.6, True), (math.nextafter(0.6, 0), False)])
def test_probability_that_is_enough(probability: float, named: bool) -> None:
    clinic = Clinic(None)
    clinic.fall_ill(fault(probability=probability))
    assert (K.DIAGNOSED in clinic.kinds) is named


def test_suspicion_takes_the_name_that_leads_in_the_end() -> None:
    clinic = Clinic(FIRST)
    clinic.fall_ill(fault("RF-1", 0.4))
    clinic.tick(fault("TE-1"), **SICK)
    assert (clinic.incident.code, clinic.incident.family) == ("TE-1", Family.TE)
    assert len(clinic.ledger.state.incidents) == 1


def test_untreated_incident_is_renamed_when_another_explanation_leads() -> None:
    clinic = Clinic(None, SECOND)
    clinic.fall_ill(fault("RF-1"))
    clinic.tick(fault("TE-1"), **SICK)
    assert [entry.text("code") for entry in clinic.entries if entry.kind is K.DIAGNOSED] == ["RF-1", "TE-1"]
    assert clinic.script.seen[-1].diagnosis.code == "TE-1"
    assert len(clinic.ledger.state.incidents) == 1


def test_what_did_not_help_is_undone_before_the_next_thing_is_tried() -> None:
    clinic = Clinic(FIRST, SECOND)
    clinic.fall_ill()
    clinic.carry_out()
    clinic.pass_by(2, fault(), **SICK)
    order = clinic.tick(fault(), **SICK)
    assert clinic.last(K.OUTCOME).text("outcome") == "ineffective"
    assert order is not None
    assert (order.number, order.remedy, order.levers) == (2, "second", Levers(tool_retries=2))
    assert [tried.outcome for tried in clinic.script.seen[-1].tried] == [OutcomeKind.INEFFECTIVE]
    clinic.carry_out()
    assert clinic.ledger.state.owners == (("tool_retries", 1),)
    clinic.pass_by(3)
    assert [tried.outcome for tried in clinic.incident.tried] == [OutcomeKind.INEFFECTIVE, OutcomeKind.CURED]


def test_second_failure_is_undone_as_far_as_the_first() -> None:
    clinic = Clinic(FIRST, SECOND, None)
    clinic.fall_ill()
    clinic.carry_out()
    clinic.pass_by(2, fault(), **SICK)
    clinic.tick(fault(), **SICK)
    clinic.carry_out()
    assert [tried.before for tried in clinic.incident.tried] == [Levers(), Levers()]
    clinic.pass_by(2, fault(), **SICK)
    order = clinic.tick(fault(), **SICK)
    assert order is not None
    assert (order.role, order.levers) == (OrderRole.UNDO, Levers())


def test_harmful_remedy_makes_way_at_once() -> None:
    clinic = Clinic(FIRST, SECOND, verify_steps=10)
    clinic.fall_ill()
    clinic.carry_out()
    clinic.pass_by(1, fault(), probe_accuracy=0.9)
    order = clinic.tick(fault(), probe_accuracy=0.5)
    assert clinic.last(K.OUTCOME).text("outcome") == "worse"
    assert order is not None
    assert order.levers == Levers(tool_retries=2)


def test_probe_from_before_the_remedy_does_not_speak_against_it() -> None:
    clinic = Clinic(FIRST, SECOND)
    clinic.pass_by(1, None, probe_accuracy=0.9)
    clinic.fall_ill(fault(onset=7))
    clinic.carry_out()
    clinic.pass_by(1, None, probe_accuracy=0.3)
    clinic.pass_by(2)
    assert clinic.last(K.OUTCOME).text("outcome") == "cured"


def test_without_a_further_remedy_people_are_called_and_levers_go_back() -> None:
    clinic = Clinic(FIRST, None)
    clinic.fall_ill()
    clinic.carry_out()
    clinic.pass_by(2, fault(), **SICK)
    order = clinic.tick(fault(), **SICK)
    assert (clinic.incident.state, clinic.incident.reason) == (IncidentState.ESCALATED, "nothing is left")
    assert order == Order(2, 1, OrderRole.UNDO, "undo", "nothing is left", Levers())
    clinic.carry_out()
    assert clinic.ledger.state.levers == Levers()
    assert clinic.ledger.state.owners == ()


def test_policy_that_waits_is_asked_again_and_noted_once() -> None:
    clinic = Clinic(None, None, FIRST, verify_steps=4)
    clinic.fall_ill()
    clinic.pass_by(1, fault(), **SICK)
    assert clinic.tick(fault(), **SICK) is not None
    assert clinic.kinds == [K.OPENED, K.DIAGNOSED, K.HELD, K.DECIDED]
    assert dict(clinic.last(K.HELD).fields) == {"policy": "script", "reason": "nothing is left"}


def test_policy_that_always_waits_is_escalated() -> None:
    clinic = Clinic(None, verify_steps=4)
    clinic.fall_ill()
    clinic.pass_by(2, fault(), **SICK)
    assert clinic.now() is IncidentState.DIAGNOSED
    clinic.pass_by(1, fault(), **SICK)
    assert clinic.now() is IncidentState.ESCALATED
    assert len(clinic.script.seen) == 4


def test_cooldown_keeps_remedies_of_an_incident_apart() -> None:
    clinic = Clinic(FIRST, SECOND, verify_steps=1, cooldown_steps=4)
    clinic.fall_ill()
    clinic.carry_out()
    assert clinic.incident.tried[0].paid_step == 7
    clinic.pass_by(4, fault(), **SICK)
    assert clinic.now() is IncidentState.DIAGNOSED
    order = clinic.tick(fault(), **SICK)
    assert (clinic.paid, order and order.remedy) == (11, "second")


@pytest.mark.parametrize(
    ("changed", "entries"),
    [
        ({"mode": GuardMode.OBSERVE}, [K.OPENED, K.DIAGNOSED]),
        ({"mode": GuardMode.ADVISE}, [K.OPENED, K.DIAGNOSED, K.ADVISED]),
        ({"act_on": (Family.OD, Family.RF)}, [K.OPENED, K.DIAGNOSED, K.ADVISED]),
        ({"act_on": ()}, [K.OPENED, K.DIAGNOSED, K.ADVISED]),
        ({"act_on": (Family.TE,)}, [K.OPENED, K.DIAGNOSED, K.DECIDED]),
    ],
)
def test_how_far_the_guard_goes(changed: dict[str, Any], entries: list[EntryKind]) -> None:
    clinic = Clinic(FIRST, **changed)
    clinic.fall_ill()
    for _ in range(9):
        clinic.tick(fault(), **SICK)
    assert clinic.kinds == entries
    assert (clinic.treatment.pending is not None) is (K.DECIDED in entries)
    assert len(clinic.script.seen) == (0 if changed.get("mode") is GuardMode.OBSERVE else 1)
    assert clinic.ledger.state.spent == (((Family.TE, 1),) if K.DECIDED in entries else ())


def test_advised_incident_ends_with_its_alarm() -> None:
    clinic = Clinic(FIRST, mode=GuardMode.ADVISE)
    clinic.fall_ill()
    clinic.pass_by(3)
    assert clinic.now() is IncidentState.RESOLVED
    told = dict(clinic.last(K.ADVISED).fields)
    assert {"remedy": "first", "lever_tool_instance": 1}.items() <= told.items()


def test_no_second_order_while_one_waits() -> None:
    clinic = Clinic(FIRST, SECOND)
    order = clinic.fall_ill()
    clinic.pass_by(20, fault(), **SICK)
    clinic.pass_by(20)
    assert clinic.treatment.pending is order
    assert len(clinic.script.seen) == 1
    assert clinic.kinds.count(K.DECIDED) == 1


def test_rollback_goes_to_a_snapshot_from_before_the_fault_and_skips() -> None:
    clinic = Clinic(BACK, snapshots=(0, 4, 5, 6, 7))
    clinic.fall_ill(replace(fault("OD-1", onset=7), onset_low=6))
    order = clinic.carry_out()
    assert (order.restore_step, order.skip_batches, order.levers) == (5, 2, Levers(lr_scale=0.5))
    assert clinic.last(K.DECIDED).whole("restore_step") == 5


def test_rollback_without_a_snapshot_from_before_is_refused() -> None:
    clinic = Clinic(BACK, snapshots=(6, 7))
    assert clinic.fall_ill(fault("OD-1")) is None
    assert clinic.last(K.REFUSED).text("remedy") == "back"
    assert clinic.now() is IncidentState.DIAGNOSED


@pytest.mark.parametrize("good", range(6))
def test_what_cannot_be_journalled_does_not_happen(good: int) -> None:
    clinic = Clinic(FIRST)
    clinic.ledger = Ledger(lambda entry: full_after(good, clinic.entries, entry))
    policy = SafePolicy(clinic.script, "script", 30.0)
    clinic.treatment = Treatment(PLAIN, policy, lambda: (0,), clinic.ledger)
    clinic.pass_by(5)
    with pytest.raises(RecordError):
        life(clinic)
    assert len(clinic.entries) == good
    assert clinic.ledger.state == replay(tuple(clinic.entries))
    assert (clinic.treatment.pending is not None) is (good == 3), "an order is given once it is journalled"


def full_after(good: int, entries: list[Entry], entry: Entry) -> None:
    """A journal with room for `good` entries."""
    if len(entries) == good:
        raise RecordError("full")
    entries.append(entry)


def life(clinic: Clinic) -> None:
    """Opened, diagnosed, decided, applied, outcome, closed."""
    clinic.fall_ill()
    clinic.carry_out()
    clinic.pass_by(3)


def test_settings_are_those_of_the_configuration() -> None:
    config = RunConfig.model_validate(
        {"guard": {"mode": "act", "on_give_up": "halt", "budget": 7}, "learner": {"lr": 0.5}}
    )
    settings = treatment_settings(config)
    assert (settings.mode, settings.halts, settings.budget, settings.nominal.lr) == (GuardMode.ACT, True, 7, 0.5)
    assert not treatment_settings(RunConfig()).halts
