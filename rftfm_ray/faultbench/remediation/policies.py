"""Policies that the guard's own is compared with. Pure.

All of them go through the same framework as any policy: its bounds, budget, grounds and verification hold for them too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from rftfm_ray.errors import PolicyError
from rftfm_ray.faultbench.remediation.pairs import Arm, Injected, Role
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.policies.adaptive_kl import AdaptiveKL
from rftfm_ray.policies.api import MOST_TIMES, Policy, PolicyContext, restore_step
from rftfm_ray.policies.playbook import PLANS, Playbook
from rftfm_ray.policies.safety import check_decision
from rftfm_ray.taxonomy import family_of
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Decision, Remedy

TENFOLD = 10.0


class AlwaysRollback:
    """Goes back to before the fault and leaves out one batch of prompts, whatever is wrong."""

    def decide(self, ctx: PolicyContext) -> Decision:
        """A rollback, as often as one may be repeated."""
        step = restore_step(ctx)
        if step is None:
            return Decision(None, "there is no snapshot from before the fault")
        if ctx.times_given("rollback", step) >= MOST_TIMES:
            return Decision(None, f"the run was rolled back to step {step} {MOST_TIMES} times")
        return Decision(Remedy("rollback", rollback=True, skip_batches=1), "whatever is wrong, go back")


class TenfoldKl:
    """Makes the penalty on the KL to the reference policy ten times as strong, whatever is wrong."""

    def decide(self, ctx: PolicyContext) -> Decision:
        """The lever, once."""
        if ctx.levers.kl_coef_scale == TENFOLD or not ctx.nominal.kl_coef > 0:
            return Decision(None, "the KL penalty is ten times as strong already, or there is none")
        return Decision(Remedy("kl_tenfold", Levers(kl_coef_scale=TENFOLD)), "whatever is wrong, hold to the reference")


@dataclass(frozen=True, slots=True)
class RandomRemedy:
    """Any remedy of any plan of the playbook that the framework permits, drawn at random.

    Attributes:
        seed: of the draws.
    """

    seed: int

    def decide(self, ctx: PolicyContext) -> Decision:
        """One of the permitted remedies, each as likely as any other."""
        known = {remedy.name: remedy for plan in PLANS.values() for of in plan.plans for remedy in of.remedies}
        permitted = list[Decision]()
        for name in sorted(known):
            made = known[name].made(ctx)
            if made is None:
                continue
            try:
                permitted.append(check_decision(Decision(made[0], "drawn at random"), ctx))
            except PolicyError:
                continue
        if not permitted:
            return Decision(None, "no remedy is permitted")
        return random.Random(f"{self.seed}-{ctx.step.paid_step}-{len(ctx.given)}").choice(permitted)


@dataclass(frozen=True, slots=True)
class ToldPlaybook:
    """The playbook, which is told what is wrong, where, and since when, instead of the guard's diagnosis.

    Attributes:
        fault: that the run has.
    """

    fault: Injected

    def decide(self, ctx: PolicyContext) -> Decision:
        """What the playbook decides on the true diagnosis."""
        fault = self.fault
        place = CATALOGUE[fault.code].mechanism(fault.mechanism).acts_in
        # After a rollback a consumed step is a later one than the step of the lineage that has the same number.
        onset = min(fault.onset, ctx.step.step)
        true = replace(
            ctx.diagnosis, code=fault.code, family=family_of(fault.code), probability=1.0, rivals=(), also=(),
            onset=onset, onset_low=min(onset, ctx.diagnosis.onset_low), place=place, strength=fault.strength,
        )  # fmt: skip
        return Playbook().decide(replace(ctx, diagnosis=true))


def policy_of(arm: Arm) -> Policy | None:
    """The policy that decides in a run in place of the configured one; None where that decides."""
    match arm.role:
        case Role.ROLLBACK:
            return AlwaysRollback()
        case Role.KL:
            return TenfoldKl()
        case Role.RANDOM:
            return RandomRemedy(arm.trunk.seed)
        case Role.ADAPTIVE_KL:
            return AdaptiveKL()
        case Role.TOLD:
            return ToldPlaybook(min(arm.faults, key=lambda fault: fault.onset))
        case _:
            return None
