"""References without a profile: a task is judged by what healthy runs of other tasks show, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.detection.reference.mixture import Mode
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.detectors.references import DRAWS, SMALL_RUNS, ReferenceMode, References
from rftfm_ray.faultbench.runs.dataset import NAMES, Recorded
from rftfm_ray.faultbench.scoring.guarding import GuardSetup
from tests.unit.doubles import recorded_runs

ONSET = 20
RUNS = list(recorded_runs(4))
HERE, ELSEWHERE = ([run for run in RUNS if run.entry.task == task] for task in ("addition", "calculator"))
# Within what jumps of single signals need, as a fault that several signals show a little.
SHIFT = {"entropy": 0.12, "sampling_logprob_mean": -0.05}


def moved(run: Recorded) -> Recorded:
    """A run with a shift from `ONSET` on."""
    values = run.values.copy()
    for name, size in SHIFT.items():
        values[ONSET - 1 :, NAMES.index(name)] += size
    return Recorded(run.entry, run.outcome, values)


def guard(*runs: Recorded) -> GuardSetup:
    """The guard without a profile, with these runs to learn from."""
    return GuardSetup(References(runs), ReferenceMode.NONE, multiplier=1.0)


def count_detected(setup: GuardSetup, runs: list[Recorded]) -> int:
    """How many runs alarm from `ONSET` on."""
    return sum(any(alarm.raised >= ONSET for alarm in setup.trace(run, 0).telemetry) for run in runs)


@pytest.fixture(scope="module")
def setup() -> GuardSetup:
    """With two tasks to learn from."""
    return guard(*RUNS)


def test_what_other_tasks_show_finds_more_than_signals_one_by_one(setup: GuardSetup) -> None:
    alone = guard(*HERE)
    assert count_detected(setup, HERE) <= 1
    shifted = [moved(run) for run in HERE]
    assert count_detected(setup, shifted) >= count_detected(alone, shifted) + 6


def test_runs_of_the_task_itself_teach_nothing(setup: GuardSetup) -> None:
    """Nonsense among them changes no score."""
    rng = np.random.default_rng(0)
    nonsense = [replace(run, values=rng.normal(size=run.values.shape).astype(np.float32)) for run in HERE]
    # What tells whether there is a critic is left as it is.
    for run, true in zip(nonsense, HERE, strict=True):
        run.values[:, ~np.isfinite(true.values).any(0)] = np.nan
    other, run = guard(*nonsense, *ELSEWHERE), HERE[0]
    np.testing.assert_array_equal(setup.trace(run, 0).telemetry_scores, other.trace(run, 0).telemetry_scores)


def test_without_other_tasks_signals_are_watched_one_by_one() -> None:
    one, none = guard(*HERE), guard()
    np.testing.assert_array_equal(one.trace(HERE[0], 0).every_scores, none.trace(HERE[0], 0).every_scores)
    assert one.reference(HERE[0].entry, 0).models == ()


def test_a_profile_of_three_runs_is_drawn_several_times_and_always_the_same() -> None:
    entry = HERE[0].entry
    one, other = References(HERE), References(HERE[::-1])
    assert one.draws(entry, ReferenceMode.THREE) == DRAWS
    profiles = [one.reference(entry, ReferenceMode.THREE, draw).profile for draw in range(DRAWS)]
    assert {profile.runs for profile in profiles if profile is not None} == {SMALL_RUNS}
    assert len({str(profile) for profile in profiles}) == DRAWS
    assert str(other.reference(entry, ReferenceMode.THREE, 1).profile) == str(profiles[1])
    assert one.reference(entry, ReferenceMode.THREE, DRAWS + 1) is one.reference(entry, ReferenceMode.THREE, 1)


def test_modes_need_healthy_runs() -> None:
    entry, few = HERE[0].entry, References(HERE[:2])
    assert References(HERE[:8]).covers(entry, ReferenceMode.PROFILE)
    assert not References(HERE[:7]).covers(entry, ReferenceMode.PROFILE)
    assert References(HERE[:8]).reference(entry, ReferenceMode.PROFILE).mode is Mode.FULL
    with pytest.raises(BenchError, match=r"2 healthy runs like .*; generate more runs"):
        few.reference(entry, ReferenceMode.THREE)
    assert few.reference(entry, ReferenceMode.NONE).profile is None
