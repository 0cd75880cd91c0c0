"""What remedies read off the signals of a context, and checks of causes that several plans share. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.playbook.plan import SourceCheck
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import StepReport


def newest(ctx: PolicyContext, name: str) -> float:
    """The newest known value of a signal since the earliest step of the fault; NaN without one."""
    pairs = zip(ctx.reports, ctx.signal(name), strict=True)
    known = [v for report, v in pairs if report.id.step >= ctx.diagnosis.onset_low and math.isfinite(v)]
    return known[-1] if known else math.nan


def is_measured(ctx: PolicyContext, name: str) -> bool:
    """Whether a signal has a value at any of the newest steps."""
    return any(math.isfinite(v) for v in ctx.signal(name))


def beyond(limits: dict[str, float]) -> SourceCheck:
    """A check that calls a cause active while one of some signals is larger than its limit."""

    def is_active(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
        del reference
        return any(value(report, name) > limit for report in reports for name, limit in limits.items())

    return is_active
