"""The parts of the configuration tree: with `tree`, the only place with defaults."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "Input should be a number, not true or false")
    return value


Integer = Annotated[int, BeforeValidator(_not_bool)]
Float = Annotated[float, BeforeValidator(_not_bool)]
Positive = Annotated[Float, Field(gt=0)]
NonNegative = Annotated[Float, Field(ge=0)]
Count = Annotated[Integer, Field(ge=1)]
Cadence = Annotated[Integer, Field(ge=0)]
# Beyond these a number is a slip of the keyboard, and what fails on it names another cause.
Seconds = Annotated[Float, Field(ge=1e-3, le=1e7)]
Rate = Annotated[Float, Field(gt=0, le=1)]
Weight = Annotated[Float, Field(ge=0, le=1000)]

BUILTIN_MODEL = "builtin:tiny"


class Section(BaseModel):
    """Base of every part of the tree: immutable, unknown keys are errors, numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class TextPrivacy(StrEnum):
    """How much of the sample texts a run keeps on disk."""

    NONE = "none"
    HASH = "hash"
    FULL = "full"


class ModelConfig(Section):
    """The language model."""

    path: str = BUILTIN_MODEL
    """Directory or hub id of a Hugging Face causal LM; `builtin:tiny` and `builtin:small` ship with the package, and
    the starting policies of tasks that the examples name."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of weights and activations, in the learner and in vLLM."""


class TaskConfig(Section):
    """What is trained on."""

    name: str = "addition"
    """`addition`, `calculator`, a generator of the package `reasoning_gym` as `reasoning_gym:NAME`, or your own as
    `module:Class` or `file.py:Class`."""
    options: tuple[str, ...] = ()
    """Options of the generator of `task.name=reasoning_gym:NAME`, each as `KEY=VALUE`, for example `max_word_len=5`."""
    pool_size: Count = 256
    """Distinct training problems; each is seen once per pass, in a new order each pass."""
    hard_share: Annotated[Float, Field(ge=0, le=1)] = 0.0
    """Share of a step's prompts that come from the harder half of the pool, by `Task.difficulty`; the others come from
    all of it."""
    token_scale: Annotated[Float, Field(gt=0, le=1000)] = 1.0
    """Factor on the task's token limits per turn; a limit is rounded and at least 1."""
    reward_scale: Annotated[Float, Field(ge=1e-3, le=1e6)] = 1.0
    """Factor on all rewards, those of the trusted verifier included."""


class AlgorithmConfig(Section):
    """How rewards become updates."""

    name: Literal["grpo", "ppo", "rloo", "reinforce_pp"] = "grpo"
    """Baseline of a reward: its group (`grpo`), the others of its group (`rloo`), the whole batch (`reinforce_pp`), or
    a critic that learns beside the policy (`ppo`)."""
    prompts_per_step: Count = 16
    """Problems of a step, each answered `algorithm.samples_per_prompt` times."""
    samples_per_prompt: Count = 8
    """Group size; at least 2 where the group is the baseline."""
    minibatches: Count = 1
    """Optimizer updates per step; groups are never split between them."""
    clip_low: Annotated[Float, Field(gt=0, lt=1)] = 0.2
    """The probability ratio of new to old policy is clipped from below at 1 - clip_low."""
    clip_high: Positive = 0.2
    """The ratio is clipped from above at 1 + clip_high."""
    kl_coef: Weight = 0.02
    """Weight of the k3 estimate of KL(policy, frozen reference) in the loss; 0 saves the reference pass."""
    entropy_coef: Weight = 0.0
    """Weight of the entropy bonus in the loss; 0: none."""
    normalize_std: bool | None = None
    """Divide advantages by their standard deviation: over the group (`grpo`, `rloo`) or over the tokens of the step
    (`ppo`, `reinforce_pp`); null: yes, but for `rloo`, as each was published."""
    advantage_clip: Positive | None = None
    """Advantages are clipped to [-advantage_clip, advantage_clip]; null: they are not."""
    group_filter: bool = False
    """Leave groups whose rewards are all equal out of the update, so that their tokens do not dilute it."""
    loss_aggregation: Literal["token", "sequence"] = "token"
    """Mean over all tokens of a minibatch, or mean over sequences of their token means."""


