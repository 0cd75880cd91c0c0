"""Prints a score in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.scoring.backgrounds import ANY_ONSET, STEP_1

Figures = Mapping[str, Any]


def show(summary: Figures, console: Console) -> None:
    """Print recall and delay, false alarms, the figures of other detectors, and recall by mechanism."""
    acted = sum(one["actions_on_healthy"] for one in summary["modes"].values())
    console.print(
        f"{summary['detector']} on {summary['runs']} runs of the {summary['split']} split, thresholds "
        f"{summary['thresholds_sha256'][:12]}; runs without a fault in which the guard gives an order: {acted}",
        highlight=False,
    )
    for name, reason in summary["disabled"].items():
        console.print(f"[red]Detector {name} was disabled in {reason}[/red]", highlight=False)
    heads = "detector", "evidence", "level", "recall", "95 %", "from effect", "n", "delay median", "p90", "not found"
    table = Table(*heads)
    for name, figures in scored(summary).items():
        for evidence in evidence_of(figures):
            for level in figures["recall"]:
                table.add_row(name, evidence, level, *_cells(figures, level, evidence))
    for level in summary["oracle"]:
        table.add_row("oracle", "telemetry", level, *_cells(_oracle(summary, level), level, "telemetry"))
    console.print(table)
    console.print(_false_alarms(summary))
    if "backgrounds" in summary:
        console.print(_by_background(summary))
    for mode in summary["modes"]:
        console.print(_mechanisms(summary, mode))


def scored(summary: Figures) -> dict[str, Figures]:
    """Figures by the name of the detector: the guard in its modes, then the other detectors."""
    figures = dict[str, Figures](_named(summary, summary["modes"]))
    figures |= _named(summary, summary.get("tuned", {}), ", tuned")
    if "shipped_priors" in summary:
        figures[f"{summary['detector']}, no profile, shipped priors"] = summary["shipped_priors"]
    for trainer, modes in summary.get("columns", {}).items():
        figures |= _named(summary, modes, f", {trainer} columns")
    baselines: dict[str, Figures] = summary["baselines"]
    return {name: one for name, one in figures.items() if one.get("runs") != 0} | baselines


def evidence_of(figures: Figures) -> Sequence[str]:
    """Names of the evidence that a detector was scored by."""
    return list(figures["false_alarms_per_1000"]["healthy"])


def _named(summary: Figures, modes: Figures, suffix: str = "") -> dict[str, Figures]:
    return {mode_name(summary, mode) + suffix: one for mode, one in modes.items()}


def mode_name(summary: Figures, mode: str) -> str:
    """Name of a detector in one of its modes."""
    return f"{summary['detector']}, {ReferenceMode(mode).label}"


def _oracle(summary: Figures, level: str) -> Figures:
    figures = summary["oracle"][level]["telemetry"]
    return {what: {level: {"telemetry": figures[what]}} for what in ("recall", "recall_from_effect", "delay")}


def _cells(figures: Figures, level: str, evidence: str) -> Iterator[str]:
    share, late = figures["recall"][level][evidence], figures["delay"][level][evidence]
    yield figure(share["rate"])
    yield f"{figure(share['low95'])} to {figure(share['high95'])}"
    yield figure(figures["recall_from_effect"][level][evidence]["rate"])
    yield figure(share["n"])
    yield from (figure(late["median"]), figure(late["p90"]), figure(late["censored"]))


def _false_alarms(summary: Figures) -> Table:
    table = Table("detector", "evidence", "runs", "false alarms in 1,000 steps", "95 % below")
    for name, figures in scored(summary).items():
        for kind, by_evidence in figures["false_alarms_per_1000"].items():
            for evidence, rate in by_evidence.items():
                table.add_row(name, evidence, kind, figure(rate["rate"]), figure(rate["upper95"]))
    return table


def _by_background(summary: Figures) -> Table:
    """Recall in every cell of level and background, and of the faults from step 1; false alarms of its healthy runs."""
    table = Table("mode", "evidence", "level", "background", "recall", "95 %", "from effect", "from step 1", "n",
                  "false alarms in 1,000 healthy steps", title="Clean and dirty")  # fmt: skip
    for mode, figures in summary["backgrounds"].items():
        cells = {(c["evidence"], c["level"], c["background"], c["onset"]): c for c in figures["cells"]}
        rates = {
            (row["evidence"], row["background"]): row["rate"]
            for row in figures["false_alarms_per_1000"]
            if row["runs"] == "healthy"
        }
        for (evidence, level, background, onset), cell in cells.items():
            if onset != ANY_ONSET:
                continue
            share, first = cell["recall"], cells[evidence, level, background, STEP_1]["recall"]
            table.add_row(
                mode_name(summary, mode), evidence, level, background, figure(share["rate"]),
                f"{figure(share['low95'])} to {figure(share['high95'])}", figure(cell["recall_from_effect"]["rate"]),
                figure(first["rate"]), figure(share["n"]), figure(rates.get((evidence, background))),
            )  # fmt: skip
    return table


def _mechanisms(summary: Figures, mode: str) -> Table:
    table = Table("fault", "level", "recall, telemetry", "recall, all", title=mode_name(summary, mode))
    recalls = [row for row in summary["modes"][mode]["by_fault"] if row["by"] == "mechanism"]
    rows = {(row["name"], row["level"], row["evidence"]): row["recall"] for row in recalls}
    for name, level in sorted({key[:2] for key in rows}):
        pair = [rows[name, level, evidence] for evidence in ("telemetry", "all")]
        table.add_row(name, level, *(f"{figure(share['rate'])} ({figure(share['n'])})" for share in pair))
    return table


def figure(value: float | None) -> str:
    """A number of a score; a dash where there is none."""
    return "-" if value is None else f"{value:.3g}"
