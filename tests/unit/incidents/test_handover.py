"""What a paused run hands over: whole after a way through a file, and enough to verify a remedy that comes later."""

from __future__ import annotations

import json
import math

import pytest

from rftfm_ray.errors import GuardError
from rftfm_ray.incidents.handover import memory_of, read_handover, write_handover
from rftfm_ray.incidents.ledger import Journalled, Ledger
from rftfm_ray.incidents.manager import IncidentManager
from rftfm_ray.incidents.requests import Request, Wish
from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.policies.safety import SafePolicy
from rftfm_ray.types import GuardMode, Levers
from rftfm_ray.verdicts import IncidentState
from tests.unit.incidents.managed import FAILING, FIRST, PLAIN, SECOND, VERIFY, ManagedRun, Script, fault, started

REQUEST = Request("a1", Wish.APPROVE, 1, "ada", 12.5)
SIGNALS = ("tool_error_rate",)


def paused() -> tuple[ManagedRun, bytes]:
    """A run that has paused for an advised remedy, and what it hands over."""
    run = started(FIRST, SECOND, mode=GuardMode.ADVISE)
    run.begin_fault(fault(signals=SIGNALS), **FAILING, kl_ref=math.nan)
    return run, write_handover(run.manager.pause(run.following, run.place, 1, 60.0))


def test_handover_is_read_as_it_was_written() -> None:
    run, text = paused()
    handover = read_handover(text, "paused.json")
    assert write_handover(handover) == text
    memory = memory_of(handover, PLAIN.verify_steps)
    before = run.manager.memory()
    assert repr(memory.run.share()) == repr(before.run.share())
    assert (memory.decisions, memory.quiet, memory.muted.share()) == (before.decisions, before.quiet, ())


@pytest.mark.parametrize("approved", [True, False])
def test_continued_run_carries_an_approved_remedy_out_first_and_verifies_it(approved: bool) -> None:
    run, text = paused()
    if approved:
        run.manager.answer(REQUEST, run.following)
    entries, handover = tuple(run.entries), read_handover(text, "paused.json")
    again = ManagedRun(FIRST, SECOND, mode=GuardMode.ADVISE)
    again.entries = list(entries)
    again.ledger = Ledger(again.entries.append, Journalled(entries, len(entries)))
    policy = SafePolicy(Script([FIRST, SECOND]), "script", 30.0)
    again.manager = IncidentManager(run.manager._settings, policy, lambda: (0, 5), again.ledger)
    again.place = run.place
    again.manager.take_over(handover)
    again.manager.start(run.place, Levers())
    if not approved:
        assert again.manager.pending is None
        assert again.manager.answer(REQUEST, again.following).accepted
    assert again.pending.remedy == "first"
    again.carry_out()
    again.pass_steps(VERIFY - 1)
    again.tick()
    assert again.now() is IncidentState.RESOLVED, "what it is compared with comes from before the pause"
    outcome = again.last(EntryKind.OUTCOME)
    assert outcome.number("severity_before") > outcome.number("severity_after")


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b'{"version": 1}'])
def test_what_is_no_handover_is_refused(text: bytes) -> None:
    with pytest.raises(GuardError, match=r"paused\.json is not what a paused run hands over"):
        read_handover(text, "paused.json")


def test_other_version_is_refused() -> None:
    values = json.loads(paused()[1]) | {"version": 2}
    with pytest.raises(GuardError, match="is of version 2, and this is version 1"):
        read_handover(json.dumps(values).encode(), "paused.json")
