"""A run: its wiring, and the loop.

RolloutActor x N    generate episodes with vLLM and score them
LearnerActor        learns with DeepSpeed behind a commit gate
RunRecords          rows, trajectories and events on disk, written in a thread of their own
"""

from __future__ import annotations

import hashlib
import math
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ray

from rftfm_ray.actors.group import start_group
from rftfm_ray.actors.learner import Position
from rftfm_ray.cluster import check_shared, connect
from rftfm_ray.config import RunConfig
from rftfm_ray.errors import CheckpointError, ResumeError
from rftfm_ray.models import ModelFacts, check_model
from rftfm_ray.records import RunRecords
from rftfm_ray.session import Session
from rftfm_ray.tasks.api import Problem, Task
from rftfm_ray.tasks.loading import check_task, load_task
from rftfm_ray.telemetry.features import batch_metrics
from rftfm_ray.telemetry.rundir import check_run_dir, create_run_dir, default_run_dir
from rftfm_ray.training.checkpoints import verify
from rftfm_ray.types import RunSummary, StepId, StepRow, Timings

Observer = Callable[[StepRow], None]
START = Position(StepId(attempt=0, step=0, paid_step=0), model_version=0, cursor=0)
EDGE = 5


@dataclass(slots=True)
class Curve:
    """What the summary is made of."""

    rewards: list[float] = field(default_factory=list)
    step_times_s: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    vetoes: int = 0
    first_step_s: float = math.nan


def loop(session: Session, records: RunRecords, config: RunConfig, checkpoints: Path, observe: Observer) -> Curve:
    """Train until `steps`. Remote calls are chained by reference: the driver waits for results, never carries them."""
    curve, digest = Curve(), hashlib.sha256(config.to_yaml().encode()).hexdigest()
    session.resync()
    records.event("parity", session.position.id, gap=session.parity())
    if config.snapshots.every:
        session.snapshot()
    curve.probes.append(_probe(session, records))
    for position in session.positions():
        start = time.perf_counter()
        trajectories = session.generate(position)
        report_ref, weights = session.train(position, trajectories)
        synced = session.sync(weights)
        batch = session.fetch(trajectories)
        generated = time.perf_counter()
        observed = batch_metrics(batch)
        report = session.fetch_report(report_ref)
        trained = time.perf_counter()
        session.fetch_synced(synced, position)
        ended = time.perf_counter()

        timings = Timings(generated - start, trained - generated, ended - trained, ended - start)
        step, last = position.id.step, position.id.step == config.steps
        parity = session.parity() if due(step, config.sync.parity_every) else math.nan
        probe = _probe(session, records) if last or due(step, config.probe.every) else math.nan
        row = StepRow(position.id, position.model_version, observed, report.metrics, timings, probe, parity)
        records.step(row, batch, report.vetoes)
        observe(row)
        _tally(curve, row)
        if due(step, config.checkpoints.every) or (last and config.checkpoints.at_end):
            records.event("checkpoint", position.id, path=Path(session.save(checkpoints, digest)).name)
    return curve


def due(step: int, every: int) -> bool:
    """Whether something with cadence `every` (0: never) is due after `step`."""
    return every > 0 and step % every == 0


def _probe(session: Session, records: RunRecords) -> float:
    result = session.probe()
    records.probe(result, session.position.id)
    return result.accuracy


