"""Preflight of a run: files before actors start, the task's code beside their start, and the actors after it.

The task's code is asked in a process of its own, by a copy of the task, so that nothing that the task remembers reaches
the actors; answers of the model are sampled past every seam, and nobody learns from them. The run that follows is, bit
for bit, the run without preflight.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import ray
from ray import ObjectRef

from rftfm_ray.actors.calls import Limit, wait_for
from rftfm_ray.actors.group import ActorGroup, start_group
from rftfm_ray.config import PreflightMode
from rftfm_ray.driver.cluster import connect
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import PreflightError, RftfmError
from rftfm_ray.planning import RunPlan
from rftfm_ray.preflight.asking import Asked, AskLimits, TaskAnswers, examine, grade, spread
from rftfm_ray.preflight.findings import Checked, Finding, NotRun, of_data, reason_of
from rftfm_ray.preflight.live import LiveFacts, Sampled
from rftfm_ray.preflight.model_files import ModelFacts
from rftfm_ray.preflight.suite import (
    ask_limits,
    asked_rows,
    check_files,
    check_live,
    check_task_code,
    kept_back,
    no_live,
)
from rftfm_ray.rollout.jobs import Rehearsed
from rftfm_ray.tasks.api import Problem
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import StepId, TrainingCursor

T = TypeVar("T")

logger = logging.getLogger(__name__)

LEAST_S = 1.0
"""Seconds that a process with the task's code gets at least to send its answers."""
UPDATE = Limit(600.0)


class Preflight:
    """The preflight of one run. `tell` is called with every finding as soon as it is known.

    Args:
        plan: of the run.
        tell: who is told of findings.
        stops: whether something critical ends the run.
    """

    def __init__(self, plan: RunPlan, tell: Callable[[Finding], None], *, stops: bool) -> None:
        self._plan = plan
        self._tell = tell
        self._stops = stops
        self._limits = ask_limits(plan.config)
        self._rows = asked_rows(plan)
        self._pending: ObjectRef[TaskAnswers] | None = None
        self._model: ModelFacts | None = None
        self.checked = Checked()

    def begin(self) -> None:
        """Check files, and start asking the task's code; Ray must be connected.

        Raises:
            PreflightError: when the run must not go on.
        """
        with self._kept("preflight.files"):
            if self._limits.verdicts:
                before = self._limits.verdicts - kept_back(self._plan.config)
                limits = replace(self._limits, verdicts=before)
                self._pending = _remote(examine, self._plan, self._rows, limits)
            files = check_files(self._plan)
            self._model = files.model
            self._add(files.checked)

    def finish(self, session: Session, mismatch: float, *, full: bool = False, group: ActorGroup | None = None) -> None:
        """Judge what the task's code has said, and ask the actors.

        Args:
            session: of the run, whose actors hold the same weights.
            mismatch: whether one of them serves others, as `Session.resync` says it.
            full: also make a step, save, load and make it again; the session must not be used for training then.
            group: the actors, for `full`.

        Raises:
            PreflightError: when the run must not go on.
            RftfmError: when an actor fails.
        """
        with self._kept("preflight.actors"):
            self._finish(session, mismatch, group if full else None)

    def _finish(self, session: Session, mismatch: float, group: ActorGroup | None) -> None:
        deadline = time.perf_counter() + self._limits.seconds
        answers, reason = self._answers(deadline)
        self._add(check_task_code(self._plan, self._model, answers, self._rows, reason))
        began = time.perf_counter()
        left = self._limits.verdicts - len(answers.asked if answers else ())
        problems = spread(self._plan.pool, self._plan.config.preflight.groups)
        episodes = session.rehearse(problems) if problems else []
        limits = replace(self._limits, verdicts=left, seconds=max(LEAST_S, deadline - time.perf_counter()))
        sampled, verdicts = _graded(self._plan, problems, episodes, limits)
        facts = LiveFacts(
            gap=_known(session.log_prob_gap(session.parity_sequences)[0]),
            limit=self._plan.config.parity_limit,
            short_gap=_known(session.shortest_gap()),
            mismatched=None if math.isnan(mismatch) else bool(mismatch),
            sampled=sampled,
        )
        if group is not None:
            facts = _with_resume(facts, self._plan, session, group)
        self._add(check_live(facts, verdicts, time.perf_counter() - began))

    def without_actors(self, reason: str) -> None:
        """Check files, and ask the task's code in this process; the actors are not asked, for `reason`."""
        files = check_files(self._plan)
        self._add(files.checked)
        began = time.perf_counter()
        answers = examine(self._plan.task, self._rows, self._limits) if self._limits.verdicts else None
        seconds = time.perf_counter() - began
        checked = check_task_code(self._plan, files.model, answers, self._rows, NONE_ASKED)
        self._add(replace(checked, seconds=checked.seconds + seconds))
        self._add(no_live(reason))

    @contextlib.contextmanager
    def _kept(self, name: str) -> Iterator[None]:
        """Keep an error of the checks themselves from the run: what it stopped has not run, and that is said."""
        try:
            yield
        except RftfmError:
            raise
        except Exception as error:
            logger.warning("Preflight itself has failed, and the run goes on.", exc_info=True)
            self.checked += Checked(not_run=(NotRun(reason_of(error), name),))

    def _answers(self, deadline: float) -> tuple[TaskAnswers | None, str]:
        """What the task's code has said; None with the reason where it could not be asked."""
        if self._pending is None:
            return None, NONE_ASKED
        began = time.perf_counter()
        answers, reason = _fetch(self._pending, max(LEAST_S, deadline - began))
        self._add(Checked(seconds=time.perf_counter() - began))
        return answers, reason

    def _add(self, checked: Checked) -> None:
        if self._plan.config.data.train is not None:
            checked = of_data(checked)
        self.checked += checked
        for finding in checked.findings:
            self._tell(finding)
        if self._stops and self.checked.critical:
            raise PreflightError(refusal(self.checked))


