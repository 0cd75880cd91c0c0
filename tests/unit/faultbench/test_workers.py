"""Processes that share a score: they end with the command, and the command says how long it takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.faultbench.detectors.references import ReferenceMode, References
from rftfm_ray.faultbench.scoring.guarding import GuardSetup, judged_steps, seconds_per_step
from tests.unit.faultbench.simulated import simulated

ROOT = Path(__file__).parents[3]
# A command with the handler of `rftfm`, whose workers are busy for minutes.
COMMAND = """
import os, signal, time
from rftfm_ray.cli.app import _interrupt
from rftfm_ray.faultbench.scoring import guarding

def trace(work, task):
    os.write(1, b"working\\n")
    time.sleep(600)

guarding._Work.trace = trace
signal.signal(signal.SIGTERM, _interrupt)
guarding._traces((), None, [(0, draw) for draw in range(64)], 2)
"""


@pytest.mark.parametrize("is_group", [True, False], ids=["to all processes", "to the command"])
def test_score_ends_with_its_workers_on_sigterm(is_group: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            assert [process.stdout.readline() for _ in range(2)] == ["working\n"] * 2
            (os.killpg if is_group else os.kill)(process.pid, signal.SIGTERM)
            # The pipe closes when the last worker has ended.
            _, errors = process.communicate(timeout=20)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert "SignalInterrupt" in errors
    assert "Exception in thread" not in errors


def test_estimate_counts_every_draw_of_the_runs_that_have_a_reference() -> None:
    runs = [simulated(seed) for seed in range(8)]
    references, nothing = References(runs), list[Detector]
    steps = sum(run.entry.steps for run in runs)
    assert judged_steps(runs, GuardSetup(references, ReferenceMode.NONE)) == steps
    assert judged_steps(runs, GuardSetup(references, ReferenceMode.THREE)) == 10 * steps
    assert seconds_per_step(runs[0], GuardSetup(references, ReferenceMode.NONE, detectors=nothing)) > 0
