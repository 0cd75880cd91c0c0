"""Aliases of values in journals of older versions, with the current values: the only table of them."""

from __future__ import annotations

from collections.abc import Mapping

from rftfm_ray.incidents.state import Scalar
from rftfm_ray.verdicts import OutcomeKind

OLD_VALUES: Mapping[str, Mapping[str, str]] = {
    "outcome": {
        "cured": OutcomeKind.RESOLVED.value,
        "contained": OutcomeKind.MITIGATED.value,
        "worse": OutcomeKind.HARMFUL.value,
    },
}
"""Old values and their current ones, by field of an entry."""


def current_value(field: str, value: Scalar) -> Scalar:
    """The current value of a field that may hold an old one."""
    return OLD_VALUES.get(field, {}).get(value, value) if isinstance(value, str) else value
