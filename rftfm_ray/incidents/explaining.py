"""A diagnosis as the journal keeps it: what it says, what it rests on, what else would explain it. Pure.

Fields of an entry are single values. What has parts stands in one of them, `EXPLAINED`, as JSON that is checked when it
is read, because a journal can come from anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from rftfm_ray.incidents.entries import Scalar
from rftfm_ray.verdicts import Diagnosis, Symptom

EXPLAINED = "explained"
"""Field of an entry with an `Explained` as JSON."""


@dataclass(frozen=True, slots=True)
class Sign:
    """A signal that speaks for a diagnosis.

    Attributes:
        signal: its name.
        evidence: kind of the evidence.
        detector: who says so.
        alarm: False for a notice, which tells look-alikes apart and opens nothing.
        direction: +1 where the signal is too high, -1 where it is too low.
        usual: what it was compared with; None where that is no number.
        observed: its newest value; None where that is no number.
        since: estimated first step of the change.
        since_low: earliest step that it may have begun with.
        says: the same in one sentence.
    """

    signal: str
    evidence: str
    detector: str
    alarm: bool
    direction: int
    usual: float | None
    observed: float | None
    since: int
    since_low: int
    says: str


@dataclass(frozen=True, slots=True)
class RivalShare:
    """Another explanation, its probability, and what speaks against it."""

    code: str
    probability: float
    against: str


@dataclass(frozen=True, slots=True)
class Explained:
    """What a diagnosis rests on.

    Attributes:
        evidence: for it.
        rivals: other explanations, the likeliest first.
        would_tell: signals that were not measured since the onset and would tell the likeliest explanations apart.
    """

    evidence: tuple[Sign, ...]
    rivals: tuple[RivalShare, ...]
    would_tell: tuple[str, ...] = ()


_CHECKED = TypeAdapter(Explained)


def explained_by(diagnosis: Diagnosis) -> Explained:
    """What a diagnosis rests on."""
    rivals = (RivalShare(rival.code, round(rival.probability, 4), rival.against) for rival in diagnosis.rivals)
    return Explained(tuple(map(_sign, diagnosis.symptoms)), tuple(rivals), diagnosis.would_tell)


def read_explained(text: str) -> Explained | None:
    """What the field `EXPLAINED` of an entry holds; None where it holds nothing that can be read."""
    try:
        return _CHECKED.validate_json(text, strict=True)
    except ValidationError:
        return None


def opened_fields(diagnosis: Diagnosis) -> dict[str, Scalar]:
    """A diagnosis that may still change, as fields of an entry."""
    return {
        "code": diagnosis.code,
        "family": diagnosis.family.value,
        "onset": diagnosis.onset,
        "onset_low": diagnosis.onset_low,
        "probability": round(diagnosis.probability, 4),
        **({} if diagnosis.place is None else {"place": diagnosis.place.value}),
        **({} if diagnosis.strength is None else {"strength": diagnosis.strength, "measured": diagnosis.strength_of}),
        **({} if not diagnosis.also else {"also": " ".join(diagnosis.also)}),
    }


def named_fields(diagnosis: Diagnosis) -> dict[str, Scalar]:
    """A diagnosis with everything that it rests on, as fields of an entry."""
    return {
        **opened_fields(diagnosis),
        "summary": diagnosis.summary,
        "signals": ",".join(dict.fromkeys(symptom.signal for symptom in diagnosis.symptoms)),
        EXPLAINED: _CHECKED.dump_json(explained_by(diagnosis)).decode(),
    }


def _sign(symptom: Symptom) -> Sign:
    return Sign(
        symptom.signal, symptom.evidence.name.lower(), symptom.detector, symptom.alarm, symptom.direction,
        _number(symptom.reference), _number(symptom.value), symptom.onset, symptom.onset_low, symptom.reason,
    )  # fmt: skip


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
