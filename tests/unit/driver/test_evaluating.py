"""Evaluations: when they are made, what they come to, and what they decide."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rftfm_ray.config import load_config
from rftfm_ray.data.loading import EvalSet
from rftfm_ray.driver.evaluating import Evaluator, evaluation, pass_at
from rftfm_ray.driver.loggers.attached import Loggers
from rftfm_ray.errors import ConfigError
from rftfm_ray.metrics import Evaluation
from rftfm_ray.rollout.jobs import AnswerCount
from rftfm_ray.tasks.api import Problem
from rftfm_ray.types import StepId, TrainingCursor
from tests.unit.driver.test_checkpointing import make, probe
from tests.unit.driver.test_loggers import Listening


def at(step: int) -> TrainingCursor:
    """The cursor after a step."""
    return TrainingCursor(StepId(0, step, step), step, step)


@pytest.mark.parametrize("samples", [2, 5, 8])
def test_chance_of_one_right_answer_is_that_over_all_choices(samples: int) -> None:
    for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        answers = [True] * right + [False] * (samples - right)
        chosen = [any(choice) for choice in itertools.combinations(answers, k)]
        assert pass_at(samples, right, k) == pytest.approx(sum(chosen) / len(chosen))


def test_a_set_comes_to_its_shares() -> None:
    counts = [AnswerCount(0, 4, 4), AnswerCount(1, 4, 1), AnswerCount(2, 4, 0), AnswerCount(3, 3, 3)]
    found = evaluation("test", at(7), counts, 4, 1.5)
    assert (found.problems, found.ungraded) == (3, 1)
    assert found.accuracy == pytest.approx(5 / 12)
    assert dict(found.pass_at) == pytest.approx({2: (1 + 0.5) / 3, 4: 2 / 3})
    assert (found.id.step, found.model_version, found.seconds) == (7, 7, 1.5)


def test_one_greedy_answer_has_no_further_chances() -> None:
    found = evaluation("test", at(1), [AnswerCount(0, 1, 1), AnswerCount(1, 1, 0)], 1, 0.0)
    assert (found.accuracy, found.pass_at) == (0.5, ())


def test_where_most_problems_lack_a_verdict_nothing_is_known() -> None:
    found = evaluation("test", at(1), [AnswerCount(0, 2, 2), AnswerCount(1, 0, 0), AnswerCount(2, 1, 1)], 2, 0.0)
    assert math.isnan(found.accuracy)
    assert math.isnan(found.pass_at[0][1])
    assert (found.problems, found.ungraded) == (0, 3)


class Asked:
    """A session that answers every problem with as many right answers as its key says."""

    def __init__(self) -> None:
        self.position = at(0)
        self.asked: list[tuple[int, int, int]] = []

    def evaluate(self, problems: list[Problem], samples: int) -> list[AnswerCount]:
        self.asked.append((self.position.id.step, len(problems), samples))
        return [AnswerCount(n, samples, min(samples, int(problem.key))) for n, problem in enumerate(problems)]


def run_of(steps: int, *overrides: str) -> tuple[Asked, list[Evaluation], list[tuple[int, bool]]]:
    """The evaluations of a run of so many steps, and its checkpoints; the probe falls from step to step."""
    session, told = Asked(), list[Evaluation]()
    config = load_config(None, ["eval.sets=[heldout]", *overrides])
    sets = (EvalSet("heldout", tuple(Problem(str(n), f"{n}", "") for n in range(10))),)
    plan = SimpleNamespace(config=config, evals=sets)
    records = SimpleNamespace(evaluation=lambda found: None)
    evaluator = Evaluator(*cast("Any", (plan, session, records, told.append)))
    stage, writer = make(every=1)
    writer._by_evaluation = config.eval.best is not None
    evaluator.run()
    for step in range(1, steps + 1):
        session.position = stage.position = at(step)
        writer.probed(probe(1 - step / 10))
        evaluator.after_step(writer)
        writer.after_step(last=step == steps)
    evaluator.run()
    return session, told, stage.saved


def test_evaluations_are_made_first_at_their_cadence_and_last_and_none_twice() -> None:
    session, told, _ = run_of(6, "eval.every=3", "eval.samples=2", "eval.size=4")
    assert session.asked == [(0, 4, 2), (3, 4, 2), (6, 4, 2)]
    assert [found.id.step for found in told] == [0, 3, 6]
    assert run_of(5)[0].asked == [(0, 10, 1), (5, 10, 1)]


def test_the_evaluation_that_is_named_decides_which_checkpoint_is_best() -> None:
    assert run_of(4)[2] == [(1, True), (2, False), (3, False), (4, False)]
    decided = run_of(4, "eval.every=2", "eval.best=heldout")[2]
    assert decided == [(1, False), (2, True), (3, False), (4, True)]


def test_loggers_get_accuracies_and_chances() -> None:
    logger = Listening()
    Loggers({"a": logger}, lambda *_: None).listeners().evaluated(
        Evaluation("math", StepId(1, 3, 5), 3, 10, 4, 0.25, ((2, 0.4), (4, math.nan)), 0, 1.0)
    )
    assert logger.rows == [(5, {"eval/math/accuracy": 0.25, "eval/math/pass@2": 0.4})]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["eval.sets=[test.jsonl]"], "neither heldout nor of the form NAME=FILE"),
        (["eval.sets=[a=x.jsonl]"], "data.train, which is not set"),
        (["eval.sets=[a=x,a=y]", "data.train=t"], "has a name twice"),
        (["eval.best=a"], "eval.best=a is none of"),
        (["eval.sets=[heldout]", "eval.best=heldout"], "set eval.every"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(None, overrides)
