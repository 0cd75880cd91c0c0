"""Pictures of the remediation benchmark as SVG files, legible on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rftfm_ray.faultbench.naming.pictures import as_file
from rftfm_ray.faultbench.remediation.figures import ACCURACY, Figures
from rftfm_ray.faultbench.remediation.margins import PairResult
from rftfm_ray.faultbench.remediation.pairs import FORKS, Role
from rftfm_ray.faultbench.remediation.records import Finished, RunRecord
from rftfm_ray.report.charts import BLUE, EDGE, GREY, INCIDENT, ONSET, VERMILION, new_figure, style, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_IN, HEIGHT_IN, BAR_IN = 6.4, 2.2, 0.3


def forks_svg(result: PairResult, ended: Finished) -> str:
    """Held-out accuracy of the runs of a pair by consumed step, with onset, alarm and remedies."""
    title = f"{result.pair.first.code} {result.pair.first.mechanism}: {result.ending.value}"
    with style():
        figure, (axes,) = new_figure(HEIGHT_IN, width_in=WIDTH_IN)
        for number in range(1, FORKS + 1):
            _draw(axes, ended[result.pair.clean(number).name], GREY, "clean" if number == 1 else "")
        _draw(axes, result.alone, VERMILION, "no guard")
        _draw(axes, result.run, BLUE, "guarded")
        axes.axvline(result.pair.first.onset, color=VERMILION, linestyle=ONSET, linewidth=1)
        if result.run.alarm is not None:
            axes.axvline(result.run.alarm, color=INCIDENT, linewidth=1)
        for given in result.run.given:
            axes.annotate(
                given.remedy,
                (given.step, 0.02),
                xycoords=("data", "axes fraction"),
                rotation=90,
                fontsize=7,
                color=EDGE,
            )
        axes.set_ylim(0, 1)
        axes.set_xlabel("consumed step")
        axes.set_ylabel("held-out accuracy")
        axes.legend(frameon=False, fontsize=7, loc="lower right")
        axes.set_title(title, fontsize=9)
        return as_file(to_svg(figure, "forks", title))


def _draw(axes: Axes, run: RunRecord, colour: str, label: str) -> None:
    known = [
        (run.first + index, accuracy)
        for index, accuracy in enumerate(run.series.get(ACCURACY, ()))
        if accuracy is not None and math.isfinite(accuracy)
    ]
    if known:
        axes.plot(*zip(*known, strict=True), color=colour, linewidth=1.4, label=label or "_nolegend_")


def baselines_svg(baselines: Mapping[str, Figures], order: Sequence[Role]) -> str:
    """Share of recovered pairs by policy, with 95 % intervals."""
    rows = [(role, baselines[role]["recovered"]) for role in order if role in baselines]
    rows = [(role, row) for role, row in rows if row["rate"] is not None]
    title = "Recovered, by policy, on the same pairs"
    with style():
        figure, (axes,) = new_figure(BAR_IN * (len(rows) + 3), width_in=WIDTH_IN)
        for at, (role, row) in enumerate(rows):
            colour = BLUE if role in (Role.GUARDED, Role.PROFILED) else GREY
            axes.barh(at, row["rate"], color=colour, height=0.6)
            axes.plot([row["low95"], row["high95"]], [at, at], color=INCIDENT, linewidth=1.2)
        axes.set_yticks(range(len(rows)), [role.value for role, _ in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_title(title, fontsize=9)
        return as_file(to_svg(figure, "baselines", title))
