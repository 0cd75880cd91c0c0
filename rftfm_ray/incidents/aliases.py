"""Words of journals that older versions have written, with the words of today: the only table of them."""

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
"""By field of an entry, the old values that it may hold."""


def current_value(field: str, value: Scalar) -> Scalar:
    """The value of a field in the words of today."""
    return OLD_VALUES.get(field, {}).get(value, value) if isinstance(value, str) else value
