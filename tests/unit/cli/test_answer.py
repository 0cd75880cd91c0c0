"""`rftfm approve` and `rftfm reject`: a run that goes on, one that has paused, and those that nobody can answer."""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rftfm_ray.cli.app import app
from rftfm_ray.config import load_config
from rftfm_ray.errors import AnswerError, NotTakenError, RftfmError
from rftfm_ray.incidents.handover import handover_of, write_handover
from rftfm_ray.incidents.requests import Reply, Request, Wish
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.telemetry.events import EventLog
from rftfm_ray.telemetry.journal import JOURNAL, Journal, read_journal
from rftfm_ray.telemetry.process import this_process
from rftfm_ray.telemetry.requests import RequestBox
from rftfm_ray.telemetry.rundir import CONTINUED, HANDOVER
from rftfm_ray.types import StepId
from tests.unit.incidents.managed import FIRST, started

K = EntryKind
TE: dict[str, Scalar] = {"code": "TE-1", "family": "TE", "onset": 6, "onset_low": 5}
ADVISED: tuple[tuple[EntryKind, int, int, dict[str, Scalar]], ...] = (
    (K.STARTED, 0, 0, {"mode": "advise", "act_on": "TE", "policy": "playbook"}),
    (K.OPENED, 6, 1, TE),
    (K.DIAGNOSED, 6, 1, TE),
    (K.ADVISED, 6, 1, {"order": 1, "remedy": "retry", "reason": "the tool fails", "lever_tool_retries": 2}),
)
PAUSED = (*ADVISED, (K.PAUSED, 8, 1, {"remedy": "retry", "waited_s": 61.0}))


