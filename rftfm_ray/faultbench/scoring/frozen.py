"""Thresholds of all detectors: set on the tune split of a benchmark, and frozen in one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.detectors.baselines import Scorer, baselines
from rftfm_ray.faultbench.detectors.oracle import Oracle
from rftfm_ray.faultbench.detectors.peers import missing, peers
from rftfm_ray.faultbench.detectors.references import ReferenceMode, References
from rftfm_ray.faultbench.detectors.shifts import Fault, fault_of
from rftfm_ray.faultbench.runs.dataset import MANIFEST, Recorded, digest, read_bench
from rftfm_ray.faultbench.runs.plan import Kind, Split, is_without_fault
from rftfm_ray.faultbench.scoring.guarding import MultiplierSearch
from rftfm_ray.faultbench.scoring.thresholds import (
    BENIGN_BUDGET,
    HEALTHY_BUDGET,
    ScoredRun,
    score_all,
    tuned_multiplier,
    tuned_threshold,
)
from rftfm_ray.files import write_atomic

FROZEN = "frozen.json"
AGAIN = "set thresholds again with `rftfm faultbench tune`"
_Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Frozen:
    """Thresholds as the tune split of one benchmark has set them.

    Attributes:
        manifest_sha256: hash of the manifest of the benchmark.
        healthy_per_1000: budget of false alarms in 1,000 healthy steps.
        benign_per_1000: the same for steps with a benign control.
        multipliers: of the guard's thresholds, by the name of a mode of the monitor's reference. A mode that no run of
            the benchmark has a reference for is missing, and has the shipped one.
        thresholds: of scores, by detector.
        oracle: of the oracle detector, by fault.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    manifest_sha256: str
    healthy_per_1000: float
    benign_per_1000: float
    multipliers: dict[str, _Positive]
    thresholds: dict[str, _Positive]
    oracle: dict[str, _Positive]


_FROZEN = TypeAdapter(Frozen)


def split_of(runs: Sequence[Recorded], split: Split) -> list[Recorded]:
    """The runs of a split."""
    return [run for run in runs if run.entry.split is split]


def name_of(fault: Fault) -> str:
    """Name of a fault's threshold."""
    return " ".join(fault)


def compared_detectors(*, with_peers: bool) -> tuple[Scorer, ...]:
    """Detectors that the guard is compared with, unfitted.

    Raises:
        BenchError: when peers are asked for that are not installed.
    """
    if with_peers and missing():
        raise BenchError(f"{' and '.join(missing())} cannot be compared with; `pip install rftfm_ray[peers]`.")
    return (*baselines(), *(peers() if with_peers else ()))


def freeze(folder: Path, tell: Callable[[str], None], *, with_peers: bool = False) -> Frozen:
    """Set all thresholds on the tune split and write them to the folder of the benchmark.

    Raises:
        BenchError: when the benchmark is not complete, or a peer is not installed.
    """
    compared, runs = compared_detectors(with_peers=with_peers), read_bench(folder)
    calibrate, tune = split_of(runs, Split.CALIBRATE), split_of(runs, Split.TUNE)
    multipliers = dict[str, float]()
    references = References(calibrate)
    for mode in ReferenceMode:
        sound = [run for run in tune if is_without_fault(run.entry) and references.covers(run.entry, mode)]
        if sound:
            name = mode.threshold_mode.value
            multipliers[name] = tuned_multiplier(MultiplierSearch(sound, references, mode))
            tell(f"guard, {mode.label}: {multipliers[name]:.4g}")
    thresholds = dict[str, float]()
    for scorer in compared:
        scorer.fit(calibrate)
        thresholds[scorer.name] = tuned_threshold([score_all(scorer, tune)])
        tell(f"{scorer.name}: {thresholds[scorer.name]:.4g}")
    frozen = Frozen(
        digest(folder / MANIFEST), HEALTHY_BUDGET, BENIGN_BUDGET, multipliers, thresholds,
        _oracle_thresholds(runs, calibrate, tune),
    )  # fmt: skip
    write_atomic(folder / FROZEN, _FROZEN.dump_json(frozen, indent=1) + b"\n")
    return frozen


def _oracle_thresholds(
    runs: Sequence[Recorded], calibrate: Sequence[Recorded], tune: Sequence[Recorded]
) -> dict[str, float]:
    """Threshold of each fault that the oracle knows."""
    oracle = Oracle(calibrate)
    sound = [(run, oracle.residuals(run)) for run in tune if is_without_fault(run.entry)]
    faults = sorted({fault_of(run.entry) for run in runs if run.entry.kind is Kind.FAULT})
    return {
        name_of(fault): tuned_threshold(
            [[ScoredRun(run, oracle.sums(run.entry, residuals, fault)) for run, residuals in sound]]
        )
        for fault in faults
        if oracle.knows(fault)
    }


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
