"""The signals that an incident rests on: which are drawn, and where its onset, alarm and remedies are marked."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from rftfm_ray.config import RunConfig
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.report.charts import Marks
from rftfm_ray.report.convicted import MOST, convicted, marks_of_incident, onset_of, signals_of, usual_of, with_gaps
from rftfm_ray.runs.incidents import Incident, incidents_of, marks
from rftfm_ray.runs.reader import RunData, Steps
from rftfm_ray.signals.schema import SIGNALS
from rftfm_ray.types import StepId

K = EntryKind
LIMITS = (0.5, 15.5)
# Steps 1 to 6; a rollback to step 3 at consumed step 6; then steps 4 to 12 as consumed steps 7 to 15.
IDS = (*(StepId(0, n, n) for n in range(1, 7)), *(StepId(1, n, n + 3) for n in range(4, 13)))
ABANDONED = tuple(id_.attempt == 0 and id_.step > 3 for id_ in IDS)


def run_of(columns: dict[str, tuple[float, ...]]) -> RunData:
    """A run with rows and nothing else."""
    return RunData(Path("run"), RunConfig(), Steps(IDS, ABANDONED, columns), (), (), (), (), {}, journalled=True)


def incident_of(at: StepId, **fields: Scalar) -> Incident:
    """An incident with one diagnosis."""
    values = tuple({"code": "OD-1", **fields}.items())
    (incident,) = incidents_of([Entry(1, K.OPENED, at, 1, values), Entry(2, K.DIAGNOSED, at, 1, values)])
    return incident


RISING = tuple(float(n) for n in range(len(IDS)))


def test_signals_are_those_of_the_diagnosis_in_its_order() -> None:
    at = StepId(1, 6, 9)
    assert signals_of(incident_of(at, signals="kl_ref,no_signal,entropy,kl_ref", evidence="lr is 3")) == [
        "kl_ref", "entropy",
    ]  # fmt: skip


def test_older_journals_name_signals_in_their_evidence_alone() -> None:
    evidence = "tool_error_rate is 0.802 of 101, where 0.02 is usual; kl_ref is 5.7, 160 times what it was before"
    assert signals_of(incident_of(StepId(1, 6, 9), evidence=evidence)) == ["tool_error_rate", "kl_ref"]


def test_each_convicting_signal_is_drawn_with_its_marks() -> None:
    incident = incident_of(StepId(1, 8, 11), onset=7, signals="kl_ref,entropy")
    applied = Entry(4, K.APPLIED, StepId(1, 9, 12), 1, (("remedy", "go_back"), ("role", "remedy")))
    (incident,) = incidents_of([*incident.entries, applied])
    html = convicted(run_of({"kl_ref": RISING, "entropy": RISING}), incident, marks((incident,)), LIMITS)
    assert html.count("<figure>") == 2
    for name in ("kl_ref", "entropy"):
        for gid in (f"kept-{name}", f"abandoned-{name}", "onset-1", "alarm-1", "remedy-1"):
            assert f'id="incident-1-{name}-{gid}"' in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_signal_without_values_is_left_out_and_nothing_is_drawn_without_any() -> None:
    incident = incident_of(StepId(1, 8, 11), onset=7, signals="kl_ref,entropy")
    nans = (math.nan,) * len(IDS)
    assert convicted(run_of({"kl_ref": RISING, "entropy": nans}), incident, (), LIMITS).count("<figure>") == 1
    assert convicted(run_of({}), incident, (), LIMITS) == ""


def test_more_signals_than_can_be_looked_at_are_named() -> None:
    names = [signal.name for signal in SIGNALS[: MOST + 2]]
    html = convicted(run_of(dict.fromkeys(names, RISING)), incident_of(StepId(1, 8, 11), signals=",".join(names)), (),
                     LIMITS)  # fmt: skip
    assert html.count("<figure>") == MOST
    assert f"Also: {names[-2]} and {names[-1]}." in html


@pytest.mark.parametrize(
    ("onset", "opened", "expected"),
    [
        (
            5,
            StepId(1, 8, 11),
            8.0,
        ),  # Step 5 was made twice: as consumed step 5, which was undone, and as consumed step 8.
        (5, StepId(0, 6, 6), 5.0),
        (2, StepId(1, 8, 11), 2.0),  # Before the rollback's target.
        (20, StepId(1, 12, 15), 15.0),  # A step that was never made cannot lie after the opening.
        (None, StepId(1, 8, 11), None),
    ],
)
def test_onset_is_marked_at_the_paid_step_before_the_opening(
    onset: int | None, opened: StepId, expected: float | None
) -> None:
    fields: dict[str, Scalar] = {} if onset is None else {"onset": onset}
    assert onset_of(run_of({}), incident_of(opened, **fields)) == expected


def test_what_was_usual_is_drawn_where_enough_steps_lie_before_the_onset() -> None:
    data, incident = run_of({"kl_ref": RISING}), incident_of(StepId(1, 8, 11), onset=7, signals="kl_ref")
    # Consumed steps 1 to 3 and 7 to 9 lie before the onset at consumed step 10; 4 to 6 were undone.
    assert onset_of(data, incident) == 10
    assert usual_of(data, incident, "kl_ref") == pytest.approx((0.5, 7.5))
    html = convicted(data, incident, (), LIMITS)
    assert 'id="incident-1-kl_ref-usual"' in html
    assert "green: usual before the onset (10 % to 90 % of its steps)" in html
    early = incident_of(StepId(0, 5, 5), onset=5, signals="kl_ref")
    assert usual_of(data, early, "kl_ref") is None
    assert "usual" not in convicted(data, early, (), LIMITS)


def test_onset_and_alarm_at_one_step_share_a_mark() -> None:
    data = run_of({})
    assert marks_of_incident(data, incident_of(StepId(1, 8, 11), onset=8), (), LIMITS) == Marks(
        LIMITS, alarms=(("onset, alarm", 11.0),)
    )
    assert marks_of_incident(data, incident_of(StepId(1, 8, 11), onset=7), (), LIMITS) == Marks(
        LIMITS, onsets=(("onset", 10.0),), alarms=(("alarm", 11.0),)
    )


def test_gaps_are_worked_out_from_the_rows() -> None:
    columns = {"correct_rate": (0.5,) * len(IDS), "probe_accuracy": (0.75,) * len(IDS)}
    assert with_gaps(run_of(columns).steps).column("probe_gap") == (-0.25,) * len(IDS)
