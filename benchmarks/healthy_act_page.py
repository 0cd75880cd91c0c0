"""Rows of the campaign of healthy runs in `act`, their judgement, and the page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields

# A healthy run: its unguarded twin never falls further below its best so far, and ends at or above its start.
LARGEST_FALL = 0.10
# A guarded run may not end further below its twin.
LARGEST_LOSS = 0.05
MOST_RUNS_WITH_ORDERS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One finished pair of runs: the guarded one and its unguarded twin.

    Attributes:
        index: number of the pair; it determines everything up to `prompts`.
        task: its task.
        algorithm: its estimator.
        size: of the shipped model.
        profile: whether the guarded run had a profile of the default configuration.
        seed: of both runs.
        lr: learning rate.
        temperature: of the samples.
        kl_coef: strength of the KL term.
        minibatches: updates in a step.
        prompts: prompts in a step.
        code: digest of the sources that the guarded run was made by.
        twin: held-out accuracies of the unguarded run in order, separated by blanks.
        twin_digest: of what the twin trained on.
        held_out: accuracy of the guarded run after its last step; NaN when it has none.
        digest: of what the guarded run trained on.
        incidents: `step:code:probability` of each incident, separated by semicolons.
        orders: `step:remedy:result` of each order, separated by semicolons.
        rollbacks: rollbacks that were carried out.
        freezes: moves that froze the policy.
        halts: orders that ended the run.
        error: why a run did not end; empty when both did.
    """

    index: int
    task: str
    algorithm: str
    size: str
    profile: bool
    seed: int
    lr: float
    temperature: float
    kl_coef: float
    minibatches: int
    prompts: int
    code: str = ""
    twin: str = ""
    twin_digest: str = ""
    held_out: float = math.nan
    digest: str = ""
    incidents: str = ""
    orders: str = ""
    rollbacks: int = 0
    freezes: int = 0
    halts: int = 0
    error: str = ""

    @property
    def probes(self) -> list[float]:
        """Held-out accuracies of the twin."""
        return [float(text) for text in self.twin.split()]

    @property
    def healthy(self) -> bool:
        """Whether the twin was a healthy run."""
        probes = self.probes
        falls = [max(probes[: i + 1]) - probe for i, probe in enumerate(probes)]
        return bool(probes) and max(falls) <= LARGEST_FALL and probes[-1] >= probes[0]

    @property
    def loss(self) -> float:
        """How far the guarded run ends below its twin; negative where it ends above, NaN where one has no end."""
        return self.probes[-1] - self.held_out if self.twin else math.nan

    @property
    def differs(self) -> bool:
        """Whether the guarded run trained on something else than its twin although nothing was ordered."""
        return not (self.error or self.orders) and self.digest != self.twin_digest

    @property
    def configuration(self) -> str:
        """What was drawn, in short."""
        return (
            f"{self.task}, {self.algorithm}, {self.size}, {'profile' if self.profile else 'no profile'}, "
            f"seed {self.seed}: lr {self.lr:.3g}, temperature {self.temperature:.2f}, KL {self.kl_coef:.3f}, "
            f"{self.minibatches} minibatches, {self.prompts} prompts"
        )


_READERS: dict[str, Callable[[str], int | float | str | bool]] = {
    "int": int, "float": float, "bool": lambda text: text == "True", "str": str,
}  # fmt: skip


