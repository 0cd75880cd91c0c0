"""The parts of a training run that signals measure, and the faults that are in them."""

from __future__ import annotations

import pytest

from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.incidents.parts import MEASURED, Part, part_of, shows_another
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.taxonomy import SIXTEEN, UNKNOWN, VERIFIER
from rftfm_ray.verdicts import Evidence, Symptom


def alarm(signal: str, evidence: Evidence = Evidence.CHANNEL) -> Symptom:
    """An alarm."""
    return Symptom("test", signal, evidence, True, 1, 1.0, 0.0, 9.0, 6, 6, f"{signal} is out of bounds")


def test_every_measured_signal_is_one_of_a_report() -> None:
    assert set(MEASURED) <= set(INDEX)
    assert set(MEASURED.values()) == set(Part)


def test_every_fault_with_a_name_is_in_a_part() -> None:
    assert all(part_of(code) is not None for code in (*FINGERPRINTS, *(fault.code for fault in SIXTEEN)))
    assert part_of(VERIFIER) is Part.VERIFIER
    assert part_of(UNKNOWN) is None


def test_what_describes_answers_or_their_worth_measures_no_part() -> None:
    assert not set(MEASURED) & {
        "kl_ref", "entropy", "reward_mean", "correct_rate", "probe_accuracy", "length_mean", "empty_rate",
        "repeated_bigram_rate", "truncated_rate", "zero_variance_group_rate", "explained_variance", "value_loss",
    }  # fmt: skip


@pytest.mark.parametrize("part", list(Part))
def test_a_part_shows_itself_unless_it_is_known_to_be_at_fault(part: Part) -> None:
    alarms = [alarm(signal, Evidence.IDENTITY) for signal, measured in MEASURED.items() if measured is part]
    others = set(Part) - {part}
    assert all(shows_another([each], others, changes_policy=True) for each in alarms)
    assert not shows_another(alarms, {part}, changes_policy=True)
