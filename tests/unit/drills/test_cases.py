"""Which faults a set of drills injects, at which strength, and what cannot be injected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.drills import cases as module
from rftfm_ray.drills.cases import DrillCase, LeftOut, Origin, cases_of
from rftfm_ray.errors import FaultError
from rftfm_ray.faults.calibration import Calibration, Finding, StrengthKey
from rftfm_ray.faults.catalogue import parse_fault
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.tasks.loading import load_task

EXAMPLES = Path(__file__).parents[3] / "examples"
ONSET = 11


def config_of(task: str = "calculator", algorithm: str = "ppo") -> RunConfig:
    """The run of an example."""
    return load_config(EXAMPLES / f"{task}.yaml", [f"algorithm.name={algorithm}", "steps=40"])


def cases(*asked: str, task: str = "calculator", algorithm: str = "ppo") -> tuple[list[DrillCase], list[LeftOut]]:
    """What a text asks for."""
    made, left = cases_of(config_of(task, algorithm), load_task(task), asked, ONSET)
    return list(made), list(left)


def codes(made: Sequence[DrillCase]) -> list[str]:
    """Their codes."""
    return [case.code for case in made]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Calibration]:
    """Measured strengths, by mechanism and level, in place of those that ship; none at first."""
    measured = dict[tuple[str, str], Calibration]()

    def of(key: StrengthKey) -> Calibration | None:
        return measured.get((key.mechanism, key.level))

    monkeypatch.setattr(module, "calibration_of", of)
    return measured


def row(level: str, strength: float, finding: Finding = Finding.REACHED, *, confirmed: bool = True) -> Calibration:
    """A measured strength."""
    return Calibration(
        "calculator", "ppo", "", "", level, strength, "", 5.0, 5.0, 10, 10, 1.0, confirmed, finding=finding
    )


def test_each_of_the_sixteen_has_its_drill_where_it_can() -> None:
    made, left = cases()
    assert sorted(codes(made)) == sorted(CATALOGUE)
    assert left == []
    made, left = cases(task="addition", algorithm="grpo")
    impossible = {each.name for each in left}
    assert {"CA-1", "TE-1", "TE-2"} <= impossible
    assert sorted([*codes(made), *impossible]) == sorted(CATALOGUE)
    assert next(each.reason for each in left if each.name == "TE-1").startswith("task addition calls no tool")


def test_all_means_every_mechanism_that_the_run_can_have() -> None:
    every = {(kind.code, mechanism.name) for kind in CATALOGUE.values() for mechanism in kind.mechanisms}
    made, left = cases("all")
    assert {(case.code, case.mechanism) for case in made} == every
    assert left == []
    made, left = cases("rf")
    assert {case.code for case in made} == {"RF-1", "RF-2", "RF-3"}
    made, _ = cases("OD-2,mechanism=all")
    assert [case.mechanism for case in made] == [mechanism.name for mechanism in CATALOGUE["OD-2"].mechanisms]
    made, left = cases("all", task="addition", algorithm="grpo")
    assert len(made) + len(left) == len(every)


def test_a_case_is_what_inject_reads() -> None:
    made, _ = cases("all", "RF-2:0.37,duration=transient", "TE-1,instances=all")
    for case in made:
        spec = parse_fault(case.inject(ONSET))
        assert (spec.code, spec.mechanism, spec.onset, spec.strength) == (
            case.code,
            case.mechanism,
            ONSET,
            case.strength,
        )
    assert len({case.name for case in made}) == len(made)
    assert parse_fault(made[-2].inject(ONSET)).duration == 10
    assert parse_fault(made[-1].inject(ONSET)).all_instances


def test_a_strength_that_harms_is_taken_before_one_that_is_plain(rows: dict[tuple[str, str], Calibration]) -> None:
    first, second = (mechanism.name for mechanism in CATALOGUE["RF-2"].mechanisms[:2])
    (default,), _ = cases("RF-2")
    assert (default.origin, default.mechanism) == (Origin.DEFAULT, first)
    rows[first, "easy"] = row("easy", 0.25)
    (case,), _ = cases("RF-2")
    assert (case.strength, case.origin) == (0.25, Origin.EASY)
    rows[first, "harm"] = row("harm", 0.5)
    (case,), _ = cases("RF-2")
    assert (case.strength, case.origin) == (0.5, Origin.HARM)
    assert (second, "harm") not in rows


@pytest.mark.parametrize("no", [row("harm", 1.0, Finding.NO_HARM), row("harm", 1.0, confirmed=False)])
def test_what_was_not_confirmed_is_not_called_harmful(
    rows: dict[tuple[str, str], Calibration], no: Calibration
) -> None:
    first = CATALOGUE["RF-2"].mechanisms[0]
    rows[first.name, "harm"] = no
    (case,), _ = cases("RF-2")
    assert (case.strength, case.origin) == (first.strength.default, Origin.DEFAULT)
    rows[first.name, "easy"] = row("easy", 0.25)
    (case,), _ = cases("RF-2")
    known = Origin.HARMLESS if no.finding is Finding.NO_HARM else Origin.EASY
    assert (case.strength, case.origin) == (0.25, known), "harmless is what was searched and not found"


def test_one_mechanism_of_a_fault_is_one_that_harms(rows: dict[tuple[str, str], Calibration]) -> None:
    later = CATALOGUE["RF-1"].mechanisms[-1]
    rows[later.name, "harm"] = row("harm", later.strength.default)
    made, _ = cases()
    assert next(case.mechanism for case in made if case.code == "RF-1") == later.name
    (named,), _ = cases("RF-1,duration=transient")
    assert (named.mechanism, named.options) == (later.name, "duration=transient")


def test_a_given_strength_is_said_to_be_given() -> None:
    (case,), _ = cases("RF-2:0.3")
    assert (case.strength, case.origin) == (0.3, Origin.GIVEN)


def test_what_is_asked_for_twice_is_made_once() -> None:
    made, _ = cases("RF-2", "RF-2", "RF")
    assert len(made) == len({case.name for case in made})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("RF-9", "--faults 'RF-9': there is no fault RF-9 (did you mean"),
        ("RF-2:nothing", "--faults 'RF-2:nothing': the strength of RF-2"),
        ("RF-2,mechanism=other", "--faults 'RF-2,mechanism=other': RF-2 has the mechanisms"),
        ("RF-2:0.5,mechanism=all", "one strength means another thing to every mechanism"),
        ("RF-2;RF-3", "cannot be read; write CODE"),
        ("RF-2,duration=x", "duration is persistent"),
    ],
)
def test_what_cannot_be_read_is_refused_in_the_words_of_the_user(text: str, says: str) -> None:
    with pytest.raises(FaultError) as refused:
        cases(text)
    assert says in str(refused.value)
    assert "inject=" not in str(refused.value)


def test_what_the_run_cannot_have_is_refused_where_it_was_asked_for() -> None:
    with pytest.raises(FaultError, match="--faults 'TE-1': task addition calls no tool"):
        cases("TE-1", task="addition")
    with pytest.raises(FaultError, match="None of the faults can be injected into this run: TE-1"):
        cases("TE-1,mechanism=all", task="addition")
