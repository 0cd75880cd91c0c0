"""Every fault by every mechanism on the real stack: nothing before the onset, and then the signal that was named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.detectors.exact import DeclaredRateDetector
from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.detection.reference.views import StepView, values_of
from rftfm_ray.faultbench.runs.calibrate import LEAST_SPREAD
from rftfm_ray.faultbench.runs.runner import ExperimentRunner, RunHistory, quick
from rftfm_ray.faults.kinds import CATALOGUE, Mechanism
from rftfm_ray.signals.dictionary import DICTIONARY, Scale
from rftfm_ray.signals.schema import SIGNALS, report_of

pytestmark = pytest.mark.usefixtures("cluster")

ONSET, STEPS = 4, 7
SECONDS = {signal.name for signal in SIGNALS if signal.unit == "s"}


def mechanisms(*, learned: bool) -> list[pytest.ParameterSet]:
    """Every mechanism of every fault, those that have to be learnt or the others; all but a fault's first are slow."""
    return [
        pytest.param(code, mechanism.name, marks=[pytest.mark.slow] if learned or mechanism is not first else [])
        for code, kind in CATALOGUE.items()
        for first in [next((m for m in kind.mechanisms if not m.learned), None)]
        for mechanism in kind.mechanisms
        if (mechanism.learned > 0) == learned
    ]


AT_ONCE, LEARNED = mechanisms(learned=False), mechanisms(learned=True)

# Identities that a mechanism breaks beside the one that tells it best.
ALSO: dict[tuple[str, str], set[str]] = {
    # What is altered on its way to the prompt is not what the environment gives when it is asked again, either.
    ("TE-2", "transit"): {"replayed_observations"},
    # A rate that is not the declared one is a step that is not the declared one.
    ("OD-1", "schedule"): {"update_gain"},
    ("OD-2", "small_steps"): {"updates_land"},
    # What the gate sees would have reached the loss.
    ("CA-2", "noise"): {"credit"},
    ("CA-3", "shifted"): {"credit"},
    ("CA-3", "discount"): {"credit"},
}

# Steps of what takes longer: nothing pays for a little of it.
LATE = {"accepted_repetition": 45}

Run = Callable[..., RunHistory]


@pytest.fixture(scope="module")
def runner(cluster: None) -> Iterator[ExperimentRunner]:
    """Actors that all runs of the file share."""
    with ExperimentRunner() as made:
        yield made


@pytest.fixture(scope="module")
def run(runner: ExperimentRunner) -> Run:
    """Make a run of a second or two; one that has been made is not made again."""
    made: dict[tuple[str, ...], RunHistory] = {}

    def make(config: RunConfig, *inject: str) -> RunHistory:
        key = (config.to_yaml(), *inject)
        if key not in made:
            made[key] = runner.run(config, inject)
        return made[key]

    return make


def configure(mechanism: Mechanism, steps: int, lr: float = 2e-4) -> RunConfig:
    """A small run that can have a mechanism, with every check as often as it can be made."""
    tree = {
        "seed": 7, "steps": steps, "learner": {"lr": lr},
        "task": {"name": "calculator" if mechanism.needs_tool else "addition"},
        "algorithm": {"name": mechanism.algorithms[0], "prompts_per_step": 12, "samples_per_prompt": 4},
        "channels": {"replay_rate": 1.0},
    }  # fmt: skip
    return quick(RunConfig.model_validate(tree))


def values(history: RunHistory) -> NDArray[np.float64]:
    """(steps, signals) everything that is measured and not a time."""
    names = [place for place, signal in enumerate(SIGNALS) if signal.name not in SECONDS]
    return np.array([report_of(row).values for row in history.rows])[:, names]


def broken(history: RunHistory) -> set[str]:
    """Identities that a step breaks."""
    view = StepView.without_residuals(*values_of([report_of(row) for row in history.rows]))
    rate = DeclaredRateDetector()
    found = {identity.name for identity in IDENTITIES if identity.broken(view).any()}
    return found | ({rate.name} if (rate.observe(view).score > 0).any() else set())


def moved(history: RunHistory, healthy: RunHistory, mechanism: Mechanism, first: int) -> float:
    """Mean move of the named signal from step `first` on, in the direction that was named."""
    apart = history.signal(mechanism.signal) - healthy.signal(mechanism.signal)
    return mechanism.direction * float(np.nanmean(apart[first - 1 :]))


