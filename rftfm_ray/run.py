"""A run: its wiring, and the loop.

RolloutActor x N    generate episodes with vLLM and score them
LearnerActor        learns with DeepSpeed behind a commit gate
RunRecords          rows, trajectories and events on disk, written in a thread of their own
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from rftfm_ray.actors.controller import Change, GuardTotals
from rftfm_ray.actors.group import START_TIMEOUT_S, ActorGroup, GuardActors, start_group, start_guard, wait_for
from rftfm_ray.actors.learner import Position
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.cluster import check_shared, connect
from rftfm_ray.config import ProbeConfig, RunConfig
from rftfm_ray.course import Course
from rftfm_ray.detection.battery import watch_settings
from rftfm_ray.errors import GuardHaltError, RftfmError
from rftfm_ray.faults.truth import effect_step
from rftfm_ray.guard import Guard, LiveGuard, NoGuard, Tell
from rftfm_ray.planning import RunPlan, plan
from rftfm_ray.policies.loading import PLAYBOOK
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.policies.treatment import treatment_settings
from rftfm_ray.probing import HeldOutProbe
from rftfm_ray.records import RunRecords
from rftfm_ray.remediation import RemedyExecutor
from rftfm_ray.session import Session
from rftfm_ray.telemetry.features import batch_metrics
from rftfm_ray.telemetry.journal import JOURNAL
from rftfm_ray.telemetry.rundir import create_run_dir
from rftfm_ray.types import CheckMetrics, GuardMode, RunSummary, StepId, StepRow, Timings

logger = logging.getLogger(__name__)
Observer = Callable[[StepRow], None]
START = Position(StepId(attempt=0, step=0, paid_step=0), model_version=0, cursor=0)
EDGE = 5
# On a GPU the reference takes no core from a rollout actor, and nothing is worth a longer wait.
MOST_WAIT_S = 0.1


@dataclass(slots=True)
class Curve:
    """What the summary is made of."""

    rewards: list[float] = field(default_factory=list)
    step_times_s: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    sampled: list[float] = field(default_factory=list)
    vetoes: int = 0
    first_step_s: float = math.nan


def loop(
    session: Session,
    records: RunRecords,
    config: RunConfig,
    folder: Path,
    guard: Guard,
    observe: Observer,
    course: Course,
) -> Curve:
    """Train to the end. Remote calls are chained by reference: the driver waits for results, never carries them."""
    curve, watched = Curve(), config.guard.mode is not GuardMode.OFF
    session.resync()
    records.event("parity", session.position.id, gap=session.parity())
    if config.snapshots.every:
        session.snapshot()
    _probe(session, records, config.probe, curve)
    probe = HeldOutProbe(config.probe, session)
    for position in session.positions():
        start = time.perf_counter()
        course.begin(position)
        trajectories = session.generate(position)
        change = guard.boundary(session.position, position.id)
        bounded = time.perf_counter()
        if change is not None:
            trajectories = _take(change, session, records, position)
            if change.position is not None:
                probe.restart()
                continue
        made, held = session.position, probe.start(position.id)
        report_ref, weights = session.train(position, trajectories)
        synced = session.sync(weights)
        batch = session.fetch(trajectories)
        generated = time.perf_counter()
        observed = batch_metrics(batch, course.token_limit(position.id.step), texts=watched)
        report = session.fetch_report(report_ref)
        probe.after_s = min(report.reference_s, MOST_WAIT_S)
        trained = time.perf_counter()
        mismatch = session.fetch_synced(synced, position)
        course.end(position, report.metrics.entropy)
        ended = time.perf_counter()

        probed = probe.finish(held, position.id, made)
        if probed is not None:
            records.probe(probed, made.id)
        waited, probe_s = bounded - start, probed.seconds if probed else 0.0
        timings = Timings(generated - start, trained - generated, ended - trained, waited, probe_s, ended - start)
        parity = session.parity() if due(position.id.step, config.sync.parity_every) else math.nan
        held_out = (probed.accuracy, probed.sampled_accuracy) if probed else (math.nan, math.nan)
        checks = CheckMetrics(*held_out, parity, mismatch, *session.figures(made, position, report.metrics))
        row = StepRow(position.id, position.model_version, observed, report.metrics, report.credit, timings, checks)
        guard.report(row)
        records.step(row, batch, report.vetoes)
        observe(row)
        _tally(curve, row)
        last = session.finished(position)
        if due(position.id.step, config.checkpoints.every) or (last and config.checkpoints.at_end):
            saved = session.save(folder / "checkpoints", digest(config))
            records.event("checkpoint", position.id, path=Path(saved).name)
    _probe(session, records, config.probe, curve)
    return curve


def _take(change: Change, session: Session, records: RunRecords, position: Position) -> list[Any]:
    """Go on as the guard has changed things: the step's trajectories under new levers, or none after a rollback.

    Raises:
        GuardHaltError: when the guard has ended the run.
    """
    session.adopt(change.levers, change.position)
    records.event("remedy", position.id, remedy=change.remedy, rollback=change.position is not None)
    if change.halt:
        raise GuardHaltError(
            f"The guard ended the run at step {session.position.id.step}: {change.reason} The journal says why; go on "
            f"with --resume {change.checkpoint}."
        )
    return [] if change.position is not None else session.revise(position)


def due(step: int, every: int) -> bool:
    """Whether something with cadence `every` (0: never) is due after `step`."""
    return every > 0 and step % every == 0


def _probe(session: Session, records: RunRecords, config: ProbeConfig, curve: Curve) -> None:
    """A large probe, as before the first step and after the last."""
    result = session.probe(config.final_size, config.sampled(config.final_size))
    records.probe(result, session.position.id)
    curve.probes.append(result.accuracy)
    curve.sampled.append(result.sampled_accuracy)


def _tally(curve: Curve, row: StepRow) -> None:
    curve.rewards.append(row.batch.reward_mean)
    curve.step_times_s.append(row.timings.step_s)
    curve.vetoes += row.update.vetoes
    if not math.isnan(row.checks.probe_accuracy):
        curve.probes.append(row.checks.probe_accuracy)
    if math.isnan(curve.first_step_s):
        curve.first_step_s = time.perf_counter()


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
    settings = treatment_settings(planned.config)
    guards = start_guard(planned.name, watch_settings(planned.config, planned.profile), settings, policy)
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


def digest(config: RunConfig) -> str:
    """What a checkpoint remembers of the configuration that it was made under."""
    return hashlib.sha256(config.to_yaml().encode()).hexdigest()


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
