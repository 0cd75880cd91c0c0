"""What a profile of healthy runs says about a run of another configuration. Pure.

Both configurations are compared key by key. The signals that a difference moves (`signals.effects`) have no reference
in the profile. They are compared with the run's own past, by the shipped priors, as without a profile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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
# Words of which names of files and folders are made that say nothing about what is there, as in checkpoint-100 or 7b.
_GENERIC = frozenset({
    "final", "base", "best", "last", "latest", "newest", "current", "checkpoint", "checkpoints", "ckpt", "model",
    "models", "weights", "hf", "hub", "merged", "export", "exported", "snapshot", "snapshots", "save", "saved", "out",
    "output", "outputs", "result", "results", "run", "runs", "train", "trained", "training", "actor", "policy",
    "learner", "step", "steps", "epoch", "epochs", "iter", "iteration", "global", "task", "tasks", "env", "envs",
    "environment", "environments", "main", "custom", "my", "new", "old", "tmp", "v", "b", "m",
})  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+")
OR = " or "
"""Between the values of a fact in which the runs of a profile do not agree."""
UNRECORDED = "a value that is not recorded"
_CLIPS = ("algorithm.clip_low", "algorithm.clip_high")
_KIND = ("algorithm.name", *PATHS)


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
    facts = {key: _plain(_value(tree, key)) for key in CONFIGURED}
    facts["algorithm.normalize_std"] = config.normalizes_std
    # The order in which changes are written says nothing.
    facts[CHANGES] = ", ".join(sorted(config.changes))
    return {key: value for key, value in facts.items() if _has_effect(key, facts)}


def differences(first: Facts, second: Facts) -> list[Difference]:
    """The facts that both have and differ in.

    A fact that one of them lacks has no effect there, which follows from another fact in which they then differ.
    """
    shared = [key for key in (*CONFIGURED, CHANGES) if key in first and key in second]
    return [Difference(key, str(first[key]), str(second[key])) for key in shared if not _same(key, first, second)]


def merged(key: str, values: Iterable[FactValue]) -> str:
    """A fact in which the runs of a profile differ: all of its values. A run with one of them is like those runs.

    Of planned changes it is all that any of the runs had, because each of them is in the means of the profile.
    """
    texts = list(dict.fromkeys(map(str, values)))
    if key == CHANGES:
        return ", ".join(sorted({change for text in texts for change in text.split(", ") if change}))
    return OR.join(texts)


def assumptions(profile: Profile, config: RunConfig) -> tuple[str, ...]:
    """What is believed about a profile beside a run because its facts do not settle it, each as a clause."""
    theirs, ours = profile.facts, facts_of(config)
    if theirs is None:
        return ("does not say how its runs were configured: it holds only if they were like this one",)
    return tuple(
        f"was fitted to runs with {key}={str(theirs[key])[:200]}, and this one has {key}={str(ours[key])[:200]}: it "
        "holds only if both are the same"
        for key in PATHS
        if key in theirs and _same(key, theirs, ours) and str(ours[key]) not in str(theirs[key]).split(OR)
    )


def compare(profile: Profile, config: RunConfig) -> Comparison:
    """What a profile says about a run. A profile without facts is taken to be of runs like it."""
    theirs, ours = profile.facts, facts_of(config)
    differing = [] if theirs is None else [*differences(theirs, ours), *_unrecorded(theirs, ours, config)]
    relevant = [(each, keys) for each in differing if (keys := tuple(_moving_keys(each)))]
    moved = moved_between_runs(key for _, keys in relevant for key in keys)
    known = [signal.name for signal in profile.signals if signal.name in TELEMETRY]
    left = sum(name not in moved for name in known)
    return Comparison(tuple(each for each, _ in relevant), moved, len(known), left)


def _unrecorded(theirs: Facts, ours: Facts, config: RunConfig) -> Iterator[Difference]:
    """Facts of a run that a profile does not record although they have an effect there.

    A version without a key behaved as the default does now, so only another value counts. What kind of runs they were
    has no such default.
    """
    usual = facts_of(RunConfig.model_validate({"algorithm": {"name": config.algorithm.name}}))
    for key in CONFIGURED:
        is_unrecorded = key in ours and key not in theirs and _has_effect(key, theirs)
        if is_unrecorded and (key in _KIND or ours[key] != usual.get(key, ours[key])):
            yield Difference(key, UNRECORDED, str(ours[key]))


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


def _has_effect(key: str, facts: Facts) -> bool:
    if key == "steps":
        return facts.get("learner.lr_schedule", "constant") != "constant"
    if key.startswith("critic."):
        return facts.get("algorithm.name") == "ppo"
    # The first update of a step is made by the policy that sampled: its ratios are 1.
    return key not in _CLIPS or facts.get("algorithm.minibatches", 1) != 1


def _same(key: str, first: Facts, second: Facts) -> bool:
    if first[key] == second[key]:
        return True
    one, other = ({_name(key, value) for value in str(facts[key]).split(OR)} for facts in (first, second))
    return one <= other or other <= one


def _name(key: str, value: str) -> str:
    """What tells a value from others: of a path, its end from the last name on that says what is there.

    So a folder that was moved with its name is the same, and `/a/final` is not `/b/final`. What may be a name on the
    hub, `owner/model`, is told by all of it.
    """
    if not _is_path(key, value):
        return value
    parts = [part for part in PurePath(value).parts if part not in ("/", "~", "..")]
    telling = [n for n, part in enumerate(parts) if not _is_generic(part.partition(".py:")[0])]
    # The slash keeps it apart from a name that is none of a path.
    return "/" + "/".join(parts[telling[-1] :]) if telling else value


def _is_generic(name: str) -> bool:
    return all(word.lower() in _GENERIC for word in _WORD.findall(name))


def _is_path(key: str, value: str) -> bool:
    """Whether a fact is a path that may have been moved, as `models.resolve_model` and `tasks.loading` read it."""
    if key == "task.name":
        return ".py:" in value
    return key == "model.path" and not value.startswith("builtin:") and (value[:1] in "./~" or value.count("/") != 1)


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
