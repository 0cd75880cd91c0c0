"""Checks of texts as tokens: limits, end of sequence, chat template, and answers that the tokenizer cannot write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rftfm_ray.preflight.asking import Reference
from rftfm_ray.preflight.findings import Check, Finding, Grade, NotRun, Outcome
from rftfm_ray.tasks.api import Problem

MOSTLY = 0.5
"""Share of the answers above which a limit makes the run worthless: most groups hold no right answer."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What the files of a tokenizer say.

    Attributes:
        encode: ids of a text, without special tokens around it.
        decode: the text of ids, special tokens included.
        ends: texts of the tokens that end a sequence.
        unknown: id of the unknown token, None where there is none.
        template: whether there is a chat template.
        markers: texts of the special tokens that stand in the template.
    """

    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    ends: tuple[str, ...] = ()
    unknown: int | None = None
    template: bool = False
    markers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextFacts:
    """Texts of a run as its model reads them.

    Attributes:
        tokenizer: of the model; None where its files do not tell.
        rows: the problems that `references` solve, by their number there.
        references: of some rows.
        limits: most tokens of each turn.
        most_tokens: of a whole sequence, `rollout.max_model_len`.
    """

    tokenizer: Tokenizer | None
    rows: Sequence[Problem]
    references: Sequence[Reference]
    limits: tuple[int, ...]
    most_tokens: int

    @property
    def known(self) -> list[Reference]:
        """The references that the task has made."""
        return [each for each in self.references if each.transcript is not None]


def limits(facts: TextFacts) -> Outcome:
    """Right answers that no turn has room for, its end included."""
    if (missing := _missing(facts)) is not None or facts.tokenizer is None:
        return missing
    long = [turns for each in facts.known if (turns := _too_long(facts, facts.tokenizer, each))]
    if not long:
        return None
    share = len(long) / len(facts.known)
    most = max(needed for needed, _ in long)
    what = (
        f"{len(long)} of {len(facts.known)} right answers have more tokens than their turn may have, up to {most} with "
        f"the one that ends it (limit {max(limit for _, limit in long)})."
    )
    why = "They are cut off, and an answer that is cut off is seldom right."
    return Finding(Grade.CRITICAL if share >= MOSTLY else Grade.WARNING, what, why, "task.token_scale")


def length(facts: TextFacts) -> Outcome:
    """Episodes that are longer than a sequence may be."""
    if (missing := _missing(facts)) is not None or facts.tokenizer is None:
        return missing
    sizes = [_episode(facts, facts.tokenizer, each) for each in facts.known]
    long = [size for size in sizes if size > facts.most_tokens]
    if not long:
        return None
    what = (
        f"{len(long)} of {len(sizes)} right episodes take more than rollout.max_model_len={facts.most_tokens} tokens, "
        f"up to {max(long)}."
    )
    grade = Grade.CRITICAL if len(long) >= MOSTLY * len(sizes) else Grade.WARNING
    return Finding(grade, what, "They are cut off before their answer is complete.", "rollout.max_model_len")


def writable(facts: TextFacts) -> Outcome:
    """Right answers that the model's tokenizer cannot write."""
    if (missing := _missing(facts)) is not None or facts.tokenizer is None:
        return missing
    lost = [each for each in facts.known if each.transcript and not _survives(facts.tokenizer, each.transcript.turns)]
    if not lost:
        return None
    what = (
        f"{len(lost)} of {len(facts.known)} right answers are another text after the model's tokenizer has read them."
    )
    why = "The model cannot give them, so where texts are compared no answer is right."
    grade = Grade.CRITICAL if len(lost) >= MOSTLY * len(facts.known) else Grade.WARNING
    return Finding(grade, what, why, "model.path")


def ends(facts: TextFacts) -> Outcome:
    """Prompts or right answers that hold the text of an end token."""
    if facts.tokenizer is None:
        return NotRun(NO_TOKENIZER)
    if not facts.tokenizer.ends:
        return NotRun("the files of the tokenizer name no token that ends a sequence")
    marks = facts.tokenizer.ends
    answers = [each for each in facts.known if each.transcript and _holds(each.transcript.turns, marks)]
    if answers:
        what = f"{len(answers)} of {len(facts.known)} right answers hold the text of an end token."
        why = "Generation ends there, so what is compared with the answer lacks it."
        return Finding(Grade.WARNING, what, why, "task.name")
    prompts = [row for row in facts.rows if row.prompt.rstrip().endswith(marks)]
    if not prompts:
        return None
    what = f"{len(prompts)} of {len(facts.rows)} prompts end with an end token."
    why = "A model that was trained to stop there begins something new."
    return Finding(Grade.WARNING, what, why, "task.name")


def template(facts: TextFacts) -> Outcome:
    """A model with a chat template is given prompts without it."""
    tokenizer = facts.tokenizer
    if tokenizer is None:
        return NotRun(NO_TOKENIZER)
    if not tokenizer.template or not tokenizer.markers or not facts.rows:
        return None
    bare = [row for row in facts.rows if not _holds([row.prompt], tokenizer.markers)]
    if len(bare) < MOSTLY * len(facts.rows):
        return None
    what = (
        f"{len(bare)} of {len(facts.rows)} prompts hold none of the special tokens of the model's chat template, such "
        f"as {tokenizer.markers[0]}."
    )
    why = "Prompts are sent as they are, and a model that was trained on chats answers plain text badly, or never ends."
    return Finding(Grade.WARNING, what, why, "task.name")


NO_TOKENIZER = "the model has no tokenizer.json, and other forms are loaded by the actors alone"

CHECKS: Mapping[str, Check[TextFacts]] = {
    "text.limits": limits,
    "text.length": length,
    "text.writable": writable,
    "text.ends": ends,
    "text.template": template,
}


def _missing(facts: TextFacts) -> NotRun | None:
    if facts.tokenizer is None:
        return NotRun(NO_TOKENIZER)
    return None if facts.known else NotRun("the task gave no references")


def _too_long(facts: TextFacts, tokenizer: Tokenizer, reference: Reference) -> tuple[int, int] | None:
    """Tokens and limit of the first turn that has more than it may; the last turn needs one to end the answer."""
    turns = reference.transcript.turns if reference.transcript else ()
    for turn, (text, limit) in enumerate(zip(turns, facts.limits, strict=False)):
        needed = len(tokenizer.encode(text)) + (turn == len(turns) - 1)
        if needed > limit:
            return needed, limit
    return None


def _episode(facts: TextFacts, tokenizer: Tokenizer, reference: Reference) -> int:
    turns = reference.transcript.turns if reference.transcript else ()
    texts = [facts.rows[reference.row].prompt, *turns, *reference.observations]
    return sum(len(tokenizer.encode(text)) for text in texts) + 1


def _survives(tokenizer: Tokenizer, texts: Sequence[str]) -> bool:
    for text in texts:
        ids = tokenizer.encode(text)
        if tokenizer.unknown in ids or tokenizer.decode(ids) != text:
            return False
    return True


def _holds(texts: Sequence[str], marks: Sequence[str]) -> bool:
    return any(mark in text for text in texts for mark in marks)
