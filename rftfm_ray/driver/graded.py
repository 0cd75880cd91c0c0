"""Graded answers: how long they may take, and what those of several actors and steps come to together. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.actors.calls import Limit
from rftfm_ray.planning import RunPlan
from rftfm_ray.rollout.jobs import ProbeCounts
from rftfm_ray.types import ProbeResult

# The checked verdicts came one at a time from an idle process, and a part of a step's is asked for twice.
SLOWER_VERDICTS = 4.0


def graded_limit(plan: RunPlan) -> Limit:
    """Time limit of generating and grading the answers of a step, of the largest probe or of an evaluation.

    `rollout.timeout_s` is that of generating. A judge of 5 s takes 800 s for the 1,280 answers of the first probe, so
    its verdicts have a time of their own, from what one took when the task was checked.
    """
    config, verifier = plan.config, plan.config.verifier
    steps = (stage.algorithm.prompts_per_step * stage.algorithm.samples_per_prompt for _, stage in config.stages())
    probe = config.probe.final_size + config.probe.sampled(config.probe.final_size)
    evaluated = max((min(config.eval.size, len(one.problems)) for one in plan.evals), default=0) * config.eval.samples
    rounds = math.ceil(max(*steps, probe, evaluated) / (config.rollout.num_actors * verifier.workers))
    verdicts_s = round(rounds * min(verifier.timeout_s, SLOWER_VERDICTS * plan.verdict_s))
    return Limit(config.rollout.timeout_s + verdicts_s, "rollout.timeout_s or verifier.workers")


def probe_result(step: int, model_version: int, counted: Sequence[ProbeCounts]) -> ProbeResult:
    """The joint result of the answers of several actors or several steps."""
    greedy = _share(*(sum(getattr(c, name) for c in counted) for name in ("right", "size", "ungraded")))
    drawn = _share(*(sum(getattr(c, f"sampled_{name}") for c in counted) for name in ("right", "size", "ungraded")))
    return ProbeResult(
        step=step,
        model_version=model_version,
        accuracy=greedy[0],
        size=greedy[1],
        sampled_accuracy=drawn[0],
        sampled_size=drawn[1],
        seconds=max(c.seconds for c in counted),
        ungraded=greedy[2],
        sampled_ungraded=drawn[2],
    )


def _share(right: int, graded: int, ungraded: int) -> tuple[float, int, int]:
    """Accuracy, graded and ungraded answers. Fewer graded than ungraded ones say nothing about the rest."""
    if not graded or graded < ungraded:
        return math.nan, 0, graded + ungraded
    return right / graded, graded, ungraded
