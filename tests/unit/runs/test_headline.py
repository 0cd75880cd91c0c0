"""A run in one line, and the advice beside it: they claim nothing that the journal does not say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rftfm_ray.config import parse_config
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.runs.advice import Advice, advice
from rftfm_ray.runs.headline import headline
from rftfm_ray.runs.incidents import incidents_of, marks
from rftfm_ray.runs.reader import Probe, RunData, Steps
from rftfm_ray.types import StepId

K = EntryKind
Line = tuple[EntryKind, int, int, dict[str, Scalar]]
OD: dict[str, Scalar] = {"code": "OD-1", "family": "OD", "onset": 5, "probability": 0.9}
OPENED: Line = (K.OPENED, 6, 1, OD)
ACTED: tuple[Line, ...] = (
    OPENED,
    (K.DECIDED, 7, 1, {"order": 1, "remedy": "lower_rate"}),
    (K.APPLIED, 8, 1, {"order": 1, "remedy": "lower_rate", "role": "remedy"}),
)


def run_of(story: tuple[Line, ...], mode: str = "act", *, policy: str = "playbook", summary: bool = True) -> RunData:
    """A run of 12 steps with a journal."""
    started: Line = (K.STARTED, 0, 0, {"mode": mode, "act_on": "TE", "policy": policy})
    ended: Line = (K.ENDED, 12, 0, {})
    entries = tuple(
        Entry(n, kind, StepId(0, at, at), about, tuple(fields.items()))
        for n, (kind, at, about, fields) in enumerate((started, *story, ended), start=1)
    )
    config = parse_config({"steps": 12, "guard": {"mode": mode, "policy": None if policy == "playbook" else policy}})
    told = {"steps": 12} if summary else {}
    return RunData(Path("/runs/a run"), config, Steps((), (), {}), (), entries, (), (), told, journalled=True)


def line_of(story: tuple[Line, ...], mode: str = "act", *, summary: bool = True) -> str:
    """The line of a run."""
    data = run_of(story, mode, summary=summary)
    incidents = incidents_of(data.entries)
    return headline(data, incidents, marks(incidents))


def test_run_without_an_incident_says_so() -> None:
    assert line_of(()) == "Finished at step 12 of 12. No incident."
    assert line_of((), summary=False) == "Still running at step 12 of 12. No incident."


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (None, "not verified; still open"),
        ("resolved", "verified: resolved; still open"),
        ("mitigated", "verified: mitigated, its cause is still active; still open"),
        ("ineffective", "verified: it did not help; still open"),
        ("harmful", "verified: it did harm; still open"),
        ("unverified", "not known whether it worked (unverified); still open"),
        ("word of tomorrow", "not known whether it worked (word of tomorrow); still open"),
    ],
)
def test_success_is_claimed_only_where_it_was_verified(outcome: str | None, words: str) -> None:
    judged: tuple[Line, ...] = () if outcome is None else ((K.OUTCOME, 11, 1, {"order": 1, "outcome": outcome}),)
    begin = "Finished at step 12 of 12. OD-1 (KL Explosion) since about step 5; lower_rate applied at step 8; "
    assert line_of((*ACTED, *judged)) == f"{begin}{words}."


def test_nothing_done_is_said_with_the_mode() -> None:
    line = line_of((OPENED,), "observe")
    assert line.endswith("OD-1 (KL Explosion) since about step 5; nothing was done (guard.mode=observe); still open.")
    escalated: tuple[Line, ...] = (OPENED, (K.CLOSED, 9, 1, {"state": "escalated"}))
    assert line_of(escalated).endswith("; nothing was done; escalated to a person.")


def test_many_incidents_are_counted_by_fault_and_unknown_faults_have_no_code() -> None:
    story: tuple[Line, ...] = (
        *((K.OPENED, n, n, OD) for n in (1, 2, 3)),
        (K.OPENED, 4, 4, {"code": "UNKNOWN", "family": "UNKNOWN"}),
        (K.OPENED, 5, 5, {"code": "VERIFIER", "family": "?"}),
    )
    line = line_of(story)
    assert "5 incidents: OD-1 (KL Explosion) 3 times, an unknown fault and VERIFIER" in line
    assert line.endswith("5 still open.")


def test_each_incident_counts_by_its_last_remedy() -> None:
    second: tuple[Line, ...] = (
        (K.OUTCOME, 9, 1, {"order": 1, "outcome": "ineffective"}),
        (K.DECIDED, 9, 1, {"order": 2, "remedy": "go_back"}),
        (K.APPLIED, 10, 1, {"order": 2, "remedy": "go_back", "role": "remedy"}),
        (K.OUTCOME, 12, 1, {"order": 2, "outcome": "resolved"}),
        (K.CLOSED, 12, 1, {"state": "resolved"}),
    )
    assert line_of((*ACTED, *second)).endswith(
        "lower_rate applied at step 8 and go_back at step 10; verified: resolved."
    )


def test_problem_of_the_last_state_is_said_with_the_end() -> None:
    data = run_of(())
    probes = (Probe(5, 5, 0.9, abandoned=False, size=1024), Probe(12, 12, 0.125, abandoned=False, size=1024))
    harmed = replace(data, probes=probes)
    assert headline(harmed, (), ()) == (
        "Finished at step 12 of 12, with a problem: Held-out accuracy began at 0.900 and ended at 0.125. No incident."
    )
    assert "problem" not in headline(replace(harmed, summary={}), (), ())


def test_unguarded_run_claims_no_health() -> None:
    data = run_of((), "off")
    unguarded = RunData(data.run_dir, data.config, data.steps, (), (), (), (), data.summary, journalled=False)
    assert headline(unguarded, (), ()).endswith("Nothing watched this run.")


def advised(story: tuple[Line, ...], mode: str = "observe", policy: str = "playbook") -> Advice:
    """The advice of a run."""
    data = run_of(story, mode, policy=policy)
    return advice(data, incidents_of(data.entries))


def test_observed_incident_comes_with_what_act_would_do_and_its_command() -> None:
    found = advised((OPENED,))
    (sentence,) = found.sentences
    assert sentence.startswith("Incident #1 (OD-1): if it may act, the guard tries ")
    assert found.command == "rftfm train '/runs/a run/config.yaml' --guard act 'guard.act_on=[OD,TE]'"


def test_advised_remedy_is_what_act_would_have_applied() -> None:
    found = advised((OPENED, (K.ADVISED, 7, 1, {"remedy": "lower_rate"})), "advise")
    assert found.sentences == ("Incident #1 (OD-1): if it may act, the guard applies lower_rate.",)


def test_family_that_act_does_not_cover_is_advised_on() -> None:
    found = advised((OPENED, (K.ADVISED, 7, 1, {"remedy": "lower_rate"})), "act")
    assert found.command.endswith("--guard act 'guard.act_on=[OD,TE]'")


def test_policy_of_the_user_is_not_guessed() -> None:
    assert advised((OPENED,), policy="mine.py:Own").sentences == (
        "Incident #1 (OD-1): if the guard may act, the policy mine.py:Own decides.",
    )


def test_no_command_where_nothing_has_a_remedy() -> None:
    found = advised(((K.OPENED, 6, 1, {"code": "UNKNOWN", "family": "UNKNOWN"}),))
    assert "has no remedy for it" in found.sentences[0]
    assert found.command == ""


@pytest.mark.parametrize(("story", "mode"), [((), "observe"), ((OPENED,), "act")])
def test_no_advice_without_an_incident_or_where_the_guard_acts(story: tuple[Line, ...], mode: str) -> None:
    assert advised(story, mode) == Advice()


def test_advice_about_what_only_went_silent_stays() -> None:
    found = advised((OPENED, (K.CLOSED, 9, 1, {"state": "cleared"})))
    assert found.sentences[0].startswith("Incident #1 (OD-1): if it may act, the guard tries ")
    assert found.command == advised((OPENED,)).command != ""


def test_no_advice_about_what_is_resolved() -> None:
    assert advised((OPENED, (K.CLOSED, 9, 1, {"state": "resolved"}))) == Advice()


def test_no_advice_about_what_a_person_has_had_done() -> None:
    advice_on: Line = (K.ADVISED, 7, 1, {"order": 1, "remedy": "lower_rate"})
    approved: Line = (K.APPROVED, 8, 1, {"order": 2, "remedy": "lower_rate", "by": "ada"})
    applied: Line = (K.APPLIED, 8, 1, {"order": 2, "remedy": "lower_rate", "role": "remedy"})
    assert advised((OPENED, advice_on, approved, applied), "advise") == Advice()
    assert advised((OPENED, advice_on, approved), "advise") != Advice()


def test_no_advice_to_train_again_where_the_guard_may_act_and_its_policy_asks_a_person() -> None:
    failing: Line = (K.OPENED, 6, 1, {"code": "TE-1", "family": "TE"})
    asks: Line = (K.ADVISED, 7, 1, {"order": 1, "remedy": "retry"})
    assert advised((failing, asks), "act") == Advice()
    assert advised((OPENED, asks), "act").command.endswith("'guard.act_on=[OD,TE]'"), "it may not act on OD"
