"""The loop of a run, on one screen."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rftfm_ray.config import ProbeConfig, RunConfig
from rftfm_ray.driver.guard import Guard
from rftfm_ray.driver.planned_changes import Course
from rftfm_ray.driver.probing import HeldOutProbe
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import GuardHaltError
from rftfm_ray.incidents.messages import Change
from rftfm_ray.metrics import CheckMetrics, StepRow, Timings
from rftfm_ray.telemetry.features import batch_metrics
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import GuardMode, Position

Observer = Callable[[StepRow], None]


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


def digest(config: RunConfig) -> str:
    """What a checkpoint remembers of the configuration that it was made under."""
    return hashlib.sha256(config.to_yaml().encode()).hexdigest()
