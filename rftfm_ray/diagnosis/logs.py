"""Judges the step log of another trainer's run against its self-baseline.

The verdict is made of checks, one for each family of signals, and of absolute readings. A check without its columns
lowers coverage. One that had its columns and too few rows, or failed, takes health from the verdict: what did not run
does not show it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rftfm_ray.config import RunConfig
from rftfm_ray.config.declared import Declared
from rftfm_ray.detection.detectors.change_point import CHANGE_SIGNALS, ChangePointDetector
from rftfm_ray.detection.detectors.exact import FiniteDetector
from rftfm_ray.detection.detectors.joint import JointDetector
from rftfm_ray.detection.detectors.laws import LAW
from rftfm_ray.detection.detectors.readings import ReadingDetector
from rftfm_ray.detection.monitor import CHUNK, Monitor
from rftfm_ray.detection.readings.base import Grade
from rftfm_ray.detection.reference.mixture import Reference, reference_of
from rftfm_ray.detection.reference.priors import KindPriors, has_enough_signals, kind_with, shipped
from rftfm_ray.detection.reference.views import ReportTable
from rftfm_ray.detection.statistics.change_points import FEWEST, Floats
from rftfm_ray.detection.suite import build_detectors, monitor_settings, rates
from rftfm_ray.diagnosis.log_laws import LogLaw, laws_of
from rftfm_ray.diagnosis.log_names import Heard, Witness, name_log
from rftfm_ray.diagnosis.log_readings import Break, LogReadings, is_of_solving, is_told, lacks, read
from rftfm_ray.diagnosis.log_verdict import Coverage, Finding, LawCheck, LogVerdict
from rftfm_ray.integrations.steplog import StepLog
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.verdicts import Symptom

EXPECTED: Mapping[str, tuple[str, ...]] = {
    "reward": ("reward_mean", "correct_rate"),
    "reward_spread": ("reward_std", "zero_variance_group_rate", "advantage_std"),
    "kl": ("kl_ref", "kl_old"),
    "entropy": ("entropy", "sampling_logprob_mean"),
    "length": ("length_mean", "truncated_rate", "eos_rate"),
    "gradient": ("grad_norm",),
    "update": ("policy_loss", "loss", "clip_high_rate", "clip_low_rate", "step_kl", "rollout_kl"),
}
"""Checks that any run of reinforcement fine-tuning can have, each with its signals; one of them suffices."""
FINITE, OTHERS = "finite", "others"
JUMP, NOT_FINITE = "jump", "not_finite"
_NUMBERS = (*FiniteDetector.WATCHED, "reward_mean", "policy_loss", "value_loss", "kl_old", "advantage_mean")
# Without these there is no update.
_ESSENTIAL = ("loss", "policy_loss", "grad_norm")
# A log declares nothing of this package's configuration; what its own declares is judged by `log_laws`.
_SETTINGS = replace(monitor_settings(RunConfig()), declared=())
# Signals that the size of updates is divided by.
_SCHEDULE_SIGNALS = ("schedule_factor", "schedule_excess")
# Finite values in a row before a non-finite one, and non-finite ones in a row: mixed precision skips single steps.
SOUND, LASTING = 3, 3


@dataclass(frozen=True, slots=True)
class _Alarm:
    """An alarm of a signal, with the log rows of its onset, its raising and its last open step."""

    signal: str
    kind: str
    first: int
    raised: int
    last: int


def judge_log(log: StepLog, declared: Declared | None = None) -> LogVerdict:
    """Judge a log: run the monitor over it, check its values for non-finite ones, and its figures by laws.

    Args:
        log: of another trainer.
        declared: by its configuration; without it only laws are judged that need none.
    """
    alarms, broken, priors, laws, witness = list[_Alarm](), list[str](), None, tuple[LogLaw, ...](), Witness()
    try:
        priors = _priors(log.values)
    except Exception as error:  # noqa: BLE001 - any failure of a check is reported: its silence does not show health
        broken.append(_failure(JointDetector.name, str(error)))
    try:
        watched = Watched(log, reference_of(None, priors), witness)
        alarms += watched.alarms()
        broken += [_failure(name, reason) for name, reason in watched.disabled]
    except Exception as error:  # noqa: BLE001 - as above
        broken.append(_failure("the monitor", str(error)))
    try:
        laws = laws_of(log, declared)
        alarms += [alarm for law in laws for alarm in _broken(law)]
    except Exception as error:  # noqa: BLE001 - as above
        broken.append(_failure("the laws", str(error)))
    for name in _NUMBERS:
        alarms += not_finite(name, log.values[name]) if name in log.values else ()
    readings = LogReadings((), ())
    try:
        readings = read(log)
    except Exception as error:  # noqa: BLE001 - as above
        broken.append(_failure("the readings", str(error)))
    judged = _judged(log, priors) | readings.read_names() | {law.signal for law in laws}
    unchecked = tuple(column for name, column in log.columns.items() if name not in judged)
    found = [_finding(log, alarm) for alarm in _merged(alarms) if not _is_of_solving(log, alarm)]
    stretches = [(alarm.first, alarm.last) for alarm in alarms if alarm.kind == NOT_FINITE]
    found += [_of_reading(log, each) for each in readings.breaks if not is_told(log.values, each, stretches)]
    found.sort(key=lambda finding: (finding.first_step, finding.signal, finding.kind))
    critical = tuple(finding for finding in found if finding.grade == Grade.CRITICAL)
    warnings = tuple(f for f in found if f.grade != Grade.CRITICAL and not any(c.covers(f) for c in critical))
    partial = log.damaged or bool(broken)
    coverage = _coverage(log, joint=priors is not None)
    enough = 2 * coverage.run >= coverage.possible
    missing = {name: _checked(log)[name][0] for name in coverage.missing}
    needed = lacks(log.values, missing, readings, enough=enough)
    verdict = _verdict(critical, warnings, coverage, needed, partial=partial)
    heard = Heard(witness, laws, readings.breaks, [(a.signal, a.first) for a in alarms if a.kind == NOT_FINITE])
    try:
        fault = name_log(heard, _standing(log, critical), log.steps.tolist(), log.values)
    except Exception as error:  # noqa: BLE001 - as above
        fault = None
        broken.append(_failure("the naming", str(error)))
    return LogVerdict(
        verdict, partial, coverage, critical, tuple(broken), unchecked, log.unused, log.notes, warnings, readings.runs,
        needed if verdict == "unknown" else (), tuple(map(_check, laws)), fault,
    )  # fmt: skip


def _standing(log: StepLog, critical: Iterable[Finding]) -> list[tuple[str, int]]:
    """Signals of alarms, with the row at which each was raised."""
    return [(finding.signal, int(np.searchsorted(log.steps, finding.raised_step))) for finding in critical]


def _check(law: LogLaw) -> LawCheck:
    return LawCheck(law.name, law.states, law.rows, len(law.broken), law.largest, law.strength)


def _broken(law: LogLaw) -> Iterator[_Alarm]:
    """Breaks of a law, each from its first row to its last; rows on which it cannot be judged do not end one."""
    broken = [row in set(law.broken) for row in law.judged]
    for is_broken, group in itertools.groupby(zip(law.judged, broken, strict=True), key=lambda pair: pair[1]):
        rows = [row for row, _ in group]
        if is_broken:
            yield _Alarm(law.signal, f"{LAW}_{law.name}", rows[0], rows[0], rows[-1])


def _failure(name: str, reason: str) -> str:
    return f"{name} failed ({' '.join(reason.split())[:120]})"


def _judged(log: StepLog, priors: KindPriors | None) -> set[str]:
    """Signals of the log that a check reads, and that are long enough for it."""
    detectors = build_detectors(_SETTINGS, reference_of(None, priors))
    others = [detector for detector in detectors if not isinstance(detector, ReadingDetector)]
    watched = {output.signal for detector in others for output in detector.outputs}
    # With priors, the joint detector also judges all signals of its correlation model.
    watched |= set(priors.own_past.bank.signals) if priors is not None else set()
    watched |= {*_SCHEDULE_SIGNALS, *(rate.count for rate in rates(_SETTINGS.noise))}
    if not set(_SCHEDULE_SIGNALS) <= set(log.values):
        # Without the schedule, changes in the size of updates cannot be judged.
        watched.discard("update_ratio")
    return {name for name in log.values if name in _NUMBERS or (name in watched and _length(log, name) >= FEWEST)}


def _has_column(log: StepLog, signal: str) -> bool:
    return signal in log.values or signal not in INDEX


class Watched:
    """Runs the monitor over a log.

    Attributes:
        disabled: detectors that failed, and why.
    """

    def __init__(self, log: StepLog, reference: Reference, witness: Witness) -> None:
        self._witness = witness
        self.disabled: list[tuple[str, str]] = []
        self._log = log
        # The readings see the whole log, with what only logs have. Without a column for any of its signals a detector
        # has nothing to say; one that is about several signals together has its name for them.
        suite = [
            detector
            for detector in build_detectors(_SETTINGS, reference)
            if not isinstance(detector, ReadingDetector) and any(_has_column(log, o.signal) for o in detector.outputs)
        ]
        self._monitor = Monitor(_SETTINGS, reference, suite, shipped=False)

    def _reports(self) -> Iterator[ReportTable]:
        """The steps of the log in chunks, to bound memory."""
        names = [name for name in self._log.values if name in INDEX]
        columns = np.array([INDEX[name] for name in names])
        for start in range(0, len(self._log.steps), CHUNK):
            rows = slice(start, min(start + CHUNK, len(self._log.steps)))
            table = np.full((rows.stop - start, len(SIGNALS)), np.nan)
            for column, name in zip(columns.tolist(), names, strict=True):
                values = self._log.values[name][rows]
                table[:, column] = np.where(np.isfinite(values), values, np.nan)
            yield ReportTable(np.arange(start + 1, start + 1 + len(table)), table)

    def alarms(self) -> list[_Alarm]:
        """Alarms by log rows, each under the signal that it named when it was raised."""
        closed, open_alarms = list[_Alarm](), dict[tuple[str, str], _Alarm]()
        for reports in self._reports():
            for observed in self._monitor.watch(reports):
                self.disabled += [each for disabled in observed.disabled.values() for each in disabled]
                self._witness.watch(observed)
                # A row without a symptom changes something only where it ends the alarms of the row before.
                told = sorted(observed.symptoms)
                for row in sorted({0, *told, *(row + 1 for row in told if row + 1 < len(observed))}):
                    closed += _follow(open_alarms, observed.symptoms.get(row, ()), int(observed.view.steps[row]) - 1)
        return [*closed, *open_alarms.values()]


def _follow(open_alarms: dict[tuple[str, str], _Alarm], symptoms: Iterable[Symptom], row: int) -> list[_Alarm]:
    """Follow the open alarms through a row of the log with these symptoms; returns those that end there."""
    active = {_key(symptom): symptom for symptom in symptoms if symptom.alarm}
    closed = [open_alarms.pop(key) for key in list(open_alarms) if key not in active]
    for key, symptom in active.items():
        raised = _Alarm(symptom.signal, _kind(symptom), symptom.onset - 1, row, row)
        open_alarms[key] = replace(open_alarms.get(key, raised), last=row)
    return closed


def _key(symptom: Symptom) -> tuple[str, str]:
    """The identity of an alarm from step to step; the joint detector may name other signals as evidence grows."""
    return symptom.detector, "" if symptom.detector == JointDetector.name else f"{symptom.signal}{symptom.direction}"


def _kind(symptom: Symptom) -> str:
    if symptom.detector == ChangePointDetector.name:
        return JUMP
    return symptom.detector.removeprefix("trend:").partition(":")[0]


def _priors(values: Mapping[str, Floats]) -> KindPriors | None:
    """The shipped priors, for a log with enough of their signals; None for others."""
    measured = [name for name, column in values.items() if int(np.isfinite(column).sum()) >= FEWEST]
    priors = shipped(kind_with(measured))
    return priors if has_enough_signals(priors, measured) else None


def _merged(alarms: Iterable[_Alarm]) -> list[_Alarm]:
    """Alarms without those that overlap another one of their signal and kind: a person sees one alarm there."""
    merged = dict[tuple[str, str], list[_Alarm]]()
    for alarm in sorted(alarms, key=lambda each: each.first):
        known = merged.setdefault((alarm.signal, alarm.kind), [])
        if known and alarm.first <= known[-1].last:
            before = known.pop()
            raised, last = min(before.raised, alarm.raised), max(before.last, alarm.last)
            alarm = replace(before, raised=raised, last=last)
        known.append(alarm)
    return [alarm for known in merged.values() for alarm in known]


def _is_of_solving(log: StepLog, alarm: _Alarm) -> bool:
    return alarm.kind == JUMP and is_of_solving(log.values, alarm.signal, alarm.first, alarm.raised)


def _checked(log: StepLog) -> dict[str, tuple[Sequence[str], int]]:
    """Checks that a log can have: signals of which one suffices, and rows that it needs."""
    checks: dict[str, tuple[Sequence[str], int]] = {FINITE: (_NUMBERS, 1)}
    checks |= {name: (signals, FEWEST) for name, signals in EXPECTED.items()}
    expected = {name for names in EXPECTED.values() for name in names}
    others = [name for name in log.values if name not in expected and name in CHANGE_SIGNALS]
    return {**checks, OTHERS: (others, FEWEST)} if others else checks


def _coverage(log: StepLog, *, joint: bool) -> Coverage:
    """Coverage by the checks that had their columns and steps. Missing optional columns do not lower it."""
    checks = _checked(log)
    longest = {
        name: max((_length(log, signal) for signal in signals), default=0) for name, (signals, _) in checks.items()
    }
    missing = [name for name, (_, fewest) in checks.items() if longest[name] < fewest]
    possible = len(checks) + joint
    return Coverage(possible - len(missing), possible, tuple(missing))


def _verdict(
    critical: Sequence[Finding],
    warnings: Sequence[Finding],
    coverage: Coverage,
    needed: Sequence[str],
    *,
    partial: bool,
) -> str:
    if critical:
        return "faulty"
    if partial:
        return "incomplete"
    if needed or 2 * coverage.run < coverage.possible:
        return "unknown"
    return (
        "doubtful"
        if any(not warning.recovered for warning in warnings if warning.grade == Grade.WARNING)
        else "healthy"
    )


def _length(log: StepLog, name: str) -> int:
    return int((~np.isnan(log.values[name])).sum()) if name in log.values else 0


def _finding(log: StepLog, alarm: _Alarm) -> Finding:
    first, raised, last = (int(log.steps[row]) for row in (alarm.first, alarm.raised, alarm.last))
    later = np.flatnonzero(~np.isnan(log.values[alarm.signal]))
    # The self-baseline adapts: the end of joint evidence does not show that the signal returned.
    recovered = alarm.kind != JointDetector.name and alarm.last < int(later[-1])
    return Finding(alarm.signal, log.columns[alarm.signal], alarm.kind, first, raised, last, recovered)


def _of_reading(log: StepLog, found: Break) -> Finding:
    first, raised, last = (int(log.steps[row]) for row in (found.first, found.raised, found.last))
    column, recovered = log.columns.get(found.signal, found.signal), found.last < len(log.steps) - 1
    return Finding(
        found.signal, column, found.rule.name, first, raised, last, recovered, str(found.rule.grade), found.says
    )


def not_finite(name: str, values: Floats) -> list[_Alarm]:
    """Runs of non-finite values, by log rows: those after finite ones that last, or reach the end of the log."""
    logged = np.flatnonzero(~np.isnan(values))
    alarms, start, finite = list[_Alarm](), 0, 0
    for wrong, group in itertools.groupby(np.isinf(values[logged]).tolist()):
        count = len(list(group))
        never_finite = name in _ESSENTIAL and count == len(logged)
        ends = start + count == len(logged)
        if wrong and ((finite >= SOUND and (count >= LASTING or ends)) or (never_finite and count >= LASTING)):
            first, last = int(logged[start]), int(logged[start + count - 1])
            alarms.append(_Alarm(name, NOT_FINITE, first, first, last))
        finite = 0 if wrong else count
        start += count
    return alarms
