"""A data set as problems: forms, what is left out, what is held out, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rftfm_ray.config import DataConfig
from rftfm_ray.data.forms import Form
from rftfm_ray.data.loading import LoadedData, load_data, load_eval
from rftfm_ray.errors import DataError


def render(messages: Sequence[Mapping[str, str]]) -> str:
    """A chat template."""
    return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


def loaded(tmp_path: Path, rows: Sequence[Mapping[str, Any]], longest: int = 100, **keys: Any) -> LoadedData:
    """Load rows from a file; prompts beyond `longest` characters leave no room."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return load_data(DataConfig(train=str(path), **keys), render, lambda prompt: len(prompt) <= longest)


def sums(count: int) -> list[dict[str, Any]]:
    """Rows of a plain form."""
    return [{"prompt": f"{number}+1=", "answer": number + 1} for number in range(count)]


def test_columns_of_usual_names_are_found_and_answers_are_text(tmp_path: Path) -> None:
    data = loaded(tmp_path, [{"question": f"q{n}", "solution": n, "level": 3} for n in range(40)])
    assert (data.columns.form, data.columns.prompt, data.columns.answer) == (Form.COLUMNS, "question", "solution")
    problem = next(problem for problem in data.train if problem.prompt == "q1" or problem.prompt == "q2")
    assert problem.answer == problem.prompt[1:]
    assert problem.columns["level"] == 3


def test_rows_of_verl_have_their_answer_in_reward_model_and_their_prompt_in_the_chat_template(tmp_path: Path) -> None:
    rows = [
        {
            "data_source": "gsm8k", "prompt": [{"role": "user", "content": f"q{n}"}],
            "reward_model": {"style": "rule", "ground_truth": str(n)}, "extra_info": {"index": n},
        }
        for n in range(40)
    ]  # fmt: skip
    data = loaded(tmp_path, rows)
    assert data.columns.form is Form.VERL
    problem = data.train[0]
    assert problem.prompt == f"<user>q{problem.answer}<assistant>"
    assert problem.columns["extra_info"] == {"index": int(problem.answer)}
    assert problem.columns["messages"] == [{"role": "user", "content": f"q{problem.answer}"}]


def test_what_is_held_out_follows_from_the_prompt_alone(tmp_path: Path) -> None:
    few, many = loaded(tmp_path, sums(100)), loaded(tmp_path, [*reversed(sums(300))])
    held = {problem.prompt for problem in few.heldout}
    assert 3 <= len(held) <= 25
    assert held < {problem.prompt for problem in many.heldout}
    assert held.isdisjoint(problem.prompt for problem in many.train)
    assert any("are held out" in note for note in few.notes)


def test_rows_that_cannot_be_trained_on_are_left_out_and_counted(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        {"prompt": "", "answer": 1}, {"prompt": None, "answer": 1}, {"prompt": 7, "answer": 1},
        {"prompt": "a", "answer": None},
        {"prompt": [{"role": "user"}], "answer": 1}, {"prompt": [{"role": "robot", "content": "x"}], "answer": 1},
        {"prompt": "x" * 101, "answer": 1}, {"prompt": "1+1=", "answer": 2},
    ]  # fmt: skip
    data = loaded(tmp_path, [*sums(40), *bad])
    assert len(data.train) + len(data.heldout) == 40
    notes = "; ".join(data.notes)
    for clause in (
        "1 row of data.train left out: has an empty prompt (first in row 41)",
        "1 row of data.train left out: has no prompt (first in row 42)",
        "has a prompt that is a int, and neither text nor chat messages (first in row 43)",
        "has no answer (first in row 44)", "has not both a role and a content", "of the role 'robot'",
        "1 of data.train left out: the prompt leaves no room for an answer of data.max_new_tokens",
        "1 of data.train left out: the prompt stood before",
    ):  # fmt: skip
        assert clause in notes


def test_a_data_set_of_which_most_rows_are_bad_is_read_wrongly_and_refused(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "answer": None} for n in range(10)]
    with pytest.raises(DataError, match=r"10 rows of data\.train left out: has no answer .*the keys data\.\*"):
        loaded(tmp_path, rows)
    with pytest.raises(DataError, match="the prompt leaves no room for an answer"):
        loaded(tmp_path, sums(10), longest=1)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.prompt=text is no column; there are answer, prompt\."):
        loaded(tmp_path, sums(10), prompt="text")
    with pytest.raises(DataError, match=r"No column is called prompt; set data\.prompt to one of a, b\."):
        loaded(tmp_path, [{"a": "1", "b": "2"}])


def test_prompts_that_are_trained_on_and_held_out_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(sums(3)[2]))
    with pytest.raises(DataError, match=r"share 1 prompts, for example '2\+1='.*measure memory"):
        loaded(tmp_path, sums(10), heldout=str(other))
    other.write_text(json.dumps({"prompt": "9+9=", "answer": 18}))
    data = loaded(tmp_path, sums(10), heldout=str(other))
    assert [problem.answer for problem in data.heldout] == ["18"]
    assert len(data.train) == 10


def test_too_few_rows_to_hold_some_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"too few to hold out .* give data\.heldout"):
        loaded(tmp_path, sums(2), heldout_share=0.001)


def test_an_answer_that_is_a_list_is_json(tmp_path: Path) -> None:
    data = loaded(tmp_path, [{"prompt": f"q{n}", "answer": [n, "b"]} for n in range(20)])
    assert json.loads(data.train[0].answer)[1] == "b"


def test_a_set_for_evaluations_is_read_like_the_data_set_and_never_trained_on(tmp_path: Path) -> None:
    data, file = loaded(tmp_path, sums(40)), tmp_path / "hard.jsonl"
    rows = [{"prompt": "900+1=", "answer": 901}, {"prompt": "", "answer": 1}, {"prompt": "901+1=", "answer": 902}]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    read, notes = load_eval("hard", str(file), data, render, lambda _: True)
    assert (read.name, [problem.answer for problem in read.problems]) == ("hard", ["901", "902"])
    assert len(notes) == 1
    assert notes[0].startswith("1 row of eval.sets=hard left out")
    file.write_text(json.dumps({"prompt": data.train[0].prompt, "answer": 1}))
    with pytest.raises(
        DataError, match=r"data\.train and eval\.sets=hard=.* share 1 prompts.*an evaluation would measure"
    ):
        load_eval("hard", str(file), data, render, lambda _: True)
