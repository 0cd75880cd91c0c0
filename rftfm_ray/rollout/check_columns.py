"""Columns of a batch that say what its checks found: on transcripts, limits, tools and rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.rollout.asking import Masks
from rftfm_ray.rollout.checks import Checks, Replayed
from rftfm_ray.rollout.environment import Channels
from rftfm_ray.rollout.episode import Batch, Episode, TurnLimit
from rftfm_ray.rollout.termination import Limits, implied_termination
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.api import text_digest
from rftfm_ray.types import StepId, Termination

TRUNCATIONS = (Termination.MAX_TOKENS, Termination.MAX_TURNS)
"""Terminations by a limit."""


def check_columns(
    batch: Batch, channels: Channels, codec: TextCodec, limits: Callable[[Episode], Limits], masks: Masks
) -> dict[str, NDArray[Any]]:
    """Columns of the checks beside the trajectories, and of the checks on the trajectories; and which of them mask.

    Args:
        batch: all of whose episodes have ended.
        channels: whose checks are made; without any only what needs no second look is compared.
        codec: the tokenizer that wrote the transcripts.
        limits: those that an episode went by.
        masks: findings that keep a trajectory out of the loss. Without checks nothing is replayed.
    """
    episodes, golden, checks = batch.episodes, batch.golden, channels.checks
    always = masks.unreplayed
    calls = [] if checks is None else [partial(_replay, checks, e, batch.step, always=always) for e in episodes]
    # A replay that fails or is late is no finding.
    found = channels.workers.replay.run(calls) if calls else [None] * len(episodes)
    replays = [replayed if isinstance(replayed, Replayed) else None for replayed in found]
    signed = [o for e in episodes for o in e.observations if o.digest]
    turns = [turn for e in episodes for turn in e.limits]
    decodes = checks is not None or masks.undecoded
    decoded = decoded_as_said(episodes, codec) if decodes else []

    def flags(results: Iterable[bool]) -> NDArray[np.bool_]:
        return np.fromiter(results, dtype=np.bool_)

    return {
        "shadow_ok": flags(batch.shadow_ok),
        "known_ok": flags(batch.known_ok),
        "observation_ok": flags(text_digest(o.text) == o.digest for o in signed),
        "observation_decode_ok": flags(decoded),
        "termination_ok": flags(implied_termination(e.ended(), limits(e)) is e.termination for e in episodes),
        "turn_limit_excess": np.array([limit_excess(turn) for turn in turns], dtype=np.float32),
        "turn_cut_short": flags(turn.is_cut_short for turn in turns),
        "replayed": flags(r is not None for r in replays),
        "replay_observation_ok": flags(r is None or r.observation_ok for r in replays),
        "replay_termination_ok": flags(r is None or r.termination_ok for r in replays),
        "masked": flags(_masked(episodes, masks, decoded, replays)),
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


def _masked(
    episodes: Sequence[Episode], masks: Masks, decoded: Sequence[bool], replays: Sequence[Replayed | None]
) -> Iterator[bool]:
    """Whether a finding masks each episode; `decoded` are those of all observations in turn, empty where none is asked.

    An episode that a failure has ended has no verdict, and is kept out as such.
    """
    left = iter(decoded)
    for episode, replayed in zip(episodes, replays, strict=True):
        own = [next(left, True) for _ in episode.observations]
        same = replayed is None or (replayed.observation_ok and replayed.termination_ok)
        found = (
            masks.undecoded and not all(own),
            masks.unreplayed and not same,
            masks.truncated and episode.termination in TRUNCATIONS,
        )
        yield any(found) and episode.termination is not Termination.FAILED


def _replay(checks: Checks, episode: Episode, step: StepId, *, always: bool) -> Replayed | None:
    return checks.replay(episode.identity(step), episode.job.problem, episode.answers(), always=always)
