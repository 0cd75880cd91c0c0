"""A Ray cluster of two nodes in a process of its own, with nothing in common with another Ray on this machine.

Run as a script it starts the nodes that are described on its command line, prints the address, and ends them when its
standard input is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BIN = Path(sys.executable).parent
START_S = 90.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def two_nodes(home: Path) -> Iterator[dict[str, str]]:
    """Environment of a client of such a cluster, with RAY_ADDRESS for jobs and CLUSTER for drivers; ends with it."""
    token = home / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    token.chmod(0o600)
    # Ray's sockets lie below it, and their paths may not be long. What names the newest cluster lies there as well.
    temporary = tempfile.mkdtemp(prefix="rftfm-")
    dashboard = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": temporary,
        "RAY_USAGE_STATS_ENABLED": "0",
        # By default a stopped job has three seconds, in which no report is written.
        "RAY_JOB_STOP_WAIT_TIME_S": "90",
        "RAY_worker_niceness": "0",
        "RFTFM_HOME": str(home / "runs"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": dashboard, "gcs_server_port": free_port()}
    nodes = [head | _ports(), {"num_cpus": 2} | _ports()]
    log = (home / "cluster.log").open("w")
    command = [sys.executable, __file__, json.dumps(nodes)]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        assert address, (home / "cluster.log").read_text()
        _wait_for(dashboard)
        yield environment | {"RAY_ADDRESS": f"http://127.0.0.1:{dashboard}", "CLUSTER": address}
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)


def _ports() -> dict[str, int]:
    """Ports of a node's agents: the usual ones may be those of another Ray on this machine."""
    names = ("dashboard_agent_listen_port", "metrics_export_port", "metrics_agent_port", "runtime_env_agent_port")
    return {name: free_port() for name in names}


def _wait_for(port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"the dashboard does not listen within {START_S:g} s")


def main() -> None:
    """Start the nodes, and end them when standard input is closed."""
    from ray.cluster_utils import Cluster

    head, *others = json.loads(sys.argv[1])
    # Ray prints to standard output, which is for the address alone.
    with contextlib.redirect_stdout(sys.stderr):
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for node in others:
            cluster.add_node(**node)
    print(cluster.address, flush=True)
    sys.stdin.read()
    with contextlib.redirect_stdout(sys.stderr):
        cluster.shutdown()


if __name__ == "__main__":
    main()
