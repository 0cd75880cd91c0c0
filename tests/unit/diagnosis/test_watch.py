"""The monitor's judgement: windows that go back with a rollback, detectors that fail alone, state that stays small."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from rftfm_ray.actors.monitor import MonitorActor
from rftfm_ray.actors.roles import Role
from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.detection.suite import WatchSettings, battery
from rftfm_ray.diagnosis import watch as watch_module
from rftfm_ray.diagnosis.watch import Watch
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import Assessment, Declaration, DeclaredChange, Evidence, StepReport, Symptom

Make = Callable[..., StepReport]
Recorded = dict[str, list[StepReport]]


class Counting:
    """Alarms while its own count of steps is one of `at`; raises at the step `broken`."""

    def __init__(self, name: str, at: Sequence[int] = (), broken: int = 0) -> None:
        self.name = name
        self.at = at
        self.broken = broken
        self.count = 0
        self.told: list[tuple[str, tuple[str, ...], int]] = []

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        """Count, and say so where it is due."""
        self.count += 1
        if report.id.step == self.broken:
            raise ZeroDivisionError("no reference" + "!" * 400)
        if self.count not in self.at:
            return ()
        reason, step = f"count is {self.count}", report.id.step
        return [
            Symptom(self.name, "update_ratio", Evidence.TELEMETRY, True, 1, self.count, 0.0, 10.0, step, step, reason)
        ]

    def forget(self, signals: Sequence[str], step: int) -> None:
        """Remember what was asked."""
        self.told.append(("forget", tuple(signals), step))

    def settle(self, signals: Sequence[str]) -> None:
        """Remember what was asked."""
        self.told.append(("settle", tuple(signals), 0))


def _same(left: Sequence[Assessment], right: Sequence[Assessment]) -> bool:
    """Equal, where NaN equals NaN."""
    return repr(left) == repr(right)


def _codes(assessments: Sequence[Assessment]) -> dict[int, str]:
    return {a.report.id.step: a.diagnosis.code for a in assessments if a.diagnosis}


@pytest.mark.parametrize("step", [5, 10, 15, 20])
def test_rewound_watch_judges_the_same_reports_the_same(
    recorded: Recorded, watch_settings: WatchSettings, step: int
) -> None:
    reports = recorded["arithmetic_od1"][:25]
    watch = Watch(watch_settings)
    first = [watch.assess(report) for report in reports]
    watch.rewind(step)
    again = [watch.assess(report) for report in reports[step:]]
    assert any(a.diagnosis for a in first[step:])
    assert _same(again, first[step:])
    watch.rewind(step)
    assert _same([watch.assess(report) for report in reports[step:]], first[step:]), "and once more"


def test_rewinding_to_a_step_between_goes_to_the_newest_kept_before_it(
    make_report: Make, watch_settings: WatchSettings
) -> None:
    watch = Watch(watch_settings, [Counting("count", at=(11,))])
    for step in range(1, 15):
        watch.assess(make_report(step))
    watch.rewind(12)
    assert watch.assess(make_report(13)).diagnosis is not None, "its count is 11 again"


def test_rewinding_to_the_start_forgets_the_run(recorded: Recorded, watch_settings: WatchSettings) -> None:
    reports = recorded["calculator_od1"][:20]
    watch = Watch(replace(watch_settings, keep=100))
    first = [watch.assess(report) for report in reports]
    watch.rewind(0)
    assert _same([watch.assess(report) for report in reports], first)


def test_steps_that_were_undone_leave_nothing(recorded: Recorded, watch_settings: WatchSettings) -> None:
    """Fifteen faulty steps, undone: the healthy course from there is judged as if they had never been."""
    faulty, healthy = recorded["calculator_od1"], recorded["calculator_1"]
    watch, clean = Watch(watch_settings), Watch(watch_settings)
    for report in healthy[:10]:
        watch.assess(report)
        clean.assess(report)
    assert _codes([watch.assess(report) for report in faulty[10:25]])
    watch.rewind(10)
    assert _same(*([w.assess(report) for report in healthy[10:]] for w in (watch, clean)))


@pytest.mark.parametrize(("keep", "every"), [(1, 5), (4, 5), (4, 1), (2, 7)])
def test_kept_states_are_bounded_and_reach_as_far_as_the_snapshots(
    make_report: Make, watch_settings: WatchSettings, keep: int, every: int
) -> None:
    watch = Watch(replace(watch_settings, keep=keep, keep_every=every), [Counting("count")])
    sizes = []
    for step in range(1, 61):
        watch.assess(make_report(step))
        sizes.append(len(pickle.dumps(watch)))
    # Snapshots of the learner: the newest `keep` multiples of `every`.
    for step in [s for s in range(60, 0, -1) if s % every == 0][:keep]:
        watch.rewind(step)
        assert [d.count for d in watch._detectors if isinstance(d, Counting)] == [step]
    assert max(sizes[30:]) - min(sizes[30:]) < 30


def test_without_snapshots_only_the_start_is_kept(make_report: Make, watch_settings: WatchSettings) -> None:
    watch = Watch(replace(watch_settings, keep_every=0), [Counting("count", at=(1,))])
    for step in range(1, 30):
        watch.assess(make_report(step))
    watch.rewind(20)
    assert watch.assess(make_report(21)).diagnosis is not None


def test_detector_that_raises_is_disabled_said_once_and_the_others_go_on(
    make_report: Make, watch_settings: WatchSettings, caplog: pytest.LogCaptureFixture
) -> None:
    detectors = [Counting("first", at=(8,)), Counting("broken", broken=7), Counting("last", at=(7, 8))]
    watch = Watch(watch_settings, detectors)
    with caplog.at_level(logging.WARNING, watch_module.__name__):
        found = [watch.assess(make_report(step)) for step in range(1, 10)]
    assert [len(a.disabled) for a in found] == [0] * 6 + [1, 0, 0]
    ((name, reason),) = found[6].disabled
    assert name == "broken"
    assert reason.startswith("ZeroDivisionError: no reference!")
    assert len(reason) == 300
    assert "broken" in caplog.text
    assert watch.active == ("first", "last")
    assert [len(a.diagnosis.symptoms) if a.diagnosis else 0 for a in found] == [0] * 6 + [1, 2, 0]


def test_disabled_detector_does_not_come_back_with_a_rollback(make_report: Make, watch_settings: WatchSettings) -> None:
    watch = Watch(watch_settings, [Counting("broken", broken=7), Counting("other")])
    for step in range(1, 9):
        watch.assess(make_report(step))
    watch.rewind(5)
    assert watch.active == ("other",)
    assert all(not watch.assess(make_report(step)).disabled for step in range(6, 9))


def test_one_step_may_disable_several(make_report: Make, watch_settings: WatchSettings) -> None:
    watch = Watch(watch_settings, [Counting(name, broken=1) for name in "abc"])
    assert [name for name, _ in watch.assess(make_report(1)).disabled] == ["a", "b", "c"]
    assert watch.active == ()
    after = watch.assess(make_report(2))
    assert (after.diagnosis, after.disabled) == (None, ())


def test_declared_change_reaches_every_detector(watch_settings: WatchSettings) -> None:
    detectors = [Counting("a"), Counting("b")]
    change = DeclaredChange("levers", 6, ("kl_ref", "entropy"), "a lever", settled=("update_ratio",))
    Watch(watch_settings, detectors).declare(change)
    told = [("forget", ("kl_ref", "entropy"), 6), ("settle", ("update_ratio",), 0)]
    assert [detector.told for detector in detectors] == [told, told]


def test_remedy_begins_the_evidence_anew_and_keeps_what_is_usual(
    recorded: Recorded, watch_settings: WatchSettings
) -> None:
    """The alarm goes with the harm, and comes back where the harm does."""
    faulty, healthy = recorded["calculator_od1"], recorded["calculator_1"]
    watch, settled = Watch(watch_settings), DeclaredChange("levers", 18, (), "a remedy", ("update_ratio", "kl_ref"))
    for report in faulty[:17]:
        watch.assess(report)
    watch.declare(settled)
    assert not _codes([watch.assess(report) for report in healthy[17:20]])
    assert _codes([watch.assess(report) for report in faulty[20:22]])[21] == "OD-1"


def test_streaming_equals_a_fresh_replay(recorded: Recorded, watch_settings: WatchSettings) -> None:
    for run in ("calculator_od1", "calculator_te1", "arithmetic_2"):
        live, at_once = Watch(watch_settings), Watch(watch_settings)
        streamed = [pickle.loads(pickle.dumps(live.assess(report))) for report in recorded[run]]  # noqa: S301
        assert _same(streamed, [at_once.assess(report) for report in recorded[run]])


def test_watch_that_was_pickled_goes_on_as_it_would_have(recorded: Recorded, watch_settings: WatchSettings) -> None:
    reports, watch = recorded["calculator_od1"], Watch(watch_settings)
    for report in reports[:12]:
        watch.assess(report)
    copied = pickle.loads(pickle.dumps(watch))  # noqa: S301
    assert _same(*([w.assess(report) for report in reports[12:]] for w in (watch, copied)))


def test_state_does_not_grow_with_the_run(recorded: Recorded, watch_settings: WatchSettings) -> None:
    """Every identity broken from the first step on: windows are full after 100 steps and stay as they are."""
    run, detectors, sizes = recorded["arithmetic_300"], battery(watch_settings), {}
    broken = {INDEX[identity.signal]: identity.direction * (identity.limit + 0.1) for identity in IDENTITIES}
    broken |= {INDEX["changed_rate"]: 0.0, INDEX["vetoes"]: 0.0}
    for step in range(1, 5001):
        source = run[100 + step % 200]
        values = tuple(broken.get(place, figure) for place, figure in enumerate(source.values))
        report = replace(source, id=replace(source.id, step=step), values=values)
        symptoms = [symptom for detector in detectors for symptom in detector.observe(report)]
        if step in (500, 2500, 5000):
            sizes[step] = [len(pickle.dumps(detector)) for detector in detectors]
    assert {s.signal for s in symptoms if s.evidence is Evidence.IDENTITY} == {i.signal for i in IDENTITIES}
    for early, late in zip(sizes[500], sizes[5000], strict=True):
        # A larger step number may take a byte more, and a small integer two bytes less.
        assert abs(late - early) <= 64
    # A number kept for each step would take 45,000 alone.
    assert sum(sizes[5000]) < 20_000


@pytest.mark.parametrize(
    ("run", "code", "alarm", "onset"),
    [
        ("calculator_od1", "OD-1", 16, 15),
        ("arithmetic_od1", "OD-1", 16, 15),
        ("calculator_te1", "TE-1", 10, 10),
        ("calculator_rf1", "RF-1", 15, 15),
    ],
)
def test_recorded_fault_is_found_named_and_dated(
    recorded: Recorded, watch_settings: WatchSettings, run: str, code: str, alarm: int, onset: int
) -> None:
    watch = Watch(watch_settings)
    found = [watch.assess(report) for report in recorded[run]]
    codes = _codes(found)
    assert abs(min(codes) - alarm) <= 1
    assert min(codes) >= onset
    assert set(list(codes.values())[:5]) == {code}
    first = found[min(codes) - 1].diagnosis
    assert first is not None
    assert (first.onset, first.onset_low) == (onset, onset)
    assert first.probability > 0.8


@pytest.mark.parametrize(
    "run", ["calculator_300", "arithmetic_300", "calculator_1", "calculator_2", "arithmetic_1", "arithmetic_2"]
)
def test_recorded_healthy_run_has_no_diagnosis(recorded: Recorded, watch_settings: WatchSettings, run: str) -> None:
    assert len(recorded[run]) == (300 if run.endswith("300") else 40)
    watch = Watch(watch_settings)
    assert not _codes([watch.assess(report) for report in recorded[run]])


@pytest.fixture
def actor(watch_settings: WatchSettings, monkeypatch: pytest.MonkeyPatch) -> MonitorActor:
    """The monitor without its process's name and its gauges."""
    for name in ("rename_process", "StateGauge"):
        monkeypatch.setattr(f"rftfm_ray.actors.monitor.{name}", lambda *_: _Silent())
    return MonitorActor(Role("run", "monitor", 0, ""), watch_settings)


