"""The page on detection: what it says of targets follows from the figures of the score, and from nothing else."""

from __future__ import annotations

import copy
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import detection, detection_page
from benchmarks.detection_page import RECALL_TARGETS, TargetRow, is_recall_met, page, target_rows
from rftfm_ray.faultbench.scoring.judging import ROWS
from rftfm_ray.faultbench.scoring.tables import show

LEVELS, EVIDENCE = ("easy", "hard"), ("telemetry", "all")
COST = {"hand_over_us": 4.0, "lost": 0.0, "monitor_ms": 0.4, "log_s": 4.5, "machine": "2 CPU cores"}


def share(rate: float, runs: int = 100) -> dict[str, float]:
    """A share with an interval of four points to both sides."""
    return {"rate": rate, "low95": max(0.0, rate - 0.04), "high95": min(1.0, rate + 0.04), "n": runs}


def by_level(value: Any) -> dict[str, Any]:
    """The same figure for every level and evidence."""
    return {level: {evidence: copy.deepcopy(value) for evidence in EVIDENCE} for level in LEVELS}


def figures(rate: float = 0.99) -> dict[str, Any]:
    """Figures of a detector."""
    alarms = {"rate": 0.5, "upper95": 0.9, "alarms": 2, "steps": 4000}
    return {
        "recall": by_level(share(rate)), "recall_from_effect": by_level(share(rate - 0.1)),
        "delay": by_level({"median": 1, "p90": 3, "censored": 1, "n": 100}),
        "false_alarms_per_1000": {
            kind: {evidence: dict(alarms) for evidence in EVIDENCE} for kind in ("healthy", "benign")
        },
    }  # fmt: skip


def row(by: str, name: str, level: str, evidence: str, rate: float = 1.0) -> dict[str, Any]:
    """A row of a detailed table."""
    return {
        "by": by, "name": name, "level": level, "evidence": evidence, "recall": share(rate, 10),
        "recall_from_effect": share(rate, 10), "delay": {"median": 0, "p90": 1, "censored": 0, "n": 10},
        "without_effect": 0,
    }  # fmt: skip


def mode_figures(draws: int) -> dict[str, Any]:
    """Figures of the guard in one mode."""
    counts = {"precision": 0.9, "recall": 0.8, "f1": 0.85, "family_mean_f1": None}
    detailed = [row(by, f"{by} A", level, evidence) for by in ROWS for level in LEVELS for evidence in EVIDENCE]
    return {
        "runs": 200, "draws": draws, **figures(), "by_fault": detailed,
        "groups": [row("group", "two faults", "easy", evidence) for evidence in EVIDENCE],
        "worst_draw": {
            "recall": by_level(0.7), "recall_from_effect": by_level(0.6),
            "false_alarms_per_1000": {kind: dict.fromkeys(EVIDENCE, 1.5) for kind in ("healthy", "benign")},
        },
        "actions_on_healthy": 0, "actions": [],
        "paper": {evidence: {level: {"guard": counts} for level in LEVELS} for evidence in EVIDENCE},
    }  # fmt: skip


@pytest.fixture
def summary() -> dict[str, Any]:
    """A score that meets every target."""
    oracle = {"recall": share(0.97), "recall_from_effect": share(0.9), "delay": figures()["delay"]["easy"]["all"]}
    curve = {"false_alarms_per_1000": [0.0, 2.0], "recall": [0.5, 0.9], "in_force": [0.5, 0.8]}
    return {
        "split": "report", "detector": "rftfm", "thresholds_sha256": "0123456789abcdef0123", "runs": 200,
        "multipliers": {"none": 1.1, "small": 1.2, "full": 1.3}, "healthy_steps": 4000, "disabled": {},
        "modes": {mode: mode_figures(10 if mode == "three" else 1) for mode in RECALL_TARGETS},
        "oracle": {level: {"telemetry": oracle} for level in LEVELS}, "baselines": {"three_sigma": figures(0.4)},
        "shipped_priors": figures(), "columns": {"trl": {"none": figures(0.3)}},
        "benchmark": {
            "page_command": "python -m benchmarks.detection", "with_peers": True, "command": "generate", "runs": 400,
            "steps": 9000, "machine": "2 CPU cores", "versions": {"numpy": "2"},
        },
        "curves": {"rftfm, no profile": dict.fromkeys(LEVELS, curve)},
        "delays": {"oracle detector": {"easy": [0.5, 1.0]}},
    }  # fmt: skip


