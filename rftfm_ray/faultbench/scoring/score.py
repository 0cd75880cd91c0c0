"""Scores detectors on a benchmark: fits on calibrate, takes frozen thresholds from tune, and reports on report.

The guard is scored in three modes of its reference; the other detectors see telemetry against full profiles.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.detectors.alarms import alarms_of
from rftfm_ray.faultbench.detectors.oracle import Oracle
from rftfm_ray.faultbench.detectors.peers import AS_SHIPPED, Peer
from rftfm_ray.faultbench.detectors.references import ReferenceMode, References, restrict_to
from rftfm_ray.faultbench.detectors.shifts import fault_of
from rftfm_ray.faultbench.runs.dataset import Recorded, read_bench
from rftfm_ray.faultbench.runs.plan import Kind, Split
from rftfm_ray.faultbench.scoring.frozen import FROZEN, Frozen, compared_detectors, name_of, read_frozen, split_of
from rftfm_ray.faultbench.scoring.guarding import (
    GuardScore,
    GuardSetup,
    judged_steps,
    seconds_per_step,
    watch_runs,
    workers_by_default,
)
from rftfm_ray.faultbench.scoring.judging import Results, RunResult, result_of
from rftfm_ray.faultbench.scoring.thresholds import ScoredRun, score_all, tuned_threshold
from rftfm_ray.integrations.aliases import TRL, VERL

GUARD = "rftfm"
COLUMNS: Mapping[str, frozenset[str]] = {"trl": frozenset(TRL.values()), "verl": frozenset(VERL.values())}
"""Signals that another trainer logs, by its name."""
RESTRICTED_MODES = (ReferenceMode.NONE, ReferenceMode.PROFILE)
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """Options of a score.

    Attributes:
        detectors: of the user's, which watch alone instead of the shipped ones; empty for the guard.
        with_peers: compare with other packages as well.
        split: that is reported; another one than `Split.REPORT` is for work on the detector.
        workers: processes that share the work; 0 for one a core.
    """

    detectors: tuple[Detector, ...] = ()
    with_peers: bool = False
    split: Split = Split.REPORT
    workers: int = 0

    def make_detectors(self) -> Callable[[], Sequence[Detector]] | None:
        """Makes a copy of the user's detectors for a run; None without any."""
        return (lambda: copy.deepcopy(self.detectors)) if self.detectors else None


@dataclass(frozen=True, slots=True)
class DetectorScore:
    """A detector that the guard is compared with: its scores of the reported runs, and its threshold."""

    name: str
    scored: list[ScoredRun]
    threshold: float

    def results(self, threshold: float | None = None) -> Results:
        """Its alarms compared with the recorded faults, at its own threshold or at a given one."""
        limit = self.threshold if threshold is None else threshold
        return Results.single([result_of(item.run, alarms_of(item.scores, limit)) for item in self.scored])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The reported runs of a benchmark, judged by every detector.

    Attributes:
        name: of the detector that is scored.
        split: that is reported.
        thresholds_sha256: hash of the file of frozen thresholds.
        multipliers: of the guard's thresholds, by the name of a mode of the monitor's reference.
        runs: number of reported runs.
        modes: the detector in each mode, at its own thresholds.
        tuned: thresholds of a user's detector that keep to the budget, in units of its own; empty for the guard.
        shipped_priors: the guard without a profile, with the installed priors, which know the tasks of the benchmark.
        restricted: the guard with only the signals that another trainer logs, by its name and mode.
        compared: other detectors; peers once with their rules as shipped and once tuned.
        oracle: results of the oracle detector on the faults that it knows.
    """

    name: str
    split: Split
    thresholds_sha256: str
    multipliers: Mapping[str, float]
    runs: int
    modes: Mapping[ReferenceMode, GuardScore]
    tuned: Mapping[ReferenceMode, float]
    shipped_priors: GuardScore | None
    restricted: Mapping[str, Mapping[ReferenceMode, GuardScore]]
    compared: tuple[DetectorScore, ...]
    oracle: Results

    def guard_scores(self) -> list[GuardScore]:
        """Everything that the guard, or a user's detector, was scored on."""
        columns = [score for scores in self.restricted.values() for score in scores.values()]
        return [*self.modes.values(), *([] if self.shipped_priors is None else [self.shipped_priors]), *columns]


