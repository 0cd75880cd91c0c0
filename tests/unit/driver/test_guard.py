"""The guard as the loop sees it: who ships reports, what a boundary waits for, and what happens when it is lost."""

from __future__ import annotations

import threading

import pytest

from rftfm_ray.driver.guard import NoGuard
from rftfm_ray.incidents.messages import GuardTotals, News, OrderResult
from rftfm_ray.types import Check, GuardMode
from tests.unit.doubles import step_row
from tests.unit.driver.guarded import FOLLOWING, FOUND, LONG_S, ME, SHIPPER, SHORT_S, Begin, entry, order


def test_reports_are_shipped_by_a_thread_of_their_own(begin: Begin) -> None:
    loop = begin()
    for step in range(1, 6):
        loop.report(step)
        loop.boundary()
    assert set(loop.far.threads("judge")) == {SHIPPER}
    assert loop.far.judged == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("mode", [GuardMode.OBSERVE, GuardMode.ADVISE])
def test_guard_that_does_not_act_is_never_waited_for(begin: Begin, mode: GuardMode) -> None:
    loop = begin(mode=mode)
    loop.far.news = lambda _: News((), order(1))
    loop.far.gate.clear()
    loop.report(1, 2)
    assert loop.boundary() is None
    assert loop.far.judged == [], "nobody has waited"
    loop.far.gate.set()
    loop.until(lambda: loop.far.judged == [1, 2])
    assert loop.boundary() is None
    assert loop.far.late == []


