"""Long stories of a run: several incidents, levers on their way back, rollbacks, and what was not confirmed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from rftfm_ray.diagnosis.fingerprints import family_of
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.manager import Treatment, TreatmentSettings
from rftfm_ray.incidents.state import Entry, EntryKind, Incident, Scalar, lever_fields
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
    Remedy,
    StepReport,
)

RETURN_AFTER, VERIFY = 5, 3
PLAIN = TreatmentSettings(
    mode=GuardMode.ACT, act_on=tuple(Family), verify_steps=VERIFY, cooldown_steps=0, budget=4,
    return_after=RETURN_AFTER, halts=False, probe_size=256,
    nominal=Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False),
)  # fmt: skip
OTHER_TOOL = Remedy("other_tool", Levers(tool_instance=1))
RETRY = Remedy("retry", Levers(tool_retries=2))
SLOW = Remedy("slow", Levers(lr_scale=0.5, kl_coef_scale=2.0))
BACK = Remedy("back", Levers(lr_scale=0.5), rollback=True)
SICK = {"tool_error_rate": 0.5}
K = EntryKind
Answer = Remedy | None | Exception


@dataclass
class Script:
    """A policy that gives its answers in their order, and its last one from then on."""

    answers: Sequence[Answer]
    seen: list[PolicyContext]

    def decide(self, ctx: PolicyContext) -> Decision:
        """The next answer."""
        self.seen.append(ctx)
        answer = self.answers[min(len(self.seen), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return Decision(answer, "it is next", (("asked", len(self.seen)),))


class Story:
    """A run as its controller sees it: steps that are judged, and orders that are carried out between them."""

    def __init__(
        self, *answers: Answer, snapshots: tuple[int, ...] = (0,), levers: Levers | None = None, **changed: Any
    ) -> None:
        self.entries: list[Entry] = []
        self.script = Script(answers, [])
        self.ledger = Ledger(self.entries.append)
        policy = SafePolicy(self.script, "script", 30.0)
        self.treatment = Treatment(replace(PLAIN, **changed), policy, lambda: snapshots, self.ledger)
        self.place = StepId(0, 0, 0)
        self.write(K.STARTED, 0, dict(lever_fields(levers or Levers())))

    def write(self, kind: EntryKind, incident: int, told: dict[str, Scalar]) -> None:
        """An entry of the actor's own, about the step under way."""
        following = StepId(self.place.attempt, self.place.step + 1, self.place.paid_step + 1)
        self.ledger.write(kind, following, incident, tuple(told.items()))

    def report(self, **signals: float) -> StepReport:
        """A report of the step where the run stands."""
        usual = {"probe_accuracy": math.nan, "lr": 1e-3, "update_ratio": 0.01}
        values = dict.fromkeys(INDEX, 0.0) | usual | signals
        assert len(values) == len(SIGNALS), "no such signal"
        return StepReport(self.place, self.place.paid_step, tuple(values[signal.name] for signal in SIGNALS))

    def tick(self, diagnosis: Diagnosis | None = None, **signals: float) -> Order | None:
        """One more step is judged."""
        self.place = StepId(self.place.attempt, self.place.step + 1, self.place.paid_step + 1)
        return self.treatment.consider(Assessment(self.report(**signals), diagnosis))

    def pass_by(self, steps: int, diagnosis: Diagnosis | None = None, **signals: float) -> None:
        """Several equal steps that lead to no order."""
        for _ in range(steps):
            assert self.tick(diagnosis, **signals) is None

    def carry_out(self) -> Order:
        """Do what the pending order says."""
        order = self.treatment.pending
        assert order is not None
        told: dict[str, Scalar] = {"order": order.number, "remedy": order.remedy, "role": order.role.value}
        told |= {"halt": "yes" if order.halt else "no", **dict(lever_fields(order.levers))}
        self.write(K.APPLIED, order.incident, told)
        self.treatment.settle()
        if order.restore_step is not None:
            self.treatment.rewind(order.restore_step)
            self.place = StepId(self.place.attempt + 1, order.restore_step, self.place.paid_step + 1)
        return order

    def leave_undone(self) -> None:
        """The probe did not confirm what the pending order is for."""
        order = self.treatment.pending
        assert order is not None
        self.write(K.UNCONFIRMED, order.incident, {"order": order.number})
        self.treatment.settle()

    def treated(self, diagnosis: Diagnosis, harm: dict[str, float], **source: float) -> None:
        """An incident from its first step to its verified remedy."""
        assert self.tick(diagnosis, **harm) is not None
        self.carry_out()
        self.pass_by(VERIFY - 1, None, **source)

    @property
    def incident(self) -> Incident:
        """The newest incident."""
        return self.ledger.state.incidents[-1]


