"""The guard adapter on simulated runs, and against the parts of the guard that a live run has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.actors.monitor import MonitorActor
from rftfm_ray.actors.roles import Role
from rftfm_ray.detection.detectors.custom import CustomDetector
from rftfm_ray.detection.monitor import Monitor, MonitorPlan
from rftfm_ray.detection.reference.mixture import Reference, reference_of
from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.detection.state import State
from rftfm_ray.detection.suite import monitor_settings
from rftfm_ray.diagnosis.assessor import Assessor
from rftfm_ray.diagnosis.diagnoser import FaultDiagnoser
from rftfm_ray.faultbench.detectors.alarms import Alarm, alarms_while
from rftfm_ray.faultbench.detectors.baselines import ThreeSigma
from rftfm_ray.faultbench.detectors.guard import LAWS, OpenedIncident, guard_trace, opened_incidents
from rftfm_ray.faultbench.detectors.oracle import Oracle
from rftfm_ray.faultbench.detectors.references import ReferenceMode, References
from rftfm_ray.faultbench.detectors.shifts import fault_of
from rftfm_ray.faultbench.reproduce import live_reference
from rftfm_ray.faultbench.runs.dataset import NAMES, Recorded
from rftfm_ray.faultbench.runs.declared import SNAPSHOT_EVERY, declarations, watched
from rftfm_ray.faultbench.runs.plan import Kind
from rftfm_ray.faultbench.scoring.guarding import GuardSetup, watch_runs
from rftfm_ray.faultbench.scoring.judging import false_alarms, recall
from rftfm_ray.faultbench.scoring.score import DetectorScore
from rftfm_ray.faultbench.scoring.thresholds import ScoredRun, score_all, tuned_threshold
from rftfm_ray.incidents.guardian import Guardian
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.incidents.state import Entry as JournalEntry
from rftfm_ray.policies.loading import PLAYBOOK
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.tasks import relations
from rftfm_ray.types import GuardMode, StepId
from rftfm_ray.verdicts import Assessment, Declaration, Evidence, StepReport
from tests.unit.doubles import recorded_runs
from tests.unit.faultbench.simulated import ONSET, SHIFTS, following, simulated

RECORDED = list(recorded_runs(1))
"""Ten healthy runs that were made on the real stack."""
CALIBRATE = [simulated(seed) for seed in range(24)] + [simulated(seed, fault) for seed in range(6) for fault in SHIFTS]
TUNE = [simulated(seed) for seed in range(1000, 1100)]


@pytest.fixture(scope="module", autouse=True)
def _rewards_follow_nothing() -> Iterator[None]:
    """Simulated rewards follow the share of right answers closely, and not as the task says: that is no law here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relations, "RELATIONS", {})
        yield


@pytest.fixture(scope="module")
def setup() -> GuardSetup:
    """Simulated runs before the guard, with a full profile and no multiplier."""
    return GuardSetup(References(CALIBRATE), ReferenceMode.PROFILE, multiplier=1.0)


@pytest.fixture(scope="module")
def threshold(setup: GuardSetup) -> float:
    """Of scores by telemetry, tuned to the budget."""
    return tuned_threshold(watch_runs(TUNE, setup, workers=1).scored("telemetry"))


def test_healthy_runs_stay_within_the_budget(setup: GuardSetup, threshold: float) -> None:
    fresh = watch_runs([simulated(seed) for seed in range(2000, 2100)], setup, workers=1)
    assert false_alarms(fresh.results_at("telemetry", threshold))["rate"] < 2.0
    # What theory and the calibrate split lead to is not far from what the tune split asks for.
    assert 0.25 < threshold < 1.6