def started_preflight(plan: RunPlan, listeners: Listeners) -> Preflight | None:
    """The preflight of a run that has begun; None with `preflight.mode=off`.

    Raises:
        PreflightError: when the run must not go on.
    """
    mode = plan.config.preflight.mode
    if mode is PreflightMode.OFF:
        return None
    preflight = Preflight(plan, listeners.finding, stops=mode is PreflightMode.STOP)
    preflight.begin()
    return preflight


def finishing(
    preflight: Preflight | None, records: RunRecords, listeners: Listeners
) -> Callable[[Session, float], None]:
    """What the loop calls once the actors hold the same weights: the rest of preflight, recorded and told."""

    def finish(session: Session, mismatch: float) -> None:
        if preflight is None:
            return
        try:
            preflight.finish(session, mismatch)
        finally:
            record(records, preflight.checked)
            listeners.preflight(preflight.checked)

    return finish


def preflight_alone(
    plan: RunPlan, tell: Callable[[Finding], None], *, full: bool, quick: bool, so_far: list[Checked]
) -> Checked:
    """All checks of a plan that is not run.

    Args:
        plan: of the run.
        tell: who is told of findings.
        full: also save, load and repeat a step.
        quick: start no actors.
        so_far: gets the outcomes, also when an actor fails.

    Raises:
        RftfmError: when an actor fails.
    """
    preflight = Preflight(plan, tell, stops=False)
    if quick:
        preflight.without_actors("no actors were started (--quick)")
        return preflight.checked
    is_local = connect(plan.config)
    try:
        preflight.begin()
        group = start_group(plan)
        try:
            session = Session(plan, group)
            preflight.finish(session, session.resync(), full=full, group=group)
        finally:
            group.stop()
    finally:
        so_far.append(preflight.checked)
        if is_local:
            ray.shutdown()
    return preflight.checked


def record(records: RunRecords, checked: Checked) -> None:
    """Put the outcomes among the events of a run: one for each finding, and one for all checks."""
    for f in checked.findings:
        records.event("preflight_finding", None, check=f.check, grade=f.grade.value, what=f.what, why=f.why, key=f.key)
    records.event(
        "preflight", None, checks=len(checked.findings) + len(checked.passed), findings=len(checked.findings),
        critical=len(checked.critical), not_run=", ".join(each.check for each in checked.not_run),
        verdicts=checked.verdicts, seconds=round(checked.seconds, 3),
    )  # fmt: skip


NONE_ASKED = "preflight.verdicts=0 asks for no verdict"


def refusal(checked: Checked) -> str:
    """The sentence of a run that preflight has ended."""
    first, *others = checked.critical
    more = f" ({len(others)} more critical findings)" if others else ""
    return (
        f"preflight.mode=stop ends the run before step 0, because of {first.check}: {first.what.rstrip('.')}{more}; "
        f"change {first.key}, or set preflight.mode=warn."
    )


