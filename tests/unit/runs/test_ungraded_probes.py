"""Held-out probes that no verifier graded, from the records of a run to what is said of its end."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rftfm_ray.cli.status import standing
from rftfm_ray.config import load_config
from rftfm_ray.report import build_report
from rftfm_ray.runs.ending import ending_problems
from rftfm_ray.runs.reader import RunData, read_run
from rftfm_ray.runs.verdict import figures
from rftfm_ray.telemetry.parts import PartFolder
from rftfm_ray.telemetry.recorder import STEP_SCHEMA
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import ProbeResult, StepId
from tests.unit.doubles import row

NAN = math.nan


def recorded(folder: Path, *accuracies: float) -> RunData:
    """A finished run of two steps with these probes, as its records tell it; NaN: the verifier failed."""
    with RunRecords(folder, "run", load_config(None, ["steps=2"])) as records:
        for step, accuracy in enumerate(accuracies):
            size, lost = (0, 64) if math.isnan(accuracy) else (64, 0)
            records.probe(ProbeResult(step, step, accuracy, size, NAN, 0, 0.1, lost), StepId(0, step, step))
    PartFolder(folder / "steps", STEP_SCHEMA).write([row(StepId(0, n, n), lr=1e-3) for n in (1, 2)])
    (folder / "summary.json").write_text('{"steps": 2}')
    return read_run(folder)


@pytest.mark.parametrize(
    ("accuracies", "kinds"),
    [((0.5, 0.75), []), ((0.5, NAN, 0.75), []), ((0.5, 0.75, NAN), ["ungraded"]), ((NAN, NAN), ["ungraded"])],
)
def test_probe_that_was_not_graded_is_in_the_records_of_the_end(
    tmp_path: Path, accuracies: tuple[float, ...], kinds: list[str]
) -> None:
    data = recorded(tmp_path, *accuracies)
    assert len(data.probes) == len(accuracies)
    assert [problem.kind for problem in ending_problems(data)] == kinds
    stated = standing(data)
    assert len(stated["ending"]) == len(kinds)
    known = [accuracy for accuracy in accuracies if not math.isnan(accuracy)]
    assert [probe.accuracy for probe in data.graded] == known
    if known:
        assert stated["probe"]["accuracy"] == figures(data).probe_last == known[-1], "the last one that is known"
    else:
        assert stated["probe"] is None
    page = build_report(tmp_path)
    assert ("how good the model is at the end is not known" in page) == bool(kinds)
    assert ("Held-out accuracy" in page) >= bool(known)


def test_damaged_event_is_no_probe(tmp_path: Path) -> None:
    with RunRecords(tmp_path, "run", load_config(None, [])) as records:
        records.event("probe", StepId(0, 1, 1), accuracy="high", ungraded=0)
        records.event("probe", StepId(0, 1, 1), accuracy=NAN)
    PartFolder(tmp_path / "steps", STEP_SCHEMA).write([row(StepId(0, 1, 1))])
    assert read_run(tmp_path).probes == ()
