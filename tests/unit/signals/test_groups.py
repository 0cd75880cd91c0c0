"""Groups of signals: what a profile or prior may hold, and what needs no reference."""

from __future__ import annotations

from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.detection.reference.residuals import COLUMNS
from rftfm_ray.incidents.parts import MEASURED
from rftfm_ray.signals.dictionary import DICTIONARY
from rftfm_ray.signals.groups import GAPS, SEPARATORS, TELEMETRY


def test_separators_are_signals_and_need_no_reference() -> None:
    assert len(set(SEPARATORS)) == len(SEPARATORS) == 22
    assert set(SEPARATORS) <= set(DICTIONARY)
    assert not set(SEPARATORS) & {*TELEMETRY, *COLUMNS}


def test_separators_but_gaps_measure_a_part_of_the_run() -> None:
    """A gap follows the policy too: of two engines that round differently it grows where a policy is less sure."""
    assert set(SEPARATORS) - set(MEASURED) == set(GAPS)


def test_gaps_and_patterns_of_errors_are_no_identities() -> None:
    exact = {identity.signal for identity in IDENTITIES} & set(SEPARATORS)
    assert exact == {
        "credit_error", "return_error", "value_error", "update_gain", "limit_excess",
        "observation_decode_mismatch_rate", "sample_mismatch_rate",
    }  # fmt: skip
