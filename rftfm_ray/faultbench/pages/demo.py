"""The page of faults: each of them live, easy and hard, against the healthy run of the same seed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import ray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from rftfm_ray.config import RunConfig
from rftfm_ray.driver.cluster import connect
from rftfm_ray.errors import FaultError
from rftfm_ray.faultbench.pages.page import Ending, page
from rftfm_ray.faultbench.runs.runner import LOGARITHMIC, ExperimentRunner, RunHistory, example, quick
from rftfm_ray.faults.calibration import LEVELS, StrengthKey, calibrated
from rftfm_ray.faults.kinds import CATALOGUE, FaultKind, Mechanism
from rftfm_ray.files import write_atomic

COLOURS = {"healthy": "#555555", "hard": "#0072b2", "easy": "#d55e00", "default": "#009e73"}
PLOTTED = ("reward_mean", "probe_accuracy")


@dataclass(frozen=True, slots=True)
class Arm:
    """One mechanism of a fault in one run at each level."""

    kind: FaultKind
    mechanism: Mechanism
    task: str
    algorithm: str
    onset: int
    healthy: RunHistory
    levels: Mapping[str, tuple[float, RunHistory]]


def configure(task: str, algorithm: str, seed: int, steps: int) -> RunConfig:
    """A run of the page."""
    probed = {"every": 5, "size": 256, "final_size": 1024}
    return quick(example(task, algorithm, seed, steps), probe=probed)


def demonstrate(out: Path, codes: Sequence[str], steps: int, seed: int, console: Console) -> None:
    """Make the runs, and write the page with a plot for every fault.

    Raises:
        RftfmError: as a run does.
    """
    is_owner = connect(configure("addition", "grpo", seed, steps))
    try:
        with ExperimentRunner() as runner:
            arms = list(_arms(runner, codes, steps, seed, console))
    finally:
        if is_owner:
            ray.shutdown()
    folder = out.parent / out.stem
    folder.mkdir(parents=True, exist_ok=True)
    for code in codes:
        write_atomic(folder / f"{code.lower()}.svg", plot([arm for arm in arms if arm.kind.code == code]))
    endings = [ending for arm in arms for ending in _endings(arm)]
    write_atomic(out, page(codes, endings, folder.name, steps, seed, onset_of(steps)).encode())
    console.print(f"Page: {out}", soft_wrap=True, highlight=False)


def onset_of(steps: int) -> int:
    """Where the faults of a page begin: after a quarter of the run."""
    return steps // 4 + 1


def _endings(arm: Arm) -> Iterator[Ending]:
    for level, (strength, history) in arm.levels.items():
        (effect,) = history.effects
        yield Ending(
            arm.kind.code, arm.mechanism.name, level, strength, effect, history.accuracy, arm.healthy.accuracy
        )  # fmt: skip


def _arms(runner: ExperimentRunner, codes: Sequence[str], steps: int, seed: int, console: Console) -> Iterator[Arm]:
    """All mechanisms, those that share a healthy run one after the other."""
    onset, healthy = onset_of(steps), dict[tuple[str, str], RunHistory]()
    wanted = [(CATALOGUE[code], mechanism) for code in codes for mechanism in CATALOGUE[code].mechanisms]
    for kind, mechanism in sorted(wanted, key=lambda pair: _setting_for(pair[1])):
        task, algorithm = _setting_for(mechanism)
        config = configure(task, algorithm, seed, steps)
        if (task, algorithm) not in healthy:
            console.print(f"healthy {task} {algorithm}", highlight=False)
            healthy[task, algorithm] = runner.run(config)
        levels = {}
        for level, strength in _strengths(kind, mechanism).items():
            text = f"{kind.code}@{onset}:{strength!r},mechanism={mechanism.name}"
            console.print(f"{level} {text} {task} {algorithm}", highlight=False, markup=False)
            levels[level] = strength, runner.run(config, (text,))
        yield Arm(kind, mechanism, task, algorithm, onset, healthy[task, algorithm], levels)


def _strengths(kind: FaultKind, mechanism: Mechanism) -> dict[str, float]:
    """Its strengths by calibrated level; the default strength without one."""
    task, algorithm = _setting_for(mechanism)
    strengths = {}
    for level in LEVELS:
        with contextlib.suppress(FaultError):
            strengths[level] = calibrated(StrengthKey(task, algorithm, kind.code, mechanism.name, level))
    return strengths or {"default": mechanism.strength.default}


def _setting_for(mechanism: Mechanism) -> tuple[str, str]:
    """Task and algorithm that show a mechanism."""
    task = "calculator" if mechanism.needs_tool else "addition"
    return task, "grpo" if "grpo" in mechanism.algorithms else mechanism.algorithms[0]


def plot(arms: Sequence[Arm]) -> bytes:
    """Plot the runs of a fault's mechanisms as SVG; equal runs give equal bytes."""
    mpl.rcParams["svg.hashsalt"] = "rftfm"
    columns = 1 + len(PLOTTED)
    figure = Figure(figsize=(3.4 * columns, 2.3 * len(arms)), layout="constrained")
    axes = figure.subplots(len(arms), columns, squeeze=False)
    for arm, line in zip(arms, axes, strict=True):
        for signal, axis in zip((arm.mechanism.signal, *PLOTTED), line, strict=True):
            _draw(axis, arm, signal)
        line[0].set_ylabel(f"{arm.mechanism.name}\n({arm.task}, {arm.algorithm})", fontsize=8)
        line[0].legend(fontsize=7, frameon=False)
    sink = io.BytesIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()


def _draw(axis: Axes, arm: Arm, signal: str) -> None:
    histories = {"healthy": arm.healthy} | {
        level: history for level, (_, history) in reversed(list(arm.levels.items()))
    }
    for name, history in histories.items():
        steps = np.array([row.id.paid_step for row in history.rows])
        values = history.signal(signal)
        there = ~np.isnan(values)
        axis.plot(steps[there], values[there], color=COLOURS[name], label=name, linewidth=1.1)
    axis.set_xlim(0, arm.healthy.rows[-1].id.paid_step + 1)
    axis.axvline(arm.onset, color="#999999", linewidth=0.7, linestyle=":")
    # A run history gives such a signal as its logarithm.
    axis.set_title(f"log {signal}" if signal in LOGARITHMIC else signal, fontsize=8)
    axis.tick_params(labelsize=7)
