"""What a tool is, and the environment that a model's turns reach through tools. Pure; jsonschema."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from rftfm_ray.tasks.api import Observation, ToolCall, ToolStatus, Transcript

MOST_CALLS = 8
"""Calls of one turn that are made; the model is told that further ones were not."""
LONGEST_NAME = 60
"""Characters that are kept of the name of a tool that does not exist."""


class InvalidCallError(Exception):
    """A call that makes no sense, which is the model's doing; the message is for the model."""


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A call as a model's turn holds it; `problem` says why it cannot be read, empty where it can."""

    name: str
    arguments: Mapping[str, Any]
    problem: str = ""


class Reader(Protocol):
    """How calls stand in a turn."""

    def requests(self, text: str) -> Sequence[ToolRequest]:
        """The calls of a turn, in order; none where the turn is an answer."""


Writer = Callable[[Sequence[tuple[str, str]]], str]
"""Writes the results of a turn's calls, each with the name of its tool, as the text that the model reads."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool.

    Attributes:
        schema: of its function, in the form of OpenAI's `tools`: `{"type": "function", "function": {...}}`.
        run: what it gives for arguments on the instance with a number, from 0.
    """

    schema: Mapping[str, Any]
    run: Callable[[Mapping[str, Any], int], Any]

    @property
    def name(self) -> str:
        """Its name in calls."""
        return str(self.schema["function"]["name"])

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The JSON schema of its arguments."""
        found: Mapping[str, Any] = self.schema["function"].get("parameters", {})
        return found


def function_tool(schema: Mapping[str, Any], function: Callable[..., Any]) -> Tool:
    """A function as a tool; what an async one returns is waited for.

    `ValueError` itself (none of its subclasses, which libraries raise for reasons of their own) and `ArithmeticError`
    say that the model's call makes no sense, and the model reads the message. Anything else is a failure of the tool.
    """
    return Tool(schema, partial(_call, function))


def _call(function: Callable[..., Any], arguments: Mapping[str, Any], instance: int) -> Any:
    del instance
    try:
        returned = function(**arguments)
        return asyncio.run(_value(returned)) if inspect.isawaitable(returned) else returned
    except (ValueError, ArithmeticError) as error:
        if type(error) is ValueError or isinstance(error, ArithmeticError):
            raise InvalidCallError(str(error) or type(error).__name__) from error
        raise


async def _value(awaited: Awaitable[Any]) -> Any:
    return await awaited


@dataclass(frozen=True, slots=True)
class _Result:
    name: str
    text: str
    status: ToolStatus


class ToolBox:
    """The tools of a run. A turn's calls are made one after the other; together they are one call of the episode.

    Args:
        tools: with different names.
        reader: finds calls in a turn.
        writer: writes results for the model.
        longest: characters of a result at most; what is beyond them is left out, and the model is told.
        number: of the instance that is asked.
    """

    def __init__(self, tools: Sequence[Tool], reader: Reader, writer: Writer, longest: int, number: int = 0) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._reader, self._writer = reader, writer
        self._longest, self._number = longest, number
        self._validators: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_validators": {}}

    @property
    def frame(self) -> str:
        """What the model reads around the result of a call."""
        return self._writer([(next(iter(self._tools)), "")])

    def instance(self, number: int) -> ToolBox:
        """The same tools by another instance of those that have several."""
        return ToolBox(tuple(self._tools.values()), self._reader, self._writer, self._longest, number)

    def respond(self, turn: int, text: str) -> Observation | None:
        """What the model reads after a turn, None where the turn calls nothing.

        Raises:
            Exception: what a tool has failed with.
        """
        requests = self._reader.requests(text)
        if not requests:
            return None
        results = [self._result(request, number) for number, request in enumerate(requests)]
        invalid = any(result.status is ToolStatus.UNPARSABLE for result in results)
        call = ToolCall(
            turn,
            "+".join(dict.fromkeys(result.name for result in results)),
            json.dumps([{"name": r.name, "arguments": r.arguments} for r in requests], ensure_ascii=False, default=str),
            "\n".join(result.text for result in results),
            ToolStatus.UNPARSABLE if invalid else ToolStatus.OK,
        )
        return Observation(self._writer([(result.name, result.text) for result in results]), call)

    def _result(self, request: ToolRequest, number: int) -> _Result:
        name = request.name[:LONGEST_NAME]
        try:
            if number >= MOST_CALLS:
                raise InvalidCallError(f"this call was not made; one turn may make {MOST_CALLS}")
            tool = self._checked(request)
            returned = tool.run(request.arguments, self._number)
        except InvalidCallError as error:
            return _Result(name, self._cut(f"Error: {error}"), ToolStatus.UNPARSABLE)
        return _Result(name, self._cut(_written(returned)), ToolStatus.OK)

    def _checked(self, request: ToolRequest) -> Tool:
        if request.problem:
            raise InvalidCallError(request.problem)
        tool = self._tools.get(request.name)
        if tool is None:
            raise InvalidCallError(f"there is no tool {request.name[:LONGEST_NAME]}; use {', '.join(self._tools)}")
        problem = self._problem(tool, request.arguments)
        if problem:
            raise InvalidCallError(problem)
        return tool

    def _problem(self, tool: Tool, arguments: Mapping[str, Any]) -> str:
        from jsonschema.exceptions import best_match
        from jsonschema.validators import validator_for

        if tool.name not in self._validators:
            schema = tool.parameters
            self._validators[tool.name] = validator_for(schema)(schema)
        found = best_match(self._validators[tool.name].iter_errors(dict(arguments)))
        return "" if found is None else str(found.message)

    def _cut(self, text: str) -> str:
        left_out = len(text) - self._longest
        return text if left_out <= 0 else f"{text[: self._longest]}... ({left_out} characters left out)"


def _written(returned: Any) -> str:
    return returned if isinstance(returned, str) else json.dumps(returned, ensure_ascii=False, default=str)


def messages_of(transcript: Transcript) -> list[dict[str, Any]]:
    """A transcript as chat messages: of the assistant, with its calls, and of tools."""
    messages: list[dict[str, Any]] = []
    calls = {call.turn: call for call in transcript.calls}
    for turn, text in enumerate(transcript.turns):
        message: dict[str, Any] = {"role": "assistant", "content": text}
        messages.append(message)
        call = calls.get(turn)
        if call is not None:
            message["tool_calls"] = [{"type": "function", "function": each} for each in _requested(call)]
            messages.append({"role": "tool", "name": call.tool, "content": call.response})
    return messages


def _requested(call: ToolCall) -> list[dict[str, Any]]:
    """The calls of a turn. Where the tool itself has failed, the turn is all that is known."""
    try:
        requested = json.loads(call.request)
    except ValueError:
        requested = None
    return requested if isinstance(requested, list) else [{"name": call.tool, "arguments": {}}]
