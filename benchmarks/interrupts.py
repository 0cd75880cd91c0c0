"""Runs that a signal ends at a random moment, and what the printed command makes of them.

    python benchmarks/interrupts.py OUT [--trials 20] [--seed 0] [--for-s 280] [key=value ...]

One run is left alone. In every trial the same run gets SIGTERM or SIGINT, in turn, at a moment drawn evenly from the
time between its first and its last step. It must end with exit code 143 or 130 and print one sentence with a command;
that command is executed, and the rows of both parts together must be those of the run that was left alone: bit for bit,
times aside. Results are lines of OUT/trials.jsonl; a later call continues with the trials that are missing. `--for-s`
begins no further trial after so many seconds. Prints a summary; exit code 1 when a trial failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rftfm_ray.telemetry.recorder import read_steps

ROOT = Path(__file__).parents[1]
RUN = ("examples/addition.yaml", "steps=60", "probe.final_size=64", "checkpoints.every=5", "report.at_end=false")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one trial: seconds from signal to exit, steps made before it, and the columns that differ."""

    number: int
    signal: str
    delay_s: float
    exit_code: int
    exit_s: float
    steps: int
    unequal: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether the trial met every condition."""
        expected = 128 + signal.Signals[self.signal]
        return self.exit_code == expected and self.exit_s <= LIMIT_S and not self.unequal


def start(run_dir: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """`rftfm` with its texts in a pipe, in a process group of its own."""
    command = [sys.executable, "-m", "rftfm_ray", "train", *arguments, "--run-dir", str(run_dir)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """The texts of a process that has to end well."""
    text, _ = process.communicate(timeout=600)
    if process.returncode:
        sys.exit(f"{shlex.join(map(str, process.args))} failed:\n{text}")  # type: ignore[arg-type]
    return text


def wait_for_training(run_dir: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the first step begins, which is when the first probe has been recorded."""
    events = run_dir / "events.jsonl"
    while process.poll() is None and not (events.exists() and '"kind": "probe"' in events.read_text()):
        time.sleep(0.02)


def differences(alone: pa.Table, parts: list[pa.Table]) -> Iterator[str]:
    """Names of the columns in which the parts together differ from the run that was left alone."""
    joined = pa.concat_tables(parts)
    for name in alone.column_names:
        # Times differ between equal runs.
        if not name.endswith("_s"):
            ours, theirs = (np.asarray(table[name].to_numpy()) for table in (joined, alone))
            if ours.shape != theirs.shape or not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
                yield name


def trial(number: int, delay_s: float, folder: Path, arguments: list[str], alone: pa.Table) -> Trial:
    """Stop a run `delay_s` after its first step began, continue it with the command it prints, and compare."""
    signum = SIGNALS[number % len(SIGNALS)]
    first, second = folder / f"trial-{number}", folder / f"trial-{number}-resumed"
    for left in (first, second):
        shutil.rmtree(left, ignore_errors=True)
    process = start(first, arguments)
    wait_for_training(first, process)
    time.sleep(delay_s)
    sent = time.perf_counter()
    process.send_signal(signum)
    text, _ = process.communicate(timeout=120)
    exit_s = time.perf_counter() - sent
    # Parts may begin a file after this one: rows are complete once the process has ended.
    rows = read_steps(first)
    command = re.search(r"go on with: rftfm train (.+)", text)
    if command is None:
        problems: tuple[str, ...] = () if not len(rows) and "before the first step" in text else ("no command",)
    else:
        finish(start(second, shlex.split(command[1])))
        problems = tuple(differences(alone, [rows, read_steps(second)]))
    return Trial(number, signum.name, round(delay_s, 2), process.returncode, round(exit_s, 2), len(rows), problems)


def main() -> None:
    """Run the trials that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--for-s", type=float, default=float("inf"))
    parser.add_argument("overrides", nargs="*")
    given, began = parser.parse_intermixed_args(), time.perf_counter()
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    arguments, alone = [*RUN, *given.overrides], given.out / "alone"
    results = given.out / "trials.jsonl"
    if not (alone / "summary.json").exists():
        finish(start(alone, arguments))
    reference = read_steps(alone)
    # What the loop took, from the first step to the last.
    span_s = sum(reference["step_s"].to_pylist())
    lines = results.read_text().splitlines() if results.exists() else []
    done = {line["number"]: Trial(**{**line, "unequal": tuple(line["unequal"])}) for line in map(json.loads, lines)}
    for number in range(given.trials):
        delay_s = random.Random(1000 * given.seed + number).uniform(0, span_s)
        if number not in done and time.perf_counter() - began < given.for_s:
            done[number] = trial(number, delay_s, given.out, arguments, reference)
            with results.open("a") as file:
                file.write(json.dumps(asdict(done[number])) + "\n")
            print(done[number], flush=True)
    good = sum(result.is_good for result in done.values())
    slowest = max((result.exit_s for result in done.values()), default=0.0)
    print(f"{good} of {len(done)} trials as they should be; signal to exit at most {slowest:.1f} s")
    sys.exit(good < len(done))


if __name__ == "__main__":
    main()
