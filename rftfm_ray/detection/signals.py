"""The named schema of a step report: the signals of the dictionary in the order of a report's values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from rftfm_ray.detection.dictionary import DICTIONARY, Scale, Signal
from rftfm_ray.types import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, UpdateMetrics
from rftfm_ray.verdicts import StepReport

__all__ = ["INDEX", "SIGNALS", "Scale", "Signal", "report_of", "value"]

_MEASURED = (BatchMetrics, UpdateMetrics, CreditMetrics, CheckMetrics)
_DERIVED = ("probe_gap", "sampled_gap")

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
    parts = (row.batch, row.update, row.credit, row.checks)
    values = [float(getattr(part, field.name)) for part in parts for field in dataclasses.fields(part)]
    right, checks = row.batch.correct_rate, row.checks
    gaps = (right - checks.probe_accuracy, right - checks.probe_sampled_accuracy)
    return StepReport(row.id, row.model_version, (*values, *gaps))
