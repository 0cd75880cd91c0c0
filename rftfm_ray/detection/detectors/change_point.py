"""Sudden and lasting changes of single signals against the run's self-baseline. Pure; numpy.

An alarm stays open until its signal returns to its former level or has held the new one for long. No alarm mutes
another. No healthy run of the task is needed.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.detection.reference.views import Floats, Ints, StepView
from rftfm_ray.detection.state import State, array_from, check_keys, part_from, scalar_from
from rftfm_ray.detection.statistics.change_points import LONGEST, Jumps, JumpScores, levels_at
from rftfm_ray.detection.statistics.kinds import kinds_of
from rftfm_ray.errors import StateError
from rftfm_ray.signals.groups import GROUP_RATES, WATCHED
from rftfm_ray.signals.scale import raw_of
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.verdicts import Evidence

# Values in a row that must be back within half of a jump for its alarm to end, and values after which the new level is
# usual.
BACK, USUAL = 3, 100
HALF = 0.5
# Rounding of a share of groups in single precision.
NEARLY = 1e-3
# AdamW's updates leap in healthy runs when gradient signal returns after it was rare: `UpdateSizeDetector` compares
# them with their largest value instead.
CHANGE_SIGNALS = tuple(name for name in WATCHED if name != "update_ratio")
"""Signals that the detector watches."""
_COLUMNS = np.array([COLUMNS.index(name) for name in CHANGE_SIGNALS])
_SIGNALS = [SIGNALS[INDEX[name]] for name in CHANGE_SIGNALS]
_FLOORS = np.array([signal.floor for signal in _SIGNALS])
# Rates of few groups are 0 or 1 as often as not, and norms and spreads are exactly 0 where all groups agree: they leap
# when a task is solved, and by chance. Absolute readings judge them, by how often the run's own rows agree.
_GROUP_RATES = np.array([CHANGE_SIGNALS.index(name) for name in GROUP_RATES if name in CHANGE_SIGNALS])
_ZERO_WHERE_AGREED = np.array([CHANGE_SIGNALS.index(name) for name in ("grad_norm", "reward_std")])
_RAW = np.array([INDEX[name] for name in CHANGE_SIGNALS])
FEW_GROUPS = 8
"""Most groups a row whose rates are left out."""
# Of each signal: whether a jump is open, its first value, the level before it, its size, its score and onset, and the
# values in a row that were back; and of the last closed jump: first and last value, level, size.
_LIFE = (
    "stands", "first", "usual", "size", "score", "onset", "back", "gone", "gone_first", "gone_last", "gone_usual",
    "gone_size",
)  # fmt: skip


@dataclass(slots=True)
class _Group:
    """Signals that have been measured at the same steps so far, with their statistics and newest steps."""

    signals: NDArray[np.int64]
    jumps: Jumps
    steps: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    count: int = 0

    def select(self, which: NDArray[np.int64]) -> _Group:
        """Some of the signals, with their past."""
        return _Group(self.signals[which], self.jumps.select(which), self.steps, self.count)


class ChangePointDetector(Detector):
    """Sudden, lasting changes of single signals.

    Args:
        multiplier: of all thresholds.
    """

    name = "change_point"
    needs_views = True
    outputs = tuple(Output(name, side, Evidence.TELEMETRY) for name in CHANGE_SIGNALS for side in (1, -1))

    def __init__(self, multiplier: float = 1.0) -> None:
        self._multiplier = multiplier
        everything = np.arange(len(CHANGE_SIGNALS))
        self._groups = [_Group(everything, Jumps(_FLOORS))]
        # The smallest share of groups that was seen, or of the rest: one of a batch's groups.
        self._share = 1.0
        self._life = {name: np.zeros(len(CHANGE_SIGNALS)) for name in _LIFE}

    def observe(self, view: StepView) -> Scores:
        """Evidence for a jump that the step makes certain; for an open jump, the evidence that raised it."""
        levels, scores = self._judged(view), Scores.quiet(view, len(self.outputs))
        scores.score[:] = np.repeat(np.where(np.isfinite(levels), 0.0, math.nan), 2, axis=1)
        self._split(np.isfinite(levels))
        for group in self._groups:
            rows = np.flatnonzero(np.isfinite(levels[:, group.signals[0]]))
            if len(rows):
                self._follow(group, rows, levels[np.ix_(rows, group.signals)], view, scores)
        return scores

    def _judged(self, view: StepView) -> Floats:
        """Levels (N, signals) without those that absolute readings judge."""
        levels, raw = view.levels[:, _COLUMNS].copy(), view.values[:, _RAW]
        rates = raw[:, _GROUP_RATES]
        shares = np.where((rates > 0) & (rates < 1), np.minimum(rates, 1 - rates), 1.0).min(1)
        smallest = np.minimum(np.minimum.accumulate(shares), self._share)
        self._share = float(smallest[-1]) if len(smallest) else self._share
        few = (smallest < 1) & (smallest * FEW_GROUPS > 1 - NEARLY)
        levels[np.ix_(few, _GROUP_RATES)] = math.nan
        exact = raw[:, _ZERO_WHERE_AGREED] == 0
        levels[:, _ZERO_WHERE_AGREED] = np.where(exact, math.nan, levels[:, _ZERO_WHERE_AGREED])
        return levels

    def _split(self, known: NDArray[np.bool_]) -> None:
        """Split groups whose signals are no longer measured at the same steps."""
        groups = list[_Group]()
        for group in self._groups:
            measured = known[:, group.signals]
            if (measured == measured[:, :1]).all():
                groups.append(group)
                continue
            kinds = kinds_of(measured.T)
            groups += [group.select(np.flatnonzero(kinds == kind)) for kind in range(int(kinds.max()) + 1)]
        self._groups = groups

    def _follow(self, group: _Group, rows: NDArray[np.intp], levels: Floats, view: StepView, scores: Scores) -> None:
        scored = group.jumps.add(levels)
        raw = scored.score / (self._multiplier * levels_at(group.count, len(rows)))[:, None]
        steps = np.concatenate([group.steps, view.steps[rows]])
        upper = 2 * group.signals + (scored.side < 0)
        scores.score[rows[:, None], upper] = raw
        eventful = (raw >= 1.0).any(0) | (self._life["stands"][group.signals] > 0)
        for column in np.flatnonzero(eventful).tolist():
            signal = int(group.signals[column])
            values = _ScoredValues(scored, column, raw[:, column], levels[:, column], steps, group.count)
            self._follow_alarm(signal, values, rows, scores)
        group.count += len(rows)
        group.steps = steps[-LONGEST:]

    def _follow_alarm(self, signal: int, values: _ScoredValues, rows: NDArray[np.intp], scores: Scores) -> None:
        """Follow a signal whose alarm is open or raised, value by value."""
        life = self._life
        for index, row in enumerate(rows.tolist()):
            if life["stands"][signal]:
                self._update_open(signal, values.count + index, float(values.levels[index]))
            if values.raw[index] >= 1.0:
                self._raise(signal, values, index)
            both = slice(2 * signal, 2 * signal + 2)
            if life["stands"][signal]:
                scores.score[row, both] = 0.0
                upper = 2 * signal + int(life["size"][signal] < 0)
                scores.score[row, upper] = life["score"][signal]
                scores.onset[row, upper] = int(life["onset"][signal])
                scores.reference[row, upper] = raw_of(_SIGNALS[signal], float(life["usual"][signal]))
            elif values.raw[index] >= 1.0:
                scores.score[row, both] = 0.0

    def _update_open(self, signal: int, index: int, level: float) -> None:
        """Take one value of a signal with an open alarm: it may be back, or become usual."""
        life = self._life
        near = (level - life["usual"][signal]) / life["size"][signal] < HALF if life["size"][signal] else True
        life["back"][signal] = life["back"][signal] + 1 if near else 0
        if life["back"][signal] == BACK or index - life["first"][signal] >= USUAL:
            self._end(signal, index - life["back"][signal])

    def _end(self, signal: int, last: float) -> None:
        life = self._life
        life["gone"][signal], life["gone_last"][signal] = 1.0, last
        for name in ("first", "usual", "size"):
            life[f"gone_{name}"][signal] = life[name][signal]
        life["stands"][signal] = life["back"][signal] = 0.0

    def _raise(self, signal: int, values: _ScoredValues, index: int) -> None:
        """Raise a certain jump. It is a new alarm unless its windows overlap a known jump or the return from it."""
        life, now = self._life, values.count + index
        first, level = now - values.lag(index), float(values.levels[index])
        reaches = life["stands"][signal] and first <= life["first"][signal] + LONGEST
        if life["gone"][signal]:
            size = life["gone_size"][signal]
            is_back = (level - life["gone_usual"][signal]) / size < HALF if size else True
            reaches = reaches or first <= life["gone_first"][signal] + LONGEST
            reaches = reaches or (first <= life["gone_last"][signal] + LONGEST and is_back)
        if reaches:
            return
        usual = values.usual(index)
        life["stands"][signal], life["first"][signal], life["back"][signal] = 1.0, first, 0.0
        life["usual"][signal], life["size"][signal] = usual, level - usual
        life["score"][signal], life["onset"][signal] = values.raw[index], values.step(first)

    def reason(self, output: int, reading: Reading) -> str:
        """Gives the direction of the jump, the step at which it is estimated to be, and the newest value.

        The signal may have moved on since: the newest value is not the one that it jumped to.
        """
        described = self.outputs[output]
        moved = "rose" if described.direction > 0 else "dropped"
        return f"{described.signal} {moved} abruptly at about step {reading.onset}, and is {reading.value:.3g} now"

    def earliest(self, onset: int) -> int:
        """The onset of a jump may be estimated one step late."""
        return max(1, onset - 1)

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Clear the past of these signals."""
        del step
        gone = np.flatnonzero([name in signals for name in CHANGE_SIGNALS])
        if not len(gone):
            return ()
        groups = [_Group(gone, Jumps(_FLOORS[gone]))]
        for group in self._groups:
            left = np.flatnonzero(~np.isin(group.signals, gone))
            groups += [group.select(left)] if len(left) else []
        self._groups = groups
        for values in self._life.values():
            values[gone] = 0.0
        return self.outputs_of(signals)

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """End open alarms; the same evidence does not raise them again."""
        for signal in np.flatnonzero([name in signals for name in CHANGE_SIGNALS]).tolist():
            if self._life["stands"][signal]:
                self._end(signal, self._life["first"][signal])
        return self.outputs_of(signals)

    def state_dict(self) -> State:
        """A copy of groups and alarms."""
        groups: dict[str, State] = {
            str(number): {
                "signals": group.signals.copy(), "steps": group.steps.copy(), "count": group.count,
                "jumps": group.jumps.state_dict(),
            }
            for number, group in enumerate(self._groups)
        }  # fmt: skip
        life = {name: values.copy() for name, values in self._life.items()}
        return {"groups": groups, "life": life, "share": self._share}

    def load_state_dict(self, state: State) -> None:
        """Continue from a state.

        Raises:
            StateError: when groups do not hold every signal exactly once, or a part does not fit.
        """
        check_keys(state, ("groups", "life", "share"))
        life, groups, share = part_from(state, "life"), part_from(state, "groups"), scalar_from(state, "share", float)
        if math.isnan(share):
            raise StateError("The saved state's 'share' is not a number.")
        check_keys(life, _LIFE)
        loaded = [_group_from(part_from(groups, number)) for number in groups]
        if sorted(signal for group in loaded for signal in group.signals.tolist()) != list(range(len(CHANGE_SIGNALS))):
            raise StateError("The saved state of the change-point detector does not hold every signal once.")
        self._life = {name: array_from(life, name, np.zeros(len(CHANGE_SIGNALS))) for name in _LIFE}
        self._groups = loaded
        self._share = share