class CriticConfig(Section):
    """The critic of `algorithm.name=ppo`: a value head on the policy's own last layer."""

    lr: Rate = 3e-3
    """Learning rate of the head. What lies below it learns at the policy's."""
    gamma: Annotated[Float, Field(ge=0.5, le=1)] = 1.0
    """Discount per chosen token."""
    gae_lambda: Annotated[Float, Field(ge=0, le=1)] = 0.95
    """Lambda of generalised advantage estimation: 0 trusts the critic, 1 the rewards alone."""
    value_coef: Weight = 0.1
    """Weight of the value loss. It grows with the square of the rewards: lower it where they are in the thousands."""
    value_clip: Positive | None = 0.2
    """A value's move from what it was before the step counts up to this; null: all of it."""
    warmup_steps: Cadence = 0
    """First steps in which only the head learns."""


class RolloutConfig(Section):
    """How trajectories are generated, with vLLM, and how tools are called."""

    num_actors: Count = 1
    """Rollout actors, each with a vLLM engine of its own; the results do not depend on it."""
    temperature: NonNegative = 1.0
    """Temperature of sampling; 0: greedy."""
    top_p: Annotated[Float, Field(gt=0, le=1)] = 1.0
    """Sample from the most likely tokens that have this probability together; 1: from all."""
    max_num_seqs: Count = 256
    """Sequences that one vLLM engine decodes together."""
    max_model_len: Annotated[Integer, Field(ge=16)] = 128
    """Longest sequence in tokens: prompt, turns and observations."""
    kv_cache_mib: Count = 64
    """Size of a vLLM engine's KV cache."""
    block_size: Literal[16, 32, 64, 128] = 32
    """Tokens per KV block of vLLM's cache; on a CPU 32 is the smallest."""
    timeout_s: Seconds = 600.0
    """Longest time that one generation may take before the run stops; slow verdicts have theirs in addition."""
    tool_retries: Cadence = 0
    """Further tries of a tool call that ended in an error, each on the other tool instance."""
    tool_backoff_s: NonNegative = 0.01
    """Wait before the first further try; it doubles with each."""


class VerifierConfig(Section):
    """How a task's own code is called: its verifier and its environment."""

    timeout_s: Seconds = 60.0
    """Seconds that one verdict or tool call may take; a later one has failed, and its thread is left behind."""
    workers: Annotated[Integer, Field(ge=1, le=1024)] = 8
    """Verdicts or tool calls at a time, each in a thread, or a process where `reward.functions` need it; 1 where the
    task's code must not run beside itself."""
    max_failing_steps: Count = 5
    """Steps in a row without a single verdict after which the run stops with a checkpoint."""