def fault(code: str = "TE-1", probability: float = 0.9, onset: int = 6) -> Diagnosis:
    """A diagnosis."""
    return Diagnosis(code, family_of(code), probability, (), (), onset, onset, code)


def test_helping_lever_goes_back_first_and_the_other_when_the_source_is_silent() -> None:
    story = Story(SLOW)
    story.pass_by(5)
    source = {"schedule_excess": 1.0}
    story.treated(fault("OD-1"), {"update_ratio": 1.0}, **source)
    order = story.tick(None, **source)
    assert story.incident.reason.startswith("contained")
    reason = f"nothing has been seen in {VERIFY} steps of what it was moved for"
    assert order == Order(2, 1, OrderRole.RETURN, "return kl_coef_scale", reason, Levers(lr_scale=0.5))
    assert story.entries[-1].kind is K.RETURNING
    story.carry_out()
    story.pass_by(20, None, **source)
    story.pass_by(RETURN_AFTER - 1)
    assert story.ledger.state.levers == Levers(lr_scale=0.5)
    assert story.tick() is not None
    assert story.carry_out().levers == Levers()


def test_levers_go_back_one_at_a_time_with_a_wait_between_them() -> None:
    story = Story(Remedy("all", Levers(tool_instance=1, tool_retries=2, refill_rounds=1)))
    story.pass_by(5)
    story.treated(fault(), SICK)
    story.pass_by(1)
    moved: list[tuple[int, str]] = []
    for _ in range(3 * RETURN_AFTER):
        if story.tick() is not None:
            moved.append((story.place.paid_step, story.carry_out().remedy))
    first = moved[0][0]
    assert first == 6 + RETURN_AFTER, "the first step under the remedy is the seventh"
    names = ["return tool_instance", "return tool_retries", "return refill_rounds"]
    assert moved == [(first + n * RETURN_AFTER, name) for n, name in enumerate(names)]
    assert (story.ledger.state.levers, story.ledger.state.owners) == (Levers(), ())


def test_wait_doubles_with_each_relapse() -> None:
    story = Story(OTHER_TOOL)
    story.pass_by(5)
    waits = []
    for _ in range(3):
        story.treated(fault(), SICK)
        began = story.incident.tried[0].paid_step
        while story.treatment.pending is None:
            story.tick()
        waits.append(story.place.paid_step - began + 1)
        story.carry_out()
    assert waits == [RETURN_AFTER, 2 * RETURN_AFTER, 4 * RETURN_AFTER]


def test_levers_that_no_incident_owns_go_back_step_by_step() -> None:
    story = Story(None, levers=Levers(lr_scale=0.01))
    passed: list[float | None] = [story.ledger.state.levers.lr_scale]
    while passed[-1] is not None:
        story.pass_by(VERIFY - 1, None, **SICK)
        assert story.tick(None, **SICK) is not None
        order = story.carry_out()
        assert (order.incident, order.role) == (0, OrderRole.RETURN)
        passed.append(order.levers.lr_scale)
    scales = [scale for scale in passed if scale is not None]
    assert len(scales) > 2
    assert scales == sorted(scales)


@pytest.mark.parametrize("mode", [GuardMode.OBSERVE, GuardMode.ADVISE])
def test_guard_that_does_not_act_moves_no_lever_back(mode: GuardMode) -> None:
    Story(None, levers=Levers(tool_retries=3), mode=mode).pass_by(30)


def test_no_lever_goes_back_while_anything_is_open() -> None:
    story = Story(OTHER_TOOL, None, act_on=(Family.TE,), verify_steps=30, return_after=2)
    story.pass_by(5)
    story.tick(fault(), **SICK)
    story.carry_out()
    story.pass_by(29)
    story.tick()
    story.treatment.settle()
    assert story.incident.state is IncidentState.RESOLVED
    story.pass_by(20, fault("RF-3"))


def test_two_faults_one_after_the_other() -> None:
    story = Story(OTHER_TOOL, SLOW)
    story.pass_by(5)
    # Its source persists, so what contains it stays.
    story.treated(fault(), SICK, tool_shadow_error_rate=0.5)
    story.pass_by(1, None, tool_shadow_error_rate=0.5)
    story.treated(fault("OD-1", onset=9), {"update_ratio": 1.0})
    assert story.ledger.state.levers == Levers(lr_scale=0.5, kl_coef_scale=2.0, tool_instance=1)
    assert dict(story.ledger.state.owners) == {"lr_scale": 2, "kl_coef_scale": 2, "tool_instance": 1}


