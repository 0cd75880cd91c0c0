"""Numbers for people that claim no more than is known."""

from __future__ import annotations

# Probability beyond which nothing more is shown: recorded runs are too few to tell 99 % from certainty.
_HIGHEST_SHOWN, _LOWEST_SHOWN = 0.99, 0.01


def as_percent(probability: float) -> str:
    """A probability for people, which never claims certainty: at most ">99%", at least "<1%"."""
    if probability > _HIGHEST_SHOWN:
        return ">99%"
    return "<1%" if probability < _LOWEST_SHOWN else f"{probability:.0%}"


MOST_NATS = 100.0
"""Largest evidence that is shown as a number: odds of e to the power of 100. Beyond it the size says nothing more."""


def as_nats(evidence: float) -> str:
    """Evidence for people, in nats with one decimal: below 0 it is as good as none, beyond `MOST_NATS` "over 100"."""
    return f"over {MOST_NATS:.0f}" if evidence > MOST_NATS else f"{max(evidence, 0.0):.1f}"
