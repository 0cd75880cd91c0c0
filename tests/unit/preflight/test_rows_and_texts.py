"""Checks of the problems and of their texts as tokens: each has a broken input that it finds, and a sound one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rftfm_ray.models import ASSETS
from rftfm_ray.preflight import rows, texts
from rftfm_ray.preflight.asking import Reference
from rftfm_ray.preflight.findings import Checked, Grade, run_checks
from rftfm_ray.preflight.model_files import read_model
from rftfm_ray.preflight.texts import TextFacts, Tokenizer
from rftfm_ray.tasks.api import Problem, Transcript
from rftfm_ray.tasks.calculator import Calculator
from tests.unit.preflight.doubles import finding, names

TINY = ASSETS / "tiny"


def problems(count: int = 20) -> list[Problem]:
    """Distinct sums."""
    return [Problem(str(i), f"{i}+10=", str(i + 10)) for i in range(10, 10 + count)]


def checked_rows(pool: Sequence[Problem], heldout: Sequence[Problem] = ()) -> Checked:
    """The checks of some rows."""
    return run_checks(rows.CHECKS, rows.RowFacts(pool, heldout))


def test_distinct_rows_are_silent() -> None:
    checked = checked_rows(problems(), [Problem("h", "1+1=", "2")])
    assert (checked.findings, checked.not_run) == ((), ())
    assert set(checked.passed) == set(rows.CHECKS)


def test_repeated_prompt_is_counted_with_its_rows() -> None:
    found = finding(checked_rows([*problems(), replace(problems()[3], key="again")]), "rows.repeated")
    assert found.what == "1 of 21 rows of the pool repeat the prompt of another, for example rows 3, 20."


def test_repeated_prompt_with_another_answer_is_said() -> None:
    found = finding(checked_rows([*problems(), replace(problems()[3], key="again", answer="7")]), "rows.repeated")
    assert "1 such prompts have several answers, for example rows 3, 20." in found.what


@pytest.mark.parametrize("twin", ["12 + 10=", "12+10= ", "12+10=\n"])
def test_prompt_that_is_held_out_but_for_blanks_is_found(twin: str) -> None:
    spaced = [replace(problem, prompt=problem.prompt.replace("+", " + ")) for problem in problems()]
    pool = spaced if " + " in twin else problems()
    found = finding(checked_rows(pool, [Problem("h", twin.upper(), "22")]), "rows.shared")
    assert found.what.startswith("1 prompts of the pool are held out too")
    assert "row 2" in found.what


def test_prompts_that_differ_in_capitals_and_answers_are_two_problems() -> None:
    pool = [Problem("a", "spell Bob backward", "boB"), Problem("b", "spell ann backward", "nna")]
    assert checked_rows(pool, [Problem("c", "spell bob backward", "bob")]).findings == ()


def test_empty_prompt_is_critical_and_an_empty_answer_a_warning() -> None:
    pool = problems()
    found = finding(checked_rows([*pool, Problem("e", " \n", "1")]), "rows.blank")
    assert (found.grade, "row 20 " in found.what) == (Grade.CRITICAL, True)
    found = finding(checked_rows([*pool, Problem("e", "x", " ")]), "rows.blank")
    assert found.grade is Grade.WARNING


def test_one_answer_for_nearly_all_rows_is_found_at_its_limit() -> None:
    pool = [replace(problem, answer="yes" if index < 18 else f"no {index}") for index, problem in enumerate(problems())]
    assert "18 of 20 rows" in finding(checked_rows(pool), "rows.one_answer").what
    assert names(checked_rows([replace(pool[0], answer="no"), *pool[1:]])) == set()


@pytest.mark.parametrize(
    ("text", "grade"), [("a\ud800", Grade.CRITICAL), ("a\x00", Grade.WARNING), ("\ufeffa", Grade.WARNING)]
)
def test_characters_that_no_tokenizer_takes_or_nobody_sees_are_found(text: str, grade: Grade) -> None:
    assert finding(checked_rows([*problems(), Problem("c", text, "1")]), "rows.characters").grade is grade


def tokenizer() -> Tokenizer:
    """That of the shipped model: a character a token."""
    read = read_model(TINY, "float32").tokenizer
    assert read is not None
    return read


def references(right: Sequence[str]) -> list[Reference]:
    """References of single-turn answers."""
    return [Reference(row, Transcript((text,))) for row, text in enumerate(right)]


def checked_texts(facts: TextFacts) -> Checked:
    """The checks of texts."""
    return run_checks(texts.CHECKS, facts)


def sound() -> TextFacts:
    """Sums that the shipped model can read and write."""
    pool = problems()
    return TextFacts(tokenizer(), pool, references([p.answer for p in pool]), (5,), 128)


def test_sums_on_the_shipped_model_are_silent() -> None:
    checked = checked_texts(sound())
    assert (checked.findings, checked.not_run) == ((), ())


def test_calculator_episodes_on_the_shipped_model_are_silent() -> None:
    task = Calculator()
    pool = list(task.pool(8, 0))
    made = [
        Reference(row, task.reference(p), (task.reference(p).calls[0].response + ";",)) for row, p in enumerate(pool)
    ]
    assert checked_texts(TextFacts(tokenizer(), pool, made, task.max_new_tokens, 128)).findings == ()


@pytest.mark.parametrize(("limit", "grade"), [(2, Grade.CRITICAL), (3, None)])
def test_answer_needs_room_for_the_token_that_ends_it(limit: int, grade: Grade | None) -> None:
    checked = checked_texts(replace(sound(), limits=(limit,)))
    assert [found.grade for found in checked.findings] == ([] if grade is None else [grade])
    if grade:
        found = finding(checked, "text.limits")
        assert (
            "20 of 20 right answers have more tokens than their turn may have, up to 3 with the one that" in found.what
        )


def test_few_long_answers_are_a_warning() -> None:
    facts = sound()
    long = replace(facts, references=[*facts.references[1:], Reference(0, Transcript(("123456",)))])
    assert finding(checked_texts(long), "text.limits").grade is Grade.WARNING


def test_episode_that_does_not_fit_a_sequence_is_found_at_its_limit() -> None:
    # Six tokens of the prompt, two of the answer, one that ends it.
    assert names(checked_texts(replace(sound(), most_tokens=9))) == set()
    found = finding(checked_texts(replace(sound(), most_tokens=8)), "text.length")
    assert (found.grade, found.key) == (Grade.CRITICAL, "rollout.max_model_len")
    assert "up to 9" in found.what


def test_answer_that_the_tokenizer_cannot_write_is_found() -> None:
    facts = sound()
    found = finding(checked_texts(replace(facts, references=references(["forty"] * 20))), "text.writable")
    assert found.grade is Grade.CRITICAL
    lossy = replace(facts.tokenizer, decode=lambda ids: "lower") if facts.tokenizer else None
    assert "text.writable" in names(checked_texts(replace(facts, tokenizer=lossy)))


def test_end_token_inside_texts_is_found() -> None:
    facts = sound()
    inside = replace(facts, references=references(["7<eos>5"] * 20), limits=(50,))
    assert "text.ends" in names(checked_texts(inside))
    ended = [replace(p, prompt=p.prompt + "<eos>") for p in facts.rows]
    assert "20 of 20 prompts end with" in finding(checked_texts(replace(facts, rows=ended)), "text.ends").what


def with_template(folder: Path, template: str) -> Tokenizer:
    """The shipped tokenizer with a chat template."""
    model = Path(shutil.copytree(TINY, folder / "model"))
    settings = json.loads((model / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    read = read_model(model, "float32").tokenizer
    assert read is not None
    return read


def test_prompts_without_the_models_chat_template_are_found(tmp_path: Path) -> None:
    facts = replace(sound(), tokenizer=with_template(tmp_path, "{{ '<pad>' + message }}"))
    found = finding(checked_texts(facts), "text.template")
    assert found.grade is Grade.WARNING
    assert "such as <pad>." in found.what
    wrapped = [replace(p, prompt=f"<pad>{p.prompt}") for p in facts.rows]
    assert "text.template" not in names(checked_texts(replace(facts, rows=wrapped)))


@pytest.mark.parametrize("missing", ["tokenizer", "references"])
def test_checks_without_their_facts_have_not_run(missing: str) -> None:
    facts = replace(sound(), tokenizer=None) if missing == "tokenizer" else replace(sound(), references=[])
    checked = checked_texts(facts)
    assert checked.findings == ()
    assert {each.check for each in checked.not_run} >= {"text.limits", "text.length", "text.writable"}
