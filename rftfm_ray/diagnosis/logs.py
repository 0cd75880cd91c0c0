"""A verdict on the step log of somebody else's run, held against its own past.

What is looked at is grouped in checks. A check without its columns lowers coverage; one that had them and broke makes
the verdict incomplete: silence of a part that did not run is no health.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.detectors.change_point import CHANGE_SIGNALS, ChangePointDetector
from rftfm_ray.detection.detectors.exact import FiniteDetector
from rftfm_ray.detection.detectors.joint import JointDetector
from rftfm_ray.detection.monitor import CHUNK, Monitor
from rftfm_ray.detection.reference.mixture import Reference, reference_of
from rftfm_ray.detection.reference.priors import KindPriors, enough, kind_with, shipped
from rftfm_ray.detection.statistics.change_points import FEWEST, Floats
from rftfm_ray.detection.suite import build_detectors, monitor_settings, rates
from rftfm_ray.integrations.steplog import StepLog
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport, Symptom

EXPECTED: Mapping[str, tuple[str, ...]] = {
    "reward": ("reward_mean", "correct_rate"),
    "reward_spread": ("reward_std", "zero_variance_group_rate", "advantage_std"),
    "kl": ("kl_ref", "kl_old"),
    "entropy": ("entropy", "sampling_logprob_mean"),
    "length": ("length_mean", "truncated_rate", "eos_rate"),
    "gradient": ("grad_norm",),
    "update": ("policy_loss", "loss", "clip_high_rate", "clip_low_rate", "step_kl", "rollout_kl"),
}
"""Checks that any run of reinforcement fine-tuning can have, and the signals that each asks for one of."""
FINITE, OTHERS = "finite", "others"
JUMP, NOT_FINITE = "jump", "not_finite"
_NUMBERS = (*FiniteDetector.WATCHED, "reward_mean", "policy_loss", "value_loss", "kl_old", "advantage_mean")
# Without them there is no update at all.
_ESSENTIAL = ("loss", "policy_loss", "grad_norm")
_SETTINGS = monitor_settings(RunConfig())
# What the size of updates is taken over.
_BESIDE = ("schedule_factor", "schedule_excess")
# Finite values in a row before one that is none, and such ones in a row: mixed precision skips a step now and then.
SOUND, LASTING = 3, 3


@dataclass(frozen=True, slots=True)
class Finding:
    """An alarm, by the steps of the log.

    Attributes:
        signal: its name in the dictionary of signals.
        column: its name in the log.
        kind: `jump`, `joint`, `not_finite`, or the name of the detector that raised it.
        first_step: at which it began, as far as can be told.
        raised_step: at which it was certain.
        last_step: last one at which it stood.
        recovered: whether the signal was seen to come back while the run went on.
    """

    signal: str
    column: str
    kind: str
    first_step: int
    raised_step: int
    last_step: int
    recovered: bool


@dataclass(frozen=True, slots=True)
class Coverage:
    """Checks that were run, of how many, and those that lacked columns or steps."""

    run: int
    possible: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogVerdict:
    """What there is to say of a log.

    Attributes:
        verdict: `faulty` with an alarm; else `incomplete` when a check broke or a part of the file was unreadable;
            else `unknown` when fewer than half of the checks were run; else `healthy`.
        partial: whether a part of the log could not be judged, whatever the verdict.
        coverage: of the checks.
        alarms: by the step at which they began.
        broken: checks that had their inputs and failed.
        unused_columns: columns that no check has read.
        notes: on the file, one sentence each.
    """

    verdict: str
    partial: bool
    coverage: Coverage
    alarms: tuple[Finding, ...]
    broken: tuple[str, ...]
    unused_columns: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Alarm:
    """An alarm by places in the log: of a signal and a kind, from its onset to the last place at which it stood."""

    signal: str
    kind: str
    first: int
    raised: int
    last: int


def judge_log(log: StepLog) -> LogVerdict:
    """Put a log before the monitor, and look at what it has written as no number."""
    alarms, broken, priors = list[_Alarm](), list[str](), None
    try:
        priors = _priors(log.values)
    except Exception as error:  # noqa: BLE001 - whatever it is, silence of a check is no health
        broken.append(_failure(JointDetector.name, str(error)))
    try:
        watched = Watched(log, reference_of(None, priors))
        alarms += watched.alarms()
        broken += [_failure(name, reason) for name, reason in watched.disabled]
    except Exception as error:  # noqa: BLE001 - as above
        broken.append(_failure("the monitor", str(error)))
    for name in _NUMBERS:
        alarms += not_finite(name, log.values[name]) if name in log.values else ()
    judged = _judged(log, priors)
    unused = (*log.unused, *(column for name, column in log.columns.items() if name not in judged))
    findings = sorted(
        (_finding(log, alarm) for alarm in alarms), key=lambda one: (one.first_step, one.signal, one.kind)
    )
    partial = log.damaged or bool(broken)
    coverage = _coverage(log, joint=priors is not None)
    verdict = _verdict(tuple(findings), coverage, partial=partial)
    return LogVerdict(verdict, partial, coverage, tuple(findings), tuple(broken), unused, log.notes)


def _failure(name: str, reason: str) -> str:
    return f"{name} failed ({' '.join(reason.split())[:120]})"


def _judged(log: StepLog, priors: KindPriors | None) -> set[str]:
    """Signals of the log that something looks at, and that are long enough for it."""
    detectors = build_detectors(_SETTINGS, reference_of(None, priors))
    watched = {output.signal for detector in detectors for output in detector.outputs}
    # What the joint detector expects from all others it also judges by them, where it knows how they go together.
    watched |= set(priors.own_past.bank.signals) if priors is not None else set()
    watched |= {*_BESIDE, *(rate.count for rate in rates(_SETTINGS.noise))}
    if not set(_BESIDE) <= set(log.values):
        # Nothing says which sizes of updates are those that a schedule called for.
        watched.discard("update_ratio")
    return {name for name in log.values if name in _NUMBERS or (name in watched and _length(log, name) >= FEWEST)}


class Watched:
    """A log before the monitor.

    Attributes:
        disabled: detectors that failed, and why.
    """

    def __init__(self, log: StepLog, reference: Reference) -> None:
        self.disabled: list[tuple[str, str]] = []
        self._log = log
        self._monitor = Monitor(_SETTINGS, reference)

    def _reports(self) -> Iterator[list[StepReport]]:
        """The steps of the log in chunks: reports of all of them at once would fill the memory."""
        names = [name for name in self._log.values if name in INDEX]
        columns = np.array([INDEX[name] for name in names])
        for start in range(0, len(self._log.steps), CHUNK):
            rows = slice(start, min(start + CHUNK, len(self._log.steps)))
            table = np.full((rows.stop - start, len(SIGNALS)), np.nan)
            for column, name in zip(columns.tolist(), names, strict=True):
                values = self._log.values[name][rows]
                table[:, column] = np.where(np.isfinite(values), values, np.nan)
            yield [
                StepReport(StepId(0, place, place), place, tuple(row))
                for place, row in enumerate(table.tolist(), start=start + 1)
            ]

    def alarms(self) -> list[_Alarm]:
        """Alarms by places in the log, each under the signal that it named as it was raised."""
        over, standing = list[_Alarm](), dict[tuple[str, str], _Alarm]()
        for reports in self._reports():
            for seen in self._monitor.observe(reports):
                self.disabled += seen.disabled
                if not seen.symptoms and not standing:
                    continue
                place = seen.report.id.step - 1
                now = {_key(one): one for one in seen.symptoms if one.alarm}
                over += [standing.pop(key) for key in list(standing) if key not in now]
                for key, one in now.items():
                    first = _Alarm(one.signal, _kind(one), one.onset - 1, place, place)
                    standing[key] = replace(standing.get(key, first), last=place)
        return [*over, *standing.values()]


def _key(symptom: Symptom) -> tuple[str, str]:
    """What makes an alarm the same from step to step: the joint detector names another signal as evidence grows."""
    return symptom.detector, "" if symptom.detector == JointDetector.name else f"{symptom.signal}{symptom.direction}"


def _kind(symptom: Symptom) -> str:
    if symptom.detector == ChangePointDetector.name:
        return JUMP
    return symptom.detector.removeprefix("trend:").partition(":")[0]


def _priors(values: Mapping[str, Floats]) -> KindPriors | None:
    """How signals go together, for a log that holds enough of them; None for others."""
    measured = [name for name, column in values.items() if int(np.isfinite(column).sum()) >= FEWEST]
    priors = shipped(kind_with(measured))
    return priors if enough(priors, measured) else None


def _coverage(log: StepLog, *, joint: bool) -> Coverage:
    """Checks that had their columns and steps. What only some logs hold is no gap where it is missing."""
    checks: dict[str, tuple[Iterable[str], int]] = {FINITE: (_NUMBERS, 1)}
    checks |= {name: (signals, FEWEST) for name, signals in EXPECTED.items()}
    expected = {name for names in EXPECTED.values() for name in names}
    others = [name for name in log.values if name not in expected and name in CHANGE_SIGNALS]
    checks |= {OTHERS: (others, FEWEST)} if others else {}
    longest = {name: max((_length(log, one) for one in signals), default=0) for name, (signals, _) in checks.items()}
    missing = [name for name, (_, fewest) in checks.items() if longest[name] < fewest]
    possible = len(checks) + joint
    return Coverage(possible - len(missing), possible, tuple(missing))


def _verdict(alarms: tuple[Finding, ...], coverage: Coverage, *, partial: bool) -> str:
    if alarms:
        return "faulty"
    if partial:
        return "incomplete"
    return "unknown" if 2 * coverage.run < coverage.possible else "healthy"


def _length(log: StepLog, name: str) -> int:
    return int((~np.isnan(log.values[name])).sum()) if name in log.values else 0


def _finding(log: StepLog, alarm: _Alarm) -> Finding:
    first, raised, last = (int(log.steps[place]) for place in (alarm.first, alarm.raised, alarm.last))
    later = np.flatnonzero(~np.isnan(log.values[alarm.signal]))
    # What has departed from all others is usual after a while: that its evidence ends does not say that it came back.
    recovered = alarm.kind != JointDetector.name and alarm.last < int(later[-1])
    return Finding(alarm.signal, log.columns[alarm.signal], alarm.kind, first, raised, last, recovered)


def not_finite(name: str, values: Floats) -> list[_Alarm]:
    """Runs of values that are no finite numbers, by places in the log: after sound ones, and lasting or to the end."""
    there = np.flatnonzero(~np.isnan(values))
    found, place, sound = list[_Alarm](), 0, 0
    for wrong, group in itertools.groupby(np.isinf(values[there]).tolist()):
        count = len(list(group))
        whole = name in _ESSENTIAL and count == len(there)
        ends = place + count == len(there)
        if wrong and ((sound >= SOUND and (count >= LASTING or ends)) or (whole and count >= LASTING)):
            first, last = int(there[place]), int(there[place + count - 1])
            found.append(_Alarm(name, NOT_FINITE, first, first, last))
        sound = 0 if wrong else count
        place += count
    return found
