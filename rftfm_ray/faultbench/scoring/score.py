"""Scores detectors on a benchmark: fitted on calibrate, thresholds from tune and then frozen, reported on report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.detectors.baselines import Scorer
from rftfm_ray.faultbench.detectors.exact import exact_scores
from rftfm_ray.faultbench.detectors.oracle import Clairvoyant
from rftfm_ray.faultbench.detectors.ours import BankScorer
from rftfm_ray.faultbench.detectors.peers import AS_SHIPPED, Peer
from rftfm_ray.faultbench.detectors.replay import replay
from rftfm_ray.faultbench.detectors.shifts import fault_of
from rftfm_ray.faultbench.detectors.strata import Cells, Floats, cells_with
from rftfm_ray.faultbench.detectors.unprofiled import ColdScorer
from rftfm_ray.faultbench.runs.dataset import Recorded, read_bench
from rftfm_ray.faultbench.runs.plan import Kind, Split
from rftfm_ray.faultbench.scoring.frozen import FROZEN, Frozen, name_of, others, read_frozen, split_of
from rftfm_ray.faultbench.scoring.judging import Judged, alarms_of, judge
from rftfm_ray.faultbench.scoring.thresholds import Scored, score_all, tuned

EVIDENCE = ("telemetry", "all")


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The report split as one detector sees it, by level of evidence."""

    telemetry: list[Judged]
    every: list[Judged]

    def of(self, evidence: str) -> list[Judged]:
        """By the name of the level."""
        return self.telemetry if evidence == "telemetry" else self.every


@dataclass(frozen=True, slots=True)
class Held:
    """A detector with its scores of the report split, its threshold, and what is exact about each run by its name."""

    name: str
    scored: list[Scored]
    threshold: float
    exact: Mapping[str, Floats]

    def verdicts(self, threshold: float | None = None) -> Verdicts:
        """Alarms by telemetry alone, and by telemetry or what is exact; at another threshold than its own if asked."""
        limit = self.threshold if threshold is None else threshold
        telemetry, every = list[Judged](), list[Judged]()
        for one in self.scored:
            telemetry.append(judge(one.run, alarms_of(one.scores, limit)))
            both = np.maximum(one.scores, self.exact[one.run.entry.name])
            every.append(judge(one.run, alarms_of(both, limit)))
        return Verdicts(telemetry, every)


@dataclass(frozen=True, slots=True)
class Acted:
    """An order that the guard gave in a run that has no fault."""

    run: str
    step: int
    remedy: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The report split of a benchmark, judged by everybody.

    Attributes:
        thresholds_sha256: hash of the file of frozen thresholds.
        ours: the detector that is scored.
        cold: ours without a profile.
        compared: the others; peers once with their rules as shipped and once tuned.
        bound: what the bound makes of the faults that it was told of.
        acted: orders of the guard in runs without a fault.
    """

    thresholds_sha256: str
    ours: Held
    cold: Held
    compared: tuple[Held, ...]
    bound: list[Judged]
    acted: list[Acted]


def evaluate(
    folder: Path, tell: Callable[[str], None], detector: Callable[[], Scorer] | None = None, *, with_peers: bool = False
) -> Evaluation:
    """Judge the report split of a benchmark.

    A detector that is none of ours is fitted and tuned as ours was, on the same splits and to the same budget.

    Raises:
        BenchError: when benchmark or thresholds are missing or damaged, or a peer is not installed.
    """
    scorers = others(with_peers=with_peers)
    frozen, digest = read_frozen(folder)
    untuned = [other.name for other in scorers if other.name not in frozen.thresholds]
    if untuned:
        names = " and ".join(untuned)
        raise BenchError(f"{folder / FROZEN} has no threshold of {names}; give `rftfm faultbench tune --peers`.")
    runs = read_bench(folder)
    calibrate, report = split_of(runs, Split.CALIBRATE), split_of(runs, Split.REPORT)
    exact = {run.entry.name: exact_scores(run)[0] for run in report}

    def held(scorer: Scorer, threshold: float | None = None) -> Held:
        scorer.fit(calibrate)
        limit = tuned(score_all(scorer, split_of(runs, Split.TUNE))) if threshold is None else threshold
        found = Held(scorer.name, score_all(scorer, report), limit, exact)
        tell(f"{scorer.name} is scored")
        return found

    ours = held(BankScorer(), frozen.thresholds[BankScorer.name]) if detector is None else held(detector())
    cold = held(ColdScorer(), frozen.thresholds[ColdScorer.name])
    acted = list(_acted(report, cells_with(tuple(calibrate))))
    tell("the guard has seen healthy runs and twins once more")
    compared = tuple(
        one for other in scorers for one in _as_shipped_too(other, held(other, frozen.thresholds[other.name]))
    )
    return Evaluation(digest, ours, cold, compared, list(_bound(Clairvoyant(calibrate), frozen, report)), acted)


def _as_shipped_too(scorer: Scorer, tuned_one: Held) -> Iterator[Held]:
    if isinstance(scorer, Peer):
        yield Held(f"{scorer.name}_as_shipped", tuned_one.scored, AS_SHIPPED, tuned_one.exact)
    yield tuned_one


def _acted(report: Sequence[Recorded], cells: Cells) -> Iterator[Acted]:
    for run in report:
        if run.entry.kind in (Kind.HEALTHY, Kind.LONG, Kind.TWIN):
            done = replay(run, cells.whole_profile(run.entry))
            if done.acted is not None:
                yield Acted(run.entry.name, done.acted, done.remedy)


def _bound(bound: Clairvoyant, frozen: Frozen, report: Sequence[Recorded]) -> Iterator[Judged]:
    """What the bound makes of the faults that it was told of."""
    for run in report:
        fault = fault_of(run.entry) if run.entry.kind is Kind.FAULT else None
        if fault is not None and name_of(fault) in frozen.clairvoyant and bound.knows(fault):
            yield judge(run, alarms_of(bound.scores(run, fault), frozen.clairvoyant[name_of(fault)]))
