"""Levers on their way back to nominal: one lever, one step at a time. Pure."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from rftfm_ray.types import Levers

# Scales go back by this factor a step; everything else goes back at once.
FACTOR = 4.0
RATES = ("lr_scale", "critic_lr_scale")
SCALES = (*RATES, "kl_coef_scale")


def moved(levers: Levers) -> tuple[str, ...]:
    """Names of the levers that are off nominal."""
    return tuple(item.name for item in fields(Levers) if getattr(levers, item.name) is not None)


def one_step_back(levers: Levers, name: str, scheduled: float = 1.0) -> Levers:
    """`levers` with one of them a step nearer to its nominal value, which is None.

    `scheduled` is the share of the rates that the schedule calls for now: what their scales go back to.
    """
    # Early in a long warm-up the schedule calls for less than a lever may say.
    full = max(0.01, scheduled) if name in RATES else 1.0
    nearer: dict[str, Any] = {name: _nearer(name, getattr(levers, name), full)}
    return replace(levers, **nearer)


def _nearer(name: str, setting: float, full: float) -> float | None:
    if name not in SCALES:
        return None
    if setting < full:
        after = setting * FACTOR
        return after if after < full else None
    after = setting / FACTOR
    return after if after > full else None