def _remote(function: Callable[..., T], plan: RunPlan, *arguments: object) -> ObjectRef[T]:
    """Call a function on a copy of the run's task in another process."""
    return ray.remote(num_cpus=0, max_retries=0)(function).remote(plan.task, *arguments)


def _fetch(pending: ObjectRef[T], seconds: float) -> tuple[T | None, str]:
    """The result of a call in another process, or None with the reason why there is none."""
    try:
        result: T = ray.get(pending, timeout=seconds)
    except ray.exceptions.GetTimeoutError:
        with contextlib.suppress(Exception):
            ray.cancel(pending, force=True)
        return (
            None,
            f"the task's code gave no answer in time ({seconds:.0f} s after the actors), and its process was ended",
        )
    except ray.exceptions.RayError as error:
        return (
            None,
            f"the process that ran the task's code failed ({reason_of(getattr(error, 'cause', None) or error)})",
        )
    return result, ""


def _graded(
    plan: RunPlan, problems: Sequence[Problem], episodes: Sequence[Rehearsed], limits: AskLimits
) -> tuple[tuple[Sampled, ...], int]:
    """Answers of the model to a few problems with their verdicts, and how many verdicts were asked for."""
    answered = [(problems[e.group], e.transcript) for e in episodes if not e.failed]
    verdicts: Sequence[Asked] = ()
    if answered and limits.verdicts > 0:
        verdicts = _fetch(_remote(grade, plan, answered, limits), limits.seconds + LEAST_S)[0] or ()
    joint = plan.config.algorithm.name not in ("grpo", "rloo")
    return sampled_of(episodes, verdicts, joint=joint), len(verdicts)


def sampled_of(episodes: Sequence[Rehearsed], verdicts: Sequence[Asked], *, joint: bool) -> tuple[Sampled, ...]:
    """Episodes with their verdicts, NaN where there is none; `joint`: all of them are compared as one group."""
    left = iter(verdicts)
    sampled = []
    for episode in episodes:
        verdict = None if episode.failed else next(left, None)
        group = 0 if joint else episode.group
        reward, correct = (math.nan, False) if verdict is None else (verdict.reward, verdict.correct)
        graded = verdict is not None
        sampled.append(Sampled(group, episode.cut_off, episode.failed, reward, correct, graded))
    return tuple(sampled)


def _known(gap: float) -> float:
    """A gap between log-probs of which one is not finite is larger than any limit."""
    return math.inf if math.isnan(gap) else gap


def _with_resume(facts: LiveFacts, plan: RunPlan, session: Session, group: ActorGroup) -> LiveFacts:
    try:
        difference = resume_difference(plan, session, group)
    except RftfmError as error:
        return replace(facts, resume_reason=str(error))
    if difference is None:
        return replace(facts, resume_reason="no update was made, so there was nothing to compare")
    return replace(facts, resumed=difference)


def resume_difference(plan: RunPlan, session: Session, group: ActorGroup) -> float | None:
    """Largest difference between the weights of a second update with and without saving and loading before it.

    None where the updates changed nothing. The learner is left after the second update.

    Raises:
        RftfmError: when an actor fails.
    """
    first = next(session.positions())
    second = TrainingCursor(StepId(0, first.id.step + 1, first.id.paid_step + 1), first.model_version + 1, first.cursor)
    trajectories = session.generate(first)
    start = wait_for([group.learner.weights(0)], UPDATE, "copying weights")[0].arrays
    wait_for([group.learner.train(first, trajectories, snapshot=False)[1]], UPDATE, "training")
    try:
        path = session.save(plan.folder)
        going_on = wait_for([group.learner.train(second, trajectories, snapshot=False)[1]], UPDATE, "training")[0]
        wait_for([group.learner.load(path)], UPDATE, "loading a checkpoint")
        resumed = wait_for([group.learner.train(second, trajectories, snapshot=False)[1]], UPDATE, "training")[0]
    finally:
        shutil.rmtree(plan.folder, ignore_errors=True)
    moved = max(float(np.abs(going_on.arrays[name] - start[name]).max()) for name in start)
    if moved == 0:
        return None
    return max(float(np.abs(going_on.arrays[name] - resumed.arrays[name]).max()) for name in start)
