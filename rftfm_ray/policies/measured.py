"""Settings of levers that only a measurement allows, because they undo exactly what a check has measured. Pure.

By itself ten times the rate, or an entropy bonus of five, destroys a run. Where a broken law or separator measures the
factor that is lost, or the bonus that was taken off, the same setting restores what is declared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.errors import PolicyError
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.levers import LEVERS, beyond_usual
from rftfm_ray.verdicts import Remedy, Symptom

# An inverse that is a fifth off still gives back all but 0.02 of the accuracy that a fault costs.
SLACK = 1.25


@dataclass(frozen=True, slots=True)
class Measure:
    """How a broken check measures what a lever has to undo.

    Attributes:
        detectors: names of the checks.
        inverse: the setting that restores what is declared, from a symptom and the context; NaN where none does.
    """

    detectors: tuple[str, ...]
    inverse: Callable[[Symptom, PolicyContext], float]


def _rate(symptom: Symptom, ctx: PolicyContext) -> float:
    """The scale of a rate of which updates lose a factor; an optimizer that does nothing is not mended by any."""
    del ctx
    return 1 / symptom.value if symptom.value > 0 else math.nan


def _entropy(symptom: Symptom, ctx: PolicyContext) -> float:
    """The coefficient whose loss is that of the configured one; the strength is the one that the loss shows."""
    declared = ctx.nominal.entropy_coef if ctx.levers.entropy_coef is None else ctx.levers.entropy_coef
    return math.nan if symptom.strength is None else ctx.nominal.entropy_coef + declared - symptom.strength


MEASURES: Mapping[str, Measure] = {
    "lr_scale": Measure(("identity:update_gain",), _rate),
    "entropy_coef": Measure(("law:loss", "law:centred_loss", "floor:loss_parts"), _entropy),
}
"""By lever, for each that has settings beyond its usual ones."""


def inverse_of(lever: str, ctx: PolicyContext) -> tuple[float, str] | None:
    """The setting of a lever that undoes what a broken check has measured, and that check; None without one.

    It is the nearest one within the bounds of the lever, which may undo less than all of it.
    """
    measure, spec = MEASURES[lever], next(spec for spec in LEVERS if spec.name == lever)
    for symptom in _measuring(measure.detectors, ctx):
        setting = measure.inverse(symptom, ctx)
        if math.isfinite(setting):
            return min(spec.high, max(spec.low, setting)), symptom.detector
    return None


def check_measured(remedy: Remedy, ctx: PolicyContext) -> None:
    """Refuse a lever beyond its usual bounds that nothing has measured, or that goes further than what was measured.

    Raises:
        PolicyError: names remedy and lever, and says which check could have measured it.
    """
    if not (isinstance(remedy.measured_by, tuple) and all(isinstance(name, str) for name in remedy.measured_by)):
        raise PolicyError(f"Remedy {remedy.name}: measured_by must be a tuple of names of detectors.")
    for spec in beyond_usual(remedy.levers):
        value, measure = getattr(remedy.levers, spec.name), MEASURES[spec.name]
        told = f"Remedy {remedy.name} sets {spec.name}={value:g}, beyond {spec.usual_high:g}"
        named = tuple(name for name in remedy.measured_by if name in measure.detectors)
        if not named:
            raise PolicyError(
                f"{told}, which only a measurement allows; give measured_by one of {', '.join(measure.detectors)}."
            )
        settings = [measure.inverse(symptom, ctx) for symptom in _measuring(named, ctx)]
        known = [setting for setting in settings if math.isfinite(setting)]
        if not known:
            raise PolicyError(f"{told}, and {', '.join(named)} has measured nothing that it would undo.")
        if value > SLACK * max(known):
            raise PolicyError(f"{told}, and what {', '.join(named)} has measured calls for {max(known):.3g}.")


def _measuring(detectors: Sequence[str], ctx: PolicyContext) -> list[Symptom]:
    """Symptoms of some detectors, in the order of these; expected alarms are notices, and measure as well."""
    symptoms = ctx.diagnosis.symptoms
    return [symptom for name in detectors for symptom in symptoms if symptom.detector == name]
