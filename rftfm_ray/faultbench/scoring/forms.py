"""Shares, delays and rows of a score as they stand in its JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rftfm_ray.faultbench.scoring.intervals import Delay, Share
from rftfm_ray.faultbench.scoring.judging import Row

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | float | int | bool | None"


def share_form(share: Share) -> dict[str, Json]:
    """A share with its interval."""
    return {"rate": share.rate, "low95": share.low95, "high95": share.high95, "n": share.total}


def delay_form(delay: Delay) -> dict[str, Json]:
    """Quantiles of a delay."""
    return {"median": delay.median, "p90": delay.p90, "censored": delay.censored, "n": delay.total}


def row_form(evidence: str, row: Row) -> dict[str, Json]:
    """Recall of some runs by one kind of evidence."""
    return {
        "evidence": evidence, "by": row.group, "name": row.name, "level": row.level, "recall": share_form(row.share),
        "recall_from_effect": share_form(row.from_effect), "delay": delay_form(row.delay),
        "without_effect": row.without_effect,
    }  # fmt: skip


def plain(value: Json) -> Json:
    """What JSON can hold: a number that is infinite or unknown is null, a whole one has no fraction."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 1e15 else round(value, 6)
    return value
