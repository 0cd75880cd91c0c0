"""What preflight found is on the report's page, and a run without preflight has no such section."""

from __future__ import annotations

from pathlib import Path

import pytest

from rftfm_ray.config import RunConfig
from rftfm_ray.driver.preflight import record
from rftfm_ray.preflight.findings import Checked, Finding, Grade, NotRun
from rftfm_ray.report import build_report
from rftfm_ray.runs.preflight import preflight_of
from rftfm_ray.runs.reader import read_run
from rftfm_ray.telemetry.records import RunRecords

FINDING = Finding(Grade.CRITICAL, "All <b>7</b> answers are paid 1.", "Nothing is learnt.", "task.name", "reward.same")


def make_run(folder: Path, checked: Checked | None) -> Path:
    """A run that has been through preflight, or not."""
    folder.mkdir()
    with RunRecords(folder, "run", RunConfig()) as records:
        if checked is not None:
            record(records, checked)
    return folder


def test_findings_are_shown_with_their_key_and_escaped(tmp_path: Path) -> None:
    checked = Checked((FINDING,), ("a", "b"), (NotRun("no time", "live.resume"),), 12, 0.5)
    page = build_report(make_run(tmp_path / "run", checked))
    assert "Before the first step" in page
    assert "All &lt;b&gt;7&lt;/b&gt; answers are paid 1. Nothing is learnt." in page
    assert "<code>task.name</code>" in page
    assert "3 checks ran. Not run: live.resume." in page


def test_clean_preflight_is_one_line(tmp_path: Path) -> None:
    page = build_report(make_run(tmp_path / "run", Checked(passed=("a", "b"))))
    assert "Before the first step 2 checks found nothing." in page
    assert "<h2>Before the first step</h2>" not in page


def test_run_without_preflight_says_nothing_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", None)
    assert "efore the first step" not in build_report(run)
    assert preflight_of(read_run(run)) is None


def test_records_are_read_back(tmp_path: Path) -> None:
    found = preflight_of(read_run(make_run(tmp_path / "run", Checked((FINDING,)))))
    assert found is not None
    assert [(f.check, f.grade, f.key) for f in found.findings] == [("reward.same", "critical", "task.name")]


@pytest.mark.parametrize("line", ['{"kind": "preflight", "checks": "x"}', '{"kind": "preflight"}'])
def test_damaged_outcome_is_shown_as_far_as_it_can_be_read(tmp_path: Path, line: str) -> None:
    run = make_run(tmp_path / "run", None)
    with (run / "events.jsonl").open("a") as file:
        file.write(line + "\n")
    assert "Before the first step 0 checks found nothing." in build_report(run)
