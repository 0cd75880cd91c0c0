"""SIGTERM and SIGINT of a run: when they raise, when they are only remembered, and whose handlers remain."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rftfm_ray.driver.stopping import SIGNALS, StopSignal
from rftfm_ray.errors import InterruptedRunError, SignalInterrupt, TerminatedRunError
from rftfm_ray.telemetry.rundir import resume_command

TWICE = """
import signal, time
from rftfm_ray.driver.stopping import StopSignal

with StopSignal().installed() as stop:
    stop.defer()
    signal.raise_signal(signal.SIGTERM)
    assert stop.requested
    print("remembered", flush=True)
    signal.raise_signal(signal.{second})
    print("not reached", flush=True)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_raises_before_training_and_is_remembered_during_it(number: signal.Signals) -> None:
    with StopSignal().installed() as stop, pytest.raises(SignalInterrupt) as caught:
        signal.raise_signal(number)
    assert (caught.value.signum, caught.value.name, caught.value.exit_code) == (number, number.name, 128 + number)
    assert isinstance(caught.value, KeyboardInterrupt), "no `except Exception` may keep it"
    with StopSignal().installed() as stop:
        stop.defer()
        assert (stop.requested, stop.name) == (False, "")
        signal.raise_signal(number)
        assert (stop.requested, stop.name) == (True, number.name)


@pytest.mark.parametrize(
    ("number", "kind", "code"), [(signal.SIGINT, InterruptedRunError, 130), (signal.SIGTERM, TerminatedRunError, 143)]
)
def test_error_has_the_exit_code_of_the_signal(number: signal.Signals, kind: type[Exception], code: int) -> None:
    with StopSignal().installed() as stop:
        stop.defer()
        signal.raise_signal(number)
        error = stop.error("Stopped.")
    assert type(error) is kind
    assert (str(error), error.exit_code) == ("Stopped.", code)
    assert str(pickle.loads(pickle.dumps(error))) == "Stopped."  # noqa: S301 - what was pickled here


@pytest.mark.parametrize(("second", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_second_signal_ends_the_process_at_once(second: str, code: int) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", TWICE.format(second=second)], capture_output=True, text=True, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)}, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, "remembered\n"), done.stderr


def test_handlers_are_taken_back_and_the_earlier_ones_return() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignal().installed() as stop:
        own = [signal.getsignal(number) for number in SIGNALS]
        for number in SIGNALS:
            # What ray.init does.
            signal.signal(number, signal.SIG_DFL)
        stop.reinstall()
        assert [signal.getsignal(number) for number in SIGNALS] == own != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    stop.reinstall()
    assert [signal.getsignal(number) for number in SIGNALS] == before, "a run of the library takes no signals"


def test_resume_command_can_be_pasted_into_a_shell() -> None:
    folder = Path("/runs/my run")
    assert resume_command(folder, folder / "checkpoints/step-000005") == (
        "rftfm train '/runs/my run/config.yaml' --resume '/runs/my run/checkpoints/step-000005'"
    )
