"""Calls in a model's turn as one of vLLM's tool parsers reads them, for formats that a chat template does not show."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from rftfm_ray.errors import ModelError, TaskError, one_line
from rftfm_ray.tasks.tools.tool import ToolRequest


class ServedCalls:
    """A tool parser of vLLM's server. A turn that it cannot read is an answer to it.

    Args:
        name: of the parser.
        model: directory of the model, whose tokenizer the parser looks at.
        schemas: of the tools.

    Raises:
        TaskError: when vLLM has no such parser.
        ModelError: when the parser does not take the model's tokenizer.
    """

    def __init__(self, name: str, model: str, schemas: Sequence[Mapping[str, Any]]) -> None:
        self._name, self._model, self._schemas = name, model, tuple(schemas)
        self._parser: Any = None
        self._lock = threading.Lock()
        self._load()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_parser": None, "_lock": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def requests(self, text: str) -> Sequence[ToolRequest]:
        """The calls of a turn, in order."""
        with self._lock:
            parser, request = self._load()
            found = parser.extract_tool_calls(text, request)
        return [_request(call.function) for call in found.tool_calls] if found.tools_called else []

    def _load(self) -> tuple[Any, Any]:
        """The parser, and the request that it reads an answer to."""
        if self._parser is None:
            # Here, not above: the engine loads numpy, which a command that only prints its help does not wait for.
            from rftfm_ray.rollout.engine import prepare_environment

            prepare_environment()
            from transformers import AutoTokenizer
            from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
            from vllm.tool_parsers import ToolParserManager

            known = {*ToolParserManager.tool_parsers, *ToolParserManager.lazy_parsers}
            if self._name not in known:
                raise TaskError(
                    f"tools.calls=vllm:{self._name} is no tool parser of vLLM; use one of {', '.join(sorted(known))}."
                )
            asked = {"messages": [{"role": "user", "content": "-"}], "tools": list(self._schemas)}
            request = ChatCompletionRequest.model_validate(asked)
            try:
                tokenizer = AutoTokenizer.from_pretrained(self._model)
                parser = ToolParserManager.get_tool_parser(self._name)(tokenizer, request.tools)
            except Exception as error:  # parsers refuse tokenizers without the tokens that they look for, each its way
                raise ModelError(
                    f"tools.calls=vllm:{self._name} does not take the tokenizer of {self._model} ({one_line(error)}); "
                    "use the parser of this model, or template."
                ) from error
            self._parser = parser, request
        loaded: tuple[Any, Any] = self._parser
        return loaded


def _request(function: Any) -> ToolRequest:
    try:
        arguments = json.loads(function.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        return ToolRequest(str(function.name), {}, "the arguments of the call are no JSON object")
    return ToolRequest(str(function.name), arguments)
