"""Aliases of values in journals of older versions, with the current values: the only table of them."""

from __future__ import annotations

from collections.abc import Mapping

from rftfm_ray.incidents.state import Scalar
from rftfm_ray.verdicts import IncidentState, OutcomeKind

OLD_VALUES: Mapping[str, Mapping[str, str]] = {
    "outcome": {
        "cured": OutcomeKind.RESOLVED.value,
        "contained": OutcomeKind.MITIGATED.value,
        "worse": OutcomeKind.HARMFUL.value,
    },
}
"""Old values and their current ones, by field of an entry."""


# What version 0.1 wrote where an incident was closed by silence alone, which it called resolved.
_OLD_SILENCE = {"state": IncidentState.RESOLVED.value, "reason": "the alarm cleared without a remedy"}


def current_fields(fields: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The fields of an entry in the words of this version."""
    current = {name: current_value(name, value) for name, value in fields.items()}
    if _OLD_SILENCE.items() <= current.items():
        current["state"] = IncidentState.CLEARED.value
    return current


def current_value(field: str, value: Scalar) -> Scalar:
    """The current value of a field that may hold an old one."""
    return OLD_VALUES.get(field, {}).get(value, value) if isinstance(value, str) else value