def test_what_is_seen_beside_a_treated_incident_is_its_after_effect() -> None:
    story = Story(OTHER_TOOL, SLOW)
    story.pass_by(5)
    story.tick(fault(), **SICK)
    story.pass_by(1, fault("OD-1"))
    story.carry_out()
    story.pass_by(VERIFY - 1, fault("OD-1"))
    assert len(story.ledger.state.incidents) == 1
    story.tick(fault("OD-1"))
    assert story.ledger.state.incidents[0].state is IncidentState.RESOLVED
    assert story.tick(fault("OD-1")) is not None
    assert story.incident.code == "OD-1"


def test_advised_incident_hides_no_other_one() -> None:
    story = Story(SLOW, OTHER_TOOL, act_on=(Family.TE,))
    story.pass_by(5)
    story.pass_by(2, fault("OD-1"))
    order = story.tick(fault(), **SICK)
    assert order is not None
    assert (order.incident, order.remedy) == (2, "other_tool")
    assert [incident.code for incident in story.ledger.state.open_incidents()] == ["OD-1", "TE-1"]


def test_after_effect_between_two_remedies_opens_nothing() -> None:
    story = Story(OTHER_TOOL, cooldown_steps=VERIFY + 3)
    story.pass_by(5)
    story.tick(fault(), **SICK)
    story.carry_out()
    story.pass_by(VERIFY, fault(), **SICK)
    story.tick(fault("OD-1"), **SICK)
    assert len(story.ledger.state.incidents) == 1


def test_what_nobody_could_mend_is_not_opened_again_while_it_lasts() -> None:
    story = Story(None)
    story.pass_by(VERIFY + 10, fault(), **SICK)
    assert [entry.kind for entry in story.entries[1:]] == [K.OPENED, K.DIAGNOSED, K.HELD, K.CLOSED]
    story.pass_by(VERIFY - 1)
    story.pass_by(1, fault(), **SICK)
    assert len(story.ledger.state.incidents) == 1, "it must have been silent for long"
    story.pass_by(VERIFY)
    story.pass_by(1, fault(), **SICK)
    assert len(story.ledger.state.incidents) == 2


def test_other_name_for_what_nobody_could_mend_opens_nothing() -> None:
    story = Story(None)
    story.pass_by(VERIFY, fault(), **SICK)
    story.tick(fault("UNKNOWN"), **SICK)
    assert len(story.ledger.state.incidents) == 1


def test_budget_of_a_family_is_for_the_whole_run() -> None:
    story = Story(OTHER_TOOL, budget=2)
    for _ in range(2):
        story.treated(fault(), SICK)
        story.pass_by(1)
    assert story.tick(fault(), **SICK) is None
    assert story.incident.state is IncidentState.GIVEN_UP
    assert story.incident.reason == "guard.budget=2 remedies for TE are spent"
    story.pass_by(VERIFY)
    assert story.tick(fault("OD-1")) is not None, "another family has a budget of its own"
    assert [ctx.budget_left for ctx in story.script.seen] == [2, 1, 2]


def test_end_of_the_run_is_ordered_where_that_is_wanted() -> None:
    story = Story(None, verify_steps=1, halts=True)
    assert story.tick(fault(), **SICK) == Order(1, 1, OrderRole.HALT, "halt", "it is next", Levers(), halt=True)
    story.carry_out()
    assert story.ledger.state.halted
    story = Story(Remedy("stop", halt=True))
    story.tick(fault(), **SICK)
    assert story.carry_out().halt


@pytest.mark.parametrize("changed", [{"mode": GuardMode.ADVISE}, {"act_on": (Family.OD,)}])
def test_guard_that_does_not_act_ends_no_run(changed: dict[str, Any]) -> None:
    story = Story(None, verify_steps=1, halts=True, **changed)
    story.pass_by(1, fault(), **SICK)
    assert story.incident.state is IncidentState.ESCALATED


def test_unconfirmed_order_is_dropped_and_the_policy_asked_again() -> None:
    story = Story(BACK, RETRY)
    assert story.tick(fault("OD-1")) is not None
    story.leave_undone()
    assert (story.incident.state, story.incident.tried) == (IncidentState.DIAGNOSED, ())
    story.tick(fault("OD-1"))
    order = story.carry_out()
    assert (order.number, order.remedy) == (2, "retry")


