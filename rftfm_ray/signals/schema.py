"""The named schema of a step report: the signals of the dictionary in the order of a report's values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from operator import attrgetter

from rftfm_ray.metrics import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, UpdateMetrics
from rftfm_ray.signals.dictionary import DICTIONARY, Scale, Signal
from rftfm_ray.verdicts import StepReport

__all__ = ["INDEX", "SIGNALS", "Scale", "Signal", "report_of", "value"]

_MEASURED = (BatchMetrics, UpdateMetrics, CreditMetrics, CheckMetrics)
_DERIVED = ("probe_gap", "sampled_gap", "verifier_error_rate")
# Less than one of a million trajectories is a rounding error.
LEAST_RATE = 1e-6
# All fields of a part at once: this is done in the loop's own thread, at every step.
_READ = tuple(attrgetter(*(field.name for field in dataclasses.fields(kind))) for kind in _MEASURED)

SIGNALS: tuple[Signal, ...] = tuple(
    DICTIONARY[name] for name in (*(field.name for kind in _MEASURED for field in dataclasses.fields(kind)), *_DERIVED)
)
"""Every signal of a step report, in the order of its values."""

INDEX: Mapping[str, int] = {signal.name: place for place, signal in enumerate(SIGNALS)}


def value(report: StepReport, name: str) -> float:
    """One signal of a report."""
    return report.values[INDEX[name]]


def report_of(row: StepRow) -> StepReport:
    """A step row as the guard sees it. The gaps are the share of right answers in training less those of the probe."""
    parts, right = (row.batch, row.update, row.credit, row.checks), row.batch.correct_rate
    measured = [figure for read, part in zip(_READ, parts, strict=True) for figure in read(part)]
    gaps = right - row.checks.probe_accuracy, right - row.checks.probe_sampled_accuracy
    failed = verifier_error_rate(row.batch.valid_rate, row.batch.failed_rate)
    return StepReport(row.id, row.model_version, tuple(map(float, (*measured, *gaps, failed))), row.snapshots)


def verifier_error_rate(valid_rate: float, failed_rate: float) -> float:
    """Share of trajectories on which the verifier failed: all but those that may train and those that failed before.

    Rates are in single or double precision; a share that their rounding explains is 0.
    """
    rate = 1.0 - valid_rate - failed_rate
    return 0.0 if abs(rate) < LEAST_RATE else rate
