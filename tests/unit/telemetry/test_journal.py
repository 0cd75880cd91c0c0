"""`journal.jsonl`: on the disk before an act, the same when it is read again, and loud when it has been altered."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.errors import RecordError
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.telemetry.journal import JOURNAL, Journal, read_journal
from rftfm_ray.types import StepId

FIXED = {"seq", "time_s", "kind", "attempt", "step", "paid_step", "incident"}
Lines = Callable[[list[str]], list[str]]


def entry(seq: int, kind: EntryKind = EntryKind.HELD, **told: Scalar) -> Entry:
    """An entry."""
    return Entry(seq, kind, StepId(1, seq, seq + 3), 2, tuple(told.items()))


STORY = tuple(entry(seq, reason=f"reason {seq}") for seq in range(1, 6))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of five entries."""
    write(tmp_path / JOURNAL, *STORY)
    return tmp_path / JOURNAL


def write(path: Path, *entries: Entry) -> None:
    """Write entries."""
    journal = Journal(path)
    for each in entries:
        journal.write(each)


def entries_of(path: Path) -> tuple[Entry, ...]:
    """Read them again."""
    return read_journal(path)[0]


def refused(path: Path) -> str:
    """The sentence that refuses a journal."""
    with pytest.raises(RecordError) as caught:
        read_journal(path)
    assert str(caught.value).endswith(".")
    return str(caught.value)


names = st.text(min_size=1, max_size=8).filter(lambda name: name not in FIXED)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
steps = st.builds(StepId, st.integers(0, 9), st.integers(0, 10**6), st.integers(0, 10**6))
contents = st.tuples(st.sampled_from(EntryKind), steps, st.integers(0, 99), st.dictionaries(names, scalars, max_size=5))


