"""Learns the evidence and the calibration of diagnoses from recorded runs, and makes docs/diagnosis.md.

    python -m benchmarks.diagnosis [--data benchmarks/data/faultbench] [--split tune]
    python -m benchmarks.diagnosis --keep --split report

It writes rftfm_ray/assets/diagnosis.json, or with `--keep` judges that file as it is. Evidence is learnt on the
calibrate split, with the strength of its shrinkage chosen on tune. Calibration is learnt on calibrate too, from folds
by seed, so that no run is judged by evidence that it has taught. The page gives the figures of `--split`.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from benchmarks.diagnosis_page import Figures, Judged, page
from rftfm_ray.detection.monitor import Observation
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.classify import UNKNOWN_NATS, alarms_in, case_of, fingerprint_scores
from rftfm_ray.diagnosis.evidence import (
    CODES,
    EXACT,
    SHIPPED_EVIDENCE,
    TELEMETRY,
    Features,
    LearntEvidence,
    ShippedEvidence,
    level_of,
    shipped_evidence,
)
from rftfm_ray.diagnosis.readings import Readings
from rftfm_ray.faultbench.detectors.guard import RecordingMonitor
from rftfm_ray.faultbench.detectors.references import ReferenceMode, References
from rftfm_ray.faultbench.runs.dataset import MANIFEST, Recorded, digest, read_bench
from rftfm_ray.faultbench.runs.declared import declarations, watched
from rftfm_ray.faultbench.runs.plan import Kind, Split, is_without_fault
from rftfm_ray.files import write_atomic
from rftfm_ray.taxonomy import UNKNOWN

Floats = NDArray[np.float64]
ROOT = Path(__file__).parents[1]
COMMAND = "python -m benchmarks.diagnosis"
OFFSETS = (0, 1, 2, 3, 5, 10)
"""Steps after the alarm at which a diagnosis is taken."""
FOLDS = 5
# Penalties of squared weights: of symptoms and findings, and of residuals. Chosen on the tune split.
SHRINKAGE = (0.0003, 0.003)
# Weights below it are left out of the file.
LEAST_WEIGHT = 0.01
# Bins of equal size from which the calibration starts; neighbours that fall are merged.
BINS = 12
_LABELS = (*CODES, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Example:
    """One diagnosis of a recorded run.

    Attributes:
        run: its name.
        seed: of its group.
        task: its name.
        mode: of the reference.
        level: of its fault; empty for a false alarm.
        offset: steps after the alarm.
        truth: codes of its faults; empty for a false alarm.
        evidence: kind of the evidence.
        fingerprints: (`CODES`) nats by fingerprints alone.
        features: what is learnt from.
    """

    run: str
    seed: int
    task: str
    mode: ReferenceMode
    level: str
    offset: int
    truth: frozenset[str]
    evidence: str
    fingerprints: tuple[float, ...]
    features: Features


def observations_of(run: Recorded, monitor: RecordingMonitor) -> list[Observation]:
    """Judge a run, with what was declared in it."""
    declared = {d.id.step: d.change for d in declarations(run.entry, watched(run.entry))}
    reports = list(run.reports())
    bounds = sorted({0, *(step - 1 for step in declared), len(reports)})
    for start, end in itertools.pairwise(bounds):
        if start + 1 in declared:
            monitor.declare(declared[start + 1])
        monitor.observe(reports[start:end])
    return monitor.observations


def examples_of(run: Recorded, observations: Iterable[Observation], mode: ReferenceMode) -> Iterator[Example]:
    """Diagnoses of a run's alarms; an alarm that was open before the fault is left out."""
    entry, readings = run.entry, Readings()
    has_fault = not is_without_fault(entry)
    switch = min(run.outcome.switched, default=0)
    # Declared changes are injected in the same way, and are no fault.
    codes = frozenset(text.partition("@")[0] for text in entry.inject) & frozenset(CODES)
    began: int | None = None
    for observation in observations:
        readings.observe(observation)
        step = observation.report.id.step
        alarms = alarms_in(observation.symptoms)
        if step <= entry.fork or not alarms:
            began = None
            continue
        began = step if began is None else began
        is_false = not has_fault or step < switch
        if step - began not in OFFSETS or (not is_false and began < switch):
            continue
        case = case_of(observation.symptoms, readings)
        if not alarms_in(case.symptoms):
            continue
        scores = fingerprint_scores(case.symptoms)
        yield Example(
            entry.name, entry.seed, entry.task, mode, "" if is_false else entry.level, step - began,
            frozenset() if is_false else codes, level_of(alarms_in(case.symptoms)),
            tuple(scores[code] for code in CODES), case.features,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Work:
    references: References
    runs: Sequence[Recorded]

    def examples(self, task: tuple[int, ReferenceMode]) -> list[Example]:
        run, mode = self.runs[task[0]], task[1]
        monitor = RecordingMonitor(run, self.references.reference(run.entry, mode))
        return list(examples_of(run, observations_of(run, monitor), mode))


_inherited: list[_Work] = []


def _examples_of_tasks(tasks: Sequence[tuple[int, ReferenceMode]]) -> list[Example]:
    return [example for task in tasks for example in _inherited[-1].examples(task)]


def collect(runs: Sequence[Recorded], splits: Sequence[Split], workers: int = 2) -> dict[Split, list[Example]]:
    """Diagnoses of all runs of some splits, in every mode of the reference.

    Args:
        runs: of a benchmark.
        splits: whose runs are diagnosed.
        workers: processes that share the work.
    """
    references = References([run for run in runs if run.entry.split is Split.CALIBRATE])
    wanted = [run for run in runs if run.entry.split in splits and run.entry.kind is not Kind.LONG]
    tasks = list[tuple[int, ReferenceMode]]()
    for mode in ReferenceMode:
        covered = [index for index, run in enumerate(wanted) if references.covers(run.entry, mode)]
        references.prepare([wanted[index].entry for index in covered], mode)
        tasks += [(index, mode) for index in covered]
    _inherited.append(_Work(references, wanted))
    chunks = [tasks[start : start + 16] for start in range(0, len(tasks), 16)]
    with ProcessPoolExecutor(workers, get_context("fork")) as pool:
        collected = [example for chunk in pool.map(_examples_of_tasks, chunks) for example in chunk]
    split_of_run = {run.entry.name: run.entry.split for run in wanted}
    return {split: [e for e in collected if split_of_run[e.run] is split] for split in splits}


@dataclass(frozen=True, slots=True)
class _Table:
    """Examples as arrays: (E, features), (E, `_LABELS`) nats by fingerprints, (E) labels, (E) weights."""

    features: Floats
    fingerprints: Floats
    labels: NDArray[np.int64]
    weights: Floats


def _names_of(examples: Iterable[Example]) -> list[str]:
    return sorted({name for example in examples for name in example.features.present})


def _table(examples: Sequence[Example], names: Sequence[str]) -> _Table:
    column = {name: index for index, name in enumerate(names)}
    features = np.zeros((len(examples), len(names) + len(COLUMNS)))
    for row, example in enumerate(examples):
        features[row, [column[name] for name in example.features.present]] = 1.0
        if example.features.residuals is not None:
            features[row, len(names) :] = example.features.residuals
    fingerprints = np.array([[*example.fingerprints, UNKNOWN_NATS] for example in examples])
    labels = np.array([_LABELS.index(next(iter(example.truth), UNKNOWN)) for example in examples])
    runs, counts = np.unique([example.run for example in examples], return_counts=True)
    of_run = dict(zip(runs.tolist(), counts.tolist(), strict=True))
    # Every run counts once, however many of its diagnoses are examples.
    weights = np.array([1.0 / of_run[example.run] for example in examples])
    return _Table(features, fingerprints, labels, weights / weights.sum())


def learn(examples: Sequence[Example], shrinkage: tuple[float, float] = SHRINKAGE) -> ShippedEvidence:
    """Learn evidence: a multinomial logistic regression with the fingerprints as offsets and a ridge penalty.

    Args:
        examples: to learn from; those of two faults are left out.
        shrinkage: penalties of squared weights of symptoms and findings, and of residuals.
    """
    chosen = [example for example in examples if len(example.truth) < 2]
    names = _names_of(chosen)
    table = _table(chosen, names)
    rows, size = np.arange(len(chosen)), len(names) + len(COLUMNS)
    penalty = np.repeat(shrinkage, (len(names), len(COLUMNS)))[:, None] * np.ones(len(CODES))

    def loss(flat: Floats) -> tuple[float, Floats]:
        weight, nats = flat[0], flat[1:].reshape(size, len(CODES))
        logits = weight * table.fingerprints
        logits[:, : len(CODES)] += table.features @ nats
        logits -= logits.max(1, keepdims=True)
        shares = np.exp(logits)
        shares /= shares.sum(1, keepdims=True)
        value = -float((table.weights * np.log(shares[rows, table.labels] + 1e-300)).sum())
        error = shares
        error[rows, table.labels] -= 1
        error *= table.weights[:, None]
        gradient = table.features.T @ error[:, : len(CODES)] + 2 * penalty * nats
        flat_gradient = np.concatenate([[float((error * table.fingerprints).sum())], gradient.ravel()])
        return value + float((penalty * nats * nats).sum()), flat_gradient

    start = np.zeros(1 + size * len(CODES))
    start[0] = 0.5
    bounds = [(0.1, 2.0)] + [(-20.0, 20.0)] * (size * len(CODES))
    solution = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 400})
    nats = solution.x[1:].reshape(size, len(CODES))
    return ShippedEvidence(
        COMMAND, "", round(float(solution.x[0]), 3), _by_code(names, nats[: len(names)]),
        _by_code(COLUMNS, nats[len(names) :]), {},
    )  # fmt: skip