@pytest.mark.parametrize("fault", list(SHIFTS))
def test_most_of_what_the_oracle_finds_is_found(setup: GuardSetup, threshold: float, fault: str) -> None:
    faulty = [simulated(seed, fault) for seed in range(3000, 3040)]
    count = recall(watch_runs(faulty, setup, workers=1).results_at("telemetry", threshold)).count
    oracle, expected = Oracle(CALIBRATE), fault_of(faulty[0].entry)
    limit = tuned_threshold([[ScoredRun(run, oracle.scores(run, expected)) for run in TUNE]])
    best = DetectorScore("oracle", [ScoredRun(run, oracle.scores(run, expected)) for run in faulty], limit)
    assert count >= 0.9 * recall(best.results()).count > 30
    rule = ThreeSigma()
    rule.fit(CALIBRATE)
    sigma = tuned_threshold([score_all(rule, TUNE)])
    assert count > recall(DetectorScore(rule.name, score_all(rule, faulty), sigma).results()).count + 10


def test_scores_know_nothing_of_later_steps(setup: GuardSetup) -> None:
    run = simulated(3002, "template")
    early = replace(run, values=run.values[:20])
    for evidence in ("telemetry", "all"):
        np.testing.assert_array_equal(setup.trace(run, 0).scores(evidence)[:20], setup.trace(early, 0).scores(evidence))


def test_growth_that_is_asked_for_is_not_held_against_the_policy(threshold: float) -> None:
    references = References([following(seed) for seed in range(24)])
    setup = GuardSetup(references, ReferenceMode.PROFILE, multiplier=1.0)
    runs = {asked: [following(seed, longer=True, asked=asked) for seed in range(5000, 5020)] for asked in (True, False)}
    alarmed = {
        asked: sum(setup.trace(run, 0).telemetry_scores.max() >= 1.5 * threshold for run in some)
        for asked, some in runs.items()
    }
    assert alarmed[True] <= 1
    assert alarmed[False] >= 18


def test_what_was_declared_has_no_reference_any_more(setup: GuardSetup, threshold: float) -> None:
    run = simulated(6000)
    run.values[ONSET - 1 :, [NAMES.index(name) for name in ("reward_mean", "grad_norm")]] *= 10
    declared = replace(run, entry=replace(run.entry, inject=(f"reward_scale@{ONSET}",), kind=Kind.CONTROL))
    assert setup.trace(run, 0).telemetry_scores.max() > 3 * threshold
    assert setup.trace(declared, 0).telemetry_scores.max() * 2 < 3 * threshold


def test_beyond_the_profile_a_run_is_compared_with_its_own_past() -> None:
    setup = GuardSetup(References(CALIBRATE, shipped_priors=True), ReferenceMode.PROFILE, multiplier=1.0)
    healthy = watch_runs([simulated(seed, steps=200) for seed in range(4000, 4020)], setup, workers=1)
    # 4,000 steps that rise by 3 standard deviations; against the profile's last step all of them would alarm.
    assert false_alarms(healthy.results("telemetry"))["rate"] < 4.0
    faulty = [simulated(seed, "relation", steps=200, onset=150, size=8) for seed in range(4100, 4110)]
    results = watch_runs(faulty, setup, workers=1).results("telemetry").pooled
    assert sum(run.delay is not None and run.delay <= 2 for run in results if run.is_detected) >= 9


def moved(run: Recorded, since: int, *inject: str, **shifts: float) -> Recorded:
    """A run of which some signals are set from a step on, and to which something was done on purpose."""
    values = run.values.copy()
    for name, value in shifts.items():
        values[since - 1 :, NAMES.index(name)] = value
    entry = replace(run.entry, kind=Kind.CONTROL if inject else run.entry.kind, inject=inject)
    return replace(run, entry=entry, values=values)


