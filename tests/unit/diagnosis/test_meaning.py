"""What a broken law can mean: a written table, complete, and the diagnoses that it leads to."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rftfm_ray.detection.detectors.exact import DeclaredRateDetector
from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.detection.detectors.laws import FLOOR, LAW, OWN_REWARD
from rftfm_ray.detection.laws.table import FLOOR_TABLE, LAWS
from rftfm_ray.detection.suite import TOOL_ERRORS
from rftfm_ray.diagnosis.classify import diagnose
from rftfm_ray.diagnosis.features import features_of
from rftfm_ray.diagnosis.findings import BROKEN_BY, FINDINGS, INTACT
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS, explained_signals, explains
from rftfm_ray.diagnosis.meaning import (
    BREAKS,
    CAUSES,
    IDENTITY_EXCLUDED,
    NEED_GRADIENTS,
    NOTHING_DIFFERS,
    RULED_OUT,
    nats_of_breaks,
    nats_of_identities,
)
from rftfm_ray.diagnosis.model import CODES, EXACT
from rftfm_ray.diagnosis.places import source_of
from rftfm_ray.diagnosis.raised import RAISED_BY
from rftfm_ray.diagnosis.weighing import level_of
from rftfm_ray.incidents.parts import Part, measured_part
from rftfm_ray.taxonomy import SIXTEEN, UNKNOWN, places_of
from rftfm_ray.verdicts import Evidence, Symptom


def broken(name: str, direction: int = 1, kind: str = LAW) -> Symptom:
    """A broken law, or a figure beyond its floor."""
    law = FLOOR_TABLE[name].law if kind == FLOOR else LAWS.get(name, LAWS["reward"])
    evidence = Evidence.LAW if kind == LAW else Evidence.TELEMETRY
    return Symptom(f"{kind}:{name}", law.signal, evidence, True, direction, 1.0, 0.0, math.inf, 6, 6, "it is broken")


def identity_broken(name: str) -> Symptom:
    """A broken identity, by the name of its detector."""
    return Symptom(name, "credit_error", Evidence.IDENTITY, True, 1, 1.0, 0.0, math.inf, 6, 6, "it is broken")


def test_every_law_and_floor_has_a_meaning_in_every_direction_of_faults_with_fingerprints() -> None:
    named = {f"{LAW}:{name}": law for name, law in LAWS.items()} | {
        f"{FLOOR}:{name}": floor.law for name, floor in FLOOR_TABLE.items()
    }
    assert set(BREAKS) == {*named, f"{LAW}:{OWN_REWARD}", f"{FLOOR}:{TOOL_ERRORS.signal}"}
    for name, meaning in BREAKS.items():
        assert meaning.places
        assert {*meaning.above, *meaning.below} <= set(FINGERPRINTS)
        for direction in named[name].directions if name in named else (1,):
            assert meaning.of(direction), name


def test_every_identity_of_one_meaning_has_its_causes_and_they_sit_where_it_is_broken() -> None:
    # What is not finite and what a verifier does have rules of their own.
    assert set(CAUSES) == {DeclaredRateDetector.name, *(f"identity:{identity.name}" for identity in IDENTITIES)}
    for name, codes in CAUSES.items():
        assert set(codes) < {fault.code for fault in SIXTEEN}
        told = source_of(UNKNOWN, [identity_broken(name)], lambda _: math.nan).place
        assert told is None or any(told in places_of(code) for code in codes), name


def test_each_broken_identity_rules_out_once_what_cannot_break_it() -> None:
    both = [identity_broken("identity:credit"), identity_broken("identity:returns")]
    against = nats_of_identities([*both, both[0]], ("CA-1", "CA-2", "CA-3", "PG-2"))
    assert against == {"CA-1": -IDENTITY_EXCLUDED, "CA-2": -IDENTITY_EXCLUDED, "PG-2": -2 * IDENTITY_EXCLUDED}
    assert nats_of_identities([], ("CA-1",)) == {}


def test_fault_that_would_break_what_holds_is_ruled_out() -> None:
    assert nats_of_identities([], ("TE-3", "OD-1"), (f"{INTACT}TE-3",)) == {"TE-3": -IDENTITY_EXCLUDED}
    assert nats_of_identities([], ("TE-3",), (f"{INTACT}TE-3",), {"TE-3": 2.0}) == {}, "it is declared so"
    frozen = [identity_broken("identity:updates_land")]
    assert nats_of_identities(frozen, ("OD-2",), (f"{INTACT}OD-2",)) == {}, "something else of it is broken"
    for code, limits in BROKEN_BY.items():
        signals = {identity.signal for identity in IDENTITIES if code in CAUSES[f"identity:{identity.name}"]}
        signals |= {"lr_excess"} if code in CAUSES[DeclaredRateDetector.name] else set()
        assert set(limits) <= signals, f"{code} is ruled out by what it does not break"


@pytest.mark.parametrize("code", list(RAISED_BY))
def test_alarm_of_a_raised_share_outweighs_that_the_newest_steps_look_usual(code: str) -> None:
    intact = (f"{INTACT}{code}",)
    elsewhere = Symptom("change:reward_std", "reward_std", Evidence.TELEMETRY, True, -1, 0.3, 0.4, 2.0, 6, 6, "it fell")
    assert nats_of_identities([elsewhere], (code,), intact) == {code: -IDENTITY_EXCLUDED}
    for signal in RAISED_BY[code].alarms:
        assert nats_of_identities([elsewhere, replace(elsewhere, signal=signal)], (code,), intact) == {}


def test_broken_law_that_a_fault_can_be_behind_outweighs_that_a_share_is_usual() -> None:
    intact = (f"{INTACT}RF-2",)
    assert nats_of_identities([broken("reward", -1)], ("RF-2",), intact) == {}
    assert nats_of_identities([broken("returns", -1)], ("RF-2",), intact) == {"RF-2": -IDENTITY_EXCLUDED}


def test_check_that_holds_outweighs_a_broken_law() -> None:
    assert "TE-3" in BREAKS[f"{LAW}:turns"].of(-1)
    against = nats_of_identities([broken("turns", -1)], ("TE-3",), (f"{INTACT}TE-3",))
    assert against == {"TE-3": -IDENTITY_EXCLUDED}


def test_end_that_no_turn_was_cut_short_for_is_one_of_the_limits() -> None:
    ended, codes = [identity_broken("identity:terminations")], ("PG-3S", "TE-3")
    assert nats_of_identities(ended, codes, ("turns_cut_short",)) == {}
    assert nats_of_identities(ended, codes, ("no_turn_cut_short",)) == {"PG-3S": -IDENTITY_EXCLUDED}
    assert {(name, code) for (name, _), out in RULED_OUT.items() for code in out} <= {
        (name, code) for name, causes in CAUSES.items() for code in causes
    }
    assert {finding for _, finding in RULED_OUT} <= set(FINDINGS)


def test_every_law_measures_a_part_of_the_run() -> None:
    assert {measured_part(law.signal, Evidence.LAW) for law in LAWS.values()} == set(Part) - {Part.VERIFIER}
    assert measured_part("reward_mean", Evidence.TELEMETRY) is None


@pytest.mark.parametrize(
    ("name", "direction", "code"),
    [
        ("loss", 1, "OD-3"), ("returns", -1, "CA-3"), ("turns", 1, "TE-3"), ("rate", 1, "OD-1"), ("rate", -1, "OD-2"),
        ("ratio", 1, "OD-1"),
    ],
)  # fmt: skip
def test_law_alone_names_what_only_one_fault_breaks(name: str, direction: int, code: str) -> None:
    diagnosis = diagnose([broken(name, direction)])
    assert diagnosis is not None
    assert diagnosis.code == code
    assert explained_signals(diagnosis) == {LAWS[name].signal}


def test_law_that_several_faults_break_rules_all_others_out() -> None:
    diagnosis = diagnose([broken("reward", -1)])
    assert diagnosis is not None
    assert diagnosis.code in BREAKS["law:reward"].below
    nats = nats_of_breaks([broken("reward", -1)], tuple(FINGERPRINTS))
    assert all(nats[code] < 0 for code in FINGERPRINTS if code not in BREAKS["law:reward"].below)
    assert not explains("CA-2", broken("reward"))
    # The fingerprint of the signal does not count beside the law.
    assert explains("OD-3", broken("loss", 1))
    assert not explains("NUMERICAL", broken("loss", 1))


def test_each_law_counts_once_and_a_floor_rules_out_less() -> None:
    codes = ("RF-1", "CA-2")
    once = nats_of_breaks([broken("reward")], codes)
    assert nats_of_breaks([broken("reward"), broken("reward")], codes) == once
    assert nats_of_breaks([], codes) == {}
    floor = nats_of_breaks([broken("rollout", kind=FLOOR)], ("CA-2", "PG-1"))
    assert 0 > floor["CA-2"] > once["CA-2"]
    assert floor["PG-1"] > 0


def test_law_is_exact_evidence_and_a_feature_of_its_own() -> None:
    assert level_of([broken("loss")]) == EXACT
    assert features_of([broken("loss"), broken("rollout", kind=FLOOR)]).present == (
        "alarm floor:rollout above", "alarm law:loss above",
    )  # fmt: skip


def test_equal_rewards_rule_out_what_acts_on_gradients_and_nothing_that_an_exact_check_shows() -> None:
    equal = replace(identity_broken(NOTHING_DIFFERS), signal="zero_variance_group_rate", evidence=Evidence.TELEMETRY)
    against = nats_of_identities([equal], CODES)
    assert against == dict.fromkeys(NEED_GRADIENTS, -IDENTITY_EXCLUDED)
    assert nats_of_identities([replace(equal, alarm=False)], CODES) == {}
    # A check that holds says the same thing, and counts no more for it.
    assert nats_of_identities([equal], CODES, [f"{INTACT}OD-2"]) == against
    rate = identity_broken("declared_rate")
    assert not {"OD-1", "OD-2"} & set(nats_of_identities([equal, rate], CODES))
