"""A live monitor actor alarms at the steps at which the committed benchmark is scored, in every mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from rftfm_ray.faultbench.detectors.references import ReferenceMode, References
from rftfm_ray.faultbench.reproduce import live_alarms
from rftfm_ray.faultbench.runs.dataset import Recorded, read_bench
from rftfm_ray.faultbench.runs.plan import Kind, Split
from rftfm_ray.faultbench.scoring.frozen import read_frozen
from rftfm_ray.faultbench.scoring.guarding import GuardSetup

BENCH = Path(__file__).parents[2] / "benchmarks" / "data" / "faultbench"


@pytest.fixture(scope="module")
def tune() -> list[Recorded]:
    """Runs of the tune split with a full profile: a healthy one, faults, and one with a change that was declared."""
    runs = [run for run in read_bench(BENCH) if (run.entry.split, run.entry.size) == (Split.TUNE, "tiny")]
    kinds = (Kind.HEALTHY, Kind.FAULT, Kind.DECLARED_FAULT, Kind.TWO_FAULTS)
    return [next(run for run in runs if run.entry.kind is kind) for kind in kinds]


@pytest.fixture(scope="module")
def references() -> References:
    """Those of the benchmark."""
    return References([run for run in read_bench(BENCH) if run.entry.split is Split.CALIBRATE])


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("mode", list(ReferenceMode))
def test_live_actor_alarms_where_the_score_has_alarms(
    tune: list[Recorded], references: References, mode: ReferenceMode
) -> None:
    multipliers = read_frozen(BENCH)[0].multipliers
    setup = GuardSetup(references, mode, multipliers[mode.threshold_mode.value])
    scored = {run.entry.name: setup.trace(run, 0).every for run in tune}
    assert {run.entry.name: live_alarms(run, setup.reference(run.entry, 0)) for run in tune} == scored
    # Without alarms the comparison says nothing.
    assert sum(map(bool, scored.values())) >= 2
