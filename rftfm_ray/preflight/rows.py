"""Checks of the problems: the same prompt twice, prompts in training and held out, answers that a guess would hit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.preflight.findings import Check, Finding, Grade, NotRun, Outcome, listed
from rftfm_ray.tasks.api import Problem

ONE_ANSWER = 0.9
"""Share of the rows with one and the same answer above which guessing it looks like learning."""
MOST_ROWS = 100_000
"""Rows that are looked at; more would take seconds."""


@dataclass(frozen=True, slots=True)
class RowFacts:
    """The problems of a run: those that it trains on, and those that it holds out."""

    pool: Sequence[Problem]
    heldout: Sequence[Problem]


def repeated(facts: RowFacts) -> Outcome:
    """The same prompt stands in several rows of the pool."""
    rows = _rows_by([problem.prompt for problem in facts.pool[:MOST_ROWS]])
    twice = [numbers for numbers in rows.values() if len(numbers) > 1]
    if not twice:
        return None
    torn = [numbers for numbers in twice if len({facts.pool[number].answer for number in numbers}) > 1]
    extra = sum(len(numbers) - 1 for numbers in twice)
    what = f"{extra} of {len(facts.pool)} rows of the pool repeat the prompt of another, {_numbers(twice)}."
    if torn:
        what += f" {len(torn)} such prompts have several answers, {_numbers(torn)}."
        why = "What is right in one row is wrong in the other, so the policy is paid and punished for the same answer."
    else:
        why = "Their groups count several times, and a pass holds fewer problems than task.pool_size says."
    return Finding(Grade.WARNING, what, why, "task.name")


def shared(facts: RowFacts) -> Outcome:
    """Prompts are trained on and held out, but for blanks and capitals; where those matter, answers differ."""
    held = {(_plain(problem.prompt), problem.answer) for problem in facts.heldout[:MOST_ROWS]}
    pool = enumerate(facts.pool[:MOST_ROWS])
    shared_rows = [row for row, problem in pool if (_plain(problem.prompt), problem.answer) in held]
    if not shared_rows:
        return None
    what = (
        f"{len(shared_rows)} prompts of the pool are held out too, but for blanks and capitals, for example those of "
        f"{_rows(shared_rows)}."
    )
    return Finding(Grade.WARNING, what, "Held-out accuracy measures memory as well as learning.", "task.name")


def blank(facts: RowFacts) -> Outcome:
    """Prompts or answers hold nothing but blanks."""
    prompts = [row for row, problem in enumerate(facts.pool) if not problem.prompt.strip()]
    answers = [row for row, problem in enumerate(facts.pool) if not problem.answer.strip()]
    if prompts:
        what = f"The prompt is empty in {_rows(prompts)} of the pool ({len(prompts)} of {len(facts.pool)})."
        return Finding(Grade.CRITICAL, what, "A model cannot answer a prompt without a token.", "task.name")
    if answers:
        what = f"Problem.answer is empty in {_rows(answers)} of the pool ({len(answers)} of {len(facts.pool)})."
        return Finding(Grade.WARNING, what, "Where the verifier compares texts, saying nothing is right.", "task.name")
    return None


def one_answer(facts: RowFacts) -> Outcome:
    """Nearly all rows have the same answer."""
    if len(facts.pool) < 2:
        return NotRun("the pool holds one problem")
    count = Counter(problem.answer for problem in facts.pool).most_common(1)[0][1]
    if count < ONE_ANSWER * len(facts.pool):
        return None
    what = f"{count} of {len(facts.pool)} rows of the pool have the same answer."
    return Finding(Grade.WARNING, what, "Reward and accuracy rise when the policy learns that one text.", "task.name")


def characters(facts: RowFacts) -> Outcome:
    """Prompts hold characters that a tokenizer cannot take, or that a person does not see."""
    broken = [row for row, problem in enumerate(facts.pool) if any("\ud800" <= c <= "\udfff" for c in problem.prompt)]
    if broken:
        what = f"The prompt holds half a surrogate pair in {_rows(broken)} of the pool."
        return Finding(Grade.CRITICAL, what, "It is not valid text, and no tokenizer takes it.", "task.name")
    unseen = [row for row, problem in enumerate(facts.pool) if any(c in UNSEEN for c in problem.prompt)]
    if not unseen:
        return None
    what = f"The prompt holds a zero byte, a byte-order mark or a replacement character in {_rows(unseen)} of the pool."
    return Finding(Grade.WARNING, what, "It was read with the wrong encoding, or is damaged.", "task.name")


UNSEEN = frozenset("\x00\ufeff\ufffd")

CHECKS: Mapping[str, Check[RowFacts]] = {
    "rows.repeated": repeated,
    "rows.shared": shared,
    "rows.blank": blank,
    "rows.one_answer": one_answer,
    "rows.characters": characters,
}


def _rows_by(texts: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        rows.setdefault(text, []).append(number)
    return rows


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _rows(numbers: Sequence[int]) -> str:
    return f"row{'s' if len(numbers) > 1 else ''} {listed([str(number) for number in numbers])}"


def _numbers(groups: Sequence[Sequence[int]]) -> str:
    return f"for example {_rows(groups[0])}"
