"""The page on detection: recall, delay and false alarms on the report split of the benchmark, with plots.

    python -m benchmarks.detection [--data benchmarks/data/faultbench] [--no-peers] [--out docs/detection.md]
    python -m benchmarks.detection --from docs/detection/score.json

The first command scores the recorded runs at the frozen thresholds and writes score.json, the page and its plots; the
second one renders page and plots from such a file. Only the curves move a threshold.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.detection_page import DETAILED_MODES, levels_of, page
from benchmarks.detection_text import Figures
from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.runs.dataset import Manifest, read_manifest
from rftfm_ray.faultbench.scoring.guarding import EVIDENCE, GuardScore
from rftfm_ray.faultbench.scoring.judging import Results, false_alarms, faulty, healthy, recall
from rftfm_ray.faultbench.scoring.score import DetectorScore, Evaluation, ScoreOptions, score_benchmark
from rftfm_ray.faultbench.scoring.summary import summary_of
from rftfm_ray.faultbench.scoring.tables import mode_name
from rftfm_ray.files import write_atomic

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "data" / "faultbench"
COMMAND = "python -m benchmarks.detection"
BEFORE = "before.json"
POINTS = 60
MOST_ALARMS = 20.0
"""False alarms in 1,000 healthy steps at which a curve ends."""
LATEST = 30
"""Steps from the effect that delays are drawn up to."""
DIGITS = 5
COLOURS = (
    "#d55e00", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#777777", "#000000", "#8c564b", "#999933",
    "#882255", "#44aa99",
)  # fmt: skip


def curves_of(evaluation: Evaluation, summary: Figures) -> dict[str, Any]:
    """Points of recall against false alarms by telemetry, by the name of the detector and by level."""
    levels = levels_of(summary)
    curves = {
        mode_name(summary, mode.value): _guard_curve(score, levels)
        for mode, score in evaluation.modes.items()
        if score.runs
    }
    # Peers as shipped have the scores of the tuned ones.
    tuned = (one for one in evaluation.compared if not one.name.endswith("_as_shipped"))
    return curves | {one.name: _compared_curve(one, levels) for one in tuned}


def _guard_curve(score: GuardScore, levels: Sequence[str]) -> dict[str, Any]:
    scores = [one.scores for draw in score.scored("telemetry") for one in draw]
    tried = (score.results_at("telemetry", threshold) for threshold in _thresholds(scores))
    return _curve(tried, score.results("telemetry"), levels)


def _compared_curve(score: DetectorScore, levels: Sequence[str]) -> dict[str, Any]:
    tried = (score.results(threshold) for threshold in _thresholds([one.scores for one in score.scored]))
    return _curve(tried, score.results(), levels)


def _thresholds(scores: Sequence[Any]) -> Iterator[float]:
    """Thresholds from high to low: quantiles of the largest score of each run, as a run alarms below that."""
    largest = np.array([max(run[np.isfinite(run)], default=0.0) for run in scores])
    positive = largest[largest > 0]
    return map(float, np.quantile(positive, np.linspace(1, 0, POINTS))) if len(positive) else iter(())


def _curve(tried: Iterator[Results], in_force: Results, levels: Sequence[str]) -> dict[str, Any]:
    points = list[list[float]]()
    for results in tried:
        point = _point(results, levels)
        if point[0] > MOST_ALARMS:
            break
        points.append(point)
    at = _point(in_force, levels)
    return {
        level: {
            "false_alarms_per_1000": [point[0] for point in points],
            "recall": [point[1 + index] for point in points],
            "in_force": [at[0], at[1 + index]],
        }
        for index, level in enumerate(levels)
    }


def _point(results: Results, levels: Sequence[str]) -> list[float]:
    """False alarms in 1,000 healthy steps, and recall by level."""
    shares = (recall(faulty(results, level)) for level in levels)
    # A split without runs of a level has recall 0 there.
    rates = [share.rate if share.total else 0.0 for share in shares]
    return [round(value, DIGITS) for value in (false_alarms(healthy(results))["rate"], *rates)]


def delays_of(evaluation: Evaluation, summary: Figures) -> dict[str, dict[str, list[float]]]:
    """Share of runs that are found up to 0, 1, ... `LATEST` steps after the effect, by detector and level."""
    judged = {
        f"{mode_name(summary, mode.value)}, {evidence}": score.results(evidence)
        for mode, score in evaluation.modes.items()
        for evidence in EVIDENCE
    } | {"oracle detector": evaluation.oracle}
    shares = {
        name: {level: _found_by_step(faulty(some, level)) for level in levels_of(summary)}
        for name, some in judged.items()
    }
    return {name: {level: share for level, share in by_level.items() if share} for name, by_level in shares.items()}


def _found_by_step(results: Results) -> list[float]:
    late = [run.delay if run.is_detected else None for run in results.pooled]
    if not late:
        return []
    counts = (sum(delay is not None and delay <= step for delay in late) for step in range(LATEST + 1))
    return [round(count / len(late), DIGITS) for count in counts]


def command_of(data: Path, *, with_peers: bool) -> str:
    """The command that makes the page of a benchmark."""
    folder = data.resolve().relative_to(ROOT) if data.resolve().is_relative_to(ROOT) else data
    return COMMAND + ("" if data.resolve() == DATA else f" --data {folder}") + ("" if with_peers else " --no-peers")


def document_of(evaluation: Evaluation, manifest: Manifest, command: str) -> dict[str, Any]:
    """What score.json has: the summary of the score, points of the plots, and how the benchmark was made."""
    summary = dict(summary_of(evaluation))
    benchmark: dict[str, Any] = {
        "page_command": command, "with_peers": "--no-peers" not in command, "command": manifest.command,
        "runs": manifest.runs, "steps": manifest.steps, "machine": manifest.machine,
        "versions": dict(manifest.versions),
    }  # fmt: skip
    if manifest.left_out:
        benchmark["left_out"] = list(manifest.left_out)
    plots = {"curves": curves_of(evaluation, summary), "delays": delays_of(evaluation, summary)}
    return {**summary, "benchmark": benchmark, **plots}


def draw_curves(curves: Figures) -> bytes:
    """Recall against false alarms, a line for each detector; dots are the thresholds in force."""
    levels = list(next(iter(curves.values()), {}))
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    for level, axis in zip(levels, _panels(figure, levels), strict=True):
        for colour, (name, by_level) in zip(COLOURS, curves.items(), strict=False):
            curve = by_level[level]
            axis.plot(curve["false_alarms_per_1000"], curve["recall"], color=colour, linewidth=1.2, label=name)
            axis.plot(*curve["in_force"], "o", color=colour, markersize=4)
        _label(axis, f"{level} faults", "false alarms in 1,000 healthy steps", "recall, telemetry")
        axis.set_xlim(-0.3, MOST_ALARMS)
        axis.set_ylim(0, 1.02)
    return _svg(figure)


def _panels(figure: Figure, levels: Sequence[str]) -> Sequence[Axes]:
    panels: Sequence[Axes] = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    return panels


def draw_delays(delays: Figures) -> bytes:
    """The share of runs that are found up to so many steps after the effect."""
    levels = list(dict.fromkeys(level for by_level in delays.values() for level in by_level))
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    for level, axis in zip(levels, _panels(figure, levels), strict=True):
        for colour, (name, by_level) in zip(COLOURS, delays.items(), strict=False):
            shares = by_level.get(level, [])
            axis.step(range(len(shares)), shares, where="post", color=colour, linewidth=1.2, label=name)
        _label(axis, f"{level} faults", "steps from the effect", "share of runs that are found")
        axis.set_ylim(0, 1.02)
    return _svg(figure)


def draw_faults(summary: Figures) -> bytes:
    """Recall of every fault, by mode, level and evidence."""
    panels = [(mode, level) for mode in DETAILED_MODES for level in levels_of(summary)]
    codes = sorted({row["name"] for mode in DETAILED_MODES for row in _fault_rows(summary, mode)})
    figure = Figure(figsize=(9.5, 1.9 * len(panels)), layout="constrained")
    for (mode, level), axis in zip(panels, figure.subplots(len(panels), 1, sharex=True), strict=True):
        rates = {(r["name"], r["level"], r["evidence"]): r["recall"]["rate"] for r in _fault_rows(summary, mode)}
        for index, (evidence, colour) in enumerate(zip(EVIDENCE, ("#0072b2", "#d55e00"), strict=True)):
            heights = [rates.get((code, level, evidence)) or 0.0 for code in codes]
            axis.bar(np.arange(len(codes)) + 0.4 * index, heights, 0.38, color=colour, label=evidence)
        axis.set_xticks(np.arange(len(codes)) + 0.2, codes)
        _label(axis, f"{mode.label}, {level}", "", "recall")
        axis.set_ylim(0, 1.02)
    return _svg(figure)


def _fault_rows(summary: Figures, mode: ReferenceMode) -> Iterator[Figures]:
    return (row for row in summary["modes"][mode.value]["by_fault"] if row["by"] == "fault")


def _label(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.tick_params(labelsize=7)


def _svg(figure: Figure) -> bytes:
    """The figure with the legend of its first panel; the same bytes every time."""
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=7, frameon=False, loc="outside right upper")
    sink = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "rftfm"}):
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()


def render(document: Figures, out: Path) -> None:
    """Write the page and its plots.

    Beside the plots may be a cost.json, with the costs, and a before.json, with the score of the benchmark without
    background.
    """
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    drawn: Mapping[str, bytes] = {
        "curves": draw_curves(document["curves"]),
        "delays": draw_delays(document["delays"]),
        "faults": draw_faults(document),
    }
    for name, plot in drawn.items():
        write_atomic(folder / f"{name}.svg", plot)
    measured = folder / "cost.json"
    cost = json.loads(measured.read_text(encoding="utf-8")) if measured.is_file() else {}
    earlier = folder / BEFORE
    before = json.loads(earlier.read_text(encoding="utf-8")) if earlier.is_file() else {}
    write_atomic(out, page(document, cost, folder.name, before).encode())


def main() -> None:
    """Score unless a score is given, then render."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--no-peers", action="store_true", help="leave out other packages, which need rftfm_ray[peers]")
    parser.add_argument("--from", dest="score", type=Path, help="render this score.json instead of scoring")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "detection.md")
    options = parser.parse_args()
    if options.score is None:
        with_peers, manifest = not options.no_peers, read_manifest(options.data)
        evaluation = score_benchmark(
            options.data, lambda text: print(text, flush=True), ScoreOptions(with_peers=with_peers)
        )
        document = document_of(evaluation, manifest, command_of(options.data, with_peers=with_peers))
        score = options.out.with_suffix("") / "score.json"
        score.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(score, (json.dumps(document, indent=1) + "\n").encode())
    else:
        document = json.loads(options.score.read_text(encoding="utf-8"))
    render(document, options.out)
    print(f"Page: {options.out}")


if __name__ == "__main__":
    main()
