"""What some steps say together, which separates faults with the same symptoms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rftfm_ray.diagnosis.findings import (
    BROKEN_BY,
    COLUMN_OF,
    FINDINGS,
    GAP_FINDINGS,
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


def gaps(end: float, rest: float, again: float, new: float, slope: float, same: float) -> dict[str, float]:
    """A step's gaps of log-probs between rollout and learner."""
    named = {"gap_end": end, "gap_rest": rest, "gap_again": again, "gap_new": new}
    return {**named, "gap_slope": slope, "gap_zero_share": same}


# As real runs have them at the strengths of the benchmark.
SAMPLED = [
    ("an end made likelier", gaps(14.3, -1.334, math.nan, -1.334, -0.09, 0.002), "ends_sampled_more"),
    ("the same once it is learnt", gaps(6.0, -0.008, -0.017, -0.007, 0.48, 0.57), "ends_sampled_more"),
    ("turns that come back empty", gaps(25.0, math.nan, math.nan, math.nan, 0.0, 0.0), "ends_sampled_more"),
    ("an end made rarer", gaps(-2.0, 0.3, 0.2, 0.3, 0.4, 0.5), "ends_sampled_less"),
    ("turns that must go on", gaps(-1e-7, 1.005, 1.713, 0.924, 0.23, 0.914), "ends_forbidden"),
    ("the same with more that was said", gaps(0.0, 1.0, 3.0, 0.5, 0.2, 0.9), "ends_forbidden"),
    ("a penalty the wrong way round", gaps(-0.13, 0.44, 1.02, 0.33, 0.25, 0.43), "repeats_sampled_more"),
    ("the same at the cost of what is new", gaps(-0.01, 0.1, 0.9, -0.2, 0.7, 0.3), "repeats_sampled_more"),
    ("a cold sampler", gaps(1.2, 0.013, 0.029, 0.012, 1.13, 0.37), "sampled_colder"),
    ("weights that did not arrive", gaps(-0.2, 0.006, 0.0015, 0.007, 0.99, 0.54), "sampled_by_other_weights"),
    ("the same much later", gaps(-0.3, 0.05, 0.11, 0.04, 0.97, 0.4), "sampled_by_other_weights"),
    ("weights in bfloat16", gaps(0.02, -2e-4, 6e-4, -2e-4, 1.0007, 0.79), ""),
    ("two engines", gaps(1e-7, 1e-8, 1e-8, 1e-8, 1.0, 1.0), ""),
]


@pytest.mark.parametrize(("step", "expected"), [row[1:] for row in SAMPLED], ids=[row[0] for row in SAMPLED])
def test_gaps_tell_what_the_sampler_does(step: dict[str, float], expected: str) -> None:
    assert set(findings_in(steps(step))) & set(GAP_FINDINGS) == ({expected} if expected else set())


def paid(wrong: float, *forms: float) -> set[str]:
    """Findings of a channel that pays a share of wrong answers, which their form explains as far at each step."""
    split = {"regrade_hit_right": 0.0, "regrade_hit_wrong": wrong}
    return set(findings_in(steps(*(graded(0.2, 0.2, **split, regrade_by_form=form) for form in forms))))


def test_wrong_answers_that_are_paid_are_those_of_a_form_or_of_chance() -> None:
    of_wrong = {
        "regrade_of_every_wrong", "regrade_of_some_wrong", "regrade_follows_form", "regrade_by_chance",
    }  # fmt: skip
    assert paid(1.0, math.nan) & of_wrong == {"regrade_of_every_wrong"}
    assert paid(0.4, 1.0) & of_wrong == {"regrade_follows_form"}
    assert paid(0.4, 0.4, 0.3, 0.35) & of_wrong == {"regrade_follows_form"}
    # A share of one step is noise.
    assert paid(0.4, math.nan) & of_wrong == paid(0.4, 0.0) & of_wrong == {"regrade_of_some_wrong"}
    assert paid(0.4, 0.1, -0.2, 0.3, 0.2) & of_wrong == {"regrade_by_chance"}
    assert paid(0.4, 0.1, -0.2, 0.3, math.nan) & of_wrong == {"regrade_of_some_wrong"}


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
