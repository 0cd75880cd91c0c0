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

from rftfm_ray.actors.group import ActorGroup, start_group
from rftfm_ray.actors.guards import GuardGroup, start_guard
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig
from rftfm_ray.driver.cluster import check_shared, connect
from rftfm_ray.driver.guard import Guard, LiveGuard, NoGuard
from rftfm_ray.driver.loop import Curve, Listeners, Observer, Parts, loop
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import RftfmError
from rftfm_ray.incidents.messages import GuardTotals
from rftfm_ray.planning import RunPlan, plan
from rftfm_ray.telemetry.journal import JOURNAL
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.telemetry.rundir import create_run_dir
from rftfm_ray.types import GuardMode, RunSummary, StepId

logger = logging.getLogger(__name__)
EDGE = 5


def train(
    config: RunConfig,
    run_dir: Path | None = None,
    resume: Path | None = None,
    observe: Observer = lambda _: None,
    warm: WarmActors | None = None,
) -> RunSummary:
    """Run `config` to its end and return its summary; the records are in the run directory.

    Joins the Ray cluster that RAY_ADDRESS names, uses the one this process is connected to, or starts its own.
    `run_dir` and `resume` as in `plan`; `observe` is called with every step's row from the calling thread. `warm` lends
    its actors and keeps them for a next run, which then begins in a fraction of the time; Ray must be connected before
    (`cluster.connect`), and outlive it.

    Raises:
        RftfmError: one of its kinds, with one sentence that names the fix.
    """
    began = time.perf_counter()
    return execute(plan(config, run_dir, resume), Listeners(row=observe), began, warm)


def execute(
    planned: RunPlan, listeners: Listeners, began: float, warm: WarmActors | None = None, *, judged: bool = True
) -> RunSummary:
    """Run a plan; `began` is the `time.perf_counter` that `first_step_s` counts from.

    Without `judged` the signals of `guard.mode` are measured without being judged: for experiments.
    """
    is_local = connect(planned.config)
    try:
        check_shared(planned.folder)
        with contextlib.ExitStack() as stack:
            guards = None
            if judged and planned.config.guard.mode is not GuardMode.OFF:
                guards = start_guard(planned)
                stack.callback(guards.stop)
            if warm is None:
                group = start_group(planned)
                stack.callback(group.stop)
            else:
                group = warm.take(planned)
            create_run_dir(planned.folder)
            return _run(planned, group, guards, listeners, began)
    finally:
        _report(planned)
        if is_local:
            ray.shutdown()


def _report(planned: RunPlan) -> None:
    """Write the report, if there are steps; an error in it does not fail the run."""
    if not (planned.config.report.at_end and (planned.folder / "steps").is_dir()):
        return
    from rftfm_ray.report import write_report

    try:
        write_report(planned.folder, samples=planned.config.report.samples)
    except (RftfmError, OSError) as error:
        logger.warning("The report of %s was not written: %s", planned.folder, error)


def _run(
    planned: RunPlan, group: ActorGroup, guards: GuardGroup | None, listeners: Listeners, began: float
) -> RunSummary:
    session = Session(planned, group)
    with RunRecords(planned.folder, planned.name, planned.config) as records:
        parameters = planned.facts.parameters
        records.event("run_started", None, run=planned.name, task=planned.task.name, parameters=parameters)
        for kind, fields in planned.drill.events():
            records.event(kind, None, **fields)
        if planned.resume is not None:
            session.resume(planned.resume)
            records.event("resumed", session.position.id, checkpoint=str(planned.resume))
        guard = _attach(planned, session, guards, records, listeners)
        curve = loop(Parts(planned, session, guard, records, listeners.row))
        totals = guard.finish(session.position.id)
        summary = _summarize(planned, curve, began, totals, session.position.id)
        records.event("run_ended", session.position.id, reward_last=summary.reward_last)
        records.summary(summary)
    return summary


def _attach(
    planned: RunPlan, session: Session, guards: GuardGroup | None, records: RunRecords, listeners: Listeners
) -> Guard:
    """The guard of the loop, after monitor and controller are ready."""
    if guards is None:
        return NoGuard()
    guards.attach(planned.folder / JOURNAL, session.position.id, session.levers)

    def lost(why: str) -> None:
        records.event("guard_lost", None, reason=why)

    return LiveGuard(planned.config.guard, guards, lost, listeners.entry, session.position.id)


def _summarize(planned: RunPlan, curve: Curve, began: float, totals: GuardTotals, last: StepId) -> RunSummary:
    def mean(values: list[float]) -> float:
        return statistics.fmean(values) if values else math.nan

    return RunSummary(
        run_dir=str(planned.folder),
        seed=planned.config.seed,
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
        guard=planned.config.guard.mode,
        incidents=totals.incidents,
        remedies=totals.remedies,
        paid_steps=last.paid_step,
        guard_waits=totals.waits,
        guard_restarts=totals.restarts,
        unguarded_steps=totals.unguarded,
    )