def rftfm(*arguments: object) -> Result:
    """Run `rftfm` as its entry point does."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error(*arguments: object, kind: type[RftfmError] = AnswerError) -> str:
    """The sentence that a command ends with."""
    done = rftfm(*arguments)
    assert isinstance(done.exception, kind), done.output + repr(done.exception)
    assert done.exception.exit_code == (2 if kind is AnswerError else 1)
    return str(done.exception)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes the directory of a run whose process is this one."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RFTFM_HOME", str(tmp_path))

    def write(story: tuple[Any, ...] = ADVISED, mode: str = "advise") -> Path:
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.yaml").write_text(load_config(None, ["steps=20", f"guard.mode={mode}"]).to_yaml())
        here = this_process()
        about: dict[str, Scalar] = {"pid": here.pid, "host": here.host, "process_started": here.started}
        EventLog(folder / "events.jsonl").append("run_started", None, run="run-1", **about)
        for seq, (kind, step, incident, fields) in enumerate(story, start=1):
            Journal(folder / JOURNAL).write(Entry(seq, kind, StepId(0, step, step), incident, tuple(fields.items())))
        if story is PAUSED:
            handover = handover_of(started(FIRST).manager.memory(), StepId(0, 7, 7), ())
            (folder / HANDOVER).parent.mkdir()
            (folder / HANDOVER).write_bytes(write_handover(handover))
        return folder

    return write


@pytest.fixture
def driver() -> Iterator[Callable[..., list[Request]]]:
    """Plays the driver of a run: it takes requests at its boundaries and replies to them."""
    end, threads = threading.Event(), list[threading.Thread]()

    def play(run: Path, reply: str = "Approved: retry.", *, accepted: bool = True) -> list[Request]:
        taken: list[Request] = []

        def work() -> None:
            while not end.wait(0.02):
                for request in RequestBox(run).take():
                    taken.append(request)
                    RequestBox(run).reply(Reply(request.id, accepted, reply))

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return taken

    yield play
    end.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("wish", list(Wish))
def test_run_that_goes_on_takes_the_answer_about_what_the_person_has_read(
    make: Callable[..., Path], driver: Callable[..., list[Request]], wish: Wish
) -> None:
    run = make()
    taken = driver(run)
    done = rftfm(wish, run, 1, "--by", "Ada", "--reason", "looks  right\n")
    assert (done.exit_code, done.output) == (0, "Approved: retry.\n")
    (request,) = taken
    assert (request.wish, request.incident, request.by, request.reason, request.advice) == (
        wish,
        1,
        "Ada",
        "looks right",
        4,
    )
    assert abs(request.time_s - time.time()) < 60


def test_login_name_stands_where_none_is_given(make: Callable[..., Path], driver: Callable[..., list[Request]]) -> None:
    taken = driver(make())
    rftfm("approve", "run", 1)
    assert [request.by for request in taken] == [getpass.getuser()]


def test_what_the_run_declines_is_the_error(make: Callable[..., Path], driver: Callable[..., list[Request]]) -> None:
    run = make()
    driver(run, "There is no incident #7 in this run.", accepted=False)
    assert error("approve", run, 7) == "There is no incident #7 in this run."


def test_answer_that_nobody_takes_is_withdrawn(make: Callable[..., Path]) -> None:
    run = make()
    message = error("approve", run, 1, "--wait", 0.3, kind=NotTakenError)
    assert message.startswith(
        "The run has not taken the answer within 0.3 s, so it was withdrawn and nothing was done;"
    )
    assert list((run / "requests").iterdir()) == []


def ended(run: Path, how: str) -> None:
    """End a run."""
    if how == "finished":
        (run / "summary.json").write_text('{"steps": 20}')
    elif how == "stopped":
        EventLog(run / "events.jsonl").append("run_stopped", StepId(0, 9, 9), signal="SIGTERM")
    elif how == "failed":
        EventLog(run / "events.jsonl").append("run_failed", None, error="LearnerError", message="It died.")
    else:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        here = this_process()
        EventLog(run / "events.jsonl").append(
            "run_started", None, pid=gone.pid, host=here.host, process_started=here.started
        )


@pytest.mark.parametrize("how", ["finished", "stopped", "failed", "dead"])
def test_run_that_has_ended_takes_no_answer(make: Callable[..., Path], how: str) -> None:
    run = make()
    ended(run, how)
    before = (run / JOURNAL).read_bytes()
    assert error("approve", run, 1) == f"The run in {run} has ended ({how}), so nothing is carried out any more."
    assert (run / JOURNAL).read_bytes() == before
    assert not (run / "requests").exists()


def test_run_without_a_guard_is_not_asked(make: Callable[..., Path]) -> None:
    assert "has guard.mode=off" in error("approve", make((), mode="off"), 1)


def test_run_that_is_not_here_names_the_way_through_the_cluster(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert error("reject", "nothing", 1).endswith("`ray job submit -- rftfm reject RUN INCIDENT`.")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert "takes jobs alone: answer from inside of the cluster" in error("approve", "nothing", 1)


def answers(run: Path) -> list[Entry]:
    """What people have answered, by the journal."""
    kinds = (K.APPROVED, K.REJECTED, K.DECLINED)
    return [entry for entry in read_journal(run / JOURNAL)[0] if entry.kind in kinds]


def test_paused_run_keeps_the_approval_for_the_run_that_continues_it(make: Callable[..., Path]) -> None:
    run = make(PAUSED)
    done = rftfm("approve", run, 1, "--by", "ada")
    assert done.exit_code == 0
    assert done.output.startswith("Approved: retry for incident #1 (TE-1), as order 1.")
    (approved,) = answers(run)
    assert (approved.kind, approved.seq, approved.text("by"), approved.integer("order")) == (K.APPROVED, 6, "ada", 1)
    assert "was made already: order 1 is about to be carried out" in error("approve", run, 1)
    assert [entry.kind for entry in answers(run)] == [K.APPROVED, K.DECLINED]


def test_paused_run_may_be_turned_down(make: Callable[..., Path]) -> None:
    run = make(PAUSED)
    assert rftfm("reject", run, 1).output.startswith(
        "Rejected: retry for incident #1 (TE-1); nothing is done about it."
    )
    assert "rejected already" in error("approve", run, 1)


def test_run_that_pauses_while_one_waits_for_it_is_answered_all_the_same(make: Callable[..., Path]) -> None:
    run = make(PAUSED)
    lines = (run / JOURNAL).read_bytes().splitlines(keepends=True)
    (run / JOURNAL).write_bytes(b"".join(lines[:-1]))
    timer = threading.Timer(0.4, lambda: (run / JOURNAL).write_bytes(b"".join(lines)))
    timer.start()
    assert rftfm("approve", run, 1).output.startswith("Approved: retry")
    timer.join()
    assert [entry.kind for entry in answers(run)] == [K.APPROVED]


def test_paused_run_that_was_continued_is_answered_there(make: Callable[..., Path]) -> None:
    run = make(PAUSED)
    (run / CONTINUED).write_text("/runs/two\n")
    assert error("approve", run, 1) == f"The run in {run} was continued in /runs/two; answer there."
    assert "It was continued in /runs/two." in rftfm("status", run).output
    assert answers(run) == []


@pytest.mark.parametrize("story", [ADVISED, PAUSED], ids=["going-on", "paused"])
def test_status_and_journal_show_what_waits_and_how_to_answer(
    make: Callable[..., Path], story: tuple[Any, ...]
) -> None:
    run = make(story)
    shown = rftfm("status", run).output
    lines = {line[:13].strip(): line[13:] for line in shown.splitlines()}
    assert lines["waiting"] == "retry for incident #1 (TE-1), since step 6: the tool fails"
    assert (lines["approve"], lines["reject"]) == (f"rftfm approve {run} 1", f"rftfm reject {run} 1")
    facts = json.loads(rftfm("status", run, "--json").output)
    assert facts["waiting"] == [{
        "incident": 1, "remedy": "retry", "words": lines["waiting"], "approve": lines["approve"],
        "reject": lines["reject"],
    }]  # fmt: skip
    assert facts["state"] == ("paused" if story is PAUSED else "going on")
    journal = rftfm("journal", run).output
    assert f"Waiting for a person: {lines['waiting']}\n  rftfm approve {run} 1\n  rftfm reject {run} 1\n" in journal


def test_status_of_a_paused_run_says_how_it_goes_on(make: Callable[..., Path]) -> None:
    run = make(PAUSED)
    shown = rftfm("status", run).output
    assert "The run waits for a person at step 6." in shown, "nobody knows of the step under way whether it was made"
    assert f"Answer with: rftfm approve {run} 1 or rftfm reject {run} 1." in shown
    rftfm("approve", run, 1, "--by", "ada")
    shown = rftfm("status", run).output
    assert "approved by ada: retry" in shown
    assert "waiting" not in shown


def test_ended_run_shows_nothing_that_could_be_approved(make: Callable[..., Path]) -> None:
    run = make()
    ended(run, "stopped")
    assert "rftfm approve" not in rftfm("status", run).output + rftfm("journal", run).output