MISMATCH = {"trained_mismatch_rate": 0.5, "regrade_error_mean": 1.0}
CASES = {
    "healthy": RECORDED[0],
    "channel": moved(RECORDED[0], 20, **MISMATCH),
    "telemetry": moved(RECORDED[1], 20, reward_mean=-1.0, entropy=0.01, grad_norm=40.0),
    "declared": moved(RECORDED[2], 12, "lr_step@12", update_ratio=0.1),
    "undeclared": moved(RECORDED[2], 12, update_ratio=0.1),
    "declared and faulty": moved(RECORDED[3], 25, "batch_size@9", entropy=0.01, grad_norm=40.0),
    "resumed": moved(RECORDED[4], 7, "resume@7", **MISMATCH),
}


def test_laws_are_evidence_beside_telemetry() -> None:
    trace = guard_trace(moved(RECORDED[0], 20, advantage_mean=0.5), reference_of(None, None))
    assert [math.isinf(trace.scores(evidence)[19]) for evidence in ("telemetry", LAWS, "all")] == [False, True, True]
    assert not np.isinf(trace.scores(LAWS)[:19]).any()
    assert trace.alarms(LAWS)


def one_by_one(run: Recorded, reference: Reference) -> tuple[tuple[Alarm, ...], tuple[Alarm, ...]]:
    """Alarms by telemetry and by any evidence of a monitor that is given each report as a live one is."""
    config = watched(run.entry)
    monitor = Monitor(monitor_settings(config), reference)
    changes = {one.id.step: one.change for one in declarations(run.entry, config)}
    alarmed = list[set[Evidence]]()
    for report in run.reports():
        if report.id.step in changes:
            monitor.declare(changes[report.id.step])
        (observation,) = monitor.observe([report])
        alarmed.append({symptom.evidence for symptom in observation.symptoms if symptom.alarm})
    return alarms_while(Evidence.TELEMETRY in kinds for kinds in alarmed), alarms_while(map(bool, alarmed))


def incidents_one_by_one(run: Recorded, reference: Reference) -> tuple[OpenedIncident, ...]:
    """Incidents of a guardian in `observe` that is given each report as a live one is."""
    config, journal = watched(run.entry), list[JournalEntry]()
    config = config.model_copy(update={"guard": config.guard.model_copy(update={"mode": GuardMode.OBSERVE})})
    monitor = Monitor(monitor_settings(config), reference)
    guardian = Guardian(
        Assessor(monitor, FaultDiagnoser(), keep_every=5, keep=2), incident_settings(config),
        SafePolicy(Playbook(), PLAYBOOK, config.guard.policy_timeout_s), lambda: (0,), journal.append,
    )  # fmt: skip
    guardian.start(StepId(0, 0, 0))
    declared = {one.id.step: one for one in declarations(run.entry, config)}
    for report in run.reports():
        if report.id.step in declared:
            guardian.declare(declared[report.id.step])
        guardian.step(report)
    return opened_incidents(journal)


@pytest.mark.parametrize("case", list(CASES))
def test_adapter_reaches_what_reports_one_by_one_lead_to(case: str) -> None:
    run, reference = CASES[case], live_reference(CASES[case])
    trace = guard_trace(run, reference)
    assert (trace.telemetry, trace.every) == one_by_one(run, reference)
    assert trace.incidents == incidents_one_by_one(run, reference)
    # Both kinds of cases are there: without them the comparison says nothing.
    assert bool(trace.every) is (case not in ("healthy", "declared"))


class _Silent:
    def set(self, state: object) -> None:
        """Nothing to show."""


