"""What an incident rests on and what can explain it: signs, the named fault and its rivals as bars, old journals."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from rftfm_ray.incidents.explaining import EXPLAINED, named_fields
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.report.explanations import explanations, seen, would_tell
from rftfm_ray.runs.incidents import Incident, incidents_of
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Diagnosis, Evidence, Family, Rival, Symptom

FELL = Symptom("change", "reward_std", Evidence.TELEMETRY, True, -1, 0.25, 0.5, 2.0, 6, 4, "reward_std dropped")


def diagnosis(probability: float = 0.7612, *rivals: Rival, told: tuple[str, ...] = ()) -> Diagnosis:
    """CA-2 by one sign."""
    return Diagnosis("CA-2", Family.CA, probability, rivals, (FELL,), 6, 4, "CA-2 it is", would_tell=told)


def incident_of(**fields: Scalar) -> Incident:
    """An incident with one diagnosis."""
    (incident,) = incidents_of([Entry(1, EntryKind.OPENED, StepId(0, 6, 6), 1, tuple(fields.items()))])
    return incident


def of(found: Diagnosis) -> Incident:
    """An incident with a diagnosis as the guard writes it."""
    return incident_of(**named_fields(found))


def rows_of(html: str) -> list[tuple[str, ...]]:
    """Code, width of the bar, probability and what speaks against, row by row."""
    row = r'<b>(.*?)</b>.*?width:(\d+)%.*?class="percent">(.*?)</span><span class="muted">(.*?)</span>'
    return re.findall(row, html)


def test_named_fault_stands_first_and_rivals_without_a_chance_are_left_out() -> None:
    rivals = (
        Rival("CA-3", 0.2, "would show in sample_mismatch_rate"),
        Rival("UNKNOWN", 0.04, ""),
        Rival("PG-1", 9e-3, ""),
    )
    assert rows_of(explanations(of(diagnosis(0.7612, *rivals)))) == [
        ("CA-2", "76", "76%", ""),
        ("CA-3", "20", "20%", "would show in sample_mismatch_rate"),
        ("UNKNOWN", "4", "4%", ""),
    ]
    assert explanations(of(diagnosis(0.999, Rival("PG-1", 0.001, "explains less")))) == ""


def test_certainty_is_never_claimed_and_no_bar_is_longer_than_its_field() -> None:
    assert rows_of(explanations(of(diagnosis(0.999, Rival("CA-3", 7.0, "explains less"))))) == [
        ("CA-2", "100", "&gt;99%", ""),
        ("CA-3", "100", "&gt;99%", "explains less"),
    ]


def test_older_journals_are_shown_as_they_are_written() -> None:
    old = incident_of(
        code="CA-2", probability=0.9, rivals="<b>PG-9</b> unlikely; CA-3 20%", evidence="lr is 3; kl_ref rose"
    )
    assert explanations(old) == "&lt;b&gt;PG-9&lt;/b&gt; unlikely; CA-3 20%"
    assert seen(old) == "<ul><li>lr is 3</li><li>kl_ref rose</li></ul>"
    assert (explanations(incident_of(code="CA-2")), seen(incident_of(code="CA-2"))) == ("", "")


def test_each_sign_has_what_was_usual_what_was_observed_and_since_when() -> None:
    odd = replace(FELL, signal="loss", reference=float("nan"), value=float("inf"), onset_low=6, reason="<i>loss</i>")
    cells = re.findall(r"<td[^>]*><div>(.*?)</div></td>", seen(of(replace(diagnosis(), symptoms=(FELL, odd)))))
    assert cells == [
        "<code>reward_std</code>", "0.5", "0.25", "4 to 6", "reward_std dropped",
        "<code>loss</code>", "", "", "6", "&lt;i&gt;loss&lt;/i&gt;",
    ]  # fmt: skip


def test_what_would_tell_more_is_named() -> None:
    assert (
        would_tell(of(diagnosis(told=("golden_mismatch_rate", "update_gain"))))
        == "golden_mismatch_rate and update_gain"
    )
    assert (would_tell(of(diagnosis())), would_tell(incident_of(code="CA-2"))) == ("", "")


def test_what_speaks_against_a_rival_is_escaped() -> None:
    html = explanations(of(diagnosis(0.7, Rival("CA-3", 0.2, '<img src="evil">'))))
    assert "<img" not in html
    assert "&lt;img" in html


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"evidence": 3}', '{"evidence": [], "rivals": [{"code": 3}]}', "null"]
)
def test_field_that_holds_no_explanation_is_a_gap(text: str) -> None:
    broken = incident_of(code="CA-2", **{EXPLAINED: text})
    assert broken.explained is None
    assert (explanations(broken), seen(broken), would_tell(broken)) == ("", "", "")
