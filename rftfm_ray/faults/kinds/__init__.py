"""Mechanisms that inject each of the sixteen faults (`taxonomy.SIXTEEN`), one module a family.

`signal` is the telemetry signal that a mechanism moves first, and in which direction: it is named in advance, and
strengths are calibrated on it (`calibration`). It is never an identity or an independent channel. `shown_by` names the
identity that a mechanism breaks by construction; where it is empty, every identity holds. `breaks` names the laws of a
step (`Law`) that it breaks; every fault has a mechanism that keeps all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from rftfm_ray.faults.kinds.base import ALGORITHMS, CRITIC, FaultKind, Law, Mechanism, Strength
from rftfm_ray.faults.kinds.credit import CREDIT_FAULTS
from rftfm_ray.faults.kinds.environment import ENVIRONMENT_FAULTS
from rftfm_ray.faults.kinds.generation import GENERATION_FAULTS
from rftfm_ray.faults.kinds.optimization import OPTIMIZATION_FAULTS
from rftfm_ray.faults.kinds.reward import REWARD_FAULTS

__all__ = ["ALGORITHMS", "CATALOGUE", "CRITIC", "FaultKind", "Law", "Mechanism", "Strength"]

CATALOGUE: Mapping[str, FaultKind] = {
    kind.code: kind
    for kind in (*REWARD_FAULTS, *GENERATION_FAULTS, *OPTIMIZATION_FAULTS, *CREDIT_FAULTS, *ENVIRONMENT_FAULTS)
}
"""Every fault by its code."""
