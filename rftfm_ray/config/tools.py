"""Tools of the user's, for rows of a data set."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from rftfm_ray.config.sections import Count, Integer, Section

TEMPLATE, REGEX, VLLM = "template", "regex:", "vllm:"
RESULT = "{result}"
"""Stands for what a tool gives."""


class ToolsConfig(Section):
    """What answers to rows of `data.train` may call before they end."""

    functions: tuple[str, ...] = ()
    """Functions of yours as `file.py:name` or `module:name`, sync or async, with type hints and a docstring that
    describes each argument; or JSON files with a function's schema and the `url` of a server, or several. One that
    gives another result each time wants `channels.replay_rate=0`."""
    calls: str = TEMPLATE
    """How a turn calls a tool: `template`, as the chat template of the model's tokenizer writes calls;
    `vllm:PARSER`, as a tool parser of vLLM's reads them; or `regex:PATTERN` with the groups `name` and `arguments`, as
    JSON or as the value of an only parameter."""
    result: str | None = None
    """What the model reads after a call, with `{result}` in it for what the tool gives; null: a tool's message by the
    chat template."""
    stop: str = ""
    """Text that ends a turn which calls, if a single token holds it; empty: the model's end token ends every turn."""
    max_turns: Annotated[Integer, Field(ge=2, le=64)] = 4
    """Turns of the model at most, its answer among them, each of up to `data.max_new_tokens`."""
    max_result: Count = 1024
    """Characters of a result at most; of a longer one the model reads the first ones, and how many were left out."""

    @model_validator(mode="after")
    def _readable(self) -> ToolsConfig:
        if self.calls != TEMPLATE and not self.calls.startswith((REGEX, VLLM)):
            raise ValueError(
                f"tools.calls={self.calls} is neither {TEMPLATE} nor of the form {REGEX}PATTERN or {VLLM}PARSER; write "
                "it so"
            )
        if self.result is not None and RESULT not in self.result:
            raise ValueError(f"tools.result={self.result!r} does not say where the result stands; put {RESULT} in it")
        if len(set(self.functions)) != len(self.functions):
            raise ValueError(f"tools.functions={list(self.functions)} has a function twice; leave one out")
        return self
