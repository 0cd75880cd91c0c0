"""Counts of incidents and remedies: the same in every command, in the report, and in the guard's own totals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rftfm_ray.cli.app import app
from rftfm_ray.cli.status import standing
from rftfm_ray.cli.train import summary_table
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar, replay
from rftfm_ray.incidents.summaries import summarize
from rftfm_ray.report import build_report
from rftfm_ray.runs.counts import Counts, counts_of, summaries_of
from rftfm_ray.runs.healthy import read_candidate
from rftfm_ray.runs.incidents import incidents_of
from rftfm_ray.runs.reader import read_run
from rftfm_ray.telemetry.journal import JOURNAL, Journal, read_journal
from rftfm_ray.telemetry.parts import PartFolder
from rftfm_ray.telemetry.recorder import STEP_SCHEMA
from rftfm_ray.types import RunSummary, StepId
from tests.unit.doubles import row

DATA = Path(__file__).parents[2] / "data"
K = EntryKind
Line = tuple[EntryKind, StepId, int, dict[str, Scalar]]
TE: dict[str, Scalar] = {"code": "TE-1", "family": "TE", "onset": 3, "onset_low": 3, "probability": 0.9}
# A remedy, its undo, a second one, the return of its lever; and an incident that is open and was only advised on.
STORY: tuple[Line, ...] = (
    (K.STARTED, StepId(0, 0, 0), 0, {"mode": "act", "act_on": "TE", "policy": "playbook"}),
    (K.OPENED, StepId(0, 4, 4), 1, TE),
    (K.DIAGNOSED, StepId(0, 4, 4), 1, TE),
    (K.DECIDED, StepId(0, 4, 4), 1, {"order": 1, "remedy": "retry", "lever_tool_retries": 2}),
    (K.APPLIED, StepId(0, 5, 5), 1, {"order": 1, "remedy": "retry", "role": "remedy", "lever_tool_retries": 2}),
    (K.OUTCOME, StepId(0, 6, 6), 1, {"outcome": "ineffective", "remedy": "retry"}),
    (K.RETURNING, StepId(0, 6, 6), 1, {"order": 2, "remedy": "undo retry"}),
    (K.APPLIED, StepId(0, 7, 7), 1, {"order": 2, "remedy": "undo retry", "role": "undo"}),
    (K.DECIDED, StepId(0, 7, 7), 1, {"order": 3, "remedy": "refill", "lever_refill_rounds": 1}),
    (K.APPLIED, StepId(0, 8, 8), 1, {"order": 3, "remedy": "refill", "role": "remedy", "lever_refill_rounds": 1}),
    (K.OUTCOME, StepId(0, 9, 9), 1, {"outcome": "resolved", "remedy": "refill"}),
    (K.CLOSED, StepId(0, 9, 9), 1, {"state": "resolved", "reason": "refill"}),
    (K.OPENED, StepId(0, 10, 10), 2, {**TE, "code": "OD-1", "family": "OD"}),
    (K.DIAGNOSED, StepId(0, 10, 10), 2, {**TE, "code": "OD-1", "family": "OD"}),
    (K.ADVISED, StepId(0, 10, 10), 2, {"remedy": "lower_rate"}),
    (K.ENDED, StepId(0, 12, 12), 0, {"incidents": 2, "remedies": 2, "open": 1}),
)  # fmt: skip


def entries_of(story: tuple[Line, ...]) -> tuple[Entry, ...]:
    """The lines as journal entries."""
    return tuple(Entry(n, kind, at, about, tuple(f.items())) for n, (kind, at, about, f) in enumerate(story, start=1))


@pytest.fixture(params=["story", *sorted(path.name for path in DATA.glob("journal*.jsonl"))])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run with one of the journals of the tests."""
    folder = tmp_path / "run"
    folder.mkdir()
    PartFolder(folder / "steps", STEP_SCHEMA).write([row(StepId(0, n, n)) for n in range(1, 13)])
    if request.param == "story":
        journal = Journal(folder / JOURNAL)
        for entry in entries_of(STORY):
            journal.write(entry)
    else:
        shutil.copy(DATA / request.param, folder / JOURNAL)
    return folder


