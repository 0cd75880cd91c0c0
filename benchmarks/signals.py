"""The page of signals: definition, unit, source, cost, and the healthy course of each on both tasks and algorithms.

    python benchmarks/signals.py [--data benchmarks/data/healthy] [--out docs/signals.md]

Reads the rows that `healthy_set.py` made. Writes OUT and one SVG per group of signals beside it, in signals/.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rftfm_ray.integrations.aliases import ALIASES, PREFIXES, STEPS
from rftfm_ray.signals.dictionary import DICTIONARY, GROUPS, Signal, Source

ROOT = Path(__file__).parents[1]
CONDITIONS = (
    ("addition", "grpo", "#0072b2", "-"),
    ("addition", "ppo", "#0072b2", (0, (4, 2))),
    ("calculator", "grpo", "#d55e00", "-"),
    ("calculator", "ppo", "#d55e00", (0, (4, 2))),
)
COLUMNS = 4
SOURCES = {
    Source.ROLLOUT: "the step's trajectories",
    Source.LEARNER: "the learner",
    Source.CHANNEL: "an independent channel",
    Source.DRIVER: "the run's loop",
}
COSTS = ("comes with the step", "a little more work", "asks an independent channel")


def read(folder: Path) -> pa.Table:
    """All rows of the healthy set."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("steps-*.parquet"))])


def courses(table: pa.Table) -> dict[tuple[str, str], dict[str, NDArray[np.float64]]]:
    """For each condition and signal an array (runs, steps) of the tiny size."""
    runs = np.array(table["run"].to_pylist())
    result: dict[tuple[str, str], dict[str, NDArray[np.float64]]] = {}
    for task, algorithm, *_ in CONDITIONS:
        names = sorted({run for run in runs if run.startswith(f"{task}-{algorithm}-tiny-")})
        row_indices = [np.flatnonzero(runs == name) for name in names]
        result[task, algorithm] = {
            name: np.stack([table[name].to_numpy()[rows].astype(float) for rows in row_indices])
            for name in DICTIONARY
            if name in table.column_names and row_indices
        }
    return result


