"""What can explain an incident: the named fault and its rivals as bars, and older journals as they are written."""

from __future__ import annotations

import re

from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.report.explanations import explanations
from rftfm_ray.runs.incidents import Incident, incidents_of
from rftfm_ray.types import StepId

RIVALS = "CA-3 20%, would show in sample_mismatch_rate; UNKNOWN 4%; PG-1 <1%, explains less; PG-2 0%, explains less"


def incident_of(rivals: str, **fields: Scalar) -> Incident:
    """An incident with one diagnosis."""
    values = tuple({"code": "CA-2", "rivals": rivals, **fields}.items())
    (incident,) = incidents_of([Entry(1, EntryKind.OPENED, StepId(0, 6, 6), 1, values)])
    return incident


def rows_of(html: str) -> list[tuple[str, ...]]:
    """Code, width of the bar, probability and what speaks against, row by row."""
    row = r'<b>(.*?)</b>.*?width:(\d+)%.*?class="percent">(.*?)</span><span class="muted">(.*?)</span>'
    return re.findall(row, html)


def test_named_fault_stands_first_and_rivals_without_a_chance_are_left_out() -> None:
    assert rows_of(explanations(incident_of(RIVALS, probability=0.7612))) == [
        ("CA-2", "76", "76%", ""),
        ("CA-3", "20", "20%", "would show in sample_mismatch_rate"),
        ("UNKNOWN", "4", "4%", ""),
    ]


def test_certainty_is_never_claimed_and_no_bar_is_longer_than_its_field() -> None:
    assert rows_of(explanations(incident_of("CA-3 >99%, explains less", probability=0.999))) == [
        ("CA-2", "100", "&gt;99%", ""),
        ("CA-3", "99", "&gt;99%", "explains less"),
    ]
    assert rows_of(explanations(incident_of("CA-3 300%", probability=7.0)))[0][1:3] == ("100", "&gt;99%")


def test_text_that_gives_no_shares_is_shown_as_it_is_and_nothing_without_rivals() -> None:
    assert explanations(incident_of("<b>PG-9</b> unlikely; CA-3 20%")) == "&lt;b&gt;PG-9&lt;/b&gt; unlikely; CA-3 20%"
    assert explanations(incident_of("", probability=0.9)) == ""
    assert explanations(incident_of("PG-1 <1%, explains less", probability=0.9)) == ""


def test_what_speaks_against_a_rival_is_escaped() -> None:
    html = explanations(incident_of('CA-3 20%, <img src="evil">', probability=0.7))
    assert "<img" not in html
    assert "&lt;img" in html