def score_benchmark(folder: Path, tell: Tell, options: ScoreOptions = ScoreOptions()) -> Evaluation:
    """Judge the reported runs of a benchmark.

    Raises:
        BenchError: when benchmark or thresholds are missing or damaged, or a peer is not installed.
    """
    scorers = compared_detectors(with_peers=options.with_peers)
    frozen, digest = read_frozen(folder)
    untuned = [other.name for other in scorers if other.name not in frozen.thresholds]
    if untuned:
        names = " and ".join(untuned)
        raise BenchError(f"{folder / FROZEN} has no threshold of {names}; run `rftfm faultbench tune --peers`.")
    runs = read_bench(folder)
    calibrate, reported = split_of(runs, Split.CALIBRATE), split_of(runs, options.split)
    guard = _Guard(calibrate, reported, frozen, options)
    tune = split_of(runs, Split.TUNE)
    tell(guard.estimate(tune))
    modes = dict(_announce(guard.modes(), tell))
    tuned = dict(guard.tuned(tune)) if options.detectors else {}
    is_guard = not options.detectors
    shipped_priors = guard.shipped_priors() if is_guard else None
    restricted = {name: dict(guard.restricted(columns)) for name, columns in COLUMNS.items()} if is_guard else {}
    compared = list[DetectorScore]()
    for scorer in scorers:
        scorer.fit(calibrate)
        score = DetectorScore(scorer.name, score_all(scorer, reported), frozen.thresholds[scorer.name])
        if isinstance(scorer, Peer):
            compared.append(DetectorScore(f"{scorer.name}_as_shipped", score.scored, AS_SHIPPED))
        compared.append(score)
        tell(f"{scorer.name} is scored")
    return Evaluation(
        options.detectors[0].name if options.detectors else GUARD, options.split, digest, dict(frozen.multipliers),
        len(reported), modes, tuned, shipped_priors, restricted, tuple(compared),
        Results.single(list(_oracle_results(Oracle(calibrate), frozen, reported))),
    )  # fmt: skip


class _Guard:
    """The guard, or the user's detectors in its place, on the reported runs."""

    def __init__(
        self, calibrate: Sequence[Recorded], reported: Sequence[Recorded], frozen: Frozen, options: ScoreOptions
    ) -> None:
        self._calibrate, self._reported = calibrate, reported
        self._references = References(calibrate)
        self._multipliers, self._workers = frozen.multipliers, options.workers
        self._detectors = options.make_detectors()

    def _watch(self, runs: Sequence[Recorded], references: References, mode: ReferenceMode) -> GuardScore:
        multiplier = self._multipliers.get(mode.threshold_mode.value)
        return watch_runs(runs, GuardSetup(references, mode, multiplier, self._detectors), self._workers)

    def estimate(self, tune: Sequence[Recorded]) -> str:
        """How long it takes, from the time that one run takes."""
        if not self._reported:
            return "There is no run to score"
        setups = {mode: GuardSetup(self._references, mode, detectors=self._detectors) for mode in ReferenceMode}
        steps = {mode: judged_steps(self._reported, setup) for mode, setup in setups.items()}
        total = sum(steps.values())
        if self._detectors is not None:
            total += sum(judged_steps(tune, setup) for setup in setups.values())
        else:
            total += steps[ReferenceMode.NONE] + len(COLUMNS) * sum(steps[mode] for mode in RESTRICTED_MODES)
        workers = self._workers or workers_by_default()
        minutes = total * seconds_per_step(self._reported[0], setups[ReferenceMode.NONE]) / workers / 60
        return f"Scoring {len(self._reported)} runs: about {math.ceil(minutes)} min with {workers} processes"

    def modes(self) -> Iterator[tuple[ReferenceMode, GuardScore]]:
        """In every mode."""
        for mode in ReferenceMode:
            yield mode, self._watch(self._reported, self._references, mode)

    def tuned(self, tune: Sequence[Recorded]) -> Iterator[tuple[ReferenceMode, float]]:
        """Thresholds of scores that keep to the budget on the tune split."""
        for mode in ReferenceMode:
            scored = self._watch(tune, self._references, mode).scored("all")
            if any(scored):
                yield mode, tuned_threshold(scored)

    def shipped_priors(self) -> GuardScore:
        """Without a profile, with the installed priors."""
        return self._watch(self._reported, References(self._calibrate, shipped_priors=True), ReferenceMode.NONE)

    def restricted(self, columns: frozenset[str]) -> Iterator[tuple[ReferenceMode, GuardScore]]:
        """With some signals alone."""
        references = References(self._calibrate, columns=columns)
        runs = [restrict_to(run, columns) for run in self._reported]
        for mode in RESTRICTED_MODES:
            yield mode, self._watch(runs, references, mode)


def _announce(
    scores: Iterator[tuple[ReferenceMode, GuardScore]], tell: Tell
) -> Iterator[tuple[ReferenceMode, GuardScore]]:
    for mode, score in scores:
        tell(f"{mode.label} is scored")
        yield mode, score


def _oracle_results(oracle: Oracle, frozen: Frozen, reported: Sequence[Recorded]) -> Iterator[RunResult]:
    """Results on the faults that the oracle knows."""
    for run in reported:
        fault = fault_of(run.entry) if run.entry.kind is Kind.FAULT else None
        if fault is not None and name_of(fault) in frozen.oracle and oracle.knows(fault):
            yield result_of(run, alarms_of(oracle.scores(run, fault), frozen.oracle[name_of(fault)]))
