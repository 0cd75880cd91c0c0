"""Laws and floors on recorded runs: none broken in healthy ones, and the mechanisms that break each.

    python -m benchmarks.laws [FOLDER ...] [--report]

Reads the recorded runs of benchmarks (of `rftfm faultbench generate`; by default benchmarks/data/faultbench) and the
healthy runs of benchmarks/data/healthy, and writes docs/laws.md. Tolerances are set on calibrate and tune: the report
split is left out unless --report asks for it. Exit code 1 when a healthy run breaks a law. On new recordings the same
command shows which tolerance has to be set again: each is one number in rftfm_ray/detection/laws, with its reason.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.laws_page import FloorFigures, LawFigures, MechanismFigures, page
from rftfm_ray.config import parse_config
from rftfm_ray.config.declared import DeclaredCourse, declared_at
from rftfm_ray.detection.detectors.laws import FloorDetector, LawDetector, OwnRewardDetector
from rftfm_ray.detection.detectors.rates import LearntRateDetector
from rftfm_ray.detection.laws.base import Law
from rftfm_ray.detection.laws.declaring import declared_course
from rftfm_ray.detection.laws.floors import FLOORS
from rftfm_ray.detection.laws.table import LAWS
from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.detection.suite import SAFETY, SEQUENTIAL, TOOL_ERRORS, monitor_settings
from rftfm_ray.faultbench.runs.dataset import Recorded, read_bench
from rftfm_ray.faultbench.runs.declared import declarations, watched
from rftfm_ray.faultbench.runs.plan import Split, is_without_fault
from rftfm_ray.faults.controls import is_control
from rftfm_ray.files import write_atomic
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import DeclaredChange

ROOT = Path(__file__).parents[1]
BENCH, HEALTHY = ROOT / "benchmarks" / "data" / "faultbench", ROOT / "benchmarks" / "data" / "healthy"
PAGE = ROOT / "docs" / "laws.md"
OWN = "own_reward"


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """A recorded run as laws see it.

    Attributes:
        name: of the run.
        values: (N, signals) of its steps.
        course: what its configuration declares.
        changes: that are declared while it goes on.
        mechanisms: of its faults, as `CODE mechanism`; nothing in a run without.
        onset: first step of its first fault; 0 without.
    """

    name: str
    values: Floats
    course: DeclaredCourse
    changes: tuple[DeclaredChange, ...] = ()
    mechanisms: tuple[str, ...] = ()
    onset: int = 0

    def view(self) -> StepView:
        """All of its steps."""
        return StepView.without_residuals(np.arange(1, len(self.values) + 1), self.values)


def recorded_runs(folder: Path, *, report: bool) -> Iterator[WatchedRun]:
    """The runs of a benchmark."""
    for run in read_bench(folder):
        if run.entry.split is not Split.REPORT or report:
            yield _watched(run)


def _watched(run: Recorded) -> WatchedRun:
    config = watched(run.entry)
    changes = tuple(declaration.change for declaration in declarations(run.entry, config))
    faults = [] if is_without_fault(run.entry) else [text for text in run.entry.inject if not is_control(text)]
    switched = [step for step in run.outcome.switched if step] or [1]
    mechanisms = tuple(map(_mechanism, faults))
    values = run.values.astype(np.float64)
    onset = min(switched) if faults else 0
    return WatchedRun(run.entry.name, values, declared_course(config), changes, mechanisms, onset)


def _mechanism(text: str) -> str:
    """`CODE mechanism` of a fault as a plan writes it."""
    return f"{text.partition('@')[0]} {text.partition('mechanism=')[2].partition(',')[0]}"


def healthy_runs(folder: Path) -> Iterator[WatchedRun]:
    """The healthy runs of two tasks and two algorithms, where the folder has them."""
    for file in sorted(folder.glob("steps-*.parquet")):
        table = pq.read_table(file).to_pydict()
        names = np.array(table["run"])
        for run in dict.fromkeys(table["run"]):
            rows = np.flatnonzero(names == run)
            values = np.full((len(rows), len(INDEX)), np.nan)
            for name in set(table) & set(INDEX):
                values[:, INDEX[name]] = np.array(table[name], float)[rows]
            task, algorithm, *_ = run.split("-")
            config = parse_config({"task": {"name": task}, "algorithm": {"name": algorithm}})
            yield WatchedRun(run, values, declared_course(config))


@dataclass(slots=True)
class Tally:
    """What all runs come to."""

    runs: int = 0
    steps: int = 0
    judged: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    largest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    of_mechanism: Counter[str] = field(default_factory=Counter)
    breaks: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    first_breaks: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    early: list[str] = field(default_factory=list)

    def add(self, run: WatchedRun) -> None:
        """Take a run."""
        broken = dict(breaks_of(run))
        view = run.view()
        if not run.mechanisms:
            self.runs, self.steps = self.runs + 1, self.steps + len(view)
            for law in LAWS.values():
                share = law_share(law, run, view)
                known = share[~np.isnan(share)]
                self.judged[law.name] += len(known)
                self.largest[law.name] = max(self.largest[law.name], float(known.max(initial=0.0)))
            for name, rows in broken.items():
                self.broken[name] += len(rows)
            return
        # Of two faults the first one that acts has broken what is broken first; pairs are counted apart.
        mechanism = run.mechanisms[0] if len(run.mechanisms) == 1 else "two faults"
        self.of_mechanism[mechanism] += 1
        for name, rows in broken.items():
            self.early += [f"{name} in {run.name} at step {row + 1}" for row in rows if row + 1 < run.onset][:1]
            late = [row + 1 for row in rows if row + 1 >= run.onset]
            if late:
                self.breaks[mechanism][name] += 1
                self.first_breaks[mechanism].append(late[0] - run.onset)


def law_share(law: Law, run: WatchedRun, view: StepView) -> Floats:
    """(N) residuals in units of the tolerance; NaN where the law need not hold or says nothing."""
    shares = np.full(len(view), np.nan)
    firsts = sorted({first for first, _ in run.course} | {1})
    for first, end in itertools.pairwise([*firsts, len(view) + 1]):
        rows = slice(first - 1, end - 1)
        declared = declared_at(run.course, first)
        if declared is not None and law.applies(declared):
            part = view.part(rows)
            excess = law.excess(law.residuals(part, declared), part)
            shares[rows] = np.max([each * excess for each in law.directions], axis=0)
    return shares


def breaks_of(run: WatchedRun) -> Iterator[tuple[str, list[int]]]:
    """The rows at which each law is broken and each figure is beyond its floor, by the detectors of a live run."""
    threshold = float(np.log(SEQUENTIAL * SAFETY * monitor_settings(parse_config({})).false_alarm_steps))
    detectors = (
        *(LawDetector(law, run.course) for law in LAWS.values()),
        # Of the run's own reward nothing is declared: with a declaration the law of the task stands in its place.
        OwnRewardDetector(()),
        *(FloorDetector(floor, run.course) for floor in FLOORS),
        LearntRateDetector(TOOL_ERRORS, f"floor:{TOOL_ERRORS.signal}", threshold),
    )
    view = run.view()
    bounds = sorted({0, *(change.step - 1 for change in run.changes), len(view)})
    for detector in detectors:
        rows = list[int]()
        for first, end in itertools.pairwise(bounds):
            for change in run.changes:
                if change.step - 1 == first:
                    detector.forget(change.signals, change.step)
            with np.errstate(all="ignore"):
                scores = detector.observe(view.part(slice(first, end)))
            rows += [first + row for row in np.flatnonzero((scores.score >= 1).any(axis=1)).tolist()]
        yield detector.name, rows


def figures_of(tally: Tally) -> tuple[list[LawFigures], list[FloorFigures], list[MechanismFigures]]:
    """The tables of the page."""
    laws = [
        LawFigures(law.name, tally.judged[law.name], tally.largest[law.name], tally.broken[f"law:{law.name}"])
        for law in LAWS.values()
    ]
    laws.append(LawFigures(OWN, tally.steps, float("nan"), tally.broken[f"law:{OWN}"]))
    floors = [
        FloorFigures(name, tally.broken[name])
        for name in (*(f"floor:{floor.law.name}" for floor in FLOORS), f"floor:{TOOL_ERRORS.signal}")
    ]
    mechanisms = [
        MechanismFigures(name, count, dict(tally.breaks[name]), sorted(tally.first_breaks[name]))
        for name, count in sorted(tally.of_mechanism.items())
    ]
    return laws, floors, mechanisms


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the runs and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[BENCH])
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    tally = Tally()
    for run in itertools.chain(
        *(recorded_runs(folder, report=options.report) for folder in options.folders), healthy_runs(HEALTHY)
    ):
        tally.add(run)
    laws, floors, mechanisms = figures_of(tally)
    write_atomic(options.page, page(tally.runs, tally.steps, laws, floors, mechanisms).encode())
    broken = {each.name: each.broken for each in laws if each.broken}
    print(json.dumps({"healthy_steps": tally.steps, "broken": broken, "early": tally.early}))
    sys.exit(1 if broken or tally.early else 0)


if __name__ == "__main__":
    main()
