"""The event log: what is written comes back, strictly as JSON, and damage is told from a cut end."""

from __future__ import annotations

import json
import math
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.telemetry.events import RESERVED, EventLog, Scalar, read_events
from rftfm_ray.types import StepId

NAMES = st.text(min_size=1).filter(lambda name: name not in (*RESERVED, "self"))
SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False)
EVENTS = st.tuples(
    st.text(), st.none() | st.builds(StepId, *[st.integers(0, 10**9)] * 3), st.dictionaries(NAMES, SCALARS)
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is."""
    return tmp_path / "events.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    """An open, empty log."""
    log = EventLog(path)
    yield log
    log.close()


def _strict(line: bytes) -> dict[str, Scalar]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    values: dict[str, Scalar] = json.loads(line, parse_constant=refuse)
    return values


@given(events=st.lists(EVENTS, max_size=5))
def test_events_come_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, StepId | None, dict[str, Scalar]]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    log = EventLog(path)
    for kind, step, fields in events:
        log.append(kind, step, **fields)
    log.close()
    for (kind, step, fields), found in zip(events, read_events(path), strict=True):
        place = {} if step is None else {"attempt": step.attempt, "step": step.step, "paid_step": step.paid_step}
        assert isinstance(found.pop("time_s"), float)
        assert found == {"kind": kind, **place, **fields}


def test_event_can_be_read_before_the_log_is_closed(path: Path, log: EventLog) -> None:
    log.append("probe", StepId(1, 2, 3), accuracy=0.5)
    (event,) = read_events(path)
    assert event["accuracy"] == 0.5
    assert (event["attempt"], event["step"], event["paid_step"]) == (1, 2, 3)


def test_time_is_the_time_of_writing(path: Path, log: EventLog) -> None:
    log.append("run_started", None)
    (event,) = read_events(path)
    assert event["time_s"] == pytest.approx(time.time(), abs=30)


def test_what_is_no_number_becomes_null_in_strict_json(path: Path, log: EventLog) -> None:
    log.append("parity", None, gap=math.nan, high=math.inf, low=-math.inf, fine=1.5)
    event = _strict(path.read_bytes())
    assert (event["gap"], event["high"], event["low"], event["fine"]) == (None, None, None, 1.5)


def test_line_breaks_in_a_text_stay_within_the_line(path: Path, log: EventLog) -> None:
    log.append("run_failed", None, message="one\ntwo\r\n\u2028three")
    assert path.read_bytes().count(b"\n") == 1
    assert [event["message"] for event in read_events(path)] == ["one\ntwo\r\n\u2028three"]


@pytest.mark.parametrize("name", ["time_s", "attempt", "paid_step"])
def test_reserved_field_is_refused_and_nothing_written(path: Path, log: EventLog, name: str) -> None:
    fields: dict[str, Scalar] = {name: 1}
    with pytest.raises(ValueError, match=f"event field {name} is reserved"):
        log.append("probe", None, **fields)
    assert path.read_bytes() == b""


def test_append_after_close_is_refused(path: Path) -> None:
    log = EventLog(path)
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.append("probe", None)


def test_log_is_its_owners_only(path: Path, log: EventLog) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_log_is_opened_to_append(path: Path) -> None:
    for kind in ("first", "second"):
        log = EventLog(path)
        log.append(kind, None)
        log.close()
    assert [event["kind"] for event in read_events(path)] == ["first", "second"]


@pytest.mark.parametrize("cut", [1, 10, -2])
def test_last_line_that_is_cut_off_is_left_out(path: Path, log: EventLog, cut: int) -> None:
    log.append("first", None)
    whole = path.read_bytes()
    log.append("second", None)
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:cut])
    assert [event["kind"] for event in read_events(path)] == ["first"]


@pytest.mark.parametrize("damage", [b'{"kind": "sec', b"[1]", b'{"step": 3}', b'{"kind": 3}', b"\xff\xfe", b"\x00\x00"])
def test_damaged_line_names_file_and_line(path: Path, damage: bytes) -> None:
    path.write_bytes(b'{"kind": "first"}\n' + damage + b'\n{"kind": "third"}\n')
    events = read_events(path)
    assert next(events)["kind"] == "first"
    with pytest.raises(ValueError, match=r"events\.jsonl line 2 is not an event"):
        next(events)


def test_damaged_last_line_that_was_ended_is_not_taken_for_a_cut(path: Path) -> None:
    path.write_bytes(b'{"kind": "first"}\n{"kind": "sec\n')
    with pytest.raises(ValueError, match="line 2"):
        list(read_events(path))


def test_empty_log_has_no_events(path: Path, log: EventLog) -> None:
    assert list(read_events(path)) == []
