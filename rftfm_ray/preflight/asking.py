"""Asking a task's own code before a run: its references, its verifier and its tools, within limits of number and time.

It is meant for a copy of the task, best in a process of its own: whatever state the task keeps, the task that trains
does not see it. Everything that comes back is a value.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rftfm_ray.errors import RewardError
from rftfm_ray.preflight.answers import ANOTHER, Answer, Worth, answers
from rftfm_ray.preflight.findings import reason_of
from rftfm_ray.tasks.api import Problem, Task, ToolStatus, Transcript, Verdict
from rftfm_ray.tasks.rewards import verify
from rftfm_ray.tasks.workers import NotAskedError, Workers

PROBLEMS = 4
"""Problems that are answered in every kind that has a worth."""
REFERENCES = 32
"""Rows whose references are made and measured; the verifier is asked about half of them."""
CALLS = 8
"""Known tool calls that are made, twice each."""
CORE = (Worth.RIGHT, Worth.WRONG, Worth.NOTHING, Worth.HIDDEN)
FIRST = ("an empty answer", "the prompt again")
"""Kinds that are asked about before most others, with the references."""
SHORTEST_S = 0.05
"""Seconds that a call gets at least."""


@dataclass(frozen=True, slots=True)
class AskLimits:
    """Limits of asking: verdicts in all, seconds in all, seconds of one call, and calls at a time."""

    verdicts: int
    seconds: float
    call_s: float
    workers: int


@dataclass(frozen=True, slots=True)
class Asked:
    """The verdict on one answer.

    Attributes:
        problem: number of the problem, from 0.
        kind: of the answer.
        worth: of the answer.
        reward: NaN where the verifier failed or was late.
        correct: False there too.
        error: how it failed, as a clause without the answer; empty where it did not.
        seconds: that the call took; NaN where it was late.
        again: whether the same answer was asked about before.
        late: whether it gave no verdict in time.
    """

    problem: int
    kind: str
    worth: Worth
    reward: float
    correct: bool
    error: str = ""
    seconds: float = math.nan
    again: bool = False
    late: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is a verdict."""
        return not self.error and not self.late


@dataclass(frozen=True, slots=True)
class Reference:
    """A row's reference: its turns and observations; `error` is how the task failed to make it."""

    row: int
    transcript: Transcript | None
    observations: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class KnownCall:
    """A tool call of a reference, made twice: whether it succeeded, whether it said the same, and its longest time."""

    row: int
    ok: bool
    repeated: bool
    error: str = ""
    seconds: float = math.nan


@dataclass(frozen=True, slots=True)
class TaskAnswers:
    """What a task's code has said. `left_out` counts the verdicts that the limits did not allow."""

    asked: tuple[Asked, ...]
    references: tuple[Reference, ...]
    calls: tuple[KnownCall, ...]
    left_out: int
    limits: AskLimits

    @property
    def answered(self) -> tuple[Asked, ...]:
        """First verdicts, without failures."""
        return tuple(asked for asked in self.asked if asked.ok and not asked.again)


@dataclass(frozen=True, slots=True)
class Question:
    """An answer to one problem that the verifier is asked about."""

    number: int
    problem: Problem
    answer: Answer
    again: bool = False


def examine(task: Task, rows: Sequence[Problem], limits: AskLimits) -> TaskAnswers:
    """Ask a task's references, verifier and tools about some of its problems.

    Args:
        task: a copy of the run's.
        rows: problems of the pool, the first of which are asked about.
        limits: of all questions together.
    """
    deadline = time.monotonic() + limits.seconds
    workers = Workers(limits.workers, limits.call_s)
    rows = rows[:REFERENCES]
    references = _references(task, rows, workers)
    calls = _known_calls(task, rows, references, workers) if time.monotonic() < deadline else ()
    planned = plan_questions(rows, references, task.stop)
    asked = ask(task, planned[: limits.verdicts], limits, deadline)
    return TaskAnswers(asked, references, calls, len(planned) - len(asked), limits)


SAMPLED = "an answer of the model"


def grade(task: Task, answered: Sequence[tuple[Problem, Transcript]], limits: AskLimits) -> tuple[Asked, ...]:
    """The verdicts on answers of the model, in their order, of as many as the limits allow."""
    questions = [
        Question(number, problem, Answer(SAMPLED, Worth.ODD, transcript))
        for number, (problem, transcript) in enumerate(answered[: limits.verdicts])
    ]
    return ask(task, questions, limits, time.monotonic() + limits.seconds)


