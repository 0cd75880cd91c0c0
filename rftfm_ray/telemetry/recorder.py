"""What a run records of every step: one row, and a sample of its trajectories."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import RecordsConfig, TextPrivacy
from rftfm_ray.metrics import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, Timings, UpdateMetrics
from rftfm_ray.signals.groups import SEPARATORS
from rftfm_ray.tasks.api import ToolStatus, unit_hash
from rftfm_ray.telemetry.parts import BackgroundWriter, PartFolder, read_parts
from rftfm_ray.types import StepId, Termination

STEPS, REWARD_PARTS = "steps", "reward_parts"
"""Folders of a run's directory."""
ARROW_TYPES = {"int": pa.int64(), "float": pa.float64()}
STATUS_NAMES = [status.value for status in ToolStatus]


def _fields(kind: type) -> list[tuple[str, pa.DataType]]:
    return [(field.name, ARROW_TYPES[str(field.type)]) for field in dataclasses.fields(kind)]


_FIGURES = (BatchMetrics, UpdateMetrics, CreditMetrics, CheckMetrics, Timings)
STEP_SCHEMA = pa.schema(
    [
        *_fields(StepId),
        ("model_version", pa.int64()),
        *(column for kind in _FIGURES for column in _fields(kind)),
    ],
    metadata={"rftfm_schema": "steps/6"},
)
"""One row a step, keyed (attempt, step, paid_step). NaN where there was nothing to measure."""
_OF_ERRORS = ("regrade_by_form", "golden_repeat_mismatch_rate")
OLDER_STEP_SCHEMAS: tuple[pa.Schema, ...] = tuple(
    pa.schema(
        [field for field in STEP_SCHEMA if field.name not in lacking], metadata={"rftfm_schema": f"steps/{number}"}
    )
    for number, lacking in ((5, _OF_ERRORS), (4, (*_OF_ERRORS, "sample_mismatch_rate")), (3, SEPARATORS))
)
"""Rows of runs from before what errors of rewards have in common, before the seals of samples, and before all
separators; they are read as well."""

TRAJECTORY_SCHEMA = pa.schema(
    [
        *_fields(StepId),
        ("model_version", pa.int64()),
        ("group", pa.int32()),
        ("sample", pa.int32()),
        ("reward", pa.float32()),
        ("live_reward", pa.float32()),
        ("trusted_reward", pa.float32()),
        ("refills", pa.int8()),
        ("correct", pa.bool_()),
        ("valid", pa.bool_()),
        ("termination", pa.string()),
        ("turns", pa.int8()),
        ("prompt_length", pa.int32()),
        ("action", pa.list_(pa.bool_())),
        ("logprobs", pa.list_(pa.float32())),
        ("tokens", pa.list_(pa.int32())),
        ("prompt_key", pa.string()),
        ("text", pa.string()),
        (
            "calls",
            pa.list_(
                pa.struct(
                    [
                        ("turn", pa.int8()),
                        ("status", pa.string()),
                        ("latency_s", pa.float32()),
                        ("request", pa.string()),
                        ("response", pa.string()),
                    ]
                )
            ),
        ),
    ],
    metadata={"rftfm_schema": "trajectories/2"},
)
"""One row a recorded trajectory. `tokens` is null unless `records.text` is full; texts are null, hashes or texts."""


def step_record(row: StepRow) -> dict[str, int | float]:
    """`row` as one flat record of `STEP_SCHEMA`."""
    parts = (row.id, row.batch, row.update, row.credit, row.checks, row.timings)
    flat: dict[str, int | float] = {k: v for part in parts for k, v in dataclasses.asdict(part).items()}
    return flat | {"model_version": row.model_version}


PART_SCHEMA = pa.schema(
    [*_fields(StepId), ("part", pa.string()), ("mean", pa.float64()), ("share", pa.float64())],
    metadata={"rftfm_schema": "reward_parts/1"},
)
"""One row for each part of the reward and step, as `RewardPart` has it; none where a reward has no parts."""