@given(st.lists(contents, max_size=6))
def test_what_was_written_is_read_again(told: list[tuple[EntryKind, StepId, int, dict[str, Scalar]]]) -> None:
    written = [Entry(n, kind, at, about, tuple(values.items())) for n, (kind, at, about, values) in enumerate(told, 1)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / JOURNAL
        write(path, *written)
        found, times = read_journal(path)
    assert len(times) == len(found)
    for before, after in zip(written, found, strict=True):
        assert (after.seq, after.kind, after.id, after.incident) == (
            before.seq,
            before.kind,
            before.id,
            before.incident,
        )
        assert [name for name, _ in after.fields] == [name for name, _ in before.fields]
        for (_, was), (_, now) in zip(before.fields, after.fields, strict=True):
            finite = not isinstance(was, float) or math.isfinite(was)
            assert (now, type(now)) == ((was, type(was)) if finite else (None, type(None)))


def test_every_line_is_plain_json_with_its_time(path: Path) -> None:
    lines = path.read_text(encoding="ascii").splitlines()
    assert len(lines) == 5
    first = json.loads(lines[0])
    assert set(first) == FIXED | {"reason"}
    assert (first["kind"], first["attempt"], first["step"], first["paid_step"], first["incident"]) == (
        "held",
        1,
        1,
        4,
        2,
    )
    times = read_journal(path)[1]
    assert list(times) == sorted(times)
    assert abs(times[0] - path.stat().st_mtime) < 60


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(tmp_path: Path, value: float) -> None:
    write(tmp_path / JOURNAL, entry(1, probe=value))
    assert json.loads((tmp_path / JOURNAL).read_text(encoding="ascii"))["probe"] is None
    assert entries_of(tmp_path / JOURNAL) == (entry(1, probe=None),)


def test_nobody_else_may_read_it(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_empty_journal_has_no_entries(tmp_path: Path) -> None:
    Journal(tmp_path / JOURNAL)
    assert read_journal(tmp_path / JOURNAL) == ((), ())


def test_line_that_python_cannot_represent_is_named(path: Path) -> None:
    lines = path.read_text(encoding="ascii").splitlines()
    for damage in ("[" * 100_000, json.dumps(json.loads(lines[1]) | {"time_s": 10**400})):
        path.write_text("\n".join([lines[0], damage, *lines[2:]]) + "\n")
        assert f"{path} line 2 is not a journal entry" in refused(path)


def test_missing_journal_is_named(tmp_path: Path) -> None:
    message = refused(tmp_path / JOURNAL)
    assert str(tmp_path / JOURNAL) in message
    assert "No such file" in message


def test_last_line_that_was_cut_off_is_left_out(path: Path) -> None:
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    for cut in range(last, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert entries_of(path) == STORY[:-1], cut
    path.write_bytes(whole[:-1])
    assert entries_of(path) == STORY, "only its end of line is missing"


def changed(path: Path, change: Lines) -> None:
    """Alter the lines of a journal."""
    path.write_text("".join(f"{line}\n" for line in change(path.read_text(encoding="ascii").splitlines())))


def replaced(place: int, old: str, new: str) -> Lines:
    """One line with some of its text replaced."""

    def change(lines: list[str]) -> list[str]:
        assert old in lines[place]
        return [*lines[:place], lines[place].replace(old, new), *lines[place + 1 :]]

    return change


ALTERED: list[tuple[str, Lines, int]] = [
    ("cut", lambda lines: [lines[0], lines[1][:20], *lines[2:]], 2),
    ("nonsense", lambda lines: [*lines[:3], "once upon a time", *lines[3:]], 4),
    ("a list", lambda lines: ["[]", *lines], 1),
    ("out of order", lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
    ("left out", lambda lines: [*lines[:2], *lines[3:]], 3),
    ("twice", lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
    ("first left out", lambda lines: lines[1:], 1),
    ("the last, ended", lambda lines: [*lines[:4], lines[4][:20]], 5),
    ("unknown kind", replaced(1, '"held"', '"healed"'), 2),
    ("no kind", replaced(1, '"kind"', '"king"'), 2),
    ("no time", replaced(1, '"time_s"', '"time"'), 2),
    ("time in words", replaced(1, '"time_s": ', '"time_s": null, "was": '), 2),
    ("count in words", replaced(1, '"attempt": 1', '"attempt": "1"'), 2),
    ("count in parts", replaced(1, '"attempt": 1', '"attempt": 1.0'), 2),
    ("count true", replaced(1, '"attempt": 1', '"attempt": true'), 2),
    ("no incident", replaced(1, '"incident"', '"accident"'), 2),
    ("a field that is a list", replaced(1, '"reason 2"', '["reason 2"]'), 2),
    ("a field that is an object", replaced(1, '"reason 2"', "{}"), 2),
]


@pytest.mark.parametrize(("change", "line"), [row[1:] for row in ALTERED], ids=[row[0] for row in ALTERED])
def test_altered_line_is_refused_with_its_number(path: Path, change: Lines, line: int) -> None:
    changed(path, change)
    message = refused(path)
    assert message.startswith(f"{path} line {line} is not a journal entry (")
    assert message.endswith("it has been altered.")


def test_bytes_that_are_no_text_are_refused(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"\xff\xfe", *lines[2:]]))
    assert "line 2" in refused(path)


def test_entry_is_on_the_disk_before_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes = tmp_path / JOURNAL, []

    def fsync(descriptor: int) -> None:
        assert os.path.samestat(os.fstat(descriptor), path.stat())
        sizes.append(path.stat().st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    journal = Journal(path)
    for count, each in enumerate(STORY, start=1):
        journal.write(each)
        assert len(sizes) == count
        assert sizes[-1] == path.stat().st_size, "what is written is what was waited for"
    assert sizes == sorted(set(sizes))


def fail(*_: object) -> int:
    """What a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_full_disk_is_an_error_of_the_records(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    journal = Journal(path)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(RecordError, match=r"No space left on device.*make room\.$") as caught:
        journal.write(entry(6))
    assert str(path) in str(caught.value)
    monkeypatch.undo()
    assert entries_of(path)[:5] == STORY


def half(real: Callable[[int, bytes], int]) -> Callable[[int, bytes], int]:
    """A disk with room for half a line."""
    return lambda descriptor, data: real(descriptor, data[: len(data) // 2])


def test_line_that_does_not_fit_is_an_error_of_the_records(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path)
    monkeypatch.setattr(os, "write", half(os.write))
    with pytest.raises(RecordError, match=r"no space is left.*make room\.$"):
        journal.write(entry(6))
    monkeypatch.undo()
    assert entries_of(path) == STORY


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_disk_that_really_is_full() -> None:
    with pytest.raises(RecordError, match="No space left on device"):
        Journal(Path("/dev/full")).write(entry(1))


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_journal_can_be_read_after_a_failure_and_one_more_entry(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    journal = Journal(path)
    monkeypatch.setattr(os, call, half(os.write) if call == "write" else fail)
    with pytest.raises(RecordError):
        journal.write(entry(6, EntryKind.DECIDED))
    monkeypatch.undo()
    # The ledger has not counted the entry that failed: the end of the run takes its number.
    journal.write(entry(6, EntryKind.ENDED))
    assert entries_of(path) == (*STORY, entry(6, EntryKind.ENDED))


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_half_written_line_is_dropped_before_the_next_entry(path: Path, kept: int) -> None:
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    # The newline at the end makes a line whole: without it the entry is not durable.
    path.write_bytes(b"".join(lines[:4]) + lines[4][:kept])
    journal = Journal(path)
    journal.drop_partial_line()
    assert path.read_bytes() == b"".join(lines[:4])
    journal.write(STORY[4])
    assert entries_of(path) == STORY


def test_whole_journal_loses_nothing(path: Path) -> None:
    Journal(path).drop_partial_line()
    assert entries_of(path) == STORY