class _Silent:
    def set(self, state: object) -> None:
        """Nothing to tell."""


def _judged(actor: MonitorActor, items: Sequence[StepReport | Declaration]) -> tuple[Assessment, ...]:
    return tuple(found for found in actor.assess(items) if isinstance(found, Assessment))


def test_actor_judges_in_order_and_goes_back_before_it_forgets(
    actor: MonitorActor, recorded: Recorded, watch_settings: WatchSettings
) -> None:
    reports, watch = recorded["arithmetic_od1"], Watch(watch_settings)
    assert _same(_judged(actor, reports[:20]), tuple(watch.assess(report) for report in reports[:20]))
    change = DeclaredChange("levers", 16, ("kl_ref", "update_ratio"), "order 1")
    actor.changed(change, 15)
    watch.rewind(15)
    watch.declare(change)
    # A report of the attempt that has ended is late: it is no part of what is watched any more.
    (late,) = _judged(actor, reports[20:21])
    assert (late.report, late.diagnosis) == (reports[20], None)
    again = [replace(report, id=replace(report.id, attempt=1)) for report in reports]
    assert _same(_judged(actor, again[15:]), tuple(watch.assess(report) for report in again[15:]))
    actor.changed(change, None)
    watch.declare(change)
    assert _same(_judged(actor, again[:3]), tuple(watch.assess(report) for report in again[:3]))