@dataclass(frozen=True, slots=True)
class _ScoredValues:
    """The newest values (N) of one signal, with their scores."""

    scored: JumpScores
    column: int
    raw: Floats
    levels: Floats
    steps: Ints
    count: int

    def lag(self, index: int) -> int:
        """Number of values since the first one beyond the jump."""
        return int(self.scored.lag[index, self.column])

    def usual(self, index: int) -> float:
        """The value that those before it predict."""
        return float(self.scored.usual[index, self.column])

    def step(self, first: int) -> int:
        """The step of a value, counted from the run's first; `steps` ends with the newest."""
        return int(self.steps[first - self.count - len(self.raw)])


def _group_from(state: State) -> _Group:
    check_keys(state, ("signals", "steps", "count", "jumps"))
    signals, steps, count = (
        _integers(state, "signals"),
        _integers(state, "steps"),
        scalar_from(state, "count", int),
    )
    if not len(signals) or signals.min() < 0 or signals.max() >= len(CHANGE_SIGNALS):
        raise StateError("The saved state of the change-point detector speaks of signals that do not exist.")
    if len(steps) != min(count, LONGEST):
        raise StateError(f"The saved state's 'steps' are {len(steps)} and its 'count' is {count}, which do not fit.")
    jumps = Jumps(_FLOORS[signals])
    jumps.load_state_dict(part_from(state, "jumps"))
    return _Group(signals, jumps, steps, count)


def _integers(state: State, name: str) -> Ints:
    values = state[name]
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.ndim != 1:
        raise StateError(f"The saved state's {name!r} is not a list of whole numbers.")
    return values.astype(np.int64)
