"""A reward function behind a URL: one POST for a batch of answers, with retries and a circuit breaker. Pure.

    POST {"prompts": [...], "completions": [...], "columns": {"answer": [...], ...}}
    200  {"rewards": [1.0, null, ...], "right": [true, null, ...]}

`rewards` has one for each completion, null where the function does not apply; `right` may be left out. Whatever else
comes, or does not come, is a failure of the answers that were sent, never a reward.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from rftfm_ray.errors import RewardError
from rftfm_ray.tasks.http import Endpoint
from rftfm_ray.tasks.reward_functions import Given, Graded, Row, given_of, lists_of


@dataclass(frozen=True, slots=True)
class Pauses:
    """How a server that fails is left alone.

    Attributes:
        retries: of a call that is refused or told to come later.
        first_s: before the first of them; it doubles with each, if the server does not say how long.
        rest_s: before the next call once one has failed for all its tries; that one is made once. The rest doubles
            while calls go on failing.
        longest_s: rest at most. A run whose server is away for less than the sum of some rests goes on
            (`verifier.max_failing_steps`).
    """

    retries: int = 4
    first_s: float = 0.5
    rest_s: float = 5.0
    longest_s: float = 40.0


class RemoteReward:
    """Asks a reward server.

    Args:
        url: of the server; credentials in it are sent and never shown.
        timeout_s: seconds without an answer after which it has failed; a call that has taken so long is not repeated.
        pauses: before it is asked again.
    """

    def __init__(self, url: str, timeout_s: float, pauses: Pauses | None = None) -> None:
        self._pauses = pauses or Pauses()
        self._endpoint = Endpoint(url, timeout_s, self._pauses.first_s)
        self._longest_rest_s = min(self._pauses.longest_s, timeout_s / 3)
        self.name = self._endpoint.name
        self._rest_s = self._rests_until = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rest_s": 0.0, "_rests_until": 0.0}

    def __call__(self, rows: Sequence[Row]) -> Sequence[Given]:
        """What the server gives for each row."""
        time.sleep(max(0.0, self._rests_until - time.monotonic()))
        lists = lists_of(rows)
        prompts, completions = lists.pop("prompts"), lists.pop("completions")
        body = {"prompts": prompts, "completions": completions, "columns": lists}
        try:
            reply = self._endpoint.post(body, 0 if self._rest_s else self._pauses.retries)
        except (requests.RequestException, HTTPError, ValueError) as error:
            self._rest_s = min(2 * self._rest_s or self._pauses.rest_s, self._longest_rest_s)
            self._rests_until = time.monotonic() + self._rest_s
            return [RewardError(f"Reward server {self.name}: {self._endpoint.reason(error)}.")] * len(rows)
        self._rest_s = self._rests_until = 0.0
        return self._read(reply, len(rows))

    def _read(self, reply: Any, count: int) -> Sequence[Given]:
        fields = reply if isinstance(reply, dict) else {}
        rewards, right = fields.get("rewards"), fields.get("right")
        right = [None] * count if right is None else right
        for name, values in (("rewards", rewards), ("right", right)):
            if not isinstance(values, list) or len(values) != count:
                said = f"{len(values)} {name}" if isinstance(values, list) else f"no list of {name}"
                error = RewardError(f"Reward server {self.name} gave {said} for {count} answers; give one each.")
                return [error] * count
        assert isinstance(rewards, list)  # noqa: S101 - anything else has returned
        return [self._one(reward, is_right) for reward, is_right in zip(rewards, right, strict=True)]

    def _one(self, reward: Any, is_right: Any) -> Given:
        if is_right is not None and not isinstance(is_right, bool):
            return RewardError(f"Reward server {self.name} gave {is_right!r:.60} as right; give true, false or null.")
        if isinstance(reward, bool):
            return RewardError(f"Reward server {self.name} gave {reward!r} as a reward; give a number.")
        given = given_of(reward, self.name)
        return Graded(given.reward, is_right) if isinstance(given, Graded) else given
