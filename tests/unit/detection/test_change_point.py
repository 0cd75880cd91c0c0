"""Signals against the run's own past, one by one: how an alarm is raised, how it ends, and gaps of each signal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.change_point import BACK, CHANGE_SIGNALS, USUAL, ChangePointDetector
from rftfm_ray.detection.state import State
from rftfm_ray.detection.statistics.change_points import Floats, Jumps, levels_at
from rftfm_ray.errors import StateError
from rftfm_ray.verdicts import Evidence, StepReport, Symptom
from tests.detecting import NO_REFERENCE, Watched, report_of_values, tree
from tests.unit.doubles import recorded_runs

STEPS: Floats = np.arange(200, dtype=np.float64)
# Places of values from 0 are steps from 1.
FIRST = 1


def noisy(levels: Floats, spread: float, seed: int = 0) -> Floats:
    """Levels with unit noise of a spread on them."""
    return levels + spread * np.random.default_rng(seed).standard_normal(len(levels))


def reports(first: int = FIRST, /, **series: Floats) -> list[StepReport]:
    """Reports in which only these signals were measured."""
    rows = zip(*series.values(), strict=True)
    return [report_of_values(step, dict(zip(series, row, strict=True))) for step, row in enumerate(rows, first)]


@dataclass(frozen=True)
class Alarm:
    """An alarm by its steps: the estimated onset, the first and the last at which it was open."""

    onset: int
    raised: int
    last: int


def alarms(symptoms: Mapping[int, list[Symptom]], name: str) -> list[Alarm]:
    """The alarms of one signal."""
    found = list[Alarm]()
    for step, each in symptoms.items():
        for one in each:
            if one.signal != name:
                continue
            if found and found[-1].onset == one.onset and found[-1].last == step - 1:
                found[-1] = replace(found[-1], last=step)
            else:
                found.append(Alarm(one.onset, step, step))
    return found


def watched() -> Watched:
    """A fresh detector."""
    return Watched(ChangePointDetector(), NO_REFERENCE)


def test_an_alarm_is_open_until_its_signal_is_back() -> None:
    values = noisy(np.where((STEPS >= 80) & (STEPS < 120), 9.0, 5.0), 0.1)
    watch = watched()
    assert watch.observe(reports(length_mean=values[:82])) == {}
    symptoms = watch.observe(reports(83, length_mean=values[82:]))
    (alarm,) = alarms(symptoms, "length_mean")
    assert alarm.onset == 81
    assert 83 <= alarm.raised <= 86
    # Not with the first value that is back: one could be a slip. The way back is no alarm of its own.
    assert alarm.last == 120 + BACK - 1
    symptom = symptoms[alarm.raised][0]
    assert (symptom.signal, symptom.direction, symptom.alarm) == ("length_mean", 1, True)
    assert (symptom.evidence, symptom.onset_low) == (Evidence.TELEMETRY, 80)
    assert symptom.reference == pytest.approx(5.0, abs=0.2)
    assert symptom.reason == f"length_mean rose abruptly at about step 81, and is {symptom.value:.3g} now"
    # The newest value is not said to be that of the jump's step.
    later = symptoms[110][0]
    assert later.reason == f"length_mean rose abruptly at about step 81, and is {values[109]:.3g} now"


def test_what_stays_becomes_usual_and_a_later_jump_is_another_alarm() -> None:
    steps = np.arange(80.0 + 2 * USUAL)
    values = noisy(np.where(steps >= 80, 9.0, 5.0) + np.where(steps >= 130, 6.0, 0.0), 0.1)
    first, second = alarms(watched().observe(reports(length_mean=values)), "length_mean")
    assert (first.onset, second.onset) == (81, 131)
    # The second jump takes over when it is certain, and what has been open for `USUAL` values is usual.
    assert first.last == second.raised - 1
    assert second.last == 130 + USUAL


def test_one_side_at_a_time_is_open() -> None:
    steps = np.arange(400.0)
    values = noisy(np.where(steps < 80, 5.0, np.where(steps < 250, 9.0, 2.0)), 0.1)
    symptoms = watched().observe(reports(length_mean=values))
    assert {len(each) for each in symptoms.values()} == {1}
    sides = {one.onset: one.direction for each in symptoms.values() for one in each}
    assert sides == {81: 1, 251: -1}


@pytest.mark.parametrize("name", ["length_mean", "grad_norm", "kl_ref"])
def test_reference_has_the_unit_of_the_value(name: str) -> None:
    """Some signals are compared by their logarithm."""
    symptoms = watched().observe(reports(**{name: noisy(np.where(STEPS < 80, 5.0, 40.0), 0.1)}))
    assert [one.reference for one in symptoms[90]] == [pytest.approx(5.0, abs=0.3)]


def test_a_signal_that_leaps_hides_no_other() -> None:
    one = noisy(np.where(STEPS >= 60, 9.0, 5.0), 0.1)
    other = noisy(np.where(STEPS >= 64, 0.1, 0.4), 0.01, seed=1)
    symptoms = watched().observe(reports(length_mean=one, entropy=other))
    assert [alarm.onset for alarm in alarms(symptoms, "length_mean")] == [61]
    assert [alarm.onset for alarm in alarms(symptoms, "entropy")] == [65]


def test_gaps_of_a_signal_are_left_out_and_keep_what_is_open() -> None:
    """Measured at every third step: values count, and not steps."""
    values = np.full(300, math.nan)
    values[::3] = noisy(np.where(np.arange(100) < 50, 5.0, 9.0), 0.1)
    whole = noisy(np.where(np.arange(300) < 150, 1.0, 2.0), 0.05, seed=2)
    symptoms = watched().observe(reports(length_mean=values, entropy=whole))
    (alarm,) = alarms(symptoms, "length_mean")
    assert alarm.onset == 151
    assert alarm.last == 300, "open at the steps between too"
    raised = [one for one in symptoms[alarm.raised] if one.signal == "length_mean"]
    following = [one for one in symptoms[alarm.raised + 1] if one.signal == "length_mean"]
    assert raised == following, "with the reading of the step that was measured last"
    alone = alarms(watched().observe(reports(length_mean=values[::3])), "length_mean")
    assert [alone[0].onset] == [51]


def test_what_begins_to_be_measured_late_has_a_past_of_its_own() -> None:
    late = np.where(STEPS < 60, math.nan, noisy(np.where(STEPS < 120, 5.0, 9.0), 0.1))
    symptoms = watched().observe(reports(length_mean=late, entropy=noisy(np.ones(200), 0.05)))
    assert [alarm.onset for alarm in alarms(symptoms, "length_mean")] == [121]
    assert alarms(symptoms, "entropy") == []


def test_declared_change_takes_the_past_of_its_signals_alone() -> None:
    length, entropy = noisy(np.where(STEPS < 100, 5.0, 9.0), 0.1), noisy(np.where(STEPS < 100, 1.0, 0.5), 0.02, seed=1)
    watch = watched()
    assert watch.observe(reports(length_mean=length[:100], entropy=entropy[:100])) == {}
    watch.forget(["length_mean", "lr"], 101)
    symptoms = watch.observe(reports(101, length_mean=length[100:], entropy=entropy[100:]))
    assert alarms(symptoms, "length_mean") == []
    assert [alarm.onset for alarm in alarms(symptoms, "entropy")] == [101]
    again = watch.observe(reports(201, length_mean=noisy(np.full(20, 30.0), 0.1), entropy=entropy[-20:]))
    assert [alarm.onset for alarm in alarms(again, "length_mean")] == [201], "it judges on"


def test_declared_change_ends_an_alarm_that_would_have_stayed() -> None:
    values = noisy(np.where(STEPS < 100, 5.0, 9.0), 0.1)
    watch = watched()
    assert max(watch.observe(reports(length_mean=values[:110]))) == 110
    watch.forget(["length_mean"], 111)
    assert watch.observe(reports(111, length_mean=values[110:])) == {}


def test_settled_alarm_is_over_and_its_jump_is_no_new_one() -> None:
    values = noisy(np.where(STEPS < 100, 5.0, 9.0), 0.1)
    watch = watched()
    assert watch.observe(reports(length_mean=values[:110]))
    watch.settle(["entropy"])
    assert list(watch.observe(reports(111, length_mean=values[110:112]))) == [111, 112]
    watch.settle(["length_mean"])
    assert watch.observe(reports(113, length_mean=values[112:])) == {}
    after = watch.observe(reports(201, length_mean=noisy(np.full(20, 30.0), 0.1)))
    assert [alarm.onset for alarm in alarms(after, "length_mean")] == [201], "another jump is another alarm"


@pytest.mark.parametrize("multiplier", [1.0, 3.0])
def test_multiplier_is_one_of_all_thresholds(multiplier: float) -> None:
    values = noisy(np.where(STEPS < 100, 5.0, 6.0), 0.1)[:110]
    views = [Watched(ChangePointDetector(m), NO_REFERENCE) for m in (1.0, multiplier)]
    plain, multiplied = (watch.observe(reports(length_mean=values)) for watch in views)
    scores = [max((one.score for each in s.values() for one in each), default=0.0) for s in (plain, multiplied)]
    assert scores[0] > 1
    assert scores[1] == pytest.approx(scores[0] / multiplier) or (scores[1] == 0 and scores[0] < multiplier)


def state_with(*groups: NDArray[np.int64]) -> State:
    """A state whose groups hold these signals."""
    parts: dict[str, State] = {
        str(number): {
            "signals": which,
            "steps": np.zeros(0, np.int64),
            "count": 0,
            "jumps": Jumps(np.ones(len(which))).state_dict(),
        }
        for number, which in enumerate(groups)
    }  # fmt: skip
    return {**ChangePointDetector().state_dict(), "groups": parts}


EVERY = np.arange(len(CHANGE_SIGNALS))


def test_state_of_a_detector_that_has_seen_nothing_can_be_made_by_hand() -> None:
    ChangePointDetector().load_state_dict(state_with(EVERY))
    ChangePointDetector().load_state_dict(state_with(EVERY[:5], EVERY[5:]))


@pytest.mark.parametrize(
    "groups", [(), (EVERY[:3],), (EVERY, EVERY[4:5]), (EVERY + 1,), (EVERY - 1,), (EVERY, EVERY[:0])],
    ids=["none", "some", "one twice", "unknown", "negative", "empty"],
)  # fmt: skip
def test_state_holds_every_signal_once(groups: tuple[NDArray[np.int64], ...]) -> None:
    with pytest.raises(StateError, match="change-point detector"):
        ChangePointDetector().load_state_dict(state_with(*groups))


@pytest.mark.parametrize(
    ("part", "value"), [("steps", np.arange(7)), ("steps", np.arange(20.0)), ("count", 21), ("count", 20.0)]
)
def test_state_whose_steps_do_not_fit_its_values_is_refused(part: str, value: object) -> None:
    """An alarm would be dated by a step that is not there."""
    detector = ChangePointDetector()
    watch = Watched(detector, NO_REFERENCE)
    watch.observe(reports(length_mean=noisy(STEPS[:20], 0.1)))
    state = tree(detector.state_dict())
    measured = next(group for group in state["groups"].values() if group["count"])
    ChangePointDetector().load_state_dict(state)
    measured[part] = value
    with pytest.raises(StateError, match=part):
        ChangePointDetector().load_state_dict(state)


def test_healthy_runs_of_the_real_stack_are_left_alone() -> None:
    raised = {}
    for run in list(recorded_runs(10))[::3]:
        symptoms = watched().observe(list(run.reports()))
        for one in (one for each in symptoms.values() for one in each):
            raised[run.entry.name, one.signal] = one
    assert len(raised) <= 1, raised
    assert levels_at(39, 1)[0] < 4.5
