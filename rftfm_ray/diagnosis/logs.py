"""A verdict on the step log of somebody else's run, held against its own past.

What is looked at is grouped in checks. A check without its columns lowers coverage; one that had them and broke makes
the verdict incomplete: silence of a part that did not run is no health.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from rftfm_ray.detection.detectors.change_point import ColdSignal
from rftfm_ray.detection.detectors.exact import FiniteDetector
from rftfm_ray.detection.statistics.change_points import FEWEST, Floats
from rftfm_ray.detection.statistics.trends import Alarm, Kind
from rftfm_ray.diagnosis.log_departures import departures, known_together
from rftfm_ray.integrations.steplog import StepLog

EXPECTED: Mapping[str, tuple[str, ...]] = {
    "reward": ("reward_mean", "correct_rate"),
    "reward_spread": ("reward_std", "zero_variance_group_rate", "advantage_std"),
    "kl": ("kl_ref", "kl_old"),
    "entropy": ("entropy", "sampling_logprob_mean"),
    "length": ("length_mean", "truncated_rate", "eos_rate"),
    "gradient": ("grad_norm", "update_ratio"),
    "update": ("policy_loss", "loss", "clip_high_rate", "clip_low_rate", "step_kl", "rollout_kl"),
}
"""Checks that any run of reinforcement fine-tuning can have, and the signals that each asks for one of."""
FINITE, OTHERS, TOGETHER = "finite", "others", "together"
_NUMBERS = (*FiniteDetector.WATCHED, "reward_mean", "policy_loss", "value_loss", "kl_old", "advantage_mean")
# Without them there is no update at all.
_ESSENTIAL = ("loss", "policy_loss", "grad_norm")
# Finite values in a row before one that is none, and such ones in a row: mixed precision skips a step now and then.
SOUND, LASTING = 3, 3


@dataclass(frozen=True, slots=True)
class Finding:
    """An alarm, by the steps of the log.

    Attributes:
        signal: its name in the dictionary of signals.
        column: its name in the log.
        kind: one of `detection.trends.Kind`.
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
class _Check:
    """One check of a log: the signals that it reads, and what finds alarms in one of them."""

    name: str
    signals: tuple[str, ...]
    find: Callable[[str, Floats], list[Alarm]]
    fewest: int


def judge_log(log: StepLog) -> LogVerdict:
    """Look at every signal of a log that is known."""
    checks, used = _checks(log.values), set[str]()
    found, broken, missing = list[Finding](), list[str](), list[str]()
    for check in checks:
        signals = [name for name in check.signals if _length(log, name) >= check.fewest]
        if not signals:
            missing.append(check.name)
            continue
        used.update(signals)
        for name in signals:
            try:
                alarms = check.find(name, log.values[name])
            except Exception as error:  # noqa: BLE001 - whatever it is, silence of a check is no health
                broken.append(f"{check.name} failed on {log.columns[name]} ({' '.join(str(error).split())[:120]})")
            else:
                found += (_told(log, alarm) for alarm in alarms)
    together = _together(log, broken)
    found += together or []
    # What only some logs hold is no gap where it is missing.
    possible = len(checks) + (together is not None)
    coverage = Coverage(possible - len(missing), possible, tuple(missing))
    unused = (*log.unused, *(column for name, column in log.columns.items() if name not in used))
    ordered = tuple(sorted(found, key=lambda one: (one.first_step, one.signal, one.kind)))
    partial = log.damaged or bool(broken)
    verdict = _verdict(ordered, coverage, partial=partial)
    return LogVerdict(verdict, partial, coverage, ordered, tuple(broken), unused, log.notes)


def _together(log: StepLog, broken: list[str]) -> list[Finding] | None:
    """Alarms of signals that go together; None where the log holds too little for that."""
    try:
        return [_told(log, alarm) for alarm in departures(log.values)] if known_together(log.values) else None
    except Exception as error:  # noqa: BLE001 - whatever it is, silence of a check is no health
        broken.append(f"{TOGETHER} failed ({' '.join(str(error).split())[:120]})")
        return []


def _verdict(alarms: tuple[Finding, ...], coverage: Coverage, *, partial: bool) -> str:
    if alarms:
        return "faulty"
    if partial:
        return "incomplete"
    return "unknown" if 2 * coverage.run < coverage.possible else "healthy"


def _checks(known: Iterable[str]) -> list[_Check]:
    expected = {name for names in EXPECTED.values() for name in names}
    others = tuple(name for name in known if name not in expected and ColdSignal(name).watched)
    checks = [_Check(FINITE, _NUMBERS, not_finite, 1)]
    checks += [_Check(name, signals, against_own_past, FEWEST) for name, signals in EXPECTED.items()]
    # What only some runs have, as a critic or tools, is no gap where it is missing.
    return checks + ([_Check(OTHERS, others, against_own_past, FEWEST)] if others else [])


def _length(log: StepLog, name: str) -> int:
    return int((~np.isnan(log.values[name])).sum()) if name in log.values else 0


def _told(log: StepLog, alarm: Alarm) -> Finding:
    steps = [int(log.steps[place]) for place in (alarm.first, alarm.raised, alarm.last)]
    values = log.values[alarm.signal]
    later = np.flatnonzero(~np.isnan(values))
    # What has departed from all others is usual after a while: that its evidence ends does not say that it came back.
    recovered = alarm.kind != Kind.DEPARTURE and alarm.last < int(later[-1])
    return Finding(alarm.signal, log.columns[alarm.signal], alarm.kind, steps[0], steps[1], steps[2], recovered)


def against_own_past(name: str, values: Floats) -> list[Alarm]:
    """Alarms of a signal (N, NaN for gaps) by the run's own past, by places in the log."""
    there = np.flatnonzero(np.isfinite(values))
    watch = ColdSignal(name)
    return [
        Alarm(name, alarm.kind, int(there[alarm.first]), int(there[alarm.raised]), int(there[alarm.last]))
        for alarm in (*watch.add(values[there]), *watch.standing)
    ]


def not_finite(name: str, values: Floats) -> list[Alarm]:
    """Runs of values that are no finite numbers, by places in the log: after sound ones, and lasting or to the end."""
    there = np.flatnonzero(~np.isnan(values))
    found, place, sound = list[Alarm](), 0, 0
    for wrong, group in itertools.groupby(np.isinf(values[there]).tolist()):
        count = len(list(group))
        whole = name in _ESSENTIAL and count == len(there)
        ends = place + count == len(there)
        if wrong and ((sound >= SOUND and (count >= LASTING or ends)) or (whole and count >= LASTING)):
            first, last = int(there[place]), int(there[place + count - 1])
            found.append(Alarm(name, Kind.NOT_FINITE, first, first, last))
        sound = 0 if wrong else count
        place += count
    return found
