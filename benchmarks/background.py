"""The background of experiments: its signals in healthy runs, and what it costs in learning.

    python -m benchmarks.background [--tasks addition calculator] [--seeds 20] [--steps 40] [--most N]
    python -m benchmarks.background --page

Every seed of a task is run twice, with and without the preset `dirty`. A run is a file below --folder as soon as it is
finished, and is not made again by the same sources of the package: the command can be stopped at any moment. Writes
OUT.md (gains, versions, machine) and one SVG per disturbance below OUT/. Exit code 1 when a task learns too little.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.provenance import PACKAGES, source_digest
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig
from rftfm_ray.driver.cluster import connect
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.driver.run import execute
from rftfm_ray.faultbench.runs.runner import RATES, example, quick
from rftfm_ray.faults.background import DIRTY, MINIBATCHES, SERVED_DTYPE
from rftfm_ray.files import write_atomic
from rftfm_ray.metrics import StepRow
from rftfm_ray.planning import plan
from rftfm_ray.signals.schema import report_of, value

ROOT = Path(__file__).parents[1]
# Seeds that no other benchmark uses: the healthy set ends at 1100, the calibration of faults at 2060.
FIRST_SEED = 4000
# Gains are means over so many seeds; the plots show all of them.
GAIN_SEEDS = 10
LEAST_GAIN = 0.8
COLOURS = {False: "#0072b2", True: "#d55e00"}


@dataclass(frozen=True, slots=True)
class Effect:
    """A disturbance on the page: its key, what the preset sets it to, and the signal that shows it."""

    key: str
    size: str
    signal: str
    shows: str

    @property
    def file(self) -> str:
        """Name of its figure."""
        return f"{self.key.partition('.')[2]}.svg"


def _bounds(name: str) -> str:
    low, high = DIRTY[name]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


EFFECTS = (
    Effect("background.tool_failures", _bounds("tool_failures"), "tool_error_rate", "share of calls that failed"),
    Effect(
        "background.verifier_errors", _bounds("verifier_errors"), "regrade_mismatch_rate",
        "share of regraded answers that the live verifier had judged otherwise",
    ),
    Effect("background.slow_verdicts", _bounds("slow_verdicts"), "generate_s", "seconds of generating and grading"),
    Effect("background.length_spread", _bounds("length_spread"), "answer_length_mean", "mean length of right answers"),
    Effect(
        "background.difficulty_walk", _bounds("difficulty_walk"), "prompt_difficulty_mean",
        "mean difficulty of the prompts",
    ),
    Effect("sync.dtype", SERVED_DTYPE, "rollout_gap_max", "largest log-prob gap of learner and rollout, in nats"),
    Effect(
        "algorithm.minibatches", " or ".join(map(str, MINIBATCHES)), "ratio_max",
        "largest probability ratio to the policy before the step",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Arm:
    """One run to make."""

    task: str
    seed: int
    is_dirty: bool
    steps: int

    @property
    def name(self) -> str:
        """Name of its file."""
        task = re.sub(r"\W+", "_", self.task)
        return f"{task}-{self.seed}-{'dirty' if self.is_dirty else 'clean'}-{self.steps}"

    def config(self) -> RunConfig:
        """Its configuration: the run of an example, probed before and after it only."""
        probe = {"every": 0, "final_size": 1024, "sampled_share": 0.0}
        background = {"preset": "dirty" if self.is_dirty else None}
        return quick(example(self.task, "grpo", self.seed, self.steps), probe=probe, background=background)


@dataclass(frozen=True, slots=True)
class Made:
    """A finished run: held-out accuracy before and after it, and the signals of `EFFECTS` step by step.

    `digest` is that of the sources of the package that made it.
    """

    arm: Arm
    digest: str
    first: float
    last: float
    signals: dict[str, list[float]]

    @property
    def gain(self) -> float:
        """What it has learnt, in held-out accuracy."""
        return self.last - self.first


def arms(tasks: Sequence[str], seeds: int, steps: int) -> list[Arm]:
    """All runs; the pair of a seed follows one another, so that a part of the campaign can be compared too."""
    return [
        Arm(task, FIRST_SEED + index, is_dirty, steps)
        for index in range(seeds)
        for task in tasks
        for is_dirty in (False, True)
    ]


def measured(row: StepRow, signal: str) -> float:
    """A signal of a step, or one of its times."""
    return row.timings.generate_s if signal == "generate_s" else value(report_of(row), signal)


def make(arm: Arm, warm: WarmActors) -> Made:
    """Make one run."""
    rows: list[StepRow] = []
    with tempfile.TemporaryDirectory() as folder:
        planned = plan(arm.config(), Path(folder) / "run")
        summary = execute(planned, Listeners(row=rows.append), time.perf_counter(), warm, judged=False)
    signals = {effect.signal: [measured(row, effect.signal) for row in rows] for effect in EFFECTS}
    return Made(arm, source_digest(), summary.probe_first, summary.probe_last, signals)


def write(folder: Path, made: Made) -> None:
    """Store a run. A NaN is stored as null."""
    tree = asdict(made)
    tree["signals"] = {
        name: [round(x, 7) if math.isfinite(x) else None for x in values] for name, values in made.signals.items()
    }
    write_atomic(folder / f"{made.arm.name}.json", (json.dumps(tree) + "\n").encode())


def stored(folder: Path, arm: Arm) -> Made | None:
    """A run as it was stored; None where it was not, or by other sources."""
    path = folder / f"{arm.name}.json"
    if not path.exists():
        return None
    tree = json.loads(path.read_text())
    if tree["digest"] != source_digest():
        return None
    signals = {name: [math.nan if x is None else x for x in values] for name, values in tree["signals"].items()}
    return Made(arm, tree["digest"], tree["first"], tree["last"], signals)


def campaign(planned: Sequence[Arm], folder: Path, most: int | None) -> None:
    """Make the runs that are missing, at most `most` of them."""
    missing = [arm for arm in planned if stored(folder, arm) is None][:most]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    connect(missing[0].config())
    with WarmActors() as warm:
        for number, arm in enumerate(missing, 1):
            made = make(arm, warm)
            write(folder, made)
            print(f"{number}/{len(missing)} {arm.name}: {made.first:.3f} -> {made.last:.3f}", flush=True)


def pairs_of(runs: Sequence[Made], task: str) -> list[tuple[Made, Made]]:
    """The clean and the dirty run of every seed of a task that has both."""
    by_seed = {(made.arm.seed, made.arm.is_dirty): made for made in runs if made.arm.task == task}
    seeds = sorted({seed for seed, _ in by_seed})
    return [
        (by_seed[seed, False], by_seed[seed, True]) for seed in seeds if {(seed, False), (seed, True)} <= by_seed.keys()
    ]


def gain_ratio(pairs: Sequence[tuple[Made, Made]]) -> float:
    """Mean gain of the dirty runs over that of the clean ones; NaN where the clean ones have learnt nothing."""
    clean, dirty = (statistics.fmean(pair[index].gain for pair in pairs) for index in (0, 1))
    return dirty / clean if clean > 0 else math.nan


def gains(runs: Sequence[Made], tasks: Sequence[str]) -> list[str]:
    """One row a task."""
    lines = [
        "| task | seeds | gain, clean | gain, dirty | dirty / clean | smallest of a seed | reached |",
        "|---" * 7 + "|",
    ]
    for task in tasks:
        pairs = pairs_of(runs, task)[:GAIN_SEEDS]
        if not pairs:
            continue
        clean, dirty = (statistics.fmean(pair[index].gain for pair in pairs) for index in (0, 1))
        ratio = gain_ratio(pairs)
        least = min(gain_ratio([pair]) for pair in pairs)
        reached = "yes" if ratio >= LEAST_GAIN else "**no**"
        lines.append(f"| {task} | {len(pairs)} | {clean:.3f} | {dirty:.3f} | {ratio:.2f} | {least:.2f} | {reached} |")
    return lines


def series(runs: Sequence[Made], task: str, signal: str, *, is_dirty: bool) -> NDArray[np.float64]:
    """(runs, steps) a signal in the runs of a task."""
    chosen = [made for made in runs if (made.arm.task, made.arm.is_dirty) == (task, is_dirty)]
    return np.array([made.signals[signal] for made in chosen])


def plot(effect: Effect, runs: Sequence[Made], tasks: Sequence[str]) -> str:
    """The signal of a disturbance in every run, a panel a task: thin lines are runs, thick ones their median."""
    with mpl.rc_context({"svg.hashsalt": "background", "svg.fonttype": "none", "font.size": 7}):
        figure = Figure((3.2 * len(tasks), 1.9))
        for index, task in enumerate(tasks):
            axes = figure.add_subplot(1, len(tasks), index + 1)
            axes.set_title(f"{effect.signal}, {task}", fontsize=7, pad=2, loc="left")
            axes.tick_params(length=2, pad=1, labelsize=6)
            for is_dirty, colour in COLOURS.items():
                values = series(runs, task, effect.signal, is_dirty=is_dirty)
                if not np.isfinite(values).any():
                    continue
                steps = np.arange(1, values.shape[1] + 1)
                axes.plot(steps, values.T, color=colour, linewidth=0.3, alpha=0.5)
                axes.plot(steps, np.nanmedian(values, axis=0), color=colour, linewidth=1.2)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        figure.tight_layout(pad=0.3, w_pad=0.8)
        sink = io.StringIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
    # A hundredth of a point is more than anybody sees.
    return re.sub(r"(\d+\.\d{2})\d+", r"\1", sink.getvalue())


def spread(runs: Sequence[Made], task: str, signal: str, *, is_dirty: bool) -> str:
    """Mean of a signal over all steps of all runs, and its standard deviation from step to step."""
    values = series(runs, task, signal, is_dirty=is_dirty)
    seen = values[np.isfinite(values)]
    return f"{seen.mean():.3g} ± {seen.std():.2g}" if len(seen) else "-"


def page(runs: Sequence[Made], tasks: Sequence[str], command: str, folder: str) -> str:
    """The document; `folder` holds the figures."""
    stack = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    heads = " | ".join(f"{task}: clean | dirty" for task in tasks)
    rows = [
        f"| `{effect.key}` | {effect.size} | `{effect.signal}`: {effect.shows} | "
        + " | ".join(spread(runs, task, effect.signal, is_dirty=is_dirty) for task in tasks for is_dirty in COLOURS)
        + " |"
        for effect in EFFECTS
    ]
    figures = [f"## `{effect.key}`\n\n![{effect.key}]({folder}/{effect.file})\n" for effect in EFFECTS]
    count = {task: len(pairs_of(runs, task)) for task in tasks}
    return f"""# The background of experiments

