"""The configuration of a run as one tree; its parts are in `sections`."""

from __future__ import annotations

import functools
from typing import Annotated

import yaml
from pydantic import Field, model_validator

from rftfm_ray.config.background import BackgroundConfig
from rftfm_ray.config.changes import check_changes, later_stages
from rftfm_ray.config.data import DataConfig, EvalConfig, RewardConfig
from rftfm_ray.config.guard import ChannelsConfig, GuardConfig
from rftfm_ray.config.loggers import LoggingConfig
from rftfm_ray.config.preflight import PreflightConfig
from rftfm_ray.config.sections import (
    AlgorithmConfig,
    Cadence,
    CheckpointConfig,
    Count,
    CriticConfig,
    GateConfig,
    Integer,
    LearnerConfig,
    ModelConfig,
    PlacementConfig,
    ProbeConfig,
    RecordsConfig,
    ReportConfig,
    RolloutConfig,
    Section,
    SnapshotConfig,
    SyncConfig,
    TaskConfig,
    VerifierConfig,
)
from rftfm_ray.config.tools import ToolsConfig

PARITY_GAPS = {"float32": 1e-3, "bfloat16": 2.0}
"""Largest gap in nats between two computations of one token's log-prob, by precision.

A bfloat16 logit of 16 to 32 is a multiple of 0.125, and every layer rounds: gaps up to 0.56 were measured in 60 healthy
steps of the shipped model, growing with its confidence. That the weights are equal is checked exactly, by fingerprints.
"""

ROUNDING_GAPS = {"float32": 0.0, "bfloat16": 0.5}
"""The same where weights alone are rounded on their way: gaps up to 0.05 were measured in 48 healthy steps of the
shipped model."""


