"""The page of the closed loop: what counts as recovered, against which clean runs, and what is said of the rest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.closed_loop_page import newest, page, pairs_of, reason, recovered, table_lines, write_page
from rftfm_ray.drills.outcome import Ending
from rftfm_ray.runs.words import share

GIVEN = [{"step": 12, "remedy": "regrade", "outcome": "mitigated"}]


def line(role: str, accuracy: float | None, fault: str = "RF-2", seed: int = 1, **more: Any) -> dict[str, Any]:
    """A finished run."""
    case = f"{fault}-zeroed-0.7" if fault else "clean"
    told = {
        "arm": f"addition-grpo-tiny/{seed}/{case}/{role}", "task": "addition", "algorithm": "grpo", "seed": seed,
        "role": role, "code": "abc", "fault": fault, "mechanism": "zeroed" if fault else "", "strength": 0.7,
        "accuracy": accuracy, "error": "", "seconds": 9.0, "found_after": None, "named": "", "place": "",
        "is_named": False, "is_placed": False, "early": [], "given": [], "asked": False,
    }  # fmt: skip
    return told | more


def clean(*accuracies: float, seed: int = 1) -> list[dict[str, Any]]:
    """Clean forks of a seed."""
    return [line(f"fork-{n}", accuracy, "", seed) for n, accuracy in enumerate(accuracies, start=1)]


FOUND: dict[str, Any] = {
    "found_after": 0, "named": "RF-2", "place": "reward function", "is_named": True, "is_placed": True, "given": GIVEN,
}  # fmt: skip


def test_a_pair_is_told_against_the_mean_of_its_own_clean_forks() -> None:
    lines = [*clean(0.8, 0.7, 0.75), *clean(0.1, 0.1, 0.1, seed=2), line("off", 0.4), line("none", 0.71, **FOUND)]
    (pair,) = pairs_of(newest(lines))
    assert pair.clean == pytest.approx(0.75)
    assert (pair.unguarded.accuracy, pair.ending, pair.harmful) == (0.4, Ending.MENDED, True)
    assert recovered([pair]) == (1, 1)


def test_what_does_no_harm_on_a_seed_counts_neither_way() -> None:
    (pair,) = pairs_of(newest([*clean(0.8), line("off", 0.75), line("none", 0.8)]))
    assert (pair.ending, pair.harmful, recovered([pair])) == (Ending.HARMLESS, False, (0, 0))


def test_run_that_ended_by_itself_is_not_recovered_and_one_alone_comes_to_nothing() -> None:
    (pair,) = pairs_of(
        newest([*clean(0.8), line("off", 0.3), line("none", None, **FOUND | {"error": "weights differ"})])
    )
    assert (pair.ending, recovered([pair])) == (Ending.STOPPED, (0, 1))
    (pair,) = pairs_of(newest([*clean(0.8), line("off", None, error="weights differ"), line("none", 0.79, **FOUND)]))
    assert (pair.harmful, pair.ending, recovered([pair])) == (True, Ending.MENDED, (1, 1))
    assert any(f"| 0.800, {share(math.nan)}, 0.790 |" in row for row in table_lines([pair])), (
        "it has no accuracy that could be shown"
    )


def test_runs_of_other_sources_and_halves_of_pairs_are_left_out() -> None:
    old = [*clean(0.8), line("off", 0.3), line("none", 0.8, **FOUND)]
    for each in old:
        each["code"] = "old"
    assert pairs_of(newest([*old, line("none", 0.8, seed=3)])) == []


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({}, "not found"),
        (FOUND | {"error": "weights differ"}, "the run ended by itself"),
        (FOUND | {"is_named": False, "named": "OD-1"}, "named OD-1"),
        (FOUND | {"given": [], "asked": True}, "no remedy was given, and a person was asked"),
        (FOUND | {"given": []}, "no remedy"),
        (FOUND, "the remedies did not suffice"),
    ],
)
def test_reason_is_the_first_thing_that_went_wrong(told: dict[str, Any], says: str) -> None:
    pairs = pairs_of(newest([*clean(0.8), line("off", 0.3), line("none", 0.3, **told)]))
    assert reason(pairs) == says


def test_page_says_whether_the_target_was_reached_and_what_was_not_recovered(tmp_path: Path) -> None:
    lines = [*clean(0.8), line("off", 0.3), line("none", 0.79, **FOUND), line("profile", 0.3, **FOUND)]
    lines += [line("healthy-none", 0.8, ""), line("healthy-profile", 0.8, "", early=["OD-1"], given=GIVEN)]
    text = page(lines)
    assert "Recovered, both modes: 1 of 2 (50%, 95 % interval" in text
    assert "the target, 80%, is missed" in text
    assert "- RF-2 zeroed, profile: the remedies did not suffice." in text
    assert "Healthy runs with the guard in `act`: 2; incidents in 1, remedies in 1." in text
    assert "no profile | 1 of 1 | 1 of 1 | 1 of 1 | 1 of 1" in text
    write_page(lines, tmp_path / "closed_loop")
    assert (tmp_path / "closed_loop.md").read_text() == text
    assert len((tmp_path / "closed_loop.csv").read_text().splitlines()) == 1 + len(lines)
    assert "is reached" in page(lines[:3])


def test_page_without_a_run_says_that_there_is_none() -> None:
    assert "Recovered, both modes: none; the target, 80%, is missed." in page([])
