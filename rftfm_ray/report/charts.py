"""Figures as inline SVG: one look, the same bytes for the same input, and identifiers that are unique in a page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rftfm_ray.report.markup import Html, escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; all have a contrast of 3 or more on white but the span's.
BLUE, VERMILION, GREEN, BLACK = "#0072b2", "#d55e00", "#00795a", "#1c2127"
GREY, SPAN = "#626b75", "#f6d99b"
EDGE, GRID, TICK, INCIDENT, WHITE = "#9aa2ab", "#e6e9ec", "#57606a", "#6b4a00", "#ffffff"
# Name of the style sheet's variable for every colour: the sheet has other values for a dark page.
VARIABLES = {
    BLUE: "blue", VERMILION: "vermilion", GREEN: "green", BLACK: "ink", GREY: "grey", SPAN: "span",
    EDGE: "edge", GRID: "grid", TICK: "tick", INCIDENT: "incident", WHITE: "on-green",
}  # fmt: skip
PLANNED = (0, (5, 1.5, 1, 1.5))
ONSET = (0, (4, 2))
WIDTH_IN = 5.4
LABEL_PT = 8.0
# Labels that are nearer to each other than this share of the axis are written as one.
NEAR = 0.035

# matplotlib's stubs list every key as a literal; a dict of our own has none of them.
_STYLE: dict[Any, Any] = {
    # The page shows through, so that figures are dark on a dark page.
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": BLACK,
    "svg.fonttype": "none",
    "svg.hashsalt": "rftfm",
    "text.parse_math": False,
    "font.size": LABEL_PT,
    "axes.edgecolor": EDGE,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": TICK,
    "ytick.color": TICK,
    "axes.labelcolor": TICK,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
}


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks of every figure, at consumed steps.

    Attributes:
        limits: ends of the axis.
        spans: incidents as label, opening and closing.
        remedies: remedies as label and step.
        faults: injected faults as label and onset.
        planned: declared changes and benign controls as label and step.
        onsets: estimated beginnings of incidents as label and step.
        alarms: openings of incidents as label and step.
    """

    limits: tuple[float, float]
    spans: tuple[tuple[str, float, float], ...] = ()
    remedies: tuple[tuple[str, float], ...] = ()
    faults: tuple[tuple[str, float], ...] = ()
    planned: tuple[tuple[str, float], ...] = ()
    onsets: tuple[tuple[str, float], ...] = ()
    alarms: tuple[tuple[str, float], ...] = ()


# Width of a character of a label, as a share of the axis.
CHARACTER = 0.0125


def themed(colour: str) -> str:
    """A colour as a CSS value that follows the page's theme."""
    return f"var(--{VARIABLES[colour]}, {colour})"


@contextmanager
def style() -> Iterator[None]:
    """Draw with the report's look, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(height_in: float, rows: int = 1, width_in: float = WIDTH_IN) -> tuple[Figure, list[Axes]]:
    """A figure with `rows` axes over each other, on a common x axis."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasSVG(figure)
    grid = figure.subplots(rows, 1, sharex=True, squeeze=False)
    return figure, [row[0] for row in grid]


