"""Runs that a signal ends at a random moment, and what the printed command makes of them.

    python -m benchmarks.interrupts OUT [--trials 20] [--seed 0] [--minutes M] [--page FILE] [key=value ...]

One run is left alone. In every trial the same run gets SIGTERM or SIGINT, in turn, at a moment drawn evenly from the
time between its first and its last step; where it has ended by then, it is made again, for half of that time. It must
end with exit code 143 or 130 and print one sentence with a command; that command is executed, and the rows of both
parts together must be those of the run that was left alone: bit for bit, times aside. Results are lines of
OUT/trials.jsonl; a later call continues with the trials that are missing, and makes those of other sources of the
package again. `--minutes` begins no further trial after so long. `--page` writes the page once all trials are there.
Prints a summary; exit code 1 when a trial failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.provenance import PACKAGES, source_digest
from rftfm_ray.files import write_atomic
from rftfm_ray.telemetry.recorder import read_steps

ROOT = Path(__file__).parents[1]
RUN = ("examples/addition.yaml", "steps=40", "probe.final_size=64", "checkpoints.every=5", "report.at_end=false")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one trial.

    Attributes:
        number: of the trial, from 0.
        signal: name of the signal.
        delay_s: seconds from the beginning of the first step to the signal.
        exit_code: of the process.
        exit_s: seconds from the signal to the exit.
        steps: rows that the run left.
        unequal: columns in which both parts together differ from the run that was left alone.
        code: digest of the package's sources.
    """

    number: int
    signal: str
    delay_s: float
    exit_code: int
    exit_s: float
    steps: int
    unequal: tuple[str, ...]
    code: str

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
    sent, ended = time.perf_counter(), (first / "summary.json").exists()
    process.send_signal(signum)
    text, _ = process.communicate(timeout=120)
    exit_s = time.perf_counter() - sent
    if ended:
        # It was faster than the run that the moment was drawn for.
        return trial(number, delay_s / 2, folder, arguments, alone)
    # Parts may begin a file after this one: rows are complete once the process has ended.
    rows = read_steps(first)
    command = re.search(r"go on with: rftfm train (.+)", text)
    if command is None:
        problems: tuple[str, ...] = () if not len(rows) and "before the first step" in text else ("no command",)
    else:
        finish(start(second, shlex.split(command[1])))
        problems = tuple(differences(alone, [rows, read_steps(second)]))
    return Trial(
        number,
        signum.name,
        round(delay_s, 2),
        process.returncode,
        round(exit_s, 2),
        len(rows),
        problems,
        source_digest(),
    )


def page(trials: Sequence[Trial], arguments: Sequence[str]) -> str:
    """The document."""
    stack = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    good, slowest = sum(trial.is_good for trial in trials), max(trial.exit_s for trial in trials)
    middle = statistics.median(trial.exit_s for trial in trials)
    overrides = "".join(f" {text}" for text in arguments[len(RUN) :])
    rows = "\n".join(
        f"| {t.number} | {t.signal} | {t.delay_s:.2f} | {t.exit_code} | {t.exit_s:.2f} | {t.steps} | "
        f"{'no column' if not t.unequal else ', '.join(t.unequal)} | {'yes' if t.is_good else 'NO'} |"
        for t in trials
    )
    return f"""# Runs that a signal ends at a random moment

Made by `python -m benchmarks.interrupts OUT --page docs/interrupts.md{overrides}` on {os.cpu_count()} CPU cores
({platform.machine()}), Python {platform.python_version()}, {stack}.
Digest of the package's sources: {", ".join(sorted({t.code for t in trials}))}.

`rftfm train {shlex.join(arguments)}` gets the signal at a moment that is drawn evenly from the time between its
first and its last step. It must end with 143 (SIGTERM) or 130 (SIGINT) within {LIMIT_S:g} s, with a checkpoint and one
sentence that holds the command which goes on. That command is executed. The rows of both parts together are compared
with those of the same run that was left alone: every column bit for bit, times aside.

{good} of {len(trials)} trials are as they should be. Signal to exit: at most {slowest:.1f} s, median {middle:.1f} s.

| trial | signal | at (s) | exit code | signal to exit (s) | steps before | differs in | good |
|---|---|---|---|---|---|---|---|
{rows}
"""


def main() -> None:
    """Run the trials that are missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--page", type=Path, default=None)
    parser.add_argument("overrides", nargs="*")
    given, began = parser.parse_intermixed_args(), time.perf_counter()
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    arguments, alone = [*RUN, *given.overrides], given.out / f"alone-{source_digest()}"
    results = given.out / "trials.jsonl"
    if not (alone / "summary.json").exists():
        shutil.rmtree(alone, ignore_errors=True)
        finish(start(alone, arguments))
    reference = read_steps(alone)
    # What the loop took, from the first step to the last.
    span_s = sum(reference["step_s"].to_pylist())
    lines = map(json.loads, results.read_text().splitlines() if results.exists() else [])
    made = [Trial(**{**line, "unequal": tuple(line["unequal"])}) for line in lines]
    done = {trial.number: trial for trial in made if trial.code == source_digest()}
    for number in range(given.trials):
        delay_s = random.Random(1000 * given.seed + number).uniform(0, span_s)
        if number not in done and time.perf_counter() - began < 60 * given.minutes:
            done[number] = trial(number, delay_s, given.out, arguments, reference)
            with results.open("a") as file:
                file.write(json.dumps(asdict(done[number])) + "\n")
            print(done[number], flush=True)
    trials = [done[number] for number in sorted(done)]
    good = sum(result.is_good for result in trials)
    slowest = max((result.exit_s for result in trials), default=0.0)
    print(f"{good} of {len(trials)} trials as they should be; signal to exit at most {slowest:.1f} s")
    if given.page is not None and len(trials) >= given.trials:
        write_atomic(given.page, page(trials, arguments).encode())
    sys.exit(good < len(trials))


if __name__ == "__main__":
    main()
