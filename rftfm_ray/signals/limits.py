"""Values of signals that no healthy run reaches, whatever its configuration; each stands once. Pure."""

from __future__ import annotations

IMPOSSIBLE_KL = 100.0
"""Nats a token between policy and reference: a token of a vocabulary of 150,000 that is as likely as any other is 12
nats away. The largest of 29,674 recorded healthy steps, 500-step runs among them, is 15.8."""
IMPOSSIBLE_STEP_KL = 10.0
"""Nats a token that one update moves the policy: the clip of the objective keeps a step within a fraction of a nat. The
largest of the same steps is 0.53; a rate twice as high gives four times as much."""
ADVANTAGE_LIMIT = 1e-5
"""Tolerance of the commit gate: beyond it advantages differ from their recomputation."""
CREDIT_LIMIT = 1e-5
"""Credit and values are compared as float32 arrays that no arithmetic lies between: a healthy run shows 0, in every
precision of the model, because they are never rounded to it."""
SHIFTED = 0.02
"""Nats from which a mean gap of log-probs between rollout and learner is one of sampling, and not of rounding: weights
in bfloat16 leave less than 0.001."""
BIASED = 0.5
"""Nats of a bias on end tokens (`gap_end`) from which they are sampled otherwise than the policy says: weights that are
a few steps old, or rounded, move log-odds by less."""
SHARPER = 1.05
"""Exponent of sharpening at sampling (`gap_slope`) from which a temperature is lower than declared."""
OTHER_LIMIT = 0.05
"""Logarithm of a turn's tokens asked for over declared (`limit_excess`) beyond which a limit is another one."""
