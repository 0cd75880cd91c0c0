"""Reads from a run directory everything that a report or a status shows, into frozen values."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.errors import ConfigError, RecordError, RunDirError
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.runs.words import as_number, clean, number_of, text_of, to_count
from rftfm_ray.telemetry.events import read_events
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.telemetry.process import ProcessIdentity, is_running
from rftfm_ray.telemetry.rundir import CONFIG, default_run_dir, resume_command
from rftfm_ray.types import StepId

MARKS_OF_A_RUN = (CONFIG, "steps", "events.jsonl", JOURNAL)
# Above this a double cannot represent every integer; no run comes near.
MOST_STEPS = 1 << 53
# No measured value comes near this, and an axis cannot hold the largest doubles.
LARGEST = 1e100
# These entries belong to the step in progress, which may never be completed.
UNDER_WAY = (
    EntryKind.APPROVED,
    EntryKind.REJECTED,
    EntryKind.DECLINED,
    EntryKind.CONFIRMED,
    EntryKind.UNCONFIRMED,
    EntryKind.APPLYING,
    EntryKind.APPLIED,
    EntryKind.FAILED,
    EntryKind.DECLARED,
    EntryKind.LATE,
    EntryKind.RESTORED,
    EntryKind.LOST,
    EntryKind.PAUSED,
    EntryKind.HOOK_FAILED,
)

Event = Mapping[str, Scalar]
PART = "part/"
"""Columns of step rows whose names begin so are parts of the reward."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Step rows in the order of consumed steps. A rollback has undone the abandoned rows."""

    ids: tuple[StepId, ...]
    abandoned: tuple[bool, ...]
    columns: Mapping[str, tuple[float, ...]]

    def column(self, name: str) -> tuple[float, ...]:
        """Values of one column, NaN where no value can be drawn."""
        return self.columns.get(name, (math.nan,) * len(self.ids))

    def surviving(self, name: str) -> tuple[float, ...]:
        """Finite values of one column in the rows that no rollback has undone."""
        rows = zip(self.column(name), self.abandoned, strict=True)
        return tuple(value for value, gone in rows if not gone and math.isfinite(value))


@dataclass(frozen=True, slots=True)
class Probe:
    """A held-out accuracy, and where it was taken; NaN where too few answers could be graded.

    `step` is the one after which it was taken. `sampled` is the accuracy of answers sampled as in training, or NaN;
    `size` counts the problems, 0 where that is unknown. `purpose` says what a probe beside the regular ones was for:
    `confirm` and the name of a costly remedy.
    """

    paid_step: int
    step: int
    accuracy: float
    abandoned: bool
    sampled: float = math.nan
    size: int = 0
    purpose: str = ""


@dataclass(frozen=True, slots=True)
class RunData:
    """One run as its files record it.

    Attributes:
        run_dir: where they are.
        config: None when `config.yaml` is missing or of another version.
        steps: recorded rows; the newest steps of a run that goes on may not be written yet.
        probes: held-out accuracies in order.
        entries: of the journal, in order; empty when there is none.
        times: seconds since 1970 at which they were written.
        events: of `events.jsonl`, in order.
        summary: of a run that ended well; empty before.
        journalled: whether there is a journal.
        running: whether the process of the run still exists; None where that cannot be seen, as on another host.
        read_s: when the records were read, in seconds since 1970.
        checkpoint: the newest complete checkpoint.
    """

    run_dir: Path
    config: RunConfig | None
    steps: Steps
    probes: tuple[Probe, ...]
    entries: tuple[Entry, ...]
    times: tuple[float, ...]
    events: tuple[Event, ...]
    summary: Mapping[str, Any]
    journalled: bool
    running: bool | None = None
    read_s: float = math.nan
    checkpoint: Path | None = None

    @property
    def graded(self) -> tuple[Probe, ...]:
        """The probes whose accuracy is known."""
        return tuple(probe for probe in self.probes if math.isfinite(probe.accuracy))

    @property
    def position(self) -> StepId:
        """Current step of the run according to all records: the newest step made, or the target of a rollback."""
        steps = [StepId(0, 0, 0), *self.steps.ids]
        steps += [entry.id for entry in self.entries if entry.kind not in UNDER_WAY]
        events = [event for event in self.events if event.get("kind") != "remedy"]
        steps += [step for event in events if (step := event_step(event)) is not None]
        steps += [StepId(back.attempt + 1, back.step, back.paid_step) for back in restores(self.entries)]
        return max(steps, key=lambda id_: (id_.paid_step, id_.attempt))

    @property
    def newest_s(self) -> float:
        """When the newest journal entry or event was written, in seconds since 1970; NaN when there is none."""
        times = [*self.times, *(as_number(event.get("time_s")) for event in self.events)]
        return max((value for value in times if math.isfinite(value)), default=math.nan)

    def event(self, kind: str) -> Event:
        """The last event of a kind; empty when there is none."""
        return next((event for event in reversed(self.events) if event.get("kind") == kind), {})

    @property
    def resume_command(self) -> str:
        """The command that continues the run from its newest checkpoint, or from where it was resumed; else empty."""
        began = self.event("resumed").get("checkpoint")
        checkpoint = self.checkpoint or (Path(began) if isinstance(began, str) and began else None)
        directory = str(self.event("run_started").get("directory") or "")
        return resume_command(self.run_dir.absolute(), checkpoint.absolute(), directory) if checkpoint else ""

    @property
    def name(self) -> str:
        """Name of the run, or of its directory when no record names it."""
        run = self.event("run_started").get("run")
        return clean(run) if isinstance(run, str) and run else clean(self.run_dir.absolute().name)

    @property
    def title(self) -> str:
        """Name of the run, and of its directory where that differs."""
        directory = clean(self.run_dir.absolute().name)
        return self.name if directory == self.name else f"{self.name} (directory {directory})"

    @property
    def mode(self) -> str:
        """Mode of the guard from the journal, else from the configuration, else `unknown`."""
        modes = [text_of(entry, "mode") for entry in self.entries if entry.kind is EntryKind.STARTED]
        if modes and modes[-1]:
            return modes[-1]
        return str(self.config.guard.mode) if self.config is not None else "unknown"


