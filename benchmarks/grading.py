"""How long a step's grading takes with slow reward functions, and what becomes of a reward server's failures.

    python -m benchmarks.grading [--out FILE]

A step of 128 answers is put to functions that take a second a verdict, with 16 workers, as a rollout actor puts it; and
a server on this machine fails in each of its ways, 200 times in all. Writes docs/grading.md. Exit code 1 when a target
is missed.
"""

from __future__ import annotations

import argparse
import http.server
import itertools
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from textwrap import fill

from rftfm_ray.errors import RewardError
from rftfm_ray.faultbench.provenance import source_digest
from rftfm_ray.files import write_atomic
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.tasks.dataset import DataTask
from rftfm_ray.tasks.processes import Asked, VerifierProcesses
from rftfm_ray.tasks.remote_rewards import Pauses, RemoteReward
from rftfm_ray.tasks.reward_functions import RewardPart, parts_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "grading.md"
ANSWERS, WORKERS, STEPS, TARGET_S, FAILURES = 128, 16, 3, 10.0, 200
GENERATION_S = 10.0
FUNCTIONS = """
import asyncio, time

def verl(data_source, solution_str, ground_truth, extra_info=None):
    time.sleep(1)
    return 1.0

async def verl_async(data_source, solution_str, ground_truth, extra_info=None):
    await asyncio.sleep(1)
    return 1.0

def trl(completions, **columns):
    time.sleep(len(completions))
    return [1.0] * len(completions)
"""
KINDS = {
    "verl": "verl's form, 1 s an answer",
    "verl_async": "verl's form, async, 1 s an answer",
    "trl": "TRL's form, 1 s an answer of its list",
}
REPLIES: dict[str, tuple[int, bytes]] = {
    "500": (500, b""), "503": (503, b""), "429": (429, b""), "404": (404, b""), "302": (302, b""),
    "no JSON": (200, b"<html>"), "empty": (200, b""), "a list": (200, b"[1, 2, 3, 4]"),
    "one reward short": (200, b'{"rewards": [1, 1, 1]}'), "one too many": (200, b'{"rewards": [1, 1, 1, 1, 1]}'),
    "NaN": (200, b'{"rewards": [NaN, NaN, NaN, NaN]}'), "infinite": (200, b'{"rewards": [1e999, 1e999, 1e999, 1e999]}'),
    "texts": (200, b'{"rewards": ["1", "1", "1", "1"]}'), "truths": (200, b'{"rewards": [true, true, true, true]}'),
}  # fmt: skip
HANGS, REFUSES = "hangs", "refuses the connection"
BATCH = 4


def asked(count: int) -> list[Asked]:
    """Answers, each to a row of its own."""
    return [(Problem(f"k{number}", f"{number}?", "1"), Transcript((str(number),))) for number in range(count)]


def step_s(parts: Sequence[RewardPart]) -> tuple[float, float]:
    """Median seconds until the answers of a step have their verdicts, once the processes have started.

    First of answers that end all at once, then of those that end evenly over `GENERATION_S`, from the last of them on.
    """
    task = DataTask((), (), parts)
    processes = VerifierProcesses(task, WORKERS, 60.0)
    try:
        processes.verdict(*asked(1)[0])
        at_once = [graded_s(processes, asked(ANSWERS)) for _ in range(STEPS)]
        hidden = [graded_s(processes, generated(processes)) for _ in range(STEPS)]
    finally:
        processes.close()
    return median(at_once), median(hidden)


def graded_s(processes: VerifierProcesses, answers: Sequence[Asked]) -> float:
    """Seconds until answers have their verdicts."""
    began = time.perf_counter()
    with processes.ahead(answers):
        verdicts = [processes.verdict(*one) for one in answers]
    if any(verdict.reward != 1.0 for verdict in verdicts):
        raise SystemExit("A verdict was not that of its function.")
    return time.perf_counter() - began


def generated(processes: VerifierProcesses) -> list[Asked]:
    """Answers that have ended one after the other, and were offered to the processes as a rollout actor offers them."""
    answers, waiting = asked(ANSWERS), list[Asked]()
    processes.forget()
    for answer in answers:
        time.sleep(GENERATION_S / ANSWERS)
        waiting.append(answer)
        del waiting[: processes.start(waiting)]
    return answers


class Server:
    """A reward server on this machine that fails in the way it is told, and answers when it is told none."""

    def __init__(self) -> None:
        self.way: str | None = None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if server.way == HANGS:
                    time.sleep(1.0)
                    return
                good = json.dumps({"rewards": [1.0] * len(body["completions"])}).encode()
                code, data = (200, good) if server.way is None else REPLIES[server.way]
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._bound = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._bound.daemon_threads = True
        threading.Thread(target=self._bound.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._bound.server_address[1]}/score"

    def close(self) -> None:
        """End it."""
        self._bound.shutdown()
        self._bound.server_close()


def failures() -> tuple[dict[str, int], int, int]:
    """Failed calls by their way, answers of these that got a reward, and answers of other calls that got none."""
    server, ways = Server(), (*REPLIES, HANGS, REFUSES)
    counts, scored, lost = dict.fromkeys(ways, 0), 0, 0
    remote = partial(RemoteReward, timeout_s=0.3, pauses=Pauses(0, 0.0, 0.0, 0.0))
    task = DataTask((), (), parts_of([server.url], (), remote))
    gone = DataTask((), (), parts_of(["http://127.0.0.1:9/score"], (), remote))
    try:
        for way in itertools.islice(itertools.cycle(ways), FAILURES):
            server.way = None if way == REFUSES else way
            given = (gone if way == REFUSES else task).verify_all(asked(BATCH))
            counts[way] += 1
            scored += sum(not isinstance(one, RewardError) for one in given)
            server.way = None
            lost += sum(one != Verdict(1.0, correct=True) for one in task.verify_all(asked(BATCH)))
    finally:
        server.close()
    return counts, scored, lost


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=PAGE)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "slow.py"
        file.write_text(FUNCTIONS)
        times = {name: step_s(parts_of([f"{file}:{name}"], ())) for name in KINDS}
    counts, scored, lost = failures()
    rows = [
        f"| {KINDS[name]} | {ANSWERS} s | {at_once:.1f} s | at most {TARGET_S:g} s | {hidden:.1f} s |"
        for name, (at_once, hidden) in times.items()
    ]
    ways = ", ".join(f"{way} ({count})" for way, count in counts.items())
    told = fill(
        f"{sum(counts.values())} calls of {BATCH} answers each failed, and every other call was answered: {ways}.", 120
    )
    text = f"""# Grading

Made by `python -m benchmarks.grading`; {os.cpu_count()} cores, Python {platform.python_version()}, sources
{source_digest()[:12]}.

## Slow reward functions

Seconds until all {ANSWERS} answers of a step have their verdicts, of functions that wait a second for each, with
`verifier.workers={WORKERS}`; median of {STEPS} steps. The last column is of answers that end evenly over
{GENERATION_S:g} s of generation, from the last of them on: what a step still waits for.

| function | one after the other | all at once | target | left after generation |
|---|---|---|---|---|
{chr(10).join(rows)}

## A reward server that fails

{told}

| | measured | target |
|---|---|---|
| answers of failed calls that got a reward | {scored} of {BATCH * sum(counts.values())} | 0 |
| answers of the other calls that did not get theirs | {lost} of {BATCH * sum(counts.values())} | 0 |
"""
    write_atomic(out, text.encode())
    sys.exit(1 if scored or lost or max(at_once for at_once, _ in times.values()) > TARGET_S else 0)


if __name__ == "__main__":
    main()
