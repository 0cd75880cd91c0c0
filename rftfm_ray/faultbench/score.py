"""Scores detectors on a benchmark: fitted on calibrate, thresholds from tune and then frozen, reported on report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.baselines import Scorer, baselines
from rftfm_ray.faultbench.cells import Cells
from rftfm_ray.faultbench.clairvoyant import Clairvoyant
from rftfm_ray.faultbench.dataset import MANIFEST, Recorded, digest, read_bench
from rftfm_ray.faultbench.exact import exact_scores
from rftfm_ray.faultbench.measures import Delay, Share
from rftfm_ray.faultbench.ours import BankScorer
from rftfm_ray.faultbench.peers import AS_SHIPPED, Peer, missing, peers
from rftfm_ray.faultbench.plan import Kind, Split
from rftfm_ray.faultbench.replay import replay
from rftfm_ray.faultbench.scoring import (
    ROWS,
    Judged,
    alarms_of,
    as_in_the_paper,
    benign,
    delay,
    false_alarms,
    faulty,
    healthy,
    judge,
    recall,
    rows,
)
from rftfm_ray.faultbench.shifts import Fault, fault_of
from rftfm_ray.faultbench.thresholds import BENIGN_BUDGET, HEALTHY_BUDGET, Scored, score_all, tuned
from rftfm_ray.faultbench.unprofiled import ColdScorer
from rftfm_ray.faults.calibration import LEVELS
from rftfm_ray.telemetry.rundir import write_atomic

FROZEN = "frozen.json"
OURS, COLD = BankScorer.name, ColdScorer.name
AGAIN = "set thresholds again with `rftfm faultbench tune`"
_Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Frozen:
    """Thresholds by detector, and of the bound by fault, as the tune split of one benchmark has set them."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    manifest_sha256: str
    healthy_per_1000: float
    benign_per_1000: float
    thresholds: dict[str, _Positive]
    clairvoyant: dict[str, _Positive]


_FROZEN = TypeAdapter(Frozen)


def split_of(runs: Sequence[Recorded], split: Split) -> list[Recorded]:
    """The runs of a split."""
    return [run for run in runs if run.entry.split is split]


def _name(fault: Fault) -> str:
    return " ".join(fault)


def others(*, with_peers: bool) -> tuple[Scorer, ...]:
    """What ours is compared with, unfitted.

    Raises:
        BenchError: when peers are asked for that are not installed.
    """
    if with_peers and missing():
        raise BenchError(f"{' and '.join(missing())} cannot be compared with; `pip install rftfm_ray[peers]`.")
    return (*baselines(), *(peers() if with_peers else ()))


def freeze(folder: Path, tell: Callable[[str], None], *, with_peers: bool = False) -> Frozen:
    """Set all thresholds on the tune split, and write them beside the benchmark.

    Raises:
        BenchError: when the benchmark is not complete, or a peer is not installed.
    """
    compared, runs = others(with_peers=with_peers), read_bench(folder)
    calibrate, tune = split_of(runs, Split.CALIBRATE), split_of(runs, Split.TUNE)
    thresholds = dict[str, float]()
    scorers: tuple[Scorer, ...] = (BankScorer(), ColdScorer(), *compared)
    for scorer in scorers:
        scorer.fit(calibrate)
        thresholds[scorer.name] = tuned(score_all(scorer, tune))
        tell(f"{scorer.name}: {thresholds[scorer.name]:.4g}")
    bound = Clairvoyant(calibrate)
    sound = [
        (run, bound.residuals(run)) for run in tune if run.entry.kind in (Kind.HEALTHY, Kind.LONG, Kind.TWIN)
    ]  # fmt: skip
    wanted = sorted({fault_of(run.entry) for run in runs if run.entry.kind is Kind.FAULT})
    told = {
        _name(fault): tuned([Scored(run, bound.sums(run.entry, residuals, fault)) for run, residuals in sound])
        for fault in wanted
        if bound.knows(fault)
    }
    frozen = Frozen(digest(folder / MANIFEST), HEALTHY_BUDGET, BENIGN_BUDGET, thresholds, told)
    write_atomic(folder / FROZEN, _FROZEN.dump_json(frozen, indent=1) + b"\n")
    return frozen


