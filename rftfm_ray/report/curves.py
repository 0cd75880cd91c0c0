"""The curves of a report, over consumed steps: what was kept in colour, what a rollback has undone in grey."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rftfm_ray.report import charts as canvas
from rftfm_ray.report.charts import BLACK, BLUE, GREEN, GREY, SPAN, VERMILION, Marks, themed
from rftfm_ray.report.markup import Html, joined, tag
from rftfm_ray.runs.evaluations import evaluations_of
from rftfm_ray.runs.incidents import Incident, Mark
from rftfm_ray.runs.planned import changes_of, controls_of, faults_of
from rftfm_ray.runs.reader import PART, Probe, RunData
from rftfm_ray.runs.words import clean, plural
from rftfm_ray.runs.words import figure as shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT_IN = 2.05
# A panel whose largest value is this many times its median gets a logarithmic axis.
WIDE = 20.0
# Beyond it a logarithmic axis would be about its smallest values.
MOST_SPREAD = 1e4


@dataclass(frozen=True, slots=True)
class Line:
    """One column of the step rows in a panel."""

    column: str
    label: str
    colour: str = BLUE
    dash: str | tuple[int, tuple[float, ...]] = "-"


@dataclass(frozen=True, slots=True)
class Stroke:
    """Style of a line; its width in points."""

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    width: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure.

    Attributes:
        key: its identifiers begin with it.
        title: heading.
        note: what is drawn, in small letters.
        lines: columns that are drawn.
        band: columns between which it is shaded.
        usual: values between which it is shaded all along.
        wide: whether widely spread values get a logarithmic axis.
        only_if: columns of which one must exceed zero somewhere, or the panel is left out.
    """

    key: str
    title: str
    note: str
    lines: tuple[Line, ...]
    band: tuple[str, str] | None = None
    usual: tuple[float, float] | None = None
    wide: bool = False
    only_if: tuple[str, ...] = ()


_DASH = (0, (5.0, 2.0))
_DOTS = (0, (1.5, 1.5))
PART_STYLES: tuple[tuple[str, str | tuple[int, tuple[float, ...]]], ...] = (
    (BLUE, "-"), (VERMILION, _DASH), (GREEN, _DOTS), (BLACK, "-"), (BLUE, _DOTS), (VERMILION, "-"),
)  # fmt: skip
EVALUATIONS = "evaluations"
LONGEST_LABEL = 40
"""Characters of the name of a part that are shown."""
PANELS = (
    Panel("reward", "Reward", "mean of what trained; band: 10 % to 90 % of trajectories",
          (Line("reward_mean", "mean"),), ("reward_q10", "reward_q90")),
    Panel("probe", "Held-out accuracy", "on problems that are never trained on",
          (Line("probe_accuracy", "greedy"), Line("probe_sampled_accuracy", "sampled", GREEN, _DASH))),
    Panel("kl", "KL to the reference", "nats per token", (Line("kl_ref", "KL"),), wide=True),
    Panel("entropy", "Entropy", "nats per token", (Line("entropy", "entropy"),)),
    Panel("grad", "Gradient norm", "before clipping", (Line("grad_norm", "norm"),), wide=True),
    Panel("update", "Update ratio", "norm of a step's change over the norm of the weights",
          (Line("update_ratio", "ratio"),), wide=True),
    Panel("critic", "Critic", "explained variance, and bias of its values in units of the reward",
          (Line("explained_variance", "explained variance"), Line("value_bias", "bias", VERMILION, _DASH))),
    Panel("length", "Response length", "tokens; band: 10 % to 90 % of trajectories",
          (Line("length_mean", "mean"),), ("length_q10", "length_q90")),
    Panel("tools", "Tool errors", "share of calls, and of trajectories that failed by them",
          (Line("tool_error_rate", "calls in error"), Line("failed_rate", "failed trajectories", VERMILION, _DASH)),
          only_if=("tool_calls_mean",)),
    Panel("mismatch", "Reward against the trusted verifier", "share of graded trajectories that disagree",
          (Line("regrade_mismatch_rate", "live channel"),
           Line("trained_mismatch_rate", "what trained", VERMILION, _DASH)),
          only_if=("regrade_mismatch_rate", "trained_mismatch_rate")),
)  # fmt: skip


