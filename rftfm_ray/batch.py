"""Trajectories of one step as columns of numpy arrays: what travels from rollout to learner and recorder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TrajectoryBatch:
    """B trajectories, N tokens in all, C tool calls in all; token columns are packed without padding.

    A trajectory is one token sequence: prompt, then turns of the model and observations in turn.

    Attributes:
        group: (B,) index of the prompt within the step; equal for the samples of one prompt.
        sample: (B,) index of the sample within its group.
        offsets: (B+1,) trajectory i owns tokens `offsets[i]:offsets[i+1]`.
        prompt_length: (B,) leading tokens that belong to the prompt.
        tokens: (N,) token ids.
        action: (N,) True where the model chose the token; prompt and observations are False.
        logprobs: (N,) natural-log probability of each chosen token at sampling, 0 elsewhere.
        reward: (B,) what trains; NaN where there is no verdict.
        live_reward: (B,) what the live reward channel gave, before anything was replaced or clipped; NaN without one.
        trusted_reward: (B,) what the trusted verifier gave; NaN where it was not asked.
        reward_parts: (B, P) what each part of the reward gave; NaN where it does not apply, or there is no verdict.
        trusted_correct: (B,) whether the trusted verifier calls the answer right; False where it was not asked.
        refills: (B,) how many times the trajectory was drawn anew after a tool failure.
        correct: (B,) whether the verifier calls the answer right.
        valid: (B,) False for trajectories that must not train (infrastructure or verifier failure, or a mask).
        masked: (B,) whether a lever keeps a trajectory out of the loss that has a verdict, by what a check has found.
        termination: (B,) `Termination` values.
        turns: (B,) number of turns of the model.
        model_version: (B,) version of the weights that generated the trajectory.
        call_trajectory: (C,) index of the trajectory that made each tool call.
        call_turn: (C,) turn after which the call was made.
        call_status: (C,) index into the members of `tasks.api.ToolStatus`.
        call_latency_s: (C,) seconds the tool took.
        call_tries: (C,) tries that the call took, 1 when the first one settled it.
        shadow_ok: (S,) whether an idle tool instance answered a recorded call as it was answered before.
        known_ok: (K,) the same of the instance that is asked first.
        observation_ok: (O,) whether an observation stands in the transcript as its tool gave it, by their hashes.
        observation_decode_ok: (D,) whether the tokens of an observation decode to what its tool said.
        turn_limit_excess: (T,) of every turn, the logarithm of the tokens asked for over those declared; 0 where equal.
        turn_cut_short: (T,) whether the engine cut a turn off before it had the tokens asked for.
        termination_ok: (B,) whether the recorded termination is the one that the tokens and limits say.
        replayed: (B,) whether the episode's turns were put to the trusted environment once more.
        replay_observation_ok: (B,) whether that gave the same observations; True where not replayed.
        replay_termination_ok: (B,) whether it would have ended the episode at the same turn; True where not replayed.
        golden_right: (G,) True for known-right, False for known-wrong responses put through the live reward channel.
        golden_live: (G,) what the live channel gave for them; NaN where it failed.
        golden_again: (G,) the same when it was asked a second time.
        golden_trusted: (G,) what they are worth.
        seal: (B,) checksum of what the rollout made: place, tokens, choices, reward and whether it may train (`seals`).
        keys: B problem keys.
        texts: B transcripts after the prompt, observations included.
        call_requests: C tool requests.
        call_responses: C tool responses.
    """

    group: NDArray[np.int32]
    sample: NDArray[np.int32]
    offsets: NDArray[np.int64]
    prompt_length: NDArray[np.int32]
    tokens: NDArray[np.int32]
    action: NDArray[np.bool_]
    logprobs: NDArray[np.float32]
    reward: NDArray[np.float32]
    live_reward: NDArray[np.float32]
    trusted_reward: NDArray[np.float32]
    reward_parts: NDArray[np.float32]
    trusted_correct: NDArray[np.bool_]
    refills: NDArray[np.int8]
    correct: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    masked: NDArray[np.bool_]
    termination: NDArray[np.int8]
    turns: NDArray[np.int8]
    model_version: NDArray[np.int64]
    call_trajectory: NDArray[np.int32]
    call_turn: NDArray[np.int8]
    call_status: NDArray[np.int8]
    call_latency_s: NDArray[np.float32]
    call_tries: NDArray[np.int8]
    shadow_ok: NDArray[np.bool_]
    known_ok: NDArray[np.bool_]
    observation_ok: NDArray[np.bool_]
    observation_decode_ok: NDArray[np.bool_]
    turn_limit_excess: NDArray[np.float32]
    turn_cut_short: NDArray[np.bool_]
    termination_ok: NDArray[np.bool_]
    replayed: NDArray[np.bool_]
    replay_observation_ok: NDArray[np.bool_]
    replay_termination_ok: NDArray[np.bool_]
    golden_right: NDArray[np.bool_]
    golden_live: NDArray[np.float32]
    golden_again: NDArray[np.float32]
    golden_trusted: NDArray[np.float32]
    seal: NDArray[np.uint32]
    keys: tuple[str, ...]
    texts: tuple[str, ...]
    call_requests: tuple[str, ...]
    call_responses: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.group)

    def lengths(self) -> NDArray[np.int64]:
        """(B,) tokens of every trajectory, prompt included."""
        return np.diff(self.offsets)

    def action_counts(self) -> NDArray[np.int64]:
        """(B,) tokens that the model chose in every trajectory."""
        total = np.concatenate([[0], np.cumsum(self.action, dtype=np.int64)])
        counts: NDArray[np.int64] = total[self.offsets[1:]] - total[self.offsets[:-1]]
        return counts


def seals(batch: TrajectoryBatch) -> NDArray[np.uint32]:
    """(B,) checksums of the trajectories as they stand in a batch: of what a step of learning takes from each.

    A checksum follows a trajectory from the rollout to the loss, so that a reward or tokens of another one show.
    """
    places = np.stack([batch.group, batch.sample, batch.valid.astype(np.int32)], axis=1).astype(np.int32)
    ends, tokens, action = batch.offsets.tolist(), batch.tokens.data, batch.action.data
    rewards = batch.reward.astype(np.float32)
    found = [
        crc32(action[start:end], crc32(tokens[start:end], crc32(rewards[i].tobytes(), crc32(places[i].tobytes()))))
        for i, (start, end) in enumerate(pairwise(ends))
    ]
    return np.array(found, dtype=np.uint32)


def concatenate(batches: Sequence[TrajectoryBatch]) -> TrajectoryBatch:
    """Join batches in order; offsets and call owners are shifted so that they stay true."""
    if len(batches) == 1:
        return batches[0]
    owners = np.cumsum([0, *(len(b) for b in batches)])
    starts = np.cumsum([0, *(int(b.offsets[-1]) for b in batches)])
    shifted = {
        "offsets": np.concatenate([[0], *(b.offsets[1:] + s for b, s in zip(batches, starts, strict=False))]),
        "call_trajectory": np.concatenate(
            [b.call_trajectory + np.int32(o) for b, o in zip(batches, owners, strict=False)]
        ),
    }
    columns = {}
    for field in fields(TrajectoryBatch):
        parts = [getattr(b, field.name) for b in batches]
        if field.name in shifted:
            columns[field.name] = shifted[field.name]
        elif isinstance(parts[0], tuple):
            columns[field.name] = tuple(item for part in parts for item in part)
        else:
            columns[field.name] = np.concatenate(parts)
    return TrajectoryBatch(**columns)
