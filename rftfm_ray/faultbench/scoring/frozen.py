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
from rftfm_ray.faultbench.detectors.oracle import Clairvoyant
from rftfm_ray.faultbench.detectors.ours import BankScorer
from rftfm_ray.faultbench.detectors.peers import missing, peers
from rftfm_ray.faultbench.detectors.shifts import Fault, fault_of
from rftfm_ray.faultbench.detectors.unprofiled import ColdScorer
from rftfm_ray.faultbench.runs.dataset import MANIFEST, Recorded, digest, read_bench
from rftfm_ray.faultbench.runs.plan import Kind, Split
from rftfm_ray.faultbench.scoring.thresholds import BENIGN_BUDGET, HEALTHY_BUDGET, Scored, score_all, tuned
from rftfm_ray.files import write_atomic

FROZEN = "frozen.json"
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


def name_of(fault: Fault) -> str:
    """How a fault's threshold is called."""
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
        name_of(fault): tuned([Scored(run, bound.sums(run.entry, residuals, fault)) for run, residuals in sound])
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