def marks_of(data: RunData, incidents: Sequence[Incident], remedies: Sequence[Mark]) -> Marks:
    """Marks of every curve, in consumed steps. An open incident lasts to the end."""
    last = float(data.position.paid_step)
    steps = [id_.paid_step for id_ in data.steps.ids] + [probe.paid_step for probe in data.probes]
    first = float(min(steps, default=0))
    limits = (first - 0.5, max(last, first + 1) + 0.5)
    ends = [limits[1] if i.closed is None else float(i.closed.id.paid_step) for i in incidents]
    return Marks(
        limits=limits,
        spans=tuple(
            (f"#{i.id}", float(i.opened.paid_step), max(float(end), i.opened.paid_step + 0.5))
            for i, end in zip(incidents, ends, strict=True)
        ),
        remedies=tuple((str(m.number), float(m.applied.id.paid_step)) for m in remedies),
        faults=tuple((f"injected {_ascii(f.code)}", float(f.onset)) for f in faults_of(data.events) if f.onset <= last),
        planned=tuple((label, step) for label, step in _planned(data) if step <= last),
    )


def _planned(data: RunData) -> Iterator[tuple[str, float]]:
    """Declared changes, and undeclared controls."""
    changes = changes_of(data.events)
    for change in changes:
        yield _ascii(change.key.rpartition(".")[2]), float(change.paid_step)
    for control in controls_of(data.events):
        if not any(change.paid_step == control.onset for change in changes):
            yield f"control {_ascii(control.name)}", float(control.onset)


def _ascii(text: str) -> str:
    """A code as a font can draw it."""
    return text.encode("ascii", "replace").decode()[:18]


def curves(data: RunData, marks: Marks) -> list[Html]:
    """A figure for every panel that has something to show."""
    with canvas.style():
        evaluated = _evaluations(evaluations_of(data))
        panels = [PANELS[0], *_reward_parts(data), PANELS[1], *evaluated, *PANELS[2:]]
        return [panel_figure(panel, data, marks) for panel in panels if _has_values(panel, data)]


def _evaluations(evaluated: Mapping[str, Sequence[Probe]]) -> list[Panel]:
    """A panel for the evaluations, where there are some; of many the first curves are drawn."""
    lines = tuple(Line(name, name, *style) for name, style in zip(evaluated, PART_STYLES, strict=False))
    rest = f"; {len(evaluated) - len(lines)} more in events.jsonl" if len(evaluated) > len(lines) else ""
    note = f"right answers to sets of problems, each answered by one version{rest}"
    return [Panel(EVALUATIONS, "Evaluations", note, lines)] if lines else []


def _reward_parts(data: RunData) -> list[Panel]:
    """A panel for the parts of the reward, where it has some; of many the first are drawn."""
    names = sorted(name for name in data.steps.columns if name.startswith(PART))
    lines = tuple(
        Line(name, clean(name.removeprefix(PART), LONGEST_LABEL), colour, dash)
        for name, (colour, dash) in zip(names, PART_STYLES, strict=False)
    )
    if not lines:
        return []
    rest = f"; {plural(len(names) - len(lines), 'part')} more in the records" if len(names) > len(lines) else ""
    note = f"means as their functions gave them, before the weights{rest}"
    return [Panel("parts", "Parts of the reward", note, lines)]


def _has_values(panel: Panel, data: RunData) -> bool:
    if panel.key in ("probe", EVALUATIONS):
        return bool(data.graded) or panel.key == EVALUATIONS
    if panel.only_if and not any(value > 0 for name in panel.only_if for value in data.steps.column(name)):
        return False
    return any(math.isfinite(value) for line in panel.lines for value in data.steps.column(line.column))


def panel_figure(panel: Panel, data: RunData, marks: Marks) -> Html:
    """The figure of a panel; to be drawn within `charts.style`."""
    drawing, (axes,) = canvas.new_figure(HEIGHT_IN)
    top = 1 - canvas.headroom_in(marks) / HEIGHT_IN
    drawing.subplots_adjust(left=0.095, right=0.985, top=top, bottom=0.36 / HEIGHT_IN)
    canvas.mark(axes, marks)
    if panel.usual is not None:
        axes.axhspan(*panel.usual, color=GREEN, alpha=0.16, linewidth=0, zorder=1.4).set_gid("usual")
    if panel.key == "probe":
        _probes(axes, data)
    elif panel.key == EVALUATIONS:
        for line, probes in zip(panel.lines, evaluations_of(data).values(), strict=False):
            drawn = [(probe, probe.accuracy) for probe in probes]
            _probe_line(axes, drawn, Stroke(line.colour, line.dash, 1.2), ("o", 3.2), line.column)
    else:
        _lines(axes, panel, data)
    note = panel.note + (_logarithmic(axes, panel, data) if panel.wide else "")
    _ticks(axes)
    axes.set_xlabel("consumed step", fontsize=canvas.LABEL_PT - 0.5, labelpad=1)
    return tag("figure", _caption(panel, note), canvas.to_svg(drawing, panel.key, f"{panel.title} over consumed steps"))


