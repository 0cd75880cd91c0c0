"""Progress of a run on standard error: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from rftfm_ray.config import RunConfig
from rftfm_ray.types import StepRow


def describe(row: StepRow, probe: float) -> str:
    """The figures of a step that a person watches."""
    shown = "  -  " if math.isnan(probe) else f"{probe:.3f}"
    return (
        f"reward {row.batch.reward_mean:6.3f}  probe {shown}  kl {row.update.kl_ref:.4f}  "
        f"entropy {row.update.entropy:.3f}"
    )


def remaining_s(done: int, steps: int, elapsed_s: float) -> float:
    """Estimate of the time left, from the mean step so far."""
    return (steps - done) * elapsed_s / max(done, 1)


@contextmanager
def progress(console: Console, config: RunConfig) -> Iterator[Callable[[StepRow], None]]:
    """A function to call with every step's row, for as long as the run goes on."""
    if console.is_terminal:
        with _live(console, config) as observe:
            yield observe
    else:
        yield _Plain(console, config)


class _Plain:
    """One line per tenth of the run, and for every probe."""

    def __init__(self, console: Console, config: RunConfig) -> None:
        self._console = console
        self._steps = config.steps
        self._every = max(1, config.steps // 10)
        self._began: float | None = None
        self._first = 0
        self._probe = math.nan
        console.print(f"Starting {config.rollout.num_actors} rollout actor(s) and a learner ...", highlight=False)

    def __call__(self, row: StepRow) -> None:
        probed = not math.isnan(row.probe_accuracy)
        self._probe = row.probe_accuracy if probed else self._probe
        now, step = time.perf_counter(), row.id.step
        if self._began is None:
            self._began, self._first = now - row.timings.step_s, step - 1
        if not (probed or step % self._every == 0 or row.update.vetoes):
            return
        elapsed, done = now - self._began, step - self._first
        left = remaining_s(done, self._steps - self._first, elapsed)
        refused = f"  {row.update.vetoes} update(s) refused" if row.update.vetoes else ""
        self._console.print(
            f"step {step}/{self._steps}  {describe(row, self._probe)}  {done / elapsed:.1f} steps/s  "
            f"ETA {left:.0f} s{refused}",
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def _live(console: Console, config: RunConfig) -> Iterator[Callable[[StepRow], None]]:
    columns = (
        SpinnerColumn(),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=20),
        TextColumn("{task.description}"),
    )
    began: list[float] = []
    probe = math.nan
    # Two lines, so that both fit a terminal of 80 columns: how far, and how well.
    bar, figures = Progress(*columns, console=console), Text(no_wrap=True)
    with Live(Group(bar, figures), console=console):
        task = bar.add_task("starting actors ...", total=config.steps)

        def observe(row: StepRow) -> None:
            nonlocal probe
            probe = probe if math.isnan(row.probe_accuracy) else row.probe_accuracy
            now, step = time.perf_counter(), row.id.step
            if not began:
                began.extend((now - row.timings.step_s, step - 1))
            elapsed, done = now - began[0], step - began[1]
            left = remaining_s(int(done), config.steps - int(began[1]), elapsed)
            rate = f"{done / elapsed:.1f} steps/s  ETA {left:.0f} s"
            figures.plain = "  " + describe(row, probe)
            bar.update(task, completed=step, description=rate)

        yield observe
