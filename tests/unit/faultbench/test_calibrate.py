"""The search for strengths, what a cell is, and how far apart healthy runs are. No Ray."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.faultbench.runs.calibrate import WINDOW, Bench, CalibrationCase, Healthy, in_range, list_cases, search
from rftfm_ray.faultbench.runs.levels import AIMS
from rftfm_ray.faultbench.runs.runner import USUALLY, ExperimentRunner, HowToRun, RunHistory, quick
from rftfm_ray.faults.kinds import CATALOGUE, Strength

PROBABILITY = Strength("probability", 0.01, 1.0, 0.5)
FACTOR = Strength("factor", 1.0, 100.0, 30.0, neutral=1.0)


@given(st.floats(0.5, 200), st.floats(0.5, 2), st.sampled_from(["easy", "hard"]))
def test_search_ends_in_the_range_of_any_power_law_that_crosses_it(scale: float, power: float, level: str) -> None:
    aim = AIMS[level]

    def shift(strength: float) -> float:
        return scale * cast("float", strength**power)

    result = search(shift, PROBABILITY, aim)
    if shift(1.0) > aim.low and shift(0.01) < aim.high:
        assert in_range(level, shift(result))
    else:
        # The bound that is nearer.
        assert result == (1.0 if shift(1.0) <= aim.low else 0.01)


def test_search_of_a_factor_goes_by_its_distance_from_doing_nothing() -> None:
    strength = search(lambda s: 2 * math.log(s), FACTOR, AIMS["hard"])
    assert in_range("hard", 2 * math.log(strength))
    assert strength < FACTOR.default


def test_search_bears_a_strength_that_does_nothing_at_all() -> None:
    assert search(lambda s: 0.0, PROBABILITY, AIMS["hard"]) in {0.5, 1.0}


def test_search_goes_on_from_what_has_been_measured() -> None:
    asked: list[float] = []

    def shift(strength: float) -> float:
        asked.append(strength)
        return 20 * strength

    strength = search(shift, PROBABILITY, AIMS["hard"], known=[(0.25, 5.0), (0.5, 10.0)])
    assert in_range("hard", 20 * strength)
    assert asked == [strength], "what is known gives the first guess"


def test_search_measures_no_strength_twice() -> None:
    asked: list[float] = []

    def shift(strength: float) -> float:
        asked.append(strength)
        return 100.0 if strength > 0.1 else 0.0

    search(shift, PROBABILITY, AIMS["hard"])
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize(
    ("level", "d", "inside"),
    [("easy", 4.0, True), ("easy", 3.99, False), ("hard", 1.0, True), ("hard", 2.0, True), ("hard", 2.01, False),
     ("hard", 0.99, False), ("easy", 40.0, True)],
)  # fmt: skip
def test_levels_are_the_ranges_that_were_fixed(level: str, d: float, inside: bool) -> None:
    assert in_range(level, d) is inside


def test_every_mechanism_has_cells_where_it_can_be() -> None:
    every = [*list_cases(("addition", "calculator"), ("calculator",)), *list_cases(("addition",), (), learned=True)]
    assert len(set(every)) == len(every)
    assert {(c.code, c.mechanism) for c in every} == {
        (k.code, m.name) for k in CATALOGUE.values() for m in k.mechanisms
    }
    assert not [
        c for c in every if c.algorithm not in c.kind.algorithms or (c.kind.needs_tool and c.task == "addition")
    ]
    # What acts in the learner is measured with both algorithms, what acts before it once.
    assert {c.algorithm for c in every if c.code == "CA-2"} == {"grpo", "ppo"}
    assert {c.algorithm for c in every if c.code == "RF-1"} == {"grpo"}


@dataclasses.dataclass
class Synthetic:
    """Stands in for a course: one signal."""

    values: list[float]

    def signal(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Its values, whatever the name."""
        return np.array(self.values)


def healthy(*values: list[float]) -> Healthy:
    """Run histories with these values."""
    return Healthy({seed: cast("RunHistory", Synthetic(v)) for seed, v in enumerate(values)})


def test_spread_is_that_between_runs_at_the_same_step() -> None:
    # Runs that trend alike are not apart.
    assert healthy([0.0, 1.0, 2.0], [0.2, 1.2, 2.2]).spread("reward_mean", 128, np.arange(3)) == pytest.approx(
        math.sqrt(0.02)
    )


def test_spread_is_never_below_one_event_or_a_thousandth() -> None:
    same = healthy([0.5] * 3, [0.5] * 3)
    assert same.spread("empty_rate", 128, np.arange(3)) == 1 / 128
    assert same.spread("reward_mean", 128, np.arange(3)) == 1e-3


