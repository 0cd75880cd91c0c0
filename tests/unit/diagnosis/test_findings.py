"""What some steps say together, which separates faults with the same symptoms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rftfm_ray.diagnosis.findings import (
    BROKEN_BY,
    COLUMN_OF,
    FINDINGS,
    INTACT,
    LIMITS,
    PICK,
    READ,
    RECENT,
    Floats,
    findings_in,
    latest,
    values_of,
)
from rftfm_ray.signals.schema import INDEX, SIGNALS
from tests.detecting import USUAL, make_report


def steps(*given: dict[str, float]) -> Floats:
    """Values that are read in some steps, the usual ones where none is given."""
    return np.array([[{**USUAL, **values}.get(name, math.nan) for name in READ] for values in given])


def graded(rate: float, error: float, **more: float) -> dict[str, float]:
    """A step with 32 regraded verdicts."""
    wrong = {"regrade_mismatch_rate": rate, "trained_mismatch_rate": rate, "regrade_error_mean": error}
    return {"regrade_count": 32.0, **wrong, **more}


def golden(rate: float, right: float, wrong: float) -> dict[str, float]:
    """A step's grades of known responses."""
    return {"golden_mismatch_rate": rate, "golden_right_error": right, "golden_wrong_error": wrong}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({}, set()),
        (graded(0.0, 0.0), {"regrade_agrees"}),
        # The fixture of an older log has no rate: nothing is known, which is not agreement.
        ({"regrade_count": 32.0, "regrade_error_mean": 0.6}, set()),
        (
            graded(0.5, 0.1, correct_rate=0.5, **golden(0.5, 0.0, 0.2)),
            {
                "regrade_disagrees", "regrade_pays_more", "regrade_disagrees_on_as_many_as_are_wrong",
                "golden_disagrees_on_half", "golden_wrong_alone_paid_more",
            },
        ),
        (
            graded(0.3, 0.1, correct_rate=0.9, **golden(0.2, 0.0, 0.2)),
            {
                "regrade_disagrees", "regrade_pays_more", "golden_disagrees_on_some", "golden_wrong_alone_paid_more",
            },
        ),
        (
            graded(1.0, 20.0, **golden(1.0, 20.0, 20.0)),
            {
                "regrade_disagrees", "regrade_pays_more", "regrade_disagrees_on_all", "golden_disagrees_on_most",
                "golden_right_paid_more",
            },
        ),
        (
            graded(0.1, -0.1, **golden(0.2, -0.2, 0.0)),
            {"regrade_disagrees", "regrade_pays_less", "golden_disagrees_on_some", "golden_right_paid_less"},
        ),
        (graded(0.1, 0.1, **golden(0.0, 0.0, 0.0)), {"regrade_disagrees", "regrade_pays_more", "golden_agrees"}),
        ({"sampled_gap": 0.2}, {"accuracy_above_held_out"}),
        ({"probe_gap": -0.4}, {"accuracy_below_held_out"}),
        ({"sampled_gap": 0.0, "probe_gap": 0.4}, set()),
        ({"lr_excess": 0.1}, {"rate_not_declared"}),
        ({"changed_rate": 0.0}, {"nothing_changed"}),
        ({"credit_error": 0.5, "credit_known_share": 1.0}, {"credit_of_other_tokens"}),
        ({"credit_error": 0.5, "credit_known_share": 0.0}, {"credit_of_no_token"}),
        ({"credit_error": 0.5, "credit_known_share": 0.0, "return_error": 0.3}, {"credit_by_another_rule"}),
        ({"credit_error": 0.5}, set()),
        ({"credit_known_share": 0.0}, set()),
        ({"return_error": 0.3}, set()),
        ({"advantage_error": 0.1, "credit_lag": 2.0}, {"advantage_error_exceeded", "credit_lag_exceeded"}),
    ],
)  # fmt: skip
def test_findings_of_a_step(step: dict[str, float], expected: set[str]) -> None:
    found = findings_in(steps(step))
    assert set(found) <= set(FINDINGS)
    assert {name for name in found if not name.startswith(INTACT)} == expected


@pytest.mark.parametrize("code", list(BROKEN_BY))
def test_fault_is_ruled_out_where_all_that_it_would_break_was_measured_and_holds(code: str) -> None:
    name = f"{INTACT}{code}"
    sound = {signal: float(signal == "update_gain") for signal in BROKEN_BY[code]} | {"turns_mean": 2.0}
    assert name in findings_in(steps(sound))
    for signal, limit in BROKEN_BY[code].items():
        unknown, broken = {signal: math.nan}, {signal: sound[signal] + limit + 0.01}
        assert name not in findings_in(steps(sound | unknown)), "it was not measured"
        assert name not in findings_in(steps(sound | broken, sound)), "it was broken in one of the steps"
        assert name in findings_in(steps(sound | unknown, sound)), "it was measured once"


def test_what_takes_an_environment_is_not_asked_of_a_task_of_one_turn() -> None:
    sound = dict.fromkeys(("limit_excess", "termination_mismatch_rate"), 0.0)
    unknown = {"replay_termination_mismatch_rate": math.nan}
    assert f"{INTACT}TE-3" in findings_in(steps(sound | unknown | {"turns_mean": 1.0}))
    assert f"{INTACT}TE-3" not in findings_in(steps(sound | unknown | {"turns_mean": 1.5}))


def test_signals_are_read_by_their_names() -> None:
    picked = PICK(range(len(SIGNALS)))
    assert picked == tuple(INDEX[name] for name in READ)
    assert len(COLUMN_OF) == len(READ), "no signal is read twice"


@pytest.mark.parametrize(("vetoes", "share"), [(0.0, 0.0), (1.0, math.nan)])
def test_refused_update_says_nothing_of_changed_weights(vetoes: float, share: float) -> None:
    values = values_of(make_report(1, changed_rate=0.0, vetoes=vetoes).values)
    assert values[COLUMN_OF["changed_rate"]] == pytest.approx(share, nan_ok=True)
    assert ("nothing_changed" in findings_in(values[None])) is (vetoes == 0.0)


@pytest.mark.parametrize("name", list(LIMITS))
def test_limit_counts_beyond_it_and_for_a_few_steps(name: str) -> None:
    limit, expected = LIMITS[name], f"{name}_exceeded"
    beyond = {name: limit + 0.01}
    assert expected in findings_in(steps(beyond, *[{}] * (RECENT - 1)))
    assert expected not in findings_in(steps(beyond, *[{name: limit}] * RECENT))
    assert expected not in findings_in(steps({name: limit}))
    assert expected not in findings_in(steps({name: math.nan}))


def test_disagreement_is_weighed_by_the_number_of_verdicts() -> None:
    many = graded(0.0, 0.0) | {"regrade_count": 9_999.0}
    assert "regrade_agrees" in findings_in(steps(graded(0.5, 0.1), many))
    assert "regrade_disagrees" in findings_in(steps(graded(0.5, 0.1), graded(0.0, 0.0)))


def test_newest_finite_value_counts() -> None:
    values = steps({"sampled_gap": 0.2}, {"sampled_gap": 0.5}, {"sampled_gap": math.inf}, {})
    assert latest(values, "sampled_gap") == 0.5
    assert math.isnan(latest(values[2:], "sampled_gap"))
