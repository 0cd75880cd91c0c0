"""Monitor and controller are killed at every sub-step of an incident: nothing may be lost, doubled or left unsaid.

    python -m benchmarks.guard_kills [--minutes M] [--only N ...] [--folder DIR] [--out docs/guard_kills]

One run per fault is left alone. Every trial makes the same run again with real processes and one SIGKILL (some with
two), at a point of `benchmarks.guard_kills_points`; journal, orders, verdicts and rows are then compared with those of
the run that was left alone. OUT.csv gets a row for every finished trial, so that the command can be stopped at any
moment and continues with what is missing; `--minutes` begins no trial after so long. Rows of other sources of the
package are made again. With `--folder` runs stay there. Writes OUT.md. Exit code 1 when a target is missed or a trial
is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import pyarrow as pa
import ray

from benchmarks.guard_kills_counts import CONTINUABLE, LATE, LOST, STOPS, WAITS, Record, Row, counted, from_csv, to_csv
from benchmarks.guard_kills_page import page, targets
from benchmarks.guard_kills_plan import FAULTS, LONGER, TRIALS, Trial
from benchmarks.guard_kills_points import Arms
from benchmarks.guard_kills_watch import Delays, Watch, watched
from benchmarks.interrupts import differences
from benchmarks.provenance import PACKAGES, source_digest
from rftfm_ray.actors import guards
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.cluster import connect
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.driver.run import execute
from rftfm_ray.errors import RftfmError
from rftfm_ray.files import write_atomic
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.planning import plan
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.telemetry.recorder import read_steps
from rftfm_ray.training.checkpoints import newest_valid
from rftfm_ray.types import RunSummary, StepId

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "addition.yaml"
# A boundary waits this long for its verdict: longer than an actor takes to come back, or a part of that.
WAIT_S = {WAITS: 60.0, LATE: 0.5, LOST: 60.0, STOPS: 60.0}
COMMON = (
    "guard.mode=act", "guard.act_on=[RF,PG,OD,CA,TE]", "probe.size=64", "probe.final_size=64", "checkpoints.every=0",
    "checkpoints.best=false", "checkpoints.at_end=false", "report.at_end=false", "preflight.mode=off",
    "records.trajectory_rate=0",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Usual:
    """The run of a fault that was left alone: its record, its rows, its last probe, and the spans of random kills."""

    record: Record
    rows: pa.Table
    probe_last: float
    delays: Delays


def config_of(fault: str, course: str) -> RunConfig:
    """The configuration of a run."""
    own = [f"guard.verdict_timeout_s={WAIT_S[course]}"]
    if course == LATE:
        own += LONGER[fault]
    if course in (LOST, STOPS):
        own += [f"guard.on_lost={'continue' if course == LOST else 'stop'}"]
    return load_config(EXAMPLE, [*COMMON, *FAULTS[fault], *own])


def entries_of(folder: Path) -> tuple[Entry, ...]:
    """The journal of a run."""
    return read_journal(folder / JOURNAL)[0]


def record_of(folder: Path, watch: Watch, summary: RunSummary | None) -> Record:
    """What a run left behind, and what its driver saw."""
    rows = read_steps(folder)
    columns = [rows[name].to_pylist() for name in ("attempt", "step", "paid_step")]
    assert watch.session is not None
    return Record(
        entries=entries_of(folder),
        told=tuple(watch.told),
        carried=tuple(watch.carried),
        levers=watch.session.levers,
        steps=tuple(StepId(*values) for values in zip(*columns, strict=True)),
        judged=frozenset(watch.judged),
        unjudged=tuple(watch.unjudged),
        unguarded=None if summary is None else summary.unguarded_steps,
    )


def run(config: RunConfig, folder: Path, watch: Watch, warm: WarmActors) -> RunSummary:
    """Make a run under the eyes of `watch`."""
    began = time.perf_counter()
    with watched(watch, folder.with_suffix(".kills")):
        return execute(plan(config, folder), Listeners(row=watch.stepped, entry=watch.tell), began, warm)


class Campaign:
    """The rows that are finished, and what is needed to make the others."""

    def __init__(self, out: Path, folder: Path, warm: WarmActors) -> None:
        self._file = out.with_suffix(".csv")
        self._folder, self._warm = folder, warm
        self._code = source_digest()
        self._usual: dict[str, Usual] = {}
        self.rows = from_csv(self._file.read_text()) if self._file.exists() else {}

    def is_finished(self, trial: Trial) -> bool:
        """Whether a trial has been made by these sources as it is planned now."""
        row = self.rows.get(trial.number)
        return row is not None and row.code == self._code and _planned(row) == _planned(row_of(trial))

    def add(self, trial: Trial) -> Row:
        """Make a trial and write its row."""
        usual, began = self.usual(trial.fault), time.perf_counter()
        folder = self._folder / f"trial-{trial.number:02d}"
        kills = folder.with_suffix(".kills")
        for left in (folder, kills):
            shutil.rmtree(left, ignore_errors=True)
        arms = Arms(kills)
        arms.arm(trial.kills)
        watch = Watch(arms, trial.kills, replace(usual.delays, seed=trial.number))
        summary, error = None, ""
        with contextlib.ExitStack() as stack:
            if trial.course in (LOST, STOPS):
                stack.enter_context(mock.patch.object(guards, "MOST_LOSSES", 1))
            try:
                summary = run(config_of(trial.fault, trial.course), folder, watch, self._warm)
            except RftfmError as failed:
                error = str(failed).replace(str(folder), "RUN_DIR")
        if trial.course == STOPS:
            # The command holds paths of this machine.
            error, _, command = error.partition(" Go on with: ")
            error += CONTINUABLE if "--resume" in command and newest_valid(folder / "checkpoints") is not None else ""
        try:
            record = record_of(folder, watch, summary)
        except RftfmError as failed:
            # Nothing of a journal or of rows that cannot be read counts as being there.
            record, error = Record(), str(failed).replace(str(folder), "RUN_DIR")
        row = replace(
            row_of(trial),
            code=self._code,
            unmade=len(trial.kills) - len(arms.made()),
            restarts=sum(entry.kind is EntryKind.RESTORED for entry in record.entries),
            late=sum(entry.kind is EntryKind.LATE for entry in record.entries),
            unguarded=record.unguarded or 0,
            unequal=";".join(_unequal(usual, folder, summary)) if trial.course == WAITS and record.steps else "",
            error=error,
            seconds=round(time.perf_counter() - began, 1),
        )
        row = counted(row, usual.record, record)
        self.rows[trial.number] = row
        write_atomic(self._file, to_csv(self.rows.values()).encode())
        return row

    def usual(self, fault: str) -> Usual:
        """The run of a fault that is left alone, made when it is first asked for."""
        if fault not in self._usual:
            folder = self._folder / f"usual-{fault}-{self._code}"
            measured = folder.with_suffix(".json")
            if not measured.exists():
                shutil.rmtree(folder, ignore_errors=True)
                watch = Watch()
                summary = run(config_of(fault, WAITS), folder, watch, self._warm)
                verdict_s = statistics.median(watch.verdicts_s)
                figures = {"step_s": summary.step_time_s_median, "verdict_s": verdict_s, "probe": summary.probe_last}
                write_atomic(measured, json.dumps(figures).encode())
            figures = json.loads(measured.read_text())
            delays = Delays(figures["step_s"], figures["verdict_s"])
            record = Record(entries=entries_of(folder))
            self._usual[fault] = Usual(record, read_steps(folder), figures["probe"], delays)
        return self._usual[fault]


def _planned(row: Row) -> tuple[str, str, str]:
    return row.fault, row.course, row.kills


def row_of(trial: Trial) -> Row:
    """The row of a trial before it is made."""
    return Row(trial.number, trial.fault, trial.course, ";".join(kill.name for kill in trial.kills))


def _unequal(usual: Usual, folder: Path, summary: RunSummary | None) -> list[str]:
    """What differs from the run that was left alone: columns of its rows, and the last probe."""
    names = list(differences(usual.rows, [read_steps(folder)]))
    return names if summary is not None and summary.probe_last == usual.probe_last else [*names, "probe_last"]


def head_of(rows: Sequence[Row]) -> str:
    """Command, machine and versions."""
    stack = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    codes = ", ".join(sorted({row.code for row in rows}))
    return (
        f"Made by `python -m benchmarks.guard_kills` on {os.cpu_count()} CPU cores ({platform.machine()}), Python "
        f"{platform.python_version()}, {stack}.\nDigest of the package's sources: {codes or 'none'}. All rows are in "
        "the CSV file beside this page."
    )


def make(campaign: Campaign, trials: Sequence[Trial], minutes: float) -> None:
    """Make trials until the time is over."""
    until = time.monotonic() + 60 * minutes
    for trial in trials:
        if time.monotonic() > until:
            return
        print(campaign.add(trial), flush=True)


def main() -> None:
    """Make what is missing, write, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", default=None, help="numbers of the trials to make")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "guard_kills")
    arguments = parser.parse_args()
    # Workers import the actors of this benchmark.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    with tempfile.TemporaryDirectory() as temporary, WarmActors() as warm:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(arguments.out, folder.absolute(), warm)
        missing = [trial for trial in TRIALS if not campaign.is_finished(trial)]
        wanted = [trial for trial in missing if arguments.only is None or trial.number in arguments.only]
        if wanted:
            connect(config_of(wanted[0].fault, WAITS))
            make(campaign, wanted, arguments.minutes)
            warm.close()
            ray.shutdown()
    rows = [campaign.rows[trial.number] for trial in TRIALS if campaign.is_finished(trial)]
    write_atomic(arguments.out.with_suffix(".md"), page(rows, len(TRIALS), head_of(rows)).encode())
    missed = [f"{name}: {value} (target {target})" for name, target, value, good in targets(rows) if not good]
    left = len(TRIALS) - len(rows)
    missed += [f"{left} trials are still to be made; give the command again"] if left else []
    print("\n".join(missed) or "all reached")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
