"""Progress of a run on standard error: a live line on a terminal, plain lines elsewhere; and what the guard does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from rftfm_ray.config import RunConfig
from rftfm_ray.incidents.requests import Wish
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.metrics import StepRow
from rftfm_ray.policies.loading import BUILT_IN, PLAYBOOK
from rftfm_ray.runs.words import describe as in_words
from rftfm_ray.runs.words import figure, number_of, plural
from rftfm_ray.telemetry.rundir import answer_command
from rftfm_ray.types import GuardMode


class NewestProbe:
    """The newest held-out accuracy of the steps that are kept, with the step after which it was measured."""

    def __init__(self) -> None:
        self._probes: list[tuple[int, float]] = []

    def after(self, row: StepRow) -> str:
        """Take in a step; the text to show with it, as `0.988@19`, or a dash without a probe.

        A step repeats those that a rollback has undone: their probes are of weights that are gone. The probe in a
        step's row was answered by the weights from before its update.
        """
        self._probes = [(step, accuracy) for step, accuracy in self._probes if step < row.id.step]
        if not math.isnan(row.checks.probe_accuracy):
            self._probes.append((row.id.step - 1, row.checks.probe_accuracy))
        return "{1:.3f}@{0}".format(*self._probes[-1]) if self._probes else "  -  "


def describe(row: StepRow, probe: str) -> str:
    """The figures of a step that a person watches; `probe` as `NewestProbe` shows it."""
    reward = row.batch.reward_mean
    return (
        f"reward {'   -  ' if math.isnan(reward) else f'{reward:z6.3f}'}  probe {probe:<8}  "
        f"kl {row.update.kl_ref:.4f}  entropy {row.update.entropy:.3f}"
    )


def remaining_s(done: int, steps: int, elapsed_s: float) -> float:
    """Estimate of the time left, from the mean step so far."""
    return (steps - done) * elapsed_s / max(done, 1)


# Columns before what continues a line of the guard.
INDENT = 10
# Seconds between two lines of a run that has no terminal.
LONGEST_SILENCE_S = 60.0

# Entries that a person watching needs; the journal has the others.
TOLD = {
    EntryKind.DIAGNOSED: "yellow",
    EntryKind.DECIDED: "cyan",
    EntryKind.ADVISED: "cyan",
    EntryKind.APPROVED: "cyan",
    EntryKind.REJECTED: "yellow",
    EntryKind.DECLINED: "yellow",
    EntryKind.HELD: "yellow",
    EntryKind.REFUSED: "red",
    EntryKind.POLICY_FAILED: "red",
    EntryKind.CONFIRMED: "",
    EntryKind.UNCONFIRMED: "yellow",
    EntryKind.APPLIED: "cyan",
    EntryKind.AWAITED: "",
    EntryKind.OUTCOME: "green",
    EntryKind.RETURNING: "",
    EntryKind.KEPT: "",
    EntryKind.CLOSED: "green",
    EntryKind.DISABLED: "red",
    EntryKind.FAILED: "red",
    EntryKind.LATE: "yellow",
    EntryKind.RESTORED: "yellow",
    EntryKind.LOST: "bold red",
    EntryKind.PAUSED: "yellow",
    EntryKind.HOOK_FAILED: "yellow",
}


@dataclass(frozen=True, slots=True)
class Watched:
    """Callbacks of a run: for every step's row, and for every entry of the guard's journal."""

    row: Callable[[StepRow], None]
    entry: Callable[[Entry], None]


@contextmanager
def progress(console: Console, config: RunConfig, run_dir: Path | None = None) -> Iterator[Watched]:
    """The callbacks of a run, while it is running; `run_dir` is named in the command that approves a remedy."""

    def tell(entry: Entry) -> None:
        if entry.kind in TOLD:
            what, why = describe_for_user(entry, config.guard.fallback)
            if entry.kind is EntryKind.DIAGNOSED and config.guard.mode is GuardMode.OBSERVE:
                why = f"{why} Nothing is done about it: guard.mode=observe.".strip()
            # Text, not markup: what a policy says is shown as it is.
            because = [Text(why, style="dim")] if why else []
            first, *rest = _hanging(what, console)
            below = [line for text in (*rest, *because, *_restored(entry)) for line in _indented(text, console)]
            console.print(Group(first, *below))
            if entry.kind is EntryKind.ADVISED and run_dir is not None:
                # Not wrapped: commands are there to be copied.
                command = answer_command(run_dir, Wish.APPROVE, entry.incident)
                console.print(
                    f"{' ' * INDENT}to have it done: {command}", markup=False, highlight=False, soft_wrap=True
                )

    if console.is_terminal:
        with _live(console, config) as observe:
            yield Watched(observe, tell)
    else:
        yield Watched(_Plain(console, config), tell)


def _indented(text: Text, console: Console) -> list[Text]:
    """The lines of a text below one of the guard, without blanks at their ends."""
    lines = text.wrap(console, max(INDENT, console.width - INDENT))
    for line in lines:
        line.rstrip()
    return [Text(" " * INDENT).append_text(line) for line in lines]


def _hanging(line: Text, console: Console) -> list[Text]:
    """A line as wide as the console, and what does not fit in it."""
    first = len(line.wrap(console, console.width)[0].plain.rstrip())
    rest = line[first:]
    blanks = len(rest.plain) - len(rest.plain.lstrip())
    return [line[:first], rest[blanks:]] if rest.plain.strip() else [line]


def _restored(entry: Entry) -> list[Text]:
    """After a rollback, where the run goes on."""
    restored = number_of(entry, "restored")
    if entry.kind is not EntryKind.APPLIED or not math.isfinite(restored):
        return []
    return [Text(f"back at step {figure(restored)} (attempt {entry.id.attempt + 1})")]


def describe_for_user(entry: Entry, fallback: str = PLAYBOOK) -> tuple[Text, str]:
    """A journal entry for a person who watches: what, in colour, and why.

    Args:
        entry: of the journal.
        fallback: `guard.fallback`, which decides where a policy of the user's fails.
    """
    what, why = in_words(entry)
    is_decision = entry.kind is EntryKind.POLICY_FAILED and not entry.text("method")
    if is_decision and fallback == PLAYBOOK and entry.text("policy") not in BUILT_IN:
        what += "; the playbook decides instead"
    number = f" #{entry.incident}" if entry.incident else ""
    line = Text(f"step {entry.id.step:<4} guard{number}  ", style="dim")
    line.append(what, style=TOLD.get(entry.kind, ""))
    return line, why


class _Plain:
    """One line per tenth of the run, each minute at least, and wherever there was no update."""

    def __init__(self, console: Console, config: RunConfig) -> None:
        self._console = console
        self._steps = config.steps
        self._every = max(1, config.steps // 10)
        self._began: float | None = None
        self._first = 0
        self._probe = NewestProbe()
        self._shown_at = time.perf_counter()
        console.print(
            f"Starting {plural(config.rollout.num_actors, 'rollout actor')} and a learner ...", highlight=False
        )

    def __call__(self, row: StepRow) -> None:
        probe = self._probe.after(row)
        now, step = time.perf_counter(), row.id.step
        if self._began is None:
            self._began, self._first = now - row.timings.step_s, step - 1
        due = step % self._every == 0 or step == self._steps or now - self._shown_at >= LONGEST_SILENCE_S
        if not (due or row.update.vetoes):
            return
        self._shown_at = now
        elapsed, done = now - self._began, step - self._first
        left = remaining_s(done, self._steps - self._first, elapsed)
        refused = f"  {plural(row.update.vetoes, 'update')} refused" if row.update.vetoes else ""
        if row.batch.valid_rate == 0:
            refused = "  no verdict, so no update"
        self._console.print(
            f"step {step}/{self._steps}  {describe(row, probe)}  {pace(done / elapsed, left)}{refused}",
            highlight=False,
            soft_wrap=True,
        )


def pace(rate: float, left_s: float) -> str:
    """How fast a run goes on, and how long it still takes.

    Args:
        rate: steps a second.
        left_s: seconds until its end.
    """
    speed = f"{rate:.1f} steps/s" if rate >= 0.5 else f"{1 / rate:.1f} s/step"
    return f"{speed}  ETA {in_units(left_s)}"


def in_units(seconds: float) -> str:
    """Seconds, and minutes or hours where there are many."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 3 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


@contextmanager
def _live(console: Console, config: RunConfig) -> Iterator[Callable[[StepRow], None]]:
    columns = (
        SpinnerColumn(),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=20),
        TextColumn("{task.description}"),
    )
    began: list[float] = []
    probe = NewestProbe()
    # Two lines, so that both fit a terminal of 80 columns: how far, and how well.
    bar, figures = Progress(*columns, console=console), Text(no_wrap=True)
    with Live(Group(bar, figures), console=console):
        task = bar.add_task("starting actors ...", total=config.steps)

        def observe(row: StepRow) -> None:
            now, step, newest = time.perf_counter(), row.id.step, probe.after(row)
            if not began:
                began.extend((now - row.timings.step_s, step - 1))
            elapsed, done = now - began[0], step - began[1]
            left = remaining_s(int(done), config.steps - int(began[1]), elapsed)
            rate = pace(done / elapsed, left)
            figures.plain = "  " + describe(row, newest)
            bar.update(task, completed=step, description=rate)

        yield observe
