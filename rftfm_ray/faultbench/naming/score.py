"""`rftfm faultbench score --diagnosis`: names the faults of recorded runs, and judges the names. Reads files.

Runs are followed with each kind of reference, and named by each scope of evidence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import numpy as np

from rftfm_ray.diagnosis.findings import READ
from rftfm_ray.diagnosis.model import ASSET, DiagnosisModel, installed_model
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.naming.baselines import baselines
from rftfm_ray.faultbench.naming.leaving import MODE, Course, LeftOut, leave_out, parts_of
from rftfm_ray.faultbench.naming.named import NamedRun, Ranker, false_name, named_run, ranker_of
from rftfm_ray.faultbench.naming.pairs import PairResult, pair_result
from rftfm_ray.faultbench.runs.dataset import MANIFEST, digest, read_bench
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope, restricted
from rftfm_ray.faultbench.teaching.following import Followed
from rftfm_ray.faultbench.teaching.teach import SEED, follow_runs
from rftfm_ray.faultbench.teaching.windows import Windows

SPLITS = (Split.TUNE, Split.REPORT)
"""Splits that can be judged: the other one teaches."""
ByMode = Mapping[ReferenceMode, Sequence[Followed]]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ControlResult:
    """A run without a fault: its reference, the evidence, and the fault that it is said to have, or nothing."""

    entry: Entry
    mode: ReferenceMode
    scope: EvidenceScope
    code: str


@dataclass(frozen=True, slots=True)
class Source:
    """What an evaluation rests on.

    Attributes:
        split: whose runs are judged.
        runs: number of them.
        model_sha256: hash of the model's file.
        manifest_sha256: hash of the benchmark's manifest.
    """

    split: Split
    runs: int
    model_sha256: str
    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class NamingEvaluation:
    """The names of the faults of a split.

    Attributes:
        source: what it rests on.
        named: every run with one fault that had its effect in time, in each mode and scope.
        controls: every run without a fault, in each mode and scope.
        pairs: every run with two faults, in each mode and scope.
        left_out: runs of parts that the model was not taught.
        baselines: the same runs with a full profile and all evidence, as other ways name them.
        unmeasured: signals that diagnoses read and that no judged run holds.
    """

    source: Source
    named: tuple[NamedRun, ...]
    controls: tuple[ControlResult, ...]
    pairs: tuple[PairResult, ...]
    left_out: tuple[LeftOut, ...]
    baselines: Mapping[str, tuple[NamedRun, ...]]
    unmeasured: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NamingOptions:
    """Options of a score.

    Attributes:
        split: whose runs are judged.
        workers: processes that share the work; 0 for one a core, up to four.
        with_others: leave parts out, and learn baselines; takes minutes.
    """

    split: Split = Split.REPORT
    workers: int = 0
    with_others: bool = True

    @property
    def processes(self) -> int:
        """Processes that share the work."""
        return self.workers or min(4, os.cpu_count() or 1)


def score_diagnosis(data: Path, tell: Tell, options: NamingOptions = NamingOptions()) -> NamingEvaluation:
    """Judge the installed model on a split of a benchmark.

    Raises:
        BenchError: when the benchmark cannot be read, or the split teaches.
        DiagnosisModelError: when the model is damaged, or scikit-learn is missing.
    """
    if options.split not in SPLITS:
        raise BenchError(f"The {options.split} split teaches models; judge one of {', '.join(SPLITS)}.")
    runs = read_bench(data)
    splits: Collection[Split] = (options.split, *([Split.CALIBRATE] if options.with_others else []))
    tell(f"Following runs of {' and '.join(splits)} with each kind of reference")
    followed = follow_runs(runs, splits, options.processes)
    model_sha256 = sha256(files("rftfm_ray").joinpath(ASSET).read_bytes()).hexdigest()
    count = sum(run.entry.split is options.split and run.entry.kind is not Kind.LONG for run in runs)
    source = Source(options.split, count, model_sha256, digest(data / MANIFEST))
    return evaluate(followed, installed_model(), source, tell, options)


def evaluate(
    followed: ByMode, model: DiagnosisModel, source: Source, tell: Tell, options: NamingOptions
) -> NamingEvaluation:
    """Judge a model on runs that were followed.

    Args:
        followed: runs of the judged split, and of the calibrate split where parts are left out.
        model: that is judged.
        source: what the runs and the model are.
        tell: is told of the progress.
        options: of the score.
    """
    judged = {mode: [run for run in runs if run.entry.split is source.split] for mode, runs in followed.items()}
    named, controls, pairs = list[NamedRun](), list[ControlResult](), list[PairResult]()
    for mode, scope, run in _restricted(judged):
        if is_judged(run):
            named.append(named_run(run, mode, scope, ranker_of(model)))
        elif run.entry.kind in (Kind.CONTROL, Kind.HEALTHY):
            controls.append(ControlResult(run.entry, mode, scope, false_name(run, ranker_of(model))))
        elif run.entry.kind is Kind.TWO_FAULTS and run.effect:
            pairs.append(pair_result(run, mode, scope, model))
    tell(f"{len(named)} names are judged")
    left, others = tuple[LeftOut, ...](), dict[str, tuple[NamedRun, ...]]()
    if options.with_others:
        course = _course(followed.get(MODE, ()), judged.get(MODE, ()), model)
        others = dict(_by_baselines(course, tell))
        left = tuple(_left_out(course, options.processes, tell))
    return NamingEvaluation(
        source, tuple(named), tuple(controls), tuple(pairs), left, others, unmeasured_in(judged)
    )  # fmt: skip


def unmeasured_in(followed: ByMode) -> tuple[str, ...]:
    """Signals that diagnoses read and that none of some runs holds: old benchmarks lack those that were added later."""
    measured = np.zeros(len(READ), np.bool_)
    for runs in followed.values():
        for run in runs:
            measured |= np.isfinite(run.values).any(axis=0)
    names = {name for name, is_measured in zip(READ, measured.tolist(), strict=True) if is_measured}
    return tuple(name for name in dict.fromkeys(READ) if name not in names)


def is_judged(run: Followed) -> bool:
    """Whether the name of a run counts: it has one fault, which had its effect in time."""
    return run.entry.kind is Kind.FAULT and run.effect > 0


def _restricted(followed: ByMode) -> Iterator[tuple[ReferenceMode, EvidenceScope, Followed]]:
    """Every run in every mode and scope."""
    for mode, runs in followed.items():
        for scope in EvidenceScope:
            for run in runs:
                yield mode, scope, restricted(run, scope)


def _course(followed: Sequence[Followed], judged: Sequence[Followed], model: DiagnosisModel) -> Course:
    taught = [run for run in followed if run.entry.split is Split.CALIBRATE]
    return Course(taught, list(Windows(taught, SEED).all()), list(filter(is_judged, judged)), model)


def _left_out(course: Course, processes: int, tell: Tell) -> Iterator[LeftOut]:
    parts = parts_of(course)
    for number, part in enumerate(leave_out(course, parts, processes), start=1):
        tell(f"{part.kind} {part.name} was left out ({number} of {len(parts)})")
        yield part


def _by_baselines(course: Course, tell: Tell) -> Iterator[tuple[str, tuple[NamedRun, ...]]]:
    for name, ranker in baselines(course.model, course.examples):
        yield name, tuple(_by_baseline(course, ranker))
        tell(f"{name} is judged")


def _by_baseline(course: Course, ranker: Ranker) -> Iterator[NamedRun]:
    for run in course.judged:
        yield named_run(run, MODE, EvidenceScope.ALL, ranker, least=0.0)
