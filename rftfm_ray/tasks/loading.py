"""Finding a task by name, and checking at submit that it keeps its contract."""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.plugins import load_attribute, ship_by_value
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Problem, Task, Transcript, Verdict
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.tasks.gym import PREFIX, Generator, GymTask
from rftfm_ray.tasks.rewards import late_verdict, verify
from rftfm_ray.tasks.rows import check_rows
from rftfm_ray.tasks.stream import Part
from rftfm_ray.tasks.workers import Workers

logger = logging.getLogger(__name__)

TASKS: dict[str, type[Task]] = {task.name: task for task in (Addition, Calculator)}


def load_task(name: str, options: Sequence[str] = ()) -> Task:
    """The task called `name`: a shipped one, `reasoning_gym:NAME`, `module:Class`, or `file.py:Class`.

    A task of the user's travels to the actors by value, so its module need not be installed there.

    Args:
        name: what `task.name` says.
        options: of the generator of `reasoning_gym:NAME`, each as `KEY=VALUE`.

    Raises:
        TaskError: one sentence that says what was not found.
    """
    if name.startswith(PREFIX):
        return GymTask(Generator(name.removeprefix(PREFIX), tuple(options)))
    if options:
        raise TaskError(
            f"task.options={list(options)} are for task.name={PREFIX}NAME, not for task.name={name}; remove them."
        )
    if name in TASKS:
        return TASKS[name]()
    if ":" not in name:
        raise TaskError(
            f"Unknown task.name={name}; use {', '.join(sorted(TASKS))}, module:Class or file.py:Class, or {PREFIX}NAME."
        )
    loaded, class_name, module = load_attribute("task.name", name, TaskError)
    if not (isinstance(loaded, type) and issubclass(loaded, Task)):
        raise TaskError(f"task.name={name}: {class_name} is not a class derived from rftfm_ray.tasks.Task; derive it.")
    if inspect.isabstract(loaded):
        missing = sorted(loaded.__abstractmethods__)
        them = "it" if len(missing) == 1 else "them"
        raise TaskError(f"task.name={name}: {class_name} does not define {', '.join(missing)}; add {them}.")
    for attribute in ("name", "max_new_tokens"):
        if not hasattr(loaded, attribute):
            raise TaskError(f"task.name={name}: {class_name} has no class attribute {attribute!r}; add it.")
    try:
        task = loaded()
    except Exception as error:  # the user's constructor may raise anything
        raise TaskError(f"task.name={name}: {class_name}() raised {type(error).__name__}: {error}.") from error
    ship_by_value(module)
    return task


class CheckedTask(NamedTuple):
    """The training pool and the probe's problems of a checked task, and the seconds of its slowest checked verdict."""

    pool: tuple[Problem, ...]
    heldout: tuple[Problem, ...]
    verdict_s: float


def check_task(task: Task, config: RunConfig) -> CheckedTask:
    """Draw the training pool and the probe's problems, and check the task's contract on them.

    Raises:
        TaskError: when a row is not text, pool and held-out set overlap or are too small, or the verifier fails or pays
            a right answer less than none.
    """
    try:
        pool = tuple(task.pool(config.task.pool_size, config.seed))
        heldout = tuple(task.heldout())
    except TaskError:
        raise
    except Exception as error:  # the task's own code may raise anything
        raise TaskError(f"Task {task.name} failed to draw problems ({type(error).__name__}: {error}).") from error
    check_rows(task.name, "pool", pool)
    check_rows(task.name, "heldout", heldout)
    distinct, wanted = len({p.key for p in pool}), config.task.pool_size
    if len(pool) != wanted or distinct != wanted:
        raise TaskError(f"Task {task.name} gave {distinct} distinct problems for task.pool_size={wanted}; lower it.")
    for key in ("size", "final_size"):
        size = getattr(config.probe, key)
        if len(heldout) < size:
            raise TaskError(
                f"Task {task.name} holds out {len(heldout)} problems, fewer than probe.{key}={size}; lower it."
            )
    if len({p.prompt for p in heldout}) != len(heldout):
        raise TaskError(f"Task {task.name} holds out some prompts more than once; give each once.")
    shared = {p.prompt for p in pool} & {p.prompt for p in heldout}
    if shared:
        raise TaskError(f"Task {task.name} trains on held-out prompts, for example {min(shared)!r}; keep them apart.")
    limits: object = task.max_new_tokens
    if not (isinstance(limits, tuple) and limits and all(isinstance(n, int) and n >= 1 for n in limits)):
        raise TaskError(f"Task {task.name} has max_new_tokens={limits!r}; give one positive limit per turn.")
    _check_difficulty(task, pool, config)
    verdict_s = _check_verifier_in_time(task, heldout[0], config.verifier.timeout_s)
    return CheckedTask(pool, heldout[: max(config.probe.size, config.probe.final_size)], verdict_s)


