"""Views of a run's steps for all detectors: levels, residuals, and prompt shifts. Pure; numpy.

The monitor computes a view once per chunk of steps and gives it to every detector. The views do not depend on the chunk
length.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, overload

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.mixture import Reference
from rftfm_ray.detection.reference.residuals import COLUMNS, Residuals, Usual, levels_of
from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepView:
    """N steps of a run.

    Attributes:
        steps: (N) their numbers, from 1.
        values: (N, signals) as reported, in the order of `signals.schema.SIGNALS`.
        levels: (N, `COLUMNS`) on the scale that each signal is compared on; NaN where nothing was measured.
        residuals: (N, `COLUMNS`) in standard deviations against the profile while it applies, else against the
            self-baseline; NaN where there is neither. Signals that the profile says nothing about are against the
            self-baseline.
        own: (N, `COLUMNS`) the same against the self-baseline throughout; equal to `residuals` without a profile.
        prompts_changed: (N) whether a change of the prompts became certain at the step. Signals that depend on the
            prompts (`signals.groups.PROMPT_DEPENDENT`) have lost their reference there, as by a declared change.
        profiled: (N) whether the residuals of telemetry are against the profile.
    """

    steps: Ints
    values: Floats
    levels: Floats
    residuals: Floats
    own: Floats
    prompts_changed: NDArray[np.bool_]
    profiled: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.steps)

    @classmethod
    def without_residuals(cls, steps: Ints, values: Floats) -> StepView:
        """A view without a reference: levels and residuals are NaN."""
        nothing = np.full((len(steps), len(COLUMNS)), np.nan)
        no = np.zeros(len(steps), bool)
        return cls(steps, values, nothing, nothing, nothing, no, no)

    def value(self, name: str) -> Floats:
        """One signal (N), as reported."""
        return self.values[:, INDEX[name]]

    def residual(self, name: str) -> Floats:
        """Residuals (N) of one of `COLUMNS`."""
        return self.residuals[:, COLUMNS.index(name)]

    def part(self, rows: slice) -> StepView:
        """Some of the steps."""
        return StepView(*(getattr(self, field.name)[rows] for field in fields(self)))

    def pieces(self) -> Iterator[StepView]:
        """The view in pieces: a prompt shift is only at the first step of a piece."""
        starts = [0, *(int(row) for row in np.flatnonzero(self.prompts_changed) if row), len(self)]
        for first, end in itertools.pairwise(starts):
            if end > first:
                yield self.part(slice(first, end))


class ReportTable(Sequence[StepReport]):
    """Reports of a log's rows, made from a table where they are asked for: nobody reads most of a long log's.

    Args:
        steps: (N) numbers of the rows, from 1.
        values: (N, signals) in the order of `signals.schema.SIGNALS`; NaN where nothing was measured.
    """

    def __init__(self, steps: Ints, values: Floats) -> None:
        self.steps, self.values = steps, values

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, rows: int) -> StepReport: ...
    @overload
    def __getitem__(self, rows: slice) -> ReportTable: ...
    def __getitem__(self, rows: int | slice) -> StepReport | ReportTable:
        """The report of a row, or a table of some rows."""
        if isinstance(rows, slice):
            return ReportTable(self.steps[rows], self.values[rows])
        step = int(self.steps[rows])
        return StepReport(StepId(0, step, step), step, tuple(self.values[rows].tolist()))


def values_of(reports: Sequence[StepReport]) -> tuple[Ints, Floats]:
    """Steps (N) and values (N, signals) of reports."""
    if isinstance(reports, ReportTable):
        return reports.steps, reports.values
    steps = np.array([report.id.step for report in reports], np.int64)
    return steps, np.array([report.values for report in reports], np.float64)


class StepViews(Stateful):
    """Turns the values of one run into views, chunk by chunk.

    Args:
        reference: what the run is compared with.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {"_residuals": Kind.PART}

    def __init__(self, reference: Reference) -> None:
        self._residuals = Residuals(Usual(reference.profile, reference.moved))

    def observe(self, steps: Ints, values: Floats) -> StepView:
        """Take the next steps (N) with their values (N, signals)."""
        levels = levels_of(values)
        table = self._residuals.over(steps, levels)
        return StepView(steps, values, levels, table.residuals, table.own, table.prompts_changed, table.profiled)

    def forget(self, signals: Sequence[str]) -> None:
        """Take a declared change: these signals lose their reference from the next step on."""
        self._residuals.forget(signals)
