"""A recorded run put before the guard again, up to its first order: an order would have changed what comes after.

The guard is the one that runs beside training (`incidents.guardian`), without its actors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rftfm_ray.detection.monitor import monitor_plan
from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.diagnosis.assessor import Assessor
from rftfm_ray.diagnosis.diagnoser import FingerprintDiagnoser
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.declared import SNAPSHOT_EVERY, declarations, watched
from rftfm_ray.incidents.guardian import Guardian
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.incidents.state import Entry as JournalEntry
from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.types import StepId


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the guard made of a run.

    Attributes:
        incidents: step of every incident that was opened, and the code that it was given first.
        acted: step of the first order, None when there was none.
        remedy: of the first order; empty when there was none.
    """

    incidents: tuple[tuple[int, str], ...]
    acted: int | None
    remedy: str


def replay(run: Recorded, profile: Profile | None) -> Replayed:
    """Put a run before the guard, in `act` on every family with the shipped playbook."""
    config, journal = watched(run.entry), list[JournalEntry]()
    declared = {declaration.id.step: declaration for declaration in declarations(run.entry, config)}
    step = 0

    def snapshots() -> tuple[int, ...]:
        newest = step - 1 - (step - 1) % SNAPSHOT_EVERY
        kept = range(newest, -1, -SNAPSHOT_EVERY)[: config.snapshots.keep]
        return tuple(sorted(kept))

    policy = SafePolicy(Playbook(), "playbook", config.guard.policy_timeout_s)
    # Nothing is carried out, so nothing is rewound and no states need be kept.
    assessor = Assessor(monitor_plan(config, profile).build(), FingerprintDiagnoser(), keep_every=0, keep=0)
    guardian = Guardian(assessor, incident_settings(config), policy, snapshots, journal.append)
    guardian.start(StepId(0, 0, 0))
    for report in run.reports():
        step = report.id.step
        if step in declared:
            guardian.declare(declared[step])
        _, order = guardian.step(report)
        if order is not None:
            return Replayed(_incidents(journal), step, order.remedy)
    return Replayed(_incidents(journal), None, "")


def _incidents(journal: Sequence[JournalEntry]) -> tuple[tuple[int, str], ...]:
    opened = [entry for entry in journal if entry.kind is EntryKind.OPENED]
    return tuple((entry.id.step, entry.text("code")) for entry in opened)
