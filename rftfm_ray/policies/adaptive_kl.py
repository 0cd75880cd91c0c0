"""The adaptive KL controller of Ziegler et al. (2019, section 2.2) as a remediation policy. Pure.

Theirs moves the coefficient at every update of a run: e = clip(KL / target - 1, -0.2, 0.2), coef *= 1 + K * e with
K = 0.1. This one moves it only while an optimization fault is treated: it makes the same steps over the reports since
the onset, so that a decision later in a fault is a stronger one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.levers import LEVERS
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Decision, Family, Remedy

# The error of one step is clipped to this, as in the paper.
MOST_ERROR = 0.2
# K of the paper is 0.1, for hundreds of updates; a fault is treated within ten.
GAIN = 1.0
MOST_MOVES = 3
# Less than this changes nothing that a step shows.
LEAST_MOVE = 0.02
_BOUNDS = next(spec for spec in LEVERS if spec.name == "kl_coef_scale")


class AdaptiveKL:
    """Scales kl_coef by the KL to the reference policy against a target (Ziegler et al. 2019); for OD faults only.

    Args:
        target: KL in nats a token; None for the KL from before the fault.
        gain: K of the controller.
    """

    def __init__(self, target: float | None = None, gain: float = GAIN) -> None:
        self._target = target
        self._gain = gain
        self._over: float | None = None
        self._scale = 1.0

    def decide(self, ctx: PolicyContext) -> Decision:
        """A scale of kl_coef that follows from how far the KL was from its target in every step since the onset."""
        code = ctx.diagnosis.code
        if ctx.diagnosis.family is not Family.OD:
            return Decision(None, f"adaptive_kl moves the KL penalty only, which is no remedy for {code}")
        if not ctx.nominal.kl_coef > 0:
            return Decision(None, "algorithm.kl_coef is 0, so there is no KL penalty to scale; set it above 0")
        target = self._target if self._target is not None else ctx.before_onset("kl_ref")
        measured = zip(ctx.reports, ctx.signal("kl_ref"), strict=True)
        since = [kl for report, kl in measured if report.id.step >= ctx.diagnosis.onset and kl >= 0]
        if not (math.isfinite(target) and target > 0) or not since:
            return Decision(None, "the KL to the reference policy is not known before the fault or since")
        if len(ctx.tried) >= MOST_MOVES:
            return Decision(None, f"the KL penalty was scaled {len(ctx.tried)} times and that has not helped")
        self._over, self._scale = min(since[-1] / target, 1e9), self._integrated(since, target)
        in_force = ctx.levers.kl_coef_scale if ctx.levers.kl_coef_scale is not None else 1.0
        how = f"the KL to the reference policy is {self._over:.3g} times its target of {target:.3g} nats a token"
        if abs(self._scale / in_force - 1) < LEAST_MOVE:
            return Decision(None, f"{how}, and kl_coef is where it has to be")
        return Decision(Remedy("scale_kl", Levers(kl_coef_scale=self._scale)), f"{how}, so kl_coef is scaled")

    def _integrated(self, since: Sequence[float], target: float) -> float:
        """The scale after one step of the controller for every KL, within the bounds of the lever."""
        scale = 1.0
        for kl in since:
            error = min(MOST_ERROR, max(-MOST_ERROR, kl / target - 1))
            scale = min(_BOUNDS.high, max(_BOUNDS.low, scale * (1 + self._gain * error)))
        return scale

    def metrics(self) -> Mapping[str, float]:
        """How far the KL was from its target at the last decision, and the scale that followed from it."""
        return {} if self._over is None else {"kl_over_target": self._over, "kl_coef_scale": self._scale}

    def state_dict(self) -> dict[str, float | None]:
        """What `metrics` shows."""
        return {"kl_over_target": self._over, "kl_coef_scale": self._scale}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a state."""
        self._over, self._scale = state["kl_over_target"], state["kl_coef_scale"]
