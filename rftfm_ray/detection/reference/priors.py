"""Shipped priors: what healthy runs of all tasks have in common, for runs with few or no healthy runs of their kind.

Levels and standard deviations depend on the task and come from a profile or the self-baseline. Correlations, such as
that of the spread of advantages with the share of groups that agree, depend on the algorithm and hardly on the task.
They differ between algorithms with and without a critic. Reads one shipped file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from rftfm_ray.detection.reference.correlation import CorrelationModel, PriorCorrelation, learn_of_others
from rftfm_ray.detection.reference.fitting import RunSeries, fit, left_out_residuals, table_of
from rftfm_ray.detection.reference.profile import JointProfile, PriorProfile
from rftfm_ray.detection.reference.residuals import Residuals, Usual, levels_of
from rftfm_ray.errors import ProfileError

Floats = NDArray[np.float64]

ASSET = "assets/priors.json"
CRITIC, NO_CRITIC = "critic", "no_critic"
# Runs with a critic measure this signal.
CRITIC_SIGNAL = "value_loss"
# Share of the priors' signals that a run must measure for their correlations to be used.
LEAST_SHARE = 0.5
# Runs of one kind that a comparison of each with the others needs at least.
FEWEST_OF_A_KIND = 3


@dataclass(frozen=True, slots=True)
class KindPriors:
    """Priors from healthy runs of other tasks, for one kind of algorithm.

    Attributes:
        own_past: the correlation model of residuals against the self-baseline.
        healthy: the correlation of residuals against a profile, from which a profile of few runs starts.
    """

    own_past: CorrelationModel
    healthy: PriorCorrelation


@dataclass(frozen=True, slots=True)
class ShippedKind:
    """`KindPriors` as a file holds them."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    own_past: JointProfile
    healthy: PriorProfile


@dataclass(frozen=True, slots=True)
class ShippedPriors:
    """The shipped file: the command that made it, and healthy runs and priors by kind of algorithm."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    command: str
    runs: dict[str, int]
    kinds: dict[str, ShippedKind]

    @classmethod
    def of(cls, command: str, kinds: Mapping[str, Sequence[Sequence[RunSeries]]]) -> Self:
        """Learn from healthy runs by kind of algorithm, each as `learn_priors` takes them."""
        learnt = {kind: learn_priors(groups) for kind, groups in kinds.items()}
        return cls(
            command, {kind: sum(map(len, groups)) for kind, groups in kinds.items()},
            {kind: ShippedKind(each.own_past.to_profile(), each.healthy.to_profile()) for kind, each in learnt.items()},
        )  # fmt: skip


SHIPPED = TypeAdapter(ShippedPriors)


def kind_with(signals: Iterable[str]) -> str:
    """The kind of algorithm of a run that measures some signals."""
    return CRITIC if CRITIC_SIGNAL in signals else NO_CRITIC


def kind_of(runs: Iterable[RunSeries]) -> str:
    """The kind of algorithm of runs."""
    return kind_with(name for run in runs for name, values in run.values.items() if np.isfinite(values).any())


def learn_priors(groups: Sequence[Sequence[RunSeries]]) -> KindPriors:
    """Learn from healthy runs of one kind of algorithm, of tasks other than those that the priors are for.

    Args:
        groups: runs of one task, algorithm and model each.

    Raises:
        ValueError: for fewer than three runs.
    """
    own, healthy = list[Floats](), list[Floats]()
    for runs in groups:
        for run in runs:
            steps, values = table_of(run)
            own.append(Residuals(Usual()).over(steps, levels_of(values)).residuals)
        if len(runs) >= FEWEST_OF_A_KIND:
            healthy += left_out_residuals(runs, fit(runs))
    return KindPriors(learn_of_others(own), PriorCorrelation.of(healthy) if healthy else PriorCorrelation.nothing())


def has_enough_signals(priors: KindPriors, measured: Iterable[str]) -> bool:
    """Whether a run measures enough of the priors' signals."""
    known = set(priors.own_past.bank.signals)
    return len(known & set(measured)) >= LEAST_SHARE * len(known)


@lru_cache(maxsize=2)
def shipped(kind: str) -> KindPriors:
    """The priors of this version for `CRITIC` or `NO_CRITIC`.

    Raises:
        ProfileError: when the installed file is damaged.
    """
    try:
        stored = SHIPPED.validate_json(files("rftfm_ray").joinpath(ASSET).read_bytes()).kinds[kind]
        return KindPriors(CorrelationModel.from_profile(stored.own_past), PriorCorrelation.from_profile(stored.healthy))
    except (OSError, ValidationError, KeyError, ProfileError) as error:
        reason = type(error).__name__
        raise ProfileError(f"The installed {ASSET} is damaged ({reason}); install rftfm_ray again.") from None
