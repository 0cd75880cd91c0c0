"""Runs the guard on many recorded runs, with every draw of their references."""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context

from rftfm_ray.detection.reference.mixture import Reference
from rftfm_ray.detection.reference.multipliers import shipped_multipliers
from rftfm_ray.faultbench.detectors.alarms import alarms_of
from rftfm_ray.faultbench.detectors.guard import GuardTrace, MakeDetectors, guard_trace
from rftfm_ray.faultbench.detectors.references import DRAWS, ReferenceMode, References
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.plan import Entry
from rftfm_ray.faultbench.scoring.judging import Results, result_of
from rftfm_ray.faultbench.scoring.thresholds import ScoredRun

# Runs that a process judges before it reports; at most so many processes, because each copies the runs.
CHUNK, MOST_WORKERS = 8, 4
EVIDENCE = ("telemetry", "all")
# Factor on the shipped multiplier at which few runs without a fault raise an alarm.
QUIET = 1.5


@dataclass(frozen=True, slots=True)
class GuardSetup:
    """How the guard watches runs.

    Attributes:
        references: what runs are compared with.
        mode: which of them.
        multiplier: of thresholds; None for the shipped one of the mode.
        detectors: makes detectors of the user's, which then watch alone; None for the shipped ones.
    """

    references: References
    mode: ReferenceMode
    multiplier: float | None = None
    detectors: MakeDetectors | None = None

    def draws(self) -> int:
        """How often each run is judged."""
        return DRAWS if self.mode is ReferenceMode.THREE else 1

    def reference(self, entry: Entry, draw: int) -> Reference:
        """What a run is compared with in a draw."""
        reference = self.references.reference(entry, self.mode, draw)
        return reference if self.multiplier is None else replace(reference, multiplier=self.multiplier)

    def trace(self, run: Recorded, draw: int) -> GuardTrace:
        """Trace of the guard on a run in a draw."""
        return guard_trace(run, self.reference(run.entry, draw), self.detectors)


@dataclass(frozen=True, slots=True)
class GuardScore:
    """Traces of the guard on the runs (R) of a split, by draw (D, R)."""

    setup: GuardSetup
    runs: tuple[Recorded, ...]
    traces: tuple[tuple[GuardTrace, ...], ...]

    def results(self, evidence: str) -> Results:
        """Its alarms compared with the recorded faults, by the name of the evidence, `telemetry` or `all`."""
        return Results(
            tuple(
                tuple(result_of(run, trace.alarms(evidence)) for run, trace in zip(self.runs, draw, strict=True))
                for draw in self.traces
            )
        )

    def results_at(self, evidence: str, threshold: float) -> Results:
        """The same with alarms by scores, at a threshold in units of the one in force.

        Up to the first alarm a guard with this threshold gives the same result. Later alarms may differ a little,
        because evidence restarts at zero when an alarm ends.
        """
        return Results(
            tuple(
                tuple(result_of(scored.run, alarms_of(scored.scores, threshold)) for scored in draw)
                for draw in self.scored(evidence)
            )
        )

    def scored(self, evidence: str) -> list[list[ScoredRun]]:
        """Scores by draw."""
        return [
            [ScoredRun(run, trace.scores(evidence)) for run, trace in zip(self.runs, draw, strict=True)]
            for draw in self.traces
        ]


def judged_steps(runs: Sequence[Recorded], setup: GuardSetup) -> int:
    """Steps that `watch_runs` judges, those of every draw counted."""
    references, mode = setup.references, setup.mode
    entries = [run.entry for run in runs if references.covers(run.entry, mode)]
    return sum(entry.steps * references.draws(entry, mode) for entry in entries)


def seconds_per_step(run: Recorded, setup: GuardSetup) -> float:
    """Time that the guard takes for a step, measured on one run; what is loaded once does not count."""
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        setup.trace(run, 0)
        seconds = time.perf_counter() - began
    return seconds / max(1, run.entry.steps)


def watch_runs(runs: Sequence[Recorded], setup: GuardSetup, workers: int = 0) -> GuardScore:
    """Run the guard on those runs that have a reference in its mode.

    Args:
        runs: of a split.
        setup: how they are watched.
        workers: processes that share the work; 0 for one a core, up to `MOST_WORKERS`.
    """
    covered = tuple(run for run in runs if setup.references.covers(run.entry, setup.mode))
    setup.references.prepare([run.entry for run in covered], setup.mode)
    draws = [setup.references.draws(run.entry, setup.mode) for run in covered]
    tasks = [(index, draw) for index, count in enumerate(draws) for draw in range(count)]
    done = dict(zip(tasks, _traces(covered, setup, tasks, workers or workers_by_default()), strict=True))
    # A run with fewer draws repeats them, so that every run has the same weight.
    traces = tuple(
        tuple(done[index, draw % count] for index, count in enumerate(draws)) for draw in range(setup.draws())
    )
    return GuardScore(setup, covered, traces)


