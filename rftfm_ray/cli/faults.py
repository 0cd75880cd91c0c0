"""`rftfm faults`: what can be injected, and what it does."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rftfm_ray.faults import catalogue, controls
from rftfm_ray.faults.controls import CONTROLS
from rftfm_ray.faults.kinds import ALGORITHMS, CATALOGUE, FaultKind, Mechanism

faults = typer.Typer(help="Faults that can be injected, and what each does.", no_args_is_help=True)


@faults.command("list")
def list_faults(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """The sixteen faults with their mechanisms, and the benign controls, for `rftfm train --inject`."""
    if json:
        sys.stdout.write(jsonlib.dumps(listing(), indent=1) + "\n")
        return
    console = Console()
    console.print(_fault_table())
    console.print(_control_table())
    console.print(
        f"A fault:   --inject {catalogue.SYNTAX}\nA control: --inject {controls.SYNTAX}\nSteps are consumed steps: no "
        "rollback rewinds them. The first mechanism is the default. Several may be injected at once.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def listing() -> dict[str, list[dict[str, object]]]:
    """All faults and controls, as `--json` prints them."""
    return {
        "faults": [
            {
                "code": kind.code,
                "name": kind.name,
                "family": kind.family,
                "mechanisms": [mechanism.name for mechanism in kind.mechanisms],
                "algorithms": list(kind.algorithms),
                "summary": kind.summary,
                "mechanism_details": [_details(mechanism) for mechanism in kind.mechanisms],
            }
            for kind in CATALOGUE.values()
        ],
        "controls": [
            {
                "name": control.name,
                "declared": control.declared,
                "summary": control.summary,
                "needs_tool": control.needs_tool,
                "strength": {
                    "meaning": control.meaning, "default": control.default_strength,
                    "low": control.low, "high": control.high,
                },
            }
            for control in CONTROLS.values()
        ],
    }  # fmt: skip


def _details(mechanism: Mechanism) -> dict[str, object]:
    """Where a mechanism acts, what it needs, and the meaning and bounds of its strength."""
    bounds = mechanism.strength
    return {
        "name": mechanism.name,
        "summary": mechanism.summary,
        "acts_in": mechanism.acts_in,
        "needs_tool": mechanism.needs_tool,
        "algorithms": list(mechanism.algorithms),
        "strength": {"meaning": bounds.meaning, "default": bounds.default, "low": bounds.low, "high": bounds.high},
    }


def _fault_table() -> Table:
    table = Table(title="Faults", title_justify="left", expand=True)
    for heading, ratio in (("fault", 3), ("mechanism, where it acts", 5), ("strength: default, from, to", 6)):
        table.add_column(heading, ratio=ratio)
    for kind in CATALOGUE.values():
        for index, mechanism in enumerate(kind.mechanisms):
            name = f"[bold]{kind.code}[/] {kind.name}" if index == 0 else ""
            table.add_row(name, f"[bold]{mechanism.name}[/]: {mechanism.acts_in}", _strength(kind, mechanism))
        table.add_section()
    return table


def _strength(kind: FaultKind, mechanism: Mechanism) -> str:
    strength, needs = mechanism.strength, []
    if mechanism.needs_tool:
        needs.append("a task with a tool")
    if mechanism.algorithms != ALGORITHMS:
        needs.append(f"algorithm.name={' or '.join(mechanism.algorithms)}")
    del kind
    text = f"{strength.meaning}: {strength.default:g}, {strength.low:g}, {strength.high:g}"
    return f"{text}; needs {' and '.join(needs)}" if needs else text


def _control_table() -> Table:
    table = Table(title="Benign controls", title_justify="left", expand=True)
    for heading, ratio in (("control", 3), ("what it is", 5), ("strength: default, from, to", 6)):
        table.add_column(heading, ratio=ratio)
    for control in CONTROLS.values():
        prefix = "declared: " if control.declared else "undeclared: "
        strength = f"{control.meaning}: {control.default_strength:g}, {control.low:g}, {control.high:g}"
        if control.low == control.high:
            strength = "none"
        table.add_row(f"[bold]{control.name}[/]", prefix + control.summary, strength)
    return table


@faults.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Page to write; its plots go beside it.")] = Path(
        "docs/faults.md"
    ),
    steps: Annotated[int, typer.Option(min=20, max=1000, help="Steps of every run.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every run.")] = 3000,
    only: Annotated[list[str] | None, typer.Option(help="A fault to show, by its code; repeatable.")] = None,
) -> None:
    """Run every fault, easy and hard, against the healthy run of the same seed, and write a page about them."""
    from rftfm_ray.faultbench.pages.demo import demonstrate

    codes = [catalogue.kind_of(code).code for code in only or CATALOGUE]
    demonstrate(out, codes, steps, seed, Console(stderr=True))