def to_csv(rows: Iterable[Row]) -> str:
    """Rows as CSV, in order of their numbers."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: row.index))
    return file.getvalue()


def from_csv(text: str) -> dict[int, Row]:
    """Rows by their numbers.

    Raises:
        ValueError: when the columns are not those of this version.
    """
    reader = csv.DictReader(io.StringIO(text))
    names = [field.name for field in fields(Row)]
    if reader.fieldnames != names:
        raise ValueError("the columns are those of another version of this benchmark; give another --out")
    readers = [_READERS[str(field.type)] for field in fields(Row)]
    rows = [Row(*(read(line[name]) for name, read in zip(names, readers, strict=True))) for line in reader]  # type: ignore[arg-type]
    return {row.index: row for row in rows}


def targets(rows: Sequence[Row]) -> list[tuple[str, str, str, bool]]:
    """What is asked of the healthy runs: name, target, value, and whether it is reached."""
    healthy = [row for row in rows if row.healthy]
    ordered = sum(bool(row.orders) for row in healthy)
    counts = [(name, sum(getattr(row, name) for row in healthy)) for name in ("rollbacks", "freezes", "halts")]
    worst = max((row.loss for row in healthy if math.isfinite(row.loss)), default=0.0)
    lost = sum(row.loss > LARGEST_LOSS for row in healthy)
    apart = sum(row.differs for row in rows)
    broken = sum(bool(row.error) for row in rows)
    return [
        *((name, "0", str(number), number == 0) for name, number in counts),
        ("runs with an order", f"<= {MOST_RUNS_WITH_ORDERS}", str(ordered), ordered <= MOST_RUNS_WITH_ORDERS),
        (f"runs that end more than {LARGEST_LOSS} below their twin", "0", f"{lost} (worst {max(worst, 0.0):.3f})",
         lost == 0),
        ("runs without an order that train on something else than their twin", "0", str(apart), apart == 0),
        ("runs that did not start or end", "0", str(broken), broken == 0),
    ]  # fmt: skip


def page(rows: Sequence[Row], planned: int, head: str) -> str:
    """The document.

    Args:
        rows: of the finished pairs.
        planned: how many pairs the campaign has.
        head: command, machine and versions.
    """
    healthy = [row for row in rows if row.healthy]
    others = [row for row in rows if not row.healthy and not row.error]
    judged = "\n".join(f"| {name} | {target} | {value} | {'yes' if good else 'NO'} |"
                       for name, target, value, good in targets(rows))  # fmt: skip
    return f"""# Healthy runs in `act`

{head}

Every run is guarded in `act` with every family allowed, at a configuration drawn at random (learning rate x0.5 to x2,
temperature 0.7 to 1.2, KL 0 to 0.1, 1 to 4 minibatches, 8 to 32 prompts of 8 samples), and is compared with its
unguarded twin of the same seed. Half of the runs have a profile of the default configuration of their task,
estimator and size. A pair counts as healthy when the twin's held-out accuracy (1,024 problems, every 10 steps) never
falls more than {LARGEST_FALL} below its best and ends at or above its start; the others are listed apart.

{len(rows)} of {planned} pairs are finished: {len(healthy)} healthy, {len(others)} not.

| healthy runs | target | measured | reached |
|---|---|---|---|
{judged}

## By kind

{_kinds(healthy)}

## Orders in healthy runs

{_listed(healthy, "orders")}

## Incidents in healthy runs

{_listed(healthy, "incidents")}

## Runs that are not healthy

{_apart(others)}

## Runs that did not start or end

{_errors(rows)}
"""


def _kinds(rows: Sequence[Row]) -> str:
    lines = ["| size | task | profile | healthy runs | with an incident | with an order | worst loss |",
             "|---" * 7 + "|"]  # fmt: skip
    for kind in sorted({(row.size, row.task, row.profile) for row in rows}, reverse=True):
        own = [row for row in rows if (row.size, row.task, row.profile) == kind]
        size, task, profile = kind
        worst = max([0.0, *(row.loss for row in own if math.isfinite(row.loss))])
        lines.append(
            f"| {size} | {task} | {'yes' if profile else 'no'} | {len(own)} | "
            f"{sum(bool(row.incidents) for row in own)} | {sum(bool(row.orders) for row in own)} | {worst:.3f} |"
        )
    return "\n".join(lines)


def _listed(rows: Sequence[Row], column: str) -> str:
    """Every order or incident of the runs, a line a run."""
    having = [row for row in rows if getattr(row, column)]
    if not having:
        return "None."
    lines = [f"| run | configuration | {column} | twin | guarded |", "|---" * 5 + "|"]
    for row in having:
        items = getattr(row, column).replace(";", "; ").replace("|", "/")
        lines.append(f"| {row.index} | {row.configuration} | {items} | {row.twin} | {row.held_out:.3f} |")
    return "\n".join(lines)


def _apart(rows: Sequence[Row]) -> str:
    if not rows:
        return "None."
    lines = ["| run | configuration | twin | guarded | incidents | orders |", "|---" * 6 + "|"]
    for row in rows:
        texts = [text.replace(";", "; ").replace("|", "/") or "-" for text in (row.incidents, row.orders)]
        lines.append(
            f"| {row.index} | {row.configuration} | {row.twin} | {row.held_out:.3f} | {texts[0]} | {texts[1]} |"
        )
    return "\n".join(lines)


def _errors(rows: Sequence[Row]) -> str:
    broken = [f"- run {row.index} ({row.configuration}): {row.error}" for row in rows if row.error]
    return "\n".join(broken) or "None."
