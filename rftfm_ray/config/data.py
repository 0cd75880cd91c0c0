"""Data sets and reward functions of the user's."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from rftfm_ray.config.sections import Cadence, Count, Float, Section

ANSWER = "{answer}"
"""Stands for the right answer of a row."""
HELDOUT = "heldout"
"""Name of the evaluation of the problems that a run holds out."""


class DataConfig(Section):
    """A data set of your own; with `data.train` it is what is trained on, whatever `task.name` says."""

    train: str | None = None
    """Rows that are trained on: a Parquet, JSONL, JSON or CSV file, or a directory that `Dataset.save_to_disk` has
    written (`DIRECTORY:SPLIT` chooses a split). The columns of verl and TRL are known; null: the generator
    `task.name`."""
    heldout: str | None = None
    """Rows that are never trained on, of the same form; null: a share of `data.train`."""
    heldout_share: Annotated[Float, Field(gt=0, lt=1)] = 0.1
    """Share of `data.train` that is held out where `data.heldout` is null, by a hash of the prompt."""
    prompt: str | None = None
    """Column of the prompt, as text or as chat messages, which get the chat template of the model's tokenizer; null:
    `prompt`, or another usual name."""
    answer: str | None = None
    """Column of the right answer; null: `reward_model.ground_truth` as verl has it, or `answer`, or another usual
    name."""
    solution: str | None = None
    """A right answer as the model would write it, with `{answer}` in it for that of the row, such as `#### {answer}`,
    so that the guard and preflight can put known answers to functions of yours; null: only verifiers that ship get
    some."""
    max_new_tokens: Count = 256
    """Tokens of an answer, or of each of its turns, at most, the end included."""

    @model_validator(mode="after")
    def _written(self) -> DataConfig:
        if self.solution is not None and ANSWER not in self.solution:
            raise ValueError(
                f"data.solution={self.solution!r} does not say where the answer stands; put {ANSWER} in it"
            )
        return self


class RewardConfig(Section):
    """What an answer to a row of `data.train` is worth."""

    functions: tuple[str, ...] = ()
    """Verifiers that ship (`exact`, `numeric`, `choice`, `math`, `code`, `regex:PATTERN`, `json:SCHEMA_FILE`);
    functions of yours as `file.py:name` or `module:name`, of TRL's form `(prompts, completions, **columns)` or of
    verl's `(data_source, solution_str, ground_truth, extra_info)`, sync or async; URLs, which are sent a batch of
    answers. The reward is their weighted sum."""
    weights: tuple[Float, ...] = ()
    """A factor for each function; empty: 1 each."""
    verifier: str | None = None
    """What says which answers are right, for accuracies and the guard, whatever `reward.functions` pay: named as one of
    them; null: the first of them."""
    right: Annotated[Float, Field(gt=-1e6, lt=1e6)] = 1.0
    """An answer is called right where that gives at least so much, unless it says itself what is right."""

    @model_validator(mode="after")
    def _as_many(self) -> RewardConfig:
        if self.weights and len(self.weights) != len(self.functions):
            raise ValueError(
                f"reward.weights={list(self.weights)} has {len(self.weights)} factors for {len(self.functions)} "
                "functions; give one for each"
            )
        if len(set(self.functions)) != len(self.functions):
            raise ValueError(f"reward.functions={list(self.functions)} has a function twice; leave one out")
        return self


class EvalConfig(Section):
    """Evaluations beside the held-out probe: sets that are answered whole, by one version, several times each."""

    sets: tuple[str, ...] = ()
    """`heldout`, the problems that the run holds out, or further rows of the form of `data.train`, each as NAME=FILE;
    graded as answers in training are, by the functions themselves."""
    every: Cadence = 0
    """Steps between evaluations, during which the learner waits; 0: before the first and after the last step alone."""
    samples: Count = 1
    """Answers to each problem: a greedy one, or several that are sampled as in training, for pass@k."""
    size: Count = 256
    """Problems of a set at most: its first ones."""
    best: str | None = None
    """Name of the set whose accuracy decides which checkpoint is the best; null: the held-out probe."""

    @model_validator(mode="after")
    def _named(self) -> EvalConfig:
        names = [name for name, _ in self.files()]
        for text, name in zip(self.sets, names, strict=True):
            if not name or (name != HELDOUT and "=" not in text):
                raise ValueError(f"eval.sets={text} is neither {HELDOUT} nor of the form NAME=FILE; write it so")
        if len(set(names)) != len(names):
            raise ValueError(f"eval.sets={list(self.sets)} has a name twice; give each set a name of its own")
        if self.best is not None and self.best not in names:
            raise ValueError(f"eval.best={self.best} is none of eval.sets={list(self.sets)}; name one of them")
        if self.best is not None and not self.every:
            raise ValueError(f"eval.best={self.best} needs evaluations while the run goes on; set eval.every")
        return self

    def files(self) -> tuple[tuple[str, str], ...]:
        """Name and file of each set; no file for the problems that the run holds out."""
        parts = (text.partition("=") for text in self.sets)
        return tuple((name.strip(), file.strip()) for name, _, file in parts)