def unmet(summary: dict[str, Any], cost: dict[str, Any]) -> list[TargetRow]:
    """Targets that are missed."""
    return [one for one in target_rows(summary, cost) if not one.met]


@pytest.mark.parametrize(
    ("rate", "high", "met"),
    [(0.95, 0.97, True), (0.93, 0.95, True), (0.93, 0.949, False), (0.929, 0.99, False), (None, None, False)],
)
def test_a_recall_is_met_within_two_points_if_its_interval_reaches_the_target(
    rate: float | None, high: float | None, met: bool
) -> None:
    assert is_recall_met({"rate": rate, "high95": high}, 95) is met


def test_a_score_that_meets_all_targets_has_nothing_missed(summary: dict[str, Any]) -> None:
    assert len(list(target_rows(summary, COST))) == 12 + 6 + 3 + len(detection_page.COST_TARGETS)
    assert unmet(summary, COST) == []
    text = page(summary, COST, "detection")
    assert "No target was missed." in text
    assert "**no**" not in text


@pytest.mark.parametrize("mode", RECALL_TARGETS)
@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("level", LEVELS)
def test_a_recall_below_its_target_is_missed_and_names_the_mechanisms(
    summary: dict[str, Any], mode: str, evidence: str, level: str
) -> None:
    figures_of_mode = summary["modes"][mode]
    figures_of_mode["recall"][level][evidence] = share(RECALL_TARGETS[mode][evidence][level] / 100 - 0.021)
    figures_of_mode["by_fault"] += [
        row("mechanism", "CA-2 late_noise", level, evidence, 0.2),
        row("mechanism", "OD-2 small_steps", level, evidence, 0.1),
    ]
    (missed,) = unmet(summary, COST)
    assert re.match(f"recall, {evidence}, {level}, rftfm, (no )?profile", missed.name)
    assert missed.missed == "OD-2 small_steps (9 of 10), CA-2 late_noise (8 of 10)"
    figures_of_mode["by_fault"] += [row("mechanism", f"OD-{n}", level, evidence, 0.5) for n in range(4)]
    assert unmet(summary, COST)[0].missed.endswith("OD-2 (5 of 10); 1 more mechanisms have misses")


def test_the_target_is_for_recall_from_the_switch_and_both_are_shown(summary: dict[str, Any]) -> None:
    summary["modes"]["none"]["recall_from_effect"]["easy"]["all"] = share(0.123)
    assert unmet(summary, COST) == []
    shown = next(one for one in target_rows(summary, COST) if one.name == "recall, all, easy, rftfm, no profile")
    assert shown.reached == "99.0 % (95.0 to 100.0, n 100)"
    assert shown.from_effect == "12.3 % (8.3 to 16.3, n 100)"


@pytest.mark.parametrize("rate", [0.75, 0.751, None])
def test_false_alarms_are_met_up_to_three_quarters_in_1000_steps(summary: dict[str, Any], rate: float | None) -> None:
    summary["modes"]["three"]["false_alarms_per_1000"]["healthy"]["all"]["rate"] = rate
    assert [one.name for one in unmet(summary, COST)] == (
        [] if rate == 0.75 else ["false alarms in 1,000 healthy steps, all, rftfm, profile of 3 runs"]
    )


def test_an_order_in_a_run_without_a_fault_is_missed(summary: dict[str, Any]) -> None:
    summary["modes"]["none"]["actions_on_healthy"] = 1
    assert [one.reached for one in unmet(summary, COST)] == ["1"]


@pytest.mark.parametrize("limit", detection_page.COST_TARGETS, ids=lambda limit: limit.key)
def test_costs_are_limited_and_must_be_measured(summary: dict[str, Any], limit: detection_page.CostTarget) -> None:
    assert unmet(summary, COST | {limit.key: limit.most}) == []
    assert [one.name for one in unmet(summary, COST | {limit.key: limit.most + 1})] == [limit.name]
    without = {key: value for key, value in COST.items() if key != limit.key}
    assert [one.reached for one in unmet(summary, without)] == ["not measured"]


