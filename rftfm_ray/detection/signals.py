"""The named schema of a step report: which signals there are, in which order, and how small a change counts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rftfm_ray.types import BatchMetrics, StepRow, UpdateMetrics
from rftfm_ray.verdicts import StepReport


class Scale(StrEnum):
    """How a signal is compared: as a fraction of a batch, by its ratio, or by its difference."""

    RATE = "rate"
    RATIO = "ratio"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True)
class Signal:
    """One entry of the schema. `floor` is the smallest spread that it is ever judged against, in units of its scale
    (nats for a ratio)."""

    name: str
    scale: Scale
    unit: str
    floor: float


def _rate(*names: str) -> list[Signal]:
    # One trajectory of a batch of 128, rounded up.
    return [Signal(name, Scale.RATE, "fraction", 0.01) for name in names]


def _ratio(unit: str, floor: float, *names: str) -> list[Signal]:
    return [Signal(name, Scale.RATIO, unit, floor) for name in names]


def _linear(unit: str, floor: float, *names: str) -> list[Signal]:
    return [Signal(name, Scale.LINEAR, unit, floor) for name in names]


_DESCRIBED: Mapping[str, Signal] = {
    signal.name: signal
    for signal in (
        *_linear("reward", 0.02, "reward_mean", "reward_std", "reward_min", "reward_q10", "reward_q50", "reward_q90"),
        *_linear("reward", 0.02, "reward_max", "regrade_error_mean"),
        *_rate("correct_rate", "valid_rate", "zero_variance_group_rate", "all_right_group_rate"),
        *_rate("all_wrong_group_rate", "eos_rate", "truncated_rate", "failed_rate", "empty_rate", "refilled_rate"),
        *_rate("unique_token_rate", "repeated_bigram_rate", "tool_unparsable_rate", "tool_error_rate"),
        *_rate("tool_retry_rate", "tool_shadow_error_rate", "regrade_mismatch_rate", "trained_mismatch_rate"),
        *_rate("clip_low_rate", "clip_high_rate", "changed_rate", "probe_accuracy"),
        *_linear("tokens", 0.1, "length_mean", "length_q10", "length_q50", "length_q90", "length_max"),
        *_linear("turns", 0.02, "turns_mean"),
        *_linear("calls", 0.02, "tool_calls_mean"),
        *_linear("s", math.inf, "tool_latency_s"),
        *_linear("nats", 0.02, "sampling_logprob_mean", "entropy"),
        *_linear("trajectories", 1.0, "regrade_count", "trajectory_count"),
        *_linear("calls", 1.0, "tool_call_count"),
        *_linear("loss", 0.02, "loss", "policy_loss"),
        *_ratio("nats", 0.15, "kl_ref", "kl_old"),
        *_ratio("ratio", 0.15, "ratio_max"),
        *_linear("advantage", 0.05, "advantage_std", "advantage_max"),
        *_linear("moment", 0.2, "advantage_kurtosis"),
        *_ratio("norm", 0.2, "grad_norm"),
        *_ratio("norm over norm", 0.1, "update_ratio"),
        *_ratio("rate", 0.01, "lr", "kl_coef", "schedule_factor"),
        *_linear("nats", 1e-4, "rollout_gap_max", "parity_gap"),
        *_linear("nats", 1e-6, "lr_excess", "schedule_excess"),
        *_linear("updates", 0.5, "vetoes"),
        *_linear("reward", 0.02, "probe_gap"),
    )
}

_EXTRA = ("probe_accuracy", "parity_gap", "lr_excess", "schedule_excess", "probe_gap")
SIGNALS: tuple[Signal, ...] = tuple(
    _DESCRIBED[name]
    for name in (
        *(field.name for kind in (BatchMetrics, UpdateMetrics) for field in dataclasses.fields(kind)),
        *_EXTRA,
    )
)
"""Every signal of a step report, in the order of its values."""

INDEX: Mapping[str, int] = {signal.name: place for place, signal in enumerate(SIGNALS)}


def value(report: StepReport, name: str) -> float:
    """One signal of a report."""
    return report.values[INDEX[name]]


def report_of(row: StepRow) -> StepReport:
    """A step row as the guard sees it. `probe_gap` is the share of right answers in training less that of the probe."""
    parts = (row.batch, row.update)
    values = [float(getattr(part, field.name)) for part in parts for field in dataclasses.fields(part)]
    gap = row.batch.correct_rate - row.probe_accuracy
    extra = (row.probe_accuracy, row.parity_gap, row.lr_excess, row.schedule_excess, gap)
    return StepReport(row.id, row.model_version, (*values, *extra))
