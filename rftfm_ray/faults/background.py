"""The background of an experiment: what the seed draws of it, and the disturbances in the running actors. Pure.

A background is no fault: it is there from the first step to the last, and a run under it is healthy. It lies below the
faults and controls of a drill, which act on what it leaves. All draws are hashes of the seed, the disturbance, the
consumed step and the identity of what it meets: a fault, a rollback or a resume shifts none of them.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rftfm_ray.config import BackgroundConfig, RunConfig
from rftfm_ray.errors import FaultError
from rftfm_ray.faults.draws import call_identity, episode_identity
from rftfm_ray.faults.tools import ToolOutageError
from rftfm_ray.rollout.channels import CallId, EpisodeId, RewardChannel, ToolInstance
from rftfm_ray.tasks.api import Observation, Problem, Task, Transcript, Verdict, unit_hash
from rftfm_ray.tasks.loading import difficulties
from rftfm_ray.tasks.stream import Part
from rftfm_ray.types import StepId

logger = logging.getLogger(__name__)

DIRTY: Mapping[str, tuple[float, float]] = {
    "tool_failures": (0.01, 0.03),
    "verifier_errors": (0.005, 0.005),
    "slow_verdicts": (0.02, 0.02),
    "length_spread": (0.5, 0.5),
    "difficulty_walk": (0.6, 0.6),
}
"""The preset `dirty`: lowest and highest value of each key of `background`, between which the seed draws."""
# Divisors of every usual number of prompts, because groups are never split between minibatches.
MINIBATCHES = (2, 4)
SERVED_DTYPE = "bfloat16"
# Some milliseconds: a judge that is late for seconds would be an outage.
DELAY_S = (0.005, 0.02)
# Steps between the points that the walk of the difficulty connects: a run of 40 steps sees it turn a few times.
WALK_STEPS = 8
# Of the sums of the calculator one in forty has two digits: a pool of 256 holds half a dozen of them.
CANDIDATES = 8


@dataclass(frozen=True, slots=True)
class Background:
    """What the preset `dirty` is for a seed: the keys of `background`, and the two of the ordinary configuration.

    Attributes:
        disturbances: values of `background`, by key.
        minibatches: `algorithm.minibatches`.
        dtype: `sync.dtype`.
    """

    disturbances: tuple[tuple[str, float], ...]
    minibatches: int
    dtype: str = SERVED_DTYPE

    def sections(self) -> dict[str, dict[str, Any]]:
        """The keys that it sets, by section of the configuration."""
        return {
            "background": {"preset": None, **dict(self.disturbances)},
            "algorithm": {"minibatches": self.minibatches},
            "sync": {"dtype": self.dtype},
        }


def dirty(seed: int) -> Background:
    """The preset `dirty` as the runs of `seed` have it."""
    drawn = tuple(
        (name, low + (high - low) * unit_hash("background", name, seed)) for name, (low, high) in DIRTY.items()
    )
    return Background(drawn, MINIBATCHES[int(unit_hash("background", "minibatches", seed) * len(MINIBATCHES))])


def background_of(seed: int) -> Background | None:
    """The background of all runs of `seed` in a benchmark; None for the other half of the seeds.

    Of every two seeds 2k and 2k + 1 one has it.
    """
    is_second = unit_hash("background", "pair", seed // 2) < 0.5
    return dirty(seed) if (seed % 2 == 1) == is_second else None


def with_preset(config: RunConfig) -> RunConfig:
    """`config` with `background.preset` written out in the keys that it stands for; as it is without one.

    A number of minibatches that the configuration has itself stays.

    Raises:
        FaultError: when the preset leads to an invalid configuration.
    """
    if config.background.preset is None:
        return config
    drawn, tree = dirty(config.seed).sections(), config.model_dump()
    if config.algorithm.minibatches > 1:
        del drawn["algorithm"]
    for name, keys in drawn.items():
        tree[name] |= keys
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise FaultError(f"background.preset={config.background.preset} does not fit this run: {why}.") from None


class FlakyTool:
    """A tool instance of which a share of the calls fail."""

    def __init__(self, inner: ToolInstance, share: float, seed: int, instance: int) -> None:
        self._inner = inner
        self._share = share
        self._seed = seed
        self._instance = instance

    def __call__(self, call: CallId, problem: Problem, text: str) -> Observation | None:
        observation = self._inner(call, problem, text)
        # A turn that ends the episode is no call.
        if observation is None:
            return None
        drawn = unit_hash("background", "tool_failures", self._seed, self._instance, *call_identity(call))
        if drawn < self._share / 2:
            raise ToolOutageError("the tool has failed")
        if drawn < self._share:
            raise TimeoutError("the tool has not answered in time")
        return observation


class MistakenReward:
    """A reward channel whose verifier errs now and then, and is slow now and then.

    An error is the verdict on another answer: on the right one instead of a wrong one, on none instead of a right one.
    So whoever reads the verdict reads the same error, and what calls cost stays. Where the verifier does not take
    `Problem.answer` for right, its verdict stays.
    """

    def __init__(self, inner: RewardChannel, settings: BackgroundConfig, seed: int) -> None:
        self._inner = inner
        self._settings = settings
        self._seed = seed

    def __call__(self, episode: EpisodeId, problem: Problem, transcript: Transcript) -> Verdict:
        verdict = self._inner(episode, problem, transcript)
        if self._draw("verifier_errors", episode) < self._settings.verifier_errors:
            last = "" if verdict.correct else problem.answer
            other = dataclasses.replace(transcript, turns=(*transcript.turns[:-1], last), finished=True)
            opposite = self._inner(episode, problem, other)
            verdict = opposite if opposite.correct is not verdict.correct else verdict
        if self._draw("slow_verdicts", episode) < self._settings.slow_verdicts:
            low, high = DELAY_S
            time.sleep(low + (high - low) * self._draw("delay", episode))
        return verdict

    def _draw(self, name: str, episode: EpisodeId) -> float:
        return unit_hash("background", name, self._seed, *episode_identity(episode))


def disturbed_tools(
    instances: Sequence[ToolInstance], settings: BackgroundConfig, seed: int
) -> tuple[ToolInstance, ...]:
    """The tool instances as they are under a background: each of them fails by itself."""
    if not settings.tool_failures:
        return tuple(instances)
    return tuple(FlakyTool(tool, settings.tool_failures, seed, index) for index, tool in enumerate(instances))


def disturbed_reward(channel: RewardChannel, settings: BackgroundConfig, seed: int) -> RewardChannel:
    """The live reward channel as it is under a background."""
    is_disturbed = settings.verifier_errors or settings.slow_verdicts
    return MistakenReward(channel, settings, seed) if is_disturbed else channel


def disturbed_prompts(settings: BackgroundConfig, task: Task, pool: Sequence[Problem], seed: int) -> tuple[Part, ...]:
    """The parts that prompts come from under a background; none of what the problems do not differ in."""
    parts: list[Part] = []
    if settings.length_spread:
        candidates = _candidates(task, pool, seed)
        levels = [float(len(problem.answer)) for problem in candidates]
        longer, shorter = _apart(candidates, levels)
        tilt = _scaled(settings.length_spread, lambda paid_step: uneven(seed, paid_step))
        parts += _two_parts(("longer", longer), ("shorter", shorter), tilt)
    if settings.difficulty_walk:
        harder, easier = _apart(pool, difficulties(task, pool))
        tilt = _scaled(settings.difficulty_walk, lambda paid_step: walk(seed, paid_step))
        parts += _two_parts(("harder", harder), ("easier", easier), tilt)
    return tuple(parts)


def uneven(seed: int, paid_step: int) -> float:
    """Uniform in [-1, 1), drawn anew for every consumed step."""
    return 2 * unit_hash("background", "length_spread", seed, paid_step) - 1


def walk(seed: int, paid_step: int) -> float:
    """A slow walk in [-1, 1]: a smooth curve through uniform draws `WALK_STEPS` consumed steps apart.

    Between two draws it follows half a cosine (value noise, K. Perlin, An Image Synthesizer, SIGGRAPH 1985).
    """
    index, rest = divmod(paid_step, WALK_STEPS)
    before, after = (2 * unit_hash("background", "difficulty_walk", seed, index + n) - 1 for n in (0, 1))
    weight = (1 - math.cos(math.pi * rest / WALK_STEPS)) / 2
    return before + weight * (after - before)


Tilt = Callable[[int], float]
"""Share of the prompts by consumed step: above 0 of the problems above the median, below 0 of those below it."""
Half = tuple[str, Sequence[Problem]]


def _scaled(most: float, course: Tilt) -> Tilt:
    return lambda paid_step: most * course(paid_step)


def _candidates(task: Task, pool: Sequence[Problem], seed: int) -> Sequence[Problem]:
    """More training problems than the pool has: answers of a rare length are too few in it.

    None has a longer prompt than those of the pool, whose prompts are known to leave room for an answer.
    """
    longest = max(len(problem.prompt) for problem in pool)
    try:
        drawn = tuple(task.pool(CANDIDATES * len(pool), seed))
    except Exception as error:  # noqa: BLE001 - the task's own code: it may not have so many
        logger.warning("background.length_spread has no problems but the %d of the pool: %s", len(pool), error)
        return pool
    return [problem for problem in drawn if len(problem.prompt) <= longest] or pool


def _apart(problems: Sequence[Problem], levels: Sequence[float]) -> tuple[Sequence[Problem], Sequence[Problem]]:
    """The problems above the median level and those below it; one side has those at the median, if it has no others.

    Both are empty where all levels are equal.
    """
    middle = statistics.median_low(levels)
    above, below = ([p for p, x in zip(problems, levels, strict=True) if side * (x - middle) > 0] for side in (1, -1))
    if not above and not below:
        return (), ()
    return (
        above or [p for p, x in zip(problems, levels, strict=True) if x == middle],
        below or [p for p, x in zip(problems, levels, strict=True) if x == middle],
    )


def _two_parts(upper: Half, lower: Half, tilt: Tilt) -> tuple[Part, ...]:
    def above(step: StepId) -> float:
        return max(0.0, tilt(step.paid_step))

    def below(step: StepId) -> float:
        return max(0.0, -tilt(step.paid_step))

    halves = ((upper, above), (lower, below))
    return tuple(Part(f"background/{name}", problems, share) for (name, problems), share in halves if problems)
