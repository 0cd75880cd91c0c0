"""The monitor on whole runs: chunks, other prompts, going back, states in files, and what its scores stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfm_ray.config import parse_config
from rftfm_ray.detection import monitor as module
from rftfm_ray.detection.monitor import VIEWS, Monitor, monitor_plan
from rftfm_ray.detection.observed import EvidenceScores, Observation
from rftfm_ray.detection.reference.mixture import Mode
from rftfm_ray.detection.reference.views import StepViews, values_of
from rftfm_ray.detection.statistics.cusum import RECOVERED
from rftfm_ray.errors import StateError
from rftfm_ray.signals.groups import PROMPT_DEPENDENT
from rftfm_ray.verdicts import DeclaredChange, Evidence, StepReport
from tests.contracts.detector_cases import moved
from tests.detecting import LEARNT, healthy_runs, make_reports, profile_of, recorded_faults, reference, tree
from tests.unit.detection.scripted import Scripted, alarms, monitor_of, opened, said, usual

FAULTS = ("calculator_od1", "arithmetic_od1", "calculator_te1", "calculator_rf1")
PROMPTS = {"answer_length_mean": 0.4, "prompt_difficulty_mean": 0.6}
CHANGE = DeclaredChange("levers", 18, ("kl_ref", "update_ratio"), "a lever", settled=("tool_error_rate", "entropy"))
every_mode = pytest.mark.parametrize("mode", Mode)


def run_of(name: str) -> list[StepReport]:
    """A recorded run: one with a fault, or a healthy one whose prompts are others from step 21 on."""
    return moved(healthy_runs()[-1], **PROMPTS) if name == "prompts" else recorded_faults()[name]


def in_chunks(monitor: Monitor, run: Sequence[StepReport], sizes: Sequence[int]) -> list[Observation]:
    """What is observed in chunks of some sizes, over and over."""
    observed, start, turn = list[Observation](), 0, 0
    while start < len(run):
        observed += monitor.observe(run[start : start + sizes[turn % len(sizes)]])
        start, turn = start + sizes[turn % len(sizes)], turn + 1
    return observed


@every_mode
@pytest.mark.parametrize("name", [*FAULTS, "prompts"])
def test_chunks_change_nothing(mode: Mode, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(name)
    whole = said(monitor_of(mode=mode).observe(run))
    assert said(in_chunks(monitor_of(mode=mode), run, (1,))) == whole
    assert said(in_chunks(monitor_of(mode=mode), run, (3, 11, 1))) == whole
    monkeypatch.setattr(module, "CHUNK", 7)
    assert said(monitor_of(mode=mode).observe(run)) == whole
    assert said(in_chunks(monitor_of(mode=mode), run, (10,))) == whole


def test_no_steps_are_no_observations() -> None:
    monitor = monitor_of()
    before = monitor.state_dict()
    assert monitor.observe([]) == []
    np.testing.assert_equal(monitor.state_dict(), before)


@pytest.mark.parametrize("sizes", [(1,), (7,), (100,)])
def test_other_prompts_forget_what_follows_from_them_at_the_step_at_which_they_are_certain(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("prompts")
    view = StepViews(reference(Mode.FULL)).observe(*values_of(run))
    (certain,) = view.steps[view.prompts_changed].tolist()
    assert 21 <= certain <= 25
    monkeypatch.setattr(module, "CHUNK", 10)
    # Open from the start, and not raised again once it was closed.
    detector = Scripted("mine", {step: (1.0 if step == 1 else 0.5, 0.0) for step in range(1, len(run) + 1)})
    detector.closes = (0,)
    observed = in_chunks(monitor_of(detector, mode=Mode.FULL), run, sizes)
    assert detector.asked == [("forget", PROMPT_DEPENDENT, certain)]
    assert list(opened(observed, "mine")) == list(range(1, certain)), "it is over from exactly that step on"
    assert detector.count == len(run)


def test_alarms_are_raised_held_and_over_by_the_one_latch() -> None:
    nan, quarter = math.nan, RECOVERED
    scores = [0.9, 1.0, 0.3, nan, nan, 0.6, quarter, 0.9, nan, math.inf, nan, 0.0]
    detector = Scripted("mine", {step: (score, 0.0) for step, score in enumerate(scores, 1)})
    observed = monitor_of(detector).observe(make_reports(entropy=[1.0 + 0.001 * step for step in range(12)]))
    symptoms = {seen.report.id.step: one for seen in observed for one in seen.symptoms if one.detector == "mine"}
    assert list(symptoms) == [2, 3, 4, 5, 6, 10, 11]
    assert [one.score for one in symptoms.values()] == [1.0, 0.3, 0.3, 0.3, 0.6, math.inf, math.inf]
    assert [round(one.value, 3) for one in symptoms.values()] == [1.001, 1.002, 1.002, 1.002, 1.005, 1.009, 1.009]
    # An open alarm that was not measured counts as one that was just raised.
    telemetry = [seen.scores.telemetry for seen in observed]
    assert telemetry == [0.9, 1.0, 0.3, 1.0, 1.0, 0.6, quarter, 0.9, 0.0, math.inf, 1.0, 0.0]


@every_mode
@pytest.mark.parametrize("name", [*FAULTS, "prompts"])
def test_scores_agree_with_symptoms(mode: Mode, name: str) -> None:
    kinds = {"telemetry": Evidence.TELEMETRY, "channel": Evidence.CHANNEL, "identity": Evidence.IDENTITY}
    for seen in monitor_of(mode=mode).observe(run_of(name)):
        for kind, evidence in kinds.items():
            score, own = getattr(seen.scores, kind), [s for s in seen.symptoms if s.alarm and s.evidence is evidence]
            assert score >= 0.0
            assert bool(own) or score < 1.0, "what reaches its threshold is a symptom"
            assert not own or score > RECOVERED, "and none is open at less than a quarter of it"
            fresh = [one.score for one in own if one.value == one.value]
            assert all(one <= score or score == 1.0 for one in fresh)


def test_notices_are_no_score() -> None:
    observed = monitor_of().observe(recorded_faults()["calculator_od1"])
    noticed = [seen for seen in observed if seen.symptoms and not any(one.alarm for one in seen.symptoms)]
    assert all(seen.scores.telemetry < 1.0 for seen in noticed)
    assert EvidenceScores() == EvidenceScores(0.0, 0.0, 0.0)


@every_mode
@pytest.mark.parametrize("name", ["arithmetic_od1", "calculator_te1", "prompts"])
@pytest.mark.parametrize("cut", [1, 16, 22, 30])
def test_going_back_is_as_never_having_gone_on(mode: Mode, name: str, cut: int) -> None:
    run = run_of(name)
    monitor = monitor_of(Scripted("mine", {17: (2.0, 0.0)}), mode=mode)
    first = in_chunks(monitor, run[:cut], (1,))
    state = monitor.state_dict()
    rest = said(in_chunks(monitor, run[cut:], (1,)))
    for _ in range(2):
        monitor.declare(CHANGE)
        monitor.load_state_dict(state)
        assert said(in_chunks(monitor, run[cut:], (1,))) == rest
    twin = monitor_of(Scripted("mine", {17: (2.0, 0.0)}), mode=mode)
    assert said(in_chunks(twin, run, (1,))) == "\n".join([said(first), rest])


def test_steps_that_were_undone_leave_nothing() -> None:
    """Fifteen faulty steps, undone: the healthy course from there is judged as if they had never been."""
    faulty, healthy = recorded_faults()["calculator_od1"], recorded_faults()["calculator_1"]
    monitor, clean = monitor_of(), monitor_of()
    for each in (monitor, clean):
        in_chunks(each, healthy[:10], (1,))
    state = monitor.state_dict()
    assert alarms(in_chunks(monitor, faulty[10:25], (1,)))
    monitor.load_state_dict(state)
    assert said(in_chunks(monitor, healthy[10:], (1,))) == said(in_chunks(clean, healthy[10:], (1,)))


def test_remedy_begins_the_evidence_from_nothing_and_keeps_what_is_usual() -> None:
    """The alarm goes with the harm, and comes back where the harm does."""
    faulty, healthy = recorded_faults()["calculator_od1"], recorded_faults()["calculator_1"]
    monitor = monitor_of()
    assert alarms(monitor.observe(faulty[:17]))
    monitor.declare(DeclaredChange("levers", 18, (), "a remedy", ("update_ratio", "kl_ref")))
    assert not alarms(monitor.observe(healthy[17:20]))
    assert alarms(monitor.observe(faulty[20:22]))


@every_mode
def test_monitor_goes_on_from_a_file_in_another_process(mode: Mode, tmp_path: Path) -> None:
    run, path = recorded_faults()["arithmetic_od1"], tmp_path / "monitor"
    monitor, other = monitor_of(mode=mode), monitor_of(mode=mode)
    in_chunks(monitor, run[:20], (1,))
    monitor.declare(CHANGE)
    monitor.save(path)
    other.load(path)
    assert said(in_chunks(other, run[20:], (1,))) == said(in_chunks(monitor, run[20:], (1,)))


@pytest.mark.parametrize("size", [0, 1, 100, 1000, -1])
def test_truncated_file_is_refused_with_its_path_and_changes_nothing(size: int, tmp_path: Path) -> None:
    run, path = recorded_faults()["calculator_od1"], tmp_path / "monitor"
    monitor, twin = monitor_of(), monitor_of()
    for each in (monitor, twin):
        each.observe(run[:18])
    monitor.save(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StateError, match=rf"{path} is .*; remove it, and the monitor starts afresh"):
        monitor.load(path)
    assert said(monitor.observe(run[18:])) == said(twin.observe(run[18:]))


@pytest.mark.parametrize(("mode", "theirs"), [(a, b) for a in Mode for b in Mode if Mode.FULL in (a, b) and a != b])
def test_file_of_another_mode_is_refused_and_changes_nothing(mode: Mode, theirs: Mode, tmp_path: Path) -> None:
    run, path = recorded_faults()["calculator_od1"], tmp_path / "monitor"
    other = monitor_of(mode=theirs)
    other.observe(run[:20])
    other.save(path)
    monitor, twin = monitor_of(mode=mode), monitor_of(mode=mode)
    for each in (monitor, twin):
        each.observe(run[:18])
    with pytest.raises(StateError, match=rf"{path} is not a state of this monitor \(.*\); remove it"):
        monitor.load(path)
    assert said(monitor.observe(run[18:])) == said(twin.observe(run[18:]))


def _first(part: dict[str, Any]) -> str:
    return next(iter(part))


DAMAGES: Mapping[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no parts": (lambda s: s.pop("parts"), "lacks 'parts'"),
    "more": (lambda s: s.update(more={}), "has an unknown 'more'"),
    "no detector": (lambda s: s["parts"].pop("probe"), "lacks 'probe'"),
    "no views": (lambda s: s["parts"].pop(VIEWS), f"lacks '{VIEWS}'"),
    "another detector": (lambda s: s["parts"].update(mine={}), "has an unknown 'mine'"),
    "a part that is none": (lambda s: s["parts"].update(probe=3), "'probe' is not the state of a part"),
    "other outputs": (lambda s: s["latch"].update(open=np.zeros(3, bool)), "Latch.open of the saved state has shape"),
    "no number": (lambda s: s["parts"]["probe"].update(best=math.nan), "ProbeDetector.best of the saved state is nan"),
    "a text": (lambda s: s["parts"]["joint"].update(falling="3"), "JointDetector.falling of the saved state"),
    "disabled and not": (lambda s: s["disabled"].update(probe="why"), "has 'probe' both disabled and active"),
    "an unknown one disabled": (lambda s: s["disabled"].update(mine="why"), "has an unknown 'mine'"),
    "no reason": (lambda s: (s["parts"].pop("probe"), s["disabled"].update(probe=3)), "'probe' is not of type str"),
    "a deep one": (lambda s: s["parts"]["change_point"]["life"].pop("first"), "lacks 'first'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_state_is_refused_by_name_and_changes_nothing(damage: str) -> None:
    run = recorded_faults()["calculator_od1"]
    monitor, twin = monitor_of(), monitor_of()
    for each in (monitor, twin):
        in_chunks(each, run[:18], (1,))
    state = tree(monitor.state_dict())
    change, told = DAMAGES[damage]
    change(state)
    in_chunks(monitor, run[18:19], (1,))
    in_chunks(twin, run[18:19], (1,))
    with pytest.raises(StateError) as raised:
        monitor.load_state_dict(state)
    assert told in str(raised.value)
    assert said(in_chunks(monitor, run[19:], (1,))) == said(in_chunks(twin, run[19:], (1,)))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_state_of_other_values_raises_anything_else(data: st.DataObject) -> None:
    monitor = monitor_of()
    state = tree(monitor.state_dict())
    part = state
    while isinstance(part, dict) and part:
        key = data.draw(st.sampled_from(sorted(part)))
        if not isinstance(part[key], dict) or not part[key] or data.draw(st.booleans()):
            part[key] = data.draw(st.sampled_from([None, 3, -1.5, "a", math.nan, {}, {"a": 1}, np.zeros(2), []]))
            break
        part = part[key]
    try:
        monitor.load_state_dict(state)
    except StateError:
        np.testing.assert_equal(monitor.state_dict(), monitor_of().state_dict())
    monitor.observe(usual(3))


def fail(monitor: Monitor, name: str, step: int) -> str:
    """Let a detector fail at a step; what is said of it."""
    vars(monitor._detectors[name])["observe"] = lambda _: 1 / 0
    ((failed, reason),) = monitor.observe(usual(1, step))[0].disabled
    assert failed == name
    return reason


def test_disabled_detector_does_not_come_back_with_a_rollback() -> None:
    monitor = monitor_of(Scripted("broken", {1: (1.0, 0.0)}), Scripted("other", {1: (1.0, 0.0), 7: (0.5, 0.0)}))
    monitor.observe(usual(2))
    state = monitor.state_dict()
    fail(monitor, "broken", 3)
    monitor.load_state_dict(state)
    assert "broken" not in monitor.active
    seen = monitor.observe(usual(5, 3))
    assert not any(each.disabled for each in seen)
    assert opened(seen, "broken") == {}, "nor does its alarm"


def test_disabled_detector_stays_so_in_another_process_which_says_it_again(tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    monitor, other = monitor_of(Scripted("broken", {1: (1.0, 0.0)})), monitor_of(Scripted("broken"))
    monitor.observe(usual(2))
    reason = fail(monitor, "broken", 3)
    monitor.save(path)
    other.load(path)
    assert other.active == monitor.active
    first, second = other.observe(usual(2, 4))
    assert (first.disabled, second.disabled) == ((("broken", reason),), ())
    np.testing.assert_equal(tree(other.state_dict())["disabled"], {"broken": reason})


@every_mode
@pytest.mark.parametrize("method", ["observe", "forget", "state_dict"])
def test_views_that_fail_are_disabled_with_what_needs_them_and_the_others_go_on(
    mode: Mode, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes for open must not stay so for ever, when nothing can show that it is over."""
    monitor, run = monitor_of(mode=mode), moved(healthy_runs()[-1], 10, length_mean=3.0)
    assert any(seen.symptoms for seen in monitor.observe(run[:20]))
    needing = [name for name, detector in monitor._detectors.items() if detector.needs_views]
    assert needing == ["joint"] if mode is Mode.FULL else ["joint", "change_point"]
    with monkeypatch.context() as broken:
        broken.setattr(StepViews, method, lambda *_: 1 / 0)
        if method == "forget":
            monitor.declare(DeclaredChange("mix", 21, ("lr",), "on purpose"))
        if method == "state_dict":
            monitor.state_dict()
        first, second = monitor.observe(run[20:22])
    (name, reason), *others = first.disabled
    assert (name, reason) == (VIEWS, "ZeroDivisionError: division by zero")
    assert [one for one, _ in others] == needing
    assert {why for _, why in others} == {"it judges levels and residuals, which are no longer computed"}
    assert not second.disabled
    assert not {one.detector for seen in (first, second) for one in seen.symptoms} & set(needing)
    assert not set(needing) & set(monitor.active)
    state = monitor.state_dict()
    monitor.load_state_dict(state)
    (seen,) = monitor.observe(make_reports(23, loss=[math.nan], tool_error_rate=[1.0]))
    assert {one.detector for one in seen.symptoms} == {"finite", "rate:tool_error_rate"}, "the others go on"
    assert not seen.disabled


def test_streaming_equals_a_fresh_replay() -> None:
    for name in ("calculator_od1", "calculator_te1", "arithmetic_2"):
        run = recorded_faults()[name]
        assert said(in_chunks(monitor_of(), run, (1,))) == said(monitor_of().observe(run))


def test_plan_has_what_a_configuration_calls_for() -> None:
    profile = profile_of(LEARNT[Mode.SMALL])
    plan = monitor_plan(parse_config({"snapshots": {"every": 7, "keep": 3}, "probe": {"size": 64}}), profile)
    assert (plan.profile, plan.keep_every, plan.keep, plan.critic) == (profile, 7, 3, False)
    assert plan.settings.probe_size == 64
    assert monitor_plan(parse_config({"algorithm": {"name": "ppo"}})).critic
    assert monitor_plan(parse_config({})).profile is None
    assert plan.build().active == monitor_of(mode=Mode.SMALL).active
