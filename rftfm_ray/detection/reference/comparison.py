"""What a profile of healthy runs says about a run of another configuration. Pure.

Both configurations are compared key by key. The signals that a difference moves (`signals.effects`) have no reference
in the profile. They are compared with the run's own past, by the shipped priors, as without a profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from rftfm_ray.config import RunConfig
from rftfm_ray.config.changes import parse_change
from rftfm_ray.detection.reference.profile import CHANGES, Facts, FactValue, Profile
from rftfm_ray.signals.effects import CONFIGURED, moved_between_runs
from rftfm_ray.signals.groups import TELEMETRY

PATHS = ("model.path", "task.name")
"""Facts that may be paths: what was moved keeps its name, and may be another thing of that name."""
_CLIPS = ("algorithm.clip_low", "algorithm.clip_high")


@dataclass(frozen=True, slots=True)
class Difference:
    """A key of the configuration in which a profile's runs differ from a run, with both values as text."""

    key: str
    theirs: str
    ours: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A profile beside the configuration of a run.

    Attributes:
        differences: keys that differ and move signals, in the order of the table of effects.
        moved: signals that they move, sorted; of all signals, also those that the profile does not have.
        telemetry: how many telemetry signals the profile has.
        left: how many of them the run can be compared with.
    """

    differences: tuple[Difference, ...]
    moved: tuple[str, ...]
    telemetry: int
    left: int

    def __str__(self) -> str:
        """One clause: the keys with both values, and how much of the profile that takes away."""
        gone = self.telemetry - self.left
        own = f"{gone} of its {self.telemetry} signals are compared with the run's own past"
        return f"{text_of(self.differences)}: {own}"


def facts_of(config: RunConfig) -> Facts:
    """The facts of a run: the keys that move signals and have an effect under this configuration, with their values."""
    tree = config.model_dump(mode="json")
    facts = {key: _plain(_value(tree, key)) for key in CONFIGURED if _has_effect(key, config)}
    facts["algorithm.normalize_std"] = config.normalizes_std
    # The order in which changes are written says nothing.
    facts[CHANGES] = ", ".join(sorted(config.changes))
    return facts


def differences(first: Facts, second: Facts) -> list[Difference]:
    """The facts that both have and differ in.

    A fact that one of them lacks has no effect there, which follows from another fact in which they then differ; or it
    is not known, because an older version did not have the key or the runs of a profile did not agree in it.
    """
    shared = [key for key in (*CONFIGURED, CHANGES) if key in first and key in second]
    return [Difference(key, str(first[key]), str(second[key])) for key in shared if not _same(key, first, second)]


def compare(profile: Profile, config: RunConfig) -> Comparison:
    """What a profile says about a run. A profile without facts is taken to be of runs like it."""
    ours = facts_of(config)
    differing = differences(profile.facts or {}, ours)
    relevant = [(each, keys) for each in differing if (keys := tuple(_moving_keys(each)))]
    moved = moved_between_runs(key for _, keys in relevant for key in keys)
    known = [signal.name for signal in profile.signals if signal.name in TELEMETRY]
    left = sum(name not in moved for name in known)
    return Comparison(tuple(each for each, _ in relevant), moved, len(known), left)


def text_of(differing: tuple[Difference, ...]) -> str:
    """Differences as a clause about the runs of a profile and this run."""
    theirs = ", ".join(f"{each.key}={each.theirs[:200]}" for each in differing)
    ours = ", ".join(f"{each.key}={each.ours[:200]}" for each in differing)
    return f"fitted to runs with {theirs}, and this one has {ours}"


def _moving_keys(difference: Difference) -> Iterator[str]:
    """The keys whose rows say what a difference moves."""
    if difference.key != CHANGES:
        yield difference.key
        return
    # The run's own changes are declared when they are made. Those of the profile's runs are in its means.
    for text in difference.theirs.split(", ") if difference.theirs else ():
        yield parse_change(text).key


def _has_effect(key: str, config: RunConfig) -> bool:
    if key == "steps":
        return config.learner.lr_schedule != "constant"
    if key.startswith("critic."):
        return config.algorithm.name == "ppo"
    # The first update of a step is made by the policy that sampled: its ratios are 1.
    return key not in _CLIPS or config.algorithm.minibatches > 1


def _same(key: str, first: Facts, second: Facts) -> bool:
    if key in PATHS:
        return PurePath(str(first[key])).name == PurePath(str(second[key])).name
    return first[key] == second[key]


def _value(tree: Mapping[str, Any], key: str) -> object:
    section, _, name = key.rpartition(".")
    value: object = tree[section][name] if section else tree[name]
    return value


def _plain(value: object) -> FactValue:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is not a plain value")