@pytest.mark.parametrize(("code", "name"), AT_ONCE)
def test_run_is_its_healthy_twin_until_the_onset_and_departs_in_the_signal_named(
    run: Run, code: str, name: str
) -> None:
    mechanism = CATALOGUE[code].mechanism(name)
    config = configure(mechanism, STEPS)
    healthy, faulty = run(config), run(config, f"{code}@{ONSET},mechanism={name}")
    np.testing.assert_array_equal(values(faulty)[: ONSET - 1], values(healthy)[: ONSET - 1])
    # More than one event in the batch, or than any spread counts for: a departure that no rounding makes.
    least = 1 / 48 if DICTIONARY[mechanism.signal].scale is Scale.RATE else LEAST_SPREAD
    assert moved(faulty, healthy, mechanism, ONSET) > least
    assert faulty.effects == (ONSET,)
    assert broken(healthy) == set()


@pytest.mark.parametrize(("code", "name"), AT_ONCE)
def test_identities_are_broken_by_what_shows_there_and_by_nothing_else(run: Run, code: str, name: str) -> None:
    mechanism = CATALOGUE[code].mechanism(name)
    found = broken(run(configure(mechanism, STEPS), f"{code}@{ONSET},mechanism={name}"))
    also = ALSO.get((code, name), set())
    assert also <= found
    assert found - also == ({mechanism.shown_by} if mechanism.shown_by else set())


@pytest.mark.parametrize(("code", "name"), LEARNED)
def test_what_a_reward_pays_for_is_learnt(run: Run, code: str, name: str) -> None:
    mechanism = CATALOGUE[code].mechanism(name)
    # At a higher rate than one would train with: what takes fifty steps then takes twenty.
    config, onset = configure(mechanism, LATE.get(name, 24), lr=1e-3), 3
    healthy, faulty = run(config), run(config, f"{code}@{onset},mechanism={name}")
    np.testing.assert_array_equal(values(faulty)[: onset - 1], values(healthy)[: onset - 1])
    (effect,) = faulty.effects
    assert effect is not None
    assert effect > onset
    assert moved(faulty, healthy, mechanism, effect) > 0.02
    assert broken(faulty) == set()


def test_fork_of_a_healthy_run_is_that_run(runner: ExperimentRunner, run: Run) -> None:
    config = configure(CATALOGUE["RF-1"].mechanisms[0], STEPS)
    whole, fork = run(config), runner.run(config, (), runner.trunk(config, ONSET - 1))
    struck = runner.run(config, (f"RF-1@{ONSET}:1",), runner.trunk(config, ONSET - 1))
    same = run(config, f"RF-1@{ONSET}:1")
    np.testing.assert_array_equal(values(fork), values(whole)[ONSET - 1 :])
    np.testing.assert_array_equal(values(struck), values(same)[ONSET - 1 :])


def test_several_faults_at_once_each_do_what_they_do(run: Run) -> None:
    config = configure(CATALOGUE["RF-1"].mechanisms[0], STEPS)
    healthy = run(config)
    both = run(config, "RF-1@4:3,mechanism=outliers", "PG-1@6:0.5,mechanism=blank")
    assert both.effects == (4, 6)
    rewards, empty = (both.signal(n) - healthy.signal(n) for n in ("reward_max", "empty_rate"))
    assert (rewards[:3] == 0).all()
    assert (rewards[3:] >= 2.9).all()
    assert (empty[:5] == 0).all()
    assert (empty[5:] > 0.2).all()


def test_ramp_grows_and_what_is_transient_ends(run: Run) -> None:
    config = configure(CATALOGUE["PG-1"].mechanisms[0], 12)
    ramp = run(config, "PG-1@3:1,mechanism=blank,duration=ramp")
    empty = ramp.signal("empty_rate")
    assert ramp.effects == (12,)
    assert (empty[:2] == 0).all()
    assert 0 < empty[2:5].mean() < empty[6:9].mean() < empty[11] == 1.0
    brief = run(config, "PG-1@3:1,mechanism=blank,duration=2")
    assert brief.signal("empty_rate")[:2].tolist() == [0, 0]
    assert brief.signal("empty_rate")[2:4].tolist() == [1, 1]
    assert (brief.signal("empty_rate")[4:] < 0.5).all()


def test_a_seed_of_its_own_draws_other_victims(run: Run) -> None:
    config = configure(CATALOGUE["PG-1"].mechanisms[0], STEPS)
    one, other = (run(config, f"PG-1@4:0.5,mechanism=blank,seed={seed}").signal("empty_rate") for seed in (1, 2))
    assert (one != other).any()
    assert abs(one[3:].mean() - other[3:].mean()) < 0.2
