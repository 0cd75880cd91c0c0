"""Laws on the log of another trainer: those that hold on TRL's own trainer, where the log has their columns. Pure.

docs/foreign_laws.md says on how many steps of TRL's GRPOTrainer each law was shown to hold; the others are left out,
because a name of a column does not show that another trainer means the same by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rftfm_ray.config.declared import Declared
from rftfm_ray.detection.detectors.laws import OWN_REWARD
from rftfm_ray.detection.laws.base import Floats, Ints, Law
from rftfm_ray.detection.laws.own_reward import ROWS, TOLERANCE, learn_own_reward
from rftfm_ray.detection.laws.table import LAWS
from rftfm_ray.integrations.steplog import StepLog

SHOWN: tuple[str, ...] = ("reward", "centred_loss", "clip", "start", "flat", "rate", "limit")
"""Laws that hold on TRL's own trainer, by `benchmarks/foreign_laws.py`; `own_reward` too, which nobody declares."""


@dataclass(frozen=True, slots=True)
class LogLaw:
    """A law on a log.

    Attributes:
        name: of the law.
        states: what holds, as a sentence without a full stop.
        signal: that a break is reported under.
        rows: on which it could be judged.
        largest: residual in units of the tolerance; above 1 the law is broken.
        strength: what it reads off the first break, in words; empty without.
        broken: (N) rows that break it, by their places in the log.
        judged: (N) rows on which it was judged.
        side: +1 where its figure is too large at the first break, -1 where it is too small; 0 without a break.
    """

    name: str
    states: str
    signal: str
    rows: int
    largest: float
    strength: str
    broken: tuple[int, ...]
    judged: tuple[int, ...]
    side: int = 0


@dataclass(frozen=True, slots=True)
class _LogFigures:
    """The figures of a log; a value that is not finite is not known."""

    log: StepLog

    @property
    def steps(self) -> Ints:
        return self.log.steps

    def value(self, name: str) -> Floats:
        column = self.log.values.get(name, self.log.reward_parts.get(name))
        if column is None:
            return np.full(len(self.log.steps), math.nan)
        return np.where(np.isfinite(column), column, math.nan)


def laws_of(log: StepLog, declared: Declared | None) -> tuple[LogLaw, ...]:
    """The laws that could be judged on a log.

    Args:
        log: of another trainer.
        declared: by its configuration; None where that is not known, so that only laws remain that need none.
    """
    with np.errstate(all="ignore"):
        judged = [*_declared_laws(log, declared)] if declared is not None else []
        if not any(law.name == "reward" for law in judged):
            judged += [*_own_reward(log)]
    return tuple(law for law in judged if law.rows)


def _declared_laws(log: StepLog, declared: Declared) -> Iterator[LogLaw]:
    figures = _LogFigures(log)
    for law in (LAWS[name] for name in SHOWN):
        if not law.applies(declared):
            continue
        excess = law.excess(law.residuals(figures, declared), figures)
        # Where only one side breaks a law the other one is no residual.
        excess = law.direction * np.maximum(law.direction * excess, 0.0) if law.direction else excess
        judged = _judged(law.name, law.states, law.signal, excess)
        yield replace(judged, strength=_strength(law, figures, declared, judged.broken))


def _strength(law: Law, figures: _LogFigures, declared: Declared, broken: Sequence[int]) -> str:
    if law.strength is None or not broken:
        return ""
    size = float(law.strength.measure(figures, declared)[broken[0]])
    return f"{law.strength.what} {size:.3g}" if math.isfinite(size) else ""


def _own_reward(log: StepLog) -> Iterator[LogLaw]:
    """The reward as an exact linear function of the reward functions' means, as the first rows show it."""
    reward = _LogFigures(log).value("reward_mean")
    if not log.reward_parts:
        return
    parts = np.stack(list(log.reward_parts.values()), axis=1)
    rows = np.flatnonzero(np.isfinite(reward) & np.isfinite(parts).all(axis=1))
    law = learn_own_reward(reward[rows[:ROWS]], parts[rows[:ROWS]]) if len(rows) > ROWS else None
    if law is None:
        return
    excess = np.full(len(reward), math.nan)
    later = rows[ROWS:]
    excess[later] = law.residuals(reward[later], parts[later]) / (TOLERANCE * np.maximum(1.0, np.abs(reward[later])))
    states = f"the reward is the linear function of its functions' means that the first {ROWS} rows show"
    yield _judged(OWN_REWARD, states, "reward_mean", excess)


def _judged(name: str, states: str, signal: str, excess: Floats) -> LogLaw:
    rows = np.flatnonzero(~np.isnan(excess))
    size = np.abs(excess[rows])
    broken = tuple(rows[size > 1].tolist())
    side = int(np.sign(excess[broken[0]])) if broken else 0
    return LogLaw(name, states, signal, len(rows), float(size.max(initial=0.0)), "", broken, tuple(rows.tolist()), side)
