"""The ledger after a restart: entries that the journal holds are made again and compared, and not written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rftfm_ray.errors import GuardError
from rftfm_ray.incidents.ledger import Journalled, Ledger
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.types import StepId

STEP = StepId(0, 6, 6)
OPENED: dict[str, Scalar] = {"code": "TE-1", "family": "TE", "onset": 6, "onset_low": 5, "probability": 0.75}


def story(ledger: Ledger) -> None:
    """Three entries."""
    ledger.note(EntryKind.STARTED, StepId(0, 0, 0), 0, mode="act")
    ledger.note(EntryKind.OPENED, STEP, 1, **OPENED)
    ledger.note(EntryKind.CLOSED, STEP, 1, state="resolved", reason="it cleared")


@pytest.mark.parametrize("seq", range(4))
@pytest.mark.parametrize("journalled", range(4))
def test_entries_that_are_journalled_are_not_written_again(seq: int, journalled: int) -> None:
    written: list[Entry] = []
    first = Ledger(written.append)
    story(first)
    if seq > journalled:
        return
    known, seen, new = tuple(written[:journalled]), list[Entry](), list[Entry]()
    ledger = Ledger(new.append, Journalled(known, seq, seen.append))
    again = Ledger(lambda entry: None)
    story(again)
    for entry in written[seq:]:
        ledger.write(entry.kind, entry.id, entry.incident, entry.fields)
    assert (seen, new) == (written[seq:journalled], written[journalled:])
    assert ledger.state == first.state == again.state
    assert ledger.seq == 3


def test_journalled_figure_counts_where_the_new_one_differs_in_its_last_digit() -> None:
    written: list[Entry] = []
    story(Ledger(written.append))
    ledger = Ledger(written.append, Journalled(tuple(written)))
    ledger.note(EntryKind.STARTED, StepId(0, 0, 0), 0, mode="act")
    entry = ledger.note(EntryKind.OPENED, STEP, 1, **{**OPENED, "probability": 0.7500001})
    assert dict(entry.fields)["probability"] == 0.75
    assert len(written) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"kind": EntryKind.HELD},
        {"id": StepId(0, 7, 7)},
        {"incident": 2},
        {"fields": tuple({**OPENED, "code": "TE-2"}.items())},
    ],
)
def test_another_decision_than_the_journalled_is_refused(other: dict[str, object]) -> None:
    written: list[Entry] = []
    story(Ledger(written.append))
    written[1] = replace(written[1], **other)  # type: ignore[arg-type]
    ledger = Ledger(written.append, Journalled(tuple(written)))
    ledger.note(EntryKind.STARTED, StepId(0, 0, 0), 0, mode="act")
    with pytest.raises(GuardError, match=r"Journal entry 2 says .* start the run again"):
        ledger.note(EntryKind.OPENED, STEP, 1, **OPENED)
    assert len(written) == 3