class RunConfig(Section):
    """A whole run. Steps count from 1."""

    seed: Annotated[Integer, Field(ge=0, lt=2**31)] = 0
    """Decides the problems, their order and every sample; equal seeds give equal runs, bit for bit."""
    steps: Count = 40
    """Steps of training; after a rollback those that were undone are made again."""
    max_paid_steps: Cadence = 0
    """Steps at most, undone ones included; 0: as many as it takes."""
    inject: tuple[str, ...] = ()
    """Faults to inject, each as `CODE@STEP[:strength]`, for example `OD-1@15:30`; see `rftfm faults list`."""
    changes: tuple[str, ...] = ()
    """Changes while the run goes on, each as `KEY=VALUE@STEP`, for example `learner.lr=1e-4@30`: in force from that
    step on, and declared to the guard."""
    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    reward: RewardConfig = RewardConfig()
    tools: ToolsConfig = ToolsConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    rollout: RolloutConfig = RolloutConfig()
    verifier: VerifierConfig = VerifierConfig()
    learner: LearnerConfig = LearnerConfig()
    critic: CriticConfig = CriticConfig()
    gate: GateConfig = GateConfig()
    sync: SyncConfig = SyncConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    probe: ProbeConfig = ProbeConfig()
    eval: EvalConfig = EvalConfig()
    records: RecordsConfig = RecordsConfig()
    report: ReportConfig = ReportConfig()
    logging: LoggingConfig = LoggingConfig()
    placement: PlacementConfig = PlacementConfig()
    guard: GuardConfig = GuardConfig()
    channels: ChannelsConfig = ChannelsConfig()
    background: BackgroundConfig = BackgroundConfig()
    preflight: PreflightConfig = PreflightConfig()

    @model_validator(mode="after")
    def _groups_and_steps(self) -> RunConfig:
        algorithm = self.algorithm
        if algorithm.samples_per_prompt < 2 and algorithm.name in ("grpo", "rloo"):
            raise ValueError(
                f"algorithm.samples_per_prompt={algorithm.samples_per_prompt} leaves algorithm.name={algorithm.name} "
                "without a baseline, which is the group; use at least 2, or algorithm.name=reinforce_pp or ppo"
            )
        if algorithm.name == "reinforce_pp" and algorithm.samples_per_prompt * algorithm.prompts_per_step < 2:
            raise ValueError(
                "algorithm.prompts_per_step=1 with algorithm.samples_per_prompt=1 leaves algorithm.name=reinforce_pp "
                "without a baseline, which is the mean of the step; use at least 2 of one of them, or "
                "algorithm.name=ppo"
            )
        if algorithm.samples_per_prompt < 2 and algorithm.group_filter:
            raise ValueError(
                f"algorithm.samples_per_prompt={algorithm.samples_per_prompt} with algorithm.group_filter=true leaves "
                "every group out of the update; use at least 2, or algorithm.group_filter=false"
            )
        if self.critic.warmup_steps >= self.steps and algorithm.name == "ppo":
            raise ValueError(
                f"critic.warmup_steps={self.critic.warmup_steps} leaves the policy none of steps={self.steps}; lower it"
            )
        if self.learner.warmup_steps >= self.steps:
            raise ValueError(
                f"learner.warmup_steps={self.learner.warmup_steps} does not end before steps={self.steps}; lower it"
            )
        return self

    @model_validator(mode="after")
    def _only_with_rows(self) -> RunConfig:
        if self.reward.functions and self.data.train is None:
            raise ValueError(
                f"reward.functions={list(self.reward.functions)} grades answers to the rows of data.train, which is "
                "not set; set it, or leave reward.functions out: a task grades its own answers"
            )
        if self.tools.functions and self.data.train is None:
            raise ValueError(
                f"tools.functions={list(self.tools.functions)} are for answers to the rows of data.train, which is not "
                "set; set it, or leave tools.functions out: a task has an environment of its own"
            )
        files = [text for (_, file), text in zip(self.eval.files(), self.eval.sets, strict=True) if file]
        if files and self.data.train is None:
            raise ValueError(
                f"eval.sets={files} are rows of the form of data.train, which is not set; set it, or use eval.sets="
                "[heldout]"
            )
        return self

    @model_validator(mode="after")
    def _combinations(self) -> RunConfig:
        algorithm, task = self.algorithm, self.task
        # A data set has the rows that it has.
        if self.data.train is None and algorithm.prompts_per_step > task.pool_size:
            raise ValueError(
                f"algorithm.prompts_per_step={algorithm.prompts_per_step} is larger than task.pool_size="
                f"{task.pool_size}; raise task.pool_size"
            )
        hard = round(task.hard_share * algorithm.prompts_per_step)
        if self.data.train is None and hard > task.pool_size // 2:
            raise ValueError(
                f"task.hard_share={task.hard_share:g} of algorithm.prompts_per_step={algorithm.prompts_per_step} is "
                f"more than the harder half of task.pool_size={task.pool_size}; raise task.pool_size"
            )
        if algorithm.prompts_per_step % algorithm.minibatches:
            raise ValueError(
                f"algorithm.minibatches={algorithm.minibatches} does not divide algorithm.prompts_per_step="
                f"{algorithm.prompts_per_step}; choose a divisor, so that no group is split"
            )
        if self.rollout.num_actors > algorithm.prompts_per_step:
            raise ValueError(
                f"rollout.num_actors={self.rollout.num_actors} is larger than algorithm.prompts_per_step="
                f"{algorithm.prompts_per_step}; an actor would have nothing to do, so lower rollout.num_actors"
            )
        if self.rollout.temperature == 0:
            raise ValueError(
                "rollout.temperature=0 makes all samples of a prompt equal and every advantage zero; raise it"
            )
        if self.model.dtype == "bfloat16" and self.learner.zero_stage == 0:
            raise ValueError(
                "learner.zero_stage=0 has no fp32 master weights beside model.dtype=bfloat16; use learner.zero_stage=2"
            )
        if self.rollout.block_size == 16 and not self.placement.gpus_per_rollout:
            raise ValueError("rollout.block_size=16 is for GPUs, a CPU's attention takes multiples of 32; use 32")
        return self

    # The last of them: what it builds is checked by those above.
    @model_validator(mode="after")
    def _planned_changes(self) -> RunConfig:
        if self.changes:
            check_changes(self)
        return self

    def at(self, step: int) -> RunConfig:
        """The configuration in force at `step`: this one until the first of `changes`, and without changes to come."""
        config = self
        if self.changes:
            for start, stage in _later_stages(self):
                if start > step:
                    break
                config = stage
        return config

    def stages(self) -> tuple[tuple[int, RunConfig], ...]:
        """The first step of every configuration that is in force for a part of the run, with it."""
        return ((1, self), *_later_stages(self)) if self.changes else ((1, self),)

    @property
    def parity_limit(self) -> float:
        """Largest gap in nats between log-probs of learner and rollout, by the precision where the key leaves it."""
        limit = self.sync.parity_max_gap
        if limit is not None:
            return limit
        return max(PARITY_GAPS[self.model.dtype], ROUNDING_GAPS[self.sync.dtype])

    @property
    def normalizes_std(self) -> bool:
        """Whether advantages are divided by their standard deviation."""
        wanted = self.algorithm.normalize_std
        return self.algorithm.name != "rloo" if wanted is None else wanted

    def to_yaml(self) -> str:
        """The resolved configuration as YAML that `load_config` reads back to the same value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


# A hash of a configuration costs microseconds, and a cache outside of it leaves comparing, copying and pickling alone.
@functools.lru_cache(maxsize=64)
def _later_stages(config: RunConfig) -> tuple[tuple[int, RunConfig], ...]:
    return tuple(later_stages(config))