def find_run(text: str) -> Path:
    """Find the run directory named by `text`: a path, or the name of a run below RFTFM_HOME or ~/rftfm_runs.

    Raises:
        RunDirError: when neither is a run directory; names both and the fix.
    """
    try:
        candidates = list(dict.fromkeys((Path(text).expanduser(), default_run_dir(text))))
        for candidate in candidates:
            if any((candidate / mark).exists() for mark in MARKS_OF_A_RUN):
                return candidate
    except (OSError, RuntimeError, ValueError) as error:
        raise RunDirError(f"Run {clean(text)!r} cannot be looked up ({clean(str(error))}); check the path.") from None
    tried = " nor in ".join(clean(str(candidate)) for candidate in candidates)
    raise RunDirError(
        f"There are no records of a run in {tried}; give a run directory, as `rftfm train` printed it, or the name of "
        "one below RFTFM_HOME."
    )


def read_run(run_dir: Path) -> RunData:
    """Read a run, also while it is running. Missing records are empty.

    Raises:
        RecordError: names a file that is damaged.
    """
    entries, times = _journal(run_dir / JOURNAL)
    events = _events(run_dir / "events.jsonl")
    steps, config = _steps(run_dir, entries), _config(run_dir / CONFIG)
    return RunData(
        run_dir=run_dir,
        config=config,
        steps=steps,
        probes=_probes(steps, events, entries, config),
        entries=entries,
        times=times,
        events=events,
        summary=_summary(run_dir / "summary.json"),
        journalled=(run_dir / JOURNAL).exists(),
        running=_running(events),
        read_s=time.time(),
        checkpoint=_newest_checkpoint(run_dir / "checkpoints"),
    )


def event_step(event: Event) -> StepId | None:
    """Step of an event; None for an event of the entire run."""
    values = [as_number(event.get(name)) for name in ("attempt", "step", "paid_step")]
    if not all(0 <= value <= MOST_STEPS for value in values):
        return None
    attempt, step, paid_step = map(int, values)
    return StepId(attempt, step, paid_step)


def _running(events: tuple[Event, ...]) -> bool | None:
    """Whether the process that wrote the events exists; None for records of another host or an earlier version."""
    started = next((event for event in reversed(events) if event.get("kind") == "run_started"), {})
    pid, host, ticks = (started.get(name) for name in ("pid", "host", "process_started"))
    if not (isinstance(pid, int) and isinstance(host, str) and isinstance(ticks, int)):
        return None
    return is_running(ProcessIdentity(pid, host, ticks))


