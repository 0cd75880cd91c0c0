"""The catalogue: sixteen faults, what their mechanisms promise, and where they act beside where checks run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rftfm_ray.detection.detectors.exact import DeclaredRateDetector
from rftfm_ray.detection.detectors.identities import IDENTITIES
from rftfm_ray.faultbench.pages.page import CHECKS, SITES, Site
from rftfm_ray.faults.kinds import ALGORITHMS, CATALOGUE, FaultKind, Mechanism
from rftfm_ray.signals.dictionary import DICTIONARY, Source

PACKAGE = Path(__file__).parents[3] / "rftfm_ray"
CODES = ["RF-1", "RF-2", "RF-3", "PG-1", "PG-2", "PG-3S", "PG-3L", "OD-1", "OD-2", "OD-3", "CA-1", "CA-2", "CA-3"]
CODES += ["TE-1", "TE-2", "TE-3"]
MECHANISMS = [
    pytest.param(kind, mechanism, id=f"{code}-{mechanism.name}")
    for code, kind in CATALOGUE.items()
    for mechanism in kind.mechanisms
]
# That the rate in force is the declared one has a detector of its own.
SHOWN_BY = {identity.name for identity in IDENTITIES} | {DeclaredRateDetector.name}


def test_there_are_the_sixteen_faults_of_the_taxonomy() -> None:
    assert list(CATALOGUE) == CODES
    assert all(kind.code == code and kind.family == code[:2] for code, kind in CATALOGUE.items())


# Faults of parts that identities follow from end to end.
EXACT = {"OD-1", "OD-2", "CA-1", "CA-2", "CA-3", "TE-2", "TE-3"}


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=CODES)
def test_every_fault_has_two_mechanisms_and_outside_the_exact_parts_one_that_no_identity_shows(kind: FaultKind) -> None:
    names = [mechanism.name for mechanism in kind.mechanisms]
    assert len(names) == len(set(names)) >= 2
    assert kind.code in EXACT or any(not mechanism.shown_by for mechanism in kind.mechanisms)
    assert kind.algorithms == (("ppo",) if kind.code == "CA-1" else ALGORITHMS)
    assert [kind.mechanism(name).name for name in names] == names
    with pytest.raises(KeyError):
        kind.mechanism("nothing")


@pytest.mark.parametrize(("kind", "mechanism"), MECHANISMS)
def test_signal_named_in_advance_is_telemetry_and_neither_an_identity_nor_a_channel(
    kind: FaultKind, mechanism: Mechanism
) -> None:
    signal = DICTIONARY[mechanism.signal]
    assert signal.source in (Source.ROLLOUT, Source.LEARNER)
    assert signal.name not in {identity.signal for identity in IDENTITIES}
    assert mechanism.direction in (-1, 1)


@pytest.mark.parametrize(("kind", "mechanism"), MECHANISMS)
def test_what_a_mechanism_promises_is_whole(kind: FaultKind, mechanism: Mechanism) -> None:
    bounds = mechanism.strength
    assert bounds.low <= bounds.default <= bounds.high
    assert bounds.neutral <= bounds.low
    assert mechanism.shown_by in {"", *SHOWN_BY}
    assert set(mechanism.algorithms) <= set(ALGORITHMS)
    assert mechanism.algorithms
    assert mechanism.learned >= 0
    assert all((mechanism.name, mechanism.acts_in, mechanism.summary, bounds.meaning, kind.name, kind.summary))


@pytest.mark.parametrize("part", CATALOGUE["TE-1"].mechanisms, ids=lambda part: part.name)
def test_what_sits_in_a_tool_needs_one(part: Mechanism) -> None:
    assert part.needs_tool


def test_who_needs_a_tool_is_of_the_environment_and_who_needs_a_critic_of_credit() -> None:
    result = [(kind.code[:2], m) for kind in CATALOGUE.values() for m in kind.mechanisms]
    assert {family for family, m in result if m.needs_tool} == {"TE"}
    assert {family for family, m in result if m.algorithms != ALGORITHMS} == {"CA"}


def test_table_of_places_has_every_mechanism_and_every_identity_once() -> None:
    listed = [(place.code, place.mechanism) for place in SITES]
    assert sorted(listed) == sorted((kind.code, m.name) for kind in CATALOGUE.values() for m in kind.mechanisms)
    checks = [check.name for check in CHECKS]
    assert len(checks) == len(set(checks))
    assert set(checks) >= SHOWN_BY


def file_of(module: str) -> Path:
    """The file of a module below the package."""
    return PACKAGE / f"{module.replace('.', '/')}.py"


@pytest.mark.parametrize("place", SITES, ids=lambda place: f"{place.code}-{place.mechanism}")
def test_mechanism_is_named_in_the_module_that_is_said_to_hold_it(place: Site) -> None:
    for module in place.module.split(", "):
        assert module.startswith("faults.")
        tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
        assert place.mechanism in {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def test_faults_and_checks_share_no_module() -> None:
    modules = {module for place in SITES for module in place.module.split(", ")}
    assert not modules & {check.module for check in CHECKS}
    assert all(file_of(check.module).is_file() for check in CHECKS)
    assert all(place.what for place in SITES)
    assert all(check.what for check in CHECKS)
