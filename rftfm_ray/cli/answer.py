"""`rftfm approve` and `rftfm reject`: a person's answer to a decision that waits."""

from __future__ import annotations

import getpass
import os
import time
import uuid
from typing import Annotated, Protocol

import typer

from rftfm_ray.errors import AnswerError, NotTakenError, RunDirError
from rftfm_ray.incidents.requests import LONGEST_NAME, LONGEST_REASON, Reply, Request, Wish
from rftfm_ray.runs.reader import RunData, find_run, read_run
from rftfm_ray.runs.verdict import progress_of
from rftfm_ray.runs.waiting import pause_of, waiting
from rftfm_ray.runs.words import clean
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.telemetry.requests import RequestBox
from rftfm_ray.types import GuardMode

POLL_S = 0.2
# A request that was taken is answered within a step's boundary.
TAKEN_S = 60.0

RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run directory, the name of a run below RFTFM_HOME or ~/rftfm_runs, or the name of a run in the cluster "
        "that RAY_ADDRESS names.",
    ),
]
Number = Annotated[int, typer.Argument(metavar="INCIDENT", help="Number of the incident, as `rftfm status` shows it.")]
By = Annotated[str | None, typer.Option(help="Your name, for the journal; the login name by default.")]
Reason = Annotated[str, typer.Option(help="Why, for the journal.")]
Wait = Annotated[float, typer.Option(help="Seconds to wait until the run takes the answer, at its next step.")]


class Box(Protocol):
    """Where a run takes requests."""

    def post(self, request: Request) -> None:
        """Put a request there."""

    def reply_to(self, request: str) -> Reply | None:
        """The reply to it; None before there is one."""

    def withdraw(self, request: str) -> bool:
        """Take it back; whether nobody had taken it."""


def approve(run: RunName, incident: Number, by: By = None, reason: Reason = "", wait: Wait = 300.0) -> None:
    """Have the remedy carried out that was advised for an incident."""
    print(_answer(_request(Wish.APPROVE, incident, by, reason), run, wait))


def reject(run: RunName, incident: Number, by: By = None, reason: Reason = "", wait: Wait = 300.0) -> None:
    """Turn down the remedy that was advised for an incident."""
    print(_answer(_request(Wish.REJECT, incident, by, reason), run, wait))


def _request(wish: Wish, incident: int, by: str | None, reason: str) -> Request:
    name = clean(by if by is not None else _login(), LONGEST_NAME)
    return Request(uuid.uuid4().hex, wish, incident, name, time.time(), clean(reason, LONGEST_REASON))


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _answer(request: Request, run: str, wait_s: float) -> str:
    """Give an answer; the sentence that says what became of it.

    Raises:
        AnswerError: when nothing was done.
        NotTakenError: when the run has not taken it in time; nothing was done either.
    """
    try:
        data = read_run(find_run(run))
    except RunDirError as error:
        if not os.environ.get("RAY_ADDRESS"):
            raise AnswerError(
                f"{error} Where only the cluster has it: `ray job submit -- rftfm {request.wish} RUN INCIDENT`."
            ) from None
        # Ray takes a second to import.
        from rftfm_ray.actors.posting import cluster_box

        return _sentence(_posted(cluster_box(run), request, wait_s, None))
    state, _ = progress_of(data)
    if state == "paused":
        return _paused(data, request)
    if state != "going on":
        raise AnswerError(f"The run in {data.run_dir} has ended ({state}), so nothing is carried out any more.")
    if data.mode == GuardMode.OFF:
        raise AnswerError(f"The run in {data.run_dir} has guard.mode=off: nothing decides on remedies there.")
    request = _about(data, request)
    reply = _posted(RequestBox(data.run_dir), request, wait_s, data)
    # Without a reply the run has paused meanwhile.
    return _paused(read_run(data.run_dir), request) if reply is None else _sentence(reply)


def _about(data: RunData, request: Request) -> Request:
    """The request about the very decision that waits now, if any does."""
    seqs = [each.remediation.decision.seq for each in waiting(data.entries) if each.incident.id == request.incident]
    return Request(
        request.id, request.wish, request.incident, request.by, request.time_s, request.reason, seqs[-1] if seqs else 0
    )


def _paused(data: RunData, request: Request) -> str:
    # It imports numpy, which a command without a run does not need.
    from rftfm_ray.runs.paused import answer_paused

    message = _sentence(answer_paused(data, request))
    return f"{message} Go on with: {data.resume_command}"


def _sentence(reply: Reply | None) -> str:
    if reply is None:
        raise NotTakenError("The run has ended before it took the answer; nothing was done.")
    if not reply.accepted:
        raise AnswerError(reply.message)
    return reply.message


def _posted(box: Box, request: Request, wait_s: float, data: RunData | None) -> Reply | None:
    """Post a request and wait for its reply; None when the run has paused and cannot take it.

    Raises:
        NotTakenError: when the run has not taken it in time; it is withdrawn.
    """
    box.post(request)
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if (reply := box.reply_to(request.id)) is not None:
            return reply
        if data is not None and pause_of(read_journal(data.run_dir / JOURNAL)[0]) is not None:
            return None if box.withdraw(request.id) else box.reply_to(request.id)
        time.sleep(POLL_S)
    if box.withdraw(request.id):
        raise NotTakenError(
            f"The run has not taken the answer within {wait_s:g} s, so it was withdrawn and nothing was done; a run "
            "takes it at its next step: see `rftfm status`, or wait longer with --wait."
        )
    end = time.monotonic() + TAKEN_S
    while (reply := box.reply_to(request.id)) is None and time.monotonic() < end:
        time.sleep(POLL_S)
    if reply is None:
        raise NotTakenError("The run has taken the answer and said nothing since; see `rftfm journal`.")
    return reply
