"""Levers on their way back to nominal: one lever, one step at a time. Pure."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from rftfm_ray.types import Levers

# Scales go back by this factor a step; everything else goes back at once.
FACTOR = 4.0
SCALES = ("lr_scale", "kl_coef_scale")


def moved(levers: Levers) -> tuple[str, ...]:
    """Names of the levers that are off nominal."""
    return tuple(item.name for item in fields(Levers) if getattr(levers, item.name) is not None)


def one_step_back(levers: Levers, name: str) -> Levers:
    """`levers` with one of them a step nearer to its nominal value, which is None."""
    nearer: dict[str, Any] = {name: _nearer(name, getattr(levers, name))}
    return replace(levers, **nearer)


def _nearer(name: str, setting: float) -> float | None:
    if name not in SCALES:
        return None
    if setting < 1:
        after = setting * FACTOR
        return after if after < 1 else None
    after = setting / FACTOR
    return after if after > 1 else None
