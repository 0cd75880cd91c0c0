"""Questions of the guard: asked where explanations are close, answered by a later step, and both in the journal."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rftfm_ray.diagnosis.classify import PATIENCE
from rftfm_ray.errors import GuardError
from rftfm_ray.incidents.questions import MOST_WAIT, waiting_checks
from rftfm_ray.incidents.state import EntryKind, fold, replay
from rftfm_ray.runs.words import describe
from rftfm_ray.types import Check, GuardMode
from rftfm_ray.verdicts import Diagnosis, Rival
from tests.unit.incidents.managed import ManagedRun, fault

K = EntryKind
# The checks of these signals are not due.
QUIET = dict.fromkeys(("golden_mismatch_rate", "known_call_error_rate", "update_gain"), math.nan)


def close(code: str = "RF-1", rival: str = "PG-3L", probability: float = 0.5) -> Diagnosis:
    """A diagnosis with a rival close behind."""
    return replace(fault(code, probability), rivals=(Rival(rival, 0.4, "explains less"),))


def asking(**changed: Any) -> ManagedRun:
    """A run in which something was asked at its first step, where its mode asks."""
    run = ManagedRun(None, **changed)
    run.tick(close(), **QUIET)
    return run


def test_what_tells_close_explanations_apart_is_asked_once_and_its_answer_kept() -> None:
    run = asking()
    asked = run.last(K.ASKED)
    assert (asked.incident, asked.text("check"), asked.text("between")) == (1, "golden", "RF-1 (50%) and PG-3L (40%)")
    assert waiting_checks(run.manager.state) == (Check.GOLDEN,)
    run.tick(close(), **QUIET)
    assert run.kinds.count(K.ASKED) == 1
    assert K.ANSWERED not in run.kinds
    run.tick(close(), **QUIET | {"golden_mismatch_rate": 0.5})
    answered = run.last(K.ANSWERED)
    assert (answered.text("signal"), answered.number("value")) == ("golden_mismatch_rate", 0.5)
    assert waiting_checks(run.manager.state) == ()
    run.tick(close(), **QUIET)
    assert run.kinds.count(K.ASKED) == 1
    assert describe(asked)[0] == "asked for rewards of known responses, to tell RF-1 (50%) and PG-3L (40%) apart"
    assert describe(answered)[0] == "rewards of known responses: golden_mismatch_rate is 0.5"


def test_answer_stands_before_the_name_that_follows_from_it() -> None:
    run = asking()
    run.tick(fault("RF-1", 0.99), **QUIET | {"golden_mismatch_rate": 0.5})
    assert run.kinds[-2:] == [K.ANSWERED, K.DIAGNOSED] or run.kinds.index(K.ANSWERED) < run.kinds.index(K.DIAGNOSED)


def test_check_that_gives_no_answer_is_given_up() -> None:
    run = asking()
    for _ in range(MOST_WAIT):
        assert waiting_checks(run.manager.state) == (Check.GOLDEN,)
        run.tick(close(), **QUIET)
    assert not run.last(K.ANSWERED).has("value")
    assert describe(run.last(K.ANSWERED))[0] == "rewards of known responses: no answer"
    assert waiting_checks(run.manager.state) == ()


@pytest.mark.parametrize("mode", [GuardMode.OBSERVE, GuardMode.ADVISE])
def test_nothing_is_asked_where_the_loop_does_not_wait_for_verdicts(mode: GuardMode) -> None:
    assert K.ASKED not in asking(mode=mode).kinds


def test_what_a_step_has_measured_by_itself_is_not_asked_for() -> None:
    run = ManagedRun(None)
    run.tick(close(), **QUIET | {"golden_mismatch_rate": 0.0})
    assert K.ASKED not in run.kinds


def test_incident_that_has_a_name_asks_nothing_and_one_without_goes_on_asking() -> None:
    named = ManagedRun(None)
    named.tick(fault("RF-1", 0.95), **QUIET)
    named.tick(close(), **QUIET)
    assert K.ASKED not in named.kinds
    unnamed = ManagedRun(None)
    for _ in range(PATIENCE + 1):
        unnamed.tick(fault("PG-1", 0.3), **QUIET)
    assert unnamed.incident.code == "UNKNOWN"
    assert K.ASKED not in unnamed.kinds
    unnamed.tick(close(probability=0.45), **QUIET)
    assert unnamed.last(K.ASKED).text("check") == "golden"


def test_what_the_remedies_of_a_named_fault_go_by_is_asked_for_once() -> None:
    run = ManagedRun(None)
    run.tick(fault("OD-2", 0.99, onset=1), **QUIET)
    asked = run.last(K.ASKED)
    assert (asked.text("check"), asked.text("remedies_of"), asked.has("between")) == ("update_replay", "OD-2", False)
    assert describe(asked)[0] == "asked for an update made again, to know what OD-2 needs"
    for _ in range(MOST_WAIT + 2):
        run.tick(fault("OD-2", 0.99, onset=1), **QUIET)
    assert run.kinds.count(K.ASKED) == 1
    assert replay(tuple(run.entries)) == run.manager.state


@pytest.mark.parametrize(
    ("code", "measured"),
    [("OD-2", {"update_gain": 0.5}), ("OD-3", {}), ("RF-1", {})],
    ids=["measured", "other", "reward"],
)
def test_nothing_more_is_asked_where_the_cause_is_shown_or_no_question_shows_it(
    code: str, measured: dict[str, float]
) -> None:
    run = ManagedRun(None)
    run.tick(fault(code, 0.99, onset=1), **QUIET | measured)
    run.tick(fault(code, 0.99, onset=1), **QUIET)
    assert K.ASKED not in run.kinds


def test_state_is_the_fold_of_the_journal_and_knows_what_was_asked() -> None:
    run = asking()
    assert replay(tuple(run.entries)) == run.manager.state
    assert (run.incident.asked, run.incident.waiting, run.incident.asked_at) == ((Check.GOLDEN,), Check.GOLDEN, 1)
    altered = replace(run.last(K.ASKED), fields=(("check", "guess"),))
    with pytest.raises(GuardError, match=r"cannot follow .*guess"):
        fold(run.manager.state, altered)
