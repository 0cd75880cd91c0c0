"""JSON over HTTP to servers of the user's: within a time limit, with retries where they help. Pure; requests."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

from rftfm_ray.errors import TaskError

SCHEMES = ("http://", "https://")
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
CONNECT_S = 5.0
LARGEST_REPLY = 64 * 2**20
CONNECTIONS = 64
"""Connections that stay open between calls; further ones are closed after theirs."""


class StatusError(ValueError):
    """A server has answered with a status other than success; `text` is what came with it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"it answered {status}")
        self.status, self.text = status, text


class Endpoint:
    """A URL that is sent JSON and answers with JSON. It may be used by several threads.

    Args:
        url: credentials in it are sent and never shown.
        timeout_s: seconds without an answer after which it has failed; a call that has taken so long is not repeated.
        first_s: wait before the first repeat of a refused call, if the server does not say how long; it doubles.
    """

    def __init__(self, url: str, timeout_s: float, first_s: float = 0.5) -> None:
        self.name = shown(url)
        self._url, self._timeout_s, self._first_s = url, timeout_s, first_s
        self._sessions: dict[int, requests.Session] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sessions": {}}

    def post(self, body: Any, retries: int = 0) -> Any:
        """The answer to `body`; a call that is refused, or told to come later, is made up to `retries` times more.

        Raises:
            StatusError: when it answers with another status than success.
            ValueError: when its answer is too long, or no JSON.
            requests.RequestException, urllib3.exceptions.HTTPError: when it cannot be reached, breaks off or is late.
        """
        with self._session(retries).post(
            self._url, json.dumps(body, default=str).encode(), headers={"Content-Type": "application/json"},
            timeout=(min(CONNECT_S, self._timeout_s), self._timeout_s), stream=True, allow_redirects=False,
        ) as response:  # fmt: skip
            data = response.raw.read(LARGEST_REPLY + 1, decode_content=True)
            if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
                raise StatusError(response.status_code, data.decode(errors="replace"))
        if len(data) > LARGEST_REPLY:
            raise ValueError(f"its answer is longer than {LARGEST_REPLY} bytes")
        return json.loads(data)

    def reason(self, error: Exception) -> str:
        """What `post` has raised, as a clause."""
        if is_late(error):
            return f"no answer within {self._timeout_s:g} s"
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            return "its answer is no JSON"
        if isinstance(error, requests.RequestException | HTTPError):
            return "it cannot be reached, or broke off"
        return str(error)

    def _session(self, retries: int) -> requests.Session:
        if retries not in self._sessions:
            session = requests.Session()
            # A call that was read late is not made again: who waits for it would wait several times.
            again = Retry(
                retries, connect=retries, read=False, redirect=False, backoff_factor=self._first_s,
                status=retries, status_forcelist=TRANSIENT, allowed_methods=None, raise_on_status=False,
            )  # fmt: skip
            for scheme in SCHEMES:
                session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS, max_retries=again))
            self._sessions[retries] = session
        return self._sessions[retries]


def is_late(error: Exception) -> bool:
    """Whether `Endpoint.post` has raised this because no answer came in time."""
    return isinstance(error, requests.Timeout | ReadTimeoutError)


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
        is_whole = url.startswith(SCHEMES) and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise TaskError(f"{key}={url} is not a URL that can be called; give http://HOST/PATH or https://HOST/PATH.")
