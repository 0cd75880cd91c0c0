"""The summary of a run: its incidents and remedies are those of its journal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rftfm_ray.config import RunConfig
from rftfm_ray.driver.loop import Curve
from rftfm_ray.driver.run import _as_recorded, _summarize
from rftfm_ray.incidents.messages import GuardTotals
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.planning import RunPlan, plan
from rftfm_ray.telemetry.journal import JOURNAL, Journal
from rftfm_ray.telemetry.parts import PartFolder
from rftfm_ray.telemetry.recorder import STEP_SCHEMA
from rftfm_ray.types import RunSummary, StepId
from tests.unit.doubles import row

K = EntryKind
TE: dict[str, Scalar] = {"code": "TE-1", "family": "TE", "onset": 3, "onset_low": 3, "probability": 0.9}


def planned(folder: Path) -> RunPlan:
    """A plan whose records are in a folder."""
    return replace(plan(RunConfig(), folder / "run"), folder=folder)


def summary_of(folder: Path) -> RunSummary:
    """The summary of a run whose guard was lost: it has no totals to give."""
    curve = Curve(probes=[0.5, 0.75], sampled=[0.5, 0.75], rewards=[0.25] * 6, step_times_s=[0.5])
    return _as_recorded(_summarize(planned(folder), curve, 0.0, GuardTotals(waits=3), StepId(0, 6, 6)), folder)


def test_incidents_of_a_lost_guard_are_in_the_summary(tmp_path: Path) -> None:
    PartFolder(tmp_path / "steps", STEP_SCHEMA).write([row(StepId(0, n, n)) for n in range(1, 7)])
    journal = Journal(tmp_path / JOURNAL)
    lines: tuple[tuple[EntryKind, dict[str, Scalar]], ...] = (
        (K.OPENED, TE),
        (K.DIAGNOSED, TE),
        (K.DECIDED, {"order": 1, "remedy": "retry"}),
        (K.APPLIED, {"order": 1, "remedy": "retry", "role": "remedy"}),
    )
    for number, (kind, fields) in enumerate(lines, start=1):
        journal.write(Entry(number, kind, StepId(0, 4, 4), 1, tuple(fields.items())))
    summary = summary_of(tmp_path)
    assert (len(summary.incidents), summary.remedies, summary.guard_waits) == (1, 1, 3)
    assert summary.incidents[0].remedies == ("retry",)
    assert (summary.incidents[0].state, summary.incidents[0].outcome) == ("verifying", None)


def test_damaged_records_leave_the_totals_of_the_guard(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("[")
    assert (summary_of(tmp_path).incidents, summary_of(tmp_path).remedies) == ((), 0)


def test_run_without_a_journal_has_no_incidents(tmp_path: Path) -> None:
    assert (summary_of(tmp_path).incidents, summary_of(tmp_path).remedies) == ((), 0)
