"""End to end on two nodes: a job with a fault, advice, `rftfm approve` from outside, the remedy, and the report."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rftfm_ray.incidents.state import Entry, EntryKind, replay
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from tests.integration.two_nodes import BIN, START_S, two_nodes

ROOT = Path(__file__).parents[2]
JOB = "guarded"
K = EntryKind
OVERRIDES = [
    "steps=400", "seed=5", "algorithm.prompts_per_step=8", "algorithm.samples_per_prompt=4", "learner.lr=2e-4",
    "probe.size=80", "probe.final_size=80", "guard.mode=advise", "guard.verify_steps=4", "inject=['TE-1@8:0.6']",
    "guard.on_harm=warn",
]  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a client of the cluster."""
    with two_nodes(tmp_path_factory.mktemp("two-nodes")) as environment:
        yield environment


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command outside of the repository."""
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]], env=environment, cwd="/", capture_output=True, text=True, timeout=150
    )


def until(true: Callable[[], bool], limit_s: float, what: Callable[[], str]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, what()
        time.sleep(0.5)


def entries_of(folder: Path) -> tuple[Entry, ...]:
    """The journal so far."""
    return read_journal(folder / JOURNAL)[0] if (folder / JOURNAL).exists() else ()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_job_on_two_nodes_is_remedied_by_a_person(client: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train = ["rftfm", "train", "examples/calculator.yaml", *OVERRIDES, "--run-dir", str(folder)]
    submit = ["ray", "job", "submit", "--no-wait", "--submission-id", JOB, "--working-dir", str(ROOT), "--", *train]
    end = time.monotonic() + START_S
    done = run(client, *submit)
    # The dashboard listens a little before the node's agent, which starts jobs.
    while done.returncode and "No available agent" in done.stderr and time.monotonic() < end:
        time.sleep(1)
        done = run(client, *submit)
    assert done.returncode == 0, done.stdout + done.stderr

    def log() -> str:
        status = run(client, "ray", "job", "status", JOB)
        return run(client, "ray", "job", "logs", JOB).stdout + status.stdout + status.stderr

    def has(*kinds: EntryKind) -> Callable[[], bool]:
        return lambda: {*kinds} <= {entry.kind for entry in entries_of(folder)}

    until(has(K.ADVISED), 150, log)
    # Nobody outside of the cluster needs the run directory: the controller takes the answer.
    name = json.loads((folder / "events.jsonl").read_text().splitlines()[0])["run"]
    inside = client | {"RAY_ADDRESS": client["CLUSTER"], "RFTFM_HOME": str(tmp_path / "elsewhere")}
    unknown = run(inside, "rftfm", "approve", name, "7", "--by", "ada")
    assert unknown.returncode == 2, unknown.stdout + unknown.stderr
    assert "There is no incident #7 in this run" in unknown.stderr
    approved = run(inside, "rftfm", "approve", name, "1", "--by", "ada", "--reason", "the tool is down")
    assert approved.returncode == 0, approved.stdout + approved.stderr
    assert "Approved: retry_and_failover for incident #1 (TE-1)" in approved.stdout
    until(has(K.APPLIED, K.OUTCOME), 90, log)
    (incident,) = replay(entries_of(folder)).incidents
    assert incident.tried[0].remedy == "retry_and_failover"
    # Who reaches the directory needs no cluster.
    late = run(client, "rftfm", "approve", str(folder), "1")
    assert late.returncode == 2
    assert "incident #1 (TE-1)" in late.stderr
    run(client, "ray", "job", "stop", JOB)
    until(lambda: (folder / "report.html").exists(), 60, log)
    said = log()
    assert f"to have it done: rftfm approve {folder} 1" in said
    assert "approved by ada: retry_and_failover" in said
    assert "applied remedy: retry_and_failover" in said
    assert re.search(r"verified: (mitigated|resolved)", said)
    assert "Stopped by SIGTERM" in said
    page = (folder / "report.html").read_text()
    assert "retry_and_failover" in page
    status = run(client, "ray", "job", "status", JOB)
    assert "STOPPED" in (status.stdout + status.stderr).upper()
