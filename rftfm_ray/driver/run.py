"""A run: its wiring, and the loop.

RolloutActor x N    generate episodes with vLLM and score them
LearnerActor        learns with DeepSpeed behind a commit gate
RunRecords          rows, trajectories and events on disk, written in a thread of their own
"""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
import time
from pathlib import Path

import ray

from rftfm_ray.actors.calls import wait_for
from rftfm_ray.actors.group import START_TIMEOUT_S, ActorGroup, GuardActors, start_group, start_guard
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig
from rftfm_ray.detection.monitor import monitor_plan
from rftfm_ray.driver.cluster import check_shared, connect
from rftfm_ray.driver.guard import Guard, LiveGuard, NoGuard, Tell
from rftfm_ray.driver.loop import Curve, Observer, digest, loop
from rftfm_ray.driver.planned_changes import Course
from rftfm_ray.driver.remediation import RemedyExecutor
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import RftfmError
from rftfm_ray.faults.truth import effect_step
from rftfm_ray.incidents.messages import GuardTotals
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.planning import RunPlan, plan
from rftfm_ray.policies.loading import PLAYBOOK
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.telemetry.journal import JOURNAL
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.telemetry.rundir import create_run_dir
from rftfm_ray.types import GuardMode, Position, RunSummary, StepId

logger = logging.getLogger(__name__)
START = Position(StepId(attempt=0, step=0, paid_step=0), model_version=0, cursor=0)
EDGE = 5


def train(
    config: RunConfig,
    run_dir: Path | None = None,
    resume: Path | None = None,
    observe: Observer = lambda _: None,
    tell: Tell = lambda _: None,
    warm: WarmActors | None = None,
) -> RunSummary:
    """Run `config` to its end and return its summary; the records are in the run directory.

    Joins the Ray cluster that RAY_ADDRESS names, uses the one this process is connected to, or starts its own.
    `run_dir` and `resume` as in `plan`; `observe` is called with every step's row, `tell` with every entry
    of the guard's journal, both from the calling thread. `warm` lends its actors and keeps them for a next run, which
    then begins in a fraction of the time; Ray must be connected before (`cluster.connect`), and outlive it.

    Raises:
        RftfmError: one of its kinds, with one sentence that names the fix.
    """
    return execute(plan(config, run_dir, resume), observe, tell, time.perf_counter(), warm)


def execute(
    planned: RunPlan,
    observe: Observer,
    tell: Tell,
    began: float,
    warm: WarmActors | None = None,
    *,
    judged: bool = True,
) -> RunSummary:
    """Run a plan; `began` is the `time.perf_counter` that `first_step_s` counts from.

    Without `judged` everything is measured that `guard.mode` calls for, and nobody judges it: for experiments.
    """
    ours = connect(planned.config)
    try:
        check_shared(planned.folder)
        with contextlib.ExitStack() as stack:
            guards = _start_guard(planned, stack) if judged else None
            if warm is not None:
                group = warm.take(planned)
            else:
                path, problems = str(planned.facts.path), [*planned.pool, *planned.heldout]
                group = start_group(
                    planned.name, planned.config, path, planned.task, problems, planned.faults, planned.twins,
                    planned.golden,
                )  # fmt: skip
                stack.callback(group.stop)
            create_run_dir(planned.folder)
            return _run(planned, group, guards, observe, tell, began)
    finally:
        _report(planned)
        if ours:
            ray.shutdown()


def _report(planned: RunPlan) -> None:
    """Write the report of what there is to report; a run is not lost because its report is."""
    if not (planned.config.report.at_end and (planned.folder / "steps").is_dir()):
        return
    from rftfm_ray.report import write_report

    try:
        write_report(planned.folder, samples=planned.config.report.samples)
    except (RftfmError, OSError) as error:
        logger.warning("The report of %s was not written: %s", planned.folder, error)


