"""The request box of a run: every request is taken once, and nobody can put anything else through it."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from rftfm_ray.errors import RecordError
from rftfm_ray.incidents.requests import LONGEST_NAME, Reply, Request, Wish, to_json
from rftfm_ray.telemetry.requests import RequestBox

REQUEST = Request("a1", Wish.APPROVE, 1, "ada", 12.5, "I looked", 7)


@pytest.fixture
def box(tmp_path: Path) -> RequestBox:
    """The box of a run."""
    return RequestBox(tmp_path)


def test_request_is_taken_once_oldest_first(box: RequestBox) -> None:
    assert box.take() == ()
    later = replace(REQUEST, id="a0", time_s=13.0, wish=Wish.REJECT)
    box.post(later)
    box.post(REQUEST)
    assert box.take() == (REQUEST, later)
    assert box.take() == ()


def test_reply_comes_to_who_asked(box: RequestBox) -> None:
    box.post(REQUEST)
    assert box.reply_to("a1") is None
    box.reply(Reply("a1", False, "It is gone."))
    assert box.reply_to("a1") == Reply("a1", False, "It is gone.")


def test_withdrawn_request_is_not_taken_and_a_taken_one_is_not_withdrawn(box: RequestBox) -> None:
    box.post(REQUEST)
    assert box.withdraw("a1")
    assert not box.withdraw("a1")
    assert box.take() == ()
    box.post(REQUEST)
    assert box.take() == (REQUEST,)
    assert not box.withdraw("a1")


def test_others_cannot_read_it(box: RequestBox, tmp_path: Path) -> None:
    box.post(REQUEST)
    assert stat.S_IMODE((tmp_path / "requests").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "requests" / "a1.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b'{"id": "a1"}',
        to_json(REQUEST).replace(b"approve", b"shutdown"),
        to_json(REQUEST).replace(b'"incident":1', b'"incident":"1"'),
        to_json(replace(REQUEST, by="x" * (LONGEST_NAME + 1))),
        to_json(replace(REQUEST, id="../a1")),
        to_json(replace(REQUEST, id="b2")),
    ],
)  # fmt: skip
def test_what_is_no_request_is_dropped(box: RequestBox, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "a1.json").write_bytes(text)
    box.post(replace(REQUEST, id="c3"))
    assert [request.id for request in box.take()] == ["c3"]
    assert box.take() == ()


def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "requests").write_text("")
    with pytest.raises(RecordError, match=r"requests cannot be written \(.*\); make room, or check it"):
        RequestBox(tmp_path).post(REQUEST)
