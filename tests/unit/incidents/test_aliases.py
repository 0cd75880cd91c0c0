"""Journals of older versions: their words are read as those of today.

`tests/data/journal_0_1.jsonl` was written by version 0.1, whose outcomes were called cured, contained and worse.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rftfm_ray.incidents.aliases import OLD_VALUES, current_fields, current_value
from rftfm_ray.incidents.state import EntryKind, replay
from rftfm_ray.runs.incidents import incidents_of, marks
from rftfm_ray.runs.verdict import tone_of_result
from rftfm_ray.runs.words import describe
from rftfm_ray.telemetry.journal import read_journal
from rftfm_ray.verdicts import IncidentState, OutcomeKind

OLD = Path(__file__).parents[2] / "data" / "journal_0_1.jsonl"


def test_old_journal_holds_every_old_word() -> None:
    text = OLD.read_text(encoding="utf-8")
    assert all(f'"{field}": "{old}"' in text for field, words in OLD_VALUES.items() for old in words)


def test_old_journal_is_read_in_the_words_of_today() -> None:
    entries, times = read_journal(OLD)
    assert len(entries) == len(times) == 30
    outcomes = [entry.text("outcome") for entry in entries if entry.kind is EntryKind.OUTCOME]
    assert outcomes == ["mitigated", "resolved", "harmful"]
    state = replay(entries)
    assert [tried.outcome for incident in state.incidents for tried in incident.tried] == [
        OutcomeKind.MITIGATED, OutcomeKind.RESOLVED, OutcomeKind.HARMFUL, None,
    ]  # fmt: skip


def test_old_journal_is_told_like_a_new_one() -> None:
    entries, _ = read_journal(OLD)
    incidents = incidents_of(entries)
    states = [IncidentState.RESOLVED, IncidentState.RESOLVED, IncidentState.VERIFYING]
    assert [incident.state for incident in incidents] == states == [i.state for i in replay(entries).incidents]
    remedies = marks(incidents)
    assert [tone_of_result(mark.remediation) for mark in remedies] == ["good", "good", "bad", "open"]
    said = [describe(entry)[0] for entry in entries if entry.kind is EntryKind.OUTCOME]
    assert [words.split()[1] for words in said] == ["mitigated", "resolved", "harmful"]


def test_incident_that_silence_closed_was_not_resolved() -> None:
    old = {"state": "resolved", "reason": "the alarm cleared without a remedy"}
    assert current_fields(old) == old | {"state": "cleared"}
    for closed in (old | {"reason": "resolved by regrade"}, old | {"state": "given_up"}, {"state": "resolved"}):
        assert current_fields(closed) == closed


@pytest.mark.parametrize("field", OLD_VALUES)
def test_words_of_today_stay_as_they_are(field: str) -> None:
    for new in OLD_VALUES[field].values():
        assert current_value(field, new) == new
    assert current_value("reason", "cured") == "cured", "only in the fields that held them"
    assert (current_value(field, None), current_value(field, 3)) == (None, 3)
