"""A set of drills as planned: its runs' configurations. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rftfm_ray.config import PreflightMode, RunConfig
from rftfm_ray.drills.cases import DrillCase
from rftfm_ray.types import GuardMode
from rftfm_ray.verdicts import Family

PERMITTED = [family.value for family in Family if family is not Family.UNKNOWN]
"""Families that the guard may remedy in a drill."""


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """A set of drills.

    Attributes:
        config: of the user's run.
        cases: what is injected.
        onset: consumed step at which each fault begins.
        steps: consumed steps of each run.
        folder: of the runs, one below it each; a set that was broken off goes on there.
        unguarded: whether each fault is run without a guard too, which shows its harm.
    """

    config: RunConfig
    cases: tuple[DrillCase, ...]
    onset: int
    steps: int
    folder: Path
    unguarded: bool = True

    @property
    def count(self) -> int:
        """Runs of the set."""
        return 1 + len(self.cases) * (1 + self.unguarded)

    def run_of(self, inject: Sequence[str], *, guarded: bool) -> RunConfig:
        """One run: everything as the user has it, but for the fault, the length, and what the guard may do."""
        tree = self.config.model_dump(mode="json")
        # A schedule of the learning rate goes by `steps`, so that stays as it is where it can.
        tree |= {"steps": max(self.config.steps, self.steps), "max_paid_steps": self.steps, "inject": list(inject)}
        tree["preflight"]["mode"] = PreflightMode.OFF.value
        tree["checkpoints"] |= {"every": 0, "at_end": False}
        tree["report"]["at_end"] = guarded
        tree["guard"] |= {"mode": (GuardMode.ACT if guarded else GuardMode.OFF).value}
        if guarded:
            # Nobody answers in a drill, and nobody is told of one.
            tree["guard"] |= {"act_on": PERMITTED, "on_harm": "warn", "on_incident": None, "pause_timeout_s": None}
        return RunConfig.model_validate(tree)
