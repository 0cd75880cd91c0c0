"""A task of `reasoning_gym` on the real stack: its starting policy earns rewards, and the library grades in actors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rftfm_ray.config import load_config
from rftfm_ray.driver.run import train
from rftfm_ray.telemetry.recorder import read_steps

pytestmark = pytest.mark.usefixtures("cluster")

EXAMPLE = Path(__file__).parents[2] / "examples" / "spell_backward.yaml"
SHORT = [
    "steps=4", "algorithm.prompts_per_step=8", "probe.size=32", "probe.every=2", "probe.final_size=256",
    "checkpoints.at_end=false", "report.at_end=false", "channels.golden_every=2", "guard.regrade_rate=1",
]  # fmt: skip


def test_task_of_reasoning_gym_trains_from_its_starting_policy(runs: Path) -> None:
    summary = train(load_config(EXAMPLE, SHORT), runs / "gym")
    steps = read_steps(Path(summary.run_dir))
    assert summary.vetoes == 0
    assert 0.25 <= summary.probe_first <= 0.85
    right = steps["correct_rate"].to_pylist()
    assert 0.2 <= math.fsum(right) / len(right) <= 0.6
    assert min(steps["grad_norm"].to_pylist()) > 0
    # The reward channel and the trusted verifier make the same entries of the generator again, and agree.
    assert set(steps["regrade_mismatch_rate"].to_pylist()) == {0.0}
