"""The tools that a configuration names: found, described and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.data.tasking import task_of
from rftfm_ray.data.tools import load_tools
from rftfm_ray.errors import ConfigError, ModelError, TaskError
from rftfm_ray.plugins import packed
from rftfm_ray.tasks.api import Problem

TOOLS = '''
def add(expression: str) -> int:
    """Adds.

    Args:
        expression: numbers with plus signs
    """
    return sum(map(int, expression.split("+")))


async def look_up(word: str, most: int = 3) -> list[str]:
    """Looks a word up.

    Args:
        word: the word
        most: entries at most
    """
    return [word] * most


def silent(word: str) -> str:
    return word


def untold(word: str) -> str:
    """Says nothing of its argument."""
    return word

Class = dict
'''
CALLS = ("tools.calls=regex:^c(?P<arguments>[^;]*);$", "tools.result={result};", "tools.stop=;")
REMOTE: dict[str, Any] = {
    "url": ["http://one/x", "http://two/x"],
    "function": {"name": "search", "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows of sums, and tools."""
    rows = [{"prompt": f"{10 + n}+{20 + n}=", "answer": str(30 + 2 * n)} for n in range(70)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tools.py").write_text(TOOLS)
    return tmp_path


def config(folder: Path, *overrides: str) -> RunConfig:
    """A run on rows; the shipped model has 128 positions."""
    rows = [f"data.train={folder / 'rows.jsonl'}", "data.heldout_share=0.4", "reward.functions=[exact]"]
    return load_config(None, [*rows, "data.max_new_tokens=9", *overrides])


def named(folder: Path, *names: str) -> str:
    """The key with functions of the file."""
    return f"tools.functions=[{','.join(f'{folder}/tools.py:{name}' for name in names)}]"


def test_a_function_becomes_the_environment_of_the_rows(folder: Path) -> None:
    configured = task_of(config(folder, named(folder, "add"), *CALLS, "tools.max_turns=3", "tools.max_result=8"))
    task = packed(configured.task)()
    assert (task.max_new_tokens, task.stop, task.asks_at_end) == ((9, 9, 9), ";", False)
    # Prompt, three turns, and two results with their semicolons.
    assert configured.config.rollout.max_model_len == 128
    observation = task.respond(Problem("k", "", ""), 0, "c12+34;")
    assert observation is not None
    assert (observation.text, observation.call.tool) == ("46;", "add")
    assert task.respond(Problem("k", "", ""), 0, "46") is None


def test_functions_are_described_by_type_hints_and_docstrings(folder: Path) -> None:
    add, look_up = load_tools(config(folder, named(folder, "add", "look_up"), *CALLS).tools, 1.0)
    assert (add.name, look_up.name) == ("add", "look_up")
    assert look_up.parameters["required"] == ["word"]
    assert look_up.parameters["properties"]["most"] == {"type": "integer", "description": "entries at most"}
    assert look_up.run({"word": "w"}, 0) == ["w"] * 3


def test_a_server_is_described_by_its_file(folder: Path) -> None:
    (folder / "search.json").write_text(json.dumps(REMOTE))
    (search,) = load_tools(config(folder, f"tools.functions=[{folder}/search.json]", *CALLS).tools, 1.0)
    assert search.name == "search"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("silent", "silent cannot be described to the model .*no docstring.*give it type hints"),
        ("untold", "untold cannot be described to the model .*no description for the argument"),
        ("nobody", "defines no nobody"),
        ("Class", "Class is no function"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(folder: Path, name: str, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        task_of(config(folder, named(folder, name), *CALLS))


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("{", "is not JSON"), ("[]", "has no url"), ('{"url": [], "function": {}}', "an empty list as url"),
        (json.dumps(REMOTE | {"url": "ftp://one"}), "ftp://one is not a URL"),
        (json.dumps(REMOTE | {"function": {"name": "two words"}}), "no function with a name"),
        (json.dumps(REMOTE | {"function": {"name": "a", "parameters": {"type": "array"}}}), "no JSON schema of an obj"),
        (json.dumps(REMOTE | {"function": {"name": "a", "parameters": {"properties": 3}}}), "are no JSON schema"),
    ],
)  # fmt: skip
def test_a_file_that_describes_no_server_is_refused(folder: Path, held: str, said: str) -> None:
    (folder / "search.json").write_text(held)
    with pytest.raises(TaskError, match=said):
        task_of(config(folder, f"tools.functions=[{folder}/search.json]", *CALLS))


def test_what_cannot_be_called_or_ended_is_refused(folder: Path) -> None:
    one = named(folder, "add")
    with pytest.raises(TaskError, match=r"cannot be read \(No such file or directory\)"):
        task_of(config(folder, "tools.functions=[nowhere.json]", *CALLS))
    with pytest.raises(TaskError, match=r"tools.stop=ce is held by no single token"):
        task_of(config(folder, one, *CALLS, "tools.stop=ce"))
    with pytest.raises(ModelError, match="has no chat template that says how tools are called"):
        task_of(config(folder, one))
    (folder / "other.py").write_text(TOOLS)
    with pytest.raises(TaskError, match="has two tools called add"):
        task_of(config(folder, f"tools.functions=[{folder}/tools.py:add,{folder}/other.py:add]", *CALLS))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tools.calls=json", "is neither template nor of the form regex:PATTERN or vllm:PARSER"),
        ("tools.result=x", "does not say where the result stands"),
        ("tools.functions=[a.py:f,a.py:f]", "has a function twice"),
        ("tools.max_turns=1", "greater than or equal to 2"),
    ],
)
def test_keys_that_make_no_sense_are_refused(folder: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(folder, override)


def test_tools_need_rows() -> None:
    with pytest.raises(ConfigError, match=r"are for answers to the rows of data.train, which is not set"):
        load_config(None, ["tools.functions=[a.py:f]"])
