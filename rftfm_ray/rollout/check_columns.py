"""Columns of a batch that say what its checks found: on transcripts, limits, tools and rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.rollout.checks import Checks, Replayed
from rftfm_ray.rollout.environment import Channels
from rftfm_ray.rollout.episode import Batch, Episode, TurnLimit
from rftfm_ray.rollout.termination import Limits, implied_termination
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.api import text_digest
from rftfm_ray.types import StepId


def check_columns(
    batch: Batch, channels: Channels, codec: TextCodec, limits: Callable[[Episode], Limits]
) -> dict[str, NDArray[Any]]:
    """Columns of the checks beside the trajectories, and of the checks on the trajectories.

    Args:
        batch: all of whose episodes have ended.
        channels: whose checks are made; without any only what needs no second look is compared.
        codec: the tokenizer that wrote the transcripts.
        limits: those that an episode went by.
    """
    episodes, golden, checks = batch.episodes, batch.golden, channels.checks
    calls = [] if checks is None else [partial(_replay, checks, e, batch.step) for e in episodes]
    # A replay that fails or is late is no finding.
    found = channels.workers.replay.run(calls) if calls else [None] * len(episodes)
    replays = [replayed if isinstance(replayed, Replayed) else None for replayed in found]
    signed = [o for e in episodes for o in e.observations if o.digest]
    turns = [turn for e in episodes for turn in e.limits]

    def flags(results: Iterable[bool]) -> NDArray[np.bool_]:
        return np.fromiter(results, dtype=np.bool_)

    return {
        "shadow_ok": flags(batch.shadow_ok),
        "known_ok": flags(batch.known_ok),
        "observation_ok": flags(text_digest(o.text) == o.digest for o in signed),
        "observation_decode_ok": flags(() if checks is None else decoded_as_said(episodes, codec)),
        "termination_ok": flags(implied_termination(e.ended(), limits(e)) is e.termination for e in episodes),
        "turn_limit_excess": np.array([limit_excess(turn) for turn in turns], dtype=np.float32),
        "turn_cut_short": flags(turn.is_cut_short for turn in turns),
        "replayed": flags(r is not None for r in replays),
        "replay_observation_ok": flags(r is None or r.observation_ok for r in replays),
        "replay_termination_ok": flags(r is None or r.termination_ok for r in replays),
        "golden_right": flags(g.right for g in golden),
        "golden_live": np.array([g.live for g in golden], dtype=np.float32),
        "golden_again": np.array([g.again for g in golden], dtype=np.float32),
        "golden_trusted": np.array([g.trusted for g in golden], dtype=np.float32),
    }


def limit_excess(turn: TurnLimit) -> float:
    """Natural logarithm of the tokens that a turn was asked with over those that were declared for it."""
    return 0.0 if turn.asked == turn.declared else math.log(max(turn.asked, 1) / max(turn.declared, 1))


def decoded_as_said(episodes: Sequence[Episode], codec: TextCodec) -> list[bool]:
    """Whether each observation that a model has read decodes to the text that came from its tool.

    A tokenizer may lose characters, so a text that comes back otherwise is compared with what the tokenizer itself
    makes of it: only tokens that another text has are a finding.
    """
    observed = [
        (observation.text, episode.tokens[slice(*span)])
        for episode in episodes
        for observation, span in zip(episode.observations, episode.observed, strict=True)
    ]
    read = codec.decode_all([tokens for _, tokens in observed]) if observed else []
    return [
        text == said or text == codec.decode(codec.encode(said)) for text, (said, _) in zip(read, observed, strict=True)
    ]


def _replay(checks: Checks, episode: Episode, step: StepId) -> Replayed | None:
    return checks.replay(episode.identity(step), episode.job.problem, episode.answers())
