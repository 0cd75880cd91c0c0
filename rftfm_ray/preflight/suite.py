"""Which checks are made of a run, and what each set of them needs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import ModelError
from rftfm_ray.planning import RunPlan
from rftfm_ray.preflight import live, model_files, rates, rewards, room, rows, texts
from rftfm_ray.preflight.asking import REFERENCES, AskLimits, TaskAnswers, spread
from rftfm_ray.preflight.findings import Checked, reason_of, run_checks, skipped
from rftfm_ray.preflight.live import LiveFacts
from rftfm_ray.preflight.model_files import ModelFacts, read_model
from rftfm_ray.tasks.api import Problem, scaled_limits


@dataclass(frozen=True, slots=True)
class FileChecks:
    """What was found without the task's code and without actors; `model` are the model's files, None unreadable."""

    checked: Checked
    model: ModelFacts | None


def ask_limits(config: RunConfig) -> AskLimits:
    """How much of the task's code is asked, before and after the model has answered."""
    preflight, verifier = config.preflight, config.verifier
    return AskLimits(preflight.verdicts, preflight.timeout_s, verifier.timeout_s, verifier.workers)


def kept_back(config: RunConfig) -> int:
    """Verdicts that are kept for the answers of the model: one for each, and at most half of all."""
    preflight = config.preflight
    return min(preflight.verdicts // 2, preflight.groups * config.algorithm.samples_per_prompt)


def asked_rows(plan: RunPlan) -> list[Problem]:
    """The problems that the task's code is asked about, from all over the pool."""
    return spread(plan.pool, REFERENCES)


def check_files(plan: RunPlan) -> FileChecks:
    """The checks of rows, model files, rates and room: none of them runs code of the user's, or an actor."""
    began, config = time.perf_counter(), plan.config
    checked = run_checks(rows.CHECKS, rows.RowFacts(plan.pool, plan.heldout))
    model: ModelFacts | None = None
    size = math.nan
    try:
        model = read_model(plan.facts.path, config.model.dtype)
        size = model.weights.size
        checked += run_checks(model_files.CHECKS, model)
    except (ModelError, OSError, ValueError) as error:
        checked += skipped(model_files.CHECKS, reason_of(error))
    stages = [stage for _, stage in config.stages()]
    lr = max(stage.learner.lr for stage in stages)
    moved = rates.RateFacts(lr, config.algorithm.minibatches, config.steps, size)
    checked += run_checks(rates.CHECKS, moved)
    needed = room.room_facts(config, plan.facts.parameters, plan.folder, is_local=room.is_local())
    checked += run_checks(room.CHECKS, needed)
    return FileChecks(replace(checked, seconds=time.perf_counter() - began), model)


def check_task_code(
    plan: RunPlan, model: ModelFacts | None, answers: TaskAnswers | None, asked: Sequence[Problem], reason: str = ""
) -> Checked:
    """The checks of what the task's own code has said.

    Args:
        plan: of the run.
        model: its files.
        answers: of the task's code; None where it could not be asked, for `reason`.
        asked: the problems that it was asked about.
        reason: a clause.
    """
    began = time.perf_counter()
    if answers is None:
        return skipped(rewards.CHECKS, reason) + skipped(texts.CHECKS, reason)
    checked = run_checks(rewards.CHECKS, reward_facts(plan.config, answers))
    limits = scaled_limits(plan.task.max_new_tokens, plan.config.task.token_scale)
    tokenizer = None if model is None else model.tokenizer
    read = texts.TextFacts(tokenizer, asked, answers.references, limits, plan.config.rollout.max_model_len)
    checked += run_checks(texts.CHECKS, read)
    asked_for, seconds = len(answers.asked), time.perf_counter() - began
    return replace(checked, verdicts=asked_for, seconds=seconds, left_out=answers.left_out)


def reward_facts(config: RunConfig, answers: TaskAnswers) -> rewards.RewardFacts:
    """What the checks of the reward need to know of a configuration."""
    stages = [stage.algorithm for _, stage in config.stages()]
    return rewards.RewardFacts(
        answers,
        verdicts_per_step=max(stage.prompts_per_step * stage.samples_per_prompt for stage in stages),
        at_a_time=config.verifier.workers * config.rollout.num_actors,
        has_critic=config.algorithm.name == "ppo",
        regrade_noise=config.guard.regrade_noise,
        timeout_s=config.verifier.timeout_s,
    )


def check_live(facts: LiveFacts, verdicts: int, seconds: float) -> Checked:
    """The checks of what actors have answered; `verdicts` and `seconds` were needed for it."""
    return replace(run_checks(live.CHECKS, facts), verdicts=verdicts, seconds=seconds)


def no_live(reason: str) -> Checked:
    """No actor was asked."""
    return skipped(live.CHECKS, reason)