@pytest.fixture
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors neither rename this process nor show gauges."""
    for name in ("rename_process", "StateGauge"):
        monkeypatch.setattr(f"rftfm_ray.actors.monitor.{name}", lambda *_: _Silent())


@pytest.mark.usefixtures("_no_ray")
@pytest.mark.parametrize("case", list(CASES))
def test_live_actor_reaches_the_verdicts_of_the_adapter(case: str) -> None:
    run, reference = CASES[case], live_reference(CASES[case])
    config = watched(run.entry)
    actor = MonitorActor(Role("run", "monitor", 0, ""), MonitorPlan(monitor_settings(config), reference=reference))
    declared = {one.id.step: one for one in declarations(run.entry, config)}
    items = list[StepReport | Declaration]()
    for report in run.reports():
        items += [declared[report.id.step]] if report.id.step in declared else []
        items.append(report)
    assessed = list[Assessment | Declaration]()
    for start in range(0, len(items), 7):
        assessed += actor.assess(items[start : start + 7])
    live = alarms_while(one.diagnosis is not None for one in assessed if isinstance(one, Assessment))
    assert live == guard_trace(run, reference).every


def test_guard_does_nothing_about_healthy_runs() -> None:
    traces = [guard_trace(run, live_reference(run)) for run in RECORDED]
    assert [(one.name, one.orders) for one in traces if one.orders or one.incidents] == []


def test_guard_acts_on_rewards_that_the_verifier_does_not_confirm() -> None:
    trace = guard_trace(CASES["channel"], live_reference(CASES["channel"]))
    # An independent channel is sure at once.
    assert [(order.step, order.remedy) for order in trace.orders] == [(20, "regrade")]
    assert trace.incidents == (OpenedIncident(20, "RF-1"),)


class Unsavable:
    """A user's detector that keeps what cannot be saved once it has seen a step, and speaks at step 20."""

    name = "unsavable"

    def observe(self, view: StepView) -> Floats:
        """Twice the threshold from step 20 on."""
        self.rows = [view.values[-1]]
        return np.where(view.steps >= 20, 2.0, 0.0)


def test_detector_whose_state_cannot_be_saved_is_disabled_where_a_live_run_would() -> None:
    run, reference = RECORDED[0], live_reference(RECORDED[0])
    config = watched(run.entry)
    monitor = Monitor(monitor_settings(config), reference, [CustomDetector(Unsavable())], shipped=False)
    live = Assessor(monitor, FaultDiagnoser(), config.snapshots.every, config.snapshots.keep)
    said = [(one.report.id.step, one.disabled) for r in run.reports() for one in live.assess([r]) if one.disabled]
    trace = guard_trace(run, reference, lambda: [CustomDetector(Unsavable())])
    assert said == [(SNAPSHOT_EVERY + 1, trace.disabled)]
    assert (trace.every, trace.incidents) == ((), ())
    assert "Unsavable.rows" in trace.disabled[0][1]


def test_no_states_of_the_shipped_detectors_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, state_dict = list[Monitor](), Monitor.state_dict

    def counted(monitor: Monitor) -> State:
        asked.append(monitor)
        return state_dict(monitor)

    monkeypatch.setattr(Monitor, "state_dict", counted)
    guard_trace(RECORDED[0], live_reference(RECORDED[0]))
    assert len(asked) == 1, "the initial one"


def test_a_run_with_a_fault_is_not_judged_in_act() -> None:
    faulty = replace(CASES["channel"], entry=simulated(0, "template").entry)
    trace = guard_trace(faulty, live_reference(CASES["channel"]))
    assert (len(trace.incidents), trace.orders) == (1, ())


@pytest.mark.parametrize(
    ("inject", "step", "signal"),
    [(("lr_step@12",), 12, "update_ratio"), (("batch_size@9",), 9, "trajectory_count"), (("resume@7",), 7, None)],
)
def test_guard_is_told_of_what_is_declared(inject: tuple[str, ...], step: int, signal: str | None) -> None:
    run = moved(RECORDED[0], 1, *inject)
    (declaration,) = declarations(run.entry, watched(run.entry))
    assert declaration.id.step == declaration.change.step == step
    assert signal is None or signal in declaration.change.signals
    assert guard_trace(run, live_reference(run)).orders == ()


def test_what_is_not_declared_is_not_told() -> None:
    entry = replace(RECORDED[0].entry, inject=("restart_rollout@5", "RF-1@12:0.5"))
    assert list(declarations(entry, watched(entry))) == []
