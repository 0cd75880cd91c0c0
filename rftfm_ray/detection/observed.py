"""What the monitor says of steps. Pure; numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.verdicts import StepReport, Symptom


@dataclass(frozen=True, slots=True)
class EvidenceScores:
    """The largest score of any alarm at one step in units of its threshold, by the kind of its evidence; 0 for none."""

    telemetry: float = 0.0
    channel: float = 0.0
    law: float = 0.0
    identity: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """The monitor's result for one step.

    Attributes:
        report: of the step.
        symptoms: open alarms and notices.
        scores: the largest score of any alarm, by evidence.
        disabled: detectors that were disabled since the last observation, and why.
        residuals: (`reference.residuals.COLUMNS`) of the step in standard deviations; None without views.
        profiled: whether the residuals of telemetry are against a profile.
    """

    report: StepReport
    symptoms: tuple[Symptom, ...]
    scores: EvidenceScores = EvidenceScores()
    disabled: tuple[tuple[str, str], ...] = ()
    residuals: Floats | None = field(default=None, compare=False, repr=False)
    profiled: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """The monitor's result for N steps, whose observations are made where they are asked for.

    Nobody reads most of those of a long log, and making them takes as long as judging the steps.

    Attributes:
        reports: (N) of the steps.
        view: of the steps.
        highest: (N, 4) the largest score of any alarm, in the order of `EvidenceScores`.
        symptoms: open alarms and notices, by row; rows without any are left out.
        disabled: detectors that were disabled since the row before, and why; rows without any are left out.
    """

    reports: Sequence[StepReport]
    view: StepView
    highest: Floats
    symptoms: Mapping[int, tuple[Symptom, ...]]
    disabled: Mapping[int, tuple[tuple[str, str], ...]]

    def __len__(self) -> int:
        return len(self.reports)

    def __iter__(self) -> Iterator[Observation]:
        return map(self.at, range(len(self)))

    def at(self, row: int) -> Observation:
        """The observation of one row."""
        return Observation(
            self.reports[row], self.symptoms.get(row, ()), EvidenceScores(*self.highest[row].tolist()),
            self.disabled.get(row, ()), self.view.residuals[row], bool(self.view.profiled[row]),
        )  # fmt: skip