def workers_by_default() -> int:
    """Processes that share the work: one a core, up to `MOST_WORKERS`."""
    return min(MOST_WORKERS, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class _Work:
    """What a process needs to judge one run in one draw."""

    runs: tuple[Recorded, ...]
    setup: GuardSetup

    def trace(self, task: tuple[int, int]) -> GuardTrace:
        index, draw = task
        return self.setup.trace(self.runs[index], draw)


_inherited: list[_Work] = []
"""The work that a forked process inherits from its parent."""


def _traces(
    runs: tuple[Recorded, ...], setup: GuardSetup, tasks: Sequence[tuple[int, int]], workers: int
) -> list[GuardTrace]:
    work = _Work(runs, setup)
    if workers == 1 or len(tasks) <= CHUNK:
        return [work.trace(task) for task in tasks]
    others = active_children()
    with ProcessPoolExecutor(workers, get_context("fork"), _begin_worker, (work,)) as pool:
        try:
            # Not `map`, which cancels what is left: Python 3.11 cannot end a pool that has lost a worker after that.
            chunks = [pool.submit(_inherited_traces, tasks[at : at + CHUNK]) for at in range(0, len(tasks), CHUNK)]
            return [trace for chunk in chunks for trace in chunk.result()]
        except BaseException:
            # Nobody needs the rest, and leaving the pool would wait for it.
            for process in active_children():
                if process not in others:
                    process.terminate()
            raise


def _begin_worker(work: _Work) -> None:
    """Take over the work, and end by SIGTERM: the command's handler, inherited, would only raise in the worker."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Ctrl-C reaches the command as well, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _inherited.append(work)


def _inherited_traces(tasks: Sequence[tuple[int, int]]) -> list[GuardTrace]:
    return [_inherited[-1].trace(task) for task in tasks]


class MultiplierSearch:
    """Results of runs without a fault at any multiplier of the guard's thresholds.

    Until its first alarm a run has the same evidence at all multipliers. All runs are therefore judged once, at a
    multiplier with few alarms. At another multiplier only the runs that may alarm there are judged again.

    Args:
        sound: runs without a fault, all of which have a reference in the mode.
        references: what they are compared with.
        mode: which of them.
    """

    def __init__(self, sound: Sequence[Recorded], references: References, mode: ReferenceMode) -> None:
        shipped = shipped_multipliers()[mode.threshold_mode.value]
        self._base = watch_runs(sound, GuardSetup(references, mode, QUIET * shipped))

    def __call__(self, multiplier: float) -> Results:
        """Results at a multiplier, by any evidence."""
        setup, base = replace(self._base.setup, multiplier=multiplier), self._base
        draws = [setup.references.draws(run.entry, setup.mode) for run in base.runs]
        tasks = [
            (index, draw)
            for index, count in enumerate(draws)
            for draw in range(count)
            if self._peak(index, draw) >= multiplier
        ]
        done = dict(zip(tasks, _traces(base.runs, setup, tasks, workers_by_default()), strict=True))
        results = {
            (index, draw): result_of(run, done[index, draw].every if (index, draw) in done else ())
            for index, run in enumerate(base.runs)
            for draw in range(draws[index])
        }
        return Results(
            tuple(
                tuple(results[index, draw % count] for index, count in enumerate(draws))
                for draw in range(setup.draws())
            )
        )

    def _peak(self, index: int, draw: int) -> float:
        """The largest multiplier at which a run may alarm; infinite for one that has alarmed."""
        trace, run = self._base.traces[draw][index], self._base.runs[index]
        if trace.every:
            return math.inf
        multiplier = self._base.setup.reference(run.entry, draw).multiplier
        return float(max(trace.telemetry_scores.tolist(), default=0.0)) * multiplier


def disabled_detectors(scores: Sequence[GuardScore]) -> dict[str, str]:
    """Detectors that failed in some run, with the reason that was given first."""
    failures: dict[str, str] = {}
    for trace in itertools.chain.from_iterable(draw for score in scores for draw in score.traces):
        for name, reason in trace.disabled:
            failures.setdefault(name, f"{trace.name}: {reason}")
    return failures
