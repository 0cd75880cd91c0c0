"""Credit faults (CA): no remedy is shipped, so people decide."""

from __future__ import annotations

from collections.abc import Mapping

from rftfm_ray.policies.playbook.plan import NO_PLAN, RemedyPlan

PLANS: Mapping[str, RemedyPlan] = {"CA-1": NO_PLAN, "CA-2": NO_PLAN, "CA-3": NO_PLAN}
"""By code of the fault."""
