"""A policy of your own: `rftfm train FILE --guard act guard.policy=examples/custom_policy.py:SlowDown`.

It is asked about diagnosed faults of the families in `guard.act_on`, sees a frozen context and returns a decision;
bounds, budget, cooldown, timeout and verification are kept for it. What else a policy may have (outcomes, a state that
survives rollback and resume, metrics) and how it is checked and replayed: docs/policies.md.
"""

from rftfm_ray import Decision, Levers, PolicyContext, Remedy


class SlowDown:
    """Half the learning rate; then half of that, from before the fault; then a person must look."""

    def decide(self, ctx: PolicyContext) -> Decision:
        """The next remedy: `ctx.tried` holds those that did not help."""
        if len(ctx.tried) == 2:
            return Decision(None, "slowing down has not helped")
        scale = 0.5 ** (len(ctx.tried) + 1)
        remedy = Remedy("slow_down", Levers(lr_scale=scale), rollback=bool(ctx.tried))
        return Decision(remedy, f"{ctx.diagnosis.code} since step {ctx.diagnosis.onset}: {scale:g} of the rate")
