"""One table of codes, names and families: complete, and the only one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.taxonomy import OTHERS, SIXTEEN, TAXONOMY, FaultType, family_of, name_of
from rftfm_ray.verdicts import Family

PACKAGE = Path(__file__).parents[3] / "rftfm_ray"


def test_codes_and_names_are_unique() -> None:
    faults = (*SIXTEEN, *OTHERS)
    assert list(TAXONOMY) == [fault.code for fault in faults]
    assert len({fault.code for fault in faults}) == len({fault.name for fault in faults}) == len(faults)
    assert len(SIXTEEN) == 16
    assert {fault.family for fault in faults} == set(Family)


@pytest.mark.parametrize("fault", SIXTEEN, ids=lambda fault: fault.code)
def test_code_begins_with_its_family(fault: FaultType) -> None:
    assert fault.code.partition("-")[0] == fault.family == family_of(fault.code)
    assert name_of(fault.code) == fault.name


def test_code_outside_the_taxonomy_is_unknown() -> None:
    assert (family_of("XX-9"), name_of("XX-9")) == (Family.UNKNOWN, "unknown fault")


def test_every_fault_can_be_injected_under_the_same_name() -> None:
    assert [(kind.code, kind.name, kind.family) for kind in CATALOGUE.values()] == [
        (fault.code, fault.name, fault.family) for fault in SIXTEEN
    ]


def test_names_stand_nowhere_else() -> None:
    named = re.compile("|".join(f'"{re.escape(fault.name)}"' for fault in SIXTEEN))
    owners = {path.name for path in PACKAGE.rglob("*.py") if named.search(path.read_text(encoding="utf-8"))}
    assert owners == {"taxonomy.py"}
