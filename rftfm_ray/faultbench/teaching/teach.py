"""`rftfm faultbench teach`: a model of diagnoses from the runs of a benchmark. Reads and writes files.

Every run is followed with each kind of reference that a user can have, because residuals against a few healthy runs,
and against a run's own past, are others than those against many.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from rftfm_ray.diagnosis.model import DiagnosisModel
from rftfm_ray.faultbench.detectors.references import ReferenceMode, References
from rftfm_ray.faultbench.runs.dataset import MANIFEST, Recorded, digest, read_bench
from rftfm_ray.faultbench.runs.plan import Kind, Split
from rftfm_ray.faultbench.teaching.following import Followed, follow
from rftfm_ray.faultbench.teaching.learning import Lesson, calibrate, learn
from rftfm_ray.faultbench.teaching.windows import Example, Windows

SEED = 1
"""Of the randomness of teaching."""
_CHUNK = 16
_Task = tuple[int, ReferenceMode]


@dataclass(frozen=True, slots=True)
class Taught:
    """A model that was taught, the hash of its file, and the numbers of runs and windows that it was taught on."""

    model: DiagnosisModel
    sha256: str
    runs: int
    examples: int


@dataclass(frozen=True, slots=True)
class _Work:
    references: References
    runs: Sequence[Recorded]

    def followed(self, task: _Task) -> Followed:
        run, mode = self.runs[task[0]], task[1]
        return follow(run, self.references.reference(run.entry, mode))


_inherited: list[_Work] = []


def _follow_some(tasks: Sequence[_Task]) -> list[Followed]:
    return [_inherited[-1].followed(task) for task in tasks]


def follow_runs(
    runs: Sequence[Recorded], splits: Collection[Split], workers: int = 1
) -> dict[ReferenceMode, list[Followed]]:
    """Follow the runs of some splits of a benchmark with each kind of reference, which the calibrate split gives.

    Args:
        runs: of a benchmark, with its calibrate split.
        splits: whose runs are followed; long healthy runs are left out.
        workers: processes that share the work.
    """
    references = References([run for run in runs if run.entry.split is Split.CALIBRATE])
    wanted = [run for run in runs if run.entry.split in splits and run.entry.kind is not Kind.LONG]
    tasks = list[_Task]()
    for mode in ReferenceMode:
        covered = [index for index, run in enumerate(wanted) if references.covers(run.entry, mode)]
        references.prepare([wanted[index].entry for index in covered], mode)
        tasks += [(index, mode) for index in covered]
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    _inherited.append(_Work(references, wanted))
    try:
        with ProcessPoolExecutor(workers, get_context("fork")) as pool:
            followed = [each for chunk in pool.map(_follow_some, chunks) for each in chunk]
    finally:
        _inherited.pop()
    by_mode = {mode: list[Followed]() for mode in ReferenceMode}
    for (_, mode), each in zip(tasks, followed, strict=True):
        by_mode[mode].append(each)
    return by_mode


def examples_of(followed: dict[ReferenceMode, list[Followed]], seed: int = SEED) -> list[Example]:
    """The windows of runs that were followed with several kinds of reference."""
    return [example for mode in ReferenceMode for example in Windows(followed[mode], seed).all()]


def teach(data: Path, out: Path, splits: Collection[Split], say: Callable[[str], None], workers: int = 1) -> Taught:
    """Teach a model from the runs of a benchmark, and write its file.

    Args:
        data: folder of the benchmark.
        out: file of the model.
        splits: that teach.
        say: is told of the progress.
        workers: processes that share the work.

    Raises:
        BenchError: when the benchmark cannot be read.
        DiagnosisModelError: when scikit-learn is missing, or no run has a fault with an effect.
    """
    followed = follow_runs(read_bench(data), splits, workers)
    runs = len({run.entry.name for some in followed.values() for run in some})
    say(f"{runs} runs are followed with each kind of reference.")
    examples = examples_of(followed)
    lesson = Lesson(examples, "rftfm faultbench teach", digest(data / MANIFEST), SEED)
    say(f"{len(examples)} windows teach the trees.")
    model = learn(lesson, workers=workers)
    say("Probabilities are calibrated on folds by seed.")
    calibrated = DiagnosisModel(replace(model.info, calibration=calibrate(lesson, workers)), model.forests)
    return Taught(calibrated, calibrated.save(out), runs, len(examples))
