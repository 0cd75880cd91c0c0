"""Names of values that only logs of other trainers have, beside the signals of the dictionary. Pure."""

from __future__ import annotations

BESIDE = "beside:"
"""Before the name of a part of the reward, or of an evaluation: what it measures is the trainer's own."""
ROLLOUT_GAP_MEAN = "rollout_gap_mean"
"""Mean magnitude of the log-prob gap between rollout and learner, in nats a token."""
NOT_FINITE = "not_finite"
"""1 at rows of a log where a value of the update is not finite, 0 where all are."""
