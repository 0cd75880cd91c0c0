"""A guard that is lost for good: what the loop is told, what is journalled, and where the run stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from rftfm_ray.errors import GuardError, GuardLostError, RecordError
from rftfm_ray.incidents.messages import GuardTotals, News, OrderResult
from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.telemetry.journal import Journal, read_journal
from rftfm_ray.types import GuardMode, StepId
from tests.unit.driver.guarded import FOLLOWING, ME, SHIPPER, SHORT_S, Begin, Loop, entry, order


def lose(loop: Loop, error: BaseException) -> None:
    loop.far.errors["judge"] = error
    loop.report(1)


def test_lost_guard_is_said_once_and_the_run_goes_on(begin: Begin) -> None:
    loop = begin(buffer=2, on_lost="continue")
    lose(loop, GuardError("monitor-0 died."))
    assert loop.boundary() is None
    loop.far.errors.clear()
    for step in range(2, 10):
        loop.report(step)
        assert loop.boundary() is None
    assert loop.lost == [("monitor-0 died.", ME)]
    assert loop.far.threads("judge") == [SHIPPER], "nothing more is sent to it"
    assert loop.far.late == []
    assert loop.far.stopped, "an actor that comes back to life would write into the journal"


@pytest.mark.parametrize(
    ("mode", "on_lost", "stops"),
    [
        (GuardMode.ACT, None, True),
        (GuardMode.OBSERVE, None, False),
        (GuardMode.ADVISE, None, False),
        (GuardMode.ACT, "continue", False),
        (GuardMode.OBSERVE, "stop", True),
    ],
)
def test_lost_guard_stops_the_run_where_it_must(
    begin: Begin, mode: GuardMode, on_lost: str | None, stops: bool
) -> None:
    loop = begin(mode=mode, on_lost=on_lost)
    lose(loop, GuardError("monitor-0 died."))
    loop.until(lambda: bool(loop.guard._shared.lost))
    if stops:
        with pytest.raises(GuardLostError, match=r"lost before step 6 .*monitor-0 died.*guard.on_lost=continue"):
            loop.boundary()
    else:
        assert loop.boundary() is None
    assert [why for why, _ in loop.lost] == ["monitor-0 died."]


@pytest.mark.parametrize("torn", [False, True])
def test_loss_is_journalled_and_told_with_the_steps_that_nobody_watched(
    begin: Begin, tmp_path: Path, torn: bool
) -> None:
    loop = begin(on_lost="continue")
    loop.far.journal = tmp_path / "journal.jsonl"
    written = Journal(loop.far.journal)
    written.write(entry(1))
    if torn:
        loop.far.journal.write_bytes(loop.far.journal.read_bytes() + b'{"seq": 2, "ki')
    loop.report(1, 2)
    loop.settle(2)
    lose_at = StepId(0, 4, 4)
    loop.far.errors["judge"] = GuardError("monitor-0 died.")
    loop.report(3)
    loop.until(lambda: bool(loop.guard._shared.lost))
    assert loop.guard.boundary(lose_at) is None
    totals = loop.guard.finish(StepId(0, 9, 9))
    assert totals.unguarded == 7
    entries, _ = read_journal(loop.far.journal)
    assert [(each.kind, each.id.step) for each in entries[1:]] == [(EntryKind.LOST, 4), (EntryKind.ENDED, 9)]
    assert dict(entries[1].fields) == {"reason": "monitor-0 died.", "judged": 2}
    assert dict(entries[2].fields)["unguarded"] == 7
    assert [seq for seq, _ in loop.told] == [2, 3]


@pytest.mark.parametrize("mode", [GuardMode.OBSERVE, GuardMode.ACT])
def test_lost_guard_is_said_in_every_mode(begin: Begin, mode: GuardMode) -> None:
    loop = begin(mode=mode, on_lost="continue")
    lose(loop, GuardError("monitor-0 died."))
    loop.until(lambda: bool(loop.guard._shared.lost))
    loop.boundary()
    assert [why for why, _ in loop.lost] == ["monitor-0 died."]


def test_end_without_a_guard_counts_the_unguarded_steps(begin: Begin) -> None:
    loop = begin()
    loop.report(1)
    loop.far.errors["finish"] = GuardError("It died at the end.")
    assert loop.guard.finish(FOLLOWING) == GuardTotals(unguarded=5)
    assert [why for why, _ in loop.lost] == ["It died at the end."]


def test_order_whose_journal_cannot_be_written_stops_the_run(begin: Begin) -> None:
    loop = begin()
    full = RecordError("The journal cannot be written.")
    loop.far.errors |= {"begin": full, "done": full}
    with pytest.raises(RecordError):
        loop.guard.begin(order(1), FOLLOWING, 0.5)
    with pytest.raises(RecordError):
        loop.guard.done(order(1), FOLLOWING, OrderResult(0.1))


@pytest.mark.parametrize("call", ["begin", "done"])
def test_guard_that_is_lost_in_an_order_decides_at_the_next_boundary(begin: Begin, call: str) -> None:
    loop = begin()
    loop.far.errors[call] = GuardError("controller-0 died.")
    if call == "begin":
        assert not loop.guard.begin(order(1), FOLLOWING, 0.5), "an order that is not journalled is not carried out"
    else:
        loop.guard.done(order(1), FOLLOWING, OrderResult(0.1))
    expected = "was not carried out" if call == "begin" else "was carried out, and that could not be journalled"
    with pytest.raises(GuardLostError, match=f"order 1 {expected}: controller-0 died"):
        loop.boundary()


def test_guard_that_is_lost_for_good_is_said_once(begin: Begin) -> None:
    loop = begin(on_lost="continue")
    lose(loop, GuardError("monitor-0 died."))
    loop.boundary()
    loop.far.errors["finish"] = GuardError("monitor-0 died.")
    loop.guard.finish(FOLLOWING)
    assert len(loop.lost) == 1


def test_order_of_a_lost_guard_is_not_given(begin: Begin) -> None:
    loop = begin(on_lost="continue")
    loop.far.news = lambda _: News((), order(1))
    loop.report(1)
    loop.settle(1)
    loop.far.errors["judge"] = GuardError("monitor-0 died.")
    loop.report(2)
    assert loop.boundary() is None


def test_whatever_judging_raises_the_run_goes_on(begin: Begin) -> None:
    loop = begin(verdict_timeout_s=SHORT_S, on_lost="continue")
    lose(loop, RuntimeError("lost object"))
    loop.until(lambda: bool(loop.guard._shared.lost) or not loop.guard._thread.is_alive())
    assert loop.boundary() is None
    assert [why for why, _ in loop.lost] == ["lost object"]
    assert loop.guard._thread.is_alive()