class LearnerConfig(Section):
    """How DeepSpeed steps."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed's ZeRO stage: what is divided among ranks."""
    lr: Rate = 3e-4
    """Learning rate of AdamW after the warm-up."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the rate after the warm-up, down to 10 % of `lr` at the last step."""
    warmup_steps: Cadence = 0
    """Steps in which the rate rises linearly to `learner.lr`."""
    weight_decay: NonNegative = 0.0
    """Weight decay of AdamW."""
    adam_betas: tuple[Annotated[Float, Field(ge=0, lt=1)], Annotated[Float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of AdamW's two running means."""
    max_grad_norm: Positive = 1.0
    """Gradients with a larger norm are scaled down to it."""
    micro_batch_size: Count = 128
    """Sequences per forward and backward pass; lower it when memory is short."""
    micro_batch_tokens: Count | None = None
    """Tokens per forward and backward pass at most, prompts that samples share counted once; a longer sequence has a
    pass of its own. null: only `learner.micro_batch_size` counts."""
    gradient_checkpointing: bool = False
    """Compute each layer again in the backward pass: less is kept in memory, for the time of one more forward pass."""
    step_kl_samples: Cadence = 8
    """Trajectories whose log-probs are taken again after a step's last update, to see how far it moved. 0: none."""
    timeout_s: Seconds = 600.0
    """Longest time that one update may take before the run stops."""


class GateConfig(Section):
    """When the commit gate refuses an update."""

    grad_norm_factor: Annotated[Float, Field(gt=1)] = 20.0
    """An update whose gradient norm exceeds the running median this many times is refused."""
    grad_norm_window: Annotated[Integer, Field(ge=2)] = 32
    """Accepted updates that the running median is taken over."""
    grad_norm_warmup: Annotated[Integer, Field(ge=1)] = 8
    """Accepted updates before the norm is judged."""
    advantage_tolerance: Positive = 1e-5
    """Largest difference between the two computations of an advantage that the gate accepts."""


class SyncConfig(Section):
    """How the learner's weights come to the rollout actors, and how the two are compared."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision to which weights are rounded on their way to the rollout actors; the learner keeps its own."""
    parity_every: Cadence = 10
    """Steps between log-prob parity probes of learner and rollout actors; 0: only at the start and after a restore."""
    parity_max_gap: Positive | None = None
    """Largest difference in nats that a probe accepts; null: 0.001 in float32, 0.5 with `sync.dtype=bfloat16`, and 2
    with `model.dtype=bfloat16`."""


class SnapshotConfig(Section):
    """The learner's ring of snapshots, for rollbacks."""

    every: Cadence = 5
    """Steps between snapshots of the learner; 0: none."""
    keep: Count = 4
    """Newest snapshots that stay."""
    max_bytes: Count = 4 << 30
    """Memory that the ring may take."""
    spill: bool = True
    """Write snapshots that `max_bytes` have no room for to `snapshots/` in the run directory, which goes with the run;
    false: a run that would need more memory is refused at submit."""


class CheckpointConfig(Section):
    """Durable checkpoints."""

    every: Cadence = 50
    """Steps between durable checkpoints; 0: only one at the end. The shipped models take 0.1 to 0.3 s to write, 50
    steps of them 15 s."""
    keep: Count = 2
    """Checkpoints that stay; older ones are removed once a newer one is complete."""
    best: bool = True
    """Keep the checkpoint with the best held-out accuracy too, under a link `best`; of equal ones the newest."""
    at_end: bool = True
    """Write a checkpoint after the last step; a signal that asks the run to end gets one in any case."""


class ProbeConfig(Section):
    """The held-out probe: an independent look at what the model can do."""

    every: Cadence = 5
    """Steps between held-out probes, made while the learner learns; 0: none but the first and the last."""
    size: Annotated[Integer, Field(ge=16)] = 256
    """Held-out problems of a probe, answered greedily."""
    spread: bool = True
    """Deal the problems over the steps from one result to the next, into the time in which rollout actors wait for the
    learner; false: answer all of them at one model version."""
    final_size: Annotated[Integer, Field(ge=16)] = 1024
    """Held-out problems before the first and after the last step."""
    sampled_share: Annotated[Float, Field(ge=0, le=1)] = 0.25
    """Share of a probe's problems that are answered again, by sampling as in training: greedy answers may all be
    right long before that. 0: none."""

    @model_validator(mode="after")
    def _enough(self) -> ProbeConfig:
        if self.spread and self.every > self.size:
            raise ValueError(
                f"probe.every={self.every} deals probe.size={self.size} problems over more steps than there are; raise "
                "probe.size, or set probe.spread=false"
            )
        return self

    def sampled(self, size: int) -> int:
        """Problems that are answered by sampling too, of `size`."""
        return round(size * self.sampled_share)


class RecordsConfig(Section):
    """What is kept on disk."""

    text: TextPrivacy = TextPrivacy.NONE
    """What is kept of sample texts: nothing, a keyed hash, or all of it."""
    trajectory_rate: Annotated[Float, Field(ge=0, le=1)] = 0.125
    """Share of trajectories that are recorded, chosen by a hash of their identity."""
    part_steps: Count = 10
    """Steps per Parquet part; a closed part can be read while the run goes on."""
    retention_mib: Count = 512
    """Size of `trajectories/`; the oldest parts are removed beyond it."""


class ReportConfig(Section):
    """The HTML report of a run."""

    at_end: bool = True
    """Write `report.html` when the run ends."""
    samples: bool = False
    """Show sample texts in it; they are there only with `records.text=full`."""


class PlacementConfig(Section):
    """Resources of the actors."""

    timeout_s: Seconds = 60.0
    """Longest wait for the placement group."""
    cpus_per_rollout: NonNegative = 1.0
    """CPUs that Ray reserves for each rollout actor."""
    cpus_per_learner: NonNegative = 1.0
    """CPUs that Ray reserves for the learner."""
    gpus_per_rollout: NonNegative = 0.0
    """GPUs that Ray reserves for each rollout actor."""
    gpus_per_learner: NonNegative = 0.0
    """GPUs that Ray reserves for the learner."""
