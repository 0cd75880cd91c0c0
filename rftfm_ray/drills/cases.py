"""What a set of drills injects: one fault a run, at a strength that is known to harm where one is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import FaultError
from rftfm_ray.faults.calibration import HARM, LEVELS, Calibration, Finding, StrengthKey, calibration_of, is_dirty
from rftfm_ray.faults.catalogue import check_faults, kind_of
from rftfm_ray.faults.kinds import CATALOGUE, FaultKind, Mechanism
from rftfm_ray.tasks.api import Task
from rftfm_ray.verdicts import Family, Place

ALL = "all"
"""Asks for every mechanism: of all faults, or of one as `mechanism=all`."""
_ENTRY = re.compile(r"([A-Za-z0-9_-]+)(?::([^,]+))?(?:,(.+))?")


class Origin(StrEnum):
    """Where a strength comes from."""

    HARM = "known to harm"
    HARMLESS = "found harmless"
    EASY = "harm not measured"
    DEFAULT = "default strength"
    GIVEN = "given"


@dataclass(frozen=True, slots=True)
class DrillCase:
    """One fault of a set of drills.

    Attributes:
        code: of the fault.
        mechanism: by which it works.
        strength: of the mechanism.
        place: where it sits.
        origin: where the strength comes from.
        options: further options of the fault, as `inject` takes them.
    """

    code: str
    mechanism: str
    strength: float
    place: Place
    origin: Origin
    options: str = ""

    @property
    def name(self) -> str:
        """Name of its runs; another strength or option is another case."""
        text = f"{self.code}-{self.mechanism}-{self.strength:g}{',' if self.options else ''}{self.options}"
        return re.sub(r"[^A-Za-z0-9.-]+", "_", text)

    def inject(self, onset: int) -> str:
        """The fault as `inject` takes it, from the consumed step `onset` on."""
        more = f",{self.options}" if self.options else ""
        return f"{self.code}@{onset}:{self.strength!r},mechanism={self.mechanism}{more}"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A fault that this run cannot have, and why."""

    name: str
    reason: str


def cases_of(
    config: RunConfig, task: Task, asked: Sequence[str], onset: int
) -> tuple[tuple[DrillCase, ...], tuple[LeftOut, ...]]:
    """The cases that are asked for, without repetition, and what was left out because this run cannot have it.

    Args:
        config: of the run.
        task: that the run has.
        asked: any of CODE[:strength][,mechanism=NAME|all][,...], a family, or `all`; empty: one mechanism of each of
            the sixteen, one that is known to harm if there is one.
        onset: consumed step at which a fault begins.

    Raises:
        FaultError: when an entry cannot be read, or names a fault that this run cannot have.
    """
    cases, left = dict[str, DrillCase](), list[LeftOut]()
    for text in asked or [family.value for family in Family if any(k.family is family for k in CATALOGUE.values())]:
        for found in _entry(config, task, text, onset, is_default=not asked):
            if isinstance(found, LeftOut):
                left.append(found)
            else:
                cases.setdefault(found.name, found)
    if not cases:
        reasons = "; ".join(f"{each.name}: {each.reason}" for each in left)
        raise FaultError(f"None of the faults can be injected into this run: {reasons}")
    return tuple(cases.values()), tuple(left)


def _entry(config: RunConfig, task: Task, text: str, onset: int, *, is_default: bool) -> Iterator[DrillCase | LeftOut]:
    family = text.upper()
    if text.lower() == ALL or family in {kind.family for kind in CATALOGUE.values()}:
        for kind in CATALOGUE.values():
            if text.lower() == ALL or kind.family == family:
                yield from _kind(config, task, kind, onset, is_every=not is_default)
        return
    match = _ENTRY.fullmatch(text.strip())
    if match is None:
        raise FaultError(f"--faults {text!r} cannot be read; write CODE[:strength][,mechanism=NAME|all], or all.")
    try:
        kind = kind_of(match[1])
    except FaultError as error:
        raise FaultError(f"--faults {text!r}: {error}") from None
    strength = match[2]
    parts = [part.strip() for part in (match[3] or "").split(",") if part.strip()]
    if parts == [f"mechanism={ALL}"]:
        if strength is not None:
            raise FaultError(f"--faults {text!r}: one strength means another thing to every mechanism; leave it out.")
        yield from _kind(config, task, kind, onset, is_every=True)
        return
    yield _single(config, task, kind, _Asked(text, strength, parts), onset)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One fault as it was asked for: the text, its strength, and its options."""

    text: str
    strength: str | None
    parts: list[str]


def _single(config: RunConfig, task: Task, kind: FaultKind, asked: _Asked, onset: int) -> DrillCase:
    """The one case that a text with a code asks for."""
    text, strength, parts = asked.text, asked.strength, list(asked.parts)
    if strength is None and not any(part.startswith("mechanism=") for part in parts):
        # As without `--faults`: one that harms, where there is one.
        found = next(_kind(config, task, kind, onset, is_every=False))
        if isinstance(found, DrillCase):
            parts.append(f"mechanism={found.mechanism}")
    whole = ",".join([f"{kind.code}@{onset}" + (f":{strength}" if strength else ""), *parts])
    try:
        (spec,) = check_faults(config, task, [whole])
    except FaultError as error:
        # Its text is one that nobody has written.
        raise FaultError(str(error).replace(f"inject={whole!r}", f"--faults {text!r}")) from None
    case = _case(config, task, kind, kind.mechanism(spec.mechanism))
    options = ",".join(part for part in parts if not part.startswith("mechanism="))
    case = replace(case, options=options)
    return case if strength is None else replace(case, strength=spec.strength, origin=Origin.GIVEN)


def _kind(
    config: RunConfig, task: Task, kind: FaultKind, onset: int, *, is_every: bool
) -> Iterator[DrillCase | LeftOut]:
    """Every mechanism of a fault that this run can have, or the first that harms, else the first."""
    possible, refused = list[DrillCase](), list[LeftOut]()
    for mechanism in kind.mechanisms:
        case = _case(config, task, kind, mechanism)
        try:
            check_faults(config, task, [case.inject(onset)])
        except FaultError as error:
            refused.append(LeftOut(f"{kind.code} by {mechanism.name}", _reason(str(error))))
        else:
            possible.append(case)
    if is_every:
        yield from possible
        yield from refused
    elif possible:
        yield next((case for case in possible if case.origin is Origin.HARM), possible[0])
    else:
        yield LeftOut(kind.code, refused[0].reason)


def _reason(sentence: str) -> str:
    """The reason of a refusal, without the text that was refused: nobody has written it."""
    return sentence.partition("': ")[2] or sentence


def _case(config: RunConfig, task: Task, kind: FaultKind, mechanism: Mechanism) -> DrillCase:
    """A mechanism at the harmful strength that was measured in runs like this one, else at one that is plain to see."""

    def measured(level: str) -> Calibration | None:
        key = StrengthKey(task.name, config.algorithm.name, kind.code, mechanism.name, level, is_dirty(config))
        return calibration_of(key)

    harm = measured(HARM)
    plain = Origin.HARMLESS if harm is not None and harm.finding is Finding.NO_HARM else Origin.EASY
    for row, origin in ((harm, Origin.HARM), (measured(LEVELS[0]), plain)):
        if row is not None and row.confirmed and row.finding is Finding.REACHED:
            return DrillCase(kind.code, mechanism.name, row.strength, mechanism.acts_in, origin)
    return DrillCase(kind.code, mechanism.name, mechanism.strength.default, mechanism.acts_in, Origin.DEFAULT)
