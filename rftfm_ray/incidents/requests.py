"""A person's answer to a decision that waits, and the reply to it, as values. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import TypeAdapter, ValidationError

LONGEST_NAME, LONGEST_REASON = 100, 500


class Wish(StrEnum):
    """What a person wants of a decision that waits."""

    APPROVE = "approve"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Request:
    """A person's answer to a decision that waits.

    Attributes:
        id: unique; names its files.
        wish: what the person wants.
        incident: number of the incident.
        by: name of the person, as given.
        time_s: when it was given, in seconds since 1970.
        reason: of the person; may be empty.
        advice: number of the journal entry that the person has read; 0 for the decision that waits, whichever it is.
    """

    id: str
    wish: Wish
    incident: int
    by: str
    time_s: float
    reason: str = ""
    advice: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What has become of a request: whether it is followed, and one sentence."""

    request: str
    accepted: bool
    message: str


_REQUEST, _REPLY = TypeAdapter(Request), TypeAdapter(Reply)


def to_json(value: Request | Reply) -> bytes:
    """A request or a reply as JSON."""
    return _REQUEST.dump_json(value) if isinstance(value, Request) else _REPLY.dump_json(value)


def read_request(text: bytes) -> Request | None:
    """The request in a file; None where it holds none, or one with a name or a reason that is too long."""
    try:
        request = _REQUEST.validate_json(text, strict=True)
    except ValidationError:
        return None
    fits = len(request.by) <= LONGEST_NAME and len(request.reason) <= LONGEST_REASON
    return request if fits and request.id.isalnum() else None


def read_reply(text: bytes) -> Reply | None:
    """The reply in a file; None where it holds none."""
    try:
        return _REPLY.validate_json(text, strict=True)
    except ValidationError:
        return None
