"""References without a profile: a task is judged by what healthy runs of other tasks show, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rftfm_ray.detection.reference.comparison import compare, facts_of
from rftfm_ray.detection.reference.mixture import Mode
from rftfm_ray.detection.reference.profile import Facts
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.detectors.references import DRAWS, SMALL_RUNS, ReferenceMode, References, common_facts
from rftfm_ray.faultbench.runs.dataset import NAMES, Recorded
from rftfm_ray.faultbench.runs.generate import config_of
from rftfm_ray.faultbench.runs.plan import Entry
from rftfm_ray.faultbench.runs.seeds import is_dirty
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


def like(entry: Entry, **changes: Any) -> Entry:
    """An entry with other properties."""
    return replace(entry, **changes)


def as_dirty(runs: Sequence[Recorded]) -> list[Recorded]:
    """The same runs as runs with the background, of seeds that have it."""
    seeds = [seed for seed in range(10_000, 11_000) if is_dirty(seed)]
    return [
        replace(run, entry=replace(run.entry, dirty=True, seed=seed, name=f"dirty-{seed}"))
        for run, seed in zip(runs, seeds, strict=False)
    ]


def test_a_run_is_compared_with_healthy_runs_of_its_own_background() -> None:
    references = References([*HERE[:8], *as_dirty(HERE[8:14])])
    clean, dirty = HERE[0].entry, as_dirty(HERE[:1])[0].entry
    assert references.covers(clean, ReferenceMode.PROFILE)
    assert not references.covers(dirty, ReferenceMode.PROFILE), "six dirty runs are no full profile"
    alone = References(HERE[:8]).reference(clean, ReferenceMode.PROFILE).profile
    beside = references.reference(clean, ReferenceMode.PROFILE).profile
    assert str(alone) == str(beside)
    three = references.reference(dirty, ReferenceMode.THREE).profile
    assert three is not None
    assert (three.facts or {})["sync.dtype"] == "bfloat16"


def test_the_guard_sees_of_a_background_its_minibatches_and_precision_alone() -> None:
    clean, dirty = HERE[0].entry, as_dirty(HERE[:1])[0].entry
    theirs, ours = (facts_of(config_of(entry)) for entry in (clean, dirty))
    different = {key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key)}
    # Bounds of the ratio have an effect from two minibatches on.
    assert different == {"algorithm.minibatches", "sync.dtype", "algorithm.clip_low", "algorithm.clip_high"}


def test_facts_of_a_profile_are_those_of_all_its_runs() -> None:
    two: Facts = {"algorithm.minibatches": 2, "task.name": "addition"}
    four: Facts = {**two, "algorithm.minibatches": 4}
    assert common_facts([two, {**four, "steps": 40}, two]) == {
        "algorithm.minibatches": "2 or 4", "task.name": "addition",
    }  # fmt: skip


def test_a_run_of_another_configuration_has_its_own_past_for_what_that_moves() -> None:
    references = References(HERE[:8])
    usual = HERE[9].entry
    other = like(usual, overrides=("rollout.temperature=0.8", "learner.lr=0.0003"))
    config = config_of(other)
    assert (config.rollout.temperature, config.learner.lr) == (0.8, 0.0003)
    for mode in (ReferenceMode.THREE, ReferenceMode.PROFILE):
        reference = references.reference(other, mode)
        assert reference.profile is not None
        assert reference.moved == frozenset(compare(reference.profile, config).moved)
        assert {"entropy", "step_kl"} <= reference.moved
        assert references.reference(usual, mode).moved == frozenset()
    assert references.reference(other, ReferenceMode.NONE).moved == frozenset()


def test_runs_of_other_configurations_are_in_no_profile() -> None:
    others = [replace(run, entry=like(run.entry, overrides=("learner.lr=0.0003",))) for run in HERE[8:16]]
    assert str(References([*HERE[:8], *others]).reference(HERE[0].entry, ReferenceMode.PROFILE).profile) == str(
        References(HERE[:8]).reference(HERE[0].entry, ReferenceMode.PROFILE).profile
    )
