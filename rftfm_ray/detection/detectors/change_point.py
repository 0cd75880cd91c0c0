"""A whole run held against its own past: the detector of who has no healthy runs to compare with. Pure.

Every signal is watched by itself, for jumps and for trends that no healthy run takes; an alarm stands until its signal
is back where it was, and none mutes another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rftfm_ray.detection.statistics.change_points import LONGEST, Floats, Jumps, Scored, levels_at
from rftfm_ray.detection.statistics.trends import Alarm, Kind, trends_of
from rftfm_ray.signals.groups import WATCHED
from rftfm_ray.signals.scale import level_of
from rftfm_ray.signals.schema import INDEX, SIGNALS

# Steps in a row that must be back within half of a jump for an alarm to have recovered, and steps after which what has
# stayed is usual.
BACK, USUAL = 3, 100
# Squares of larger values are no numbers any more.
LARGEST = 1e100
HALF = 0.5


@dataclass(frozen=True, slots=True)
class _Jump:
    """A jump that stands or has just recovered: the level from before it, and by how much it was left."""

    alarm: Alarm
    usual: float
    size: float

    def is_back(self, level: float) -> bool:
        """Whether a level is nearer to where it was before."""
        return (level - self.usual) / self.size < HALF if self.size else True


class ColdSignal:
    """One signal of a run, gaps left out.

    Args:
        name: of a signal of the dictionary.
    """

    def __init__(self, name: str) -> None:
        self._signal = SIGNALS[INDEX[name]]
        self._jumps = Jumps(np.array([self._signal.floor])) if name in WATCHED else None
        self._trends = trends_of(name)
        self._count = 0
        self._wrong: list[Alarm | None] = [None] * len(self._trends)
        self._jump: _Jump | None = None
        self._gone: _Jump | None = None
        self._back = 0

    @property
    def watched(self) -> bool:
        """Whether there is anything that it is watched for."""
        return self._jumps is not None or bool(self._trends)

    @property
    def standing(self) -> tuple[Alarm, ...]:
        """Alarms that stand."""
        jump = [] if self._jump is None else [self._jump.alarm]
        return (*jump, *(alarm for alarm in self._wrong if alarm is not None))

    def add(self, values: Floats) -> list[Alarm]:
        """Take the next finite values (N); alarms that are over since."""
        values = np.clip(values, -LARGEST, LARGEST)
        over = list[Alarm]()
        if self._jumps is not None:
            levels = level_of(self._signal, values)
            over += self._jumping(levels, self._jumps.add(levels[:, None]))
        for which, trend in enumerate(self._trends):
            for place, value in enumerate(values.tolist(), start=self._count):
                lag = trend.add(value)
                if lag is not None or self._wrong[which] is not None:
                    over += self._trending(which, trend.kind, place, lag)
        self._count += len(values)
        return over

    def _trending(self, which: int, kind: Kind, place: int, lag: int | None) -> list[Alarm]:
        stood = self._wrong[which]
        if lag is None:
            self._wrong[which] = None
            return [] if stood is None else [stood]
        first = Alarm(self._signal.name, kind, place - lag, place, place) if stood is None else stood
        self._wrong[which] = replace(first, last=place)
        return []

    def _jumping(self, levels: Floats, scored: Scored) -> list[Alarm]:
        raised, over, row = scored.score[:, 0] >= levels_at(self._count, len(levels)), list[Alarm](), 0
        later = np.flatnonzero(raised)
        while row < len(levels):
            if self._jump is None:
                # Nothing happens before the next one.
                row = int(next(iter(later[later >= row]), len(levels)))
            if row < len(levels):
                over += self._at(self._count + row, float(levels[row]), scored, row if raised[row] else None)
            row += 1
        return over

    def _at(self, place: int, level: float, scored: Scored, row: int | None) -> list[Alarm]:
        """One step: an alarm may recover, become usual, or give way to another jump."""
        over, jump = list[Alarm](), self._jump
        if jump is not None:
            self._back = self._back + 1 if jump.is_back(level) else 0
            if self._back == BACK or place - jump.alarm.first >= USUAL:
                over.append(replace(jump.alarm, last=place - self._back))
                self._jump, self._gone, self._back = None, replace(jump, alarm=over[-1]), 0
            else:
                self._jump = replace(jump, alarm=replace(jump.alarm, last=place))
        if row is None:
            return over
        first, usual = place - int(scored.lag[row, 0]), float(scored.usual[row, 0])
        # The windows of a jump that is known reach this far, and so does its way back.
        known = [each for each in (self._jump, self._gone) if each is not None and first <= each.alarm.first + LONGEST]
        back = self._gone is not None and first <= self._gone.alarm.last + LONGEST and self._gone.is_back(level)
        if known or back:
            return over
        if self._jump is not None:
            over.append(replace(self._jump.alarm, last=first - 1))
        self._jump = _Jump(Alarm(self._signal.name, Kind.JUMP, first, place, place), usual, level - usual)
        self._back = 0
        return over