def test_unconfirmed_orders_spend_no_budget_and_end_with_a_person() -> None:
    story = Story(BACK, budget=2)
    for _ in range(4):
        if story.tick(fault("OD-1", 0.7)) is not None:
            story.leave_undone()
    assert story.incident.reason == "what was wanted was not confirmed 3 times"


def test_rollback_forgets_the_steps_that_it_undoes() -> None:
    story = Story(BACK, RETRY, snapshots=(0, 5))
    story.pass_by(4)
    story.pass_by(1, None, probe_accuracy=0.8)
    story.pass_by(2)
    story.tick(fault("OD-1", onset=7), probe_accuracy=0.2, update_ratio=1.0)
    assert story.treatment.newest_probe() == 0.8, "of the weights from before the fault"
    story.carry_out()
    story.pass_by(VERIFY - 1, fault("OD-1", onset=7), update_ratio=1.0)
    story.tick(fault("OD-1", onset=7), update_ratio=1.0)
    seen = story.script.seen[-1].reports
    places = [(report.id.attempt, report.id.step, report.id.paid_step) for report in seen]
    assert places == [*((0, n, n) for n in range(1, 6)), (1, 6, 10), (1, 7, 11), (1, 8, 12)]


def test_what_is_usual_is_not_learned_from_a_treated_fault() -> None:
    story = Story(OTHER_TOOL)
    story.pass_by(5)
    story.tick(fault(onset=6), **SICK)
    story.carry_out()
    story.pass_by(VERIFY - 1, fault(onset=99), **SICK)
    story.tick(None, **SICK)
    outcome = dict(next(entry.fields for entry in story.entries if entry.kind is K.OUTCOME))
    assert float(str(outcome["severity_before"])) > 10


def test_rollback_goes_to_before_the_earliest_onset_that_was_ever_seen() -> None:
    story = Story(OTHER_TOOL, BACK, snapshots=(5, 10))
    story.pass_by(6)
    story.tick(fault(onset=6), **SICK)
    story.carry_out()
    story.pass_by(VERIFY - 1, fault(onset=6), **SICK)
    # The alarm that saw it first has gone; the one that stands is younger.
    order = story.tick(fault(onset=11), **SICK)
    assert order is not None
    assert order.restore_step == 5


def test_unconfirmed_rollback_is_not_dated_later_when_it_is_asked_for_again() -> None:
    story = Story(BACK, snapshots=(5, 10))
    story.tick(fault("OD-1", 0.7, onset=6))
    story.leave_undone()
    assert story.tick(fault("OD-1", 0.7, onset=11)) is not None
    assert story.carry_out().restore_step == 5


def test_late_report_of_an_abandoned_attempt_is_no_part_of_the_lineage() -> None:
    story = Story(BACK, snapshots=(0, 5))
    story.pass_by(7)
    story.tick(fault("OD-1", onset=7))
    late = replace(story.report(probe_accuracy=0.1), id=StepId(0, 9, 9))
    story.carry_out()
    story.treatment.consider(Assessment(late, None))
    assert math.isnan(story.treatment.newest_probe())


def test_policy_keeps_its_state_and_its_mistakes_are_told() -> None:
    bold = Remedy("bold", Levers(lr_scale=9.0))
    story = Story(None, bold, ValueError("no"), RETRY, verify_steps=9)
    for _ in range(4):
        story.tick(fault(), **SICK)
    assert [ctx.state for ctx in story.script.seen] == [(), (("asked", 1),), (), ()]
    refused = next(entry for entry in story.entries if entry.kind is K.REFUSED)
    assert (refused.text("policy"), refused.text("remedy")) == ("script", "bold")
    assert refused.text("reason").startswith("Remedy bold: Lever lr_scale=9.0 is out of bounds")
    failed = next(entry for entry in story.entries if entry.kind is K.POLICY_FAILED)
    assert dict(failed.fields) == {"policy": "script", "reason": "it raised ValueError: no"}
    assert story.ledger.state.policy_failures == 1


def test_detector_that_was_disabled_is_told() -> None:
    story = Story(None)
    story.treatment.consider(Assessment(story.report(), None, (("probe", "KeyError: 'x'"),)))
    assert (story.entries[-1].kind, dict(story.entries[-1].fields)["name"]) == (K.DISABLED, "probe")
