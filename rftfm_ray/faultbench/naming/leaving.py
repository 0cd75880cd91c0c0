"""How faults are named that a model was not taught: without a mechanism, an algorithm, a model size or a task.

Each part is left out of the runs that teach, and the model that results is judged on the runs of that part. Runs are
followed once. The calibration is that of the model with everything, as a user has it when something new happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

from rftfm_ray.diagnosis.model import DiagnosisModel
from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.naming.named import NamedRun, named_run, ranker_of
from rftfm_ray.faultbench.runs.plan import Entry, mechanism_of
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope
from rftfm_ray.faultbench.teaching.following import Followed
from rftfm_ray.faultbench.teaching.learning import Lesson, learn
from rftfm_ray.faultbench.teaching.teach import SEED
from rftfm_ray.faultbench.teaching.windows import Example, Windows

TREES = 30
"""Of a model that is taught without a part: half of those of the shipped one, because many are taught."""
MODE = ReferenceMode.PROFILE
"""The reference of the runs that teach and are judged."""
MECHANISM = "mechanism"
PARTS: Mapping[str, Callable[[Entry], str]] = {
    MECHANISM: lambda entry: f"{entry.code} {mechanism_of(entry)}",
    "algorithm": lambda entry: entry.algorithm,
    "size": lambda entry: entry.size,
    "task": lambda entry: entry.task,
}
"""What is left out, by what runs have in common."""
Part = tuple[str, str]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The runs of a part, named by a model that was taught without it.

    Attributes:
        kind: one of `PARTS`.
        name: of the part.
        runs: named.
    """

    kind: str
    name: str
    runs: tuple[NamedRun, ...]


@dataclass(frozen=True, slots=True)
class Course:
    """What is taught, and what is judged.

    Attributes:
        taught: runs that teach, followed against `MODE`.
        examples: their windows.
        judged: runs with one fault that had its effect, followed against `MODE`.
        model: whose calibration is used.
    """

    taught: Sequence[Followed]
    examples: Sequence[Example]
    judged: Sequence[Followed]
    model: DiagnosisModel


def parts_of(course: Course) -> list[Part]:
    """The parts that can be left out: runs are judged on them, and others remain to teach."""
    return [(kind, name) for kind, key in PARTS.items() for name in _names(course, key)]


def _names(course: Course, key: Callable[[Entry], str]) -> list[str]:
    taught = {key(run.entry) for run in course.taught if run.codes}
    return sorted({key(run.entry) for run in course.judged if taught - {key(run.entry)}})


def examples_without(course: Course, part: Part) -> list[Example]:
    """The windows that teach without a part.

    Windows of a mechanism are left out, and with them all windows of two faults that may hold it. For other parts
    windows are made again, because effects are transplanted to healthy runs of all parts.
    """
    kind, name = part
    if kind == MECHANISM:
        code = name.partition(" ")[0]
        return [
            example
            for example in course.examples
            if example.mechanism != name and not (len(example.codes) > 1 and code in example.codes)
        ]
    others = [run for run in course.taught if PARTS[kind](run.entry) != name]
    return list(Windows(others, SEED).all())


def left_out(course: Course, part: Part) -> LeftOut:
    """Teach without a part, and judge its runs."""
    kind, name = part
    lesson = Lesson(examples_without(course, part), f"without {kind} {name}", course.model.info.taught_on, SEED)
    blank = learn(lesson, TREES)
    model = DiagnosisModel(replace(blank.info, calibration=course.model.info.calibration), blank.forests)
    of_part = (run for run in course.judged if PARTS[kind](run.entry) == name)
    ranker = ranker_of(model)
    return LeftOut(kind, name, tuple(named_run(run, MODE, EvidenceScope.ALL, ranker) for run in of_part))


_inherited: list[Course] = []


def _left_out(part: Part) -> LeftOut:
    return left_out(_inherited[-1], part)


def leave_out(course: Course, parts: Iterable[Part], workers: int = 1) -> Iterator[LeftOut]:
    """Leave out each part, in their order.

    Args:
        course: what is taught and judged.
        parts: of `parts_of`.
        workers: processes that share the work.
    """
    if workers == 1:
        yield from (left_out(course, part) for part in parts)
        return
    _inherited.append(course)
    try:
        with ProcessPoolExecutor(workers, get_context("fork")) as pool:
            yield from pool.map(_left_out, parts)
    finally:
        _inherited.pop()
