"""SIGTERM and SIGINT of a run: when they raise, when they are only remembered, and whose handlers remain."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rftfm_ray.config import load_config
from rftfm_ray.driver.stopping import REPEAT_S, SIGNALS, Outlook, StopSignal
from rftfm_ray.errors import HungUpRunError, InterruptedRunError, SignalInterrupt, TerminatedRunError
from rftfm_ray.telemetry.rundir import needed_directory, resume_command

TWICE = """
import ctypes, os, signal, time
from rftfm_ray.driver.stopping import REPEAT_S, SIGNALS, StopSignal

with StopSignal().installed() as stop:
    stop.defer()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    while not stop.requested:
        time.sleep(0.01)
    time.sleep({pause})
    print("remembered", flush=True)
    if {stuck}:
        # The main thread gets no signal, as in a call that does not return to Python.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    os.kill(os.getpid(), signal.{second})
    ctypes.CDLL(None).usleep(900_000)
    print("not reached", flush=True)
"""
# The signal comes while the main thread is in a call that does not return to Python.
STUCK = """
import ctypes, os, signal, threading
from rftfm_ray.driver import stopping

stopping.CLEANUP_S = 0.5
with stopping.StopSignal().installed() as stop:
    {before}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGHUP)).start()
    {after}
    ctypes.CDLL(None).sleep(30)
"""
SHELTERED = """
import os, signal, subprocess, sys, time
from rftfm_ray.driver.stopping import SIGNALS, sheltered

child = "import time; print('up', flush=True); time.sleep(0.5); print('survived', flush=True)"
with sheltered():
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
process.stdout.readline()
for number in SIGNALS:
    process.send_signal(number)
print(process.communicate()[0].strip(), process.returncode)
"""


def python(text: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)}, timeout=60,
    )  # fmt: skip


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
    ("number", "kind", "code"),
    [
        (signal.SIGINT, InterruptedRunError, 130),
        (signal.SIGTERM, TerminatedRunError, 143),
        (signal.SIGHUP, HungUpRunError, 129),
    ],
)
def test_error_has_the_exit_code_of_the_signal(number: signal.Signals, kind: type[Exception], code: int) -> None:
    with StopSignal().installed() as stop:
        stop.defer()
        signal.raise_signal(number)
        error = stop.error("Stopped.")
    assert type(error) is kind
    assert (str(error), error.exit_code) == ("Stopped.", code)
    assert str(pickle.loads(pickle.dumps(error))) == "Stopped."  # noqa: S301 - what was pickled here


@pytest.mark.parametrize("stuck", [False, True])
@pytest.mark.parametrize(("second", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_second_signal_ends_the_process_at_once(second: str, code: int, *, stuck: bool) -> None:
    done = python(TWICE.format(second=second, pause=REPEAT_S + 0.2, stuck=stuck))
    assert (done.returncode, done.stdout) == (code, "remembered\n"), done.stderr


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal() -> Iterator[None]:
    """Under `nohup` SIGHUP is ignored, and a run then goes on; processes that tests start would inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_signal_that_is_repeated_at_once_is_one_request() -> None:
    """`timeout` sends its signal to the process, and then to the group of it."""
    done = python(TWICE.format(second="SIGTERM", pause=0, stuck=False))
    assert (done.returncode, done.stdout) == (0, "remembered\nnot reached\n"), done.stderr
    heard = "SIGTERM: stopping after this step, with a checkpoint. A second signal ends the run without one."
    assert done.stderr == f"rftfm: {heard}\n", "a step may take minutes"


@pytest.mark.parametrize("outlook", Outlook)
def test_user_is_told_what_the_signal_leads_to(outlook: Outlook) -> None:
    program = TWICE.replace("stop.defer()", f"stop.defer(); stop.outlook = {outlook.value!r}")
    done = python(program.format(second="SIGTERM", pause=0, stuck=False))
    assert done.stderr == f"rftfm: SIGTERM: {outlook}\n"


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("stop.last_words = lambda: f'Stopped by {stop.name}.'", "pass", "rftfm: Stopped by SIGHUP.\n"),
        ("pass", "pass", "rftfm: ended by SIGHUP.\n"),
        # The run has said it, and its cluster does not let it end.
        ("stop.defer(); stop.note(signal.SIGHUP)", "stop.end_soon()", "rftfm: SIGHUP: stopping after this step"),
    ],
    ids=["start", "before the run", "clean-up"],
)
def test_process_that_is_stuck_ends_by_the_deadline(before: str, after: str, sentence: str) -> None:
    done = python(STUCK.format(before=before, after=after))
    assert (done.returncode, done.stdout) == (129, "")
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_process_with_a_thousand_open_files_ends_by_the_deadline_too() -> None:
    many = (
        "import resource\n"
        "_, most = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n"
        "held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]\n"
    )
    imports, rest = STUCK.split("stopping.CLEANUP_S")
    done = python((imports + many + "stopping.CLEANUP_S" + rest).format(before="pass", after="pass"))
    assert (done.returncode, done.stdout) == (129, "")
    assert done.stderr.count("\n") == 1


def test_run_in_progress_has_no_deadline_before_its_state_is_saved() -> None:
    done = python(STUCK.format(before="stop.defer()", after="pass").replace("sleep(30)", "sleep(1)"))
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)


def test_sighup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal().installed() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_processes_of_a_sheltered_cluster_outlive_the_signals_of_a_job() -> None:
    done = python(SHELTERED)
    assert (done.returncode, done.stdout) == (0, "survived 0\n"), done.stderr


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
    assert resume_command(folder, "/c", "/my code") == (
        "cd '/my code' && rftfm train '/runs/my run/config.yaml' --resume /c"
    )


@pytest.mark.parametrize(
    ("overrides", "is_needed"),
    [
        ((), False),
        (("task.name=mine.py:Mine",), True),
        (("task.name=/code/mine.py:Mine",), False),
        (("task.name=package.module:Mine",), False),
        (("guard.policy=mine.py:Policy",), True),
        (("guard.detectors=[mine.py:Detector]",), True),
        (("guard.profile=profile.json",), True),
        (("model.path=model",), True),
        (("model.path=absent",), False),
        (("data.train=model",), True),
        (("data.train=model:train",), True),
        (("data.train=absent",), False),
        (("data.train=/x", "data.heldout=profile.json"), True),
        (("data.train=/x", "reward.functions=[mine.py:score]"), True),
        (("data.train=/x", "reward.functions=[exact,'json:profile.json']"), True),
        (("data.train=/x", "reward.functions=[exact,'http://host/score']"), False),
        (("data.train=/x", "eval.sets=[hard=profile.json]"), True),
    ],
)
def test_command_names_the_directory_that_relative_names_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], *, is_needed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "profile.json").write_text("{}")
    config = load_config(None, [*overrides])
    assert needed_directory(config) == (str(tmp_path) if is_needed else "")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert needed_directory(config) == "", "a submitted job runs in a copy"
