"""Calls as vLLM's tool parsers read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rftfm_ray.errors import ModelError, TaskError
from rftfm_ray.plugins import packed
from rftfm_ray.rollout.served_calls import ServedCalls
from rftfm_ray.tasks.tools.tool import ToolRequest

SCHEMA = {
    "type": "function",
    "function": {
        "name": "look_up", "description": "-",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}, "most": {"type": "integer"}}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<eos>", "<tool_call>", "</tool_call>"]
    raw = Tokenizer(models.BPE({token: index for index, token in enumerate([*special, *alphabet])}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    folder: Path = tmp_path_factory.mktemp("bytes")
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", extra_special_tokens=special[1:]).save_pretrained(
        folder
    )
    return str(folder)


def test_a_parser_reads_the_calls_of_a_turn_and_travels(model: str) -> None:
    reader = packed(ServedCalls("hermes", model, [SCHEMA]))()
    turn = 'so <tool_call>{"name": "look_up", "arguments": {"word": "newt", "most": 2}}</tool_call>'
    assert list(reader.requests(turn)) == [ToolRequest("look_up", {"word": "newt", "most": 2})]
    assert list(reader.requests("A newt is an animal.")) == []
    # What the parser cannot read is an answer to it.
    assert list(reader.requests("<tool_call>look_up(newt)</tool_call>")) == []


def test_a_format_that_is_no_json_is_read_with_the_types_of_the_schema(model: str) -> None:
    reader = ServedCalls("qwen3_coder", model, [SCHEMA])
    turn = (
        "<tool_call>\n<function=look_up>\n<parameter=word>\nnewt\n</parameter>\n<parameter=most>\n2\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    assert list(reader.requests(turn)) == [ToolRequest("look_up", {"word": "newt", "most": 2})]


def test_a_parser_that_there_is_not_and_one_of_another_model_are_refused(model: str) -> None:
    with pytest.raises(TaskError, match=r"tools.calls=vllm:hermess is no tool parser of vLLM; use one of .*hermes"):
        ServedCalls("hermess", model, [SCHEMA])
    with pytest.raises(ModelError, match=r"tools.calls=vllm:hermes does not take the tokenizer of /nowhere"):
        ServedCalls("hermes", "/nowhere", [SCHEMA])
