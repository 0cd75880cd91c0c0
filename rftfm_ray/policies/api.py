"""What a remediation policy is: it sees a frozen context and returns a decision. It never holds a handle.

A policy is an object with `decide(ctx)`, or a plain function of `ctx`. The framework owns safety: bounds, budget,
cooldown, timeout and confirmation hold whatever a policy does, see `policies.safety`.

An object may also have

- `observe(outcome)`: called with the `Outcome` of every remedy that was verified, whoever decided on it;
- `state_dict()` and `load_state_dict(state)`: what it remembers, as a dict of plain JSON values of at most 16 KiB. It
  is read after every call, and given back after `--resume`, after the loss of the controller, and after a rollback. A
  rollback gives back the state of the step that training goes back to, and then calls `observe` again for every outcome
  since then, with `outcome.abandoned`: what was made of the steps given up is gone, what is known of remedies is not;
- `metrics()`: figures by name, for journal and metrics of the run.

Where one of these fails, the journal says so in one sentence, and decisions stand.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from rftfm_ray.errors import PolicyError
from rftfm_ray.policies.grounds import Ground
from rftfm_ray.signals.schema import INDEX, value
from rftfm_ray.types import Levers, RunFacts, Settings, StepId
from rftfm_ray.verdicts import Decision, Diagnosis, Remedy, StepReport, Tried

# Times that one remedy may be applied for one fault at one step. What has not helped twice from there will not.
MOST_TIMES = 2


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """Everything that a policy may go by.

    Attributes:
        step: the step that was judged last.
        diagnosis: what is wrong.
        tried: remedies of this incident so far, with their outcomes.
        levers: in force.
        nominal: the settings that the configuration calls for at that step, before schedule and levers.
        snapshots: steps that a rollback can go back to.
        budget_left: remedies that this family of faults may still have.
        reports: the newest steps of the lineage, newest last.
        state: what the policy's last decision left for itself, also after a rollback and after `--resume`.
        ground: what allows a costly remedy (a rollback, freeze_policy, a halt) as far as is known; None where only
            telemetry speaks for one, or where held-out accuracy stands and no broken identity of the fault shows
            damage. A probe is made before every such remedy; where there is no ground by then, it is dropped, and the
            policy is called again for one without cost.
        given: remedies that were applied in this run for faults of the same code, in this incident and in others.
        facts: of the run, which decide on the levers that it can have; None where they are not known.
    """

    step: StepId
    diagnosis: Diagnosis
    tried: tuple[Tried, ...]
    levers: Levers
    nominal: Settings
    snapshots: tuple[int, ...]
    budget_left: int
    reports: tuple[StepReport, ...]
    state: tuple[tuple[str, str | int | float | bool], ...] = ()
    ground: Ground | None = None
    given: tuple[Tried, ...] = ()
    facts: RunFacts | None = None

    def times_given(self, remedy: str, step: int) -> int:
        """How often a remedy was applied at a step of the lineage for faults of this code."""
        return sum(tried.remedy == remedy and tried.step == step for tried in self.given)

    def signal(self, name: str) -> tuple[float, ...]:
        """A signal's newest values, newest last.

        Raises:
            PolicyError: when there is no such signal; names the nearest.
        """
        if name not in INDEX:
            near = difflib.get_close_matches(name, INDEX, n=1)
            hint = f"the nearest is {near[0]}" if near else "docs/signals.md lists them"
            raise PolicyError(f"There is no signal {name}; {hint}.")
        return tuple(value(report, name) for report in self.reports)

    def before_onset(self, name: str) -> float:
        """Median of a signal over the last ten steps before the fault can have begun; NaN when there are none."""
        self.signal(name)
        known = [v for report in self.before_fault()[-10:] if math.isfinite(v := value(report, name))]
        return median(known) if known else math.nan

    def before_fault(self) -> tuple[StepReport, ...]:
        """The reports from before the fault can have begun.

        Steps that were made again after a rollback are none of them: the fault may have gone on, under a remedy.
        """
        first = min((tried.paid_step for tried in self.tried), default=self.step.paid_step + 1)
        low = self.diagnosis.onset_low
        return tuple(report for report in self.reports if report.id.step < low and report.id.paid_step < first)


def restore_step(ctx: PolicyContext) -> int | None:
    """The newest snapshot from before the earliest step that the fault can have begun with."""
    before = [step for step in ctx.snapshots if step < ctx.diagnosis.onset_low]
    return max(before) if before else None


def place_of(remedy: Remedy, ctx: PolicyContext) -> int | None:
    """The step that training goes on from under a remedy; None for a rollback without a snapshot to go back to."""
    return restore_step(ctx) if remedy.rollback else ctx.step.step


class Policy(Protocol):
    """Decides what to do about an incident."""

    def decide(self, ctx: PolicyContext) -> Decision:
        """The decision. Called once for every incident that needs one; raising is safe and is journalled."""
