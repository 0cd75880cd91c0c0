"""A reward function behind a URL: one POST for a batch of answers, with retries and a circuit breaker. Pure; requests.

    POST {"prompts": [...], "completions": [...], "columns": {"answer": [...], ...}}
    200  {"rewards": [1.0, null, ...], "right": [true, null, ...]}

`rewards` has one for each completion, null where the function does not apply; `right` may be left out. Whatever else
comes, or does not come, is a failure of the answers that were sent, never a reward.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.tasks.reward_functions import Given, Graded, Row, given_of, lists_of

SCHEMES = ("http://", "https://")
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
CONNECT_S = 5.0
LARGEST_REPLY = 64 * 2**20


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
        self._url, self._timeout_s = url, timeout_s
        self._pauses = pauses or Pauses()
        self.name = shown(url)
        self._sessions: dict[int, requests.Session] = {}
        self._rest_s = self._rests_until = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sessions": {}, "_rest_s": 0.0, "_rests_until": 0.0}

    def __call__(self, rows: Sequence[Row]) -> Sequence[Given]:
        """What the server gives for each row."""
        time.sleep(max(0.0, self._rests_until - time.monotonic()))
        try:
            reply = self._reply(lists_of(rows), 0 if self._rest_s else self._pauses.retries)
        except (requests.RequestException, HTTPError, ValueError) as error:
            longest = min(self._pauses.longest_s, self._timeout_s / 3)
            self._rest_s = min(2 * self._rest_s or self._pauses.rest_s, longest)
            self._rests_until = time.monotonic() + self._rest_s
            return [RewardError(f"Reward server {self.name}: {_reason(error, self._timeout_s)}.")] * len(rows)
        self._rest_s = self._rests_until = 0.0
        return self._read(reply, len(rows))

    def _session(self, retries: int) -> requests.Session:
        if retries not in self._sessions:
            session = self._sessions[retries] = requests.Session()
            # A call that was read late is not made again: the batch would wait for it several times.
            again = Retry(
                retries, connect=retries, read=False, redirect=False, backoff_factor=self._pauses.first_s,
                status=retries, status_forcelist=TRANSIENT, allowed_methods=None, raise_on_status=False,
            )  # fmt: skip
            for scheme in SCHEMES:
                session.mount(scheme, HTTPAdapter(max_retries=again))
        return self._sessions[retries]

    def _reply(self, lists: dict[str, list[Any]], retries: int) -> Any:
        prompts, completions = lists.pop("prompts"), lists.pop("completions")
        body = json.dumps({"prompts": prompts, "completions": completions, "columns": lists}, default=str)
        headers = {"Content-Type": "application/json"}
        limits = (min(CONNECT_S, self._timeout_s), self._timeout_s)
        session = self._session(retries)
        with session.post(
            self._url, body.encode(), headers=headers, timeout=limits, stream=True, allow_redirects=False
        ) as response:
            if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
                raise ValueError(f"it answered {response.status_code}")
            data = response.raw.read(LARGEST_REPLY + 1, decode_content=True)
        if len(data) > LARGEST_REPLY:
            raise ValueError(f"its answer is longer than {LARGEST_REPLY} bytes")
        return json.loads(data)

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


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "") + parts.path


def check_url(key: str, url: str) -> None:
    """Refuse what cannot be called.

    Raises:
        TaskError: names the key.
    """
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise TaskError(f"{key}={url} is not a URL that can be called; give http://HOST/PATH or https://HOST/PATH.")


def _reason(error: Exception, timeout_s: float) -> str:
    if isinstance(error, requests.Timeout | ReadTimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "its answer is no JSON"
    if isinstance(error, requests.RequestException | HTTPError):
        return "it cannot be reached, or broke off"
    return str(error)
