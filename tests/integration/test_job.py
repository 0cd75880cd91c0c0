"""`ray job submit` to a cluster of its own, with token authentication on, from an upload of the working directory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_S = 90


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
    gcs, dashboard = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RFTFM_HOME": str(home / "runs"),
        "RAY_worker_niceness": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={gcs}", f"--dashboard-port={dashboard}"]
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
        yield environment | {"RAY_ADDRESS": f"http://127.0.0.1:{dashboard}", "GCS": f"127.0.0.1:{gcs}"}
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


def test_a_submitted_job_trains_in_the_cluster_and_leaves_its_records(head: dict[str, str]) -> None:
    overrides = ["steps=2", "probe.size=16", "algorithm.prompts_per_step=4"]
    job = ["rftfm", "train", "examples/calculator.yaml", "--json", *overrides]
    submit = [str(BIN / "ray"), "job", "submit", "--working-dir", str(ROOT), "--", *job]
    end = time.monotonic() + START_S
    done = subprocess.run(submit, env=head, capture_output=True, text=True, timeout=240, cwd="/")
    # The dashboard listens a little before the node's agent, which starts jobs.
    while "No available agent" in done.stderr and time.monotonic() < end:
        time.sleep(1)
        done = subprocess.run(submit, env=head, capture_output=True, text=True, timeout=240, cwd="/")
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
    assert {actor["name"].split("/")[1] for actor in actors} == {"learner-0", "rollout-0"}
    assert {actor["state"] for actor in actors} == {"DEAD"}
    shown = {actor["name"].split("/")[1]: actor["repr_name"] for actor in actors}
    assert "algorithm=grpo" in shown["learner-0"]
    assert "task=calculator" in shown["rollout-0"]
