"""Answers a decision of a paused run, which has no process: the answer goes into its journal, and waits there."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rftfm_ray.errors import AnswerError, RecordError
from rftfm_ray.incidents.answering import follow
from rftfm_ray.incidents.handover import read_handover
from rftfm_ray.incidents.ledger import Journalled, Ledger
from rftfm_ray.incidents.requests import Reply, Request
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.runs.reader import RunData
from rftfm_ray.runs.waiting import continued_in, pause_of
from rftfm_ray.telemetry.journal import JOURNAL, Journal, read_journal
from rftfm_ray.telemetry.rundir import HANDOVER


def answer_paused(data: RunData, request: Request) -> Reply:
    """Journal a person's answer in a paused run; the run that continues it carries an approved remedy out first.

    Raises:
        AnswerError: when the run has been continued, or its configuration cannot be read.
        RftfmError: when its files are damaged.
    """
    run_dir = data.run_dir
    if elsewhere := continued_in(run_dir):
        raise AnswerError(f"The run in {run_dir} was continued in {elsewhere}; answer there.")
    if data.config is None:
        raise AnswerError(f"{run_dir}/config.yaml is missing or of another version; answer under that version.")
    try:
        handed_over = (run_dir / HANDOVER).read_bytes()
    except OSError as error:
        raise RecordError(f"{run_dir / HANDOVER} cannot be read ({error.strerror}); check the run.") from None
    handover = read_handover(handed_over, str(run_dir / HANDOVER))
    path = run_dir / JOURNAL
    with _locked(path):
        entries, _ = read_journal(path)
        pause = pause_of(entries)
        if pause is None:
            raise AnswerError(f"The run in {run_dir} does not wait for a person any more; see `rftfm status`.")
        journal = Journal(path)
        journal.drop_partial_line()
        ledger = Ledger(journal.write, Journalled(entries, len(entries)))
        return follow(ledger, incident_settings(data.config), request, pause.id, handover.restore_steps)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other commands from answering meanwhile: one decision is answered once."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