def _check_difficulty(task: Task, pool: Sequence[Problem], config: RunConfig) -> None:
    difficulties(task, pool)
    if any(stage.task.hard_share > 0 for _, stage in config.stages()):
        harder_half(task, pool)


def difficulties(task: Task, pool: Sequence[Problem]) -> list[float]:
    """How hard each problem is.

    Raises:
        TaskError: when the task raises, or gives NaN.
    """
    try:
        levels = [float(task.difficulty(problem)) for problem in pool]
    except Exception as error:  # the task's own code may raise anything
        raise TaskError(f"Task {task.name}.difficulty raised {type(error).__name__}: {error}; correct it.") from error
    if any(math.isnan(level) for level in levels):
        raise TaskError(f"Task {task.name}.difficulty gave NaN; give a number for every problem.")
    return levels


def harder_half(task: Task, pool: Sequence[Problem]) -> tuple[Problem, ...]:
    """The harder half of `pool` by `Task.difficulty`; of equally hard problems those that stand first.

    Raises:
        TaskError: when the task cannot tell them apart.
    """
    levels = difficulties(task, pool)
    if len(set(levels)) < 2:
        raise TaskError(
            f"Task {task.name} calls all its problems equally hard, so task.hard_share has no harder half to draw "
            "from; define Task.difficulty, or leave task.hard_share at 0."
        )
    indices = sorted(range(len(pool)), key=lambda index: -levels[index])[: len(pool) // 2]
    return tuple(pool[index] for index in sorted(indices))


def hard_part(task: Task, pool: Sequence[Problem], config: RunConfig) -> Part:
    """The harder half of the pool as a part of the prompts, with the share that is in force at a step."""
    return Part("hard", harder_half(task, pool), lambda step: config.at(step.step).task.hard_share)


def _check_verifier_in_time(task: Task, problem: Problem, timeout_s: float) -> float:
    (result,) = Workers(1, timeout_s).run([lambda: _check_verifier(task, problem)])
    if isinstance(result, TimeoutError):
        raise TaskError(str(late_verdict(task, timeout_s)))
    if isinstance(result, BaseException):
        raise result
    return result


def _reference(task: Task, problem: Problem) -> Transcript:
    try:
        return task.reference(problem)
    except Exception as error:  # the task's own code may raise anything
        raise TaskError(f"Task {task.name}.reference raised {type(error).__name__}: {error}; correct it.") from error


def _gradable(task: Task, problem: Problem, answers: Sequence[Transcript]) -> list[Transcript]:
    """Those of some senseless answers that a task can grade; a warning says that others will be masked."""
    gradable = list[Transcript]()
    for answer in answers:
        try:
            verify(task, problem, answer)
        except RewardError as error:
            logger.warning("An answer of %r gets no reward and is masked: %s", answer.turns[0], error)
        else:
            gradable.append(answer)
    return gradable


def _check_verifier(task: Task, problem: Problem) -> float:
    """Check three verdicts; the seconds that the slowest took."""
    reference = _reference(task, problem) if task.knows_references else None
    times_s: list[float] = []

    def timed(transcript: Transcript) -> Verdict:
        began = time.perf_counter()
        verdict = verify(task, problem, transcript)
        times_s.append(time.perf_counter() - began)
        return verdict

    senseless = Transcript(("",)), Transcript(("\x00?",), finished=False)
    try:
        right = None if reference is None else timed(reference)
        # People's reward functions may fail on such an answer, which is masked then; a task's own verifier must not.
        asked = senseless if task.knows_references else _gradable(task, problem, senseless)
        junk = [timed(answer) for answer in asked]
    except RewardError as error:
        raise TaskError(str(error)) from error
    if any(verdict.correct for verdict in junk):
        hint = "" if task.knows_references else "; name the function that tells right answers first in reward.functions"
        raise TaskError(f"The verifier of task {task.name} calls an empty or senseless answer right{hint}.")
    if right is None:
        return max(times_s, default=0.0)
    if not right.correct:
        raise TaskError(f"The verifier of task {task.name} refuses the reference answer to {problem.prompt!r}.")
    least = min(verdict.reward for verdict in junk)
    if right.reward < least:
        raise TaskError(
            f"The verifier of task {task.name} pays {right.reward:g} for the reference answer to {problem.prompt!r} "
            f"and {least:z.3g} or more for an empty and a senseless one, so training would unlearn right answers; turn "
            "the sign of its reward."
        )
    return max(times_s)
