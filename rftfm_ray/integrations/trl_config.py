"""Reads what a run of TRL's GRPOTrainer declares from its training configuration, as JSON or YAML.

Keys and defaults are those of TRL 1.16 (`trl.GRPOConfig`); keys that say nothing about a law are left alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rftfm_ray.config.declared import Aggregation, Declared, DeclaredRate, Normalization, RateCourse, RewardRule
from rftfm_ray.errors import LogError

LARGEST = 1 << 20
FIX = "give the GRPOConfig of the run as JSON or YAML, for example what `GRPOConfig.to_json_string()` returns"
AGGREGATIONS = {
    "grpo": Aggregation.SEQUENCE, "bnpo": Aggregation.TOKEN, "dapo": Aggregation.TOKEN,
    "dr_grpo": Aggregation.CONSTANT,
}  # fmt: skip
"""How TRL's loss types add tokens up; the surrogates of the others are no clipped ones, and no law speaks of them."""
COURSES = {"linear": RateCourse.LINEAR, "constant": RateCourse.CONSTANT, "constant_with_warmup": RateCourse.CONSTANT}
"""Schedules with a course that laws know."""
NO_WARMUP = "constant"
"""The schedule that leaves `warmup_steps` out."""


class TrlConfig(BaseModel):
    """The keys of `trl.GRPOConfig` that laws depend on, with its defaults."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    loss_type: str = "dapo"
    beta: float = Field(default=0.0, ge=0)
    delta: float | None = None
    scale_rewards: Literal["group", "batch", "none"] = "group"
    num_generations: int = Field(default=8, ge=2)
    num_iterations: int = Field(default=1, ge=1)
    per_device_train_batch_size: int = Field(default=8, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    steps_per_generation: int | None = Field(default=None, ge=1)
    generation_batch_size: int | None = Field(default=None, ge=1)
    max_completion_length: int | None = Field(default=512, ge=1)
    mask_truncated_completions: bool = False
    importance_sampling_level: str = "token"
    off_policy_mask_threshold: float | None = None
    top_entropy_quantile: float = 1.0
    entropy_coef: float = 0.0
    use_adaptive_entropy: bool = False
    reward_weights: tuple[float, ...] | None = None
    multi_objective_aggregation: str = "sum_then_normalize"
    use_vllm: bool = False
    bf16: bool | None = None
    fp16: bool | None = False
    learning_rate: float = Field(default=1e-6, gt=0)
    lr_scheduler_type: str = "linear"
    warmup_steps: float = Field(default=0, ge=0)
    max_steps: int = -1
    logging_steps: float = 10

    @field_validator("scale_rewards", mode="before")
    @classmethod
    def _scale(cls, value: object) -> object:
        # As TRL reads it: true and false are older names.
        if isinstance(value, bool):
            return "group" if value else "none"
        return value

    @property
    def updates(self) -> int:
        """Optimizer updates per batch of generated answers; several batches may also share one update."""
        steps = self.steps_per_generation
        if steps is None and self.generation_batch_size is not None:
            steps = self.generation_batch_size // self.per_device_train_batch_size
        steps = self.gradient_accumulation_steps if steps is None else steps
        return self.num_iterations * max(1, math.ceil(steps / self.gradient_accumulation_steps))

    @property
    def rate(self) -> DeclaredRate | None:
        """The learning rate; None where its course depends on the length of the data, or is another one."""
        course = COURSES.get(self.lr_scheduler_type)
        if course is None or self.max_steps <= 0:
            return None
        warmup = self.warmup_steps if self.warmup_steps >= 1 else math.ceil(self.warmup_steps * self.max_steps)
        return DeclaredRate(
            self.learning_rate, self.max_steps, 0 if self.lr_scheduler_type == NO_WARMUP else int(warmup), course
        )


def declared_by_trl(config: TrlConfig, reward_columns: tuple[str, ...] = ()) -> Declared:
    """What a run of TRL declares.

    Args:
        config: of the run.
        reward_columns: means of its reward functions, in a log.
    """
    # A log may name reward functions in another order than the configuration weighs them, and two of one name once:
    # only weights that are written down, one for each column and all equal, say what the reward is.
    weights = config.reward_weights or ()
    is_known = len(weights) == len(reward_columns) > 0 and len(set(weights)) == 1
    is_reweighted = (
        config.mask_truncated_completions or config.use_vllm or config.delta is not None
        or config.off_policy_mask_threshold is not None or config.top_entropy_quantile < 1
        or config.use_adaptive_entropy or config.loss_type not in AGGREGATIONS
    )  # fmt: skip
    scale = config.scale_rewards
    is_batch = scale == "batch" or config.multi_objective_aggregation != "sum_then_normalize"
    scope = Normalization.NONE if scale == "none" else Normalization.GROUP
    return Declared(
        estimator="grpo",
        group_size=config.num_generations,
        normalization=Normalization.BATCH if is_batch else scope,
        aggregation=AGGREGATIONS.get(config.loss_type, Aggregation.CONSTANT),
        updates=config.updates,
        kl_coef=config.beta,
        entropy_coef=config.entropy_coef,
        reward=RewardRule(tuple(zip(reward_columns, weights, strict=True))) if is_known else None,
        full_precision=not (config.bf16 or config.fp16),
        # A longest answer is no mean: it is known where every step is a row of its own.
        token_limit=config.max_completion_length if config.logging_steps == 1 else None,
        reweights_tokens=is_reweighted,
        rate=config.rate,
    )


def read_trl_config(path: Path) -> TrlConfig:
    """Read a configuration of TRL.

    Raises:
        LogError: when it cannot be read or a key has a value that TRL refuses; names the file, the key and the fix.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise LogError(f"{path} is larger than {LARGEST >> 20} MiB and no configuration; {FIX}.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LogError(f"{path} cannot be read ({error.strerror}); {FIX}.") from None
    except UnicodeDecodeError:
        raise LogError(f"{path} is not UTF-8 text; {FIX}.") from None
    tree = _parsed(path, text)
    try:
        return TrlConfig.model_validate({name: value for name, value in tree.items() if name in TrlConfig.model_fields})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise LogError(f"{path}: {key} is {str(first['input'])[:60]!r} ({first['msg']}); {FIX}.") from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        # YAML 1.1 takes the 1e-06 of JSON for text.
        tree = json.loads(text)
    except (ValueError, RecursionError):
        try:
            tree = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError):
            raise LogError(f"{path} is neither JSON nor YAML; {FIX}.") from None
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
        raise LogError(f"{path} holds no keys with values; {FIX}.")
    if not set(tree) & set(TrlConfig.model_fields):
        raise LogError(f"{path} has no key of GRPOConfig that laws depend on; {FIX}.")
    return tree