def test_every_command_and_the_report_count_alike(run_dir: Path) -> None:
    entries, _ = read_journal(run_dir / JOURNAL)
    counts = counts_of(entries)
    state = replay(entries)
    assert counts == Counts(
        len(state.incidents), len(state.open_incidents()), sum(len(incident.tried) for incident in state.incidents)
    )

    facts = standing(read_run(run_dir))
    assert (len(facts["incidents"]), facts["remedies"]) == (counts.incidents, counts.remedies)
    assert sum(incident["open"] for incident in facts["incidents"]) == counts.open
    printed = CliRunner().invoke(app, ["status", str(run_dir)]).output
    assert f"{counts.open} open, {counts.closed} closed" in printed

    page = build_report(run_dir)
    for name, count in (("Incidents", counts.incidents), ("Remedies", counts.remedies)):
        assert f'<div class="name">{name}</div><div class="value">{count}</div>' in page

    doubt = read_candidate(str(run_dir)).doubt
    assert f"{counts.incidents} incident" in doubt
    assert f"{counts.remedies} applied remed" in doubt


def test_summary_of_a_run_lists_what_the_guard_itself_would(run_dir: Path) -> None:
    entries, _ = read_journal(run_dir / JOURNAL)
    assert summaries_of(entries) == tuple(map(summarize, replay(entries).incidents))


@pytest.mark.parametrize("outcome", ["mitigated", "resolved"])
def test_state_and_outcome_of_an_incident_agree_for_programs(tmp_path: Path, outcome: str) -> None:
    """A cause that is still active is contained by a lever that stays: nothing is resolved."""
    order: dict[str, Scalar] = {"order": 1, "remedy": "lower_rate", "role": "remedy", "lever_lr_scale": 0.1}
    story: tuple[Line, ...] = (
        (K.OPENED, StepId(0, 4, 4), 1, TE),
        (K.DECIDED, StepId(0, 4, 4), 1, order),
        (K.APPLIED, StepId(0, 5, 5), 1, order),
        (K.OUTCOME, StepId(0, 9, 9), 1, {"outcome": outcome, "remedy": "lower_rate"}),
        (K.CLOSED, StepId(0, 9, 9), 1, {"state": "resolved", "reason": f"{outcome} by it", "outcome": outcome}),
    )
    journal = Journal(tmp_path / JOURNAL)
    for entry in entries_of(story):
        journal.write(entry)
    (summary,) = summaries_of(entries_of(story))
    assert (summary.state, summary.outcome) == (outcome, outcome)
    (incident,) = standing(read_run(tmp_path))["incidents"]
    assert (incident["state"], incident["remedies"][0]["result"], incident["open"]) == (outcome, outcome, False)


def test_table_of_a_finished_run_has_the_counts_of_its_journal() -> None:
    entries, nan = entries_of(STORY), float("nan")
    counts = counts_of(entries)
    summary = RunSummary("run", 0, 12, nan, nan, nan, nan, nan, nan, nan, nan, 0, "act", summaries_of(entries),
                         counts.remedies, 12, 0)  # fmt: skip
    cells = list(summary_table(summary).columns[2].cells)
    assert cells[-1] == f"{counts.incidents}, {counts.remedies}" == "2, 2"


def test_journal_says_the_same_at_its_end(run_dir: Path) -> None:
    lines = CliRunner().invoke(app, ["journal", str(run_dir), "--json"]).output.splitlines()
    ended = [entry for entry in map(json.loads, lines) if entry["kind"] == "ended"]
    counts = counts_of(read_journal(run_dir / JOURNAL)[0])
    assert all((e["incidents"], e["remedies"]) == (counts.incidents, counts.remedies) for e in ended)


def test_incident_in_a_state_of_another_version_is_closed_once_it_was_closed() -> None:
    story: tuple[Line, ...] = (
        (K.OPENED, StepId(0, 4, 4), 1, TE),
        (K.CLOSED, StepId(0, 9, 9), 1, {"state": "handed_over"}),
    )
    (incident,) = incidents_of(entries_of(story))
    assert incident.state == "handed_over"
    assert counts_of(entries_of(story)) == Counts(1, 0, 0)
