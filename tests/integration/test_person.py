"""A person in the loop, on the real stack: a run that pauses for one, and the run that does first what was approved."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.cli.app import app
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.run import train
from rftfm_ray.errors import GuardPausedError
from rftfm_ray.incidents.state import Entry, EntryKind, levers_of, replay
from rftfm_ray.runs.reader import read_run
from rftfm_ray.runs.verdict import progress_of
from rftfm_ray.telemetry.events import read_events
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.training import checkpoints
from rftfm_ray.verdicts import OutcomeKind

pytestmark = pytest.mark.usefixtures("cluster")

K = EntryKind
SMALL = [
    "seed=5", "steps=24", "algorithm.prompts_per_step=8", "algorithm.samples_per_prompt=4", "learner.lr=2e-4",
    "probe.size=80", "probe.final_size=80", "checkpoints.at_end=false", "report.at_end=false", "guard.verify_steps=4",
    "guard.return_after=3", "guard.mode=advise", "guard.pause_timeout_s=0.001",
]  # fmt: skip
# The newest snapshot from before the fault, whatever speaks for it.
BACK = """
from rftfm_ray import Decision, Levers, Remedy

def back(ctx):
    return Decision(Remedy("back", Levers(lr_scale=0.04, kl_coef_scale=2.0), rollback=True), "I say so")
"""


def config(*overrides: str) -> RunConfig:
    """A run of a few seconds that pauses as soon as a decision waits."""
    return load_config(None, [*SMALL, *overrides])


def entries_of(folder: Path) -> tuple[Entry, ...]:
    """The journal of a run."""
    return read_journal(folder / JOURNAL)[0]


def first(entries: tuple[Entry, ...], kind: EntryKind) -> Entry:
    """The first entry of a kind."""
    return next(entry for entry in entries if entry.kind is kind)


def paused(wanted: RunConfig, folder: Path, warm: WarmActors) -> Path:
    """Train until the run pauses; the checkpoint that it leaves."""
    with pytest.raises(
        GuardPausedError, match=r"Answer with `rftfm approve .* 1` .* Go on with: rftfm train "
    ) as raised:
        train(wanted, folder, warm=warm)
    (saved,) = (folder / "checkpoints").glob("step-*")
    assert saved == Path(raised.value.checkpoint)
    assert progress_of(read_run(folder))[0] == "paused"
    assert entries_of(folder)[-1].kind is K.PAUSED
    return saved


def answer(wish: str, folder: Path) -> str:
    """Answer as a person does."""
    done = CliRunner().invoke(app, [wish, str(folder), "1", "--by", "ada"])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done.output


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that is told of incidents, and what it was told."""
    seen: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/incidents", seen
    listening.shutdown()
    listening.server_close()


def test_run_pauses_and_the_continued_one_does_first_what_was_approved(
    runs: Path, warm: WarmActors, server: tuple[str, list[dict[str, Any]]]
) -> None:
    url, told = server
    wanted = config("task.name=calculator", "inject=['TE-1@8:0.6']", f"guard.on_incident={url}")
    saved = paused(wanted, runs / "person-paused", warm)
    at = checkpoints.verify(saved).state
    assert [event["event"] for event in told] == ["opened", "named", "waiting", "paused"]
    assert told[2]["approve"] == f"rftfm approve {runs / 'person-paused'} 1"
    said = answer("approve", runs / "person-paused")
    assert f"Go on with: rftfm train {runs / 'person-paused'}/config.yaml --resume {saved}" in said
    summary = train(wanted, runs / "person-continued", resume=saved, warm=warm)
    entries, before = entries_of(runs / "person-continued"), entries_of(runs / "person-paused")
    assert entries[: len(before)] == before
    applied = first(entries, K.APPLIED)
    assert applied.id.step == at.step + 1, "before the first update of the continued run"
    assert levers_of(applied).tool_instance == 1
    (incident,) = replay(entries).incidents
    assert incident.tried[0].outcome in (OutcomeKind.RESOLVED, OutcomeKind.MITIGATED)
    assert (summary.steps, summary.remedies) == (24, 1)
    kinds = [event["event"] for event in told]
    assert kinds[4:7] == ["applied", "outcome", "closed"]
    assert {event["code"] for event in told[1:]} == {"TE-1"}
    (counted,) = [e for e in read_events(runs / "person-continued" / "events.jsonl") if e["kind"] == "incident_hook"]
    assert (counted["failed"], counted["dropped"]) == (0, 0)


def test_rollback_that_is_approved_goes_back_to_a_snapshot_of_the_paused_run(
    runs: Path, warm: WarmActors, tmp_path: Path
) -> None:
    (tmp_path / "back.py").write_text(BACK)
    wanted = config("inject=['OD-1@12:30']", f"guard.policy={tmp_path / 'back.py'}:back")
    saved = paused(wanted, runs / "person-back", warm)
    advised = first(entries_of(runs / "person-back"), K.ADVISED)
    step = advised.integer("restore_step")
    assert step < checkpoints.verify(saved).state.step
    answer("approve", runs / "person-back")
    train(wanted, runs / "person-back-on", resume=saved, warm=warm)
    entries = entries_of(runs / "person-back-on")
    applied = first(entries, K.APPLIED)
    assert applied.integer("restored") == step
    assert levers_of(applied).lr_scale == 0.04


def test_rejected_remedy_is_not_given_by_the_continued_run(runs: Path, warm: WarmActors) -> None:
    wanted = config("task.name=calculator", "inject=['TE-1@8:0.6']")
    saved = paused(wanted, runs / "person-no", warm)
    answer("reject", runs / "person-no")
    summary = train(wanted, runs / "person-no-on", resume=saved, warm=warm)
    assert (summary.steps, summary.remedies, len(summary.incidents)) == (24, 0, 1)
    kinds = [entry.kind for entry in entries_of(runs / "person-no-on")]
    assert kinds.count(K.ADVISED) == kinds.count(K.PAUSED) == 1
