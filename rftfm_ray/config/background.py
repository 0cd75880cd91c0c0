"""The background of an experiment: what a run has around it in the real world, and a simulator has not."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rftfm_ray.config.sections import Float, Section

Share = Annotated[Float, Field(ge=0, le=1)]
Rare = Annotated[Float, Field(ge=0, le=0.5)]


class BackgroundConfig(Section):
    """Disturbances that are no fault, for experiments: built into the running actors from the first step to the last.

    The guard is not told of them. A disturbance is drawn from the seed, the consumed step and what it meets, so that no
    fault, rollback or resume shifts it.
    """

    preset: Literal["dirty"] | None = None
    """`dirty`: all disturbances at the sizes of the benchmark, drawn by the seed, with 2 or 4 minibatches and weights
    that are rounded to bfloat16 (`sync.dtype`); it is written out before the run begins. null: what the keys say."""
    tool_failures: Rare = 0.0
    """Share of tool calls that fail, one half by an error and one half by a time-out."""
    verifier_errors: Rare = 0.0
    """Share of verdicts in which the live verifier takes a right answer for a wrong one, or a wrong one for a right
    one. The trusted verifier makes no errors."""
    slow_verdicts: Share = 0.0
    """Share of verdicts that the live verifier gives 5 to 20 milliseconds later."""
    length_spread: Share = 0.0
    """Largest share of a step's prompts that come from problems with longer right answers, or with shorter ones; which
    of the two, and how many, is drawn anew for every step."""
    difficulty_walk: Share = 0.0
    """Largest share of a step's prompts that come from those of the pool that are harder than the median, or easier; it
    walks slowly from step to step."""

    @model_validator(mode="after")
    def _preset_alone(self) -> BackgroundConfig:
        if self.preset is not None and (sizes := self.sizes()):
            name, size = next(iter(sizes.items()))
            raise ValueError(
                f"background.{name}={size:g} is set beside background.preset={self.preset}, which sets it too; leave "
                "one out"
            )
        return self

    def sizes(self) -> dict[str, float]:
        """The disturbances that are on, with their sizes."""
        values: dict[str, float] = self.model_dump(exclude={"preset"})
        return {name: size for name, size in values.items() if size}

    @property
    def is_on(self) -> bool:
        """Whether there is any disturbance."""
        return bool(self.sizes())
