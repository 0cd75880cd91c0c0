"""How the report looks: charts in both themes, on a phone, and axes and labels that say what is the case."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rftfm_ray.config import RunConfig
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.policies.levers import LEVERS
from rftfm_ray.report import charts
from rftfm_ray.report.charts import GREEN, VARIABLES, Marks
from rftfm_ray.report.curves import PANELS, panel_figure
from rftfm_ray.report.levers import heights_of, lever_figure, nominal_value, rungs_of, ticks_of
from rftfm_ray.report.markup import table
from rftfm_ray.report.style import CSS
from rftfm_ray.runs.incidents import Incident, incidents_of
from rftfm_ray.runs.planned import Fault, control_words, controls_of, not_claimed
from rftfm_ray.runs.reader import RunData, Steps
from rftfm_ray.runs.verdict import figures, verdict
from rftfm_ray.runs.words import describe
from rftfm_ray.types import StepId

LIMITS = (0.5, 20.5)
CONFIG = RunConfig(steps=20)


def opened(code: str, step: int) -> Incident:
    """An incident that was opened at a step."""
    fields = (("code", code),)
    (incident,) = incidents_of([Entry(1, EntryKind.OPENED, StepId(0, step, step), 1, fields)])
    return incident


def run_of(columns: dict[str, tuple[float, ...]], ids: tuple[StepId, ...]) -> RunData:
    """A run that holds rows and nothing else."""
    steps = Steps(ids, (False,) * len(ids), columns)
    return RunData(Path("run"), CONFIG, steps, (), (), (), (), {}, journalled=True)


IDS = tuple(StepId(0, n, n) for n in range(1, 6))


def test_rungs_are_sorted_by_value_and_an_unknown_nominal_is_apart() -> None:
    moves = [(0, None), (9, 0.0353), (12, 2.0)]
    assert rungs_of(moves, 1.0) == (["0.0353", "1 (nominal)", "2"], [1, 0, 2])
    assert rungs_of(moves, None) == (["nominal (not recorded)", "0.0353", "2"], [0, 1, 2])


def test_nominal_of_a_lever_is_one_for_a_scale_and_the_configured_value_for_a_setting() -> None:
    assert nominal_value(None, "lr_scale") == 1.0
    assert all(nominal_value(CONFIG, spec.name) is not None for spec in LEVERS)
    assert nominal_value(CONFIG, "clip_low") == CONFIG.algorithm.clip_low
    assert nominal_value(CONFIG, "group_filter") == float(CONFIG.algorithm.group_filter)
    assert nominal_value(CONFIG, "tool_retries") == CONFIG.rollout.tool_retries
    assert nominal_value(None, "clip_low") is None


def test_a_limit_that_is_not_in_force_is_nominal_above_every_limit() -> None:
    assert nominal_value(None, "reward_limit") == nominal_value(CONFIG, "advantage_clip") == math.inf
    moves = [(0, None), (9, 1.0)]
    assert rungs_of(moves, math.inf) == (["1", "no limit (nominal)"], [1, 0])
    assert heights_of(moves, math.inf) == [0.0, 1.0]


def test_a_cut_and_a_raise_by_the_same_factor_are_as_far_from_nominal() -> None:
    low, nominal, high = heights_of([(0, None), (3, 0.5), (9, 2.0)], 1.0)
    assert (low, nominal, high) == (-math.log(2), 0.0, math.log(2))
    # Zero has no logarithm.
    assert heights_of([(0, None), (3, 0.1)], 0.0) == [0.0, 1.0]


def test_labels_of_near_values_do_not_cover_the_nominal_one() -> None:
    moves = [(0, None), (3, 0.98), (5, 0.1), (9, 0.99)]
    labels, heights = rungs_of(moves, 1.0)[0], heights_of(moves, 1.0)
    assert [labels[i] for i in ticks_of(labels, heights)] == ["0.1", "1 (nominal)"]


def test_levers_have_a_second_chart_for_a_phone() -> None:
    html = lever_figure([(0, {}), (9, {"lr_scale": 0.5})], Marks(LIMITS), CONFIG)
    assert html is not None
    assert html.count("<svg") == 2
    assert "figure .narrow { display: none; }" in CSS
    width, narrow = (float(box) for box in re.findall(r'viewBox="0 0 ([\d.]+)', html))
    assert narrow < width / 2


def test_every_colour_of_a_chart_has_a_value_in_both_themes() -> None:
    for name in VARIABLES.values():
        assert len(re.findall(rf"--{name}: #", CSS)) == 2, name
    html = lever_figure([(0, {}), (9, {"lr_scale": 0.5})], Marks(LIMITS, faults=(("injected OD-1", 5.0),)), CONFIG)
    assert html is not None
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", html)) == set(), "a fixed colour would not follow the theme"
    assert f"var(--{VARIABLES[charts.BLUE]}, {charts.BLUE})" in html
    assert GREEN in VARIABLES


def test_axis_of_shares_that_are_all_zero_does_not_begin_below_zero() -> None:
    panel = next(panel for panel in PANELS if panel.key == "tools")
    zero: tuple[float, ...] = (0.0,) * 5
    columns = dict.fromkeys(("tool_error_rate", "failed_rate"), zero)
    with charts.style():
        html = panel_figure(panel, run_of(columns, IDS), Marks(LIMITS))
    labels = re.findall(r">([-\u2212]?[\d.]+)</text>", html)
    assert "0" in labels
    assert [label for label in labels if label[0] in "-\u2212"] == []


@pytest.mark.parametrize(("step", "side"), [(10.0, "center"), (1.0, "left"), (20.0, "right")])
def test_label_of_a_fault_is_centred_over_its_line_unless_it_would_leave_the_chart(step: float, side: str) -> None:
    assert charts._side("injected OD-1", step, *LIMITS) == side


def test_cells_name_their_columns_for_a_narrow_page() -> None:
    assert '<td data-label="Verified as"><div>resolved</div></td>' in table(("Verified as",), [("resolved",)])


def test_steps_that_were_undone_are_paid_ones_less_steps_made() -> None:
    ids = (*IDS, StepId(1, 4, 7), StepId(1, 5, 8))
    data = run_of({"reward_mean": (0.5,) * 7}, ids)
    assert figures(data).undone == 3
    assert any("3 steps were undone by rollbacks" in text for text in verdict(data, (), ())[1])


def test_declared_levers_are_shown_with_their_values() -> None:
    fields = (("change", "levers"), ("lever_lr_scale", 0.5))
    assert describe(Entry(1, EntryKind.DECLARED, IDS[0], 1, fields))[0] == "declared change: levers (lr_scale=0.5)"


def test_profile_of_another_configuration_is_said_in_journal_and_verdict() -> None:
    reason = "the profile was fitted to runs with learner.lr=0.1, and this one has learner.lr=0.2: 9 of its 10 signals"
    entry = Entry(1, EntryKind.DECLARED, IDS[0], 0, (("change", "profile"), ("reason", reason)))
    assert describe(entry) == ("the profile is of another configuration", reason)
    data = run_of({"reward_mean": (0.5,) * 5}, IDS)
    assert not any("profile" in text for text in verdict(data, (), ())[1])
    assert f"T{reason[1:]}." in verdict(replace(data, entries=(entry,)), (), ())[1]
    believed = "the profile does not say how its runs were configured"
    assumed = Entry(2, EntryKind.DECLARED, IDS[0], 0, (("change", "assumed profile"), ("reason", believed)))
    assert describe(assumed) == ("the profile is taken to be of runs like this one", believed)
    both = verdict(replace(data, entries=(entry, assumed)), (), ())[1]
    assert f"T{reason[1:]}. T{believed[1:]}." in both


def test_control_is_not_blamed_for_an_incident_of_an_injected_fault() -> None:
    (control,) = controls_of([{"kind": "control", "name": "slow_tool", "declared": False, "switch_step": 6}])
    fault = Fault("OD-1", "gain", 7, 30.0)
    rest = not_claimed([fault], [opened("OD-1", 8)])
    assert "no incident was opened after it" in control_words(control, rest, 20)
    assert not_claimed([fault], [other := opened("TE-1", 8)]) == [other]
