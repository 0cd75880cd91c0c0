"""`ray job submit` to a cluster of its own, with token authentication on, from an upload of the working directory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from rftfm_ray.types import ActorState

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_S = 90
ACTORS = {"learner-0", "rollout-0", "monitor-0", "controller-0"}
STATE = re.compile(r'ray_rftfm_actor_state\{[^}]*actor="([^"]+)"[^}]*state="([^"]+)"[^}]*\} 1')


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a client of a fresh head node; the node's processes end with the test."""
    home = tmp_path_factory.mktemp("head")
    # Ray's sockets lie in its directory, and their paths may not be long.
    temporary = tempfile.mkdtemp(prefix="rftfm-")
    token = home / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    token.chmod(0o600)
    gcs, dashboard, metrics = free_port(), free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RFTFM_HOME": str(home / "runs"),
        "RAY_worker_niceness": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={gcs}", f"--dashboard-port={dashboard}"]
    command += [f"--metrics-export-port={metrics}"]
    # The node's agent would listen where that of any other Ray on this machine listens, and never start a job.
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
    command += [
        "--num-cpus=4",
        f"--temp-dir={temporary}",
        "--disable-usage-stats",
        f"--ray-client-server-port={free_port()}",
    ]
    log = (home / "head.log").open("w")
    node = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for_port(dashboard, node, home / "head.log")
        yield environment | {"RAY_ADDRESS": f"http://127.0.0.1:{dashboard}", "METRICS": f"http://127.0.0.1:{metrics}"}
    finally:
        node.send_signal(signal.SIGTERM)
        try:
            node.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)


def wait_for_port(port: int, node: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the dashboard listens."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert node.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(f"Ray did not start within {START_S} s: {log.read_text()}")


def submit(head: dict[str, str], job: list[str]) -> tuple[subprocess.CompletedProcess[str], set[tuple[str, str]]]:
    """Submit a job and wait for it; the (actor, state) pairs that the state metric showed meanwhile."""
    command = [str(BIN / "ray"), "job", "submit", "--working-dir", str(ROOT), "--", *job]
    seen: set[tuple[str, str]] = set()
    with subprocess.Popen(command, env=head, text=True, cwd="/", stdout=PIPE, stderr=PIPE) as process:
        end = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(head["METRICS"], timeout=5) as answer:  # noqa: S310
                seen |= set(STATE.findall(answer.read().decode()))
            time.sleep(0.5)
        process.kill()
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err), seen


@pytest.mark.slow
def test_a_submitted_job_trains_in_the_cluster_and_leaves_its_records(head: dict[str, str]) -> None:
    overrides = ["steps=30", "probe.size=16", "probe.final_size=16", "algorithm.prompts_per_step=8"]
    job = ["rftfm", "train", "examples/calculator.yaml", "--json", *overrides]
    end = time.monotonic() + START_S
    done, states = submit(head, job)
    # The dashboard listens a little before the node's agent, which starts jobs.
    while "No available agent" in done.stderr and time.monotonic() < end:
        time.sleep(1)
        done, states = submit(head, job)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith('{"run_dir"'))
    summary = json.loads(line)
    folder = Path(summary["run_dir"])
    assert folder.parent == Path(head["RFTFM_HOME"])
    assert json.loads((folder / "summary.json").read_text()) == summary
    listed = subprocess.run(
        [str(BIN / "ray"), "list", "actors", "--detail", "--format=json", f"--address={head['RAY_ADDRESS']}"],
        env=head, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    actors = [actor for actor in json.loads(listed.stdout) if actor["ray_namespace"] == "rftfm"]
    assert {actor["name"].split("/")[1] for actor in actors} == ACTORS
    assert {actor["state"] for actor in actors} == {"DEAD"}
    shown = {actor["name"].split("/")[1]: actor["repr_name"] for actor in actors}
    assert "algorithm=grpo" in shown["learner-0"]
    assert "task=calculator" in shown["rollout-0"]
    assert "mode=observe" in shown["controller-0"]
    assert {actor for actor, _ in states} == ACTORS
    assert {state for _, state in states} <= {state.value for state in ActorState}


def client(head: dict[str, str], *arguments: str) -> str:
    """What a command of `ray job` prints; it must end well."""
    done = subprocess.run(
        [str(BIN / "ray"), "job", *arguments], env=head, cwd="/", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_stopped_job_leaves_a_checkpoint_and_the_command_that_goes_on(head: dict[str, str], tmp_path: Path) -> None:
    folder, job = tmp_path / "run", "stopped"
    overrides = ["steps=2000", "probe.size=16", "probe.final_size=16", "probe.every=1", "algorithm.prompts_per_step=8"]
    entry = ["rftfm", "train", "examples/calculator.yaml", *overrides, "--run-dir", str(folder)]
    submitted = ("submit", "--no-wait", "--submission-id", job, "--working-dir", str(ROOT), "--", *entry)
    client(head, *submitted)
    events, end = folder / "events.jsonl", time.monotonic() + START_S
    while time.monotonic() < end and not (events.exists() and events.read_text().count('"kind": "probe"') > 3):
        time.sleep(0.2)
    client(head, "stop", job)
    output = client(head, "logs", job)
    said = re.search(
        r"Stopped by SIGTERM after step (\d+) of 2000; go on with: rftfm train (\S+) --resume (\S+)", output
    )
    assert said, output
    assert int(said[1]) > 0
    config, checkpoint = Path(said[2]), Path(said[3])
    assert config == folder / "config.yaml"
    assert checkpoint == folder / "checkpoints" / f"step-{int(said[1]):06d}"
    assert checkpoint.is_dir()
