"""What tests of laws share: figures by hand, and figures of random rewards worked out from first principles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.config.declared import Aggregation, Declared, Normalization

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Logged:
    """Figures of N steps by name; what is not named is NaN."""

    columns: Mapping[str, Floats]
    first: int = 1

    @property
    def steps(self) -> NDArray[np.int64]:
        """Numbers of the steps."""
        return np.arange(self.first, self.first + len(next(iter(self.columns.values()))))

    def value(self, name: str) -> Floats:
        """One figure."""
        return self.columns.get(name, np.full(len(self.steps), math.nan))


def logged(first: int = 1, /, **figures: float) -> Logged:
    """One step."""
    return Logged({name: np.array([figure], float) for name, figure in figures.items()}, first)


def declared(**facts: object) -> Declared:
    """GRPO in groups of eight, by its group's deviation, one update, a token mean; with other `facts`."""
    usual: dict[str, object] = {
        "estimator": "grpo", "group_size": 8, "normalization": Normalization.GROUP,
        "aggregation": Aggregation.TOKEN, "updates": 1, "kl_coef": 0.02,
    }  # fmt: skip
    return Declared(**{**usual, **facts})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rewards (G, n) of groups, which members are valid, and the length of each answer."""

    reward: Floats
    valid: NDArray[np.bool_]
    length: NDArray[np.int64]

    @property
    def flat_share(self) -> float:
        """Share of groups with a valid member whose valid rewards are all equal."""
        flat = [np.ptp(row[ok]) == 0 for row, ok in zip(self.reward, self.valid, strict=True) if ok.any()]
        return float(np.mean(flat))

    def figures(self) -> dict[str, float]:
        """What a step logs of it beside its advantages."""
        return {
            "zero_variance_group_rate": self.flat_share, "valid_rate": float(self.valid.mean()),
            "trajectory_count": float(self.reward.size), "length_mean": float(self.length[self.valid].mean()),
            "length_max": float(self.length[self.valid].max()), "reward_std": float(self.reward[self.valid].std()),
            "reward_min": float(self.reward[self.valid].min()),
        }  # fmt: skip


def random_batch(rng: np.random.Generator, groups: int = 16, size: int = 8, masked: float = 0.0) -> Batch:
    """Rewards of 0 and 1 by a difficulty of each group; a share of the members is masked."""
    ease = rng.random(groups)[:, None]
    reward = (rng.random((groups, size)) < ease).astype(float)
    valid = rng.random((groups, size)) >= masked
    valid[0, :2] = True
    return Batch(reward, valid, rng.integers(1, 9, (groups, size)))


def by_group(batch: Batch, *, epsilon: float = 1e-4) -> Floats:
    """Advantages of GRPO: rewards less the group's mean, over its sample deviation; of valid members in a row."""
    rows = []
    for reward, ok in zip(batch.reward, batch.valid, strict=True):
        members = reward[ok]
        spread = members.std(ddof=1) if len(members) > 1 else 0.0
        rows.append((members - members.mean()) / (spread + epsilon) if len(members) > 1 else np.zeros(len(members)))
    return np.concatenate(rows)


def over_tokens(batch: Batch, values: Floats) -> Floats:
    """Whitened advantages of every token: any numbers, less their mean, over their sample deviation."""
    del batch
    return np.asarray((values - values.mean()) / math.sqrt(values.var(ddof=1) + 1e-8))


def spread_of(advantages: Floats) -> dict[str, float]:
    """The figures of advantages that laws read."""
    return {"advantage_mean": float(advantages.mean()), "advantage_std": float(advantages.std())}
