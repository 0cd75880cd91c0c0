"""How calls stand in a model's turn: as JSON behind a mark of the model's own format, or as a pattern says. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rftfm_ray.errors import TaskError
from rftfm_ray.tasks.tools.tool import Tool, ToolRequest

_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """Calls as JSON objects, one or a list of them, each behind a mark.

    Attributes:
        opening: the mark; empty where a turn that calls is nothing but JSON.
        name: key of the tool's name.
        arguments: key of its arguments, as an object or as JSON in a string.
        inside: key of the object that holds both; empty where it is the call itself.
    """

    opening: str
    name: str = "name"
    arguments: str = "arguments"
    inside: str = ""

    def requests(self, text: str) -> Sequence[ToolRequest]:
        """The calls of a turn, in order."""
        if not self.opening:
            return self._alone(text)
        found: list[ToolRequest] = []
        for mark in re.finditer(re.escape(self.opening), text):
            try:
                value, _ = _DECODER.raw_decode(text[mark.end() :].lstrip())
            except (ValueError, RecursionError):
                found.append(ToolRequest("", {}, "the call is not JSON"))
                continue
            found += [self._request(each) for each in (value if isinstance(value, list) else [value])]
        return found

    def _alone(self, text: str) -> Sequence[ToolRequest]:
        """Calls of a turn without marks: JSON that is of another form is an answer."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return ()
        requests = [self._request(each) for each in (value if isinstance(value, list) else [value])]
        return requests if all(request.name for request in requests) else ()

    def _request(self, value: Any) -> ToolRequest:
        held = value.get(self.inside) if self.inside and isinstance(value, dict) else value
        if not isinstance(held, dict) or not isinstance(held.get(self.name), str):
            return ToolRequest("", {}, f"the call has no {self.name}")
        name, arguments = held[self.name], held.get(self.arguments, {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                arguments = None
        if not isinstance(arguments, dict):
            return ToolRequest(name, {}, f"the {self.arguments} of the call are no JSON object")
        return ToolRequest(name, arguments)


class RegexCalls:
    """Calls as matches of a pattern with the groups `name` and `arguments`.

    `name` may be left out where there is one tool. The arguments are a JSON object, or, of a tool with one parameter,
    its value as it is.

    Raises:
        TaskError: when the pattern is no regular expression, or lacks a group that it needs.
    """

    def __init__(self, pattern: str, tools: Sequence[Tool]) -> None:
        key = f"tools.calls=regex:{pattern}"
        try:
            self._pattern = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise TaskError(f"{key} is no regular expression ({error}); correct it.") from None
        groups = self._pattern.groupindex
        if "arguments" not in groups:
            raise TaskError(f"{key} does not say where the arguments stand; put them in a group (?P<arguments>...).")
        if "name" not in groups and len(tools) > 1:
            raise TaskError(f"{key} does not say which of the tools is called; put its name in a group (?P<name>...).")
        self._only = "" if "name" in groups else tools[0].name
        self._single = {tool.name: single for tool in tools if (single := _single(tool)) is not None}

    def requests(self, text: str) -> Sequence[ToolRequest]:
        """The calls of a turn, in order."""
        return [self._request(match.groupdict()) for match in self._pattern.finditer(text)]

    def _request(self, groups: Mapping[str, str | None]) -> ToolRequest:
        name, written = self._only or groups.get("name") or "", groups["arguments"] or ""
        value = _loaded(written)
        single = self._single.get(name)
        if single is not None and not (isinstance(value, dict) and set(value) == {single[0]}):
            parameter, is_text = single
            return ToolRequest(name, {parameter: written.strip() if is_text or value is None else value})
        if isinstance(value, dict):
            return ToolRequest(name, value)
        return ToolRequest(name, {}, "the arguments of the call are no JSON object")


def _single(tool: Tool) -> tuple[str, bool] | None:
    """The only parameter of a tool, and whether it takes text; None where there are others."""
    properties = tool.parameters.get("properties", {})
    if len(properties) != 1:
        return None
    ((name, schema),) = properties.items()
    return name, schema.get("type", "string") == "string"


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
