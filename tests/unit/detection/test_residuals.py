"""Residuals of recorded runs of the real stack: what they are taken against, in chunks as step by step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from rftfm_ray.detection.reference.mixture import Mode, Reference
from rftfm_ray.detection.reference.profile import Profile, SignalProfile
from rftfm_ray.detection.reference.residuals import COLUMNS, OWN_WEIGHT, Residuals, ResidualTable, Usual, levels_of
from rftfm_ray.detection.reference.views import StepView, StepViews, values_of
from rftfm_ray.detection.statistics.recursions import MANY
from rftfm_ray.errors import StateError
from rftfm_ray.signals.groups import OF_UPDATES, PROMPT_DEPENDENT, PROMPT_SIGNALS, TELEMETRY
from rftfm_ray.signals.schema import INDEX, SIGNALS
from tests.detecting import LEARNT, healthy_runs, profile_of, recorded_faults, reference

Floats = NDArray[np.float64]
RUN = healthy_runs()[-1]
ENTROPY, LENGTH, ANSWERS = (COLUMNS.index(name) for name in ("entropy", "length_mean", "answer_length_mean"))
LAST = 40


def levels(name: str | None = None) -> Floats:
    """Levels (N, `COLUMNS`) of a healthy run, or of a recorded fault."""
    return levels_of(values_of(RUN if name is None else recorded_faults()[name])[1])


def usual(mode: Mode) -> Usual:
    """What a profile of a mode calls usual."""
    return Usual(None if mode is Mode.NONE else profile_of(LEARNT[mode]))


def taken(residuals: Residuals, table: Floats, bounds: Sequence[int], first: int = 1) -> ResidualTable:
    """A run taken in chunks."""
    steps = np.arange(first, first + len(table))
    parts = [residuals.over(steps[a:b], table[a:b]) for a, b in itertools.pairwise(bounds)]
    return ResidualTable(*(np.concatenate([getattr(p, name) for p in parts]) for name in ResidualTable.__slots__))


def assert_same(one: ResidualTable, other: ResidualTable) -> None:
    """Equal to the last digit, where NaN equals NaN."""
    for name in ResidualTable.__slots__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def moved(table: Floats, first: int, **by: float) -> Floats:
    """Levels with some columns moved from a row on."""
    table = table.copy()
    for name, size in by.items():
        table[first:, COLUMNS.index(name)] += size
    return table


@pytest.mark.parametrize("mode", list(Mode))
def test_chunks_give_what_single_steps_give(mode: Mode) -> None:
    # Another prompt from row 15 on, and a run that goes on beyond its profile.
    table = np.concatenate([moved(levels(), 15, answer_length_mean=1.5), moved(levels(), 0, answer_length_mean=1.5)])
    single = taken(Residuals(usual(mode)), table, range(len(table) + 1))
    assert single.prompts_changed.sum() >= 1
    for bounds in ([0, len(table)], [0, 1, 14, 17, 50, len(table)]):
        assert_same(taken(Residuals(usual(mode)), table, bounds), single)


def test_evidence_of_other_prompts_is_counted_once_however_it_is_cut() -> None:
    table = moved(levels(), 10, answer_length_mean=0.2)
    single = taken(Residuals(usual(Mode.FULL)), table, range(LAST + 1))
    assert 12 <= np.flatnonzero(single.prompts_changed)[0] <= 25
    for bounds in ([0, LAST], [*range(0, LAST, 2), LAST], [*range(0, LAST, 3), LAST]):
        assert_same(taken(Residuals(usual(Mode.FULL)), table, bounds), single)


def test_long_chunks_give_the_same_to_a_few_digits() -> None:
    rng = np.random.default_rng(0)
    table = levels()[rng.integers(LAST, size=2 * MANY)] + 0.01 * rng.normal(size=(2 * MANY, len(COLUMNS)))
    table[700:, ANSWERS] += 0.6
    single = taken(Residuals(Usual()), table, range(len(table) + 1))
    whole = taken(Residuals(Usual()), table, [0, len(table)])
    np.testing.assert_array_equal(whole.prompts_changed, single.prompts_changed)
    assert 700 < np.flatnonzero(single.prompts_changed)[-1] < 710
    np.testing.assert_allclose(whole.residuals, single.residuals, atol=1e-9)


def test_profile_holds_to_its_last_step_and_then_the_runs_own_past() -> None:
    known, table = usual(Mode.FULL), np.concatenate([levels(), levels()])
    result = Residuals(known).over(np.arange(1, 2 * LAST + 1), table)
    row = LAST - 1
    expected = (table[row, ENTROPY] - known.means[row, ENTROPY]) / known.scales[row, ENTROPY]
    assert result.residuals[row, ENTROPY] == expected
    np.testing.assert_array_equal(result.residuals[LAST:], result.own[LAST:])
    assert not np.allclose(result.residuals[:LAST], result.own[:LAST], equal_nan=True)


def test_own_past_is_judged_by_no_less_than_the_profiles_spread() -> None:
    calm = np.repeat(levels()[:1], 30, axis=0)
    calm[:, len(TELEMETRY) :] = np.nan
    wider = int(np.nanargmax(usual(Mode.FULL).spreads / Usual().spreads))
    calm[20:, wider] += 3 * Usual().spreads[wider]
    own = [Residuals(each).over(np.arange(1, 31), calm).own[20, wider] for each in (usual(Mode.FULL), Usual())]
    assert 0 < own[0] < own[1] / 2


def test_what_no_healthy_run_has_measured_is_not_judged() -> None:
    signal = SignalProfile("entropy", (1.0,) * LAST, (2,) * LAST, (10,) * LAST, 0.1, None, 0.01, 80)
    result = Residuals(Usual(Profile(2, LAST, None, (signal,)))).over(np.arange(1, LAST + 1), levels())
    assert np.flatnonzero(np.isfinite(result.residuals).any(0)).tolist() == [ENTROPY]
    assert np.flatnonzero(np.isfinite(result.own).any(0)).tolist() == [ENTROPY]


@pytest.mark.parametrize("mode", [Mode.NONE, Mode.FULL])
def test_declared_change_takes_references_away(mode: Mode) -> None:
    residuals, table = Residuals(usual(mode)), moved(levels(), 20, length_mean=2.0)
    before = taken(residuals, table[:20], [0, 20])
    residuals.forget(("length_mean", "no_such_signal"))
    after = taken(residuals, table[20:], [0, 20], 21)
    assert np.isfinite(before.residuals[-1, [ENTROPY, LENGTH]]).all()
    assert np.isnan(after.residuals[0, LENGTH]), "nothing to compare with yet"
    assert np.nanmax(np.abs(after.residuals[:, LENGTH])) < 5
    # Without a profile nobody knows how the others took the change; with one they go on against their own past.
    assert np.isnan(after.residuals[0, ENTROPY]) == (mode is Mode.NONE)
    np.testing.assert_array_equal(after.residuals[:, ENTROPY], after.own[:, ENTROPY])
    assert np.isfinite(after.residuals[0, ANSWERS]), "prompts are drawn as before"
    # What they explain is taken from residuals against the run's own past, and must be measured by the same.
    np.testing.assert_array_equal(after.residuals[:, ANSWERS], after.own[:, ANSWERS])


def test_change_of_other_things_changes_nothing() -> None:
    residuals, other = Residuals(usual(Mode.FULL)), Residuals(usual(Mode.FULL))
    other.forget(("lr", "tool_latency_s"))
    assert_same(taken(residuals, levels(), [0, LAST]), taken(other, levels(), [0, LAST]))


def test_changed_prompts_take_what_depends_on_them_away() -> None:
    table = moved(levels(), 20, answer_length_mean=0.6, length_mean=1.0)
    result = taken(Residuals(usual(Mode.FULL)), table, [0, LAST])
    (row,) = np.flatnonzero(result.prompts_changed)
    assert 20 <= row <= 24
    dependent = [name in PROMPT_DEPENDENT for name in COLUMNS]
    assert np.isnan(result.residuals[row, dependent]).all()
    assert np.isnan(result.own[row, dependent]).all()
    assert np.isfinite(result.residuals[row, COLUMNS.index("rollout_kl")])
    assert np.nanmax(np.abs(result.residuals[row + 1 :, LENGTH])) < 5
    np.testing.assert_array_equal(result.residuals[row + 1 :], result.own[row + 1 :])


def test_own_past_weighs_less_than_a_profile() -> None:
    rng = np.random.default_rng(1)
    table = np.full((400, len(COLUMNS)), np.nan)
    table[:, ENTROPY] = rng.normal(size=400)
    own = Residuals(Usual()).over(np.arange(1, 401), table).own[50:, ENTROPY]
    assert own.std() == pytest.approx(OWN_WEIGHT, rel=0.12)


def test_levels_of_many_steps_are_those_of_each() -> None:
    values = values_of(RUN)[1].copy()
    values[3:5, INDEX["vetoes"]] = 1.0
    values[7, INDEX["entropy"]] = np.inf
    table = levels_of(values)
    np.testing.assert_array_equal(table, np.stack([levels_of(tuple(row)) for row in values.tolist()]))
    updates = [COLUMNS.index(name) for name in OF_UPDATES]
    assert np.isnan(table[3:5][:, updates]).all()
    assert np.isfinite(table[5][updates]).all()
    assert math.isnan(table[7, ENTROPY])
    assert (*TELEMETRY, *PROMPT_SIGNALS) == COLUMNS


def test_views_split_where_the_prompts_change() -> None:
    steps, values = values_of(RUN)
    values[20:, INDEX["answer_length_mean"]] *= 2.0
    view = StepViews(reference(Mode.FULL)).observe(steps, values)
    pieces = list(view.pieces())
    assert sum(map(len, pieces)) == len(view) == LAST
    assert [bool(piece.prompts_changed[0]) for piece in pieces] == [False, True]
    assert not any(piece.prompts_changed[1:].any() for piece in pieces)
    np.testing.assert_array_equal(view.value("entropy"), values[:, INDEX["entropy"]])
    np.testing.assert_array_equal(view.residual("entropy"), view.residuals[:, ENTROPY])
    empty = view.part(slice(0, 0))
    assert (len(empty), list(empty.pieces())) == (0, [])
    blank = StepView.without_residuals(steps, values)
    assert np.isnan(blank.residuals).all()
    assert blank.values.shape == (LAST, len(SIGNALS))


@pytest.mark.parametrize("known", [Reference(None, (), 1.0), None])
def test_state_goes_on_where_it_was_saved(known: Reference | None) -> None:
    made = reference(Mode.FULL) if known is None else known
    steps, values = values_of(RUN)
    values[25:, INDEX["answer_length_mean"]] *= 2.0
    for cut in (0, 3, 24, 30):
        views, other = StepViews(made), StepViews(made)
        views.observe(steps[:cut], values[:cut])
        views.forget(("entropy",))
        other.load_state_dict(views.state_dict())
        one, same = (each.observe(steps[cut:], values[cut:]) for each in (views, other))
        for name in ("residuals", "own", "prompts_changed"):
            np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    with pytest.raises(StateError):
        other.load_state_dict({"residuals": {}})


def profiled(mode: Mode, table: Floats, *, forgotten_after: int | None = None) -> list[bool]:
    """Whether telemetry is against the profile, by step; `forgotten_after` steps a change is declared."""
    residuals = Residuals(usual(mode))
    if forgotten_after is None:
        return list(map(bool, residuals.over(np.arange(1, len(table) + 1), table).profiled))
    head = taken(residuals, table[:forgotten_after], [0, forgotten_after]).profiled.tolist()
    residuals.forget(["entropy"])
    rest = len(table) - forgotten_after
    return [*head, *taken(residuals, table[forgotten_after:], [0, rest], forgotten_after + 1).profiled.tolist()]


def test_steps_say_whether_they_are_compared_with_the_profile() -> None:
    table = levels()
    last = usual(Mode.FULL).steps
    long = np.concatenate([table] * 3)[: last + 10]
    assert profiled(Mode.NONE, table) == [False] * len(table)
    assert profiled(Mode.FULL, long) == [True] * last + [False] * 10
    assert profiled(Mode.FULL, table, forgotten_after=10) == [True] * 10 + [False] * (len(table) - 10)


def test_view_says_whether_its_steps_are_compared_with_the_profile() -> None:
    for mode in Mode:
        steps, values = values_of(RUN)
        views = StepViews(reference(mode))
        wanted = mode is not Mode.NONE
        assert views.observe(steps[:10], values[:10]).profiled.tolist() == [wanted] * 10
        views.forget(["entropy"])
        assert views.observe(steps[10:20], values[10:20]).profiled.tolist() == [False] * 10
    assert not StepView.without_residuals(steps, values).profiled.any()
