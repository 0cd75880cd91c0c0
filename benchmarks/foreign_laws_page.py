"""The page on the laws of TRL's own trainer. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from rftfm_ray.detection.detectors.laws import OWN_REWARD
from rftfm_ray.detection.laws.table import LAWS
from rftfm_ray.diagnosis.log_laws import SHOWN, LogLaw

PACKAGES = ("trl", "transformers", "torch")


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """A run of TRL with the laws that could be judged on its log.

    `onset` is the first step that its fault can show at, 0 in a healthy run; `law` is what the fault must break.
    """

    name: str
    options: Mapping[str, Any]
    steps: int
    fault: str
    law: str
    onset: int
    laws: tuple[LogLaw, ...]

    def first_break(self, name: str) -> int | None:
        """First row that breaks a law, counted from 1; None where none does."""
        broken = [row for law in self.laws if law.name == name for row in law.broken]
        return min(broken) + 1 if broken else None


def is_sound(runs: Sequence[JudgedRun]) -> bool:
    """Whether no healthy run breaks a law, every fault breaks its own at the onset, and nothing is broken before it."""
    return all(
        (not any(law.broken for law in run.laws))
        if not run.fault
        else (
            run.first_break(run.law) == run.onset
            and all((run.first_break(law.name) or run.onset) >= run.onset for law in run.laws)
        )
        for run in runs
    )


def page(runs: Sequence[JudgedRun]) -> str:
    """The page: a table of laws, of healthy runs, and of faults."""
    healthy, faulty = [run for run in runs if not run.fault], [run for run in runs if run.fault]
    steps, broken = sum(run.steps for run in healthy), sum(len(law.broken) for run in healthy for law in run.laws)
    heads = ["law", "what holds", "healthy rows", "largest residual / tolerance", "rows broken", "on for logs"]
    first = max((run.onset for run in faulty), default=0)
    of_faults = ["run", "what is changed in TRL", "law", "broken at row", "strength read off", "other laws that break"]
    return f"""# Laws on TRL's own trainer

Made by `python -m benchmarks.foreign_laws --page` from runs of `python -m benchmarks.foreign_laws`: TRL's GRPOTrainer
on a model of some ten thousand parameters that is built in code, two reward functions, answers of at most a dozen
tokens. {len(healthy)} healthy runs of {steps:,} steps in all broke laws on {broken} rows. A law that is not shown to
hold here is off for the logs of other trainers; `rftfm diagnose --trl-config FILE` judges those with a yes.

{_table(heads, _laws(healthy))}

A law without rows needs columns that TRL does not log. `start` is judged on the first row of runs with a KL term, and
`flat` on rows in which no group has different rewards. `{OWN_REWARD}` is learnt from the first rows and needs no
configuration.

## Healthy runs

{_table(["run", "options", "steps", "rows broken"], _healthy(healthy))}

## Faults

From step {first} on, or from the first one for a reference; each must break its law at that step, and none before it.

{_table(of_faults, _faulty(faulty))}

{", ".join(f"{name} {version(name)}" for name in PACKAGES)}.
"""


def _table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _laws(healthy: Sequence[JudgedRun]) -> Iterator[Sequence[str]]:
    states = {name: law.states for name, law in LAWS.items()}
    states[OWN_REWARD] = "the reward is the linear function of its functions' means that the first rows show"
    for name, sentence in states.items():
        judged = [law for run in healthy for law in run.laws if law.name == name]
        rows, broken = sum(law.rows for law in judged), sum(len(law.broken) for law in judged)
        largest = f"{max(law.largest for law in judged):.2g}" if judged else "-"
        is_on = name in SHOWN or name == OWN_REWARD
        counted = (f"{rows:,}", largest, f"{broken}") if rows else ("-", "-", "-")
        yield f"`{name}`", sentence, *counted, _on(is_on, rows)


def _on(is_on: bool, rows: int) -> str:
    if is_on:
        return "yes"
    return "no" if rows else "no: columns missing"


def _healthy(healthy: Sequence[JudgedRun]) -> Iterator[Sequence[str]]:
    for run in healthy:
        options = ", ".join(f"`{name}={value}`" for name, value in run.options.items())
        yield f"`{run.name}`", options, f"{run.steps}", f"{sum(len(law.broken) for law in run.laws)}"


def _faulty(faulty: Sequence[JudgedRun]) -> Iterator[Sequence[str]]:
    for run in faulty:
        others = sorted({law.name for law in run.laws if law.broken and law.name != run.law})
        strength = next((law.strength for law in run.laws if law.name == run.law and law.strength), "-")
        first = run.first_break(run.law)
        yield (
            f"`{run.name}`", run.fault, f"`{run.law}`", f"{first}" if first is not None else "**not broken**",
            strength, ", ".join(f"`{name}`" for name in others) or "-",
        )  # fmt: skip