def test_boundary_waits_for_the_verdict_on_the_last_report(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda judged: News((), order(7) if judged == 3 else None)
    loop.far.gate.clear()
    loop.report(1, 2, 3)
    timer = threading.Timer(0.1, loop.far.gate.set)
    timer.start()
    assert loop.boundary() == order(7)
    timer.join()
    assert loop.far.judged == [1, 2, 3]
    assert loop.far.late == []


def test_checks_of_the_newest_verdict_are_asked_for_until_another_one_does_not(begin: Begin) -> None:
    loop = begin()
    asked = {1: (Check.GOLDEN,), 2: (Check.GOLDEN, Check.UPDATE_REPLAY)}
    loop.far.news = lambda judged: News((), checks=asked.get(judged, ()))
    assert loop.guard.asked() == ()
    for step in (1, 2, 3):
        loop.report(step)
        loop.boundary()
        assert loop.guard.asked() == asked.get(step, ())


def test_boundary_before_any_report_waits_for_nothing(begin: Begin) -> None:
    loop = begin()
    loop.far.gate.clear()
    assert loop.boundary() is None
    assert loop.far.late == []


def test_order_is_given_once(begin: Begin) -> None:
    """News that the controller sends before the order begins name it again."""
    loop = begin()
    loop.far.news = lambda judged: News((), order(1 if judged < 3 else 2))
    given = []
    for step in (1, 2, 3):
        loop.report(step)
        given.append(loop.boundary())
    assert given == [order(1), None, order(2)]
    assert loop.boundary() is None


def test_beginning_and_ending_an_order_are_handed_on_and_what_was_journalled_is_told(begin: Begin) -> None:
    loop = begin()
    assert loop.guard.begin(order(3), FOLLOWING, 0.25)
    assert loop.far.begun == [(3, FOLLOWING, 0.25)]
    assert [seq for seq, _ in loop.told] == [50, 51]
    result = OrderResult(1.5, "it broke")
    loop.guard.done(order(3), FOLLOWING, result)
    assert loop.far.ended == [(3, FOLLOWING, result)]
    assert [seq for seq, _ in loop.told] == [50, 51, 52]
    assert set(loop.far.threads("begin") + loop.far.threads("done")) == {ME}


def test_order_that_is_not_granted_is_not_to_be_carried_out(begin: Begin) -> None:
    loop = begin()
    loop.far.granted = False
    assert not loop.guard.begin(order(3), FOLLOWING, 0.25)
    assert [seq for seq, _ in loop.told] == [50, 51], "why stands in the journal"


def test_late_verdict_is_noted_and_takes_effect_at_the_next_boundary(begin: Begin) -> None:
    loop = begin(verdict_timeout_s=SHORT_S)
    loop.far.news = lambda _: News((), order(3))
    loop.far.gate.clear()
    loop.report(1)
    assert loop.boundary() is None
    ((step, waited),) = loop.far.late
    assert step == FOLLOWING
    assert SHORT_S <= waited < LONG_S
    loop.far.gate.set()
    loop.settle(1)
    assert loop.boundary() == order(3)
    assert len(loop.far.late) == 1


def test_earlier_order_is_given_while_a_later_verdict_is_late(begin: Begin) -> None:
    loop = begin(verdict_timeout_s=SHORT_S)
    loop.far.news = lambda _: News((), order(3))
    loop.report(1)
    loop.settle(1)
    loop.far.gate.clear()
    loop.report(2)
    assert loop.boundary() == order(3)
    assert len(loop.far.late) == 1


def test_order_is_kept_until_a_boundary(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda judged: News((), order(3) if judged == 1 else None)
    for step in (1, 2):
        loop.report(step)
        loop.settle(step)
    assert loop.boundary() == order(3)


def test_entries_are_told_in_order_by_the_loop_itself(begin: Begin) -> None:
    loop = begin()
    loop.far.news = lambda judged: News((entry(2 * judged - 1), entry(2 * judged)), order(1) if judged == 3 else None)
    for step in range(1, 4):
        loop.report(step)
        loop.boundary()
    assert [seq for seq, _ in loop.told] == [1, 2, 3, 4, 5, 6]
    assert {thread for _, thread in loop.told} == {ME}


def test_reports_that_wait_are_judged_together_and_in_their_order(begin: Begin) -> None:
    loop = begin(mode=GuardMode.OBSERVE)
    loop.far.gate.clear()
    loop.report(1)
    loop.until(lambda: bool(loop.far.threads("judge")))
    loop.report(*range(2, 40))
    loop.far.gate.set()
    loop.until(lambda: len(loop.far.judged) == 39)
    assert loop.far.batches == [[1], list(range(2, 40))]


def test_full_buffer_makes_the_loop_wait_and_drops_nothing(begin: Begin) -> None:
    loop = begin(mode=GuardMode.OBSERVE, buffer=2)
    loop.far.gate.clear()
    loop.report(1)
    loop.until(lambda: bool(loop.far.threads("judge")))
    loop.report(2, 3)
    through = threading.Event()

    def more() -> None:
        loop.report(4)
        through.set()

    threading.Thread(target=more, daemon=True).start()
    assert not through.wait(0.1), "there is no room for a fourth"
    loop.far.gate.set()
    assert through.wait(LONG_S)
    loop.until(lambda: loop.far.judged == [1, 2, 3, 4])
    assert loop.guard.finish(FOLLOWING).waits == 1


@pytest.mark.parametrize("buffer", [1, 256])
def test_end_waits_until_everything_is_judged(begin: Begin, buffer: int) -> None:
    loop = begin(mode=GuardMode.OBSERVE, buffer=buffer)
    loop.far.news = lambda judged: News((entry(judged),))
    loop.report(*range(1, 20))
    totals = loop.guard.finish(FOLLOWING)
    assert (totals.incidents, totals.remedies) == ((FOUND,), 1)
    assert loop.far.judged == list(range(1, 20))
    assert [seq for seq, _ in loop.told][-1] == 99, "the end of the journal comes last"
    assert not loop.guard._thread.is_alive()
    assert loop.lost == []


def test_no_guard_does_nothing() -> None:
    nobody = NoGuard()
    nobody.report(step_row(1))
    assert nobody.boundary(FOLLOWING) is None
    assert not nobody.begin(order(1), FOLLOWING, 0.5)
    assert nobody.finish(FOLLOWING) == GuardTotals()
