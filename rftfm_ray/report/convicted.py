"""The signals that an incident rests on, over consumed steps, with its onset, its alarm and its remedies."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace

from rftfm_ray.report import charts as canvas
from rftfm_ray.report.charts import Marks
from rftfm_ray.report.curves import Line, Panel, panel_figure
from rftfm_ray.report.markup import NOTHING, Html, joined, tag
from rftfm_ray.runs.incidents import Incident, Mark
from rftfm_ray.runs.reader import RunData, Steps
from rftfm_ray.runs.words import listed, number_of
from rftfm_ray.signals.dictionary import DICTIONARY

# Signals of one incident that are drawn; the others are named.
MOST = 6
# Steps before the onset from which it is said what was usual.
LEAST_USUAL = 5
# Gaps have no column: the share of right answers in training minus that of a probe.
GAPS = {"probe_gap": "probe_accuracy", "sampled_gap": "probe_sampled_accuracy"}


def convicted(data: RunData, incident: Incident, remedies: Sequence[Mark], limits: tuple[float, float]) -> Html:
    """Figures of the signals of an incident's newest diagnosis; nothing where none of them has recorded values.

    Args:
        data: the run.
        incident: the incident.
        remedies: those of the run; the incident's own are marked.
        limits: ends of the axis, as those of the other curves.
    """
    steps = with_gaps(data.steps)
    names = [name for name in signals_of(incident) if any(map(math.isfinite, steps.column(name)))]
    if not names:
        return NOTHING
    marks, run = marks_of_incident(data, incident, remedies, limits), replace(data, steps=steps)
    with canvas.style():
        figures = [panel_figure(_panel(run, incident, name), run, marks) for name in names[:MOST]]
    more = [tag("p", f"Also: {listed(names[MOST:])}.", class_="muted")] if len(names) > MOST else []
    heading = tag("h4", "Signals that it rests on")
    return joined((heading, tag("div", *figures, class_="curves"), *more))


def signals_of(incident: Incident) -> list[str]:
    """Names of the signals of an incident's newest diagnosis, the strongest first.

    Journals of earlier versions list no signals; there the names are taken from the sentences of the evidence.
    """
    words = re.findall(r"\w+", incident.text("signals") or " ".join(incident.evidence))
    return list(dict.fromkeys(word for word in words if word in DICTIONARY))


def marks_of_incident(
    data: RunData, incident: Incident, remedies: Sequence[Mark], limits: tuple[float, float]
) -> Marks:
    """Onset, alarm and remedies of one incident."""
    onset, opened = onset_of(data, incident), float(incident.opened.paid_step)
    own = tuple((str(m.number), float(m.applied.id.paid_step)) for m in remedies if m.incident.id == incident.id)
    if onset is None or onset == opened:
        together = "alarm" if onset is None else "onset, alarm"
        return Marks(limits, remedies=own, alarms=((together, opened),))
    return Marks(limits, remedies=own, onsets=(("onset", onset),), alarms=(("alarm", opened),))


def onset_of(data: RunData, incident: Incident) -> float | None:
    """Consumed step of an incident's estimated onset; None where the journal does not say it.

    The onset is a step, which rollbacks may have repeated: the last time before the opening counts.
    """
    entry = incident.newest_with("onset")
    onset = number_of(entry, "onset") if entry is not None else math.nan
    if not math.isfinite(onset):
        return None
    opened = incident.opened
    recorded = [id_.paid_step for id_ in data.steps.ids if id_.step == onset and id_.paid_step <= opened.paid_step]
    return float(max(recorded)) if recorded else float(opened.paid_step) - max(0.0, opened.step - onset)


def with_gaps(steps: Steps) -> Steps:
    """Step rows with the gaps to the held-out accuracies, which are worked out from other columns."""
    right = steps.column("correct_rate")
    gaps = {
        gap: tuple(one - other for one, other in zip(right, steps.column(probe), strict=True))
        for gap, probe in GAPS.items()
        if gap not in steps.columns
    }
    return replace(steps, columns={**steps.columns, **gaps})


def usual_of(data: RunData, incident: Incident, name: str) -> tuple[float, float] | None:
    """Between what a signal was in most steps before an incident's onset; None where too few of them have values.

    Before the onset are rows of other steps than those that a rollback has undone and made again.
    """
    onset = onset_of(data, incident)
    until = incident.opened.paid_step if onset is None else onset
    rows = zip(data.steps.ids, data.steps.abandoned, data.steps.column(name), strict=True)
    before = sorted(v for id_, gone, v in rows if id_.paid_step < until and not gone and math.isfinite(v))
    if len(before) < LEAST_USUAL:
        return None
    low, *_, high = statistics.quantiles(before, n=10, method="inclusive")
    return low, high


def _panel(data: RunData, incident: Incident, name: str) -> Panel:
    signal, usual = DICTIONARY[name], usual_of(data, incident, name)
    unit = f" ({signal.unit})" if signal.unit else ""
    band = "" if usual is None else "; green: usual before the onset (10 % to 90 % of its steps)"
    note = signal.meaning + unit + band
    return Panel(f"incident-{incident.id}-{name}", name, note, (Line(name, name),), usual=usual, wide=True)
