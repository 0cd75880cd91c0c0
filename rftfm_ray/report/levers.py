"""The chart of the levers: every value that was set, with the nominal one among them: below it is a cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rftfm_ray.config import RunConfig
from rftfm_ray.config.settings import nominal_settings
from rftfm_ray.policies.levers import LEVERS
from rftfm_ray.report import charts as canvas
from rftfm_ray.report.charts import BLACK, BLUE, GREY, Marks
from rftfm_ray.report.markup import Html, joined, tag
from rftfm_ray.runs.words import as_number, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Labels of rungs are at least this share of the axis apart.
LEAST_GAP = 0.24
ROW_IN = 0.78
# The chart is drawn twice: for a screen, and so narrow that a phone can show its labels.
WIDE_IN, NARROW_IN = 2 * canvas.WIDTH_IN, 3.9
NOTE = "values that were set, by their ratio where they have one; nominal: configuration and schedule apply"
# What holds where no lever is set, for levers without a key of the configuration: nothing is limited, replaced, drawn.
UNSET = {
    "reward_limit": math.inf, "regrade_rate": 0.0, "tool_instance": 0.0, "refill_rounds": 0.0, "credit_source": 0.0,
    "end_bias": 0.0, "is_cap": math.inf, "mask_undecoded": 0.0, "mask_unreplayed": 0.0, "mask_truncated": 0.0,
    "rollout_path": 0.0,
}  # fmt: skip

Moves = Sequence[tuple[int, float | None]]


def lever_figure(
    history: Sequence[tuple[int, dict[str, float]]], marks: Marks, config: RunConfig | None
) -> Html | None:
    """Levers that were ever moved, over consumed steps; None when none was."""
    names = [spec.name for spec in LEVERS if any(spec.name in levers for _, levers in history)]
    if not names:
        return None
    rows = [(name, nominal_value(config, name), [(x, levers.get(name)) for x, levers in history]) for name in names]
    caption = tag("figcaption", tag("span", "Levers"), tag("small", NOTE, class_="note"))
    with canvas.style():
        wide, narrow = _drawing(rows, marks, WIDE_IN, "levers"), _drawing(rows, marks, NARROW_IN, "levers-narrow")
    return tag("figure", caption, joined((tag("div", wide, class_="wide"), tag("div", narrow, class_="narrow"))))


def nominal_value(config: RunConfig | None, name: str) -> float | None:
    """Value of a lever that is not set; None where it is not known.

    It is 1 for a scale, the configured value for a setting, and infinite for a limit that is not in force.
    """
    if name.endswith("_scale"):
        return 1.0
    if name in UNSET:
        return UNSET[name]
    if config is None:
        return None
    if name == "tool_retries":
        return float(config.rollout.tool_retries)
    values = {getattr(nominal_settings(config, step), name, None) for step in (1, config.steps)}
    (value, *others) = values
    if name == "advantage_clip" and value is None and not others:
        return math.inf
    # A setting that changes in the course of the run has no single nominal value.
    number = float(value) if isinstance(value, bool) else as_number(value)
    return number if not others and math.isfinite(number) else None


def rungs_of(moves: Moves, nominal: float | None) -> tuple[list[str], list[int]]:
    """Labels of the rungs from the lowest value up, and the rung of every move. An unknown nominal stands lowest."""
    values = sorted({value for _, value in moves if value is not None} | ({nominal} if nominal is not None else set()))
    if nominal is None:
        labels = ["nominal (not recorded)", *map(figure, values)]
        return labels, [0 if value is None else 1 + values.index(value) for _, value in moves]
    labels = [_value_text(value) + (" (nominal)" if value == nominal else "") for value in values]
    return labels, [values.index(nominal if value is None else value) for _, value in moves]


def _value_text(value: float) -> str:
    return "no limit" if math.isinf(value) else figure(value)


def heights_of(moves: Moves, nominal: float | None) -> list[float]:
    """Heights of the rungs: logarithms where all values are positive, else ranks.

    A half is then as far below the nominal value as a double is above it. An unknown nominal value stands lowest, and
    one without limit highest; neither has a logarithm.
    """
    values = sorted({value for _, value in moves if value is not None} | ({nominal} if nominal is not None else set()))
    if nominal is not None and all(0 < value < math.inf for value in values):
        return [math.log(value / nominal) for value in values]
    return [float(rank) for rank in range(len(values) + (nominal is None))]


def ticks_of(labels: Sequence[str], heights: Sequence[float]) -> list[int]:
    """The rungs that are labelled: first the nominal one, the lowest and the highest; others where there is room."""
    least = LEAST_GAP * (heights[-1] - heights[0])
    nominal = [i for i, label in enumerate(labels) if "nominal" in label]
    chosen = list[int]()
    for i in dict.fromkeys([*nominal, 0, len(labels) - 1, *range(len(labels))]):
        if all(abs(heights[i] - heights[other]) >= least for other in chosen):
            chosen.append(i)
    return sorted(chosen)


def _drawing(rows: Sequence[tuple[str, float | None, Moves]], marks: Marks, width_in: float, key: str) -> Html:
    top, bottom = canvas.headroom_in(marks) + 0.2, 0.42
    height = top + bottom + ROW_IN * len(rows)
    drawing, all_axes = canvas.new_figure(height, len(rows), width_in=width_in)
    drawing.subplots_adjust(
        left=1.3 / width_in, right=1 - 0.1 / width_in, top=1 - top / height, bottom=bottom / height, hspace=0.6
    )
    for number, (axes, (name, nominal, moves)) in enumerate(zip(all_axes, rows, strict=True)):
        canvas.mark(axes, marks, labels=number == 0, incidents=False)
        _lever(axes, moves, nominal, marks.limits)
        look: dict[str, Any] = {"fontsize": canvas.LABEL_PT, "fontweight": "bold", "color": BLACK}
        axes.annotate(name, (0, 1), (-1.22 * 72, 4), "axes fraction", "offset points", annotation_clip=False, **look)
    _step_axis(all_axes[-1], 16 if width_in == WIDE_IN else 6)
    return canvas.to_svg(drawing, key, "Levers over consumed steps")


def _lever(axes: Axes, moves: Moves, nominal: float | None, limits: tuple[float, float]) -> None:
    labels, rungs = rungs_of(moves, nominal)
    heights = heights_of(moves, nominal)
    start = rungs_of([(0, None), *moves], nominal)[1][0]
    x = [limits[0], *(max(float(step), limits[0]) for step, _ in moves), limits[1]]
    y = [heights[rung] for rung in (start, *rungs, rungs[-1])]
    (line,) = axes.plot(x, y, color=BLUE, linewidth=1.8, drawstyle="steps-post", zorder=2.2)
    line.set_gid("lever")
    room = 0.35 * ((heights[-1] - heights[0]) or 1.0) / max(1, len(heights) - 1)
    if nominal is None:
        axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1.2)
    shown = ticks_of(labels, heights)
    axes.set_yticks([heights[i] for i in shown], [labels[i] for i in shown])
    axes.set_ylim(heights[0] - room, heights[-1] + room)


def _step_axis(axes: Axes, ticks: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    axes.set_xlabel("consumed step", fontsize=canvas.LABEL_PT - 0.5, labelpad=1)
