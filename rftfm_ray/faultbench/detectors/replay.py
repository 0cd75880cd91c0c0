"""A recorded run put before the guard once more, up to its first order: what comes after, an order would have changed.

The guard is the one that stands beside a run, without its actors: the same watch, the same treatment, the same policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rftfm_ray.detection.monitor import monitor_plan
from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.diagnosis.watch import Watch
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.declared import SNAPSHOT_EVERY, declarations, watched
from rftfm_ray.incidents.ledger import Ledger
from rftfm_ray.incidents.manager import Treatment, treatment_settings
from rftfm_ray.incidents.state import Entry as JournalEntry
from rftfm_ray.incidents.state import EntryKind, lever_fields
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.types import Levers, StepId


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the guard made of a run.

    Attributes:
        incidents: step and code of every incident that was opened, as it was first called.
        acted: step of the first order, None when there was none.
        remedy: what it was to do.
    """

    incidents: tuple[tuple[int, str], ...]
    acted: int | None
    remedy: str


def replay(run: Recorded, profile: Profile | None) -> Replayed:
    """Put a run before the guard, in `act` on every family with the shipped playbook."""
    config, journal = watched(run.entry), list[JournalEntry]()
    told = {declaration.id.step: declaration for declaration in declarations(run.entry, config)}
    watch, ledger = Watch(monitor_plan(config, profile).build(), 0, 0), Ledger(journal.append)
    step = 0

    def snapshots() -> tuple[int, ...]:
        newest = step - 1 - (step - 1) % SNAPSHOT_EVERY
        kept = range(newest, -1, -SNAPSHOT_EVERY)[: config.snapshots.keep]
        return tuple(sorted(kept))

    policy = SafePolicy(Playbook(), "playbook", config.guard.policy_timeout_s)
    treatment = Treatment(treatment_settings(config), policy, snapshots, ledger)
    ledger.write(EntryKind.STARTED, StepId(0, 0, 0), 0, lever_fields(Levers()))
    for report in run.reports():
        step = report.id.step
        if step in told:
            watch.declare(told[step].change)
            ledger.write(EntryKind.DECLARED, report.id, 0, (("change", told[step].change.kind),))
        order = treatment.consider(watch.assess([report])[0])
        if order is not None:
            return Replayed(_incidents(journal), step, order.remedy)
    return Replayed(_incidents(journal), None, "")


def _incidents(journal: Sequence[JournalEntry]) -> tuple[tuple[int, str], ...]:
    opened = [entry for entry in journal if entry.kind is EntryKind.OPENED]
    return tuple((entry.id.step, str(dict(entry.fields).get("code", ""))) for entry in opened)
