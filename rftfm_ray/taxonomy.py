"""The faults that this package has words for: code, name, family, and the places that each can sit in.

Nothing in here is about symptoms.

The sixteen are those of RFT-FaultBench (arXiv 2605.04431). Fault injection and diagnosis both read this table, and
neither reads the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rftfm_ray.verdicts import Family, Place

UNKNOWN = "UNKNOWN"
NUMERICAL = "NUMERICAL"
SYNC = "SYNC"
VERIFIER = "VERIFIER"


@dataclass(frozen=True, slots=True)
class FaultType:
    """One fault: its code, its name, the family that it belongs to, and the places that its source can sit in.

    The first of the places is the one where it sits most often, as far as nothing tells more.
    """

    code: str
    name: str
    family: Family
    places: tuple[Place, ...] = ()


SIXTEEN: tuple[FaultType, ...] = (
    FaultType("RF-1", "Reward Spike", Family.RF, (Place.REWARD,)),
    FaultType("RF-2", "Reward Collapse", Family.RF, (Place.REWARD,)),
    FaultType("RF-3", "Reward Hacking", Family.RF, (Place.REWARD,)),
    FaultType("PG-1", "Empty Response", Family.PG, (Place.SAMPLER, Place.REWARD, Place.SERVER, Place.DATA)),
    FaultType("PG-2", "Repetition Collapse", Family.PG, (Place.SAMPLER, Place.REWARD)),
    FaultType("PG-3S", "Too Short", Family.PG, (Place.SAMPLER, Place.REWARD, Place.SERVER, Place.DATA)),
    FaultType("PG-3L", "Too Long", Family.PG, (Place.SAMPLER, Place.REWARD, Place.SERVER, Place.LIMITS)),
    FaultType("OD-1", "KL Explosion", Family.OD, (Place.OPTIMIZER, Place.SCHEDULE)),
    FaultType("OD-2", "Update Freeze", Family.OD, (Place.OPTIMIZER, Place.SYNC)),
    FaultType("OD-3", "Entropy Collapse", Family.OD, (Place.SAMPLER, Place.LOSS)),
    FaultType("CA-1", "Value Mismatch", Family.CA, (Place.CRITIC,)),
    FaultType("CA-2", "Advantage Instability", Family.CA, (Place.BUFFER, Place.ESTIMATOR)),
    FaultType("CA-3", "Delayed Credit", Family.CA, (Place.BUFFER, Place.ESTIMATOR)),
    FaultType("TE-1", "Tool Call Error", Family.TE, (Place.TOOL, Place.LINK)),
    FaultType("TE-2", "Observation Corruption", Family.TE, (Place.TOOL, Place.LINK)),
    FaultType("TE-3", "Termination Error", Family.TE, (Place.LIMITS, Place.TOOL)),
)
"""The faults of RFT-FaultBench, in its order."""

OTHERS: tuple[FaultType, ...] = (
    FaultType(NUMERICAL, "Values that are not finite", Family.NUMERICAL),
    FaultType(SYNC, "Stale weights", Family.SYNC, (Place.SYNC,)),
    FaultType(VERIFIER, "Verifier Failure", Family.UNKNOWN, (Place.REWARD,)),
    FaultType(UNKNOWN, "unknown fault", Family.UNKNOWN),
)
"""What a diagnosis may say beside the sixteen."""

TAXONOMY: Mapping[str, FaultType] = {fault.code: fault for fault in (*SIXTEEN, *OTHERS)}
"""Every fault by its code."""


_LEARNT = ("PG-1", "PG-2", "PG-3S", "PG-3L", "OD-3")
LEADS_TO: Mapping[str, tuple[str, ...]] = {
    # What is paid for is learnt, and what is always the same needs no exploring.
    **dict.fromkeys(("RF-1", "RF-2", "RF-3"), _LEARNT),
    **dict.fromkeys(("PG-1", "PG-2", "PG-3S", "PG-3L"), ("OD-3",)),
    "OD-1": ("OD-3",),
    # A policy that learns from what another one has said, or from credit of other tokens, runs away.
    "OD-2": ("OD-1", "OD-3"),
    **dict.fromkeys(("CA-1", "CA-2", "CA-3"), ("OD-1", "OD-3")),
}
"""Faults that look like another one in the end: what a policy becomes under them is what the other one is known by."""

SEAMS: Mapping[str, tuple[Place, ...]] = {
    "RolloutSeams.reward": (Place.REWARD,),
    # What is asked of the engine is the sampler's, what comes back from it the server's.
    "RolloutSeams.sampler": (Place.SAMPLER, Place.SERVER),
    "RolloutSeams.tools": (Place.TOOL, Place.LINK),
    "RolloutSeams.arrived": (Place.SYNC,),
    "EpisodeSeams.prompt": (Place.DATA,),
    "EpisodeSeams.limits": (Place.LIMITS,),
    "EpisodeSeams.goes_on": (Place.LIMITS,),
    "EpisodeSeams.read": (Place.LINK,),
    "LearnerSeams.factor": (Place.SCHEDULE,),
    "LearnerSeams.gain": (Place.OPTIMIZER,),
    "LearnerSeams.epsilon": (Place.OPTIMIZER,),
    "LearnerSeams.forgotten_share": (Place.OPTIMIZER,),
    "LearnerSeams.frozen_share": (Place.OPTIMIZER,),
    # Coefficients are the loss's, the discount the estimator's.
    "LearnerSeams.settings": (Place.LOSS, Place.ESTIMATOR),
    "LearnerSeams.temperature": (Place.SAMPLER,),
    "LearnerSeams.values": (Place.CRITIC,),
    "LearnerSeams.assigned": (Place.ESTIMATOR,),
    # Advantages on their way to the loss, and the returns that the critic learns.
    "LearnerSeams.delivered": (Place.BUFFER, Place.CRITIC),
}
"""The places that each seam between the parts of a run stands for: what injected faults are judged by."""


def family_of(code: str) -> Family:
    """The family that a code belongs to; UNKNOWN for a code outside the taxonomy."""
    return TAXONOMY.get(code, TAXONOMY[UNKNOWN]).family


def places_of(code: str) -> tuple[Place, ...]:
    """The places that a fault can sit in, the most frequent first; none for a code outside the taxonomy."""
    return TAXONOMY.get(code, TAXONOMY[UNKNOWN]).places


def name_of(code: str) -> str:
    """The name of a fault; "unknown fault" for a code outside the taxonomy."""
    return TAXONOMY.get(code, TAXONOMY[UNKNOWN]).name