def _start_guard(planned: RunPlan, stack: contextlib.ExitStack) -> GuardActors | None:
    guard = planned.config.guard
    if guard.mode is GuardMode.OFF:
        return None
    fallback = Playbook() if guard.fallback == "playbook" and guard.policy is not None else None
    policy = SafePolicy(planned.policy, guard.policy or PLAYBOOK, guard.policy_timeout_s, fallback)
    settings = incident_settings(planned.config)
    guards = start_guard(planned.name, monitor_plan(planned.config, planned.profile), settings, policy)
    stack.callback(guards.stop)
    return guards


def _run(
    planned: RunPlan, group: ActorGroup, guards: GuardActors | None, observe: Observer, tell: Tell, began: float
) -> RunSummary:
    config, folder = planned.config, planned.folder
    session = Session(config, group, planned.pool, planned.heldout, START, planned.parts, planned.task.difficulty)
    with RunRecords(folder, planned.name, config) as records:
        records.event(
            "run_started", None, run=planned.name, task=planned.task.name, parameters=planned.facts.parameters
        )
        for spec in planned.faults:
            records.event(
                "fault", None, code=spec.code, mechanism=spec.mechanism, strength=spec.strength,
                all_instances=spec.all_instances, duration=spec.duration, ramp=spec.ramp,
                switch_step=spec.onset, effect_step=effect_step(spec),
            )  # fmt: skip
        for twin in planned.twins:
            records.event(
                "twin", None, name=twin.name, declared=twin.kind.declared, strength=twin.strength,
                switch_step=twin.onset,
            )  # fmt: skip
        if planned.resume is not None:
            session.resume(planned.resume)
            records.event("resumed", session.position.id, checkpoint=str(planned.resume))
        guard = _attach(planned, session, group, guards, records, tell)
        course = Course(planned, session, group, guard, records, digest(config))
        curve = loop(session, records, config, folder, guard, observe, course)
        totals = guard.finish(session.position.id)
        summary = _summarise(config, folder, curve, began, totals, session.position.id)
        records.event("run_ended", session.position.id, reward_last=summary.reward_last)
        records.summary(summary)
    return summary


def _attach(
    planned: RunPlan, session: Session, group: ActorGroup, guards: GuardActors | None, records: RunRecords, tell: Tell
) -> Guard:
    """Give the controller its journal and its way to act, and the loop its guard."""
    if guards is None:
        return NoGuard()
    config, start = planned.config, session.position
    executor = RemedyExecutor(
        config.model_copy(update={"inject": ()}), group, tuple(planned.heldout), start, guards.monitor,
        planned.folder / "checkpoints", digest(config),
    )  # fmt: skip
    asked = guards.controller.attach.remote(str(planned.folder / JOURNAL), executor, start.id, session.levers)
    wait_for([asked], START_TIMEOUT_S, "starting monitor and controller")

    def lost(why: str) -> None:
        records.event("guard_lost", None, reason=why)

    return LiveGuard(config.guard, guards.monitor, guards.controller, lost, tell)


def _summarise(
    config: RunConfig, folder: Path, curve: Curve, began: float, totals: GuardTotals, last: StepId
) -> RunSummary:
    def mean(values: list[float]) -> float:
        return statistics.fmean(values) if values else math.nan

    return RunSummary(
        run_dir=str(folder),
        seed=config.seed,
        steps=last.step,
        reward_first=mean(curve.rewards[:EDGE]),
        reward_last=mean(curve.rewards[-EDGE:]),
        probe_first=curve.probes[0],
        probe_last=curve.probes[-1],
        probe_sampled_first=curve.sampled[0],
        probe_sampled_last=curve.sampled[-1],
        step_time_s_median=statistics.median(curve.step_times_s) if curve.step_times_s else math.nan,
        first_step_s=curve.first_step_s - began,
        vetoes=curve.vetoes,
        guard=config.guard.mode,
        incidents=totals.incidents,
        remedies=totals.remedies,
        paid_steps=last.paid_step,
        guard_waits=totals.waits,
    )
