"""Declared changes of a recorded run: intended changes, which every trainer can report to its detector. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rftfm_ray.config import RunConfig, made_changes
from rftfm_ray.faultbench.runs.generate import config_of
from rftfm_ray.faultbench.runs.plan import Entry
from rftfm_ray.faults.controls import expand, is_control, parse_control
from rftfm_ray.signals.effects import declared_change
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Declaration, DeclaredChange

# As in a run with `guard.mode=act`.
SNAPSHOT_EVERY = 5


def watched(entry: Entry) -> RunConfig:
    """Configuration of an entry for a run whose guard may act on every fault family."""
    guard = {"mode": "act", "act_on": ["RF", "PG", "OD", "CA", "TE", "NUMERICAL", "SYNC"]}
    config = config_of(entry, guard=guard, snapshots={"every": SNAPSHOT_EVERY})
    return expand(config, [parse_control(text) for text in entry.inject if is_control(text)])


def declarations(entry: Entry, config: RunConfig) -> Iterator[Declaration]:
    """Declarations to the guard in a run, in order."""
    for step in range(1, config.steps + 1):
        made = made_changes(config.at(step - 1), config.at(step))
        if made:
            yield Declaration(StepId(0, step, step), declared_change(made, step))
    for control in (parse_control(text) for text in entry.inject if is_control(text)):
        if control.name == "resume":
            change = DeclaredChange("resume", control.onset, (), f"goes on from step {control.onset - 1}")
            yield Declaration(StepId(0, control.onset, control.onset), change)
