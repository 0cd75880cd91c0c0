"""What is said of a step log: its verdict, with what was found, what held and what was not run."""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.detection.readings.base import Grade
from rftfm_ray.diagnosis.log_names import LogName
from rftfm_ray.diagnosis.log_readings import ReadingRun


@dataclass(frozen=True, slots=True)
class Finding:
    """An alarm, by the steps of the log.

    Attributes:
        signal: its name in the dictionary of signals.
        column: its name in the log.
        kind: `jump`, `joint`, `not_finite`, `law_` and the name of a broken law, or the name of the reading or detector
            that raised it.
        first_step: at which it began, as estimated.
        raised_step: at which the alarm was raised.
        last_step: last step at which it was open.
        recovered: whether the signal returned while the run continued.
        grade: critical for what makes the log faulty; warning or note for a reading that does not.
        says: what it means, for a reading.
    """

    signal: str
    column: str
    kind: str
    first_step: int
    raised_step: int
    last_step: int
    recovered: bool
    grade: str = str(Grade.CRITICAL)
    says: str = ""

    def covers(self, warning: Finding) -> bool:
        """Whether it says what a warning of the same signal and time says, and more."""
        overlap = self.first_step <= warning.last_step and warning.first_step <= self.last_step
        return self.signal == warning.signal and overlap


@dataclass(frozen=True, slots=True)
class Coverage:
    """Number of checks that were run, number of possible ones, and those that lacked columns or steps."""

    run: int
    possible: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LawCheck:
    """A law that was judged: its name, what it states, the rows that it was judged on, and those that break it.

    `largest` is the largest residual in units of the tolerance, and `strength` what the first break measures, in words.
    """

    name: str
    states: str
    rows: int
    broken: int
    largest: float
    strength: str


@dataclass(frozen=True, slots=True)
class LogVerdict:
    """The verdict on a log.

    Attributes:
        verdict: `faulty` with an alarm; else `incomplete` when a check failed or a part of the file was unreadable;
            else `unknown` when fewer than half of the checks were run, or one with columns lacked rows: that is not
            enough to tell; else `doubtful` with a warning that lasts; else `healthy`.
        partial: whether a part of the log could not be judged, for any verdict.
        coverage: of the checks.
        alarms: by the step at which they began.
        broken: checks that had their inputs and failed.
        unchecked_columns: columns that are known signals, and that no check reads.
        unused_columns: columns that are not known, or hold no numbers.
        notes: on the file, one sentence each.
        warnings: readings below an alarm, by the step at which they began.
        readings: every absolute reading, and what those lack that were not run.
        needed: what it would take to call the log healthy, one phrase each.
        laws: that could be judged.
        fault: what the first alarms are named; None without an alarm.
    """

    verdict: str
    partial: bool
    coverage: Coverage
    alarms: tuple[Finding, ...]
    broken: tuple[str, ...]
    unchecked_columns: tuple[str, ...]
    unused_columns: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[Finding, ...] = ()
    readings: tuple[ReadingRun, ...] = ()
    needed: tuple[str, ...] = ()
    laws: tuple[LawCheck, ...] = ()
    fault: LogName | None = None
