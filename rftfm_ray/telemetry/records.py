"""What a run leaves behind: configuration, step rows, trajectories, events, summary, and live metrics."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from types import TracebackType

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RunConfig
from rftfm_ray.errors import RecordError, SignalInterrupt, StoppedError
from rftfm_ray.files import write_atomic
from rftfm_ray.metrics import Evaluation, StepRow
from rftfm_ray.telemetry.events import EventLog
from rftfm_ray.telemetry.metrics import StepGauges
from rftfm_ray.telemetry.parts import BackgroundWriter
from rftfm_ray.telemetry.recorder import StepRecorder, TrajectoryRecorder
from rftfm_ray.telemetry.rundir import CONFIG
from rftfm_ray.types import ProbeResult, RejectedUpdate, RunSummary, StepId


class RunRecords:
    """Writes one run's directory. Close it, or use it in a `with`: the last parts are written then."""

    def __init__(self, run_dir: Path, run: str, config: RunConfig) -> None:
        self._dir = run_dir
        write_atomic(run_dir / CONFIG, config.to_yaml().encode())
        self._writer = BackgroundWriter()
        self._steps = StepRecorder(run_dir, config.records.part_steps, self._writer)
        self._trajectories = TrajectoryRecorder(run_dir / "trajectories", config.records, config.seed, self._writer)
        self._events = EventLog(run_dir / "events.jsonl")
        self._gauges = StepGauges(run)

    def __enter__(self) -> RunRecords:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # What went wrong with the run is what the user must hear of, not that its records could not say so.
        with contextlib.suppress(RecordError):
            if isinstance(error, SignalInterrupt):
                self.event("run_stopped", None, signal=error.name)
            elif not isinstance(error, StoppedError):
                self.event("run_failed", None, error=type(error).__name__, message=str(error)[:1000])
        with contextlib.suppress(RecordError):
            self.close()

    def event(self, kind: str, step: StepId | None, **fields: str | int | float | bool | None) -> None:
        """Append one line to `events.jsonl`."""
        self._events.append(kind, step, **fields)

    def step(self, row: StepRow, batch: TrajectoryBatch, vetoes: tuple[RejectedUpdate, ...]) -> None:
        """Record one step: its row, its sampled trajectories, its refused updates."""
        self._steps.add(row)
        self._trajectories.add(row.id, batch)
        self._gauges.publish(row)
        for veto in vetoes:
            self.event("veto", row.id, minibatch=veto.minibatch, veto=veto.veto.value, reason=veto.reason)

    def probe(self, result: ProbeResult, step: StepId) -> None:
        """Record a held-out probe; `step` is the last one before it, whose weights answered."""
        self._probe(result, step)

    def confirming_probe(self, result: ProbeResult, step: StepId, remedy: str) -> None:
        """Record the held-out probe that a costly remedy is confirmed by; `step` as for `probe`."""
        self._probe(result, step, purpose=f"confirm {remedy}")

    def _probe(self, result: ProbeResult, step: StepId, **purpose: str) -> None:
        self.event(
            "probe",
            step,
            model_version=result.model_version,
            accuracy=result.accuracy,
            size=result.size,
            sampled_accuracy=result.sampled_accuracy,
            sampled_size=result.sampled_size,
            ungraded=result.ungraded + result.sampled_ungraded,
            seconds=result.seconds,
            **purpose,
        )

    def evaluation(self, found: Evaluation) -> None:
        """Record an evaluation."""
        self.event(
            "evaluation", found.id, name=found.name, model_version=found.model_version, problems=found.problems,
            samples=found.samples, accuracy=found.accuracy, ungraded=found.ungraded, seconds=found.seconds,
            **{f"pass_at_{k}": chance for k, chance in found.pass_at},
        )  # fmt: skip

    def summary(self, summary: RunSummary) -> None:
        """Write `summary.json`, the last file of a run that ended well."""
        write_atomic(self._dir / "summary.json", (summary_json(summary) + "\n").encode())

    def flush(self) -> None:
        """Write all rows so far, and wait for it.

        Raises:
            RecordError: when the disk is full or gone.
        """
        self._steps.close()
        self._trajectories.close()
        self._writer.wait()

    def close(self) -> None:
        """Write what is still open. Safe to call twice."""
        with contextlib.ExitStack() as stack:
            # Last in, first out; each is closed whatever another raises.
            for part in (self._events, self._writer, self._trajectories, self._steps):
                stack.callback(part.close)


def summary_json(summary: RunSummary) -> str:
    """One strict JSON object on one line; a value that is not a number becomes null."""
    values = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(summary).items()
    }
    return json.dumps(values)
