"""The configuration of a run as one tree; its parts are in `sections`."""

from __future__ import annotations

from typing import Annotated

import yaml
from pydantic import Field, model_validator

from rftfm_ray.config.sections import (
    AlgorithmConfig,
    Cadence,
    ChannelsConfig,
    CheckpointConfig,
    Count,
    CriticConfig,
    GateConfig,
    GuardConfig,
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
)


class RunConfig(Section):
    """A whole run. Steps count from 1."""

    seed: Annotated[Integer, Field(ge=0, lt=2**31)] = 0
    steps: Count = 40
    """Steps of training; after a rollback those that were undone are made again."""
    max_paid_steps: Cadence = 0
    """Steps at most, undone ones included; 0: as many as it takes."""
    inject: tuple[str, ...] = ()
    """Faults to inject, each as `CODE@STEP[:strength]`, for example `OD-1@15:30`: a fire drill."""
    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    rollout: RolloutConfig = RolloutConfig()
    learner: LearnerConfig = LearnerConfig()
    critic: CriticConfig = CriticConfig()
    gate: GateConfig = GateConfig()
    sync: SyncConfig = SyncConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    probe: ProbeConfig = ProbeConfig()
    records: RecordsConfig = RecordsConfig()
    report: ReportConfig = ReportConfig()
    placement: PlacementConfig = PlacementConfig()
    guard: GuardConfig = GuardConfig()
    channels: ChannelsConfig = ChannelsConfig()

    @model_validator(mode="after")
    def _groups_and_steps(self) -> RunConfig:
        algorithm = self.algorithm
        if algorithm.samples_per_prompt < 2 and algorithm.name in ("grpo", "rloo"):
            raise ValueError(
                f"algorithm.samples_per_prompt={algorithm.samples_per_prompt} leaves algorithm.name={algorithm.name} "
                "without a baseline, which is the group; use at least 2, or algorithm.name=reinforce_pp or ppo"
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
    def _combinations(self) -> RunConfig:
        algorithm, task = self.algorithm, self.task
        if algorithm.prompts_per_step > task.pool_size:
            raise ValueError(
                f"algorithm.prompts_per_step={algorithm.prompts_per_step} is larger than task.pool_size="
                f"{task.pool_size}; raise task.pool_size"
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

    @property
    def normalizes_std(self) -> bool:
        """Whether advantages are divided by their standard deviation."""
        wanted = self.algorithm.normalize_std
        return self.algorithm.name != "rloo" if wanted is None else wanted

    def to_yaml(self) -> str:
        """The resolved configuration as YAML that `load_config` reads back to the same value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