def _by_code(names: Sequence[str], nats: Floats) -> dict[str, dict[str, float]]:
    """Weights (names, `CODES`) by fault and name, without those that hardly count."""
    return {
        code: {
            name: round(value, 3)
            for name, value in zip(names, column.tolist(), strict=True)
            if abs(value) > LEAST_WEIGHT
        }
        for code, column in zip(CODES, nats.T, strict=True)
    }


def judge(examples: Sequence[Example], evidence: LearntEvidence | None) -> list[Judged]:
    """The leading fault of every example, with the probability of the model; by fingerprints alone without evidence."""
    judged = []
    for example in examples:
        nats = np.array([*example.fingerprints, UNKNOWN_NATS])
        if evidence is not None:
            extra = evidence.nats(example.features)
            nats = evidence.fingerprint_weight * nats + np.array([*(extra[code] for code in CODES), 0.0])
        shares = np.exp(nats - nats.max())
        best = int(shares.argmax())
        judged.append(
            Judged(
                example.run, example.mode.value, example.level, example.offset, example.evidence, example.truth,
                _LABELS[best], float(shares[best] / shares.sum()),
            )
        )  # fmt: skip
    return judged


def calibration_of(judged: Sequence[Judged]) -> dict[str, tuple[tuple[float, float], ...]]:
    """Points (probability of the model, share of right ones) by kind of evidence."""
    named = [item for item in judged if item.code != UNKNOWN]
    return {level: _isotonic([item for item in named if item.evidence == level]) for level in (TELEMETRY, EXACT)}