def _caption(panel: Panel, note: str) -> Html:
    several = panel.lines if len(panel.lines) > 1 else ()
    keys = [tag("small", _swatch(line), line.label) for line in several]
    return tag("figcaption", tag("span", panel.title), *keys, tag("small", note, class_="note"))


def _swatch(line: Line) -> Html:
    dashes = "" if line.dash == "-" else ";border-top-style:dashed"
    return tag("i", style=f"border-top-color:{themed(line.colour)}{dashes}")


def _lines(axes: Axes, panel: Panel, data: RunData) -> None:
    steps = data.steps
    x = [float(id_.paid_step) for id_ in steps.ids]
    if panel.band:
        low, high = (steps.column(name) for name in panel.band)
        surviving = [not gone for gone in steps.abandoned]
        axes.fill_between(x, low, high, where=surviving, color=BLUE, alpha=0.16, linewidth=0, zorder=1.5)
    for line in panel.lines:
        kept_y, gone_y = _parted(steps.column(line.column), steps.abandoned)
        abandoned = Stroke(GREY, _DASH if line.dash == "-" else _DOTS, 1.2)
        _line(axes, x, gone_y, abandoned, f"abandoned-{line.column}")
        _line(axes, x, kept_y, Stroke(line.colour, line.dash, 1.6), f"kept-{line.column}")


def _parted(values: Sequence[float], abandoned: Sequence[bool]) -> tuple[list[float], list[float]]:
    """Kept and abandoned values apart, NaN where the other is. An abandoned stretch begins at the last kept value."""
    surviving = [math.nan if gone else value for value, gone in zip(values, abandoned, strict=True)]
    undone = [value if gone else math.nan for value, gone in zip(values, abandoned, strict=True)]
    for i in range(len(values) - 1):
        if abandoned[i + 1] and not abandoned[i]:
            undone[i] = values[i]
    return surviving, undone


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], stroke: Stroke, gid: str) -> None:
    """A line with gaps at NaN; a value between two gaps, which no line would show, is a dot."""
    if not any(map(math.isfinite, y)):
        return
    padded = [math.nan, *y, math.nan]
    alone = [i for i, v in enumerate(y) if math.isfinite(v) and math.isnan(padded[i]) and math.isnan(padded[i + 2])]
    (line,) = axes.plot(x, y, color=stroke.colour, marker="o", markersize=2.6, markevery=alone, zorder=2.2)
    line.set(linestyle=stroke.dash, linewidth=stroke.width, gid=gid)


def _probes(axes: Axes, data: RunData) -> None:
    greedy = [(probe, probe.accuracy) for probe in data.graded]
    sampled = [(probe, probe.sampled) for probe in data.graded if math.isfinite(probe.sampled)]
    _probe_line(axes, greedy, Stroke(BLUE, "-", 1.2), ("o", 3.8), "probe")
    if sampled:
        _probe_line(axes, sampled, Stroke(GREEN, _DASH, 1.5), ("s", 2.8), "sampled-probe")
    for number, probe in enumerate((probe for probe in data.probes if probe.purpose), start=1):
        (diamond,) = axes.plot(probe.paid_step, probe.accuracy, color=BLACK, linestyle="", marker="D", markersize=5.5)
        diamond.set(fillstyle="none", gid=f"confirming-probe-{number}", zorder=2.3)


def _probe_line(
    axes: Axes, probes: Sequence[tuple[Probe, float]], stroke: Stroke, marker: tuple[str, float], name: str
) -> None:
    """Accuracies of one kind: kept ones in colour, undone ones as grey hollow markers on a grey line."""
    shape, size = marker
    x = [float(probe.paid_step) for probe, _ in probes]
    gone = [probe.abandoned for probe, _ in probes]
    kept_y, gone_y = _parted([value for _, value in probes], gone)
    if any(gone):
        undone = [value if probe.abandoned else math.nan for probe, value in probes]
        dash = _DASH if stroke.dash == "-" else _DOTS
        axes.plot(x, gone_y, color=GREY, linestyle=dash, linewidth=1.0, zorder=2.1)
        (dots,) = axes.plot(x, undone, color=GREY, linestyle="", marker=shape, markersize=size, fillstyle="none")
        dots.set_gid(f"abandoned-{name}")
    (line,) = axes.plot(x, kept_y, color=stroke.colour, marker=shape, markersize=size, zorder=2.2)
    line.set(linestyle=stroke.dash, linewidth=stroke.width, gid=f"kept-{name}")


