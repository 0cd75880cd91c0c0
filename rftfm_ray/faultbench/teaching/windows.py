"""Windows of recorded runs, from which a model of diagnoses is learnt. Pure; numpy.

A faulty run shows its fault on top of one healthy course. Its effect, the difference to the healthy run of its seed, is
transplanted: weakened or strengthened it is added to windows of other healthy runs, so that a model learns the effect
and not the course. Two effects are added where a run shall have two faults. Evidence that needs no reference stays as
the faulty run has it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.diagnosis.features import FARTHEST, FIGURES, UNMEASURED, Features, Window
from rftfm_ray.diagnosis.weighing import Case
from rftfm_ray.faultbench.runs.plan import Kind, is_without_fault, mechanism_of
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope, less_of
from rftfm_ray.faultbench.teaching.following import Followed

Floats = NDArray[np.float64]

LONGEST = 12
"""Steps of the longest window."""
TRANSPLANTED, OF_TWO, ALARMED = 20, 10, (0, 1, 2, 3, 5, 10)
"""Windows of a faulty run: transplanted, together with a second fault, and so many steps after its own alarm."""
OF_HEALTHY = 8
# Steps by which an estimated onset misses the true one.
MISSES = (-2, -1, 0, 0, 0, 0, 0, 1, 2, 3)
SIZES = (0.5, 1.3)
"""Factors of a transplanted effect."""
# Share of the windows in which no evidence but telemetry was measured, and in which laws were as well: other trainers
# log no more.
TELEMETRY_ALONE, WITH_LAWS = 0.15, 0.1
# Share of those in which one channel is off, and what the names of each have in common: what is not measured must not
# look like what agrees.
WITHOUT_A_CHANNEL = 0.15
CHANNELS = ("golden", "regrade", "gap_", "_gap", "known_call", "tool_shadow", "observation", "probe")


@dataclass(frozen=True, slots=True)
class Example:
    """A window that a model learns from, or is judged on.

    Attributes:
        run: name of its run.
        seed: of its group.
        task: its name.
        algorithm: its name.
        size: of the model that was trained.
        mechanism: `CODE name` of its fault; empty without one.
        codes: of its faults; none in a run without a fault.
        level: of its fault.
        after: steps since the alarm; -1 for a window that is no diagnosis.
        features: what is known in it.
        case: what the diagnosis rests on; None for a window that is no diagnosis.
    """

    run: str
    seed: int
    task: str
    algorithm: str
    size: str
    mechanism: str
    codes: tuple[str, ...]
    level: str
    after: int
    features: Features
    case: Case | None = None


class Windows:
    """Makes the windows of some runs.

    Args:
        runs: that are followed, with the healthy runs of their seeds.
        seed: of all draws.
    """

    def __init__(self, runs: Sequence[Followed], seed: int) -> None:
        self._runs = sorted(runs, key=lambda run: run.entry.name)
        self._random = random.Random(seed)
        self._twins = {_group(run): run for run in self._runs if run.entry.kind is Kind.HEALTHY}
        healthy: dict[bool, list[Followed]] = {}
        for run in self._runs:
            if run.entry.kind is Kind.HEALTHY:
                healthy.setdefault(_is_profiled(run), []).append(run)
        self._hosts: Mapping[bool, Sequence[Followed]] = healthy

    def all(self) -> Iterator[Example]:
        """Every window."""
        faulty = [run for run in self._runs if run.effect and len(run.codes) == 1]
        for run in self._runs:
            yield from alarmed(run)
            if is_without_fault(run.entry):
                yield from (self._lesser(each) for each in self._of_healthy(run))
        for run in faulty:
            if not self._has_twin(run):
                # Without the healthy run of its seed nobody knows what its fault has added.
                yield from (self._lesser(self._as_it_is(run)) for _ in range(TRANSPLANTED))
                continue
            others = [other for other in faulty if other.codes != run.codes and _kind(other) == _kind(run)]
            others = [other for other in others if self._has_twin(other)]
            for _ in range(TRANSPLANTED):
                yield self._lesser(self._transplanted([run]))
            for _ in range(OF_TWO if others else 0):
                yield self._lesser(self._transplanted([run, self._random.choice(others)]))

    def _of_healthy(self, run: Followed) -> Iterator[Example]:
        for _ in range(OF_HEALTHY):
            onset = self._random.randint(1, len(run))
            end = min(len(run), onset + self._random.randrange(LONGEST))
            yield _example(run, (), run.features(onset, end))

    def _transplanted(self, faulty: Sequence[Followed]) -> Example:
        """A window with the effects of some runs of one kind on a piece of a healthy one."""
        length = self._random.randint(1, LONGEST)
        seen = [self._window_of(run, length) for run in faulty]
        steps = min(len(effect) for _, effect in seen)
        profiled = _is_profiled(faulty[0])
        residuals = self._host(profiled, steps) + sum(effect[-steps:] for _, effect in seen)
        figures = np.array([part.window.figures for part, _ in seen if part.window is not None])
        # Of two faults, the one that has moved a figure further from healthy shows in it.
        largest = figures[np.abs(figures - UNMEASURED).argmax(0), np.arange(len(FIGURES))]
        present = tuple(dict.fromkeys(name for part, _ in seen for name in part.present))
        codes = tuple(code for run in faulty for code in run.codes)
        return _example(faulty[0], codes, Features(present, Window(residuals, largest, profiled)))

    def _window_of(self, run: Followed, length: int) -> tuple[Features, Floats]:
        """What is known in a window under a fault, and what the fault adds to the residuals (N, `COLUMNS`)."""
        onset, end = self._span(run, length)
        part, twin = run.features(onset, end), self._twins[_group(run)]
        residuals = run.window(onset, end).residuals
        same = twin.residuals[end - len(residuals) : end]
        return part, self._random.uniform(*SIZES) * _effect(residuals, same)

    def _span(self, run: Followed, length: int) -> tuple[int, int]:
        """First and last step of a window under a fault, whose onset is estimated."""
        begun = self._random.choice((run.switch, run.effect))
        onset = min(len(run), max(1, begun + self._random.choice(MISSES)))
        return onset, min(len(run), max(onset, begun) + length - 1)

    def _as_it_is(self, run: Followed) -> Example:
        """A window of a faulty run."""
        onset, end = self._span(run, self._random.randint(1, LONGEST))
        return _example(run, run.codes, run.features(onset, end))

    def _has_twin(self, run: Followed) -> bool:
        twin = self._twins.get(_group(run))
        return twin is not None and len(twin) >= len(run)

    def _host(self, profiled: bool, steps: int) -> Floats:
        """Residuals (steps, `COLUMNS`) of a piece of a healthy run; 0 where it has none, as runs of other tasks."""
        hosts = [run for run in self._hosts.get(profiled, ()) if len(run) >= steps]
        if not hosts:
            return np.zeros((steps, len(COLUMNS)))
        host = self._random.choice(hosts)
        start = self._random.randint(0, len(host) - steps)
        return np.nan_to_num(host.residuals[start : start + steps])

    def _lesser(self, example: Example) -> Example:
        """The same as a trainer sees it that measures less, now and then."""
        draw = self._random.random()
        if draw < TELEMETRY_ALONE + WITH_LAWS:
            scope = EvidenceScope.LAWS if draw >= TELEMETRY_ALONE else EvidenceScope.TELEMETRY
            return replace(example, features=less_of(example.features, scope))
        if draw < TELEMETRY_ALONE + WITH_LAWS + WITHOUT_A_CHANNEL:
            channel = self._random.choice(CHANNELS)
            return replace(example, features=without_channel(example.features, channel))
        return example


def without_channel(features: Features, channel: str) -> Features:
    """Features of a run in which a channel is off, one of `CHANNELS`: nothing about it is measured or found."""
    window = features.window
    if window is None:
        return features
    present = tuple(name for name in features.present if channel not in name)
    is_off = np.array([channel in name for name in FIGURES])
    return Features(present, replace(window, figures=np.where(is_off, UNMEASURED, window.figures)))


def alarmed(run: Followed) -> Iterator[Example]:
    """The diagnoses of a run some steps after an alarm: of its fault, or of a false alarm.

    An alarm that is open at the switch is neither.
    """
    began, before = 0, 0
    for each in run.diagnosed:
        began = each.step if each.step != before + 1 else began
        before = each.step
        is_false = not run.switch or each.step < run.switch
        if each.step - began not in ALARMED or each.step <= run.entry.fork or (not is_false and began < run.switch):
            continue
        codes = () if is_false else run.codes
        yield _example(run, codes, each.case.features, each.step - began, each.case)


def _effect(residuals: Floats, healthy: Floats) -> Floats:
    """What a fault adds to the residuals of a healthy run; 0 where either is unknown."""
    effect: Floats = np.clip(residuals, -FARTHEST, FARTHEST) - np.clip(healthy, -FARTHEST, FARTHEST)
    return np.nan_to_num(effect)


def _is_profiled(run: Followed) -> bool:
    """Whether most of its residuals are against a profile."""
    return bool(run.profiled.mean() > 0.5)


def _group(run: Followed) -> tuple[str | int | bool, ...]:
    entry = run.entry
    return entry.split, entry.seed, entry.task, entry.algorithm, entry.size, _is_profiled(run)


def _kind(run: Followed) -> tuple[str, str, bool]:
    """What runs must have in common for their effects to be added."""
    return run.entry.task, run.entry.algorithm, _is_profiled(run)


def _example(
    run: Followed, codes: Iterable[str], features: Features, after: int = -1, case: Case | None = None
) -> Example:
    entry, codes = run.entry, tuple(codes)
    mechanism = f"{entry.code} {mechanism_of(entry)}" if codes else ""
    level = entry.level if codes else ""
    return Example(
        entry.name, entry.seed, entry.task, entry.algorithm, entry.size, mechanism, codes, level, after, features, case
    )