def _isotonic(judged: Sequence[Judged]) -> tuple[tuple[float, float], ...]:
    """Isotonic regression over bins, by pooling neighbours that fall (pool adjacent violators)."""
    ordered = sorted(judged, key=lambda item: item.probability)
    # Laplace's rule: no bin is always right or always wrong.
    blocks = list[list[float]]()
    for part in np.array_split(np.arange(len(ordered)), min(BINS, max(1, len(ordered) // 20))):
        items = [ordered[index] for index in part.tolist()]
        right, count = 1 + sum(item.is_right for item in items), 2 + len(items)
        blocks.append([sum(item.probability for item in items), len(items), right, count])
        while len(blocks) > 1 and blocks[-2][2] / blocks[-2][3] >= blocks[-1][2] / blocks[-1][3]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    points = [(round(p / n, 4), round(right / count, 4)) for p, n, right, count in blocks]
    return (((0.0, round(points[0][1] / 2, 4))), *points, (1.0, points[-1][1]))


def cross_judged(examples: Sequence[Example]) -> list[Judged]:
    """Judge every example by evidence learnt from the other folds of seeds."""
    seeds = sorted({example.seed for example in examples})
    judged = list[Judged]()
    for fold in range(FOLDS):
        held_out = set(seeds[fold::FOLDS])
        taught = learn([example for example in examples if example.seed not in held_out])
        judged += judge([e for e in examples if e.seed in held_out], LearntEvidence(taught))
    return judged


def calibrated(judged: Iterable[Judged], evidence: LearntEvidence) -> list[Judged]:
    """The same diagnoses with the probabilities that are stated."""
    return [item.calibrated(evidence.calibrated(item.probability, item.evidence)) for item in judged]


def other_task(
    taught: Sequence[Example], scored: Sequence[Example], evidence: LearntEvidence
) -> dict[str, list[Judged]]:
    """Diagnoses of each task by evidence that was learnt on the other tasks alone, with the shipped calibration."""
    judged = dict[str, list[Judged]]()
    for task in sorted({example.task for example in scored}):
        learnt = LearntEvidence(learn([example for example in taught if example.task != task]))
        judged[task] = calibrated(judge([e for e in scored if e.task == task], learnt), evidence)
    return judged


def main() -> None:
    """Learn, write the file, and make the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "benchmarks" / "data" / "faultbench")
    parser.add_argument("--out", type=Path, default=ROOT / "rftfm_ray" / "assets" / "diagnosis.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "diagnosis.md")
    parser.add_argument("--split", type=Split, default=Split.TUNE, choices=[Split.TUNE, Split.REPORT])
    parser.add_argument("--keep", action="store_true", help="judge the installed evidence instead of learning it again")
    options = parser.parse_args()
    examples = collect(read_bench(options.data), (Split.CALIBRATE, options.split))
    scored, evidence = examples[options.split], shipped_evidence() if options.keep else None
    if evidence is None:
        evidence = LearntEvidence(write_evidence(examples[Split.CALIBRATE], options.data, options.out))
    figures = Figures(
        options.split.value, judge(scored, None), calibrated(judge(scored, evidence), evidence),
        other_task(examples[Split.CALIBRATE], scored, evidence),
    )  # fmt: skip
    command = f"{COMMAND}{' --keep' if options.keep else ''} --split {options.split}"
    write_atomic(options.docs, page(command, figures).encode())
    print(f"{len(scored)} diagnoses of the {options.split} split -> {options.docs}")


def write_evidence(examples: Sequence[Example], data: Path, out: Path) -> ShippedEvidence:
    """Learn evidence and calibration from the examples of the calibrate split, and write them."""
    learnt = learn(examples)
    shipped = ShippedEvidence(
        COMMAND, digest(data / MANIFEST), learnt.fingerprint_weight, learnt.nats, learnt.residual_nats,
        calibration_of(cross_judged(examples)),
    )  # fmt: skip
    write_atomic(out, SHIPPED_EVIDENCE.dump_json(shipped) + b"\n")
    return shipped


if __name__ == "__main__":
    main()
