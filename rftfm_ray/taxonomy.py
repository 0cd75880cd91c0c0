"""The faults that this package has words for: code, name and family of each, and nothing about symptoms or causes.

The sixteen are those of RFT-FaultBench (arXiv 2605.04431). Fault injection and diagnosis both read this table, and
neither reads the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rftfm_ray.verdicts import Family

UNKNOWN = "UNKNOWN"
NUMERICAL = "NUMERICAL"
SYNC = "SYNC"
VERIFIER = "VERIFIER"


@dataclass(frozen=True, slots=True)
class FaultType:
    """One fault: its code, its name, and the family that it belongs to."""

    code: str
    name: str
    family: Family


SIXTEEN: tuple[FaultType, ...] = (
    FaultType("RF-1", "Reward Spike", Family.RF),
    FaultType("RF-2", "Reward Collapse", Family.RF),
    FaultType("RF-3", "Reward Hacking", Family.RF),
    FaultType("PG-1", "Empty Response", Family.PG),
    FaultType("PG-2", "Repetition Collapse", Family.PG),
    FaultType("PG-3S", "Too Short", Family.PG),
    FaultType("PG-3L", "Too Long", Family.PG),
    FaultType("OD-1", "KL Explosion", Family.OD),
    FaultType("OD-2", "Update Freeze", Family.OD),
    FaultType("OD-3", "Entropy Collapse", Family.OD),
    FaultType("CA-1", "Value Mismatch", Family.CA),
    FaultType("CA-2", "Advantage Instability", Family.CA),
    FaultType("CA-3", "Delayed Credit", Family.CA),
    FaultType("TE-1", "Tool Call Error", Family.TE),
    FaultType("TE-2", "Observation Corruption", Family.TE),
    FaultType("TE-3", "Termination Error", Family.TE),
)
"""The faults of RFT-FaultBench, in its order."""

OTHERS: tuple[FaultType, ...] = (
    FaultType(NUMERICAL, "Values that are not finite", Family.NUMERICAL),
    FaultType(SYNC, "Stale weights", Family.SYNC),
    FaultType(VERIFIER, "Verifier Failure", Family.UNKNOWN),
    FaultType(UNKNOWN, "unknown fault", Family.UNKNOWN),
)
"""What a diagnosis may say beside the sixteen."""

TAXONOMY: Mapping[str, FaultType] = {fault.code: fault for fault in (*SIXTEEN, *OTHERS)}
"""Every fault by its code."""


def family_of(code: str) -> Family:
    """The family that a code belongs to; UNKNOWN for a code outside the taxonomy."""
    return TAXONOMY.get(code, TAXONOMY[UNKNOWN]).family


def name_of(code: str) -> str:
    """The name of a fault; "unknown fault" for a code outside the taxonomy."""
    return TAXONOMY.get(code, TAXONOMY[UNKNOWN]).name
