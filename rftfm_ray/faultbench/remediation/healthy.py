"""Guarded runs without a fault, of many configurations: the guard must leave them alone. Pure.

Up to a remedy such a run trains on the same, bit for bit, as one without a guard. Clean runs are therefore made beside
it where the guard has given one, and one beside every tenth, which shows that it is so.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from rftfm_ray.faultbench.remediation.drawing import BLOCK, FORK_SEEDS
from rftfm_ray.faultbench.remediation.pairs import FORKS, Arm, Ended, EndedRuns, Role, Trunk
from rftfm_ray.faultbench.remediation.records import RunRecord
from rftfm_ray.faultbench.runs.runner import RATES
from rftfm_ray.faultbench.runs.seeds import is_dirty, seeds_of

SIZES, TASKS = ("tiny", "small"), ("addition", "calculator")
ALGORITHMS = ("grpo", "rloo", "reinforce_pp", "ppo")
KINDS = tuple(itertools.product(SIZES, ALGORITHMS, TASKS))
PROFILED = tuple(itertools.product(("tiny",), ("grpo", "ppo"), TASKS))
"""Sizes, algorithms and tasks of which the benchmark has profiles."""
FIRST = 20_000
"""Distance of their seeds from the first of the benchmark: none of those is a seed of a pair."""
CHECKED_EVERY = 10
PROMPTS = (8, 32)
TEMPERATURES, KL_COEFS = (0.7, 1.2), (0.0, 0.1)


@dataclass(frozen=True, slots=True)
class HealthyRun:
    """One configuration.

    Attributes:
        trunk: its task, algorithm and seed.
        size: of the shipped model.
        overrides: `key=value` of what is not as usual.
        has_profile: whether the guard has a profile; it is of runs that are configured as usual.
        is_checked: whether a run without a guard is made beside it whatever the guard does.
    """

    trunk: Trunk
    size: str
    overrides: tuple[str, ...]
    has_profile: bool
    is_checked: bool = False

    def guarded(self) -> Arm:
        """The run with the guard."""
        return Arm(self.trunk, Role.PROFILED if self.has_profile else Role.GUARDED)

    def clean(self, number: int) -> Arm:
        """A run without a guard, each with a sampling seed of its own; the first has that of the guarded one."""
        return Arm(self.trunk, Role.CLEAN, number=number)

    def next_arm(self, ended: EndedRuns) -> Arm | None:
        """The next of its runs to make; None where it is finished."""
        guarded = ended.get(self.guarded().name)
        if guarded is None:
            return self.guarded()
        arms = (self.clean(number) for number in range(1, self._wanted(guarded) + 1))
        return next((arm for arm in arms if arm.name not in ended), None)

    def _wanted(self, guarded: Ended) -> int:
        """How many clean runs are made beside the guarded one."""
        is_touched = isinstance(guarded, RunRecord) and bool(guarded.given or guarded.error)
        return FORKS if is_touched else int(self.is_checked)


def healthy_runs(count: int, seed: int = 1) -> tuple[HealthyRun, ...]:
    """The first `count` of them: 32 in a row have every kind, half with the background.

    Args:
        count: how many.
        seed: that the benchmark is drawn from.
    """
    first = seeds_of(seed, BLOCK)[0] + FIRST
    if count > FORK_SEEDS - FIRST:
        raise ValueError(f"{count} healthy runs have no seeds; ask for fewer")
    return tuple(_drawn(index, first + index) for index in range(count))


def _drawn(index: int, seed: int) -> HealthyRun:
    rng = random.Random(f"healthy-{seed}")
    size, algorithm, task = KINDS[index // 2 % len(KINDS)]
    dirty = is_dirty(seed)
    minibatches = rng.randint(1, 4)
    # Minibatches have equally many prompts.
    prompts = minibatches * rng.randint(-(-PROMPTS[0] // minibatches), PROMPTS[1] // minibatches)
    overrides = (
        f"learner.lr={RATES[task] * 2 ** rng.uniform(-1, 1):.4g}",
        f"rollout.temperature={rng.uniform(*TEMPERATURES):.3g}",
        f"algorithm.kl_coef={rng.uniform(*KL_COEFS):.3g}",
        f"algorithm.minibatches={minibatches}",
        f"algorithm.prompts_per_step={prompts}",
    )
    has_profile = (size, algorithm, task) in PROFILED and index // len(KINDS) // 2 % 2 == 0
    return HealthyRun(Trunk(task, algorithm, seed, dirty), size, overrides, has_profile, index % CHECKED_EVERY == 0)
