"""A remedy that a person has answered, as readers of a journal see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.report.sections import incident_section
from rftfm_ray.runs.incidents import incidents_of, marks
from rftfm_ray.runs.waiting import continued_in, pause_of, waiting
from rftfm_ray.runs.words import describe
from rftfm_ray.types import StepId

K = EntryKind
TE: dict[str, Scalar] = {"code": "TE-1", "family": "TE", "onset": 6, "onset_low": 5}


def story(*lines: tuple[EntryKind, dict[str, Scalar]]) -> tuple[Entry, ...]:
    """The journal of an incident with an advised remedy, and what came after."""
    advised: dict[str, Scalar] = {"order": 1, "remedy": "retry", "reason": "the tool fails"}
    every = ((K.OPENED, TE), (K.DIAGNOSED, TE), (K.ADVISED, advised), *lines)
    return tuple(Entry(n, kind, StepId(0, 6 + n, 6 + n), 1, tuple(f.items())) for n, (kind, f) in enumerate(every, 1))


CLOSED: tuple[EntryKind, dict[str, Scalar]] = (K.CLOSED, {"state": "cleared"})
APPROVED: tuple[EntryKind, dict[str, Scalar]] = (
    K.APPROVED,
    {"order": 4, "remedy": "retry", "by": "ada", "reason": "yes"},
)
REJECTED: tuple[EntryKind, dict[str, Scalar]] = (K.REJECTED, {"remedy": "retry", "by": "ada"})
APPLIED: tuple[EntryKind, dict[str, Scalar]] = (K.APPLIED, {"order": 4, "remedy": "retry", "role": "remedy"})


def test_remedy_waits_until_it_is_answered_or_its_incident_is_over() -> None:
    (decision,) = waiting(story())
    assert decision.commands(Path("/runs/a b")) == ("rftfm approve '/runs/a b' 1", "rftfm reject '/runs/a b' 1")
    for line in (APPROVED, REJECTED, CLOSED):
        assert waiting(story(line)) == ()


def test_approved_remedy_is_matched_by_the_order_that_it_was_approved_as() -> None:
    entries = story(APPROVED, APPLIED, (K.OUTCOME, {"outcome": "resolved", "remedy": "retry"}))
    (incident,) = incidents_of(entries)
    (remediation,) = incident.remediations
    assert (remediation.result, remediation.advised) == ("resolved", False)
    assert len(marks([incident])) == 1
    assert "approved by ada at step 10 — yes" in str(incident_section(incident, marks([incident])))


def test_rejected_remedy_says_who_has_turned_it_down() -> None:
    (incident,) = incidents_of(story(REJECTED))
    assert incident.remediations[0].result == "rejected by ada"
    assert incident.remediations[0].advised


def test_pause_is_over_once_the_journal_is_continued() -> None:
    paused = story((K.PAUSED, {"remedy": "retry", "waited_s": 60.4}))
    assert pause_of(story()) is None
    assert pause_of(paused) == paused[-1]
    assert pause_of((*paused, Entry(5, K.STARTED, StepId(0, 9, 9), 0))) is None


def test_run_that_nobody_has_continued(tmp_path: Path) -> None:
    assert continued_in(tmp_path) == ""


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (K.APPROVED, {"by": "ada", "remedy": "retry"}, "approved by ada: retry"),
        (K.DECLINED, {"by": "ada", "wish": "approve", "asked": 7}, "could not approve incident #7, as ada asked"),
        (K.PAUSED, {"remedy": "retry", "waited_s": 60.4}, "paused: retry has waited for a person for 60.4 s"),
        (K.HOOK_FAILED, {"name": "notify"}, "guard.on_incident=notify could not be told"),
    ],
)
def test_entries_are_told_in_plain_words(kind: EntryKind, fields: dict[str, Scalar], words: str) -> None:
    assert describe(Entry(1, kind, StepId(0, 1, 1), 0, tuple(fields.items())))[0] == words
