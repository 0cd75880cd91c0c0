"""Rows of reasoning-gym generators as chat messages with right answers, as a data set of the user's holds them."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rftfm_ray.tasks.verifiers import final_number

FINAL = "\nGive only the final answer."
"""Ends every question: a small model otherwise fills its limit of tokens with words."""


@dataclass(frozen=True)
class GymRows:
    """A generator, and how its answers are judged.

    Attributes:
        name: of the generator.
        verifier: as `reward.functions` names it.
        options: of the generator.
    """

    name: str
    verifier: str = "numeric"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name with the options, and with the verifier where that is not one for numbers in a text."""
        options = [f"{key}={value}" for key, value in self.options.items()]
        return " ".join([self.name, *options, *([] if self.verifier == "numeric" else [self.verifier])])


# The whole answer is the right one, whatever its case and the marks around it.
WORD = r"regex:(?i)^\W*{answer}\W*$"
CANDIDATES = (
    GymRows("chain_sum", options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}),
    GymRows("chain_sum", options={"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}),
    GymRows("chain_sum", options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    GymRows("chain_sum", options={"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1}),
    GymRows("products", options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}),
    GymRows("products", options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    GymRows("gcd", options={"max_value": 20}),
    GymRows("lcm", options={"max_value": 10}),
    GymRows("leg_counting", options={"min_animals": 1, "max_animals": 2, "max_instances": 2}),
    GymRows("letter_counting", options={"min_words": 1, "max_words": 3}),
    GymRows("count_bits", options={"max_n": 16}),
    GymRows("simple_equations"),
    GymRows("number_sequence"),
    GymRows("power_function"),
    GymRows("coin_flip", WORD),
    GymRows("isomorphic_strings", WORD),
    GymRows("syllogism", WORD),
    GymRows("course_schedule", WORD),
    GymRows("ransom_note", WORD),
    GymRows("needle_haystack", WORD, {"min_num_statements": 2, "max_num_statements": 4}),
    GymRows("family_relationships", WORD, {"min_family_size": 3, "max_family_size": 4}),
    GymRows("aiw"),
)
"""Generators with short answers that a regular expression or a number judges."""


def rows_of(task: GymRows, count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Different questions of a generator, `count` of them or as many as there are in ten times as many entries.

    Those are left out whose last number is the answer: who only repeats them would be paid.
    """
    gym = importlib.import_module("reasoning_gym")
    dataset = gym.create_dataset(task.name, size=10 * count, seed=seed, **task.options)
    seen = set[str]()
    for entry in dataset:
        if len(seen) == count:
            return
        if entry["question"] in seen or final_number(entry["question"]) == _number(entry["answer"]):
            continue
        seen.add(entry["question"])
        message = {"role": "user", "content": entry["question"] + FINAL}
        yield {"prompt": [message], "answer": str(entry["answer"])}


def _number(answer: object) -> float:
    """The number that an answer holds; NaN, which nothing equals, without one."""
    found = final_number(str(answer))
    return math.nan if found is None else found


def written(task: GymRows, count: int, seed: int = 0) -> str:
    """The rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows_of(task, count, seed))