def _newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint with a manifest, which is written last; its files are verified only when it is used."""
    # It imports numpy and safetensors, which a run without checkpoints does not need.
    from rftfm_ray.training.checkpoints import named

    return next((path for path in reversed(named(folder)) if (path / "manifest.json").exists()), None)


def _config(path: Path) -> RunConfig | None:
    try:
        return load_config(path, [])
    except ConfigError:
        # Keys of another version, or a truncated file: the records can be shown without it.
        return None


def _journal(path: Path) -> tuple[tuple[Entry, ...], tuple[float, ...]]:
    if not path.exists():
        return (), ()
    entries, times = read_journal(path)
    for entry in entries:
        counters = (entry.id.attempt, entry.id.step, entry.id.paid_step)
        if not all(0 <= value <= MOST_STEPS for value in counters):
            raise RecordError(f"{path} entry {entry.seq} stands at no step that there can be; it has been altered.")
    return entries, times


def _events(path: Path) -> tuple[Event, ...]:
    try:
        return tuple(read_events(path))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}); check the run.") from None
    except RecursionError:
        raise RecordError(f"{path} holds no events, it nests too deeply; the file has been altered.") from None
    except ValueError as error:
        raise RecordError(clean(str(error))) from None


def _summary(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}); check the run.") from None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise RecordError(f"{path} is not one JSON object; it has been altered.")
    return values


def _steps(run_dir: Path, entries: tuple[Entry, ...]) -> Steps:
    # pyarrow is slow to import, so it is imported only once a run exists.
    from rftfm_ray.telemetry.recorder import read_steps

    table = read_steps(run_dir).sort_by([("paid_step", "ascending"), ("attempt", "ascending")])
    columns = {
        name: tuple(_finite(value) for value in table[name].to_pylist())
        for name in table.column_names
        if name not in ("attempt", "step", "paid_step")
    }
    ids = _step_ids(run_dir / "steps", {name: table[name].to_pylist() for name in ("attempt", "step", "paid_step")})
    undone = _undone(ids, entries)
    return Steps(ids, tuple(undone(id_) for id_ in ids), columns | _reward_parts(run_dir, ids))


def _reward_parts(run_dir: Path, ids: Sequence[StepId]) -> dict[str, tuple[float, ...]]:
    """The means of the parts of the reward as columns by `PART` and their names; NaN in steps without one."""
    from rftfm_ray.telemetry.recorder import read_reward_parts

    found: dict[str, dict[StepId, float]] = {}
    for row in read_reward_parts(run_dir).to_pylist():
        place = StepId(row["attempt"], row["step"], row["paid_step"])
        found.setdefault(f"{PART}{row['part']}", {})[place] = _finite(row["mean"])
    return {name: tuple(means.get(id_, math.nan) for id_ in ids) for name, means in found.items()}


def _step_ids(folder: Path, keys: Mapping[str, Sequence[int | None]]) -> tuple[StepId, ...]:
    for name, values in keys.items():
        for value in values:
            if value is None or not 0 <= value <= MOST_STEPS:
                shown = "null" if value is None else value
                raise RecordError(
                    f"{folder} has a row with {name}={shown}, which is not a count of steps; restore its parts from a "
                    "copy."
                )
    return tuple(StepId(*key) for key in zip(*keys.values(), strict=True))


def _finite(value: object) -> float:
    number = as_number(value)
    return number if abs(number) < LARGEST else math.nan


def _undone(ids: tuple[StepId, ...], entries: tuple[Entry, ...]) -> Callable[[StepId], bool]:
    """Make a test of whether a step was undone: a later attempt repeated it, or the journal restored an earlier one."""
    first: dict[int, int] = {}
    for id_ in ids:
        first[id_.attempt] = min(id_.step, first.get(id_.attempt, id_.step))
    restored = restores(entries)

    def undone(id_: StepId) -> bool:
        again = any(attempt > id_.attempt and begun <= id_.step for attempt, begun in first.items())
        return again or any(back.undoes(id_) for back in restored)

    return undone


@dataclass(frozen=True, slots=True)
class Restore:
    """A rollback that was carried out: in which attempt, after which consumed step, and back to which step."""

    attempt: int
    paid_step: int
    step: int

    def undoes(self, id_: StepId) -> bool:
        """Whether it has undone a step."""
        return id_.paid_step <= self.paid_step and id_.step > self.step


def restores(entries: tuple[Entry, ...]) -> tuple[Restore, ...]:
    """The rollbacks that were carried out, in order."""
    ordered: dict[int, int] = {}
    rollbacks = []
    for entry in entries:
        order, restore = to_count(number_of(entry, "order")), number_of(entry, "restore_step")
        if 0 <= restore <= MOST_STEPS:
            ordered[order] = int(restore)
        if entry.kind is EntryKind.APPLIED and order in ordered:
            rollbacks.append(Restore(entry.id.attempt, entry.id.paid_step, ordered[order]))
    return tuple(rollbacks)


def _probes(
    steps: Steps, events: tuple[Event, ...], entries: tuple[Entry, ...], config: RunConfig | None
) -> tuple[Probe, ...]:
    """Probes from events or from rows, whichever has more: events also hold the first and the last."""
    size = config.probe.size if config is not None else 0
    undone = _undone(steps.ids, entries)
    announced = []
    for event in events:
        position, accuracy = event_step(event), _finite(event.get("accuracy"))
        is_known = math.isfinite(accuracy) or _finite(event.get("ungraded")) > 0
        if event.get("kind") == "probe" and position is not None and is_known:
            sampled = _finite(event.get("sampled_accuracy"))
            asked = _finite(event.get("size"))
            number = int(asked) if asked > 0 else size
            purpose = clean(str(event.get("purpose") or ""), 80)
            announced.append(
                Probe(position.paid_step, position.step, accuracy, undone(position), sampled, number, purpose)
            )
    columns = (steps.column("probe_accuracy"), steps.abandoned, steps.column("probe_sampled_accuracy"))
    recorded = [
        Probe(id_.paid_step, id_.step, value, gone, sampled, size)
        for id_, value, gone, sampled in zip(steps.ids, *columns, strict=True)
        if math.isfinite(value)
    ]
    return tuple(announced if len(announced) >= len(recorded) else recorded)
