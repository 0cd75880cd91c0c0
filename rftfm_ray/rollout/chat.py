"""A model's chat template: prompts, how its turns call tools, and how it reads what they give."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rftfm_ray.errors import ModelError, one_line
from rftfm_ray.tasks.tools.formats import JsonCalls

# What stands for a name, a key and a value in a call that the template writes, to see how it writes one.
NAME, KEY, VALUE = "name7f3a", "key7f3a", "value7f3a"
CALL_ID = "call00000"
"""Nine letters and digits, as Mistral's templates want them."""
_USER = {"role": "user", "content": "-"}
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The template of a tokenizer.

    Attributes:
        source: where it comes from, for messages.
        text: of the template, in Jinja.
        special: special tokens by the names that templates know them by.
        ends: texts of the tokens that end a turn.
        tools: schemas of the tools that prompts tell of.
    """

    source: str
    text: str
    special: Mapping[str, Any]
    ends: tuple[str, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Chat messages as one text, up to where the answer begins.

        Raises:
            ModelError: when the template refuses them.
        """
        return self._rendered(messages, "a prompt")

    def calls(self) -> JsonCalls:
        """How a turn calls a tool.

        Raises:
            ModelError: when the template does not write calls as JSON.
        """
        rendered = self._rendered([_USER, _calling(1)], "a call of a tool", answers=False)
        for start in (match.start() for match in re.finditer(r"[\[{]", rendered)):
            try:
                value, _ = _DECODER.raw_decode(rendered[start:])
            except ValueError:
                continue
            keys = _keys(value[0] if isinstance(value, list) and value else value)
            if keys is not None:
                return JsonCalls(self._mark(rendered[:start]), *keys)
        raise ModelError(
            f"The chat template of {self.source} writes no call of a tool as JSON; set tools.calls to vllm:PARSER or "
            "regex:PATTERN, as the model calls one."
        )

    def results(self, results: Sequence[tuple[str, str]], *, closes: bool) -> str:
        """What the model reads after a turn that has called tools, up to where its next turn begins.

        Args:
            results: name of the tool, and what it gave, for each call.
            closes: whether the model has not ended its turn, so that the template's end of a turn comes first.

        Raises:
            ModelError: when the template does not know tools, or does not end a turn with an end token.
        """
        said = [
            {"role": "tool", "name": name, "tool_call_id": CALL_ID, "content": content} for name, content in results
        ]
        rendered = self._called([_USER, _calling(len(results)), *said]) or self._rendered(
            # A template without a form for calls may well have one for what they give.
            [_USER, {"role": "assistant", "content": VALUE}, *said], "the result of a tool",
        )  # fmt: skip
        start = rendered.find(VALUE)
        ends = [(found, len(end)) for end in self.ends if (found := rendered.find(end, start)) >= 0]
        if start < 0 or not ends:
            raise ModelError(
                f"The chat template of {self.source} does not end a turn with an end token of the model; set "
                "tools.result to what it is to read after a call."
            )
        first, length = min(ends)
        return rendered[first if closes else first + length :]

    def _called(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text where the template writes calls; empty where it leaves them out or refuses them."""
        try:
            rendered = self._rendered(messages, "")
        except ModelError:
            return ""
        return rendered if VALUE in rendered else ""

    def _mark(self, before: str) -> str:
        """What stands directly before a call, in the model's own turn."""
        header = self._rendered([_USER], "a prompt")
        if not before.startswith(header):
            # Some templates begin the answer with an empty thought.
            pairs = zip(before, header, strict=False)
            same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            header = re.sub(r"[^\s>\]]*$", "", header[:same])
        words = _THOUGHT.sub("", before[len(header) :]).split()
        return words[-1] if words else ""

    def _rendered(self, messages: Sequence[Mapping[str, Any]], what: str, *, answers: bool = True) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            (text,), _ = render_jinja_template(
                conversations=[list(messages)], tools=[dict(tool) for tool in self.tools] or None,
                chat_template=self.text, add_generation_prompt=answers, **self.special,
            )  # fmt: skip
        except Exception as error:  # a template may raise anything
            raise ModelError(
                f"The chat template of {self.source} refuses {what} ({one_line(error)}); correct the "
                "messages, or the template."
            ) from error
        return str(text)


def _calling(count: int) -> Mapping[str, Any]:
    """A turn that calls a tool so many times."""
    function = {"name": NAME, "arguments": {KEY: VALUE}}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": CALL_ID, "type": "function", "function": function} for _ in range(count)],
    }


def _keys(value: Any) -> tuple[str, str, str] | None:
    """Keys of the name, of the arguments, and of the object that holds both, where a value is the call."""
    if not isinstance(value, dict):
        return None
    name = next((key for key, held in value.items() if held == NAME), "")
    arguments = next((key for key, held in value.items() if _holds_argument(held)), "")
    if name and arguments:
        return name, arguments, ""
    for key, held in value.items():
        keys = _keys(held)
        if keys is not None and not keys[2]:
            return keys[0], keys[1], key
    return None


def _holds_argument(held: Any) -> bool:
    if isinstance(held, str):
        try:
            held = json.loads(held)
        except ValueError:
            return False
    return bool(held == {KEY: VALUE})