def _tally(curve: Curve, row: StepRow) -> None:
    curve.rewards.append(row.batch.reward_mean)
    curve.step_times_s.append(row.timings.step_s)
    curve.vetoes += row.update.vetoes
    if not math.isnan(row.probe_accuracy):
        curve.probes.append(row.probe_accuracy)
    if math.isnan(curve.first_step_s):
        curve.first_step_s = time.perf_counter()


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run that has passed every check that can be made before an actor starts."""

    name: str
    config: RunConfig
    folder: Path
    task: Task
    pool: Sequence[Problem]
    heldout: Sequence[Problem]
    facts: ModelFacts
    resume: Path | None


def plan(config: RunConfig, run_dir: Path | None = None, resume: Path | None = None) -> RunPlan:
    """Check a run without starting or creating anything.

    Args:
        config: what to run.
        run_dir: where records go; by default below RFTFM_HOME or ~/rftfm_runs. Must not exist, or be empty.
        resume: a checkpoint to go on from; the run continues at its step.

    Raises:
        RftfmError: one of its kinds, with one sentence that names the fix.
    """
    task = load_task(config.task.name)
    pool, heldout = check_task(task, config)
    facts = check_model(config)
    name = f"{task.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = (run_dir or default_run_dir(name)).expanduser().absolute()
    check_run_dir(folder)
    if resume is not None:
        check_resume(resume, config)
    return RunPlan(name, config, folder, task, pool, heldout, facts, resume)


def train(
    config: RunConfig, run_dir: Path | None = None, resume: Path | None = None, observe: Observer = lambda _: None
) -> RunSummary:
    """Run `config` to its end and return its summary; the records are in the run directory.

    Joins the Ray cluster that RAY_ADDRESS names, uses the one this process is connected to, or starts its own.
    `run_dir` and `resume` as in `plan`; `observe` is called with every step's row.

    Raises:
        RftfmError: one of its kinds, with one sentence that names the fix.
    """
    return execute(plan(config, run_dir, resume), observe, time.perf_counter())


def execute(planned: RunPlan, observe: Observer, began: float) -> RunSummary:
    """Run a plan; `began` is the `time.perf_counter` that `first_step_s` counts from."""
    config, folder = planned.config, planned.folder
    ours = connect(config)
    try:
        check_shared(folder)
        problems = [*planned.pool, *planned.heldout]
        group = start_group(planned.name, config, str(planned.facts.path), planned.task, problems)
        try:
            create_run_dir(folder)
            session = Session(config, group, planned.pool, planned.heldout, START)
            with RunRecords(folder, planned.name, config) as records:
                records.event(
                    "run_started", None, run=planned.name, task=planned.task.name, parameters=planned.facts.parameters
                )
                if planned.resume is not None:
                    session.resume(planned.resume)
                    records.event("resumed", session.position.id, checkpoint=str(planned.resume))
                curve = loop(session, records, config, folder / "checkpoints", observe)
                summary = _summarise(config, folder, curve, began)
                records.event("run_ended", session.position.id, reward_last=summary.reward_last)
                records.summary(summary)
            return summary
        finally:
            group.stop()
    finally:
        if ours:
            ray.shutdown()


def check_resume(checkpoint: Path, config: RunConfig) -> None:
    """Refuse a checkpoint that is damaged, or that leaves nothing to do.

    Raises:
        ResumeError: names the file and the fix.
    """
    try:
        state = verify(checkpoint).state
    except CheckpointError as error:
        raise ResumeError(f"Cannot resume: {error}") from error
    if state.step >= config.steps:
        raise ResumeError(
            f"Checkpoint {checkpoint} stands at step {state.step}, and steps={config.steps}: nothing is left to do; "
            "raise steps."
        )
    if state.zero_stage != config.learner.zero_stage:
        raise ResumeError(
            f"Checkpoint {checkpoint} was saved with learner.zero_stage={state.zero_stage}; resume with the same."
        )


def _summarise(config: RunConfig, folder: Path, curve: Curve, began: float) -> RunSummary:
    def mean(values: list[float]) -> float:
        return statistics.fmean(values) if values else math.nan

    return RunSummary(
        run_dir=str(folder),
        seed=config.seed,
        steps=config.steps,
        reward_first=mean(curve.rewards[:EDGE]),
        reward_last=mean(curve.rewards[-EDGE:]),
        probe_first=curve.probes[0],
        probe_last=curve.probes[-1],
        step_time_s_median=statistics.median(curve.step_times_s) if curve.step_times_s else math.nan,
        first_step_s=curve.first_step_s - began,
        vetoes=curve.vetoes,
        guard=config.guard.mode,
        incidents=0,
    )
