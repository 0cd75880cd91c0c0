"""The tools that a configuration names: functions by their docstrings, servers by a file with their schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rftfm_ray.config import RunConfig
from rftfm_ray.config.tools import REGEX, RESULT, TEMPLATE, VLLM, ToolsConfig
from rftfm_ray.errors import TaskError, one_line
from rftfm_ray.plugins import load_attribute, ship_by_value
from rftfm_ray.rollout.served_calls import ServedCalls
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.dataset import Turns
from rftfm_ray.tasks.http import check_url
from rftfm_ray.tasks.tools.formats import RegexCalls
from rftfm_ray.tasks.tools.remote import remote_tool
from rftfm_ray.tasks.tools.tool import Reader, Tool, ToolBox, Writer, function_tool

KEY = "tools.functions"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


def load_tools(config: ToolsConfig, timeout_s: float) -> tuple[Tool, ...]:
    """The tools of a run.

    Args:
        config: names them.
        timeout_s: seconds that a server has for one call.

    Raises:
        TaskError: when one cannot be found or described, or two are called alike.
    """
    tools = tuple(_remote(name, timeout_s) if name.endswith(".json") else _function(name) for name in config.functions)
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise TaskError(f"{KEY}={list(config.functions)} has two tools called {twice}; give each a name of its own.")
    return tools


@dataclass(frozen=True, slots=True)
class _Formatted:
    """Writes each result as `tools.result` says."""

    pattern: str

    def __call__(self, results: Sequence[tuple[str, str]]) -> str:
        return "".join(self.pattern.replace(RESULT, text) for _, text in results)


def turns_of(config: RunConfig, tools: Sequence[Tool], codec: TextCodec) -> Turns:
    """The turns of an episode: one without tools.

    Raises:
        TaskError: when a pattern is wrong, or no token ends a turn as it says.
        ModelError: when the chat template is needed, and knows no tools.
    """
    if not tools:
        return Turns(config.data.max_new_tokens)
    box = _box(config.tools, tools, codec)
    return Turns(config.data.max_new_tokens, config.tools.max_turns, box, config.tools.stop)


def _box(config: ToolsConfig, tools: Sequence[Tool], codec: TextCodec) -> ToolBox:
    schemas = [tool.schema for tool in tools]
    reader: Reader
    if config.calls == TEMPLATE:
        reader = codec.template(schemas).calls()
    elif config.calls.startswith(VLLM):
        reader = ServedCalls(config.calls.removeprefix(VLLM), codec.path, schemas)
    else:
        reader = RegexCalls(config.calls.removeprefix(REGEX), tools)
    writer: Writer
    if config.result is None:
        writer = partial(codec.template(schemas).results, closes=bool(config.stop))
        # What the template does not know is said now, and not in the first call.
        writer([(tools[0].name, "")])
    else:
        writer = _Formatted(config.result)
    if config.stop and not codec.ids_containing(config.stop):
        raise TaskError(
            f"tools.stop={config.stop} is held by no single token of the model's tokenizer, so nothing would end a turn"
            " there; leave it out for a model that ends its turns with an end token, or choose a shorter text."
        )
    return ToolBox(tools, reader, writer, config.max_result)


def _function(name: str) -> Tool:
    from transformers.utils import get_json_schema

    loaded, attribute, module = load_attribute(KEY, name, TaskError)
    if not callable(loaded) or isinstance(loaded, type):
        raise TaskError(f"{KEY}={name}: {attribute} is no function; give one.")
    try:
        schema = get_json_schema(loaded)
    except Exception as error:  # what is missing of type hints and docstring, in errors of several types
        raise TaskError(
            f"{KEY}={name}: {attribute} cannot be described to the model ({one_line(error)}); give it type hints, and "
            "a docstring that describes each argument under Args:."
        ) from error
    ship_by_value(module)
    return function_tool(_checked(name, schema), loaded)


def _remote(name: str, timeout_s: float) -> Tool:
    path = Path(name).expanduser()
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(f"{KEY}={name} cannot be read ({error.strerror or error}); check the path.") from None
    except ValueError as error:
        raise TaskError(f"{KEY}={name} is not JSON ({one_line(error)}); correct it.") from None
    if not isinstance(held, dict) or "url" not in held:
        raise TaskError(f"{KEY}={name} has no url; give the URL of the tool's server beside its function.")
    urls = held["url"] if isinstance(held["url"], list) else [held["url"]]
    for url in urls:
        check_url(f"{KEY}={name}: url", str(url))
    if not urls:
        raise TaskError(f"{KEY}={name} has an empty list as url; give the URL of the tool's server.")
    schema = {"type": "function", "function": held.get("function")}
    return remote_tool(_checked(name, schema), [str(url) for url in urls], timeout_s)


def _checked(source: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema in which a model's call can be checked.

    Raises:
        TaskError: when it has no name, or its parameters are no JSON schema of an object.
    """
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    function = schema.get("function")
    if not isinstance(function, dict) or not _NAME.fullmatch(str(function.get("name", ""))):
        raise TaskError(
            f"{KEY}={source} has no function with a name of letters, digits, _, - and .; write it as "
            '{"url": ..., "function": {"name": ..., "description": ..., "parameters": {...}}}.'
        )
    parameters = function.get("parameters", {})
    try:
        if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
            raise TaskError(f"{KEY}={source}: its parameters are no JSON schema of an object; correct them.")
        validator_for(parameters).check_schema(parameters)
    except SchemaError as error:
        raise TaskError(
            f"{KEY}={source}: its parameters are no JSON schema ({one_line(error)}); correct them."
        ) from None
    return schema
