"""What the page says first: the run in one line, the advice, and the signals of its incidents; and unknown words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rftfm_ray.config import parse_config
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.report import build_report
from rftfm_ray.report.sections import incident_section
from rftfm_ray.runs.incidents import incidents_of, marks
from rftfm_ray.telemetry.journal import JOURNAL, Journal
from rftfm_ray.telemetry.parts import PartFolder
from rftfm_ray.telemetry.recorder import STEP_SCHEMA
from rftfm_ray.types import StepId
from tests.unit.doubles import row

K = EntryKind
Line = tuple[EntryKind, int, int, dict[str, Scalar]]
OD: dict[str, Scalar] = {
    "code": "OD-1",
    "family": "OD",
    "onset": 4,
    "probability": 0.9,
    "signals": "reward_mean,kl_ref",
}
# Words that this version does not have: a fault, an outcome and a state.
UNKNOWN_WORDS: tuple[Line, ...] = (
    (K.OPENED, 5, 1, {"code": "WEATHER", "family": "WEATHER"}),
    (K.DECIDED, 5, 1, {"order": 1, "remedy": "wait"}),
    (K.APPLIED, 6, 1, {"order": 1, "remedy": "wait", "role": "remedy"}),
    (K.OUTCOME, 8, 1, {"order": 1, "outcome": "unverified"}),
    (K.CLOSED, 8, 1, {"state": "handed_over"}),
)


def page_of(folder: Path, mode: str, story: tuple[Line, ...]) -> str:
    """The report of a run of eight steps with a journal."""
    (folder / "config.yaml").write_text(parse_config({"steps": 8, "guard": {"mode": mode}}).to_yaml())
    PartFolder(folder / "steps", STEP_SCHEMA).write([row(StepId(0, n, n)) for n in range(1, 9)])
    journal = Journal(folder / JOURNAL)
    started: Line = (K.STARTED, 0, 0, {"mode": mode, "act_on": "TE", "policy": "playbook"})
    for number, (kind, at, about, fields) in enumerate((started, *story), start=1):
        journal.write(Entry(number, kind, StepId(0, at, at), about, tuple(fields.items())))
    return build_report(folder)


def test_the_verdict_comes_before_everything_else(tmp_path: Path) -> None:
    page = page_of(tmp_path, "observe", ((K.OPENED, 5, 1, OD),))
    line = re.search(r'<p class="headline (\w+)">(.*?)</p>', page)
    assert line is not None
    assert line[1] == "open"
    assert line[2].startswith("Still running at step 8 of 8. OD-1 (KL Explosion) since about step 4; nothing was done")
    assert page.index("headline open") < page.index('class="about"') < page.index('class="tiles"')


def test_observed_incident_comes_with_the_command_that_lets_the_guard_act(tmp_path: Path) -> None:
    page = page_of(tmp_path, "observe", ((K.OPENED, 5, 1, OD),))
    assert f"<code>rftfm train {tmp_path}/config.yaml --guard act &#x27;guard.act_on=[OD,TE]&#x27;</code>" in page
    assert "if it may act, the guard tries" in page


def test_signals_of_an_incident_are_drawn_in_its_card(tmp_path: Path) -> None:
    page = page_of(tmp_path, "observe", ((K.OPENED, 5, 1, OD),))
    card = page[page.index('id="incident-1"') :]
    assert card.count("<figure>") == 2
    assert "Signals that it rests on" in card


@pytest.mark.parametrize("mode", ["act", "observe"])
def test_words_of_another_version_are_shown_and_claim_nothing(tmp_path: Path, mode: str) -> None:
    page = page_of(tmp_path, mode, UNKNOWN_WORDS)
    assert "WEATHER since about step 5; wait applied at step 6; not known whether it worked (unverified)" in page
    assert '<span class="badge open">unverified</span>' in page
    assert '<span class="badge open">handed over</span>' in page


def test_badge_of_a_run_that_ended_with_an_open_incident_is_not_that_of_a_good_one(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"reward_first": 0.5}')
    page = page_of(tmp_path, "observe", ((K.OPENED, 5, 1, OD), (K.DIAGNOSED, 5, 1, OD)))
    assert '<span class="badge bad">finished with problems</span>' in page
    assert '<p class="headline bad">Finished at step 8 of 8. OD-1' in page


def test_remedy_that_was_not_carried_out_is_not_among_what_was_done() -> None:
    place = StepId(0, 20, 20)
    told: tuple[tuple[EntryKind, dict[str, Scalar]], ...] = (
        (EntryKind.OPENED, {"code": "OD-1", "family": "OD", "onset": 20, "onset_low": 20, "probability": 0.9}),
        (EntryKind.DECIDED, {"order": 1, "remedy": "rollback_lower_rate", "restore_step": 15}),
        (EntryKind.UNCONFIRMED, {"order": 1, "reason": "held-out accuracy stands"}),
        (EntryKind.DECIDED, {"order": 2, "remedy": "lower_rate"}),
        (EntryKind.APPLIED, {"order": 2, "remedy": "lower_rate", "role": "remedy"}),
    )
    entries = [Entry(n, kind, place, 1, tuple(fields.items())) for n, (kind, fields) in enumerate(told, start=1)]
    (incident,) = incidents_of(entries)
    html = str(incident_section(incident, marks([incident])))
    done, others = html.index("What was done"), html.index("Not carried out")
    assert done < html.index("1. lower_rate") < others < html.index("rollback_lower_rate<") < html.index("Course")
    (only,) = incidents_of(entries[:3])
    assert "What was done" not in str(incident_section(only, ()))
