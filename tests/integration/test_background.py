"""A background on the real stack: its signals, what checks say of it, that it learns, and that a fork is its run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.config import RunConfig
from rftfm_ray.faultbench.runs.runner import ExperimentRunner, HowToRun, RunHistory, example, quick
from rftfm_ray.faults.background import dirty
from rftfm_ray.signals.schema import SIGNALS, report_of

pytestmark = pytest.mark.usefixtures("cluster")

STEPS, FORK, ONSET, SEED = 10, 4, 7, 10_001
DIRTY = {"preset": "dirty"}


@pytest.fixture(scope="module")
def runner(cluster: None) -> Iterator[ExperimentRunner]:
    """Actors that all runs of the file share."""
    with ExperimentRunner() as made:
        yield made


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checkpoints of the dirty run are."""
    return tmp_path_factory.mktemp("background") / "checkpoints"


def configure(**sections: object) -> RunConfig:
    """A run of the calculator in which every check is made at every step."""
    checks = {"golden_every": 1, "known_calls_every": 1, "replay_rate": 1.0}
    asked = {
        "channels": checks, "guard": {"regrade_rate": 1.0}, "sync": {"parity_every": 2},
        "checkpoints": {"every": FORK, "keep": 4},
    }  # fmt: skip
    return quick(example("calculator", "grpo", SEED, STEPS), **asked, **sections)


@pytest.fixture(scope="module")
def healthy(runner: ExperimentRunner, checkpoints: Path) -> RunHistory:
    """The dirty run without a fault."""
    return runner.run(configure(background=DIRTY), how=HowToRun(keep=checkpoints))


def columns(history: RunHistory) -> NDArray[np.float64]:
    """(steps, signals) without those in seconds."""
    kept = [index for index, signal in enumerate(SIGNALS) if signal.unit != "s"]
    return np.array([report_of(row).values for row in history.rows])[:, kept]


def test_a_dirty_run_shows_its_background_and_learns(runner: ExperimentRunner, healthy: RunHistory) -> None:
    clean = runner.run(configure())
    assert dirty(SEED).minibatches == 4
    assert clean.signal("tool_error_rate").max() == clean.signal("regrade_mismatch_rate").max() == 0
    assert clean.signal("rollout_gap_max").max() < 1e-4
    assert 0 < healthy.signal("tool_error_rate").mean() < 0.1
    assert 0 < healthy.signal("regrade_mismatch_rate").mean() < 0.03
    # Weights are rounded to one part in 256: log-probs differ by far more than by the order of sums.
    gaps = healthy.signal("rollout_gap_max")
    assert 1e-3 < gaps.min() <= gaps.max() < 0.5
    assert 1e-3 < np.nanmax(healthy.signal("parity_gap")) < 0.5
    assert (healthy.signal("weights_mismatch") == 0).all()
    assert healthy.signal("ratio_max").min() > 1
    assert len(set(healthy.signal("answer_length_mean"))) > 4
    for name in ("observation_mismatch_rate", "replay_observation_mismatch_rate", "termination_mismatch_rate"):
        assert np.nanmax(healthy.signal(name)) == 0
    rewards = healthy.signal("reward_mean")
    assert rewards[-3:].mean() > rewards[:3].mean() > 0.1
    assert healthy.signal("vetoes").max() == 0


def test_a_tensor_that_is_not_sent_is_found_among_rounded_weights(runner: ExperimentRunner, checkpoints: Path) -> None:
    del checkpoints
    lost = runner.run(configure(background=DIRTY), ("OD-2@3:1,mechanism=unsynced",), how=HowToRun(may_fail=True))
    assert lost.signal("weights_mismatch")[:3].tolist() == [0, 0, 1]


def test_a_fork_is_its_healthy_run_until_the_fault(
    runner: ExperimentRunner, healthy: RunHistory, checkpoints: Path
) -> None:
    fork = runner.run(configure(background=DIRTY), (f"RF-1@{ONSET}:2",), checkpoints / f"step-{FORK:06d}")
    before = ONSET - 1 - FORK
    np.testing.assert_array_equal(columns(fork)[:before], columns(healthy)[FORK : ONSET - 1])
    assert not np.array_equal(columns(fork)[before], columns(healthy)[ONSET - 1])
