"""Effect step of a fault: from the schedule of its strength, or by counting the behaviour that it rewards. Pure.

A fault that acts by itself has its effect at its first step at full strength. A fault that works through learning has
no effect until the policy has changed. The behaviour that it rewards is counted in every step, also before the fault.
The effect begins when its mean over three steps has moved by `Mechanism.learned` from its earlier level.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rftfm_ray.faults.catalogue import FaultSpec, mechanism_of, of_code
from rftfm_ray.faults.rewards import FEATURES
from rftfm_ray.rollout.seams import Exposure

BASE_STEPS = 5
# Amounts vary from step to step with the problems, so a single step is not enough evidence.
RECENT_STEPS = 3
# The mechanism of OD-3 that takes entropy away by learning.
TAKE_ENTROPY = ("negative_entropy",)
_SIGNS = {name: sign for name, (_, sign) in FEATURES.items()} | dict.fromkeys(TAKE_ENTROPY, -1.0)


@dataclass(frozen=True, slots=True)
class Effect:
    """The beginning of a fault's effect: its consumed step, and the amount of the rewarded behaviour."""

    code: str
    mechanism: str
    effect_step: int
    amount: float


def effect_step(spec: FaultSpec) -> int | None:
    """The consumed step of a fault's effect, None where it must be waited for or never comes."""
    if mechanism_of(spec).learned or (spec.duration is not None and spec.ramp >= spec.duration):
        return None
    return spec.full_step


def entropy_exposures(specs: Sequence[FaultSpec], entropy: float) -> list[Exposure]:
    """Exposure of OD-3: the mean entropy of the policy, in nats a token."""
    return [Exposure(s.code, s.mechanism, entropy, 1) for s in of_code(specs, "OD-3", *TAKE_ENTROPY)]


class EffectWatch:
    """Waits for the effects of faults that work by learning."""

    def __init__(self, specs: Sequence[FaultSpec]) -> None:
        self._specs = tuple(specs)
        # Faults of one mechanism with different onsets are tracked separately.
        self._waiting = {(s.code, s.mechanism, s.onset): s for s in specs if mechanism_of(s).learned}
        self._before: dict[tuple[str, str, int], dict[int, float]] = {}
        self._recent: dict[tuple[str, str, int], deque[float]] = {}

    @property
    def waits(self) -> bool:
        """Whether it still needs exposures."""
        return bool(self._waiting)

    def observe(self, paid_step: int, exposures: Sequence[Exposure], entropy: float | None = None) -> list[Effect]:
        """Take a step's exposures, one list over all actors, and the policy's mean entropy in nats a token.

        Returns the effects that begin with the step.
        """
        if entropy is not None:
            exposures = [*exposures, *entropy_exposures(self._specs, entropy)]
        amounts: dict[tuple[str, str], float] = {}
        for code, mechanism in {(e.code, e.mechanism) for e in exposures}:
            matching = [e for e in exposures if (e.code, e.mechanism) == (code, mechanism)]
            count = sum(e.count for e in matching)
            amounts[code, mechanism] = sum(e.total for e in matching) / count if count else math.nan
        effects = []
        for key, spec in list(self._waiting.items()):
            amount = amounts.get(key[:2], math.nan)
            if self._is_effect(spec, paid_step, amount):
                del self._waiting[key]
                effects.append(Effect(spec.code, spec.mechanism, paid_step, amount))
        return effects

    def _is_effect(self, spec: FaultSpec, paid_step: int, amount: float) -> bool:
        if math.isnan(amount):
            return False
        key = spec.code, spec.mechanism, spec.onset
        before = self._before.setdefault(key, {})
        # A fault from step 1 has no step before it: the first one shows what the policy did before it learnt.
        if paid_step < spec.onset or not before:
            before[paid_step] = amount
            return False
        base = [before[step] for step in sorted(before)[-BASE_STEPS:]]
        recent = self._recent.setdefault(key, deque(maxlen=RECENT_STEPS))
        recent.append(amount)
        if len(recent) < RECENT_STEPS:
            return False
        return (
            _SIGNS.get(spec.mechanism, 1.0) * (sum(recent) / len(recent) - sum(base) / len(base))
            >= mechanism_of(spec).learned
        )
