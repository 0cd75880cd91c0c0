"""Exit codes: what a job can tell apart without reading the output of a command."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rftfm_ray.cli.app import app, run_guarded
from rftfm_ray.errors import (
    ConfigError,
    FaultError,
    GuardError,
    GuardHaltError,
    InterruptedRunError,
    OutputError,
    PolicyError,
    RftfmError,
    RolloutError,
    RunDirError,
    SignalInterrupt,
    TerminatedRunError,
)

COLUMNS = "reward,reward_std,kl,entropy,completions/mean_length,grad_norm,loss"


def full(rows: int = 80) -> str:
    """A healthy log with all columns that can be checked."""
    lines = [f"{n}," + ",".join(f"{0.5 + (n * (k + 3)) % 7 / 100:.3f}" for k in range(7)) for n in range(1, rows + 1)]
    return f"step,{COLUMNS}\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (full(), 0, "no alarm ("),
        (full().replace("80,0.5", "80,?,0.5"), 3, "a part of the log could not be judged"),
        ("step,entropy\n" + "\n".join(f"{n},1.{n % 3}" for n in range(1, 81)), 3, "not enough to tell"),
        (full() + "".join(f"{n},nan,nan,nan,nan,nan,nan,nan\n" for n in range(81, 90)), 1, "alarms: "),
    ],
    ids=["healthy", "damaged", "too few", "alarm"],
)
def test_diagnosis_of_a_log_that_could_not_be_judged_is_no_clean_one(
    tmp_path: Path, text: str, code: int, said: str
) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    done = CliRunner().invoke(app, ["diagnose", str(path)])
    assert said in done.output
    assert done.exit_code == code


def test_report_that_cannot_be_written_where_the_user_wants_it_is_bad_usage(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "steps").mkdir(parents=True)
    done = CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "nowhere" / "x.html")])
    assert isinstance(done.exception, OutputError)
    assert done.exception.exit_code == 2


def test_key_in_the_place_of_a_file_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["config", "learner.lr=1e-4"])
    assert isinstance(done.exception, ConfigError)
    assert "learner.lr=1e-4 is a key; name a file before it: rftfm config FILE learner.lr=1e-4" in str(done.exception)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("steps=0 is wrong."), 2, "rftfm: steps=0 is wrong.\n"),
        (RunDirError("It is there."), 2, "rftfm: It is there.\n"),
        (FaultError("There is none."), 2, "rftfm: There is none.\n"),
        (PolicyError("It cannot."), 2, "rftfm: It cannot.\n"),
        (GuardHaltError("It is over."), 3, "rftfm: It is over.\n"),
        (GuardError("It is gone."), 1, "rftfm: It is gone.\n"),
        (RolloutError("vLLM fell."), 1, "rftfm: vLLM fell.\n"),
        (RftfmError("Anything."), 1, "rftfm: Anything.\n"),
        (KeyboardInterrupt(), 130, "rftfm: ended by SIGINT.\n"),
        (SignalInterrupt(signal.SIGINT), 130, "rftfm: ended by SIGINT.\n"),
        (SignalInterrupt(signal.SIGTERM), 143, "rftfm: ended by SIGTERM.\n"),
        # `rftfm train` has said so already, when the state was saved.
        (InterruptedRunError("Stopped."), 130, ""),
        (TerminatedRunError("Stopped."), 143, ""),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    assert run_guarded(command) == code
    assert capsys.readouterr() == ("", line)


def test_a_command_that_ends_well_has_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guarded(lambda: print("done")) == 0
    assert capsys.readouterr() == ("done\n", "")


def test_an_unforeseen_error_keeps_its_traceback() -> None:
    def command() -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_guarded(command)