def _logarithmic(axes: Axes, panel: Panel, data: RunData) -> str:
    """Make the y axis logarithmic when values spread widely; what to say about it."""
    from matplotlib.ticker import LogLocator, SymmetricalLogLocator

    values = [v for line in panel.lines for v in data.steps.column(line.column) if math.isfinite(v)]
    positive = sorted(value for value in values if value > 0)
    if len(positive) < 3 or positive[-1] < WIDE * statistics.median(positive):
        return ""
    spread = positive[-1] / positive[0]
    if len(positive) == len(values) and spread < MOST_SPREAD:
        axes.set_yscale("log")
        axes.set_ylim(positive[0] / 1.3, positive[-1] * spread**0.12)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if spread < 300 else (1.0,)))
        return "; logarithmic"
    # Zero, as the KL of the first step, has no logarithm: the axis is linear about it.
    threshold = 10.0 ** math.floor(math.log10(max(positive[len(positive) // 4], positive[-1] * 1e-6)))
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)
    axes.set_ylim(min(0.0, min(values) * 1.1), positive[-1] * (positive[-1] / threshold) ** 0.12)
    locator = SymmetricalLogLocator(base=10, linthresh=threshold)
    locator.set_params(numticks=6)
    axes.yaxis.set_major_locator(locator)
    return f"; logarithmic above {shown(threshold)}"


def _ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    if axes.get_yscale() == "linear":
        low, high = axes.get_ylim()
        # Room for the numbers of incidents above the data.
        high += 0.1 * (high - low)
        if low < 0 <= axes.dataLim.ymin:
            # Shares and norms are never negative, so neither is their axis. A line at zero keeps its full width.
            low = 0.0
            for line in axes.lines:
                line.set_clip_on(False)
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_minor_locator(NullLocator())


def key(data: RunData, marks: Marks) -> Html:
    """Legend of the colours and lines that occur."""
    items = [
        (True, f'd="M1 6H25" style="stroke:{themed(BLUE)}" stroke-width="2.2"', "kept steps"),
        (
            any(data.steps.abandoned),
            f'd="M1 6H25" style="stroke:{themed(GREY)}" stroke-width="1.8" stroke-dasharray="6 3"',
            "steps undone by a rollback",
        ),
        (
            any(probe.purpose for probe in data.probes),
            f'd="M13 1L18 6L13 11L8 6z" style="stroke:{themed(BLACK)};fill:none" stroke-width="1.4"',
            "probe that a costly remedy was confirmed or dropped by",
        ),
        (bool(marks.spans), f'd="M1 0H25V12H1z" style="fill:{themed(SPAN)}"', "incident, while it was open"),
        (
            bool(marks.remedies),
            f'd="M13 0V12" style="stroke:{themed(GREEN)}" stroke-width="2"',
            "remedy applied, numbered below",
        ),
        (
            bool(marks.faults),
            f'd="M13 0V12" style="stroke:{themed(BLACK)}" stroke-width="2" stroke-dasharray="1.5 2"',
            "injected fault (ground truth)",
        ),
        (
            bool(marks.planned),
            f'd="M13 0V12" style="stroke:{themed(GREY)}" stroke-width="2" stroke-dasharray="5 1.5 1 1.5"',
            "declared change, or injected benign control",
        ),
        (
            bool(marks.spans),
            f'd="M13 0V12" style="stroke:{themed(VERMILION)}" stroke-width="2" stroke-dasharray="4 2"',
            "onset of an incident, estimated (in its own figures)",
        ),
        (
            bool(marks.spans),
            f'd="M13 0V12" style="stroke:{themed(VERMILION)}" stroke-width="2"',
            "its alarm",
        ),
    ]
    drawn = (tag("span", Html(_icon(path)), text) for occurs, path, text in items if occurs)
    return tag("p", joined(drawn), class_="key")


def _icon(path: str) -> str:
    return f'<svg width="26" height="12" viewBox="0 0 26 12" aria-hidden="true"><path {path}/></svg>'
