"""Repeats recorded runs with live actors and compares rows, alarms and incidents.

A run is repeated with a live guard in `observe`, which must open the incidents that the guard adapter opens on the
recorded rows. The repeated rows go through a live monitor actor as well, once for each mode of the benchmark's
references: it must alarm at the steps at which `rftfm faultbench score` has alarms.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray

from rftfm_ray.actors.calls import Limit, Pending, wait_for
from rftfm_ray.actors.monitor import MonitorActor
from rftfm_ray.actors.roles import Role
from rftfm_ray.detection.monitor import MonitorPlan
from rftfm_ray.detection.reference.mixture import Reference
from rftfm_ray.detection.suite import monitor_settings
from rftfm_ray.driver.cluster import connect
from rftfm_ray.faultbench.detectors.alarms import Alarm, alarms_while
from rftfm_ray.faultbench.detectors.guard import OpenedIncident, guard_trace, opened_incidents
from rftfm_ray.faultbench.detectors.references import ReferenceMode, References
from rftfm_ray.faultbench.detectors.strata import levels
from rftfm_ray.faultbench.runs.dataset import ADDED, TIMES, Recorded, read_bench
from rftfm_ray.faultbench.runs.declared import declarations, watched
from rftfm_ray.faultbench.runs.generate import config_of, outcome_of, rows_of
from rftfm_ray.faultbench.runs.plan import Split
from rftfm_ray.faultbench.runs.runner import ExperimentRunner, HowToRun
from rftfm_ray.faultbench.scoring.frozen import FROZEN, read_frozen, split_of
from rftfm_ray.faultbench.scoring.guarding import GuardSetup
from rftfm_ray.signals.schema import SIGNALS
from rftfm_ray.verdicts import Assessment, Declaration, StepReport

# Of a signal's floor: what rounding can do and no event does.
ROUNDING = 0.5
LOGPROB_ROUNDING = 1e-5
"""By how many nats a log-prob of the same token may differ between processors. Single precision keeps 24 bits, which is
1e-6 of a log-prob or logit of 16 nats; sums over the width of a model in another order lose about ten times that."""
DIVERGENCES = ("kl_ref", "kl_old", "step_kl", "rollout_kl")
"""Signals that are a mean KL: about half the mean square of differences of log-probs."""
Assessed = tuple[Assessment | Declaration, ...]
SHARED_STEPS = 60
"""Steps that processors must agree in, all steps of an ordinary run. Rounding builds up in the weights: in a longer run
two processors may at last draw another token, and what follows is another run."""
JUDGING = Limit(300.0)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two runs of one seed are apart in what the seed determines.

    Attributes:
        where: the first thing that differs by more than rounding; empty where nothing does.
        distance: the largest difference, in floors of the signals.
        is_exact: whether all is the same bit for bit.
        branch: first step of another run, where rounding has led to another token after `SHARED_STEPS`: it and what
            follows is not compared. None where all steps are.
    """

    where: str
    distance: float
    is_exact: bool
    branch: int | None = None

    def shares(self, step: int) -> bool:
        """Whether the runs have a step in common."""
        return self.branch is None or step < self.branch


@dataclass(frozen=True, slots=True)
class Alarms:
    """Steps at which alarms were raised in one mode: of the guard adapter on the recorded run, and of a live monitor on
    the repeated one; those that both runs share."""

    mode: ReferenceMode
    recorded: tuple[int, ...]
    live: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reproduced:
    """A run that was repeated.

    Attributes:
        name: of the run.
        rows: how far its rows and effects are from the recorded ones.
        alarms: in every mode that the run has a reference for; empty before thresholds have been set.
        recorded_incidents: of the guard adapter on the recorded run, in the steps that both share.
        live_incidents: of the live guard, in the same steps.
    """

    name: str
    rows: Difference
    alarms: tuple[Alarms, ...]
    recorded_incidents: tuple[OpenedIncident, ...]
    live_incidents: tuple[OpenedIncident, ...]

    @property
    def is_same(self) -> bool:
        """Whether rows, alarms and incidents are the same."""
        alarms = all(one.recorded == one.live for one in self.alarms)
        return not self.rows.where and alarms and self.recorded_incidents == self.live_incidents


def reproduce(folder: Path, sample: int, draw: int) -> Iterator[Reproduced]:
    """Repeat `sample` recorded runs from their first step, with live actors and a live guard.

    Raises:
        BenchError: when there is no complete benchmark, or its thresholds are damaged.
    """
    recorded = read_bench(folder)
    drawn = random.Random(draw).sample(recorded, min(sample, len(recorded)))
    setups = _setups(folder, recorded) if (folder / FROZEN).exists() else []
    is_owner = connect(config_of(drawn[0].entry))
    try:
        for run in drawn:
            with ExperimentRunner() as runner:
                history = runner.run(config_of(run.entry), run.entry.inject, how=HowToRun(may_fail=True, judged=True))
            repeated = Recorded(run.entry, outcome_of(history), rows_of(history))
            rows = difference(run, repeated)
            recorded_incidents, live_incidents = (
                tuple(incident for incident in incidents if rows.shares(incident.step))
                for incidents in (guard_trace(run, live_reference(run)).incidents, opened_incidents(history.journal))
            )
            alarms = tuple(_alarms(run, repeated, setups, rows))
            yield Reproduced(run.entry.name, rows, alarms, recorded_incidents, live_incidents)
    finally:
        if is_owner:
            ray.shutdown()


