"""Prints the figures of an evaluation of names in the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from rftfm_ray.faultbench.naming.markdown import (
    HEADLINE,
    Figures,
    Line,
    baseline_lines,
    calibration_lines,
    fault_lines,
    headline_lines,
    left_lines,
    mode_name,
    pair_lines,
)
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope


def show(summary: Figures, console: Console) -> None:
    """Print names, calibration, faults, pairs, what was never taught, and baselines."""
    console.print(
        f"Names of faults in {summary['runs']} runs of the {summary['split']} split, model "
        f"{summary['model_sha256'][:12]}",
        highlight=False,
    )
    modes = {mode_name(mode): block for mode, block in summary["by_mode"].items()}
    _print(console, HEADLINE, headline_lines(modes))
    if len(summary["by_background"]) > 1:
        _print(console, ("background", *HEADLINE[1:]), headline_lines(summary["by_background"]))
    heads = ("reference", "evidence", "ECE", "perfect: mean, 95 %", "names", "steps", "controls", "healthy")
    _print(console, heads, calibration_lines(modes))
    rows = summary["by_fault"][EvidenceScope.ALL.value]
    _print(console, ("fault", "runs", "right", "F1", "in place", "taken for"), fault_lines(rows))
    _print(console, ("reference", "evidence", "runs", "both first", "exact set"), pair_lines(modes))
    if summary["leave_one_out"]:
        parts = ("left out", "part", "alarmed", "no alarm", "right", "unknown", "family", "sure, wrong", "F1", "taken")
        _print(console, parts, left_lines(summary["leave_one_out"]))
    if summary["baselines"]:
        _print(console, ("name", "level", "macro-F1", "right"), baseline_lines(summary))


def _print(console: Console, heads: Line, lines: Iterable[Line]) -> None:
    table = Table(*heads)
    for line in lines:
        table.add_row(*line)
    console.print(table)