Made by `{command}` on {os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}, {stack}.
Digest of the package's sources: {source_digest()}.

A simulator is cleaner than the world: no tool call fails, no verdict is wrong, and learner and rollout agree to the
last digit. What is tuned there finds faults because a zero stops being zero. `background.preset=dirty` gives an
experiment a background that is no fault: from the first step to the last, and drawn by the seed. Faults and controls
of `inject` act on top of it. The guard is not told of it; it sees `algorithm.minibatches` and `sync.dtype`, which are
ordinary keys of the configuration. A training run for use has no background; a run that has one says so when it is
submitted, in its records and in its report.

All draws depend on the seed, the disturbance, the consumed step and what it meets, and on nothing else: a fork of a
run is bit for bit that run until its fault begins.

## What it looks like

Pairs of healthy GRPO runs of one seed, with and without: {", ".join(f"{n} of {task}" for task, n in count.items())}.
Mean over all steps, and standard deviation over steps and runs.

| key | preset | signal | {heads} |
{"|---" * (3 + 2 * len(tasks))}|
{chr(10).join(rows)}

Curves: orange with the background, blue without; thin lines are single runs, the thick one is their median. A value of
`length_spread` or `difficulty_walk` is the largest share of a step's prompts that it moves.

{chr(10).join(figures)}
## What it costs

