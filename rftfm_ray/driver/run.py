"""A run: its wiring, and the loop.

RolloutActor x N    generate episodes with vLLM and score them
LearnerActor        learns with DeepSpeed behind a commit gate
RunRecords          rows, trajectories and events on disk, written in a thread of their own
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from rftfm_ray.actors.group import ActorGroup, start_group
from rftfm_ray.actors.guards import GuardGroup, start_guard
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig
from rftfm_ray.driver.cluster import check_shared, connect
from rftfm_ray.driver.continuing import inherit
from rftfm_ray.driver.guard import Guard, LiveGuard, NoGuard
from rftfm_ray.driver.hooks import IncidentHook, incident_hook
from rftfm_ray.driver.loggers.attached import run_loggers
from rftfm_ray.driver.loop import Curve, Listeners, Observer, Parts, loop
from rftfm_ray.driver.planned_changes import declare_profile
from rftfm_ray.driver.preflight import Preflight, finishing, started_preflight
from rftfm_ray.driver.session import Session
from rftfm_ray.driver.stopping import StopSignal
from rftfm_ray.errors import (
    CheckpointError,
    LearnerError,
    RecordError,
    ResumeError,
    RftfmError,
    RolloutError,
    SavedRunError,
    SignalInterrupt,
    StoppedError,
    SyncError,
)
from rftfm_ray.incidents.messages import GuardTotals
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.planning import RunPlan, plan
from rftfm_ray.runs.counts import counts_of, summaries_of
from rftfm_ray.runs.ending import ending_problems
from rftfm_ray.runs.reader import read_run
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.telemetry.process import this_process
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.telemetry.rundir import CONFIG, create_run_dir, needed_directory, resume_command
from rftfm_ray.training.checkpoints import newest_valid
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
    is_local = False
    stop = listeners.stop
    stop.last_words = lambda: _stop_message(planned, stop, StepId(0, 0, 0), "")
    try:
        is_local = connect(planned.config, is_sheltered=stop.is_installed)
        stop.reinstall()
        check_shared(planned.folder)
        with contextlib.ExitStack() as stack, _explained(planned, listeners):
            preflight = started_preflight(planned, listeners)
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
            return _run(Started(planned, group, guards, preflight), listeners, began)
    except SignalInterrupt as interrupt:
        # Of what comes before the actors.
        raise _stopped(planned, listeners, interrupt, StepId(0, 0, 0), "") from None
    finally:
        stop.defer()
        _report(planned)
        # Actors that are warm, or were killed, have left them.
        shutil.rmtree(planned.snapshots, ignore_errors=True)
        if is_local:
            ray.shutdown()


@contextlib.contextmanager
def _explained(planned: RunPlan, listeners: Listeners) -> Iterator[None]:
    """Say how a run goes on that has failed or was stopped, before its actors are ended: that may take long."""
    try:
        yield
    except SignalInterrupt as interrupt:
        raise _stopped(planned, listeners, interrupt, StepId(0, 0, 0), "") from None
    except ResumeError:
        # The checkpoint that the command would name cannot be used.
        raise
    except (LearnerError, RolloutError, SyncError, RecordError, CheckpointError) as error:
        raise _resumable(planned, listeners, error) from error
    except SavedRunError as error:
        if not error.checkpoint:
            raise _resumable(planned, listeners, error) from error
        # After the records: whoever reads them names the command itself.
        command = _command(planned, error.checkpoint)
        raise type(error)(f"{error} Go on with: {command}", error.checkpoint) from error


def _command(planned: RunPlan, checkpoint: Path | str) -> str:
    return resume_command(planned.folder, checkpoint, needed_directory(planned.config))


def _stopped(
    planned: RunPlan, listeners: Listeners, interrupt: SignalInterrupt | None, last: StepId, checkpoint: str
) -> StoppedError:
    """The error of a run that a signal ended at a checkpoint; the user is told at once, before anything is cleaned up.

    Whoever sends SIGTERM may send SIGKILL a few seconds later. `interrupt`: the signal, if it was not deferred.
    """
    if interrupt is not None:
        listeners.stop.note(interrupt.signum)
    return _tell(listeners, _stop_message(planned, listeners.stop, last, checkpoint))


def _tell(listeners: Listeners, message: str) -> StoppedError:
    """Tell the user how a signal has ended the run; what is left may take a few seconds. The error to end with."""
    listeners.stopped(message)
    listeners.stop.end_soon()
    return listeners.stop.error(message)


def _stop_message(planned: RunPlan, stop: StopSignal, last: StepId, checkpoint: str) -> str:
    """What a signal has ended, and how it goes on; a resumed run does so from where it began, if not from later."""
    if checkpoint:
        command = _command(planned, checkpoint)
        return f"Stopped by {stop.name} after step {last.step} of {planned.config.steps}; go on with: {command}"
    if planned.resume is None:
        return f"Stopped by {stop.name} before the first step; nothing has been trained yet."
    start = f"Stopped by {stop.name} before the resumed run made a step"
    if not (planned.folder / CONFIG).exists():
        return f"{start}; it has written nothing, so the same command starts it again."
    return f"{start}; go on with: {_command(planned, planned.resume)}"


def _resumable(planned: RunPlan, listeners: Listeners, error: RftfmError) -> RftfmError:
    """An error of an actor or a file, with the command that goes on from the newest checkpoint.

    When a signal has asked the run to end, it has probably reached the actor too, and the run counts as stopped.
    """
    checkpoint = newest_valid(planned.checkpoints)
    path = planned.resume if checkpoint is None else checkpoint.path
    hint = "There is no checkpoint yet." if path is None else f"Go on with: {_command(planned, path)}"
    if not listeners.stop.requested:
        return type(error)(f"{error} {hint}")
    return _tell(listeners, f"Stopped by {listeners.stop.name}, and the step in progress was lost: {error} {hint}")


def _report(planned: RunPlan) -> None:
    """Write the report, if there are steps; an error in it does not fail the run."""
    if not (planned.config.report.at_end and (planned.folder / "steps").is_dir()):
        return
    from rftfm_ray.report import write_report

    try:
        write_report(planned.folder, samples=planned.config.report.samples)
    except (RftfmError, OSError) as error:
        logger.warning("The report of %s was not written: %s", planned.folder, error)


@dataclass(frozen=True, slots=True)
class Started:
    """A run whose actors have started; `guards` and `preflight` are None where it has none."""

    plan: RunPlan
    group: ActorGroup
    guards: GuardGroup | None
    preflight: Preflight | None


def _run(started: Started, listeners: Listeners, began: float) -> RunSummary:
    planned, session = started.plan, Session(started.plan, started.group)
    with (
        RunRecords(planned.folder, planned.name, planned.config) as records,
        incident_hook(planned, started.guards, records) as hook,
        run_loggers(planned, records) as loggers,
    ):
        listeners = listeners.beside(loggers.listeners())
        parameters = planned.facts.parameters
        process = this_process()
        records.event(
            "run_started", None, run=planned.name, task=planned.task.name, parameters=parameters, pid=process.pid,
            host=process.host, process_started=process.started, directory=needed_directory(planned.config),
        )  # fmt: skip
        for kind, fields in planned.drill.events():
            records.event(kind, None, **fields)
        if planned.resume is not None:
            session.resume(planned.resume)
            records.event("resumed", session.position.id, checkpoint=str(planned.resume))
        guard = _attach(started, session, records, listeners, hook)
        checks = finishing(started.preflight, records, listeners)
        parts = Parts(planned, session, guard, records, listeners.row, listeners.stop, checks, listeners.evaluated)
        curve, last = loop(parts), session.position.id
        if curve.stopped:
            records.event("run_stopped", last, signal=listeners.stop.name, checkpoint=Path(curve.checkpoint).name)
            with contextlib.suppress(RecordError):
                # The process may be ended while it waits for the guard.
                records.flush()
            error = _stopped(planned, listeners, None, last, curve.checkpoint)
            guard.finish(last)
            raise error
        if hook is not None:
            # A failure of what still waits can be journalled until the guard ends.
            hook.drain()
        summary = _summarize(planned, curve, began, guard.finish(last), last)
        records.event("run_ended", last, reward_last=summary.reward_last)
    # The judgement reads the records, as the report does, so they must be complete.
    summary = _as_recorded(summary, planned.folder)
    records.summary(summary)
    return summary


def _as_recorded(summary: RunSummary, folder: Path) -> RunSummary:
    """The summary with what the records say, as every reader of them counts it.

    The incidents of a lost guard stand in its journal alone. Damage to its own records is not the run's fault.
    """
    try:
        data = read_run(folder)
    except RecordError as error:
        logger.warning("How the run in %s ended cannot be judged: %s", folder, error)
        return summary
    incidents, counts = summaries_of(data.entries), counts_of(data.entries)
    hook = data.event("incident_hook")
    untold = sum(value for name in ("failed", "dropped") if isinstance(value := hook.get(name), int))
    return replace(
        summary, incidents=incidents, remedies=counts.remedies, ending=ending_problems(data), hook_failures=untold
    )


def _attach(
    started: Started, session: Session, records: RunRecords, listeners: Listeners, hook: IncidentHook | None
) -> Guard:
    """The guard of the loop, after monitor and controller are ready."""
    planned, guards = started.plan, started.guards
    if guards is None:
        return NoGuard()
    inherited = inherit(planned, session)
    news = guards.attach(planned.folder / JOURNAL, session.position.id, session.levers, session.policy_state, inherited)

    def lost(why: str) -> None:
        records.event("guard_lost", None, reason=why)

    def told(entry: Entry) -> None:
        if entry.kind is EntryKind.POLICY_STATE:
            session.policy_state = entry.text("state")
        if hook is not None:
            hook.offer(entry)
        listeners.entry(entry)

    guard = LiveGuard(planned.config.guard, guards, lost, told, session.position.id)
    if inherited is not None:
        entries, _ = read_journal(planned.folder / JOURNAL)
        listeners.learn(entries)
        if hook is not None:
            hook.learn(entries)
        guard.continue_with(news, entries)
    declare_profile(planned, guard, session.position.id)
    return guard


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
        # Of a data set it is what its rows leave of the configured number.
        probe_size=planned.config.probe.final_size,
    )
