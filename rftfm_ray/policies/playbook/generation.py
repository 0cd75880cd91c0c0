"""Generation faults (PG): no remedy is shipped, so people decide."""

from __future__ import annotations

from collections.abc import Mapping

from rftfm_ray.policies.playbook.plan import NO_PLAN, RemedyPlan

PLANS: Mapping[str, RemedyPlan] = {"PG-1": NO_PLAN, "PG-2": NO_PLAN, "PG-3S": NO_PLAN, "PG-3L": NO_PLAN}
"""By code of the fault."""
