"""What is logged of a run, and who logs it: every step's figures, and a note for what the guard does.

The axis is the consumed step, which no rollback takes back. A logger that fails during a run is left out from then on:
what is trained does not depend on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rftfm_ray.driver.hooks import EVENTS
from rftfm_ray.driver.loggers.base import Note, RunLogger
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.errors import ConfigError, RecordError
from rftfm_ray.incidents.state import Entry, EntryKind, carries_remedy
from rftfm_ray.metrics import Evaluation, StepRow
from rftfm_ray.planning import RunPlan
from rftfm_ray.runs.words import describe
from rftfm_ray.telemetry.records import RunRecords

log = logging.getLogger(__name__)

OPEN = "guard/open_incidents"
"""Name of the count of incidents that are open."""


def figures_of(row: StepRow) -> dict[str, float]:
    """The figures of a step by the names that they are logged under; what is no finite number is left out."""
    named: dict[str, float] = {"step": row.id.step, "attempt": row.id.attempt, "model_version": row.model_version}
    for name in ("batch", "update", "credit", "checks", "timings"):
        values = dataclasses.asdict(getattr(row, name))
        named |= {f"{name}/{figure}": value for figure, value in values.items()}
    named |= {f"reward/{part.name}": part.mean for part in row.parts}
    return {name: float(value) for name, value in named.items() if math.isfinite(value)}


class Loggers:
    """Hands rows and journal entries to every logger.

    Args:
        loggers: by name.
        failed: called with the name of a logger and what it has met, once, when it is left out.
    """

    def __init__(self, loggers: Mapping[str, RunLogger], failed: Callable[[str, str], None]) -> None:
        self._loggers = dict(loggers)
        self._failed = failed
        self._open: set[int] = set()
        self._codes: dict[int, str] = {}

    def row(self, row: StepRow) -> None:
        """Log a step."""
        if self._loggers:
            values = figures_of(row) | {OPEN: float(len(self._open))}
            self._each(lambda logger: logger.figures(values, row.id.paid_step))

    def learn(self, entries: Iterable[Entry]) -> None:
        """Take in entries that are not marked, of the run that this one continues."""
        for entry in entries:
            if entry.kind in (EntryKind.OPENED, EntryKind.DIAGNOSED):
                self._open.add(entry.incident)
                self._codes[entry.incident] = entry.text("code")
            elif entry.kind is EntryKind.CLOSED:
                self._open.discard(entry.incident)

    def entry(self, entry: Entry) -> None:
        """Follow the guard's journal, and mark what is told of incidents."""
        self.learn((entry,))
        if entry.kind not in EVENTS or (entry.kind is EntryKind.APPLIED and not carries_remedy(entry)):
            return
        what, why = describe(entry)
        code, number = self._codes.get(entry.incident, ""), entry.incident
        text = f"{code} #{number}: {what}".lstrip() + (f" ({why})" if why else "")
        note = Note(entry.id.paid_step, entry.id.step, number, code, EVENTS[entry.kind], text)
        self._each(lambda logger: logger.note(note))

    def evaluated(self, found: Evaluation) -> None:
        """Log an evaluation, at the last step before it."""
        values = {f"eval/{found.name}/accuracy": found.accuracy}
        values |= {f"eval/{found.name}/pass@{k}": chance for k, chance in found.pass_at}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._each(lambda logger: logger.figures(finite, found.id.paid_step))

    def listeners(self) -> Listeners:
        """What a run tells them of."""
        return Listeners(row=self.row, entry=self.entry, learn=self.learn, evaluated=self.evaluated)

    def close(self) -> None:
        """Close all of them."""
        self._each(lambda logger: logger.close())

    def _each(self, call: Callable[[RunLogger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as error:  # noqa: BLE001 - others' code must not end the run, whatever it meets
                del self._loggers[name]
                self._failed(name, f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def run_loggers(planned: RunPlan, records: RunRecords) -> Iterator[Loggers]:
    """The loggers of a run until it ends; one that fails is recorded.

    Raises:
        ConfigError: when one cannot be started.
    """

    def failed(name: str, why: str) -> None:
        log.warning("logging.to=%s logs nothing more: %s", name, why)
        with contextlib.suppress(RecordError):
            records.event("logger_failed", None, logger=name, reason=why[:1000])

    loggers = Loggers(_opened(planned, planned.config.logging.to), failed)
    try:
        yield loggers
    finally:
        loggers.close()


def _opened(planned: RunPlan, names: Sequence[str]) -> dict[str, RunLogger]:
    opened: dict[str, RunLogger] = {}
    for name in names:
        try:
            opened[name] = _open(planned, name)
        except Exception as error:
            for logger in opened.values():
                with contextlib.suppress(Exception):
                    logger.close()
            hint = " Set WANDB_API_KEY, or WANDB_MODE=offline." if name == "wandb" else ""
            message = " ".join(str(error).split()).rstrip(".")
            raise ConfigError(f"logging.to={name} cannot be started: {message}.{hint}") from error
    return opened


def _open(planned: RunPlan, name: str) -> RunLogger:
    # Only what is asked for is imported: the packages are extras.
    if name == "tensorboard":
        from rftfm_ray.driver.loggers.tensorboard import TensorBoard

        return TensorBoard(planned)
    from rftfm_ray.driver.loggers.weights_and_biases import WeightsAndBiases

    return WeightsAndBiases(planned)
