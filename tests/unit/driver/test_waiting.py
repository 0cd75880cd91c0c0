"""The loop and people: answers are taken at boundaries, approved orders are given, and a wait may have an end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rftfm_ray.errors import GuardError, GuardLostError, GuardPausedError
from rftfm_ray.incidents.messages import News
from rftfm_ray.incidents.requests import Request, Wish
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.telemetry.requests import RequestBox
from rftfm_ray.types import GuardMode, StepId
from tests.unit.driver.guarded import FOLLOWING, Begin, Loop, entry, order

REQUEST = Request("a1", Wish.APPROVE, 1, "ada", 12.5)
ADVISED = Entry(40, EntryKind.ADVISED, StepId(0, 5, 5), 1, (("remedy", "retry"),))


@pytest.fixture
def box(tmp_path: Path) -> RequestBox:
    """The request box of the run."""
    return RequestBox(tmp_path)


def started(begin: Begin, folder: Path, mode: GuardMode = GuardMode.ADVISE, **how: object) -> Loop:
    """The loop of a run in a directory."""
    loop = begin(mode=mode, **how)
    loop.far.journal = folder / "journal.jsonl"
    return loop


@pytest.mark.parametrize("mode", [GuardMode.ADVISE, GuardMode.ACT])
def test_approved_order_is_given_at_the_same_boundary(
    begin: Begin, tmp_path: Path, box: RequestBox, mode: GuardMode
) -> None:
    loop = started(begin, tmp_path, mode)
    assert loop.boundary() is None
    box.post(REQUEST)
    assert loop.boundary() == order(9)
    assert loop.far.answered == [REQUEST]
    assert [seq for seq, _ in loop.told] == [60]
    reply = box.reply_to("a1")
    assert reply is not None
    assert reply.accepted
    assert loop.boundary() is None, "an order is given once"


def test_guard_is_waited_for_once_a_remedy_was_approved(begin: Begin, tmp_path: Path, box: RequestBox) -> None:
    loop = started(begin, tmp_path, verdict_timeout_s=0.05)
    loop.far.gate.clear()
    loop.report(1)
    loop.boundary()
    assert loop.far.late == [], "nobody was waited for"
    box.post(REQUEST)
    loop.boundary()
    assert [step for step, _ in loop.far.late] == [FOLLOWING]


def test_orders_after_an_approval_are_given_in_advise(begin: Begin, tmp_path: Path, box: RequestBox) -> None:
    loop = started(begin, tmp_path)
    box.post(REQUEST)
    loop.boundary()
    loop.far.news = lambda judged: News((), order(10))
    loop.report(1)
    assert loop.boundary() == order(10), "the undo of what was approved, or the return of its levers"


def test_run_that_continues_a_paused_one_begins_with_what_was_approved(begin: Begin, tmp_path: Path) -> None:
    loop = started(begin, tmp_path)
    approved = Entry(41, EntryKind.APPROVED, StepId(0, 5, 5), 1)
    loop.guard.continue_with(News((entry(42),), order(2)), (ADVISED, approved))
    assert loop.boundary() == order(2)
    assert [seq for seq, _ in loop.told] == [42], "the paused run has told the others"


def test_answers_to_a_lost_guard_are_declined(begin: Begin, tmp_path: Path, box: RequestBox) -> None:
    loop = started(begin, tmp_path)
    loop.far.errors["answer"] = GuardError("controller-0 died.")
    box.post(REQUEST)
    loop.boundary()
    box.post(Request("a2", Wish.REJECT, 1, "ada", 13.0))
    loop.boundary()
    for name in ("a1", "a2"):
        reply = box.reply_to(name)
        assert reply is not None
        assert (reply.accepted, "guard of this run is lost" in reply.message) == (False, True)
    assert "a person's answer could not be journalled: controller-0 died." in loop.lost[0][0]


def test_lost_guard_ends_a_run_in_act_before_an_answer_is_followed(
    begin: Begin, tmp_path: Path, box: RequestBox
) -> None:
    loop = started(begin, tmp_path, GuardMode.ACT)
    loop.far.errors["answer"] = GuardError("controller-0 died.")
    box.post(REQUEST)
    with pytest.raises(GuardLostError):
        loop.boundary()


def test_answer_after_the_last_step_is_declined(begin: Begin, tmp_path: Path, box: RequestBox) -> None:
    loop = started(begin, tmp_path)
    box.post(REQUEST)
    loop.guard.finish(FOLLOWING)
    reply = box.reply_to("a1")
    assert reply is not None
    assert reply.message == "The run has ended, so nothing is carried out any more."


def waits(loop: Loop) -> None:
    """A decision begins to wait."""
    loop.far.news = lambda judged: News((ADVISED,) if judged == 1 else ())
    loop.report(1)
    loop.settle(1)


@pytest.mark.parametrize("mode", [GuardMode.ADVISE, GuardMode.ACT])
def test_run_pauses_when_a_decision_has_waited_too_long(begin: Begin, tmp_path: Path, mode: GuardMode) -> None:
    loop = started(begin, tmp_path, mode, pause_timeout_s=0.001)
    loop.boundary()
    waits(loop)
    assert loop.boundary() is None, "it begins to wait when the loop hears of it"
    time.sleep(0.002)
    with pytest.raises(GuardPausedError) as raised:
        loop.boundary()
    assert loop.far.paused == [(StepId(0, 5, 5), 1)]
    assert raised.value.restore_steps == (5,)
    assert raised.value.exit_code == 6
    message = str(raised.value)
    assert message.startswith("Paused after step 5: retry for incident #1 has waited for a person for 0 s")
    assert f"`rftfm approve {tmp_path} 1` or `rftfm reject {tmp_path} 1`" in message


@pytest.mark.parametrize("how", [{}, {"pause_timeout_s": 1000.0}])
def test_run_trains_on_while_nobody_answers(begin: Begin, tmp_path: Path, how: dict[str, Any]) -> None:
    loop = started(begin, tmp_path, **how)
    waits(loop)
    for _ in range(50):
        assert loop.boundary() is None
    assert loop.far.paused == []


@pytest.mark.parametrize("kind", [EntryKind.REJECTED, EntryKind.CLOSED])
def test_decision_that_is_gone_pauses_nothing(begin: Begin, tmp_path: Path, kind: EntryKind) -> None:
    loop = started(begin, tmp_path, pause_timeout_s=0.001)
    loop.far.news = lambda judged: News((ADVISED, Entry(41, kind, StepId(0, 6, 6), 1)))
    loop.report(1)
    loop.settle(1)
    for _ in range(50):
        assert loop.boundary() is None


def test_answer_comes_before_the_pause(begin: Begin, tmp_path: Path, box: RequestBox) -> None:
    loop = started(begin, tmp_path, pause_timeout_s=0.001)
    waits(loop)
    box.post(REQUEST)
    assert loop.boundary() == order(9)
    assert loop.far.paused == []
