"""What came of a pair: the definitions of the remediation benchmark, over accuracies and signals of runs. Pure.

*Harmful*, *recovered* and *worse* are those of drills, against the mean of three clean forks instead of one clean run:
a margin on one of them measures its luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rftfm_ray.drills.outcome import NEAR, Ending, ending_of
from rftfm_ray.faultbench.remediation.pairs import FORKS, Cell, Pair, Role, clean_accuracy, is_harmful
from rftfm_ray.faultbench.remediation.records import OUTCOMES, Finished, RunRecord
from rftfm_ray.incidents.severity import severity
from rftfm_ray.verdicts import StepReport

WINDOW = 10
"""Steps that severities are compared over: the last ones of a run, and those before the first remedy."""
LESS = 1.0
"""Nats by which a severity must be smaller to be called lowered."""


@dataclass(frozen=True, slots=True)
class PairResult:
    """What came of one run of a pair under a policy.

    Attributes:
        cell: of the pair.
        pair: the fault and its healthy run.
        role: of the judged run.
        run: the judged run.
        alone: the run without a guard.
        clean: mean accuracy of the clean forks.
        is_harmful: whether the fault costs enough without a guard.
        ending: what came of it.
        contained: whether it ends no worse than a policy that stands still from the alarm on; None where that was not
            run.
        lowered: whether the severity over its last steps is lower than without a guard.
        lowered_since: whether it is lower than before the first remedy; None without one.
        lowered_alone: whether the severity of the run without a guard falls as much over the same steps.
    """

    cell: Cell
    pair: Pair
    role: Role
    run: RunRecord
    alone: RunRecord
    clean: float
    is_harmful: bool
    ending: Ending
    contained: bool | None
    lowered: bool
    lowered_since: bool | None
    lowered_alone: bool | None

    @property
    def is_recovered(self) -> bool:
        """Whether at least four fifths of the loss are given back, or all but 0.05."""
        return self.ending is Ending.MENDED

    @property
    def is_worse(self) -> bool:
        """Whether it ends worse than without a guard."""
        if self.run.error:
            return not self.alone.error
        return not self.alone.error and self.run.outcome.accuracy < self.alone.outcome.accuracy - NEAR


def result_of(cell: Cell, pair: Pair, role: Role, ended: Finished) -> PairResult | None:
    """What came of a run of a pair; None where it was not made.

    Where the guard was silent, the run that is frozen at its alarm is the one without a guard.
    """
    run, alone = ended.get(pair.arm(role).name), ended[pair.arm(Role.ALONE).name]
    guarded = ended.get(pair.arm(Role.GUARDED).name)
    if run is None and role is Role.FROZEN and guarded is not None and guarded.alarm is None:
        run = alone
    if run is None:
        return None
    clean = clean_accuracy(pair.trunk, ended)
    normal = [report for number in range(1, FORKS + 1) for report in _end(ended[pair.clean(number).name])]
    return PairResult(
        cell, pair, role, run, alone, clean, is_harmful(pair, ended), ending_of(clean, alone.outcome, run.outcome),
        _contained(pair, run, ended), _is_lowered(_severity(run, normal), _severity(alone, normal)),
        *_since(run, alone, normal),
    )  # fmt: skip


def _contained(pair: Pair, run: RunRecord, ended: Finished) -> bool | None:
    frozen = ended.get(pair.arm(Role.FROZEN).name)
    if frozen is None:
        return None
    return not run.error and run.outcome.accuracy >= frozen.outcome.accuracy - NEAR


def _end(run: RunRecord) -> list[StepReport]:
    return run.reports()[-WINDOW:]


def _severity(run: RunRecord, normal: Sequence[StepReport]) -> float:
    """Severity over the last steps, in nats; infinite for a run that ended by itself."""
    return math.inf if run.error else severity(_end(run), normal, OUTCOMES)


def _is_lowered(now: float, before: float) -> bool:
    """Whether a severity is clearly lower; of two runs that ended by themselves none is."""
    return now < before - LESS


def _since(run: RunRecord, alone: RunRecord, normal: Sequence[StepReport]) -> tuple[bool | None, bool | None]:
    """Whether the severity after the first remedy is lower than before it, and whether it falls so without a guard.

    The way the paper tells it: one run, before and after.
    """
    if not run.given:
        return None, None
    at = run.given[0].step

    def fell(one: RunRecord) -> bool:
        return _severity(one, normal) < severity(one.reports(until=at)[-WINDOW:], normal, OUTCOMES)

    return fell(run), fell(alone)