def read_frozen(folder: Path) -> tuple[Frozen, str]:
    """The thresholds of a benchmark, and the hash of their file.

    Raises:
        BenchError: when there are none, they are damaged, or belong to other runs.
    """
    try:
        data = (folder / FROZEN).read_bytes()
        frozen = _FROZEN.validate_json(data)
    except OSError:
        raise BenchError(f"{folder} has no {FROZEN}; {AGAIN}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BenchError(f"{folder / FROZEN} is damaged ({first['msg']}); {AGAIN}.") from None
    if frozen.manifest_sha256 != digest(folder / MANIFEST):
        raise BenchError(f"{folder / FROZEN} was made from other runs; {AGAIN}.")
    return frozen, sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The report split as one detector sees it, by level of evidence."""

    telemetry: list[Judged]
    every: list[Judged]

    def of(self, evidence: str) -> list[Judged]:
        """By the name of the level."""
        return self.telemetry if evidence == "telemetry" else self.every


EVIDENCE = ("telemetry", "all")


def verdicts(scored: Sequence[Scored], threshold: float) -> Verdicts:
    """Alarms by telemetry alone, and by telemetry or what is exact."""
    telemetry, every = list[Judged](), list[Judged]()
    for one in scored:
        telemetry.append(judge(one.run, alarms_of(one.scores, threshold)))
        both = np.maximum(one.scores, exact_scores(one.run)[0])
        every.append(judge(one.run, alarms_of(both, threshold)))
    return Verdicts(telemetry, every)


def score(
    folder: Path, tell: Callable[[str], None], detector: Callable[[], Scorer] | None = None, *, with_peers: bool = False
) -> dict[str, Any]:
    """Everything there is to say, as `rftfm faultbench score --json` prints it; numbers that are infinite or unknown
    are None.

    A detector that is none of ours is fitted and tuned as ours was, on the same splits and to the same budget.

    Raises:
        BenchError: when benchmark or thresholds are missing or damaged, or a peer is not installed.
    """
    compared = others(with_peers=with_peers)
    frozen, digest_of = read_frozen(folder)
    untuned = [other.name for other in compared if other.name not in frozen.thresholds]
    if untuned:
        raise BenchError(
            f"{folder / FROZEN} has no threshold of {' and '.join(untuned)}; give `rftfm faultbench tune --peers`."
        )
    runs = read_bench(folder)
    calibrate, report = split_of(runs, Split.CALIBRATE), split_of(runs, Split.REPORT)
    scorer: Scorer = BankScorer() if detector is None else detector()
    scorer.fit(calibrate)
    threshold = frozen.thresholds[OURS] if detector is None else tuned(score_all(scorer, split_of(runs, Split.TUNE)))
    ours = verdicts(score_all(scorer, report), threshold)
    tell(f"{scorer.name} is scored")
    cold = verdicts(score_all(ColdScorer(), report), frozen.thresholds[COLD])
    cells = Cells(calibrate)
    acted = [
        {"run": run.entry.name, "step": done.acted, "remedy": done.remedy}
        for run in report
        if run.entry.kind in (Kind.HEALTHY, Kind.LONG, Kind.TWIN)
        and (done := replay(run, cells.profile(run.entry))).acted is not None
    ]
    tell("the guard has seen healthy runs and twins once more")
    found: dict[str, Any] = {
        "split": Split.REPORT.value,
        "detector": scorer.name,
        "thresholds_sha256": digest_of,
        "runs": len(report),
        "healthy_steps": sum(run.healthy_steps for run in healthy(ours.telemetry)),
        **summary(ours),
        "actions_on_healthy": len(acted),
        "actions": acted,
        "clairvoyant": _bound(Clairvoyant(calibrate), frozen, report),
        "by_fault": _rows(ours),
        "cold": summary(cold) | {"by_fault": _rows(cold)},
        "paper": {name: {level: as_in_the_paper(ours.of(name), level) for level in LEVELS} for name in EVIDENCE},
        "baselines": {},
    }
    for other in compared:
        found["baselines"] |= _compared(other, frozen, calibrate, report)
        tell(f"{other.name} is scored")
    return {key: _plain(value) for key, value in found.items()}


def _compared(
    other: Scorer, frozen: Frozen, calibrate: Sequence[Recorded], report: Sequence[Recorded]
) -> dict[str, dict[str, Any]]:
    """Figures of another detector at its threshold; of a peer also with its rules as it ships them."""
    other.fit(calibrate)
    scored, limits = score_all(other, report), {other.name: frozen.thresholds[other.name]}
    if isinstance(other, Peer):
        limits[f"{other.name}_as_shipped"] = AS_SHIPPED
    judged = {name: [judge(one.run, alarms_of(one.scores, limit)) for one in scored] for name, limit in limits.items()}
    return {name: summary(Verdicts(theirs, theirs), ("telemetry",)) for name, theirs in judged.items()}


def summary(judged: Verdicts, evidence: Sequence[str] = EVIDENCE) -> dict[str, Any]:
    """False alarms, recall and delay."""
    return {
        "false_alarms_per_1000": {
            "healthy": {name: false_alarms(healthy(judged.of(name))) for name in evidence},
            "benign": {name: false_alarms(benign(judged.of(name))) for name in evidence},
        },
        "recall": {
            level: {name: _share(recall(faulty(judged.of(name), level))) for name in evidence} for level in LEVELS
        },
        "delay": {
            level: {name: _delay(delay(faulty(judged.of(name), level))) for name in evidence} for level in LEVELS
        },
    }


def _bound(bound: Clairvoyant, frozen: Frozen, report: Sequence[Recorded]) -> dict[str, Any]:
    """Recall and delay of the bound, over the faults that it was told of."""
    judged = list[Judged]()
    for run in report:
        fault = fault_of(run.entry) if run.entry.kind is Kind.FAULT else None
        if fault is not None and _name(fault) in frozen.clairvoyant and bound.knows(fault):
            judged.append(judge(run, alarms_of(bound.scores(run, fault), frozen.clairvoyant[_name(fault)])))
    return {
        level: {"telemetry": _share(recall(faulty(judged, level))) | _delay(delay(faulty(judged, level)))}
        for level in LEVELS
    }


def _share(share: Share) -> dict[str, Any]:
    return {"rate": share.rate, "low95": share.low95, "high95": share.high95, "n": share.total}


def _delay(found: Delay) -> dict[str, Any]:
    return {"median": found.median, "p90": found.p90, "censored": found.censored, "n": found.total}


def _rows(judged: Verdicts) -> list[dict[str, Any]]:
    return [_row(name, row) for name in EVIDENCE for group in ROWS for row in rows(judged.of(name), group)]


def _row(evidence: str, row: Any) -> dict[str, Any]:
    return {
        "evidence": evidence, "by": row.group, "name": row.name, "level": row.level, "recall": _share(row.share),
        "strict": _share(row.strict), "delay": _delay(row.delay), "without_effect": row.without_effect,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """What JSON can hold: a number that is none is null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
