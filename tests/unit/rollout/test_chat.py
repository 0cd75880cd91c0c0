"""Chat templates of the families that people train: how a turn calls a tool, and what the model reads after it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rftfm_ray.errors import ModelError
from rftfm_ray.plugins import packed
from rftfm_ray.rollout.chat import ChatTemplate
from rftfm_ray.tasks.tools.formats import JsonCalls

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up", "description": "Looks a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}  # fmt: skip
USER = [{"role": "user", "content": "What is a newt?"}]

CHATML_CALLS = (
    "{% if tools %}<|im_start|>system\nTools:{% for t in tools %}\n{{ t | tojson }}{% endfor %}\n"
    'Call with <tool_call>{"name": <name>, "arguments": <arguments>}</tool_call><|im_end|>\n{% endif %}'
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}"
    "{% if loop.previtem.role != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' }}"
    "THOUGHT{{ m.content }}"
    "{% for c in m.tool_calls %}{% if m.content or not loop.first %}{{ '\n' }}{% endif %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = ChatTemplate("m", CHATML_CALLS.replace("THOUGHT", ""), {}, ("<|im_end|>", "<|endoftext|>"), (TOOL,))
THINKING = ChatTemplate(
    "m",
    CHATML_CALLS.replace(
        "THOUGHT", "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    ),
    {}, ("<|im_end|>",), (TOOL,),
)  # fmt: skip
PREFILLED = ChatTemplate(
    "m", CHATML_CALLS.replace("THOUGHT", "").replace("assistant\n{% endif", "assistant\n<think>\n{% endif"),
    {}, ("<|im_end|>",), (TOOL,),
)  # fmt: skip
LLAMA = ChatTemplate(
    "m",
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}"
    "<|end_header_id|>\n\n"
    "{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    '{"name": "{{ m.tool_calls[0].function.name }}", '
    '"parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    "{% elif m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    {"bos_token": "<|begin|>"},
    ("<|eot_id|>",),
    (TOOL,),
)
MISTRAL = ChatTemplate(
    "m",
    "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}{{ raise_exception('id') }}{% endif %}"
    '[TOOL_RESULTS] {"content": {{ m.content | tojson }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}"
    '{{ ", " if not loop.first }}{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, '
    '"id": "{{ c.id }}"}{% endfor %}]{{ eos_token }}{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}',
    {"bos_token": "<s>", "eos_token": "</s>"},
    ("</s>",),
    (TOOL,),
)
PLAIN = ChatTemplate(
    "m",
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    {}, ("<|im_end|>",), (TOOL,),
)  # fmt: skip
TEXT_CALLS = ChatTemplate(
    "m",
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls %}<call {{ c.function.name }}"
    "{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}>{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}",
    {}, ("</s>",), (TOOL,),
)  # fmt: skip
QWEN_RESULTS = "\n<tool_response>\nA\n</tool_response>\n<tool_response>\nB\n</tool_response>"
FAMILIES = {"qwen": QWEN, "thinking": THINKING, "prefilled": PREFILLED, "llama": LLAMA, "mistral": MISTRAL}


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen", JsonCalls("<tool_call>")), ("thinking", JsonCalls("<tool_call>")),
        ("prefilled", JsonCalls("<tool_call>")), ("llama", JsonCalls("", arguments="parameters")),
        ("mistral", JsonCalls("[TOOL_CALLS]")),
    ],
)  # fmt: skip
def test_how_a_turn_calls_a_tool_follows_from_the_template(family: str, expected: JsonCalls) -> None:
    assert FAMILIES[family].calls() == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_as_the_template_writes_it_is_read(family: str) -> None:
    template = FAMILIES[family]
    function = {"name": "look_up", "arguments": {"word": 'a "newt"'}}
    call = {"id": "call00000", "type": "function", "function": function}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    whole = template._rendered([*USER, turn], "", answers=False)
    said = whole[len(template.prompt(USER)) if family != "prefilled" else len(QWEN.prompt(USER)) :]
    for end in template.ends:
        said = said.partition(end)[0]
    (request,) = template.calls().requests(said)
    assert (request.name, request.arguments, request.problem) == ("look_up", {"word": 'a "newt"'}, "")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (QWEN, "\n<|im_start|>user" + QWEN_RESULTS + "<|im_end|>\n<|im_start|>assistant\n"),
        (MISTRAL, "".join(f'[TOOL_RESULTS] {{"content": "{x}", "call_id": "call00000"}}[/TOOL_RESULTS]' for x in "AB")),
        (PLAIN, "\n<|im_start|>tool\nA<|im_end|>\n<|im_start|>tool\nB<|im_end|>\n<|im_start|>assistant\n"),
        (TEXT_CALLS, "[tool]A</s>[tool]B</s>[assistant]"),
    ],
)
def test_what_the_model_reads_begins_behind_its_own_end_token(template: ChatTemplate, expected: str) -> None:
    results = [("look_up", "A"), ("look_up", "B")]
    assert template.results(results, closes=False) == expected
    assert packed(template)().results(results, closes=True) == template.ends[0] + expected


def test_a_result_is_written_as_the_template_writes_it() -> None:
    header = "<|start_header_id|>ipython<|end_header_id|>\n\n"
    after = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    read = LLAMA.results([("look_up", 'a "newt"\n')], closes=False)
    assert read == header + json.dumps('a "newt"\n') + after


def test_turns_as_they_are_played_are_the_conversation_as_the_template_writes_it() -> None:
    call = {"id": "call00000", "type": "function", "function": {"name": "look_up", "arguments": {"word": "newt"}}}
    messages: list[dict[str, Any]] = [
        *USER, {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "look_up", "content": "An animal."},
    ]  # fmt: skip
    turn = '<tool_call>\n{"name": "look_up", "arguments": {"word": "newt"}}\n</tool_call><|im_end|>'
    played = QWEN.prompt(USER) + turn + QWEN.results([("look_up", "An animal.")], closes=False)
    assert played == QWEN.prompt(messages)


def test_a_template_that_writes_no_call_as_json_is_refused_with_the_way_out() -> None:
    for template in (TEXT_CALLS, PLAIN):
        with pytest.raises(ModelError, match=r"writes no call of a tool as JSON; set tools.calls to vllm:PARSER or"):
            template.calls()


def test_a_template_that_ends_no_turn_is_refused_with_the_way_out() -> None:
    endless = ChatTemplate("m", "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", {}, ("</s>",))
    with pytest.raises(ModelError, match=r"does not end a turn with an end token.*set tools.result"):
        endless.results([("look_up", "A")], closes=False)


def test_a_template_that_refuses_tools_is_refused_in_its_own_words() -> None:
    shy = ChatTemplate(
        "m",
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
        "{{ m.content }}</s>{% endfor %}",
        {}, ("</s>",),
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"refuses the result of a tool \(no tools here\)"):
        shy.results([("look_up", "A")], closes=False)
