"""What an actor does with its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ACTOR = """
import os, signal, subprocess, sys, threading
from rftfm_ray.actors.roles import keep_working

signal.pthread_sigmask(signal.SIG_BLOCK, {blocked})
keep_working()
tool = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
tool.terminate()
print(tool.wait(), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("works on", flush=True)
"""


@pytest.mark.parametrize(
    ("blocked", "code", "text"),
    [("[signal.SIGTERM, signal.SIGHUP]", 0, "-15\nworks on\n"), ("[]", -15, "-15\n")],
    ids=["sheltered", "a cluster of the user's"],
)
def test_actor_of_a_sheltered_cluster_outlives_sigterm_and_its_programs_do_not(
    blocked: str, code: int, text: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ACTOR.format(blocked=blocked)], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, text), done.stderr