def test_declared_change_counts_from_its_place_between_reports_on(
    actor: MonitorActor, recorded: Recorded, watch_settings: WatchSettings
) -> None:
    reports, watch = recorded["arithmetic_od1"], Watch(watch_settings)
    told = Declaration(reports[18].id, DeclaredChange("configuration", 19, ("kl_ref", "update_ratio"), "lr"))
    items: list[StepReport | Declaration] = [*reports[:18], told, *reports[18:]]
    found = actor.assess(items)
    assert [isinstance(each, Declaration) for each in found] == [isinstance(each, Declaration) for each in items]
    assert found[18] == told, "it is handed on to the journal"
    wanted = [watch.assess(report) for report in reports[:18]]
    watch.declare(told.change)
    wanted += [watch.assess(report) for report in reports[18:]]
    assert _same(tuple(each for each in found if isinstance(each, Assessment)), tuple(wanted))
    # Of an attempt that has ended: its detectors are gone.
    actor.changed(told.change, 15)
    before = copy.deepcopy(actor._watch)
    assert actor.assess([told]) == (told,)
    again = [replace(report, id=replace(report.id, attempt=1)) for report in reports]
    assert _same(_judged(actor, again[15:]), tuple(before.assess(report) for report in again[15:]))


def test_battery_is_what_a_watch_runs(watch_settings: WatchSettings) -> None:
    detectors: Sequence[Detector] = battery(watch_settings)
    assert Watch(watch_settings).active == tuple(detector.name for detector in detectors)