def with_gaps(signals: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The two gaps and the verifier's failures, which rows do not hold because they follow from others."""
    right = signals["correct_rate"]
    return signals | {
        "probe_gap": right - signals["probe_accuracy"],
        "sampled_gap": right - signals["probe_sampled_accuracy"],
        "verifier_error_rate": 1 - signals["valid_rate"] - signals["failed_rate"],
    }


def plot(names: list[str], every: dict[tuple[str, str], dict[str, NDArray[np.float64]]]) -> str:
    """Small multiples of `names`: medians over seeds, and 10 % to 90 %."""
    lines = -(-len(names) // COLUMNS)
    with mpl.rc_context({"svg.hashsalt": "signals", "svg.fonttype": "none", "font.size": 7}):
        figure = Figure((9.6, 1.35 * lines + 0.2))
        for index, name in enumerate(names):
            axes = figure.add_subplot(lines, COLUMNS, index + 1)
            axes.set_title(name, fontsize=7, pad=2, loc="left")
            axes.tick_params(length=2, pad=1, labelsize=6)
            for task, algorithm, colour, dash in CONDITIONS:
                values = every[task, algorithm].get(name)
                if values is None:
                    continue
                seen = np.flatnonzero(np.isfinite(values).any(axis=0))
                if not len(seen):
                    continue
                low, mid, high = np.nanquantile(values[:, seen], (0.1, 0.5, 0.9), axis=0)
                axes.plot(seen + 1, mid, color=colour, linestyle=dash, linewidth=1)
                axes.fill_between(seen + 1, low, high, color=colour, alpha=0.1, linewidth=0)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        figure.tight_layout(pad=0.3, h_pad=0.6, w_pad=0.6)
        sink = io.StringIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
    # A hundredth of a point is more than anybody sees.
    return re.sub(r"(\d+\.\d{2})\d+", r"\1", sink.getvalue())


def file_of(title: str) -> str:
    """Name of a group's figure."""
    return title.lower().replace(" ", "_") + ".svg"


def number(value: float) -> str:
    """Three significant digits; a dash where nothing was measured."""
    return f"{value:.3g}" if math.isfinite(value) else "-"


def course(values: NDArray[np.float64] | None) -> str:
    """Median over seeds of the first and of the last ten steps."""
    if values is None or not np.isfinite(values).any():
        return "-"

    def median(part: NDArray[np.float64]) -> float:
        seen = part[np.isfinite(part)]
        return float(np.median(seen)) if len(seen) else math.nan

    first, last = median(values[:, :10]), median(values[:, -10:])
    return number(first) if first == last else f"{number(first)} → {number(last)}"


def row(signal: Signal, every: dict[tuple[str, str], dict[str, NDArray[np.float64]]]) -> str:
    """One line of a table."""
    floor = "none" if math.isinf(signal.floor) else f"{signal.floor:g}"
    seen = [course(every[task, algorithm].get(signal.name)) for task, algorithm, *_ in CONDITIONS]
    return (
        f"| `{signal.name}` | {signal.code} | {signal.meaning} | {signal.unit} | {signal.scale.value}, {floor} | "
        f"{signal.source.value} | {signal.cost} | {' | '.join(seen)} |"
    )


def page(every: dict[tuple[str, str], dict[str, NDArray[np.float64]]], manifest: dict[str, object], out: Path) -> str:
    """The page."""
    heads = " | ".join(f"{task}, {algorithm}" for task, algorithm, *_ in CONDITIONS)
    parts = []
    for title, signals in GROUPS.items():
        table = [row(signal, every) for signal in signals]
        parts.append(
            f"## {title}\n\n| signal | code | what it is | unit | scale, floor | source | cost | {heads} |\n"
            f"{'|---' * 11}|\n" + "\n".join(table) + f"\n\n![{title}]({out.stem}/{file_of(title)})\n"
        )
    runs = next(iter(every.values()))["reward_mean"].shape
    sources = "; ".join(f"`{source.value}`: {text}" for source, text in SOURCES.items())
    costs = "; ".join(f"{cost}: {text}" for cost, text in enumerate(COSTS))
    return f"""# Signals

Made by `python benchmarks/signals.py` from the healthy runs of `{manifest["command"]}`: {runs[0]} seeds for each of
two tasks and two algorithms with the tiny model, {runs[1]} steps each, on {manifest["machine"]}.

A step report holds {len(DICTIONARY)} signals; step rows (`steps/*.parquet`) hold the same columns, but for the two
gaps and `verifier_error_rate`, which follow from others. `--guard off` leaves out the independent channels, the variety
of texts and the size of updates. Formulas with their sources stand in `rftfm_ray/training` (advantages, losses) and
`rftfm_ray/telemetry/features.py`.

- Code: signals with one code tell one story, such as `s1`, the rewards; diagnosis does not use it.
- Source: {sources}.
- Cost: {costs}.
- Scale: how a signal is compared, as a fraction of the batch, by its ratio (its logarithm), or by its difference. The
  floor is the smallest spread that it is ever judged against, in units of that scale.
- The last four columns: median over seeds, of the first ten and of the last ten steps. Curves: median, and 10 % to
  90 % of the seeds; blue: addition, orange: calculator; solid: GRPO, dashed: PPO.
- NaN (a dash here): nothing to measure, or a channel that was not due.

{chr(10).join(parts)}
{names()}"""


def names() -> str:
    """What columns of a step log may be called."""
    rows = [f"| `{name}` | `{signal}` |" for name, signal in ALIASES.items()]
    steps = ", ".join(f"`{name}`" for name in STEPS)
    prefixes = ", ".join(f"`{prefix}`" for prefix in PREFIXES)
    return (
        f"""## Step logs of other trainers

`rftfm diagnose` reads a step log (CSV, JSONL or Parquet, a row a step) whose columns are called as above, or as TRL and
verl call them. An empty cell is a gap; a NaN that is written down counts as a value that is not a number. Steps are
counted by the first of {steps} that is there, else by rows; before a name {prefixes} does not matter. Columns that
nobody knows are left out and listed. A log with half of the telemetry that `rftfm_ray/assets/priors.json` knows, or
more, is also judged by how its signals go together: alarms of the kind `joint`, under the signal that departs most
from what the others predict.

| column | signal |
|---|---|
"""
        + "\n".join(rows)
        + "\n"
    )


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "benchmarks" / "data" / "healthy")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "signals.md")
    arguments = parser.parse_args()
    every = {key: with_gaps(series) for key, series in courses(read(arguments.data)).items()}
    manifest = json.loads((arguments.data / "manifest.json").read_text())
    folder = arguments.out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for title, signals in GROUPS.items():
        measured = [each.name for each in signals if any(each.name in series for series in every.values())]
        (folder / file_of(title)).write_text(plot(measured, every))
    arguments.out.write_text(page(every, manifest, arguments.out))


if __name__ == "__main__":
    main()
