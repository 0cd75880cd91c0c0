"""The task that a configuration names, and what its rows decide."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.config.declared import RewardRule
from rftfm_ray.data.tasking import task_of
from rftfm_ray.detection.laws.declaring import declared_course
from rftfm_ray.errors import ConfigError, DataError, ModelError, RewardError, TaskError
from rftfm_ray.models import resolve_model
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.tasks.dataset import DataTask

ROOT = Path(__file__).parents[3]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'nobody' %}{{ raise_exception('who?') }}{% endif %}"
    "[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"
)


def rows(folder: Path, count: int, **more: Any) -> Path:
    """A file of sums."""
    path = folder / "rows.jsonl"
    lines = [{"prompt": f"{10 + n}+{20 + n}=", "answer": str(30 + 2 * n), **more} for n in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def config(*overrides: str) -> RunConfig:
    """A configuration; the shipped model has 128 positions."""
    return load_config(None, ["data.max_new_tokens=5", *overrides])


def test_without_a_data_set_the_task_and_the_configuration_are_as_they_are() -> None:
    asked = config("task.name=addition")
    configured = task_of(asked)
    assert isinstance(configured.task, Addition)
    assert configured.config is asked


def test_the_rows_decide_how_many_are_trained_on_held_out_and_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        configured = task_of(
            config(f"data.train={rows(tmp_path, 70)}", "data.heldout_share=0.4", "reward.functions=[exact]")
        )
    assert isinstance(configured.task, DataTask)
    held = len(configured.task.heldout())
    assert configured.config.task.pool_size == configured.task.size == 70 - held
    # What is known of the generator `addition`, such as what its reward is made of, does not hold for these rows.
    assert configured.config.task.name == "data"
    assert configured.config.probe.size == configured.config.probe.final_size == held
    assert configured.config.rollout.max_model_len == 128, "the shipped prompts are short"
    assert f"{held} of 70 rows are held out" in caplog.text


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        (["reward.functions=[exact]"], RewardRule((("correct_rate", 1.0),), 1.0)),
        (["reward.functions=[numeric]", "reward.weights=[-2]"], RewardRule((("correct_rate", -2.0),), 2.0)),
        (["reward.functions=['regex:a']", "task.reward_scale=10"], RewardRule((("correct_rate", 10.0),), 10.0)),
        (["reward.functions=[exact,numeric]"], None),
        (["reward.functions=[mine.py:score]"], None),
        (["reward.functions=['http://host/score']"], None),
        (["reward.functions=[exact]", "reward.weights=[0]"], None),
    ],
)
def test_reward_of_one_verifier_that_ships_is_declared_and_no_other(keys: list[str], rule: RewardRule | None) -> None:
    # Not that of the generator which `task.name` means where there is no data set.
    ((_, declared),) = declared_course(config("data.train=rows.jsonl", *keys))
    assert declared.reward == rule
    assert declared.turn_per_call


def test_what_the_rows_decide_is_decided_again_alike(tmp_path: Path) -> None:
    asked = config(f"data.train={rows(tmp_path, 200)}", "data.heldout_share=0.2", "reward.functions=[numeric]")
    once = task_of(asked).config
    assert task_of(once).config == once
    assert RunConfig.model_validate(once.model_dump(mode="json")) == once


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        (["data.heldout_share=0.001"], DataError, "too few to hold out"),
        (["data.heldout_share=0.1"], DataError, r"rows are held out, too few to tell an accuracy; hold out 16"),
        (["algorithm.prompts_per_step=60"], DataError, r"fewer than algorithm\.prompts_per_step=60; lower it"),
        (["reward.functions=[]"], TaskError, r"data\.train has no reward"),
        (["data.answer=level"], DataError, r"data\.answer=level is no column; there are answer, prompt"),
        (
            ["data.max_new_tokens=600"],
            DataError,
            r"70 of data\.train left out: the prompt leaves no room for an answer",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_said_before_anything_starts(
    tmp_path: Path, overrides: list[str], error: type[Exception], said: str
) -> None:
    base = [f"data.train={rows(tmp_path, 70)}", "data.heldout_share=0.4", "reward.functions=[exact]"]
    with pytest.raises(error, match=said):
        task_of(config(*base, *overrides))


def test_a_verifier_that_compares_needs_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"{n}"}) for n in range(100)))
    with pytest.raises(DataError, match=r"compares with a right answer, and data\.train=.* has no column of one"):
        task_of(config(f"data.train={path}", "reward.functions=[numeric]"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["reward.functions=[exact]"], r"grades answers to the rows of data\.train, which is not set"),
        (["data.train=x", "reward.functions=[exact]", "reward.weights=[1,2]"], "has 2 factors for 1 functions"),
        (["data.train=x", "reward.functions=[exact,exact]"], "has a function twice"),
        (["data.train=x", "data.heldout_share=1"], r"data\.heldout_share=1"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(*overrides)


def test_a_data_set_may_be_smaller_or_larger_than_the_pool_of_a_generator(tmp_path: Path) -> None:
    asked = config("data.train=x", "reward.functions=[exact]", "algorithm.prompts_per_step=300")
    assert asked.algorithm.prompts_per_step > asked.task.pool_size


@pytest.fixture
def chatty(tmp_path: Path) -> Path:
    """A model whose tokenizer has a chat template."""
    folder = tmp_path / "chatty"
    shutil.copytree(resolve_model("builtin:tiny"), folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
    return folder


def test_chat_messages_get_the_template_of_the_tokenizer(tmp_path: Path, chatty: Path) -> None:
    assert TextCodec(str(chatty)).chat([{"role": "user", "content": "1+1="}]) == "[user]1+1=[assistant]"
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": [{"role": "user", "content": f"{n}"}], "answer": f"{n}"} for n in range(100)]
    path.write_text("\n".join(map(json.dumps, lines)))
    asked = [f"data.train={path}", "data.heldout_share=0.4", "reward.functions=[exact]"]
    task = task_of(config(*asked, f"model.path={chatty}")).task
    assert task.heldout()[0].prompt == f"[user]{task.heldout()[0].answer}[assistant]"
    with pytest.raises(ModelError, match="has no chat template; add one to it, or give prompts as text"):
        task_of(config(*asked))


def test_a_template_that_refuses_messages_is_one_sentence(chatty: Path) -> None:
    with pytest.raises(ModelError, match="refuses a prompt"):
        TextCodec(str(chatty)).chat([{"role": "nobody", "content": "1"}])


@pytest.mark.parametrize("name", ["right", "brief", "compute_score"])
def test_the_example_of_the_readme_can_be_called(tmp_path: Path, name: str) -> None:
    function = f"{ROOT / 'examples' / 'custom_reward.py'}:{name}"
    asked = [f"data.train={rows(tmp_path, 70)}", "data.heldout_share=0.4", f"reward.functions=[{function}]"]
    assert isinstance(task_of(config(*asked)).task, DataTask)


FUNCTION = """
def marked(completions, answer, **_):
    return [float(c.endswith(f"#### {a}")) if c else 0.5 for c, a in zip(completions, answer)]
