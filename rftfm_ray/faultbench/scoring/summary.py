"""What a score says, as `rftfm faultbench score --json` prints it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rftfm_ray.faultbench.runs.plan import Split
from rftfm_ray.faultbench.scoring.intervals import Delay, Share
from rftfm_ray.faultbench.scoring.judging import (
    ROWS,
    Judged,
    as_in_the_paper,
    benign,
    delay,
    false_alarms,
    faulty,
    healthy,
    recall,
    rows,
)
from rftfm_ray.faultbench.scoring.score import EVIDENCE, Evaluation, Verdicts
from rftfm_ray.faults.calibration import LEVELS


def figures(found: Evaluation) -> dict[str, Any]:
    """Everything there is to say; numbers that are infinite or unknown are None."""
    ours, cold = found.ours.verdicts(), found.cold.verdicts()
    said: dict[str, Any] = {
        "split": Split.REPORT.value,
        "detector": found.ours.name,
        "thresholds_sha256": found.thresholds_sha256,
        "runs": len(found.ours.scored),
        "healthy_steps": sum(run.healthy_steps for run in healthy(ours.telemetry)),
        **summary(ours),
        "actions_on_healthy": len(found.acted),
        "actions": [{"run": one.run, "step": one.step, "remedy": one.remedy} for one in found.acted],
        "clairvoyant": {level: {"telemetry": _both(found.bound, level)} for level in LEVELS},
        "by_fault": _rows(ours),
        "cold": summary(cold) | {"by_fault": _rows(cold)},
        "paper": {name: {level: as_in_the_paper(ours.of(name), level) for level in LEVELS} for name in EVIDENCE},
        "baselines": {one.name: summary(one.verdicts(), ("telemetry",)) for one in found.compared},
    }
    return {key: _plain(value) for key, value in said.items()}


def _both(judged: Sequence[Judged], level: str) -> dict[str, Any]:
    return _share(recall(faulty(judged, level))) | _delay(delay(faulty(judged, level)))


def summary(judged: Verdicts, evidence: Sequence[str] = EVIDENCE) -> dict[str, Any]:
    """False alarms, recall and delay."""
    return {
        "false_alarms_per_1000": {
            "healthy": {name: false_alarms(healthy(judged.of(name))) for name in evidence},
            "benign": {name: false_alarms(benign(judged.of(name))) for name in evidence},
        },
        "recall": {
            level: {name: _share(recall(faulty(judged.of(name), level))) for name in evidence} for level in LEVELS
        },
        "delay": {
            level: {name: _delay(delay(faulty(judged.of(name), level))) for name in evidence} for level in LEVELS
        },
    }


def _share(share: Share) -> dict[str, Any]:
    return {"rate": share.rate, "low95": share.low95, "high95": share.high95, "n": share.total}


def _delay(found: Delay) -> dict[str, Any]:
    return {"median": found.median, "p90": found.p90, "censored": found.censored, "n": found.total}


def _rows(judged: Verdicts) -> list[dict[str, Any]]:
    return [_row(name, row) for name in EVIDENCE for group in ROWS for row in rows(judged.of(name), group)]


def _row(evidence: str, row: Any) -> dict[str, Any]:
    return {
        "evidence": evidence, "by": row.group, "name": row.name, "level": row.level, "recall": _share(row.share),
        "strict": _share(row.strict), "delay": _delay(row.delay), "without_effect": row.without_effect,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """What JSON can hold: a number that is none is null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
