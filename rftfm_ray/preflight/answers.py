"""Kinds of answers that a verifier is asked about before a run: right, wrong, hidden, nothing, and odd texts.

Every kind is a function of the problem, its reference and the references of other problems, so the same run asks the
same things. A kind whose text happens to be the right answer is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rftfm_ray.tasks.api import Problem, Transcript

LONG = 20_000
"""Characters of a very long answer."""
DIGITS = 5_000
"""Digits of a very long number: above the 4,300 at which Python's `int` refuses a text."""
NUMBERS = 1_000
"""Numbers in an answer that lists all of them."""


class Worth(StrEnum):
    """What an answer is worth, whoever grades it.

    `right`: the reference. `dressed`: the right answer in another form, which a verifier may take or refuse.
    `wrong`: an honest answer that is not right. `hidden`: the right answer among others, which answers nothing.
    `nothing`: no try at an answer. `odd`: a text that a parser may stumble over.
    """

    RIGHT = "right"
    DRESSED = "dressed"
    WRONG = "wrong"
    HIDDEN = "hidden"
    NOTHING = "nothing"
    ODD = "odd"


REFERENCE = "the reference"
ANOTHER = "the right answer to another problem"
REFUSAL = "a refusal"
"""Paid by design in some tasks: better than a wrong answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of one kind to one problem."""

    kind: str
    worth: Worth
    transcript: Transcript


def answers(problem: Problem, reference: Transcript, others: Sequence[Transcript], stop: str = "") -> list[Answer]:
    """An answer of every kind.

    Args:
        problem: what is answered.
        reference: the transcript that solves it.
        others: transcripts that solve problems with other answers.
        stop: text that ends a turn of the task, if there is one.
    """
    right = reference.turns[-1]
    found = [Answer(REFERENCE, Worth.RIGHT, reference)]
    for number, other in enumerate(others[:2]):
        found.append(Answer(ANOTHER if number == 0 else f"{ANOTHER} (second)", Worth.WRONG, other))
    other_text = others[0].turns[-1] if others else ""
    if others and len(reference.turns) > 1:
        found.append(Answer(f"{ANOTHER}, at once", Worth.WRONG, Transcript((other_text,))))
    texts = [*_wrong(right), *_hidden(right, other_text), *_odd(), *_dressed(right)]
    for kind, worth, text in texts:
        found.append(Answer(kind, worth, replace(reference, turns=(*reference.turns[:-1], text))))
    # Whoever tries nothing calls no tool either.
    for kind, worth, text in _nothing(problem, stop):
        found.append(Answer(kind, worth, Transcript((text,))))
    found.append(Answer("nothing, cut off", Worth.NOTHING, Transcript(("",), finished=False)))
    found.append(Answer("the right answer, cut off", Worth.DRESSED, replace(reference, finished=False)))
    return [answer for answer in found if answer.worth in _MAY_BE_RIGHT or _differs(answer.transcript, right)]


_MAY_BE_RIGHT = (Worth.RIGHT, Worth.DRESSED)
_Kind = tuple[str, Worth, str]


def _differs(transcript: Transcript, right: str) -> bool:
    return transcript.turns[-1].strip().casefold() != right.strip().casefold()


def _wrong(right: str) -> Iterator[_Kind]:
    made = {
        "the right answer without its last character": right[:-1],
        "the right answer with a digit more": right + "7",
        "the right answer backwards": right[::-1],
        "its first character": right[:1],
        "the guess 0": "0",
        "the guess 1": "1",
        "the guess yes": "yes",
        "the guess A": "A",
    }
    if right.strip().isdecimal() and len(right) < 18:
        made["one more than the right answer"] = str(int(right) + 1)
        made["the right answer with a minus sign"] = f"-{right.strip()}" if int(right) else "-1"
    for kind, text in made.items():
        if text.strip():
            yield kind, Worth.WRONG, text


def _hidden(right: str, other: str) -> Iterator[_Kind]:
    for kind, text in {
        "the right answer or another one": f"{right} or {other}",
        "another answer or the right one": f"{other} or {right}",
        "a denial of the right answer": f"It is not {right}.",
        "the right answer in a wrong sentence": f"{right} is wrong, the answer is {other}.",
        "every number": " ".join(map(str, range(NUMBERS))),
        "every digit": "0123456789",
        "every letter": "abcdefghijklmnopqrstuvwxyz",
        "every letter and digit": "abcdefghijklmnopqrstuvwxyz 0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    }.items():
        yield kind, Worth.HIDDEN, text


def _nothing(problem: Problem, stop: str) -> Iterator[_Kind]:
    made = {
        "an empty answer": "",
        "a blank": " ",
        "line breaks": "\n\n",
        "a full stop": ".",
        "only the marker ####": "#### ",
        "only an empty \\boxed{}": "\\boxed{}",
        "only empty answer tags": "<answer></answer>",
        "only empty thoughts": "<think></think>",
        "only 'Answer:'": "Answer:",
        "only an end token": "<|im_end|>",
        "the prompt again": problem.prompt,
        REFUSAL: "I don't know.",
        "the word None": "None",
    }
    if stop:
        made["only the end of a turn"] = stop
    for kind, text in made.items():
        yield kind, Worth.NOTHING, text


def _odd() -> Iterator[_Kind]:
    for kind, text in {
        "a very long text": "so " * (LONG // 3),
        "a very long number": "9" * DIGITS,
        "one word, again and again": "the " * 200,
        "Chinese": "答案是一百二十三",
        "Arabic": "الجواب هو ١٢٣",
        "full-width digits": "\uff11\uff12\uff13",
        "a vulgar fraction": "½",
        "emoji": "👍🏽 👩‍👩‍👧",
        "combining marks": "e\u0301\u0327\u0308" * 20,
        "text from right to left": "\u202e123\u202c",
        "a zero byte": "1\x002",
        "control characters": "\x01\x02\x1b[31m7",
        "a replacement character": "\ufffd\ufffd",
        "half a JSON object": '{"answer": [1, 2',
        "a JSON object": '{"answer": 7, "score": 1.0}',
        "open brackets": "((((((((((" * 20,
        "half a LaTeX fraction": "\\frac{1}{",
        "a division by zero": "1/0",
        "infinity": "inf",
        "not a number": "nan",
        "a number beyond floats": "1e999",
        "a number with commas": "1,234,567.89",
        "a percentage": "50%",
        "format characters": "%s %d {0} {x} %",
        "a pattern": ".*+?[(",
        "quotes": "'\"`\\",
        "a code block": "```python\nprint(1)\n```",
        "markup": "<b>7</b><script>",
        "a tool call": '<tool_call>{"name": "x"}</tool_call>',
    }.items():
        yield kind, Worth.ODD, text


def _dressed(right: str) -> Iterator[_Kind]:
    for kind, text in {
        "the right answer after a blank": f" {right}",
        "the right answer and a line break": f"{right}\n",
        "the right answer and a full stop": f"{right}.",
        "the right answer in a sentence": f"The answer is {right}.",
        "the right answer after a marker": f"#### {right}",
        "the right answer in a box": f"\\boxed{{{right}}}",
        "the right answer in tags": f"<answer>{right}</answer>",
        "the right answer twice": f"{right} {right}",
        "the right answer in capitals": right.upper(),
        "the right answer with more zeros": f"{right}.0",
    }.items():
        yield kind, Worth.DRESSED, text
