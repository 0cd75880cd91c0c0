"""Writes docs/real_model.md and its picture from the runs and the survey below benchmarks/data/real_model/.

python -m benchmarks.real_model.page
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import sys
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.real_model.runs import FOLDER, KEYS, ONSET, RUNS, TASKS, RealRun
from benchmarks.real_model.survey import FILE as SURVEY
from rftfm_ray.files import write_atomic

PAGE = Path(__file__).parents[2] / "docs" / "real_model.md"
PICTURE = PAGE.with_suffix(".svg")
COLOURS = ("#0072b2", "#d55e00", "#009e73")
EDGE = 5
mpl.rcParams["svg.hashsalt"] = "rftfm_ray"

Kept = dict[RealRun, dict[str, Any]]


def kept_runs() -> Kept:
    """The runs that there are."""
    files = {run: FOLDER / f"{run.name}.json" for run in RUNS}
    return {run: json.loads(file.read_text()) for run, file in files.items() if file.exists()}


def picture(runs: Kept) -> bytes:
    """Sampled rewards of every step and held-out accuracies of the healthy runs, a panel for each task."""
    figure = Figure((3.6 * len(TASKS), 2.4))
    for index, task in enumerate(TASKS):
        axes = figure.add_subplot(1, len(TASKS), index + 1)
        axes.set_title(f"{task}: sampled reward, and held-out accuracy (dots)", fontsize=7, pad=2, loc="left")
        axes.tick_params(length=2, pad=1, labelsize=6)
        healthy = [kept for run, kept in runs.items() if run.task == task and not run.fault]
        for colour, kept in zip(COLOURS, healthy, strict=False):
            axes.plot(kept["steps"]["step"], kept["steps"]["reward_mean"], color=colour, linewidth=0.8)
            probes = [(step, accuracy) for step, accuracy in kept["probes"] if accuracy is not None]
            axes.plot(*np.array(probes).T, color=colour, marker="o", markersize=3, linewidth=0, alpha=0.7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_ylim(0, 1)
    figure.tight_layout(pad=0.3, w_pad=0.8)
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue().encode()


def healthy_row(run: RealRun, kept: dict[str, Any]) -> str:
    """One healthy run as a row of the table."""
    summary, rewards = kept["summary"], [r for r in kept["steps"]["reward_mean"] if r is not None]
    first, last = np.mean(rewards[:EDGE]), np.mean(rewards[-EDGE:])
    seconds = summary["step_time_s_median"]
    return (
        f"| {run.task} | {run.seed} | {first:.3f} -> {last:.3f} | {summary['probe_first']:.3f} -> "
        f"{summary['probe_last']:.3f} ({summary['probe_size']}) | {len(kept['incidents'])} | {seconds:.0f} s |"
    )


def drill_row(run: RealRun, kept: dict[str, Any]) -> str:
    """One run with a fault as a row of the table."""
    found = kept["incidents"]
    told = "; ".join(
        f"{each['code']} at step {each['opened']}, {', '.join(each['remedies']) or 'no remedy'}, "
        f"{each['state'].replace('_', ' ')}"
        for each in found
    )
    first, last = kept["summary"]["probe_first"], kept["summary"]["probe_last"]
    return f"| {run.fault} from step {ONSET} | {told or 'nothing'} | {first:.3f} -> {last:.3f} |"


def surveyed() -> list[str]:
    """What the untrained model solves of each generator that was asked."""
    if not SURVEY.exists():
        sys.exit("There is no survey; make it by `python -m benchmarks.real_model.survey MODEL`.")
    return [
        f"| `{label}` | {figures['right']:.2f} | {figures['mixed_groups']:.2f} | {figures['ended']:.2f} |"
        for label, figures in json.loads(SURVEY.read_text()).items()
    ]


def findings(runs: Kept) -> str:
    """What preflight has found, as sentences."""
    found = [each for kept in runs.values() for each in kept["preflight"]]
    said = {each["check"]: f"{each['grade']}, {each['what']} {each['why']}" for each in found}
    return "\n".join(f"- `{check}`: {text}" for check, text in sorted(said.items())) or "Nothing."


def main() -> None:
    """Write both files."""
    runs = kept_runs()
    missing = [run.name for run in RUNS if run not in runs]
    if missing:
        sys.exit(f"{len(missing)} of {len(RUNS)} runs are missing, for example {missing[0]}; make them first.")
    versions = ", ".join(f"{name} {number}" for name, number in next(iter(runs.values()))["versions"].items())
    sources = ", ".join(sorted({kept["sources"][:12] for kept in runs.values()}))
    summaries = [kept["summary"] for kept in runs.values()]
    hours = math.ceil(sum(each["step_time_s_median"] * each["paid_steps"] for each in summaries) / 3600)
    intro = (
        "SmolLM2-135M-Instruct (`rftfm model smollm2`) on two generators of reasoning-gym, in chat messages, with "
        "`numeric` as the reward: 1 where the final number of the answer is right. Made by `python -m "
        f"benchmarks.real_model.runs` and `.page` on {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{versions}; sources {sources}; about {hours} hours of steps. Keys: `{' '.join(KEYS)}`."
    )
    text = f"""# A model that people know

{fill(intro, 120)}

## Learning, the guard observing

![sampled reward and held-out accuracy](real_model.svg)

Sampled reward is the mean of the first and of the last {EDGE} steps; held-out accuracy is greedy, with the number of
problems.

| task | seed | sampled reward | held-out accuracy | incidents | step time |
|---|---|---|---|---|---|
{chr(10).join(healthy_row(run, kept) for run, kept in runs.items() if not run.fault)}

{chr(10).join(f"- {name}: `{task.label}`" for name, task in TASKS.items())}

## Two faults, the guard acting

| injected | incidents and remedies | held-out accuracy |
|---|---|---|
{chr(10).join(drill_row(run, kept) for run, kept in runs.items() if run.fault)}

## What preflight said

{findings(runs)}

## What the model can do untrained

Shares of sampled answers that are right, of groups of samples in which some are right and some are not, and of answers
that end within the limit of tokens.

| generator | right | mixed groups | ended |
|---|---|---|---|
{chr(10).join(surveyed())}
"""
    write_atomic(PICTURE, picture(runs))
    write_atomic(PAGE, text.encode())


if __name__ == "__main__":
    main()
