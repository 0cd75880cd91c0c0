"""Confusion matrices as SVG files, legible on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rftfm_ray.faultbench.naming.named import NO_ALARM
from rftfm_ray.report.charts import BLUE, VERMILION, new_figure, style, to_svg
from rftfm_ray.report.style import THEME
from rftfm_ray.taxonomy import SIXTEEN, UNKNOWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Confusion = Mapping[str, Mapping[str, int]]
"""Number of runs by fault and name."""

WIDTH_IN, CELL_IN = 7.2, 0.31
FAINTEST, STRONGEST = 0.15, 0.5
"""Opacity of a cell of a few runs and of one of all: numbers stay legible on both."""
_AXES = (0.1, 0.06, 0.88, 0.8)


def columns_of(confusion: Confusion) -> list[str]:
    """The names of a matrix: of the faults, UNKNOWN, no alarm, and whatever else was said."""
    first = [*(fault.code for fault in SIXTEEN), UNKNOWN, NO_ALARM]
    return [*first, *sorted({name for row in confusion.values() for name in row} - set(first))]


def confusion_svg(confusion: Confusion, title: str) -> str:
    """A confusion matrix as the text of an SVG file: rows are faults, columns their names, cells numbers of runs."""
    columns, rows = columns_of(confusion), list(confusion)
    with style():
        figure, (axes,) = new_figure(CELL_IN * (len(rows) + 4), width_in=WIDTH_IN)
        axes.set_position(_AXES)
        axes.grid(visible=False)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), [_label(name) for name in columns], rotation=90)
        axes.set_yticks(range(len(rows)), rows)
        axes.xaxis.tick_top()
        axes.set_title(title, fontsize=9, y=-0.07)
        for at, name in enumerate(rows):
            _draw_row(axes, at, name, confusion[name], columns)
        return as_file(to_svg(figure, "confusion", title))


def _draw_row(axes: Axes, at: int, truth: str, row: Mapping[str, int], columns: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    total = sum(row.values())
    for column, name in enumerate(columns):
        count = row.get(name, 0)
        if not count:
            continue
        opacity = FAINTEST + (STRONGEST - FAINTEST) * count / total
        colour = BLUE if name == truth else VERMILION
        axes.add_patch(Rectangle((column - 0.5, at - 0.5), 1, 1, facecolor=colour, alpha=opacity, linewidth=0))
        axes.text(column, at, str(count), ha="center", va="center")


def _label(name: str) -> str:
    return "no alarm" if name == NO_ALARM else "unknown" if name == UNKNOWN else name


def as_file(svg: str) -> str:
    """An inline figure as a file of its own, with the colours of both themes."""
    start = svg.index(">") + 1
    return f"{svg[:start]}\n<style>{THEME}</style>{svg[start:]}\n"
