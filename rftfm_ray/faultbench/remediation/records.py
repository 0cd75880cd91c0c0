"""Finished runs of the remediation benchmark: what is kept of each, and the files that hold them.

A file holds the runs of one unit, or the clean forks, or the healthy runs. It is written anew with every run, so that
the benchmark can be stopped at any moment.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rftfm_ray.drills.cases import DrillCase, Origin
from rftfm_ray.drills.outcome import RunOutcome, judge
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.remediation.pairs import Arm, Role
from rftfm_ray.faultbench.runs.runner import RunHistory
from rftfm_ray.faults.kinds import CATALOGUE
from rftfm_ray.files import write_atomic
from rftfm_ray.incidents.state import Entry, EntryKind, levers_of, replay
from rftfm_ray.signals.schema import INDEX, SIGNALS, report_of, value
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport

OUTCOMES = ("probe_accuracy", "probe_sampled_accuracy", "kl_ref", "entropy", "length_mean")
"""Outcome signals: accuracy on held-out problems, greedy and sampled, both by the trusted verifier, and what the policy
does. A source that is offset moves no other signal than its own."""
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
DIGITS = 4
"""That outcome signals are kept with."""


@dataclass(frozen=True, slots=True)
class GivenRemedy:
    """A remedy that was applied: at which consumed step, its verified outcome (empty for none), and the steps that its
    rollback gave up."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    step: int
    remedy: str
    outcome: str
    undone: int

    @property
    def has_helped(self) -> bool:
        """Whether its verification says that the harm is gone."""
        return self.outcome in ("resolved", "mitigated")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is kept of a run.

    Attributes:
        arm: its name.
        role: what it is for.
        accuracy: held-out accuracy at its end; None where it has none.
        error: why it ended by itself.
        effects: consumed steps at which the effects of its faults began, None for one without.
        alarm: consumed step of the first incident from the onset on; None without one.
        early: codes of incidents before it: false alarms.
        named: the code of the incident, of a later one where that is right; empty without one.
        place: where the incident says that the fault sits; empty where it does not.
        is_named: whether the code is right.
        is_placed: whether the place is right too.
        given: remedies, in their order.
        asked: whether an incident was left to a person, or given up.
        halted: whether the guard has ended the run.
        frozen: steps under a remedy that let the policy stand still.
        first: consumed step of the first value of `series`; a fork begins after its healthy run.
        series: outcome signals by consumed step, None where one was not measured.
        seconds: that it took.
        code: digest of the sources that made it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    arm: str
    role: str
    accuracy: float | None
    error: str
    effects: tuple[int | None, ...]
    alarm: int | None
    early: tuple[str, ...]
    named: str
    place: str
    is_named: bool
    is_placed: bool
    given: tuple[GivenRemedy, ...]
    asked: bool
    halted: bool
    frozen: int
    first: int
    series: Mapping[str, tuple[float | None, ...]]
    seconds: float = 0.0
    code: str = ""

    @property
    def outcome(self) -> RunOutcome:
        """How it ended."""
        return RunOutcome(math.nan if self.accuracy is None else self.accuracy, self.error)

    def reports(self, until: int | None = None) -> list[StepReport]:
        """Its steps with their outcome signals, before a consumed step or all; nothing else is kept of them."""
        steps = range(self.first, self.first + len(next(iter(self.series.values()), ())))
        return [self._report(step) for step in steps if until is None or step < until]

    def _report(self, step: int) -> StepReport:
        values = [math.nan] * len(SIGNALS)
        for name, column in self.series.items():
            figure = column[step - self.first]
            values[INDEX[name]] = math.nan if figure is None else figure
        return StepReport(StepId(0, step, step), step, tuple(values))

    @property
    def lost(self) -> int:
        """Steps that the guard's remedies cost: those that rollbacks gave up, and those without learning."""
        return sum(given.undone for given in self.given) + self.frozen

    @property
    def effect(self) -> int | None:
        """Consumed step of the first effect; None without one."""
        return min((step for step in self.effects if step is not None), default=None)

    @property
    def to_remedy(self) -> float:
        """Steps from the effect until a remedy was in force that has helped; infinite without one, NaN without an
        effect. A remedy that came before, while the fault grew, counts as 0."""
        if self.effect is None:
            return math.nan
        helped = [given.step for given in self.given if given.has_helped]
        return max(0, helped[0] - self.effect) if helped else math.inf


