"""What healthy runs show whatever the task: learnt beforehand, for runs that have few or none of their own kind.

Levels and spreads belong to a task and are taken from a profile or the run's own past. What follows from what, as the
spread of advantages from the share of groups that agree, belongs to the algorithm, and hardly to the task. It is
another one with a critic than without. Reads one shipped file.
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
# A run that measures this has a critic.
TELLS = "value_loss"
# Share of the signals of the priors that a run must have for what goes together to say anything.
LEAST_SHARE = 0.5
# Runs of one kind without which none is compared with the others.
FEWEST_OF_A_KIND = 3


@dataclass(frozen=True, slots=True)
class KindPriors:
    """What healthy runs of other tasks show, for one kind of algorithm.

    Attributes:
        own_past: what departs from how residuals against a run's own past go together.
        healthy: how residuals against a profile go together, which a profile of few runs starts from.
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
    """What is shipped: `command` has made it from so many healthy `runs`, by kind of algorithm."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    command: str
    runs: dict[str, int]
    kinds: dict[str, ShippedKind]

    @classmethod
    def of(cls, command: str, kinds: Mapping[str, Sequence[Sequence[RunSeries]]]) -> Self:
        """From healthy runs by kind of algorithm, as `learn_priors` takes them."""
        learnt = {kind: learn_priors(cells) for kind, cells in kinds.items()}
        return cls(
            command, {kind: sum(map(len, cells)) for kind, cells in kinds.items()},
            {kind: ShippedKind(one.own_past.to_profile(), one.healthy.to_profile()) for kind, one in learnt.items()},
        )  # fmt: skip


SHIPPED = TypeAdapter(ShippedPriors)


def kind_with(signals: Iterable[str]) -> str:
    """The kind of algorithm of a run that measures some signals."""
    return CRITIC if TELLS in signals else NO_CRITIC


def kind_of(runs: Iterable[RunSeries]) -> str:
    """The kind of algorithm of runs."""
    return kind_with(name for run in runs for name, values in run.values.items() if np.isfinite(values).any())


def learn_priors(cells: Sequence[Sequence[RunSeries]]) -> KindPriors:
    """From healthy runs of one kind of algorithm, of other tasks than the priors are meant for.

    Args:
        cells: runs of one task, algorithm and model each.

    Raises:
        ValueError: for fewer than three runs.
    """
    own, healthy = list[Floats](), list[Floats]()
    for runs in cells:
        for run in runs:
            steps, values = table_of(run)
            own.append(Residuals(Usual()).over(steps, levels_of(values)).residuals)
        if len(runs) >= FEWEST_OF_A_KIND:
            healthy += left_out_residuals(runs, fit(runs))
    return KindPriors(learn_of_others(own), PriorCorrelation.of(healthy) if healthy else PriorCorrelation.nothing())


def enough(priors: KindPriors, measured: Iterable[str]) -> bool:
    """Whether a run measures enough of what the priors know."""
    known = set(priors.own_past.bank.signals)
    return len(known & set(measured)) >= LEAST_SHARE * len(known)


@lru_cache(maxsize=2)
def shipped(kind: str) -> KindPriors:
    """The priors of this version for `CRITIC` or `NO_CRITIC`.

    Raises:
        ProfileError: when the installed file is damaged.
    """
    try:
        one = SHIPPED.validate_json(files("rftfm_ray").joinpath(ASSET).read_bytes()).kinds[kind]
        return KindPriors(CorrelationModel.from_profile(one.own_past), PriorCorrelation.from_profile(one.healthy))
    except (OSError, ValidationError, KeyError, ProfileError) as error:
        reason = type(error).__name__
        raise ProfileError(f"The installed {ASSET} is damaged ({reason}); install rftfm_ray again.") from None