Gain: held-out accuracy after the last step less that before the first one, greedy, 1,024 problems, mean over the first
{GAIN_SEEDS} seeds. A dirty run must still learn: at least {LEAST_GAIN} of its clean twin.

{chr(10).join(gains(runs, tasks))}
"""


def write_page(runs: Sequence[Made], tasks: Sequence[str], out: Path, command: str) -> None:
    """Write the document and its figures."""
    folder = out.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for effect in EFFECTS:
        (folder / effect.file).write_text(plot(effect, runs, tasks))
    out.with_suffix(".md").write_text(page(runs, tasks, command, folder.name))


def main() -> None:
    """Run, write, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(RATES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=ROOT / "benchmarks" / "data" / "background")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "background")
    parser.add_argument("--most", type=int, default=None, help="make at most so many runs")
    parser.add_argument("--page", action="store_true", help="make no run, only the page of those that there are")
    arguments = parser.parse_args()
    planned = arms(arguments.tasks, arguments.seeds, arguments.steps)
    campaign(planned, arguments.folder, 0 if arguments.page else arguments.most)
    runs = [made for arm in planned if (made := stored(arguments.folder, arm)) is not None]
    tasks = [task for task in arguments.tasks if pairs_of(runs, task)]
    print(f"{len(runs)} of {len(planned)} runs")
    if not tasks:
        sys.exit("No seed has both of its runs yet; give the same command again.")
    asked = f"--tasks {' '.join(arguments.tasks)} --seeds {arguments.seeds} --steps {arguments.steps}"
    command = f"python -m benchmarks.background {asked}"
    write_page(runs, tasks, arguments.out, command)
    is_complete = len(runs) == len(planned)
    sys.exit(0 if is_complete and all(gain_ratio(pairs_of(runs, t)[:GAIN_SEEDS]) >= LEAST_GAIN for t in tasks) else 1)


if __name__ == "__main__":
    main()
