"""What the unit tests share: a factory of small trajectory batches, and the settings of hypothesis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch, seals
from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.tasks.api import ToolStatus
from rftfm_ray.types import Termination
from rftfm_ray.verdicts import Symptom
from tests.detecting import Watched

# A loaded machine must not fail a test that is right.
settings.register_profile("unit", deadline=None, max_examples=50)
settings.load_profile("unit")

Play = Callable[..., Mapping[int, Sequence[Symptom]]]

NO_FLAGS = ("known_ok", "observation_ok", "observation_decode_ok", "turn_cut_short", "golden_right")

Call = tuple[int, int, ToolStatus, float, str, str]
"""Trajectory, turn, status, seconds, request, response."""


def _batch(
    rewards: Sequence[float],
    *,
    roles: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
    valid: Sequence[bool] | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    correct: Sequence[bool] | None = None,
    terminations: Sequence[Termination] | None = None,
    turns: Sequence[int] | None = None,
    keys: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    calls: Sequence[Call] = (),
    live: Sequence[float] | None = None,
    trusted: Sequence[float] | None = None,
    right: Sequence[bool] | None = None,
    refills: Sequence[int] | None = None,
    tries: Sequence[int] | None = None,
    shadow: Sequence[bool] = (),
    **checks: Sequence[float],
) -> TrajectoryBatch:
    """Trajectories with one reward and one string of roles each: `p` prompt, `a` action, `o` observation.

    Unless given, the tokens of trajectory i are 100 i + 1, 100 i + 2 and so on. The log-prob of every action is
    its token / -1000, so that each of them can be told from the others. A masked trajectory has no reward.
    `checks` are columns of what was checked beside the trajectories, by their own names; by default nothing was, or
    it was found in order.
    """
    size = len(rewards)
    roles = roles if roles is not None else ["paa"] * size
    tokens = tokens if tokens is not None else [range(100 * i + 1, 100 * i + 1 + len(r)) for i, r in enumerate(roles)]
    ids = np.array([token for row in tokens for token in row], np.int32)
    action = np.array([role == "a" for row in roles for role in row], np.bool_)
    kept = np.array(valid if valid is not None else [True] * size, np.bool_)
    group = np.array(groups if groups is not None else [0] * size, np.int32)
    return TrajectoryBatch(
        group=group,
        sample=np.array([int((group[:i] == g).sum()) for i, g in enumerate(group)], np.int32),
        offsets=np.cumsum([0, *map(len, roles)], dtype=np.int64),
        prompt_length=np.array([row.count("p") for row in roles], np.int32),
        tokens=ids,
        action=action,
        logprobs=np.where(action, ids / -1000, 0.0).astype(np.float32),
        reward=np.where(kept, rewards, np.nan).astype(np.float32),
        live_reward=np.where(kept, rewards if live is None else live, np.nan).astype(np.float32),
        trusted_reward=np.array(trusted if trusted is not None else [np.nan] * size, np.float32),
        trusted_correct=np.array([False] * size if right is None else right, np.bool_),
        refills=np.array(refills if refills is not None else [0] * size, np.int8),
        correct=np.array(correct if correct is not None else [False] * size, np.bool_),
        valid=kept,
        termination=np.array(terminations if terminations is not None else [Termination.EOS] * size, np.int8),
        turns=np.array(turns if turns is not None else [1] * size, np.int8),
        model_version=np.full(size, 7, np.int64),
        **_calls(calls),
        call_tries=np.array(tries if tries is not None else [1] * len(calls), np.int8),
        shadow_ok=np.array(shadow, np.bool_),
        **_checks(size, checks),
        keys=tuple(keys if keys is not None else [f"problem-{g}" for g in group]),
        texts=tuple(texts if texts is not None else [f"answer {i}" for i in range(size)]),
    )


def _sealed(batch: TrajectoryBatch) -> TrajectoryBatch:
    return dataclasses.replace(batch, seal=seals(batch))


def _calls(calls: Sequence[Call]) -> dict[str, Any]:
    return {
        "call_trajectory": np.array([call[0] for call in calls], np.int32),
        "call_turn": np.array([call[1] for call in calls], np.int8),
        "call_status": np.array([list(ToolStatus).index(call[2]) for call in calls], np.int8),
        "call_latency_s": np.array([call[3] for call in calls], np.float32),
        "call_requests": tuple(call[4] for call in calls),
        "call_responses": tuple(call[5] for call in calls),
    }


def _checks(size: int, given: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    per_trajectory = {"termination_ok": True, "replayed": False, "masked": False}
    per_trajectory |= {"replay_observation_ok": True, "replay_termination_ok": True}
    columns: dict[str, NDArray[Any]] = {name: np.full(size, value) for name, value in per_trajectory.items()}
    columns |= {name: np.zeros(0, np.bool_) for name in NO_FLAGS} | {"seal": np.zeros(size, np.uint32)}
    columns["reward_parts"] = np.zeros((size, 0), np.float32)
    columns |= {
        name: np.zeros(0, np.float32) for name in ("golden_live", "golden_again", "golden_trusted", "turn_limit_excess")
    }
    assert set(given) <= set(columns)
    return columns | {name: np.array(values, columns[name].dtype) for name, values in given.items()}


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., TrajectoryBatch]:
    """The factory of batches; see `_batch` for its arguments."""
    return lambda *given, **named: _sealed(_batch(*given, **named))


@pytest.fixture(scope="session")
def play() -> Play:
    """Show a detector one series per signal, from step `first` on; the symptoms by step.

    A detector's alarms last from one call to the next when it is given as `Watched`.
    """

    def show(watched: Detector | Watched, first: int = 1, **series: Sequence[float]) -> Mapping[int, Sequence[Symptom]]:
        each = watched if isinstance(watched, Watched) else Watched(watched)
        return each.show(first, **series)

    return show
