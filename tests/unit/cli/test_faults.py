"""`rftfm faults`, and the page that its demo writes. No Ray."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rftfm_ray.cli.app import app, run_guarded
from rftfm_ray.config import load_config
from rftfm_ray.errors import FaultError
from rftfm_ray.faultbench.pages import demo
from rftfm_ray.faultbench.pages import page as pages
from rftfm_ray.faultbench.pages.page import Ending, page
from rftfm_ray.faults import calibration
from rftfm_ray.faults.calibration import Calibration, Finding, StrengthKey, calibrated
from rftfm_ray.faults.catalogue import check_faults, parse_fault
from rftfm_ray.faults.controls import CONTROLS, parse_control
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.tasks.addition import Addition

ROW = Calibration(
    "addition", "grpo", "RF-1", "outliers", "hard", 0.4, "reward_mean", 1.4, 1.5, 20, 20, 1.0, True, 0.12, 3, True
)


def invoke(*arguments: str) -> str:
    """Standard output of a command that succeeds."""
    done = CliRunner().invoke(app, ["faults", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_json_lists_faults_and_controls_with_the_keys_that_were_promised() -> None:
    result = json.loads(invoke("list", "--json"))
    assert set(result) == {"faults", "controls"}
    assert [fault["code"] for fault in result["faults"]] == list(CATALOGUE)
    assert {tuple(fault) for fault in result["faults"]} == {
        ("code", "name", "family", "mechanisms", "algorithms", "summary", "mechanism_details")
    }
    assert {tuple(control) for control in result["controls"]} == {
        ("name", "declared", "summary", "needs_tool", "strength")
    }
    assert len([control for control in result["controls"] if not control["declared"]]) >= 4
    assert [f["algorithms"] for f in result["faults"] if f["code"] == "CA-1"] == [["ppo"]]


def test_json_says_what_the_table_says_of_every_mechanism_and_control() -> None:
    result = json.loads(invoke("list", "--json"))
    for fault in result["faults"]:
        assert [details["name"] for details in fault["mechanism_details"]] == fault["mechanisms"]
        for details in fault["mechanism_details"]:
            mechanism = CATALOGUE[fault["code"]].mechanism(details["name"])
            bounds = mechanism.strength
            assert details["strength"] == {
                "meaning": bounds.meaning, "default": bounds.default, "low": bounds.low, "high": bounds.high,
            }  # fmt: skip
            assert (details["acts_in"], details["needs_tool"]) == (mechanism.acts_in, mechanism.needs_tool)
            assert tuple(details["algorithms"]) == mechanism.algorithms
    for told in result["controls"]:
        control, strength = CONTROLS[told["name"]], told["strength"]
        assert (strength["default"], strength["low"], strength["high"]) == (
            control.default_strength, control.low, control.high,
        )  # fmt: skip
        assert (strength["meaning"], told["needs_tool"]) == (control.meaning, control.needs_tool)


def test_what_is_listed_can_be_asked_for() -> None:
    result = json.loads(invoke("list", "--json"))
    for fault in result["faults"]:
        for mechanism in fault["mechanisms"]:
            assert parse_fault(f"{fault['code']}@5,mechanism={mechanism}").mechanism == mechanism
    for control in result["controls"]:
        assert parse_control(f"{control['name']}@5").name == control["name"]


def test_listing_names_everything_and_how_to_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    text = invoke("list")
    named = [*CATALOGUE, *CONTROLS, *(m.name for kind in CATALOGUE.values() for m in kind.mechanisms)]
    assert [name for name in named if name not in text] == []
    assert "CODE@STEP" in text
    assert "mechanism=NAME" in text


def test_demo_of_a_fault_that_there_is_not_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> None:
        app(["faults", "demo", "--only", "RF-9"], standalone_mode=False)

    assert run_guarded(command) != 0
    assert "there is no fault RF-9 (did you mean RF-" in capsys.readouterr().err


def with_rows(monkeypatch: pytest.MonkeyPatch, *rows: Calibration) -> None:
    """Ship these rows."""
    monkeypatch.setattr(calibration, "table", lambda: rows)
    monkeypatch.setattr(pages, "table", lambda: rows)


def test_calibrated_strengths_are_called_easy_and_hard(monkeypatch: pytest.MonkeyPatch) -> None:
    with_rows(monkeypatch, ROW, replace(ROW, algorithm="ppo", strength=0.7), replace(ROW, level="easy", strength=1.5))
    assert calibrated(StrengthKey("addition", "ppo", "RF-1", "outliers", "hard")) == 0.7
    # Measured with grpo alone: it holds for every algorithm.
    assert calibrated(StrengthKey("addition", "ppo", "RF-1", "outliers", "easy")) == 1.5
    assert calibrated(StrengthKey("addition", "rloo", "RF-1", "outliers", "hard")) == 0.4
    with pytest.raises(FaultError, match="no strength that is called hard on task mine; give a number"):
        calibrated(StrengthKey("mine", "grpo", "RF-1", "outliers", "hard"))
    config = load_config(None, ["steps=10"]).model_copy(update={"inject": ("RF-1@3:hard,mechanism=outliers",)})
    assert check_faults(config, Addition())[0].strength == 0.4


def test_shipped_strengths_lie_within_their_bounds() -> None:
    for row in calibration.table():
        bounds = CATALOGUE[row.code].mechanism(row.mechanism)
        assert bounds.strength.low <= row.strength <= bounds.strength.high
        assert row.signal == bounds.signal
        if row.level == "harm":
            assert row.confirmed is ((row.loss_fresh or 0) >= 0.15)
            assert row.seeds >= 6
        else:
            inside = row.d_fresh >= 4 if row.level == "easy" else 1 <= row.d_fresh <= 2
            assert row.confirmed is inside
            assert min(row.seeds, row.seeds_fresh) >= 10
        assert row.harmful is (None if row.accuracy_loss is None else row.accuracy_loss >= 0.1)


def test_page_says_what_how_and_where_and_links_to_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    with_rows(monkeypatch, ROW)
    ending = Ending("RF-1", "outliers", "hard", 0.4, 11, 0.5, 0.75)
    text = page(list(CATALOGUE), [ending], "faults", 40, 3000, 11)
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-")
        for line in text.splitlines()
        if line[:3] == "## "
    }
    linked = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert linked <= anchors
    assert len(linked) == len(CATALOGUE)
    assert "| `outliers` | addition | grpo | clean | hard | 0.4 | 1.40 | 1.50 | 100% | yes | +0.120, harmful |" in text
    assert "| `outliers` | hard | 0.4 | 11 | 0.500 | 0.750 |" in text
    assert "Made by `rftfm faults demo`:" in text
    widths = {}
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        widths[block] = {line.count("|") for line in block.splitlines()}
    assert all(len(found) == 1 for found in widths.values())


def test_page_says_where_no_strength_reaches_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    low = replace(ROW, mechanism="wrong_answers", level="easy", d_fresh=2.1, confirmed=False)
    most = CATALOGUE["RF-1"].mechanism("wrong_answers").strength.high
    with_rows(monkeypatch, low, replace(low, level="hard", strength=most))
    text = page(["RF-1"], [], "faults", 40, 1, 11)
    assert [line.count("no, and there is no larger strength") for line in text.splitlines() if "2.10" in line] == [0, 1]


def test_page_says_what_a_search_has_come_to_and_on_which_background(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = replace(ROW, dirty=True, confirmed=False, finding=Finding.BELOW)
    harm = replace(
        ROW, level="harm", d=math.nan, d_fresh=math.nan, reached=math.nan, accuracy_loss=0.171, loss_fresh=0.162
    )
    with_rows(monkeypatch, hidden, harm, replace(harm, finding=Finding.NO_HARM, confirmed=False, loss_fresh=None))
    text = page(["RF-1"], [], "faults", 40, 1, 11)
    assert "| grpo | dirty | hard | 0.4 | 1.40 | 1.50 | 100% | no: below the background |" in text
    assert "| clean | harm | 0.4 | - | - | - | yes | +0.171, harmful, fresh +0.162 |" in text
    assert "| no: no strength is harmful | +0.171, harmful |" in text


def test_page_of_some_faults_names_the_command_that_makes_it() -> None:
    assert "`rftfm faults demo --only TE-1 --only RF-2`" in page(["TE-1", "RF-2"], [], "faults", 40, 1, 11)


class Drawn:
    """Stands in for a course."""

    def __init__(self, level: float) -> None:
        self._level = level
        self.rows = [type("Row", (), {"id": type("Id", (), {"paid_step": n})})() for n in range(1, 9)]

    def signal(self, name: str) -> Any:
        """A line with a hole."""
        return np.array([np.nan if n == 2 else self._level + n for n in range(8)])


def test_plots_are_the_same_for_the_same_courses() -> None:
    kind = CATALOGUE["RF-1"]
    arms: Any = [
        demo.Arm(kind, m, "addition", "grpo", 3, Drawn(0), {"easy": (1.0, Drawn(2)), "hard": (0.2, Drawn(1))})  # type: ignore[arg-type,dict-item]
        for m in kind.mechanisms
    ]
    first = demo.plot(arms)
    assert first == demo.plot(arms)
    assert first.count(b"<!-- wrong_answers -->") == 1
    assert b"probe_accuracy" in first


def test_control_without_a_strength_lists_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = CliRunner().invoke(app, ["faults", "list"]).stdout.splitlines()
    (resume,) = [line for line in lines if " resume " in line and "declared" in line]
    assert [cell.strip() for cell in resume.split("│")][3] == "none"
