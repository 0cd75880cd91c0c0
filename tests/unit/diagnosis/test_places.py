"""Where a fault sits and how strong it is: the tables fit the injected faults, and what is broken tells the place."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

import pytest

from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.diagnosis import places
from rftfm_ray.diagnosis.classify import CLAIMED, claimed, diagnose
from rftfm_ray.diagnosis.places import SEPARATING, Source, said_of, source_of
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.rollout.seams import EpisodeSeams, RolloutSeams
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.taxonomy import SEAMS, SIXTEEN, UNKNOWN, places_of
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.verdicts import Evidence, Place, Symptom

NOT_INJECTED = ("RolloutSeams.episodes", "RolloutSeams.exposure")
"""One gives the seams of episodes, the other counts what faults pay for."""


def alarm(detector: str, signal: str = "reward_mean", strength: float | None = None, value: float = 1.0) -> Symptom:
    """An alarm of a detector."""
    return Symptom(detector, signal, Evidence.IDENTITY, True, 1, value, 0.0, math.inf, 5, 5, "it is so", strength)


def found(code: str, *alarms: Symptom, **measured: float) -> Source:
    """The source of a fault by some alarms and separating signals."""
    return source_of(code, alarms, lambda name: measured.get(name, math.nan))


def test_places_of_the_sixteen_are_those_of_their_mechanisms() -> None:
    for fault in SIXTEEN:
        acting = {mechanism.acts_in for mechanism in CATALOGUE[fault.code].mechanisms}
        assert set(fault.places) == acting, fault.code
        assert len(set(fault.places)) == len(fault.places)
    assert places_of(UNKNOWN) == ()


def test_every_seam_has_its_places_and_every_place_a_seam() -> None:
    names = {
        f"{kind.__name__}.{name}" for kind in (LearnerSeams, RolloutSeams, EpisodeSeams)
        for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")
    }  # fmt: skip
    assert set(SEAMS) == names - set(NOT_INJECTED)
    assert {place for each in SEAMS.values() for place in each} == set(Place)


def test_tables_speak_of_checks_and_signals_that_exist() -> None:
    known = {"declared_rate", *(f"identity:{identity.name}" for identity in IDENTITIES)}
    assert set(places._OF_IDENTITIES) <= known
    # The end of an episode is told otherwise by limits and by a server that cuts turns off: other signals tell which.
    assert known - set(places._OF_IDENTITIES) == {"identity:terminations"}
    assert set(SEPARATING) | set(places._OF_CHANNELS) <= set(INDEX)


GAP = "floor:rollout"
CASES: list[tuple[str, tuple[str, ...], Mapping[str, float], Place, bool]] = [
    ("RF-1", (), {}, Place.REWARD, True),
    ("OD-1", ("identity:update_gain",), {}, Place.OPTIMIZER, True),
    ("OD-1", ("declared_rate",), {}, Place.SCHEDULE, True),
    ("OD-1", (), {}, Place.OPTIMIZER, False),
    ("OD-2", ("identity:served_weights", GAP), {}, Place.SYNC, True),
    ("OD-2", (GAP,), {}, Place.SYNC, True),
    ("OD-2", ("identity:update_gain",), {}, Place.OPTIMIZER, True),
    ("OD-3", ("law:loss",), {}, Place.LOSS, True),
    ("OD-3", (GAP,), {"gap_end": 0.4, "gap_rest": 0.01}, Place.SAMPLER, True),
    # What a bias gives to ends it takes from all other tokens.
    ("PG-1", (GAP,), {"gap_end": 14.3, "gap_rest": -1.3}, Place.SAMPLER, True),
    ("PG-3S", (GAP,), {"gap_end": 6.0, "gap_rest": -0.008}, Place.SAMPLER, True),
    # Single turns come back empty, and all others are what the policy says; or all do, and there are no others.
    ("PG-1", (GAP,), {"gap_end": 6.0, "gap_rest": -4e-4}, Place.SERVER, True),
    ("PG-1", (GAP,), {"gap_end": 12.0, "gap_rest": math.nan}, Place.SERVER, True),
    ("PG-1", (GAP, "law:reward"), {"gap_end": 6.0, "gap_rest": 0.0}, Place.REWARD, True),
    ("PG-1", (), {}, Place.DATA, True),
    ("PG-3S", ("identity:terminations",), {"cut_short_rate": 0.2}, Place.SERVER, True),
    # Ends that come are as the policy says, and where one must not come anything else does.
    ("PG-3L", (GAP,), {"gap_end": -1e-7, "gap_rest": 1.0}, Place.SERVER, True),
    ("PG-3L", (GAP,), {"gap_end": -3.0, "gap_rest": 0.8}, Place.SAMPLER, True),
    ("PG-3L", (), {}, Place.LIMITS, True),
    ("PG-2", (), {}, Place.SAMPLER, False),
    ("CA-2", ("identity:advantages", "law:advantage_mean"), {}, Place.ESTIMATOR, True),
    ("CA-2", ("identity:credit", "law:advantage_mean"), {}, Place.BUFFER, True),
    ("CA-3", ("identity:credit", "identity:returns", "law:returns"), {}, Place.ESTIMATOR, True),
    ("CA-3", ("identity:samples",), {}, Place.BUFFER, True),
    ("CA-1", ("identity:returns",), {}, Place.CRITIC, True),
    ("TE-2", ("identity:decoded_observations",), {}, Place.LINK, True),
    ("TE-2", ("identity:replayed_observations",), {}, Place.TOOL, True),
    ("TE-3", ("identity:replayed_terminations",), {}, Place.TOOL, True),
    ("TE-3", ("identity:turn_limits",), {}, Place.LIMITS, True),
]


@pytest.mark.parametrize(("code", "detectors", "measured", "place", "is_told"), CASES)
def test_what_is_broken_tells_the_place(
    code: str, detectors: tuple[str, ...], measured: Mapping[str, float], place: Place, is_told: bool
) -> None:
    source = found(code, *map(alarm, detectors), **measured)
    assert (source.place, source.is_told) == (place, is_told)


def test_without_a_name_a_place_is_said_only_where_a_check_tells_it() -> None:
    assert found(UNKNOWN, alarm("joint")).place is None
    assert found(UNKNOWN, alarm("identity:samples")).place is Place.BUFFER
    assert found(UNKNOWN, alarm("probe", "verifier_error_rate")).place is Place.REWARD
    assert found("RF-9", alarm("joint")).place is None


@pytest.mark.parametrize(
    ("code", "symptom", "strength", "what"),
    [
        ("OD-1", alarm("identity:update_gain", "update_gain", value=4.7), 4.7, "factor of updates"),
        ("OD-1", alarm("declared_rate", "lr_excess", value=math.log(30)), 30.0, "factor of the learning rate"),
        ("CA-1", alarm("identity:values", "value_error", value=2.5), 2.5, "difference of values"),
        ("OD-3", alarm("law:loss", "loss", -5.0), -5.0, "as an entropy bonus of coefficient"),
        ("RF-1", alarm("law:reward", strength=0.4), 0.4, "reward that nothing declared pays for, a trajectory"),
        ("RF-1", alarm("joint"), None, ""),
        ("RF-1", alarm("law:reward", strength=math.nan), None, ""),
    ],
)
def test_strength_is_read_off_the_check_that_tells_the_place(
    code: str, symptom: Symptom, strength: float | None, what: str
) -> None:
    source = found(code, symptom)
    assert source.strength == (None if strength is None else pytest.approx(strength))
    assert source.strength_of == what


def test_sentence_says_whether_the_place_is_told() -> None:
    (said,) = said_of(found("OD-1", alarm("identity:update_gain", "update_gain", value=4.7)))
    assert said == "It sits in the optimizer: factor of updates 4.7."
    (guessed,) = said_of(found("OD-1", alarm("joint")))
    assert guessed == "It most often sits in the optimizer."
    assert not list(said_of(found(UNKNOWN, alarm("joint"))))


def test_diagnosis_holds_place_and_strength_and_a_suspicion_only_what_a_check_tells() -> None:
    diagnosis = diagnose([alarm("identity:update_gain", "update_gain", value=30.0)])
    assert diagnosis is not None
    assert (diagnosis.code, diagnosis.place, diagnosis.strength) == ("OD-1", Place.OPTIMIZER, 30.0)
    assert "It sits in the optimizer: factor of updates 30." in diagnosis.summary
    noticed = diagnose([alarm("update_size", "update_ratio")])
    assert noticed is not None
    assert noticed.place is Place.OPTIMIZER
    if noticed.probability < CLAIMED:
        assert claimed(noticed).place is None
