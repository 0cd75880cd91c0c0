"""Held-out accuracy on the report's page: greedy answers, and sampled ones beside them where there are any."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rftfm_ray.config import RunConfig
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.report import build_report
from rftfm_ray.runs.reader import read_run
from rftfm_ray.telemetry.events import EventLog
from rftfm_ray.telemetry.journal import JOURNAL, Journal
from rftfm_ray.telemetry.parts import PartFolder
from rftfm_ray.telemetry.recorder import STEP_SCHEMA
from rftfm_ray.types import StepId

MakeRun = Callable[..., Path]
Probes = Mapping[int, tuple[float, float]]
NAN = math.nan


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run of eight steps with probes, by consumed step (greedy, sampled): in its rows, in its events, or both.

    With `undone`, steps 5 to 8 have been thrown away by a rollback to step 4.
    """

    def make(*, rows: Probes | None = None, events: Probes | None = None, undone: bool = False) -> Path:
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.yaml").write_text(RunConfig(steps=8).to_yaml())
        log = EventLog(folder / "events.jsonl")
        for step, (greedy, sampled) in (events or {}).items():
            log.append("probe", StepId(0, step, step), accuracy=greedy, sampled_accuracy=sampled)
        log.close()
        PartFolder(folder / "steps", STEP_SCHEMA).write([row(n, *(rows or {}).get(n, (NAN, NAN))) for n in range(1, 9)])
        if undone:
            journal = Journal(folder / JOURNAL)
            for number, kind in enumerate((EntryKind.APPLYING, EntryKind.APPLIED), start=1):
                journal.write(Entry(number, kind, StepId(0, 9, 9), 1, (("order", 1), ("restore_step", 4))))
        return folder

    return make


def row(step: int, greedy: float, sampled: float) -> dict[str, Any]:
    """A step row that holds nothing but rewards and a probe."""
    empty = {
        name: 0 if str(kind) == "int64" else NAN
        for name, kind in zip(STEP_SCHEMA.names, STEP_SCHEMA.types, strict=True)
    }
    probe = {"probe_accuracy": greedy, "probe_sampled_accuracy": sampled}
    return empty | {"step": step, "paid_step": step, "reward_mean": 0.5} | probe


def points(html: str, gid: str) -> list[tuple[float, float]]:
    """Where the markers of a line stand in the panel of probes; empty where the line is not drawn."""
    svg = html[html.index('id="probe-figure_1"') :]
    result = re.search(rf'<g id="probe-{gid}">(.*?)</g>\s*</g>', svg.split("</svg>")[0], re.DOTALL)
    marks = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', result[1]) if result else []
    return [(float(x), float(y)) for x, y in marks]


BOTH: Probes = {2: (0.5, 0.25), 4: (0.75, 0.5), 8: (1.0, 0.75)}
GREEDY: Probes = {step: (greedy, NAN) for step, (greedy, _) in BOTH.items()}


@pytest.mark.parametrize("place", ["rows", "events"])
def test_sampled_accuracy_is_drawn_below_the_greedy_one(make_run: MakeRun, place: str) -> None:
    html = build_report(make_run(**{place: BOTH}))
    surviving, sampled = points(html, "kept-probe"), points(html, "kept-sampled-probe")
    assert [x for x, _ in sampled] == [x for x, _ in surviving]
    assert len(sampled) == 3
    # The axis of a picture points down; the sampled 0.5 and 0.75 stand where the greedy ones do.
    assert all(below > above for (_, below), (_, above) in zip(sampled, surviving, strict=True))
    assert [y for _, y in sampled[1:]] == pytest.approx([y for _, y in surviving[:2]], abs=0.01)


@pytest.mark.parametrize("place", ["rows", "events"])
def test_run_without_sampled_answers_has_no_line_of_them(make_run: MakeRun, place: str) -> None:
    html = build_report(make_run(**{place: GREEDY}))
    assert len(points(html, "kept-probe")) == 3
    assert "sampled-probe" not in html


def test_probe_that_sampled_nothing_is_left_out_of_the_line(make_run: MakeRun) -> None:
    html = build_report(make_run(events={**BOTH, 4: (0.75, NAN)}))
    surviving, sampled = points(html, "kept-probe"), points(html, "kept-sampled-probe")
    assert [x for x, _ in sampled] == [x for x, _ in (surviving[0], surviving[2])]


def test_sampled_answers_of_steps_that_were_undone_are_grey_as_greedy_ones_are(make_run: MakeRun) -> None:
    html = build_report(make_run(rows=BOTH, undone=True))
    gone = points(html, "abandoned-probe")
    assert len(gone) == 1
    assert [x for x, _ in points(html, "abandoned-sampled-probe")] == [x for x, _ in gone]
    assert [x for x, _ in points(html, "kept-sampled-probe")] == [x for x, _ in points(html, "kept-probe")]
    assert len(points(html, "kept-sampled-probe")) == 2


def test_probes_are_read_from_whichever_knows_more(make_run: MakeRun) -> None:
    first_and_last = {0: (0.25, 0.125), **BOTH}
    probes = read_run(make_run(rows=GREEDY, events=first_and_last)).probes
    assert {probe.step: (probe.accuracy, probe.sampled) for probe in probes} == first_and_last


def test_probe_that_a_costly_remedy_was_confirmed_by_is_marked_as_one(make_run: MakeRun) -> None:
    run = make_run(events=BOTH)
    assert not re.findall("confirming-probe|costly remedy was", build_report(run))
    with closing(EventLog(run / "events.jsonl")) as log:
        log.append("probe", StepId(0, 6, 6), accuracy=0.664, size=256, purpose="confirm slow_down")
    assert [(p.step, p.accuracy, p.purpose) for p in read_run(run).probes if p.purpose] == [
        (6, 0.664, "confirm slow_down")
    ]
    html = build_report(run)
    assert len(points(html, "kept-probe")) == 4
    assert len(points(html, "confirming-probe-1")) == 1
    assert "probe that a costly remedy was confirmed or dropped by" in html
