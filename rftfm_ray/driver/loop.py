"""The loop of a run, on one screen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import ProbeConfig
from rftfm_ray.driver.checkpointing import CheckpointWriter, due
from rftfm_ray.driver.evaluating import Evaluator
from rftfm_ray.driver.guard import Guard, Tell
from rftfm_ray.driver.planned_changes import PlannedChanges
from rftfm_ray.driver.probing import HeldOutProbe
from rftfm_ray.driver.remediation import RemedyExecutor
from rftfm_ray.driver.session import Session
from rftfm_ray.driver.stopping import Outlook, StopSignal
from rftfm_ray.driver.verdict_watch import VerdictWatch
from rftfm_ray.incidents.state import Entry
from rftfm_ray.metrics import CheckMetrics, Evaluation, StepRow, Timings
from rftfm_ray.planning import RunPlan
from rftfm_ray.preflight.findings import Checked, Finding, log_finding
from rftfm_ray.telemetry.features import batch_metrics, part_figures
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import GuardMode, ProbeResult, RejectedUpdate, StepId

Observer = Callable[[StepRow], None]


# Cap of the wait of a probe: on a GPU the reference does not compete with a rollout actor for a core.
MOST_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Listeners:
    """Callbacks of a run, called from its own thread: for every step's row and every entry of the guard's journal.

    `learn` is called with the journal of the run that this one continues, if there is one, and `evaluated` with every
    evaluation.
    `finding` is called with everything that preflight finds, and `preflight` with all of its outcomes at its end.
    `stopped` is called with one sentence when a signal has ended the run, as soon as its state is saved; `stop` is
    where that signal is noticed.
    """

    row: Observer = lambda _: None
    entry: Tell = lambda _: None
    stopped: Callable[[str], None] = lambda _: None
    stop: StopSignal = field(default_factory=StopSignal)
    finding: Callable[[Finding], None] = log_finding
    preflight: Callable[[Checked], None] = lambda _: None
    learn: Callable[[Sequence[Entry]], None] = lambda _: None
    evaluated: Callable[[Evaluation], None] = lambda _: None

    def beside(self, other: Listeners) -> Listeners:
        """The same, with others that are told after these of rows, entries and evaluations."""

        def both_rows(new: StepRow) -> None:
            self.row(new)
            other.row(new)

        def both_entries(new: Entry) -> None:
            self.entry(new)
            other.entry(new)

        def both_learn(old: Sequence[Entry]) -> None:
            self.learn(old)
            other.learn(old)

        def both_evaluated(found: Evaluation) -> None:
            self.evaluated(found)
            other.evaluated(found)

        return replace(self, row=both_rows, entry=both_entries, learn=both_learn, evaluated=both_evaluated)


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects that the loop uses.

    `preflight` is called once all actors hold the same weights, with whether one of them serves others, as
    `Session.resync` says it.
    """

    plan: RunPlan
    session: Session
    guard: Guard
    records: RunRecords
    observe: Observer
    stop: StopSignal = field(default_factory=StopSignal)
    preflight: Callable[[Session, float], None] = lambda *_: None
    evaluated: Callable[[Evaluation], None] = lambda _: None


@dataclass(slots=True)
class Curve:
    """Data of the summary. `stopped`: whether a signal ended the run; `checkpoint`: of the state at its end."""

    rewards: list[float] = field(default_factory=list)
    step_times_s: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    sampled: list[float] = field(default_factory=list)
    vetoes: int = 0
    first_step_s: float = math.nan
    stopped: bool = False
    checkpoint: str = ""


def loop(parts: Parts) -> Curve:
    """Train to the end, or to the step in which a signal asks to stop. In the last step it stops nothing.

    Remote calls are chained by reference: the driver waits for results, never carries them.

    Raises:
        GuardHaltError: when the guard ends the run.
        GuardLostError: when the guard is lost and `guard.on_lost` ends the run.
        RftfmError: when an actor fails.
    """
    config, session, guard, records = parts.plan.config, parts.session, parts.guard, parts.records
    curve, watched = Curve(), config.guard.mode is not GuardMode.OFF
    changes = PlannedChanges(parts.plan, session, guard, records)
    remedies = RemedyExecutor(session, guard, records, config.probe.size)
    probe, checkpoints = HeldOutProbe(config.probe, session), _checkpoints(parts)
    verdicts, evaluator = VerdictWatch(parts.plan.task.name, config.verifier.max_failing_steps), _evaluator(parts)
    _start(parts, evaluator, curve)
    for position in session.positions():
        if parts.stop.requested:
            return _stop(session, checkpoints, curve)
        parts.stop.outlook = Outlook.LAST_STEP if session.finished(position) else Outlook.STEP
        start = time.perf_counter()
        changes.begin(position)
        trajectories = session.generate(position)
        order = remedies.order_at(position.id)
        done = remedies.execute(order, position.id) if order is not None else None
        if done is not None:
            if done.restore_step is not None:
                probe.restart()
                checkpoints.restart()
                continue
            trajectories = session.generate(position) if done.regenerates else session.revise(position)
        bounded = time.perf_counter()
        before, probing = session.position, probe.start(position.id)
        report_call, weights = session.train(position, trajectories)
        synced = session.sync(weights)
        batch = session.fetch(trajectories)
        generated = time.perf_counter()
        observed = batch_metrics(batch, changes.token_limit(position.id.step), texts=watched)
        report = session.fetch_report(report_call)
        probe.after_s = min(report.reference_s, MOST_WAIT_S)
        trained = time.perf_counter()
        mismatch = session.fetch_synced(synced, position)
        changes.end(position, report.metrics.entropy)
        ended = time.perf_counter()
        probed = _recorded(probe.finish(probing, position.id, before), before.id, records, checkpoints)
        waited, probe_s = bounded - start, probed.seconds if probed else 0.0
        timings = Timings(generated - start, trained - generated, ended - trained, waited, probe_s, ended - start)
        parity = session.parity() if due(position.id.step, config.sync.parity_every) else math.nan
        figures = session.figures(before, position, report.metrics)
        checks = CheckMetrics(*_accuracies(probed), parity, mismatch, *figures)
        row = StepRow(
            position.id, position.model_version, observed, report.metrics, report.credit, timings, checks,
            report.snapshots, part_figures(batch, parts.plan.task.parts),
        )  # fmt: skip
        _record(parts, curve, row, (batch, report.vetoes))
        verdicts.check(batch, session)
        evaluator.after_step(checkpoints)
        checkpoints.after_step(last=session.finished(position))
    return _complete(parts, checkpoints, evaluator, curve)


