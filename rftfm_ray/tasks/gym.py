"""`reasoning_gym:NAME`: problems of a generator of the package `reasoning_gym`, judged by its own verifier.

A problem's key is its index in the generator, so that whoever grades an answer makes the same entry again. The package
is loaded where it is used: where the run is submitted, and in rollout actors.
"""

from __future__ import annotations

import difflib
import importlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from itertools import count
from typing import Any

import yaml

from rftfm_ray.errors import TaskError
from rftfm_ray.tasks.addition import HELDOUT_SIZE, is_heldout
from rftfm_ray.tasks.api import Demonstration, Problem, Task, Transcript, Verdict, reference_demonstration

PACKAGE = "reasoning_gym"
PREFIX = f"{PACKAGE}:"
# The generator's own stream of entries is fixed; the seed of a run decides which of them are drawn.
GENERATOR_SEED = 0
ENTRIES = 1_000_000
# A generator may know fewer different prompts than are asked for: after so many entries per problem it is believed.
TRIES_PER_PROBLEM = 40
# Entries whose longest answer sets the limit of tokens.
MEASURED = 512
OWN_KEYS = ("seed", "size")
EVALUATING = frozenset({
    "binary_matrix", "composite", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication",
    "puzzle24", "simple_integration", "spiral_matrix", "string_insertion",
})  # fmt: skip
"""Generators whose verifier evaluates an answer as Python, or may hand it to one that does."""


@dataclass(frozen=True, slots=True)
class Generator:
    """What names a stream of entries: the generator, and its options as `KEY=VALUE`."""

    name: str
    options: tuple[str, ...] = ()


# Where a generator repeats itself, finding the held-out problems takes seconds.
_HELDOUT: dict[Generator, tuple[Problem, ...]] = {}


class GymTask(Task):
    """Reward: the score of the library's verifier, from 0 to 1; right is a score of 1. A cut-off answer gets 0.

    Held out is a sixth of all prompts, by their hash.

    Args:
        generator: whose problems.

    Raises:
        TaskError: when the package or the generator is not there, an option is refused, or answers may be evaluated.
    """

    def __init__(self, generator: Generator) -> None:
        check_name(generator.name)
        self._generator = generator
        # Other tasks say this once for a class; here it depends on the generator.
        self.name = PREFIX + generator.name  # type: ignore[misc]
        answers = [answer_of(_entry(generator, index)) for index in range(MEASURED)]
        # A tokenizer makes at most a token of every byte; the last one ends the answer.
        self.max_new_tokens = (max(len(answer.encode()) for answer in answers) + 1,)  # type: ignore[misc]

    def pool(self, size: int, seed: int) -> tuple[Problem, ...]:
        rng = random.Random(f"pool/{seed}")
        return self._distinct((rng.randrange(ENTRIES) for _ in count()), size, heldout=False)

    def heldout(self) -> tuple[Problem, ...]:
        if self._generator not in _HELDOUT:
            _HELDOUT[self._generator] = self._distinct(range(ENTRIES), HELDOUT_SIZE, heldout=True)
        return _HELDOUT[self._generator]

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        if not transcript.finished:
            return Verdict(reward=0.0, correct=False)
        entry = _entry(self._generator, int(problem.key))
        if entry["question"] != problem.prompt:
            raise TaskError(
                f"Entry {problem.key} of task.name={self.name} is not the same in every process, so no answer to it "
                "can be graded; use another generator."
            )
        score = self._score(transcript.turns[-1], entry)
        return Verdict(reward=score, correct=score >= 1)

    def _score(self, answer: str, entry: dict[str, Any]) -> float:
        dataset = _dataset(self._generator)
        try:
            return float(dataset.score_answer(answer, entry))
        except Exception:  # noqa: BLE001 - verifiers of the library parse answers, and may raise anything on the way
            # One that judges its own answer is sound, and this answer unreadable. Else the failure is the verifier's.
            dataset.score_answer(answer_of(entry), entry)
            return 0.0

    def difficulty(self, problem: Problem) -> float:
        """Length of the prompt and of the right answer in characters."""
        return float(len(problem.prompt) + len(problem.answer))

    def demonstration(self, rng: random.Random) -> Demonstration:
        while True:
            chosen = self._problem(rng.randrange(ENTRIES))
            if self._is_usable(chosen, heldout=False):
                return reference_demonstration(self, chosen)

    def _problem(self, index: int) -> Problem:
        entry = _entry(self._generator, index)
        return Problem(key=str(index), prompt=str(entry["question"]), answer=answer_of(entry))

    def _is_usable(self, problem: Problem, *, heldout: bool) -> bool:
        fits = len(problem.answer.encode()) < self.max_new_tokens[0]
        return fits and is_heldout(problem.prompt, self.name) == heldout

    def _distinct(self, indices: Iterable[int], size: int, *, heldout: bool) -> tuple[Problem, ...]:
        """`size` problems with different prompts, or all that were met in `TRIES_PER_PROBLEM` entries for each."""
        problems: dict[str, Problem] = {}
        for index, _ in zip(indices, range(TRIES_PER_PROBLEM * size), strict=False):
            if len(problems) == size:
                break
            candidate = self._problem(index)
            if self._is_usable(candidate, heldout=heldout):
                problems.setdefault(candidate.prompt, candidate)
        return tuple(problems.values())


