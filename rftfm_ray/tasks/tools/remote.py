"""A tool behind a URL: one POST a call. Pure; requests.

    POST {"name": "search", "arguments": {"query": "..."}}
    200  {"result": ...}
    400  {"error": "..."}     the model's call makes no sense; 422 says the same

Whatever else comes, or does not come, is a failure of the tool, and never read by the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from rftfm_ray.errors import ToolError
from rftfm_ray.tasks.http import Endpoint, StatusError, is_late
from rftfm_ray.tasks.tools.tool import InvalidCallError, Tool

INVALID = (400, 422)
"""Statuses that blame the call."""


def remote_tool(schema: Mapping[str, Any], urls: Sequence[str], timeout_s: float) -> Tool:
    """A tool that asks servers.

    Args:
        schema: of its function.
        urls: of servers that can stand in for each other; an instance of the environment asks one of them.
        timeout_s: seconds without an answer after which a server has failed.
    """
    return Tool(schema, partial(_call, tuple(Endpoint(url, timeout_s) for url in urls), schema["function"]["name"]))


def _call(endpoints: Sequence[Endpoint], name: str, arguments: Mapping[str, Any], instance: int) -> Any:
    endpoint = endpoints[instance % len(endpoints)]
    try:
        reply = endpoint.post({"name": name, "arguments": dict(arguments)})
    except StatusError as error:
        if error.status in INVALID:
            raise InvalidCallError(_blamed(error.text)) from error
        raise ToolError(f"Tool server {endpoint.name}: {endpoint.reason(error)}.") from error
    except (requests.RequestException, HTTPError, ValueError) as error:
        kind = TimeoutError if is_late(error) else ToolError
        raise kind(f"Tool server {endpoint.name}: {endpoint.reason(error)}.") from error
    if not isinstance(reply, dict) or "result" not in reply:
        raise ToolError(f"Tool server {endpoint.name}: its answer has no result.")
    return reply["result"]


def _blamed(text: str) -> str:
    """What a server says is wrong with a call."""
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    return error if isinstance(error, str) and error else "the call is invalid"
