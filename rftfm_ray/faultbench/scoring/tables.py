"""What a score looks like in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from rftfm_ray.faults.calibration import LEVELS


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print recall and delay, false alarms, the bound, and what the baselines reach."""
    console.print(
        f"{found['detector']} on {found['runs']} runs of the {found['split']} split, thresholds "
        f"{found['thresholds_sha256'][:12]}; actions of the guard on healthy runs and twins: "
        f"{found['actions_on_healthy']}",
        highlight=False,
    )
    table = Table("detector", "evidence", "level", "recall", "95 %", "n", "delay median", "p90", "not found")
    for evidence in ("telemetry", "all"):
        for level in LEVELS:
            _add(table, found["detector"], evidence, level, found)
    for level in LEVELS:
        bound = found["clairvoyant"][level]["telemetry"]
        _line(table, "the bound", "telemetry", level, bound, bound)
    for name, theirs in _beside(found).items():
        for evidence in theirs["recall"][LEVELS[0]]:
            for level in LEVELS:
                _add(table, name, evidence, level, theirs)
    console.print(table)
    console.print(_false_alarms(found))
    worst = Table("fault", "level", "recall, telemetry", "recall, all")
    rows = {(r["name"], r["level"], r["evidence"]): r["recall"] for r in found["by_fault"] if r["by"] == "mechanism"}
    for name, level in sorted({key[:2] for key in rows}):
        pair = [rows[name, level, evidence] for evidence in ("telemetry", "all")]
        worst.add_row(name, level, *(f"{figure(share['rate'])} ({share['n']})" for share in pair))
    console.print(worst)


def _false_alarms(found: Mapping[str, Any]) -> Table:
    table = Table("detector", "evidence", "runs", "false alarms in 1,000 steps", "95 % below")
    for name, one in {found["detector"]: found, **_beside(found)}.items():
        for kind, by_evidence in one["false_alarms_per_1000"].items():
            for evidence, rate in by_evidence.items():
                table.add_row(name, evidence, kind, figure(rate["rate"]), figure(rate["upper95"]))
    return table


def _beside(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {"rftfm, no profile": found["cold"], **found["baselines"]}


def _add(table: Table, name: str, evidence: str, level: str, found: Mapping[str, Any]) -> None:
    _line(table, name, evidence, level, found["recall"][level][evidence], found["delay"][level][evidence])


def _line(
    table: Table, name: str, evidence: str, level: str, share: Mapping[str, Any], delay: Mapping[str, Any]
) -> None:
    limits = f"{figure(share['low95'])} to {figure(share['high95'])}"
    late = figure(delay["median"]), figure(delay["p90"]), str(delay["censored"])
    table.add_row(name, evidence, level, figure(share["rate"]), limits, str(share["n"]), *late)


def figure(value: float | None) -> str:
    """A number of a score; a dash where there is none."""
    return "-" if value is None else f"{value:.3g}"
