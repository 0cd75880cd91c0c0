"""How signals go together whatever the task: learnt beforehand, for runs that have no profile. Reads one shipped file.

Levels and spreads belong to a task and are taken from the run's own past. What follows from what, as the spread of
advantages from the share of groups that agree, belongs to the algorithm, and hardly to the task. It is another one with
a critic than without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from rftfm_ray.detection.reference.correlation import OF_OTHERS, Together, kept, learn, restored
from rftfm_ray.detection.reference.profile import TogetherProfile
from rftfm_ray.detection.reference.residuals import COLUMNS, Residuals, Usual
from rftfm_ray.errors import ProfileError

Floats = NDArray[np.float64]

ASSET = "assets/priors.json"
CRITIC, NO_CRITIC = "critic", "no_critic"
# A run that measures this has a critic.
TELLS = "value_loss"
# Share of the signals of the priors that a run must have for what goes together to say anything.
LEAST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Priors:
    """What is shipped: `command` has made it from so many healthy `runs`, by kind of algorithm."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    command: str
    runs: dict[str, int]
    kinds: dict[str, TogetherProfile]


PRIORS = TypeAdapter(Priors)


def kind_with(signals: Iterable[str]) -> str:
    """The kind of algorithm of a run that measures some signals."""
    return CRITIC if TELLS in signals else NO_CRITIC


def own_residuals(levels: Floats, gone: Mapping[str, int] | None = None) -> Floats:
    """Residuals (N, `COLUMNS`) of a run against its own past, from its levels (N, `COLUMNS`).

    Args:
        levels: of the steps from 1 on.
        gone: signals whose reference a declared change has taken away, and the first step without it.
    """
    residuals, found = Residuals(Usual()), np.full((len(levels), len(COLUMNS)), np.nan)
    for step, row in enumerate(levels, start=1):
        told = [name for name, first in (gone or {}).items() if first == step]
        if told:
            residuals.forget(told)
        found[step - 1] = residuals.add(step, row)
    return found


def learn_priors(residuals: Sequence[Floats]) -> Together:
    """From residuals (N, `COLUMNS`) of healthy runs against their own past, of other tasks than they are meant for."""
    return learn(residuals, (), OF_OTHERS)


def priors_of(command: str, runs: Mapping[str, Sequence[Floats]]) -> Priors:
    """What is to be shipped, from residuals as `learn_priors` takes them, by kind of algorithm."""
    return Priors(
        command, {kind: len(some) for kind, some in runs.items()},
        {kind: kept(learn_priors(some)) for kind, some in runs.items()},
    )  # fmt: skip


def among(together: Together, measured: Iterable[str]) -> Together:
    """The priors for a run that lacks some signals: they are expected from the others, and no finding of their own."""
    there = set(measured)
    places = [place for place, direction in enumerate(together.bank.directions) if direction.name in there]
    directions = tuple(together.bank.directions[place] for place in places)
    bank = replace(
        together.bank, directions=directions, weights=together.bank.weights[places], sizes=together.bank.sizes[places]
    )
    return replace(together, bank=bank, levels=together.levels[places])


def enough(together: Together, measured: Iterable[str]) -> bool:
    """Whether a run measures enough of what the priors know."""
    known = {direction.name for direction in together.bank.directions}
    return len(known & set(measured)) >= LEAST_SHARE * len(known)


@lru_cache(maxsize=2)
def shipped(kind: str) -> Together:
    """The priors of this version for `CRITIC` or `NO_CRITIC`.

    Raises:
        ProfileError: when the installed file is damaged.
    """
    try:
        priors = PRIORS.validate_json(files("rftfm_ray").joinpath(ASSET).read_bytes())
        return restored(priors.kinds[kind], OF_OTHERS)
    except (OSError, ValidationError, KeyError) as error:
        reason = type(error).__name__
        raise ProfileError(f"The installed {ASSET} is damaged ({reason}); install rftfm_ray again.") from None
