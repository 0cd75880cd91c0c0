"""The tables of all laws and floors. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rftfm_ray.detection.laws.base import Law
from rftfm_ray.detection.laws.credit import CREDIT_LAWS
from rftfm_ray.detection.laws.floors import FLOORS, Floor
from rftfm_ray.detection.laws.rollouts import ROLLOUT_LAWS
from rftfm_ray.detection.laws.updates import UPDATE_LAWS

LAWS: Mapping[str, Law] = {law.name: law for law in (*CREDIT_LAWS, *UPDATE_LAWS, *ROLLOUT_LAWS)}
"""Every law that the declared configuration gives, by its name."""
FLOOR_TABLE: Mapping[str, Floor] = {floor.law.name: floor for floor in FLOORS}
"""Every floor, by its name."""