def record_of(arm: Arm, history: RunHistory) -> RunRecord:
    """What is kept of a run that was made."""
    case = _case(arm)
    told = judge(case, arm.onset, math.nan, None, RunOutcome(history.accuracy, history.error, history.journal))
    incidents = replay(history.journal).incidents
    tried = sorted((one for incident in incidents for one in incident.tried), key=lambda one: one.paid_step)
    given = tuple(
        GivenRemedy(one.paid_step, one.remedy, "" if one.outcome is None else one.outcome.value, one.undone)
        for one in tried
    )
    reports = [report_of(row) for row in history.rows]
    return RunRecord(
        arm=arm.name, role=arm.role, accuracy=None if math.isnan(history.accuracy) else history.accuracy,
        error=history.error, effects=history.effects,
        alarm=None if told.found_after is None else arm.onset + told.found_after, early=told.early, named=told.named,
        place=told.place, is_named=told.is_named, is_placed=told.is_placed, given=given, asked=told.asked,
        halted=any(entry.text("halt") == "yes" for entry in history.journal if entry.kind is EntryKind.APPLIED),
        frozen=_frozen(history), first=reports[0].id.paid_step if reports else 0,
        series={name: tuple(_figure(value(report, name)) for report in reports) for name in OUTCOMES},
    )  # fmt: skip


def _case(arm: Arm) -> DrillCase:
    """The first fault of a run as a drill has it; one that no incident can be named by where there is none."""
    if not arm.faults:
        return DrillCase("", "", 0.0, next(iter(CATALOGUE.values())).mechanisms[0].acts_in, Origin.GIVEN)
    fault = min(arm.faults, key=lambda one: one.onset)
    place = CATALOGUE[fault.code].mechanism(fault.mechanism).acts_in
    return DrillCase(fault.code, fault.mechanism, fault.strength, place, Origin.GIVEN, fault.options)


def _frozen(history: RunHistory) -> int:
    """Steps without learning, from the first remedy on that let the policy stand still."""
    frozen = [entry.id.paid_step for entry in history.journal if _freezes(entry)]
    if not frozen:
        return 0
    return sum(value(report_of(row), "lr") == 0 for row in history.rows if row.id.paid_step > min(frozen))


def _freezes(entry: Entry) -> bool:
    return entry.kind is EntryKind.APPLIED and levers_of(entry).freeze_policy == 1


def _figure(figure: float) -> float | None:
    return float(f"{figure:.{DIGITS}g}") if math.isfinite(figure) else None


Finished = Mapping[str, RunRecord]
"""Finished runs by the names of their arms."""

_RECORDS = TypeAdapter(tuple[RunRecord, ...])


class Store:
    """The finished runs below a folder.

    Args:
        folder: of the benchmark.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, dict[str, RunRecord]] = {}
        for path in sorted(folder.glob("runs-*.json")):
            self._files[path.stem.removeprefix("runs-")] = {record.arm: record for record in _read(path)}

    @property
    def ended(self) -> Mapping[str, RunRecord]:
        """All finished runs by the names of their arms."""
        return {name: record for records in self._files.values() for name, record in records.items()}

    def add(self, file: str, record: RunRecord) -> None:
        """Keep a run: write the file that it belongs to."""
        records = self._files.setdefault(file, {})
        records[record.arm] = record
        lines = ",\n".join(json.dumps(asdict(one), allow_nan=False) for one in records.values())
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._folder / f"runs-{file}.json", f"[\n{lines}\n]\n".encode())

    def codes(self) -> Iterator[str]:
        """Digests of the sources that the runs were made with, each once."""
        yield from sorted({record.code for record in self.ended.values()})


def _read(path: Path) -> tuple[RunRecord, ...]:
    again = "remove it, and its runs are made again"
    try:
        return _RECORDS.validate_json(path.read_bytes())
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror or error}).") from None
    except ValidationError as error:
        raise BenchError(f"{path} is damaged ({' '.join(str(error).split())[:120]}); {again}.") from None


def file_of(arm: Arm, unit: str) -> str:
    """The file that a run belongs to: clean forks are shared by units."""
    name = f"clean-{arm.trunk.task}-{arm.trunk.algorithm}-{arm.trunk.background}" if arm.role is Role.CLEAN else unit
    return re.sub(r"[^A-Za-z0-9-]+", "-", name)
