"""Tools: how turns call them, what the model reads, and whose doing a failure is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.errors import TaskError, ToolError
from rftfm_ray.plugins import packed
from rftfm_ray.tasks.api import Observation, Problem, ToolCall, ToolStatus, Transcript
from rftfm_ray.tasks.dataset import DataTask, Turns
from rftfm_ray.tasks.reward_functions import Graded, RewardPart, Row, lists_of
from rftfm_ray.tasks.tools.formats import JsonCalls, RegexCalls
from rftfm_ray.tasks.tools.remote import remote_tool
from rftfm_ray.tasks.tools.tool import MOST_CALLS, Tool, ToolBox, ToolRequest, function_tool, messages_of
from tests.servers import Answer, Server

PROBLEM = Problem("k", "2*3?", "6")


def schema(name: str, **types: str) -> Mapping[str, Any]:
    """A function whose arguments are all needed."""
    properties = {key: {"type": kind} for key, kind in types.items()}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": "-", "parameters": parameters}}


def product(a: float, b: float) -> float:
    """Of two numbers."""
    return a * b


async def later(text: str) -> dict[str, str]:
    """An async one."""
    return {"said": text}


def strict(number: int) -> float:
    """One that refuses and fails."""
    if number < 0:
        raise ValueError("give a number that is not negative")
    if number == 7:
        raise json.JSONDecodeError("what a library says of its own trouble", "", 0)
    if number == 8:
        raise ConnectionError("gone")
    return 1 / number


PRODUCT = function_tool(schema("product", a="number", b="number"), product)
LATER = function_tool(schema("later", text="string"), later)
STRICT = function_tool(schema("strict", number="integer"), strict)
HERMES = JsonCalls("<tool_call>")


def written(results: Sequence[tuple[str, str]]) -> str:
    """Results as a model reads them."""
    return "".join(f"[{name}: {text}]" for name, text in results)


def box(*tools: Tool, reader: Any = HERMES, longest: int = 100) -> ToolBox:
    """The tools of a run."""
    return ToolBox(tools or (PRODUCT, LATER, STRICT), reader, written, longest)


def calls(*requests: tuple[str, Mapping[str, Any]]) -> str:
    """A turn with calls."""
    return "so " + "\n".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
        for name, arguments in requests
    )


def read(turn: str, **more: Any) -> Observation:
    """What the model reads after a turn that calls."""
    observation = box(**more).respond(0, turn)
    assert observation is not None
    return observation


def test_a_turn_without_a_call_is_an_answer() -> None:
    assert box().respond(0, "It is 6.") is None


def test_calls_of_a_turn_are_made_in_order_and_are_one_call_of_the_episode() -> None:
    observation = read(calls(("product", {"a": 2, "b": 3.5}), ("later", {"text": "hé"})))
    assert observation.text == '[product: 7.0][later: {"said": "hé"}]'
    call = observation.call
    assert (call.turn, call.tool, call.status) == (0, "product+later", ToolStatus.OK)
    assert call.response == '7.0\n{"said": "hé"}'
    assert json.loads(call.request) == [
        {"name": "product", "arguments": {"a": 2, "b": 3.5}}, {"name": "later", "arguments": {"text": "hé"}},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (calls(("product", {"a": 2})), "Error: 'b' is a required property"),
        (calls(("product", {"a": "two", "b": 3})), "Error: 'two' is not of type 'number'"),
        (calls(("quotient", {})), "Error: there is no tool quotient; use product, later, strict"),
        ("<tool_call>{'name': 'product'}</tool_call>", "Error: the call is not JSON"),
        ('<tool_call>{"arguments": {}}</tool_call>', "Error: the call has no name"),
        ("<tool_call>[3]</tool_call>", "Error: the call has no name"),
        ('<tool_call>{"name": "later", "arguments": [1]}', "Error: the arguments of the call are no JSON object"),
        ('<tool_call>{"name": "later", "arguments": "{"}', "Error: the arguments of the call are no JSON object"),
        (calls(("strict", {"number": -1})), "Error: give a number that is not negative"),
        (calls(("strict", {"number": 0})), "Error: division by zero"),
        ("<tool_call>", "Error: the call is not JSON"),
        ("<tool_call>" + "[" * 100_000, "Error: the call is not JSON"),
    ],
)
def test_a_call_that_makes_no_sense_is_the_models_doing_and_it_reads_why(turn: str, said: str) -> None:
    observation = read(turn)
    assert observation.call.status is ToolStatus.UNPARSABLE
    assert said in observation.text


@pytest.mark.parametrize(("number", "raised"), [(7, json.JSONDecodeError), (8, ConnectionError)])
def test_what_a_function_fails_with_is_not_read_by_the_model(number: int, raised: type[Exception]) -> None:
    with pytest.raises(raised):
        read(calls(("strict", {"number": number})))


def test_a_long_result_is_cut_and_the_model_is_told() -> None:
    assert read(calls(("later", {"text": "x" * 50})), longest=20).text == (
        '[later: {"said": "xxxxxxxxxx... (42 characters left out)]'
    )


def test_a_turn_makes_so_many_calls_and_no_more() -> None:
    observation = read(calls(*[("product", {"a": 1, "b": n}) for n in range(MOST_CALLS + 2)]))
    assert observation.text.count("[product: Error: this call was not made; one turn may make 8]") == 2
    assert observation.text.count("[product: ") == MOST_CALLS + 2


def test_json_without_a_mark_is_a_call_only_where_it_is_all_and_names_one() -> None:
    llama = JsonCalls("", arguments="parameters")
    turn = ' {"name": "product", "parameters": {"a": 2, "b": 3}} '
    assert llama.requests(turn) == [ToolRequest("product", {"a": 2, "b": 3})]
    for answer in (turn + ".", '{"answer": 6}', "[1, 2]", "6", ""):
        assert not llama.requests(answer)


def test_calls_in_a_list_and_inside_another_object_are_read() -> None:
    mistral = JsonCalls("[TOOL_CALLS]")
    turn = '[TOOL_CALLS] [{"name": "a", "arguments": {}}, {"name": "b", "arguments": "{\\"x\\": 1}"}]'
    assert mistral.requests(turn) == [ToolRequest("a", {}), ToolRequest("b", {"x": 1})]
    nested = JsonCalls("<call>", inside="function")
    assert nested.requests('<call>{"function": {"name": "a", "arguments": {}}}') == [ToolRequest("a", {})]


@given(st.text(alphabet='<tool_call>{}[]",:name arguments0', max_size=60))
def test_no_turn_of_a_model_breaks_the_reader(text: str) -> None:
    for request in [*HERMES.requests(text), *JsonCalls("").requests(text)]:
        assert isinstance(request, ToolRequest)


def test_a_pattern_says_where_name_and_arguments_stand() -> None:
    reader = RegexCalls(r"(?P<name>\w+)\((?P<arguments>.*?)\)", (PRODUCT, LATER, STRICT))
    turn = 'product({"a": 1, "b": 2}) later( a word ) strict(12) product(1, 2)'
    assert list(reader.requests(turn)) == [
        ToolRequest("product", {"a": 1, "b": 2}), ToolRequest("later", {"text": "a word"}),
        ToolRequest("strict", {"number": 12}),
        ToolRequest("product", {}, "the arguments of the call are no JSON object"),
    ]  # fmt: skip


def test_a_pattern_without_a_name_calls_the_only_tool() -> None:
    reader = RegexCalls(r"^c(?P<arguments>[^;]*);$", (LATER,))
    assert list(reader.requests("c1+2;")) == [ToolRequest("later", {"text": "1+2"})]
    assert list(reader.requests("c12;")) == [ToolRequest("later", {"text": "12"})]
    # An object with the parameter itself is what it says.
    assert list(reader.requests('c{"text": "12"};')) == [ToolRequest("later", {"text": "12"})]
    assert not list(reader.requests("3"))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "tools.calls=regex:\\( is no regular expression"),
        ("c(.*)", "put them in a group"),
        ("c(?P<arguments>.*)", "put its name in a group"),
    ],
)
def test_a_pattern_that_lacks_something_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        RegexCalls(pattern, (PRODUCT, LATER))


def served(answer: Answer, serve: Callable[[Answer], Server]) -> ToolBox:
    """Two servers, of which the first does not answer."""
    urls = [serve(lambda _: (503, b"")).url, serve(answer).url]
    return box(remote_tool(schema("search", query="string"), urls, 0.5))


SEARCH = calls(("search", {"query": "q"}))


def test_another_instance_asks_the_server_that_stands_in(serve: Callable[[Answer], Server]) -> None:
    asked: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        asked.append(body)
        return 200, b'{"result": ["a", 1]}'

    tools = served(answer, serve)
    with pytest.raises(ToolError, match=r"Tool server http://127.0.0.1:\d+: it answered 503"):
        tools.respond(0, SEARCH)
    second = packed(tools.instance(1))()
    observation = second.respond(0, SEARCH)
    assert observation is not None
    assert observation.text == '[search: ["a", 1]]'
    assert asked == [{"name": "search", "arguments": {"query": "q"}}]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [(400, b'{"error": "too short"}', "too short"), (422, b"<html>", "the call is invalid"), (400, b"[1]", "invalid")],
)
def test_a_server_may_blame_the_call(
    serve: Callable[[Answer], Server], status: int, body: bytes, said: str
) -> None:  # fmt: skip
    observation = served(lambda _: (status, body), serve).instance(1).respond(0, SEARCH)
    assert observation is not None
    assert observation.call.status is ToolStatus.UNPARSABLE
    assert said in observation.text


@pytest.mark.parametrize(
    ("answer", "raised", "said"),
    [
        ((500, b""), ToolError, "it answered 500"), ((302, b""), ToolError, "it answered 302"),
        ((200, b"{"), ToolError, "no JSON"), ((200, b"[]"), ToolError, "has no result"),
        ((200, b'{"error": "x"}'), ToolError, "has no result"), (None, TimeoutError, r"no answer within 0\.5 s"),
    ],
)  # fmt: skip
def test_what_a_server_fails_with_is_no_result(
    serve: Callable[[Answer], Server], answer: tuple[int, bytes] | None, raised: type[Exception], said: str
) -> None:
    with pytest.raises(raised, match=said):
        served(lambda _: answer, serve).instance(1).respond(0, SEARCH)


def test_a_server_that_is_not_there_is_a_failure() -> None:
    tools = box(remote_tool(schema("search", query="string"), ["http://127.0.0.1:9/x"], 0.5))
    with pytest.raises(ToolError, match="it cannot be reached"):
        tools.respond(0, SEARCH)


def conversing(given: list[list[Row]]) -> RewardPart:
    """A reward function that keeps what it is given."""

    def grade(rows: Sequence[Row]) -> list[Graded]:
        given.append(list(rows))
        return [Graded(1.0) for _ in rows]

    return RewardPart("keeps", 1.0, grade)


def test_a_reward_function_gets_the_last_turn_and_the_whole_conversation() -> None:
    given: list[list[Row]] = []
    task = DataTask([PROBLEM], [PROBLEM], [conversing(given)], turns=Turns(9, 3, box()))
    assert (task.max_new_tokens, task.stop, task.asks_at_end) == ((9, 9, 9), "", True)
    turn = calls(("product", {"a": 2, "b": 3}))
    observation = task.respond(PROBLEM, 0, turn)
    assert observation is not None
    task.verify(PROBLEM, Transcript((turn, "6"), (observation.call,)))
    (row,) = given[0]
    assert row.answer == "6"
    (completion,) = lists_of([row])["completions"]
    function = {"name": "product", "arguments": {"a": 2, "b": 3}}
    assert completion == [
        {"role": "assistant", "content": turn, "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "name": "product", "content": "6"},
        {"role": "assistant", "content": "6"},
    ]


def test_a_call_that_failed_stands_in_the_conversation_without_arguments() -> None:
    # As the rollout keeps a call that its tool gave no answer to.
    call = ToolCall(0, "data", "c;", "ToolError", ToolStatus.ERROR)
    assert messages_of(Transcript(("c;",), (call,))) == [
        {
            "role": "assistant", "content": "c;",
            "tool_calls": [{"type": "function", "function": {"name": "data", "arguments": {}}}],
        },
        {"role": "tool", "name": "data", "content": "ToolError"},
    ]  # fmt: skip


def test_without_tools_there_is_one_turn_and_no_environment() -> None:
    task = DataTask([PROBLEM], [PROBLEM], [conversing([])])
    assert (len(task.max_new_tokens), task.asks_at_end, task.respond(PROBLEM, 0, SEARCH)) == (1, False, None)
    stopped = DataTask([PROBLEM], [PROBLEM], [conversing([])], turns=Turns(9, 2, box(), ";"))
    assert (stopped.stop, stopped.asks_at_end) == (";", False)
