"""What differs between two configurations, and what of it makes them different runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rftfm_ray.config.changes import parse_change
from rftfm_ray.config.tree import RunConfig

IDENTITY = (
    "seed",
    "model.path",
    "model.dtype",
    "task.name",
    "task.options",
    "task.pool_size",
    "task.hard_share",
    "data.train",
    "data.heldout",
    "data.heldout_share",
    "data.prompt",
    "data.answer",
    "data.max_new_tokens",
    "reward.functions",
    "reward.weights",
    "reward.right",
    "reward.verifier",
    "tools.functions",
    "tools.calls",
    "tools.result",
    "tools.stop",
    "tools.max_turns",
    "tools.max_result",
    "algorithm.name",
    "algorithm.prompts_per_step",
    "algorithm.samples_per_prompt",
    "background.length_spread",
    "background.difficulty_walk",
)
"""Keys that say what is trained, and on which prompts in which order: a checkpoint belongs to their values."""


@dataclass(frozen=True, slots=True)
class KeyDifference:
    """A key with different values in two configurations, each as `key=value` would be written."""

    key: str
    before: str
    after: str

    @property
    def is_identity(self) -> bool:
        """Whether it makes the two configurations those of different runs."""
        return self.key in IDENTITY

    def __str__(self) -> str:
        return f"{self.key} was {self.before}, and is {self.after} now"


def config_differences(before: RunConfig, after: RunConfig) -> tuple[KeyDifference, ...]:
    """The keys that differ, in the order of the configuration."""
    old, new = (dict(_leaves(config.model_dump(mode="json"))) for config in (before, after))
    differing = [key for key, value in new.items() if old.get(key) != value]
    return tuple(KeyDifference(key, _written(old.get(key)), _written(new[key])) for key in differing)


def past_differences(before: RunConfig, after: RunConfig, step: int) -> tuple[KeyDifference, ...]:
    """Identity keys whose planned changes up to `step` differ: the prompts of the steps made are then others."""
    differing = []
    for key in IDENTITY:
        old, new = (_changes(config, key, step) for config in (before, after))
        if old != new:
            differing.append(KeyDifference(key, old or "not changed", new or "not changed"))
    return tuple(differing)


def _changes(config: RunConfig, key: str, step: int) -> str:
    """Changes of a key up to a step, as `VALUE@STEP`."""
    made = sorted((change.step, change.value) for text in config.changes if (change := parse_change(text)).key == key)
    return ", ".join(f"{value:g}@{at}" for at, value in made if at <= step)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _written(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(_written, value))}]" if isinstance(value, list) else str(value)