def _evaluator(parts: Parts) -> Evaluator:
    return Evaluator(parts.plan, parts.session, parts.records, parts.evaluated)


def _checkpoints(parts: Parts) -> CheckpointWriter:
    config = parts.plan.config
    by_evaluation = config.eval.best is not None
    return CheckpointWriter(config.checkpoints, parts.session, parts.records, by_evaluation=by_evaluation)


def _recorded(
    probed: ProbeResult | None, step: StepId, records: RunRecords, checkpoints: CheckpointWriter
) -> ProbeResult | None:
    """A probe's result, if there is one, once records and checkpoints know it; `step` is the one it speaks of."""
    if probed is not None:
        records.probe(probed, step)
        checkpoints.probed(probed)
    return probed


def _accuracies(probed: ProbeResult | None) -> tuple[float, float]:
    """Greedy and sampled held-out accuracy of a result, if there is one."""
    return (probed.accuracy, probed.sampled_accuracy) if probed else (math.nan, math.nan)


def _stop(session: Session, checkpoints: CheckpointWriter, curve: Curve) -> Curve:
    """End after the last completed step, with a checkpoint of it; before the first step there is nothing to save."""
    curve.stopped = True
    curve.checkpoint = checkpoints.write() if session.position.id.step else ""
    return curve


def _complete(parts: Parts, checkpoints: CheckpointWriter, evaluator: Evaluator, curve: Curve) -> Curve:
    """End after the last step, with a large probe and an evaluation.

    A run that has made its last step is complete, whoever asks it to end. It is still given the checkpoint that a
    signal has announced: before the probe, which whoever sent the signal may not wait for, or after it.
    """
    parts.stop.outlook = Outlook.LAST_PROBE
    if parts.stop.requested:
        checkpoints.write()
    _probe(parts, parts.plan.config.probe, curve)
    parts.stop.outlook = Outlook.CLOSING
    if parts.stop.requested:
        checkpoints.write()
    else:
        evaluator.run()
    return curve


def _start(parts: Parts, evaluator: Evaluator, curve: Curve) -> None:
    """Prepare the first step: the same weights everywhere, a first snapshot, a large probe, and an evaluation."""
    session, config = parts.session, parts.plan.config
    mismatch = session.resync()
    parts.records.event("parity", session.position.id, gap=session.parity())
    parts.preflight(session, mismatch)
    if config.snapshots.every:
        session.snapshot()
    _probe(parts, config.probe, curve)
    parts.guard.note_probe(session.position.id, curve.probes[-1])
    # Until here a signal has ended the run where it was; from here on the step in progress is completed.
    parts.stop.defer()
    evaluator.run()


def _probe(parts: Parts, config: ProbeConfig, curve: Curve) -> None:
    """A large probe, as before the first step and after the last."""
    result = parts.session.probe(config.final_size, config.sampled(config.final_size))
    parts.records.probe(result, parts.session.position.id)
    curve.probes.append(result.accuracy)
    curve.sampled.append(result.sampled_accuracy)


def _record(parts: Parts, curve: Curve, row: StepRow, made: tuple[TrajectoryBatch, tuple[RejectedUpdate, ...]]) -> None:
    """Hand on a step's row with its trajectories and refused updates: to guard, records, observer and summary."""
    parts.guard.report(row)
    parts.records.step(row, *made)
    parts.observe(row)
    curve.rewards.append(row.batch.reward_mean)
    curve.step_times_s.append(row.timings.step_s)
    curve.vetoes += row.update.vetoes
    if not math.isnan(row.checks.probe_accuracy):
        curve.probes.append(row.checks.probe_accuracy)
    if math.isnan(curve.first_step_s):
        curve.first_step_s = time.perf_counter()
