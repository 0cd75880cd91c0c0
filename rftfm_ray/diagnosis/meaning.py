"""What a broken law or identity can mean: which faults cause it, and where they act. Written, not learnt. Pure.

Each is broken by what it is about, so the tables say which faults can be behind a break, and all others cannot. The
strength that a law measures stands in its symptom (`Symptom.strength`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.detection.detectors.laws import FLOOR, LAW, OWN_REWARD
from rftfm_ray.detection.detectors.readings import PREFIX
from rftfm_ray.diagnosis.findings import INTACT
from rftfm_ray.diagnosis.raised import RAISED_BY
from rftfm_ray.verdicts import Evidence, Place, Symptom

LAW_EXCLUDED = 4.0
"""Nats against a fault that cannot break a law that is broken: one in fifty, for a table may be incomplete."""
FLOOR_EXCLUDED = 1.0
"""The same for a floor, which other faults may lift a little once they have changed the policy."""
IDENTITY_EXCLUDED = 4.0
"""The same for an identity: one in fifty, for two faults may be there, and the other one has broken it."""
INTACT_NATS: Mapping[str, float] = {"OD-1": 3.0, "OD-2": 3.0}
"""Nats against a fault where what it would break holds, if one of its mechanisms breaks nothing; else as above."""


@dataclass(frozen=True, slots=True)
class BreakMeaning:
    """The meaning of a broken law or a figure beyond its floor.

    Attributes:
        places: where what breaks it can act.
        above: nats by fault where the figure is too large.
        below: nats by fault where it is too small.
    """

    places: tuple[Place, ...]
    above: Mapping[str, float]
    below: Mapping[str, float]

    def of(self, direction: int) -> Mapping[str, float]:
        """Nats by fault on one side."""
        return self.above if direction > 0 else self.below


_CREDIT = {"CA-2": 3.0, "CA-3": 3.0}
_OLD_LOGPROBS = {"OD-1": 3.0, "OD-2": 1.0}
_REWARD = BreakMeaning(
    (Place.REWARD,),
    {"RF-1": 3.0, "RF-3": 2.5, "PG-1": 2.0, "PG-2": 2.0, "PG-3L": 2.0, "PG-3S": 1.0},
    # A loophole may pay less for right answers than it pays for wrong ones.
    {"RF-2": 3.0, "RF-3": 2.5, "RF-1": 2.0, "PG-3S": 2.0, "PG-1": 1.0, "PG-2": 1.0, "PG-3L": 1.0},
)

BREAKS: Mapping[str, BreakMeaning] = {
    f"{LAW}:advantage_mean": BreakMeaning((Place.ESTIMATOR, Place.BUFFER), _CREDIT, _CREDIT),
    # Noise widens advantages by much, advantages of other tokens or trajectories by little.
    f"{LAW}:advantage_spread": BreakMeaning(
        (Place.ESTIMATOR, Place.BUFFER), {"CA-2": 4.0, "CA-3": 2.0}, {"CA-2": 2.0, "CA-3": 2.0}
    ),
    f"{LAW}:returns": BreakMeaning(
        (Place.ESTIMATOR,), {"CA-3": 5.0, "CA-1": 1.0}, {"CA-3": 5.0, "CA-1": 1.0}
    ),
    f"{LAW}:surrogate": BreakMeaning((Place.ESTIMATOR, Place.BUFFER), _CREDIT, _CREDIT),
    # A loss that is too high by a share of the entropy pays for a low one.
    f"{LAW}:loss": BreakMeaning(
        (Place.LOSS,), {"OD-3": 5.0, "OD-1": 1.0, "CA-1": 1.0}, {"OD-1": 2.0, "OD-3": 1.0, "CA-1": 1.0}
    ),
    f"{LAW}:centred_loss": BreakMeaning(
        (Place.LOSS, Place.ESTIMATOR, Place.BUFFER),
        {"OD-3": 3.0, "CA-2": 2.0, "CA-3": 2.0}, {"OD-3": 1.0, "CA-2": 2.0, "CA-3": 2.0},
    ),
    f"{LAW}:ratio": BreakMeaning((Place.LOSS, Place.BUFFER), _OLD_LOGPROBS, _OLD_LOGPROBS),
    f"{LAW}:clip": BreakMeaning((Place.LOSS, Place.BUFFER), _OLD_LOGPROBS, _OLD_LOGPROBS),
    f"{LAW}:start": BreakMeaning((Place.LOSS,), {"OD-1": 2.0}, {}),
    f"{LAW}:flat": BreakMeaning(
        (Place.ESTIMATOR, Place.BUFFER, Place.LOSS), {"CA-2": 3.0, "OD-3": 2.0, "CA-3": 1.0}, {}
    ),
    f"{LAW}:rate": BreakMeaning((Place.SCHEDULE,), {"OD-1": 5.0}, {"OD-2": 5.0}),
    f"{LAW}:reward": _REWARD,
    f"{LAW}:{OWN_REWARD}": _REWARD,
    f"{LAW}:turns": BreakMeaning((Place.LIMITS, Place.TOOL), {"TE-3": 5.0}, {"TE-3": 5.0}),
    # A failure that is graded pays 0 where nothing was to be paid.
    f"{LAW}:masked": BreakMeaning((Place.REWARD, Place.TOOL), {"RF-2": 3.0, "TE-1": 2.0}, {}),
    f"{LAW}:limit": BreakMeaning(
        (Place.LIMITS, Place.SERVER), {"TE-3": 3.0, "PG-3L": 3.0}, {"TE-3": 3.0, "PG-3S": 3.0}
    ),
    f"{FLOOR}:rollout": BreakMeaning(
        (Place.SAMPLER, Place.SERVER, Place.SYNC),
        {"PG-1": 2.0, "PG-2": 2.0, "PG-3S": 2.0, "PG-3L": 2.0, "OD-3": 2.0, "OD-2": 2.0}, {},
    ),
    f"{FLOOR}:tool_error_rate": BreakMeaning((Place.TOOL,), {"TE-1": 4.0}, {}),
    f"{FLOOR}:weights": BreakMeaning((Place.OPTIMIZER,), {}, {"OD-2": 4.0}),
    f"{FLOOR}:old_policy": BreakMeaning((Place.OPTIMIZER, Place.SCHEDULE, Place.LOSS), {"OD-1": 3.0, "OD-2": 1.0}, {}),
    f"{FLOOR}:loss_parts": BreakMeaning(
        (Place.LOSS,), {"OD-3": 3.0, "OD-1": 1.0, "CA-1": 1.0}, {"OD-1": 1.0, "OD-3": 1.0, "CA-1": 1.0}
    ),
}  # fmt: skip
"""By the name of the detector of a law or a floor."""

_CREDIT_CAUSES = ("CA-1", "CA-2", "CA-3")
CAUSES: Mapping[str, tuple[str, ...]] = {
    "identity:served_weights": ("OD-2",),
    "identity:staleness": ("OD-2",),
    "identity:samples": ("CA-2", "CA-3"),
    "identity:values": ("CA-1",),
    "declared_rate": ("OD-1", "OD-2"),
    "identity:update_gain": ("OD-1", "OD-2"),
    "identity:updates_land": ("OD-2",),
    "identity:advantages": _CREDIT_CAUSES,
    "identity:returns": ("CA-1", "CA-3"),
    "identity:credit": ("CA-2", "CA-3"),
    "identity:observations": ("TE-2",),
    "identity:decoded_observations": ("TE-2",),
    "identity:replayed_observations": ("TE-2",),
    # A turn that is ended early by its server is said to have ended at a token that it has not.
    "identity:terminations": ("TE-3", "PG-3S"),
    "identity:replayed_terminations": ("TE-3",),
    "identity:turn_limits": ("TE-3",),
}
"""Faults that can break an identity, by the name of its detector."""
RULED_OUT: Mapping[tuple[str, str], tuple[str, ...]] = {
    # Where no turn ends early, the tokens run into a limit of which nothing is said.
    ("identity:terminations", "no_turn_cut_short"): ("PG-3S",),
}
"""Causes of an identity that a finding rules out, by both."""


NOTHING_DIFFERS = f"{PREFIX}groups_agree"
"""The detector of rewards that are equal in each group."""
NEED_GRADIENTS = ("OD-1", "OD-2", "CA-1", "CA-2", "CA-3")
"""Faults that act on gradients: where no group has two different rewards there is none, so none of them shows."""


def nothing_differs(symptoms: Iterable[Symptom]) -> bool:
    """Whether an alarm says that all rewards of each group are equal."""
    return any(symptom.alarm and symptom.detector == NOTHING_DIFFERS for symptom in symptoms)


def is_break(symptom: Symptom) -> bool:
    """Whether a symptom is a broken law or a figure beyond its floor: what explains it stands in `BREAKS`."""
    return symptom.detector in BREAKS


def explains_break(code: str, symptom: Symptom) -> bool:
    """Whether a fault can be behind a break."""
    return code in BREAKS[symptom.detector].of(symptom.direction)


def nats_of_breaks(symptoms: Sequence[Symptom], codes: Sequence[str]) -> dict[str, float]:
    """Nats for each of some faults by the breaks among symptoms; nothing without one.

    Breaks of one law say the same thing, so that each law counts once.
    """
    total: dict[str, float] = {}
    for symptom in {each.detector: each for each in symptoms if each.alarm and is_break(each)}.values():
        meaning = BREAKS[symptom.detector].of(symptom.direction)
        excluded = LAW_EXCLUDED if symptom.evidence is Evidence.LAW else FLOOR_EXCLUDED
        for code in codes:
            total[code] = total.get(code, 0.0) + meaning.get(code, -excluded)
    return total


def nats_of_identities(
    symptoms: Sequence[Symptom], codes: Sequence[str], findings: Collection[str] = (), spoken: Collection[str] = ()
) -> dict[str, float]:
    """Nats against each of some faults: by broken identities that it does not break, and by those that it would break.

    Where no group has two different rewards, what acts on gradients is ruled out in the same way.
    They only rule out. What speaks for one of the causes is learnt, for most identities have several.

    Args:
        symptoms: that are active.
        codes: of the faults.
        findings: that hold.
        spoken: faults that an absolute reading speaks for: a limit or a rate may be as declared, and declared wrongly.
    """
    broken = {each.detector for each in symptoms if each.alarm and each.detector in CAUSES}
    causes = [set(CAUSES[name]) - _ruled_out(name, findings) for name in broken]
    against = {code: IDENTITY_EXCLUDED * sum(code not in each for each in causes) for code in codes}
    # A check that holds may have been made just before the fault that has broken another one.
    able = {*spoken, *_may_raise(symptoms)}.union(*(CAUSES[name] for name in broken))
    whole = [code for code in codes if f"{INTACT}{code}" in findings and code not in able]
    intact = {code: INTACT_NATS.get(code, IDENTITY_EXCLUDED) for code in whole}
    unseen = set(NEED_GRADIENTS) - able if nothing_differs(symptoms) else set()
    total = {
        code: nats + max(intact.get(code, 0.0), IDENTITY_EXCLUDED * (code in unseen)) for code, nats in against.items()
    }
    return {code: -nats for code, nats in total.items() if nats}


def _may_raise(symptoms: Sequence[Symptom]) -> set[str]:
    """Faults that may raise a share that looks usual: its alarm is on, or a law is broken that they can break.

    A law outweighs a share, which takes events to show, and no check that compares a thing with itself.
    """
    signals = {each.signal for each in symptoms}
    breaks = [BREAKS[each.detector].of(each.direction) for each in symptoms if each.alarm and is_break(each)]
    return {code for code, each in RAISED_BY.items() if each.alarms & signals or any(code in one for one in breaks)}


def _ruled_out(name: str, findings: Collection[str]) -> set[str]:
    return {code for finding in findings for code in RULED_OUT.get((name, finding), ())}