"""


def test_a_solution_gives_the_guard_known_answers_to_functions_of_the_users(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine.py").write_text(FUNCTION)
    keys = (
        f"data.train={rows(tmp_path, 70)}",
        "data.heldout_share=0.4",
        f"reward.functions=[{tmp_path}/mine.py:marked]",
    )
    with caplog.at_level(logging.WARNING):
        assert not task_of(config(*keys)).task.knows_references
        assert "data.solution gives it some" in caplog.text
        caplog.clear()
        task = task_of(config(*keys, "data.solution=so #### {answer}")).task
        assert "data.solution" not in caplog.text
    problem = task.heldout()[0]
    assert task.knows_references
    assert task.reference(problem).turns == (f"so #### {problem.answer}",)
    assert task.verify(problem, task.reference(problem)) == Verdict(1.0, correct=True)
    with pytest.raises(ConfigError, match="does not say where the answer stands"):
        config("data.solution=####")
    (tmp_path / "bare.jsonl").write_text("\n".join(json.dumps({"prompt": f"{n}?"}) for n in range(70)))
    with pytest.raises(DataError, match=r"data.solution=\{answer\} agrees with a right answer.*has no column of one"):
        task_of(config(f"data.train={tmp_path}/bare.jsonl", *keys[1:], "data.solution={answer}"))


def test_a_verifier_says_what_is_right_whatever_the_functions_pay(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FUNCTION)
    keys = (
        f"data.train={rows(tmp_path, 70)}",
        "data.heldout_share=0.4",
        f"reward.functions=[{tmp_path}/mine.py:marked]",
    )
    task = task_of(config(*keys, "reward.verifier=numeric")).task
    problem = task.heldout()[0]
    assert task.verify(problem, Transcript((problem.answer,))) == Verdict(0.0, correct=True)
    assert task.verify(problem, Transcript(("",))) == Verdict(0.5, correct=False)
    # What a verifier cannot judge is masked, whatever the functions say.
    with pytest.raises(RewardError, match="holds no number"):
        task.verify(Problem("k", "?", "none", {"answer": "none"}), Transcript(("1",)))
    for verifier, said in (
        ("exakt", r"reward.verifier=exakt is no verifier that ships"),
        ("regex:(", "reward.verifier=reg"),
    ):
        with pytest.raises(TaskError, match=said):
            task_of(config(*keys, f"reward.verifier='{verifier}'"))


def test_a_verifier_that_is_paid_by_too_is_asked_once_and_relations_go_by_it(tmp_path: Path) -> None:
    keys = (f"data.train={rows(tmp_path, 70)}", "data.heldout_share=0.4")
    both = task_of(config(*keys, "reward.functions=[numeric,exact]", "reward.verifier=exact")).task
    problem = both.heldout()[0]
    assert both.verify(problem, Transcript((f"{problem.answer}.0",))) == Verdict(1.0, correct=False)
    assert len(both.verify(problem, Transcript((problem.answer,))).parts) == 2
    ((_, other),) = declared_course(config(*keys, "reward.functions=[numeric]", "reward.verifier=exact"))
    ((_, same),) = declared_course(config(*keys, "reward.functions=[numeric]", "reward.verifier=numeric"))
    assert other.reward is None
    assert same.reward == RewardRule((("correct_rate", 1.0),), 1.0)
