"""Where the source of a fault sits, and how strong it is: read off what is broken. Written, not learnt. Pure.

A fault can sit in a few places (`taxonomy`), and a check that is broken by one of them tells it from the others. Where
none is, the place is the one where the fault sits most often. Without a name of the fault a place is said only where a
check tells it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.detection.detectors.laws import FLOOR, LAW
from rftfm_ray.detection.laws.table import FLOOR_TABLE, LAWS
from rftfm_ray.diagnosis.meaning import BREAKS
from rftfm_ray.signals.limits import BIASED, SHIFTED
from rftfm_ray.taxonomy import UNKNOWN, places_of
from rftfm_ray.verdicts import Place, Symptom

_OF_IDENTITIES: Mapping[str, tuple[Place, ...]] = {
    "identity:served_weights": (Place.SYNC,),
    "identity:staleness": (Place.SYNC,),
    "identity:samples": (Place.BUFFER,),
    "identity:values": (Place.CRITIC,),
    "declared_rate": (Place.SCHEDULE,),
    "identity:update_gain": (Place.OPTIMIZER,),
    "identity:updates_land": (Place.OPTIMIZER,),
    # The gate computes again what the estimator gives; what changes behind it shows in the loss alone, and another
    # discount changes the critic's targets too.
    "identity:advantages": (Place.ESTIMATOR,),
    "identity:returns": (Place.CRITIC, Place.ESTIMATOR),
    "identity:credit": (Place.BUFFER,),
    "identity:decoded_observations": (Place.LINK,),
    "identity:observations": (Place.LINK,),
    "identity:turn_limits": (Place.LIMITS,),
    "identity:replayed_observations": (Place.TOOL,),
    "identity:replayed_terminations": (Place.TOOL,),
}
"""Places that break an identity; one that stands earlier tells more than those behind it."""
_OF_CHANNELS: Mapping[str, tuple[Place, ...]] = {
    **dict.fromkeys(
        ("trained_mismatch_rate", "regrade_mismatch_rate", "golden_mismatch_rate", "verifier_error_rate"),
        (Place.REWARD,),
    ),
    **dict.fromkeys(("known_call_error_rate", "tool_shadow_error_rate", "tool_error_rate"), (Place.TOOL,)),
}
"""Places that an independent channel tells, by the signal of its alarm."""
# What was sampled is not what the policy says: the sampler, the server behind it, or weights that did not arrive.
_GAP = f"{FLOOR}:rollout"
# What a bias gives to ends it takes from the other tokens: so many nats each, at least, where rounding leaves less.
PAID = 0.001
SEPARATING = ("cut_short_rate", "gap_end", "gap_rest")
"""Signals that tell places apart which break the same checks."""
Measured = Callable[[str], float]
"""The newest value of one of `SEPARATING` since the onset; NaN where it was not measured."""


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a fault.

    Attributes:
        place: where it sits; None where nothing tells it.
        is_told: whether something tells the place; else it is the most frequent one of the fault.
        strength: as a check measures it; None where none does.
        strength_of: what that measures, in words.
    """

    place: Place | None
    is_told: bool
    strength: float | None
    strength_of: str


def source_of(code: str, symptoms: Sequence[Symptom], measured: Measured) -> Source:
    """The source of a fault, by what is broken.

    Args:
        code: of the fault, or UNKNOWN.
        symptoms: that it is diagnosed by.
        measured: what separates places.
    """
    alarms, possible = [symptom for symptom in symptoms if symptom.alarm], places_of(code)
    told = [*_by_identities(alarms), *_by_channels(alarms), *_by_tokens(possible, alarms, measured), *_by_laws(alarms)]
    place = next((place for place in told if place in possible or code == UNKNOWN), None)
    if place is None:
        place = possible[0] if possible else None
        return Source(place, len(possible) == 1, *_strength(place, alarms))
    return Source(place, True, *_strength(place, alarms))


def _by_identities(alarms: Sequence[Symptom]) -> Iterator[Place]:
    detectors = {alarm.detector for alarm in alarms}
    for name, places in _OF_IDENTITIES.items():
        yield from places if name in detectors else ()


def _by_channels(alarms: Sequence[Symptom]) -> Iterator[Place]:
    signals = {alarm.signal for alarm in alarms}
    for name, places in _OF_CHANNELS.items():
        yield from places if name in signals else ()
    yield from (place for alarm in alarms for place in _of_law(alarm) if place is Place.REWARD)


def _by_laws(alarms: Sequence[Symptom]) -> Iterator[Place]:
    yield from (place for alarm in alarms for place in _of_law(alarm))


def _of_law(alarm: Symptom) -> tuple[Place, ...]:
    return BREAKS[alarm.detector].places if alarm.detector in BREAKS else ()


def _by_tokens(possible: Collection[Place], alarms: Sequence[Symptom], measured: Measured) -> Iterator[Place]:
    """Places of a fault of what is generated, by how what was sampled differs from what the policy says."""
    if Place.SAMPLER not in possible:
        return
    has_gap = any(alarm.detector == _GAP for alarm in alarms)
    if measured("cut_short_rate") > 0 or (has_gap and _is_put_in(measured("gap_end"), measured("gap_rest"))):
        yield Place.SERVER
    if not has_gap:
        # What is sampled is what the policy says, and what is paid is right: the prompts, or the limits.
        yield from (Place.DATA, Place.LIMITS)


def _is_put_in(end: float, rest: float) -> bool:
    """Whether turns come back with an end that was put in, or kept out, behind the sampler.

    A sampler's bias moves both kinds of tokens in opposite directions. Where the server ends turns, or forbids an end,
    the other turns are as the policy says. NaN for a kind of token that does not occur.
    """
    return (end > BIASED and not rest < -PAID) or (rest > SHIFTED and abs(end) < BIASED)


def _strength(place: Place | None, alarms: Sequence[Symptom]) -> tuple[float | None, str]:
    """What the first check that is about a place measures, with what that is."""
    for alarm in alarms:
        if place in (*_OF_IDENTITIES.get(alarm.detector, ()), *_of_law(alarm)):
            size, what = _measured_by(alarm)
            if size is not None and math.isfinite(size):
                return size, what
    return None, ""


def _measured_by(alarm: Symptom) -> tuple[float | None, str]:
    if alarm.detector in ("identity:update_gain", "declared_rate"):
        is_rate = alarm.detector == "declared_rate"
        return (math.exp(alarm.value), "factor of the learning rate") if is_rate else (alarm.value, "factor of updates")
    if alarm.detector == "identity:values":
        return alarm.value, "difference of values"
    kind, _, name = alarm.detector.partition(":")
    law = {LAW: LAWS.get(name), FLOOR: FLOOR_TABLE[name].law if name in FLOOR_TABLE else None}.get(kind)
    return alarm.strength, law.strength.what if law is not None and law.strength is not None else ""


def said_of(source: Source) -> Iterator[str]:
    """One sentence on where a fault sits and how strong it is; nothing where neither is known."""
    if source.place is None:
        return
    size = "" if source.strength is None else f": {source.strength_of} {source.strength:.3g}"
    yield f"It sits in the {source.place}{size}." if source.is_told else f"It most often sits in the {source.place}."
