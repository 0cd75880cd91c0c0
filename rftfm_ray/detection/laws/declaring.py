"""What a run's configuration declares, as laws need it. Pure."""

from __future__ import annotations

from rftfm_ray.config import RunConfig
from rftfm_ray.config.declared import Aggregation, Declared, DeclaredCourse, Normalization
from rftfm_ray.config.settings import nominal_settings
from rftfm_ray.tasks.relations import relations_of


def declared_course(config: RunConfig) -> DeclaredCourse:
    """What a configuration declares for every part of its run: planned changes and a critic's warm-up end parts."""
    ends = {config.critic.warmup_steps + 1} if config.critic.warmup_steps else set[int]()
    firsts = sorted({first for first, _ in config.stages()} | ends)
    return tuple((first, _declared(config, first)) for first in firsts)


def _declared(config: RunConfig, step: int) -> Declared:
    """What is in force at a step (from 1) without levers."""
    settings, stage = nominal_settings(config, step), config.at(step)
    relations = relations_of(stage)
    is_critic = stage.algorithm.name == "ppo"
    scope = Normalization.BATCH if stage.algorithm.name in ("ppo", "reinforce_pp") else Normalization.GROUP
    return Declared(
        estimator=stage.algorithm.name,
        group_size=stage.algorithm.samples_per_prompt,
        normalization=scope if stage.normalizes_std else Normalization.NONE,
        aggregation=Aggregation(stage.algorithm.loss_aggregation),
        updates=settings.minibatches,
        kl_coef=settings.kl_coef,
        entropy_coef=settings.entropy_coef,
        value_coef=stage.critic.value_coef if is_critic else None,
        gamma=settings.gamma,
        advantage_clip=settings.advantage_clip,
        group_filter=settings.group_filter,
        frozen=settings.freeze_policy,
        reward=None if relations.reward is None else relations.reward.scaled(stage.task.reward_scale),
        turn_per_call=relations.turn_per_call,
        parity_gap=stage.parity_limit if stage.rollout.top_p >= 1 else None,
        full_precision=stage.model.dtype == "float32",
    )