class Scripted:
    """Stands in for a lab: a fault adds its strength to the rewards from its effect on."""

    def __init__(self, effect: int | None, length: int) -> None:
        self.effect, self.length = effect, length
        self.asked: list[tuple[str, ...]] = []
        self.fails = False

    def trunk(self, config: RunConfig, step: int) -> str:
        """No checkpoint is needed."""
        return f"{config.seed}/{step}"

    def run(
        self,
        config: RunConfig,
        inject: tuple[str, ...],
        fork: str,
        how: HowToRun = USUALLY,
    ) -> Any:
        """A course whose healthy values depend on the seed."""
        assert fork == f"{config.seed}/5"
        self.asked.append(inject)
        # As the lab does: a run that is waited for ends so many steps after its effect.
        length = self.length
        if how.follow is not None and self.effect is not None:
            length = min(length, self.effect - 6 + how.follow)
        values = np.full(length, float(config.seed))
        if inject:
            strength = float(inject[0].split(":")[1].split(",")[0])
            values[0 if self.effect is None else self.effect - 6 :] += strength
        history = Synthetic(values.tolist())
        history.rows, history.effects, history.accuracy = range(length), (self.effect,), 1 - len(inject) / 4  # type: ignore[attr-defined]
        history.error = "out of memory" if how.may_fail and self.fails else ""  # type: ignore[attr-defined]
        return history


def bench(runner: Scripted) -> Bench:
    """A bench on it with two seeds, a standard deviation of 1 / sqrt 2 apart."""
    return Bench(
        cast("ExperimentRunner", runner),
        lambda c, s: load_config(None, [f"task.name={c.task}", f"algorithm.name={c.algorithm}", f"seed={s}"]), 6,
        (1, 2), 40,
    )  # fmt: skip


def test_shift_is_paired_by_seed_and_in_units_of_the_healthy_spread() -> None:
    runner = Scripted(6, WINDOW)
    shifts = bench(runner).shifts(CalibrationCase("addition", "grpo", "RF-1", "outliers"), 3.0, (1, 2))
    assert shifts == pytest.approx([3 * math.sqrt(2)] * 2)
    assert runner.asked[-1] == ("RF-1@6:3.0,mechanism=outliers",)


def test_direction_of_the_signal_counts() -> None:
    shifts = bench(Scripted(6, WINDOW)).shifts(CalibrationCase("addition", "grpo", "RF-2", "zeroed"), 0.5, (1,))
    assert shifts[0] < 0


def test_what_waits_for_its_effect_is_measured_from_there_and_not_where_it_is_late() -> None:
    case = CalibrationCase("addition", "grpo", "RF-3", "last_character")
    assert bench(Scripted(20, 35)).shifts(case, 1.0, (1,)) == pytest.approx([math.sqrt(2)])
    for effect in (None, 38):
        assert math.isnan(bench(Scripted(effect, 35)).shifts(case, 1.0, (1,))[0])


def test_loss_is_against_the_healthy_run_of_the_same_seed() -> None:
    case = CalibrationCase("addition", "grpo", "RF-1", "outliers")
    assert bench(Scripted(6, WINDOW)).loss(case, 1.0, (1, 2), 40) == [0.25, 0.25]


def test_run_that_an_error_ends_has_lost_everything() -> None:
    runner = Scripted(6, WINDOW)
    runner.fails = True
    assert bench(runner).loss(CalibrationCase("addition", "grpo", "RF-1", "outliers"), 1.0, (1,), 40) == [1.0]


def test_clean_and_dirty_runs_have_healthy_runs_of_their_own() -> None:
    runner = Scripted(6, WINDOW)
    one = bench(runner)
    for dirty in (False, True):
        one.shifts(CalibrationCase("addition", "grpo", "RF-1", "outliers", dirty), 1.0, (1,))
    assert runner.asked.count(()) == 4
    cases = list(list_cases(("addition",), (), dirty=True))
    assert all(case.dirty for case in cases)
    assert [dataclasses.replace(c, dirty=False) for c in cases] == list(list_cases(("addition",), ()))


def test_quick_runs_keep_what_they_measure_and_save_nothing() -> None:
    config = quick(load_config(None, ["seed=4", "guard.regrade_rate=0.5"]), probe={"final_size": 64})
    assert (config.seed, config.guard.regrade_rate, config.guard.mode.value) == (4, 0.5, "observe")
    assert (config.checkpoints.at_end, config.probe.final_size, config.probe.every) == (False, 64, 0)
