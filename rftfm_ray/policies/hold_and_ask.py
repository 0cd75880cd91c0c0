"""The policy that never acts by itself: it proposes a remedy and asks a person. Pure."""

from __future__ import annotations

from dataclasses import replace

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Decision, Remedy

HOLD = "hold"


class HoldAndAsk:
    """Never acts by itself: asks a person to approve the playbook's remedy, or a frozen policy where it has none.

    Nothing is learnt from faulty data while the policy is frozen, and what was learnt stays. Nothing is moved until
    somebody approves it, whatever `guard.act_on` says.
    """

    def __init__(self) -> None:
        self._playbook = Playbook()

    def decide(self, ctx: PolicyContext) -> Decision:
        """The remedy to approve: the playbook's next, then a hold; nothing once a hold was tried."""
        decision = self._playbook.decide(ctx)
        if decision.remedy is not None:
            return replace(decision, reason=f"for a person to approve: {decision.reason}", ask=True)
        if any(tried.remedy == HOLD for tried in ctx.tried):
            return Decision(None, f"a person must decide: {decision.reason}, and holding has not ended it")
        reason = f"for a person to approve: {decision.reason}, so nothing is learnt until its cause is found"
        return Decision(Remedy(HOLD, Levers(freeze_policy=1)), reason, ask=True)