def check_name(name: str) -> None:
    """Refuse a generator that there is not, or whose verifier evaluates answers.

    Raises:
        TaskError: with the nearest name.
    """
    known = _factory().DATASETS
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"the nearest is {PREFIX}{near[0]}." if near else f"it has {len(known)}, for example {min(known)}."
        raise TaskError(f"task.name={PREFIX}{name} names no generator of {PACKAGE}; {hint}")
    if name in EVALUATING:
        raise TaskError(
            f"task.name={PREFIX}{name} is refused, because the verifier of this generator evaluates answers of the "
            "model as Python; use another one."
        )


def answer_of(entry: dict[str, Any]) -> str:
    """The library's own answer to an entry.

    Raises:
        TaskError: when it has none.
    """
    answer = entry["answer"]
    if answer is None:
        raise TaskError(f"The generator of {entry['question']!r:.100} gives no answer of its own; use another one.")
    return str(answer)


def _factory() -> Any:
    """The library's registry.

    Raises:
        TaskError: when the package, or one that it needs, is not installed.
    """
    try:
        importlib.import_module(PACKAGE)
        return importlib.import_module(f"{PACKAGE}.factory")
    except ImportError as error:
        missing = error.name or PACKAGE
        raise TaskError(
            f"task.name={PREFIX}NAME needs the package {missing}, which does not import here; install rftfm_ray[gym]."
        ) from error


@lru_cache(maxsize=8)
def _dataset(generator: Generator) -> Any:
    """The generator with its options.

    Raises:
        TaskError: when the library refuses an option.
    """
    factory = _factory()
    kind, settings = factory.DATASETS[generator.name]
    values = dict(_values(generator, settings))
    try:
        config = settings(**values, seed=GENERATOR_SEED, size=ENTRIES)
        config.validate()
        return kind(config=config)
    # The checks of the library are assertions; what its constructors make of a wrong value may be anything.
    except Exception as error:
        raise TaskError(
            f"task.options={list(generator.options)} are refused by {PREFIX}{generator.name} "
            f"({type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}); correct them."
        ) from error


@lru_cache(maxsize=4096)
def _entry(generator: Generator, index: int) -> dict[str, Any]:
    entry: dict[str, Any] = _dataset(generator)[index]
    return entry


def _values(generator: Generator, settings: Any) -> Iterator[tuple[str, Any]]:
    """Options as the generator's settings take them.

    Raises:
        TaskError: for one that cannot be read, is unknown, stands twice or has a value of another type.
    """
    known = {field.name: field for field in fields(settings) if field.name not in OWN_KEYS}
    seen: set[str] = set()
    for text in generator.options:
        key, separator, written = text.partition("=")
        key = key.strip()
        if not separator:
            raise TaskError(f"task.options={text!r} is not of the form KEY=VALUE; write it so.")
        if key in OWN_KEYS:
            raise TaskError(f"task.options={text!r} is set by the run itself; use the keys seed and task.pool_size.")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"the nearest is {near[0]}." if near else f"choose one of {', '.join(sorted(known))}."
            raise TaskError(f"task.options={text!r} is unknown to {PREFIX}{generator.name}; {hint}")
        if key in seen:
            raise TaskError(f"task.options sets {key} twice; leave one out.")
        seen.add(key)
        yield key, _as_default(text, _read(text, written), known[key])


def _read(text: str, written: str) -> Any:
    try:
        return yaml.safe_load(written)
    except (yaml.YAMLError, ValueError) as error:
        raise TaskError(f"task.options={text!r} is not readable ({type(error).__name__}); correct it.") from None


def _as_default(text: str, value: Any, field: Any) -> Any:
    """The value of an option, which must be of the type of its default where it has one."""
    factory: Callable[[], Any] | Any = field.default_factory
    default = field.default if field.default is not MISSING else factory() if factory is not MISSING else None
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    expected: tuple[type, ...] = (int, float) if type(default) is float else (type(default),)
    if default is not None and type(value) not in expected:
        raise TaskError(
            f"task.options={text!r} gives a value of type {type(value).__name__} where {expected[-1].__name__} is "
            "wanted; correct it."
        )
    return value