def plan_questions(rows: Sequence[Problem], references: Sequence[Reference], stop: str = "") -> list[Question]:
    """All questions in the order in which they are asked: what the limits cut off matters least."""
    known = [(rows[r.row], r.transcript) for r in references if r.transcript is not None]
    table = {
        number: answers(problem, reference, _others(problem, known), stop)
        for number, (problem, reference) in enumerate(known[:PROBLEMS])
    }
    first = [_question(known, n, a) for n, made in table.items() for a in made if _is_first(a)]
    rest = [_question(known, n, a) for n, made in table.items() for a in made if not _is_first(a)]
    core = [q for q in rest if q.answer.worth in CORE or q.number == 0]
    core.sort(key=lambda question: question.number > 0)
    further = [
        Question(n, *_reference_answer(known[n])) for n in range(PROBLEMS, min(len(known), PROBLEMS + REFERENCES // 2))
    ]
    again = [Question(q.number, q.problem, q.answer, again=True) for q in (*first, *core)]
    cut = len(first)
    return [*first, *again[:cut], *core, *further, *again[cut:]]


def _is_first(answer: Answer) -> bool:
    return answer.worth is Worth.RIGHT or answer.kind in FIRST or answer.kind.startswith(ANOTHER)


def _question(known: Sequence[tuple[Problem, Transcript]], number: int, answer: Answer) -> Question:
    return Question(number, known[number][0], answer)


def _reference_answer(known: tuple[Problem, Transcript]) -> tuple[Problem, Answer]:
    problem, reference = known
    return problem, answers(problem, reference, ())[0]


def _others(problem: Problem, known: Sequence[tuple[Problem, Transcript]]) -> list[Transcript]:
    return [reference for other, reference in known if other.answer != problem.answer]


def ask(task: Task, questions: Sequence[Question], limits: AskLimits, deadline: float) -> tuple[Asked, ...]:
    """The verdicts, in the order of the questions, of as many as there is time for."""
    asked: list[Asked] = []
    for start in range(0, len(questions), limits.workers):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        workers = Workers(limits.workers, max(SHORTEST_S, min(limits.call_s, left_s)))
        chunk = questions[start : start + limits.workers]
        results = workers.run([partial(_timed, task, question) for question in chunk])
        asked += [_asked(question, result) for question, result in zip(chunk, results, strict=True)]
        if workers.left_behind:
            # What hangs once would hang again, and its threads stay.
            break
    return tuple(asked)


_Timed = tuple[Verdict | RewardError, float]


def _timed(task: Task, question: Question) -> _Timed:
    began = time.perf_counter()
    try:
        result: Verdict | RewardError = verify(task, question.problem, question.answer.transcript)
    except RewardError as error:
        result = error
    return result, time.perf_counter() - began


def _asked(question: Question, result: _Timed | BaseException) -> Asked:
    answer = question.answer
    place = (question.number, answer.kind, answer.worth)
    if isinstance(result, BaseException):
        late = isinstance(result, TimeoutError) and not isinstance(result, NotAskedError)
        return Asked(*place, math.nan, correct=False, error="" if late else reason_of(result), again=question.again,
                     late=late)  # fmt: skip
    verdict, seconds = result
    if isinstance(verdict, RewardError):
        return Asked(*place, math.nan, correct=False, error=failure(verdict), seconds=seconds, again=question.again)
    return Asked(*place, verdict.reward, verdict.correct, seconds=seconds, again=question.again)


LONGEST_VALUE = 80
"""Characters of a value that a verifier returned instead of a verdict."""


def failure(error: RewardError) -> str:
    """How a verifier failed, as a clause that holds no text of an answer."""
    if error.__cause__ is not None:
        return f"raises {type(error.__cause__).__name__}"
    _, returned, rest = str(error).partition(" returned ")
    return f"returns {rest.partition('; it must')[0][:LONGEST_VALUE]}" if returned else "returns no verdict"


def _references(task: Task, rows: Sequence[Problem], workers: Workers) -> tuple[Reference, ...]:
    if not task.knows_references:
        return ()
    results = workers.run([partial(_reference, task, row, problem) for row, problem in enumerate(rows)])
    return tuple(
        result if isinstance(result, Reference) else Reference(row, None, error=_how(result))
        for row, result in enumerate(results)
    )


def _reference(task: Task, row: int, problem: Problem) -> Reference:
    made: object = task.reference(problem)
    if not (isinstance(made, Transcript) and made.turns and all(isinstance(turn, str) for turn in made.turns)):
        return Reference(row, None, error=f"gives a {type(made).__name__} instead of a Transcript with turns of text")
    seen = []
    for turn, text in enumerate(made.turns[:-1]):
        observation = task.respond(problem, turn, text)
        if observation is not None:
            seen.append(str(observation.text))
    return Reference(row, made, tuple(seen))


def _known_calls(
    task: Task, rows: Sequence[Problem], references: Sequence[Reference], workers: Workers
) -> tuple[KnownCall, ...]:
    known = [(r.row, r.transcript) for r in references if r.transcript is not None and r.transcript.calls][:CALLS]
    made = workers.run([partial(_known_call, task, row, rows[row], transcript) for row, transcript in known])
    return tuple(
        result if isinstance(result, KnownCall) else KnownCall(row, ok=False, repeated=False, error=_how(result))
        for (row, _), result in zip(known, made, strict=True)
    )


def _known_call(task: Task, row: int, problem: Problem, reference: Transcript) -> KnownCall:
    call = reference.calls[0]
    said, longest = [], 0.0
    for _ in range(2):
        began = time.perf_counter()
        observation = task.respond(problem, call.turn, reference.turns[call.turn])
        longest = max(longest, time.perf_counter() - began)
        said.append(observation)
    first = said[0]
    if first is None:
        return KnownCall(row, ok=False, repeated=said[1] is None, error="ends the episode", seconds=longest)
    ok = first.call.status is ToolStatus.OK and first.call.response == call.response
    repeated = said[1] is not None and said[1].text == first.text
    error = "" if ok else f"ends with the status {first.call.status}"
    return KnownCall(row, ok=ok and call.status is ToolStatus.OK, repeated=repeated, error=error, seconds=longest)


def _how(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "gives no answer in time"
    return f"raises {type(error).__name__}"


Examine = Callable[[Task, Sequence[Problem], AskLimits], TaskAnswers]


def spread(rows: Sequence[Problem], count: int) -> list[Problem]:
    """`count` rows from all over the pool, in its order; all where there are fewer."""
    if len(rows) <= count:
        return list(rows)
    return [rows[index * len(rows) // count] for index in range(count)]


def kinds_of(asked: Sequence[Asked]) -> Iterator[str]:
    """The kinds of some answers, each once."""
    yield from dict.fromkeys(each.kind for each in asked)
