"""Changes of credit by CA-2 and CA-3, and of values by CA-1: what noise and a wrong order do to them. Pure numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.faults.catalogue import FaultSpec
from rftfm_ray.faults.draws import draw, heavy_tailed, strikes
from rftfm_ray.training.credit import Credit
from rftfm_ray.types import StepId

Tokens = NDArray[np.int64]


def struck(spec: FaultSpec, seed: int, step: StepId, rows: Iterable[int]) -> list[int]:
    """Those of some trajectories that a fault strikes."""
    return [row for row in rows if strikes(spec, seed, step.paid_step, step.paid_step, row)]


def shuffled(spec: FaultSpec, seed: int, step: StepId, rows: Sequence[int]) -> list[int]:
    """Trajectories in a random order."""
    return sorted(rows, key=lambda row: draw(spec, seed, "order", step.paid_step, row))


def rotated(rows: Sequence[int]) -> list[int]:
    """Each one's follower, the first one after the last."""
    return [*rows[1:], *rows[:1]]


def taken_from(
    values: NDArray[np.float32], counts: NDArray[np.int64], sources: Mapping[int, int]
) -> NDArray[np.float32]:
    """(A,) token values, those of some trajectories from others; a shorter source repeats its last one.

    Args:
        values: (A,) of all trajectories.
        counts: (B,) tokens of each trajectory.
        sources: by trajectory, the one whose values it gets; one without tokens gives none.
    """
    starts, result = np.cumsum(counts) - counts, values.copy()
    for row, other in sources.items():
        if counts[other]:
            tokens = np.minimum(np.arange(counts[row]), counts[other] - 1)
            result[starts[row] : starts[row] + counts[row]] = values[starts[other] + tokens]
    return result


def noisy(spec: FaultSpec, seed: int, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
    """One factor a trajectory, as advantages of a group have one value a trajectory."""
    factors = 1 + spec.level(step.paid_step) * np.array(heavy_tailed(spec, seed, step.paid_step, len(batch)))
    scaled = credit.advantages * np.repeat(factors, batch.action_counts())
    return dataclasses.replace(credit, advantages=scaled.astype(np.float32))


def balanced(spec: FaultSpec, seed: int, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
    """Add noise of one amount a trajectory; then every group gets the mean and the standard deviation that it had.

    Both are over trajectories where the tokens of each have one advantage, else over tokens. A group without a spread
    keeps its advantages.
    """
    noise = np.array(heavy_tailed(spec, seed, step.paid_step, len(batch)))
    advantages, is_shared = credit.advantages.copy(), _is_shared(batch, credit)
    for rows in _groups(batch, credit):
        parts = [_tokens_of(batch, row) for row in rows]
        units = np.array([part[0] for part in parts]) if is_shared else np.concatenate(parts)
        sizes = [1] * len(parts) if is_shared else [len(part) for part in parts]
        usual = credit.advantages[units].astype(np.float64)
        spread = usual.std()
        moved = usual + spec.level(step.paid_step) * spread * np.repeat(noise[rows], sizes)
        if spread == 0 or moved.std() == 0:
            continue
        restored = usual.mean() + (moved - moved.mean()) * (spread / moved.std())
        advantages[np.concatenate(parts)] = np.repeat(restored, [len(p) for p in parts]) if is_shared else restored
    return dataclasses.replace(credit, advantages=advantages)


def permuted(spec: FaultSpec, seed: int, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
    """Struck trajectories of a group get each other's advantages, so that the group holds the same ones as before.

    Where the tokens of a trajectory have different advantages, those of all struck trajectories of a group are moved on
    by the length of one of them.
    """
    advantages, is_shared = credit.advantages.copy(), _is_shared(batch, credit)
    for rows in _groups(batch, credit):
        order = shuffled(spec, seed, step, struck(spec, seed, step, rows))
        if len(order) < 2:
            continue
        parts = [_tokens_of(batch, row) for row in order]
        if is_shared:
            for part, other in zip(parts, [*parts[1:], parts[0]], strict=True):
                advantages[part] = credit.advantages[other[0]]
        else:
            tokens = np.concatenate(parts)
            advantages[tokens] = np.roll(credit.advantages[tokens], -len(parts[0]))
    return dataclasses.replace(credit, advantages=advantages)


def misplaced(spec: FaultSpec, seed: int, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
    """Give a struck trajectory the advantages of a random member of the step, sometimes its own."""
    members = np.flatnonzero(credit.included)
    sources = {
        row: int(members[int(draw(spec, seed, "other", step.paid_step, row) * len(members))])
        for row in struck(spec, seed, step, members.tolist())
    }
    return dataclasses.replace(credit, advantages=taken_from(credit.advantages, batch.action_counts(), sources))


def shifted(spec: FaultSpec, seed: int, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
    """The tokens of a struck trajectory have their followers' advantages, the last one that of the next trajectory."""
    moved = np.roll(credit.advantages, -1)
    rows = np.zeros(len(batch), np.bool_)
    rows[struck(spec, seed, step, np.flatnonzero(credit.included).tolist())] = True
    advantages = np.where(np.repeat(rows, batch.action_counts()), moved, credit.advantages)
    return dataclasses.replace(credit, advantages=advantages)


def _groups(batch: TrajectoryBatch, credit: Credit) -> Iterator[list[int]]:
    """The trajectories of every group that take part."""
    for group in np.unique(batch.group):
        rows = np.flatnonzero((batch.group == group) & credit.included)
        if len(rows):
            yield rows.tolist()


def _tokens_of(batch: TrajectoryBatch, row: int) -> Tokens:
    """Indices of a trajectory's tokens among all chosen ones."""
    counts = batch.action_counts()
    end = int(counts[: row + 1].sum())
    return np.arange(end - int(counts[row]), end)


def _is_shared(batch: TrajectoryBatch, credit: Credit) -> bool:
    """Whether the tokens of each trajectory have one advantage."""
    counts = batch.action_counts()
    lasts = np.cumsum(counts) - 1
    return bool((credit.advantages == np.repeat(credit.advantages[lasts], counts)).all())
