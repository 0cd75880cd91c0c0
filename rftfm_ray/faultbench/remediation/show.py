"""Prints the figures of the remediation benchmark to the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from rftfm_ray.faultbench.remediation.figures import Scored, figures_of
from rftfm_ray.faultbench.remediation.targets import targets_of

_WORDS = {True: "reached", False: "missed", None: "not measured"}


def show(scored: Scored, console: Console) -> None:
    """Print every target with what was reached."""
    figures = figures_of(scored)
    table = Table("", "target", "reached", "", box=None, pad_edge=False)
    for target in targets_of(figures):
        table.add_row(target.name, target.target, target.figure, _WORDS[target.reached])
    console.print(table)
    pairs = ", ".join(f"{name} {count}" for name, count in figures["pairs"].items() if count)
    console.print(f"Pairs: {pairs or 'none'}; runs: {len(scored.ended)}.", highlight=False, soft_wrap=True)
