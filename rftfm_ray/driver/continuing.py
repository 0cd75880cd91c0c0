"""Continues a run that was paused until a person answers: its journal, what its guard remembers, and its snapshots."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from rftfm_ray.driver.session import Session
from rftfm_ray.errors import CheckpointError, GuardError, RecordError
from rftfm_ray.files import PRIVATE_DIR, PRIVATE_FILE, write_atomic
from rftfm_ray.incidents.handover import Handover, read_handover
from rftfm_ray.incidents.messages import Inherited
from rftfm_ray.planning import RunPlan
from rftfm_ray.telemetry.journal import JOURNAL, Journal, read_journal
from rftfm_ray.telemetry.rundir import CONTINUED, HANDOVER, HELD, MONITOR_STATE
from rftfm_ray.training.checkpoints import named
from rftfm_ray.types import GuardMode

logger = logging.getLogger(__name__)


def inherit(planned: RunPlan, session: Session) -> Inherited | None:
    """What a resumed run inherits of the paused run that its checkpoint belongs to; None where there is nothing.

    Journal and monitor state are copied into this run's directory: the journal is continued there, and the paused run
    keeps its own. The session must have resumed from the checkpoint; afterwards it stands there again.

    Raises:
        GuardError: when what the paused run has left is not whole.
        RecordError: when it cannot be copied.
    """
    if planned.resume is None or planned.config.guard.mode not in (GuardMode.ADVISE, GuardMode.ACT):
        return None
    paused = planned.resume.parent.parent
    handover = _handover(paused / HANDOVER)
    if handover is None:
        return None
    if handover.at != session.position.id:
        logger.warning(
            "%s is not the checkpoint that the run in %s was paused at (step %d), so its decision is not carried over.",
            planned.resume, paused, handover.at.step,
        )  # fmt: skip
        return None
    _copy(paused, planned.folder)
    entries, _ = read_journal(planned.folder / JOURNAL)
    if len(entries) < handover.seq:
        raise GuardError(f"The journal in {paused} has lost entries, so its decision cannot be carried over.")
    try:
        snapshots = session.restore_held(named(paused / HELD), planned.resume)
    except CheckpointError as error:
        logger.warning("A rollback that waits cannot be carried out: %s", error)
        session.resume(planned.resume)
        snapshots = ()
    write_atomic(paused / CONTINUED, f"{planned.folder}\n".encode())
    return Inherited(handover, snapshots)


def _handover(path: Path) -> Handover | None:
    try:
        text = path.read_bytes()
    except OSError:
        return None
    return read_handover(text, str(path))


def _copy(paused: Path, folder: Path) -> None:
    """Copy journal and monitor state; a last line that is cut off is left out."""
    try:
        shutil.copyfile(paused / JOURNAL, folder / JOURNAL)
        (folder / JOURNAL).chmod(PRIVATE_FILE)
        (folder / MONITOR_STATE).parent.mkdir(mode=PRIVATE_DIR, exist_ok=True)
        if (paused / MONITOR_STATE).exists():
            shutil.copyfile(paused / MONITOR_STATE, folder / MONITOR_STATE)
    except OSError as error:
        raise RecordError(f"What {paused} hands over cannot be copied to {folder} ({error.strerror}).") from None
    Journal(folder / JOURNAL).drop_partial_line()