def test_the_page_has_every_detector_and_marks_priors_that_know_the_tasks(summary: dict[str, Any]) -> None:
    text = page(summary, COST, "detection")
    rows = re.search(r"## All detectors\n\n(.*?)\nThe worst draw", text, re.DOTALL)
    assert rows
    names = {line.split(" | ")[0].removeprefix("| ") for line in rows[1].splitlines()[2:]}
    assert names == {
        "rftfm, no profile", "rftfm, profile of 3 runs", "rftfm, profile of 8 runs or more", "three_sigma",
        "rftfm, no profile, shipped priors (these priors know the tasks of the benchmark)",
        "rftfm, no profile, trl columns", "oracle detector",
    }  # fmt: skip
    assert "| rftfm, profile of 3 runs | all | 70.0 % | 70.0 % | 60.0 % | 60.0 % | 1.50 | 1.50 |" in text
    assert "draft" not in text
    assert "**This is not the report split: a draft.**" in page(summary | {"split": "tune"}, COST, "detection")


def test_rendering_twice_gives_the_same_files(summary: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        detection.render(summary, tmp_path / name / "detection.md")
    first = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.*")}
    second = {path.relative_to(tmp_path / "b"): path.read_bytes() for path in (tmp_path / "b").rglob("*.*")}
    assert first == second
    assert {path.name for path in first} == {"detection.md", "curves.svg", "delays.svg", "faults.svg"}


def test_curves_try_the_largest_scores_of_runs_from_high_to_low() -> None:
    scores = [np.array([0.1, 3.0]), np.array([np.nan, 1.0]), np.array([0.0, 0.0]), np.array([2.0, np.inf])]
    tried = list(detection._thresholds(scores))
    assert tried == sorted(tried, reverse=True)
    assert (tried[0], tried[-1], len(tried)) == (3.0, 1.0, detection.POINTS)
    assert list(detection._thresholds([np.zeros(3)])) == []


def cell(level: str, background: str, evidence: str, onset: str = "any", rate: float = 0.5) -> dict[str, Any]:
    """A cell of level and background."""
    runs = 160 if background != "dirty" else 120
    return row("cell", background, level, evidence, rate) | {
        "recall": share(rate, runs), "background": background, "onset": onset, "is_pooled": background == "dirty",
    }  # fmt: skip


def background_mode() -> dict[str, Any]:
    """Figures of the guard in one mode by background."""
    backgrounds = ("clean", "dirty", "both")
    return {
        "cells": [
            cell(level, background, evidence, onset, 0.9 if onset == "step 1" else 0.5)
            for evidence in EVIDENCE for level in (*LEVELS, "harm") for background in backgrounds
            for onset in ("any", "step 1")
        ],
        "false_alarms_per_1000": [
            {"evidence": evidence, "runs": kind, "background": background, "rate": 0.25, "upper95": 0.75, "alarms": 1,
             "steps": 4000}
            for evidence in EVIDENCE for kind in ("healthy", "healthy, other configuration", "benign")
            for background in backgrounds
        ],
        "orders": {"clean": 0, "dirty": 2},
        "below": [row("below", "dirty", "hard", "all", 0.1) | {"background": "dirty"}],
        "by_fault": [
            row(by, name, "harm", evidence) | {"background": background}
            for by, name in (("fault", "RF-1"), ("mechanism", "RF-1 outliers")) for evidence in EVIDENCE
            for background in ("clean", "dirty") if not (by == "mechanism" and background == "dirty")
        ],
    }  # fmt: skip


@pytest.fixture
def with_backgrounds(summary: dict[str, Any]) -> dict[str, Any]:
    """A score of clean and dirty runs."""
    made = summary["benchmark"] | {"left_out": ["OD-3 by cold_sampler, harm, dirty, addition with grpo: no harm"]}
    return summary | {"backgrounds": {mode: background_mode() for mode in RECALL_TARGETS}, "benchmark": made}


def test_clean_and_dirty_stand_side_by_side_with_the_benchmark_before(
    with_backgrounds: dict[str, Any], summary: dict[str, Any]
) -> None:
    text = page(with_backgrounds, COST, "detection", summary)
    section = text[text.index("## Clean and dirty") : text.index("## All detectors")]
    lines = [line for line in section.splitlines() if line.startswith("| rftfm, no profile | telemetry | easy |")]
    assert [line.split(" | ")[3] for line in lines] == ["clean", "dirty", "both"]
    clean, dirty, _ = lines
    assert "| 50.0 % (46.0 to 54.0, n 160) |" in clean
    assert "| 90.0 % (86.0 to 94.0, n 160) |" in clean, "faults from step 1"
    assert "99.0 % (95.0 to 100.0, n 100)" in clean, "the benchmark before"
    assert "99.0 %" not in dirty
    assert dirty.endswith("| fewer than 150 runs: read the row of both |")
    assert not clean.endswith("both |")
    harm = next(
        line for line in section.splitlines() if line.startswith("| rftfm, no profile | telemetry | harm | clean")
    )
    assert harm.split(" | ")[8] == "-", "there was no such level before"
    assert section.index("rftfm, no profile") < section.index("rftfm, profile of 3 runs")


def test_what_is_hidden_left_out_and_not_measured_is_said(with_backgrounds: dict[str, Any]) -> None:
    text = page(with_backgrounds, COST, "detection")
    assert "| rftfm, no profile | all | hard | dirty | 10.0 % (6.0 to 14.0, n 10) |" in text
    assert "- OD-3 by cold_sampler, harm, dirty, addition with grpo: no harm\n" in text
    assert "Runs without a fault in which the guard gives an order: rftfm, no profile: 0 clean, 2 dirty;" in text
    assert "| RF-1 outliers | harm | 100.0 % (96.0 to 100.0, n 10) | 100.0 % (96.0 to 100.0, n 10) | - | - |" in text
    assert "*Before*" not in text
    for figures in with_backgrounds["backgrounds"].values():
        figures["below"] = []
    assert "No fault that was run lies below the background." in page(with_backgrounds, COST, "detection")


def test_the_terminal_shows_every_cell_of_clean_and_dirty_runs(with_backgrounds: dict[str, Any]) -> None:
    console = Console(file=StringIO(), width=240)
    show(with_backgrounds, console)
    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    table = shown[shown.index("Clean and dirty") :]
    lines = (re.split(r"\s*│\s*", line)[1:-1] for line in table.splitlines())
    cells = [line for line in lines if line[:1] == ["rftfm, no profile"]]
    assert len(cells) == len(EVIDENCE) * 3 * 3
    assert cells[0] == [
        "rftfm, no profile", "telemetry", "easy", "clean", "0.5", "0.46 to 0.54", "0.5", "0.9", "160", "0.25",
    ]  # fmt: skip


def test_a_benchmark_without_background_has_no_such_section(summary: dict[str, Any]) -> None:
    assert "Clean and dirty" not in page(summary, COST, "detection", summary)


def test_the_command_of_a_page_names_other_data_and_missing_peers() -> None:
    other = detection.ROOT / "benchmarks" / "data" / "other"
    assert detection.command_of(detection.DATA, with_peers=True) == "python -m benchmarks.detection"
    wanted = "python -m benchmarks.detection --data benchmarks/data/other --no-peers"
    assert detection.command_of(other, with_peers=False) == wanted


def test_pages_and_plots_have_every_level_that_was_scored(summary: dict[str, Any], tmp_path: Path) -> None:
    for figures in (*summary["modes"].values(), summary["shipped_priors"], *summary["baselines"].values(),
                    *(one for modes in summary["columns"].values() for one in modes.values())):  # fmt: skip
        for what in ("recall", "recall_from_effect", "delay"):
            figures[what]["harm"] = copy.deepcopy(figures[what]["easy"])
        if "worst_draw" in figures:
            for what in ("recall", "recall_from_effect"):
                figures["worst_draw"][what]["harm"] = figures["worst_draw"][what]["easy"]
    summary["oracle"]["harm"] = summary["oracle"]["easy"]
    for curve in summary["curves"].values():
        curve["harm"] = curve["easy"]
    detection.render(summary, tmp_path / "detection.md")
    text = (tmp_path / "detection.md").read_text()
    assert "| recall, easy | recall, hard | recall, harm |" in text
    assert "harm faults" in (tmp_path / "detection" / "curves.svg").read_text()