class StepRecorder:
    """Writes step rows, and the parts of their rewards, those of `part_steps` steps to a part of the records."""

    def __init__(self, run_dir: Path, part_steps: int, writer: BackgroundWriter) -> None:
        self._run_dir = run_dir
        self._steps = PartFolder(run_dir / STEPS, STEP_SCHEMA)
        self._parts: PartFolder | None = None
        self._part_steps = part_steps
        self._writer = writer
        self._rows: list[StepRow] = []

    def add(self, row: StepRow) -> None:
        """Record one step."""
        self._rows.append(row)
        if len(self._rows) >= self._part_steps:
            self.close()

    def close(self) -> None:
        """Write the rows that are left. Safe to call twice."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        self._writer.submit(lambda: self._steps.write([step_record(row) for row in rows]))
        parts = [
            dataclasses.asdict(row.id) | {"part": part.name, "mean": part.mean, "share": part.share}
            for row in rows
            for part in row.parts
        ]
        if parts:
            folder = self._parts = self._parts or PartFolder(self._run_dir / REWARD_PARTS, PART_SCHEMA)
            self._writer.submit(lambda: folder.write(parts))


class TrajectoryRecorder:
    """Writes a sample of all trajectories, chosen by a hash of their identity: the same for the same seed."""

    def __init__(self, folder: Path, config: RecordsConfig, seed: int, writer: BackgroundWriter) -> None:
        self._parts = PartFolder(folder, TRAJECTORY_SCHEMA, config.retention_mib << 20)
        self._config = config
        self._seed = seed
        self._writer = writer
        self._steps = 0
        self._protect = text_filter(config.text)
        # Touched by the writer's thread only.
        self._rows: list[dict[str, object]] = []

    def add(self, step: StepId, batch: TrajectoryBatch) -> None:
        """Record a sample of one step's trajectories."""
        self._steps += 1
        if self._config.trajectory_rate > 0:
            self._writer.submit(lambda: self._rows.extend(self._sample(step, batch)))
        if self._steps % self._config.part_steps == 0:
            self._writer.submit(self._flush)

    def close(self) -> None:
        """Write the rows that are left. Safe to call twice."""
        if self._steps:
            self._steps = 0
            self._writer.submit(self._flush)

    def _flush(self) -> None:
        if self._rows:
            self._parts.write(self._rows)
            self._rows = []

    def _sample(self, step: StepId, batch: TrajectoryBatch) -> list[dict[str, object]]:
        rate = self._config.trajectory_rate
        identity = (self._seed, step.attempt, step.paid_step)
        chosen = [
            i
            for i, (key, sample) in enumerate(zip(batch.keys, batch.sample.tolist(), strict=True))
            if unit_hash("record", *identity, key, sample) < rate
        ]
        full = self._config.text is TextPrivacy.FULL
        return [trajectory_record(step, batch, i, self._protect, tokens=full) for i in chosen]


def text_filter(privacy: TextPrivacy) -> Callable[[str], str | None]:
    """What becomes of a text in the records.

    Hashes are keyed by a secret of this process that is never written: equal texts of one run can be told, and no
    list of likely texts can be tried against them.
    """
    if privacy is TextPrivacy.FULL:
        return lambda text: text
    if privacy is TextPrivacy.NONE:
        return lambda _: None
    secret = secrets.token_bytes(32)
    return lambda text: hashlib.blake2b(text.encode(), key=secret, digest_size=16).hexdigest()


def trajectory_record(
    step: StepId, batch: TrajectoryBatch, index: int, protect: Callable[[str], str | None], *, tokens: bool
) -> dict[str, object]:
    """Trajectory `index` as one record of `TRAJECTORY_SCHEMA`, its texts passed through `protect`."""
    place = slice(int(batch.offsets[index]), int(batch.offsets[index + 1]))
    calls = [
        {
            "turn": int(batch.call_turn[c]),
            "status": STATUS_NAMES[batch.call_status[c]],
            "latency_s": float(batch.call_latency_s[c]),
            "request": protect(batch.call_requests[c]),
            "response": protect(batch.call_responses[c]),
        }
        for c in np.flatnonzero(batch.call_trajectory == index)
    ]
    return {
        **dataclasses.asdict(step),
        "model_version": int(batch.model_version[index]),
        "group": int(batch.group[index]),
        "sample": int(batch.sample[index]),
        "reward": float(batch.reward[index]),
        "live_reward": float(batch.live_reward[index]),
        "trusted_reward": float(batch.trusted_reward[index]),
        "refills": int(batch.refills[index]),
        "correct": bool(batch.correct[index]),
        "valid": bool(batch.valid[index]),
        "termination": Termination(int(batch.termination[index])).name.lower(),
        "turns": int(batch.turns[index]),
        "prompt_length": int(batch.prompt_length[index]),
        "action": batch.action[place].tolist(),
        "logprobs": batch.logprobs[place].tolist(),
        "tokens": batch.tokens[place].tolist() if tokens else None,
        "prompt_key": protect(batch.keys[index]),
        "text": protect(batch.texts[index]),
        "calls": calls,
    }


def read_steps(run_dir: Path) -> pa.Table:
    """The recorded step rows of a run, also while it goes on.

    Raises:
        RecordError: when a part cannot be read.
    """
    return read_parts(run_dir / STEPS, STEP_SCHEMA, OLDER_STEP_SCHEMAS)


def read_reward_parts(run_dir: Path) -> pa.Table:
    """What the parts of a run's rewards came to in its steps; empty where its reward has no parts.

    Raises:
        RecordError: when a part of the records cannot be read.
    """
    return read_parts(run_dir / REWARD_PARTS, PART_SCHEMA)


def read_trajectories(run_dir: Path) -> pa.Table:
    """The recorded trajectories of a run, also while it goes on.

    Raises:
        RecordError: when a part cannot be read.
    """
    return read_parts(run_dir / "trajectories", TRAJECTORY_SCHEMA)