def _setups(folder: Path, recorded: Sequence[Recorded]) -> list[GuardSetup]:
    """How `score` watches runs, in its modes."""
    frozen, references = read_frozen(folder)[0], References(split_of(recorded, Split.CALIBRATE))
    return [
        GuardSetup(references, mode, frozen.multipliers.get(mode.threshold_mode.value)) for mode in ReferenceMode
    ]  # fmt: skip


def _alarms(run: Recorded, repeated: Recorded, setups: Sequence[GuardSetup], rows: Difference) -> Iterator[Alarms]:
    for setup in setups:
        if setup.references.covers(run.entry, setup.mode):
            both = setup.trace(run, 0).every, live_alarms(repeated, setup.reference(run.entry, 0))
            recorded, live = (tuple(alarm.raised for alarm in alarms if rows.shares(alarm.raised)) for alarms in both)
            yield Alarms(setup.mode, recorded, live)


def live_reference(run: Recorded) -> Reference:
    """What a live run like this one is compared with when it names no profile."""
    return References([run], shipped_priors=True).reference(run.entry, ReferenceMode.NONE)


def live_alarms(run: Recorded, reference: Reference) -> tuple[Alarm, ...]:
    """Alarms that a live monitor actor raises on a run's rows. Ray must be connected."""
    config = watched(run.entry)
    plan = MonitorPlan(monitor_settings(config), reference=reference)
    role = Role("verify", "monitor", 0, run.entry.name)
    monitor = ray.remote(num_cpus=0)(MonitorActor).remote(role, plan)
    declared = {declaration.id.step: declaration for declaration in declarations(run.entry, config)}
    items: list[StepReport | Declaration] = []
    for report in run.reports():
        items += [declared[report.id.step]] if report.id.step in declared else []
        items.append(report)
    try:
        call: Pending[Assessed] = Pending(monitor.assess.remote(items), role)
        judged = wait_for([call], JUDGING, f"judging {run.entry.name}")[0]
    finally:
        ray.kill(monitor)
    return alarms_while(item.diagnosis is not None for item in judged if isinstance(item, Assessment))


def difference(one: Recorded, other: Recorded) -> Difference:
    """How far two runs are apart in what their seed determines, all but times.

    Signals that `one` was recorded without are left out. A processor of another kind adds in another order. As long as
    it draws the same tokens, only the last digits differ: by less than `ROUNDING` of the smallest change that ever
    counts. It must do so for `SHARED_STEPS`; equal bits are those of one processor, and must stay equal.
    """
    if len(one) != len(other):
        return Difference(f"the number of steps, {len(one)} and {len(other)}", math.inf, is_exact=False)
    unrecorded = [name for name in ADDED if np.isnan(one.signal(name)).all()]
    signals = [signal for signal in SIGNALS if signal.name not in (*TIMES, *unrecorded)]
    names, floors = [signal.name for signal in signals], np.array([signal.floor for signal in signals])
    raw = [np.stack([run.signal(name) for name in names], axis=1) for run in (one, other)]
    distance = np.nan_to_num(np.abs(levels(one, names) - levels(other, names)), nan=0.0) / floors
    for column, name in enumerate(names):
        if name in DIVERGENCES:
            rounded = divergence_distance(raw[0][:, column], raw[1][:, column])
            distance[:, column] = np.minimum(distance[:, column], rounded)
    # What is not a number must be so in both, and in the same way.
    alike = (np.isnan(raw[0]) == np.isnan(raw[1])) & (np.isfinite(raw[0]) == np.isfinite(raw[1]))
    distance[~alike] = np.inf
    is_exact, largest = np.array_equal(raw[0], raw[1], equal_nan=True), float(distance.max(initial=0.0))
    wrong = np.argwhere(distance > ROUNDING)
    if len(wrong):
        row, column = wrong[0].tolist()
        if row >= SHARED_STEPS and not np.array_equal(raw[0][:row], raw[1][:row], equal_nan=True):
            return Difference("", float(distance[:row].max()), is_exact, branch=row + 1)
        return Difference(f"{names[column]} from step {row + 1} on", largest, is_exact)
    where = "the steps of its effects" if one.outcome != other.outcome else ""
    return Difference(where, largest, is_exact)


def divergence_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far values (N) of a mean KL are apart by the log-probs that it is computed from, in units in which `ROUNDING`
    is what rounding can do.

    A mean KL k of close distributions is half the mean square of differences of log-probs, so these are sqrt(2 k); in
    two runs that round otherwise they are at most `LOGPROB_ROUNDING` apart. The logarithm of a k that is nothing but
    rounding says nothing.
    """
    nats = [np.sqrt(2 * np.maximum(values, 0.0)) for values in (one, other)]
    distance: NDArray[np.float64] = ROUNDING * np.abs(nats[0] - nats[1]) / LOGPROB_ROUNDING
    return np.nan_to_num(distance, nan=0.0)