def to_svg(figure: Figure, key: str, label: str) -> Html:
    """`figure` as an inline SVG element; `key` begins all its identifiers, `label` is what a screen reader says."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A style element would apply to the full page; the page's own sheet sets the same for figures.
    text = re.sub(r"<style\b.*?</style>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", text)
    text = re.sub("|".join(VARIABLES), lambda m: themed(m[0]), text)
    size = re.compile(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"')
    return Html(size.sub(lambda m: f'<svg role="img" aria-label="{escaped(label)}" {m[1]}', text, count=1).strip())


def mark(axes: Axes, marks: Marks, *, labels: bool = True, incidents: bool = True) -> None:
    """Draw what is marked; labels stand above the axes, those of incidents inside."""
    axes.set_xlim(*marks.limits)
    for number, (_, low, high) in enumerate(marks.spans, start=1):
        axes.axvspan(low, high, color=SPAN, alpha=0.55, linewidth=0, zorder=0).set_gid(f"incident-{number}")
    for number, (_, step) in enumerate(marks.remedies, start=1):
        axes.axvline(step, color=GREEN, linewidth=1.3, zorder=1.6).set_gid(f"remedy-{number}")
    for number, (_, step) in enumerate(marks.faults, start=1):
        line = axes.axvline(step, color=BLACK, linewidth=1.3, linestyle=(0, (1, 1.6)), zorder=1.7)
        line.set_gid(f"injected-{number}")
    for number, (_, step) in enumerate(marks.planned, start=1):
        line = axes.axvline(step, color=GREY, linewidth=1.3, linestyle=PLANNED, zorder=1.65)
        line.set_gid(f"planned-{number}")
    for number, (_, step) in enumerate(marks.onsets, start=1):
        line = axes.axvline(step, color=VERMILION, linewidth=1.3, linestyle=ONSET, zorder=1.62)
        line.set_gid(f"onset-{number}")
    for number, (_, step) in enumerate(marks.alarms, start=1):
        axes.axvline(step, color=VERMILION, linewidth=1.3, zorder=1.64).set_gid(f"alarm-{number}")
    if labels:
        _label(axes, marks, incidents=incidents)


def headroom_in(marks: Marks) -> float:
    """Inches that labels need above the axes."""
    noted = marks.faults or marks.planned or marks.onsets or marks.alarms
    return 0.42 if noted else 0.26 if marks.remedies else 0.08


def _label(axes: Axes, marks: Marks, *, incidents: bool) -> None:
    low, high = marks.limits
    near = NEAR * (high - low)
    if incidents:
        # At the end of a span: remedies mostly stand at its beginning.
        for label, step in _grouped([(label, end - near / 4) for label, _, end in marks.spans], near):
            _write(axes, label, step, -3.0, ha="right", va="top", color=INCIDENT)
    box = {"boxstyle": "round,pad=0.22", "facecolor": GREEN, "edgecolor": "none"}
    for label, step in _grouped(marks.remedies, near):
        _write(axes, label, step, 4.5, color=WHITE, fontweight="bold", bbox=box)
    for label, step in _apart([*marks.faults, *marks.planned, *marks.onsets, *marks.alarms], low, high):
        _write(axes, label, step, 18.0, ha=_side(label, step, low, high), color=BLACK)


def _side(label: str, step: float, low: float, high: float) -> str:
    """Alignment of a label: centred over its line, or running inwards where it would leave the axes."""
    half = CHARACTER * len(label) * (high - low) / 2
    if step - half < low:
        return "left"
    return "right" if step + half > high else "center"


def _apart(labels: Sequence[tuple[str, float]], low: float, high: float) -> list[tuple[str, float]]:
    """Labels in order of their steps; labels that would overlap are joined."""
    placed: list[tuple[str, float]] = []
    for label, step in sorted(labels, key=lambda item: item[1]):
        placed.append((label, step))
        while len(placed) > 1 and _extent(*placed[-2], low, high)[1] > _extent(*placed[-1], low, high)[0]:
            (one, first), (other, _) = placed[-2:]
            placed[-2:] = [(f"{one}, {other}", first)]
    return placed


def _extent(label: str, step: float, low: float, high: float) -> tuple[float, float]:
    """About where a label begins and ends on the axis."""
    width = CHARACTER * len(label) * (high - low)
    begin = step - {"left": 0.0, "center": width / 2, "right": width}[_side(label, step, low, high)]
    return begin, begin + width


def _write(axes: Axes, label: str, step: float, above_pt: float, **look: Any) -> None:
    """Write `label` at a step of the x axis, `above_pt` points above the upper edge of the axes."""
    at = (step, 1.0)
    look = dict[str, Any](ha="center", va="bottom", fontsize=LABEL_PT - 1, annotation_clip=False) | look
    axes.annotate(label, at, (0.0, above_pt), axes.get_xaxis_transform(), "offset points", **look)


def _grouped(labels: Sequence[tuple[str, float]], near: float) -> list[tuple[str, float]]:
    """Labels in order of their steps; labels near to each other become one, at the mean step."""
    groups: list[list[tuple[str, float]]] = []
    for label, step in sorted(labels, key=lambda item: item[1]):
        if groups and step - groups[-1][-1][1] < near:
            groups[-1].append((label, step))
        else:
            groups.append([(label, step)])
    return [(", ".join(dict.fromkeys(x for x, _ in g)), sum(y for _, y in g) / len(g)) for g in groups]
