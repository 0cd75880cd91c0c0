"""The preflight of a run: what it asks in which order, what ends the run, and that its own failure does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver import preflight as module
from rftfm_ray.driver import session as session_module
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.driver.preflight import Preflight, finishing, refusal, resume_difference, sampled_of, started_preflight
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import PreflightError, RolloutError
from rftfm_ray.models import ASSETS
from rftfm_ray.planning import RunPlan
from rftfm_ray.preflight.answers import Worth
from rftfm_ray.preflight.asking import Asked
from rftfm_ray.preflight.findings import Checked, Finding, Grade, NotRun
from rftfm_ray.rollout.jobs import Rehearsed
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.api import Problem, Task, Transcript
from rftfm_ray.types import StepId, TrainingCursor
from tests.unit.doubles import make_group, make_plan
from tests.unit.preflight.broken_tasks import Constant

TASK = Addition()
CONFIG = load_config(None, ["guard.mode=off"])


def planned(task: Task = TASK, config: RunConfig = CONFIG, folder: Path = Path("run")) -> RunPlan:
    """A plan of a run of sums."""
    facts = cast("Any", SimpleNamespace(path=ASSETS / "tiny", parameters=300_000, max_positions=128))
    pool, heldout = tuple(task.pool(64, 0)), tuple(task.heldout())[:16]
    return make_plan(config, task=task, pool=pool, heldout=heldout, facts=facts, folder=folder)


def episodes(problems: Sequence[Problem], samples: int = 8) -> list[Rehearsed]:
    """Answers of which half are right."""
    return [
        Rehearsed(group, Transcript((problem.answer if k % 2 else "9",)), cut_off=False, failed=False)
        for group, problem in enumerate(problems)
        for k in range(samples)
    ]


def session(gap: float = 1e-5, short: float = 1e-5, asked: list[str] | None = None) -> Session:
    """A session whose actors are sound, but for the gaps."""
    log = [] if asked is None else asked

    def rehearse(problems: Sequence[Problem]) -> list[Rehearsed]:
        log.append(f"rehearse {len(problems)}")
        return episodes(problems)

    return cast(
        "Session",
        SimpleNamespace(
            parity_sequences=[[1, 2, 3]], log_prob_gap=lambda _: (gap, False), shortest_gap=lambda: short,
            rehearse=rehearse,
        ),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of the task's code is this one."""

    def remote(function: Callable[..., Any], plan: RunPlan, *arguments: object) -> Any:
        return function(plan.task, *arguments)

    monkeypatch.setattr(module, "_remote", remote)
    monkeypatch.setattr(module, "_fetch", lambda pending, seconds: (pending, ""))


def run(plan: RunPlan, *, stops: bool = False, mismatch: float = 0.0, actors: Session | None = None) -> Preflight:
    """A whole preflight."""
    preflight = Preflight(plan, lambda _: None, stops=stops)
    preflight.begin()
    preflight.finish(actors or session(), mismatch)
    return preflight


def test_sound_run_is_silent_and_only_the_step_after_loading_is_not_tried() -> None:
    checked = run(planned()).checked
    assert checked.findings == ()
    assert [each.check for each in checked.not_run] == ["live.resume"]
    assert len(checked.passed) == 42
    assert checked.left_out == 0, "one verdict is kept for every answer of the model"
    assert 400 < checked.verdicts < 500
    assert checked.seconds > 0


@pytest.mark.parametrize(
    ("actors", "mismatch", "check"),
    [
        (session(gap=0.5), 0.0, "live.parity"),
        (session(gap=math.nan), 0.0, "live.parity"),
        (session(short=0.5), 0.0, "live.one_token"),
        (session(), 1.0, "live.weights"),
    ],
)
def test_actors_that_disagree_are_found(actors: Session, mismatch: float, check: str) -> None:
    assert [each.check for each in run(planned(), mismatch=mismatch, actors=actors).checked.findings] == [check]


def test_weights_that_were_not_compared_are_not_judged() -> None:
    assert "live.weights" in [each.check for each in run(planned(), mismatch=math.nan).checked.not_run]


def test_findings_are_told_as_soon_as_they_are_known() -> None:
    told: list[str] = []
    preflight = Preflight(planned(Constant()), lambda found: told.append(found.check), stops=False)
    preflight.begin()
    assert told == []
    preflight.finish(session(), 0.0)
    assert told == ["reward.same", "live.groups"]


def test_critical_finding_ends_a_run_that_is_to_stop_before_the_actors_are_asked() -> None:
    asked: list[str] = []
    with pytest.raises(PreflightError) as caught:
        run(planned(Constant()), stops=True, actors=session(asked=asked))
    assert asked == []
    assert str(caught.value).startswith("preflight.mode=stop ends the run before step 0, because of reward.same: All ")
    assert str(caught.value).endswith("; change task.name, or set preflight.mode=warn.")
    assert caught.value.exit_code == 2


def test_warning_ends_no_run() -> None:
    config = CONFIG.model_copy(update={"learner": CONFIG.learner.model_copy(update={"lr": 3e-3})})
    checked = run(planned(config=config), stops=True).checked
    assert [(each.check, each.grade) for each in checked.findings] == [("rate.large", Grade.WARNING)]


def test_failure_of_a_check_itself_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("bug")

    for name, where in (("check_files", "preflight.files"), ("check_live", "preflight.actors")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            assert where in [each.check for each in run(planned(), stops=True).checked.not_run]


def test_failure_of_an_actor_is_that_of_the_run() -> None:
    def fail(_: object) -> None:
        raise RolloutError("rollout-0 died.")

    actors = cast("Session", SimpleNamespace(**(vars(session()) | {"rehearse": fail})))
    with pytest.raises(RolloutError, match=r"rollout-0 died\."):
        run(planned(), actors=actors)


def test_process_that_gives_no_answer_leaves_the_other_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_fetch", lambda pending, seconds: (None, "it gave no answer"))
    checked = run(planned()).checked
    assert checked.findings == ()
    not_run = {each.check: each.reason for each in checked.not_run}
    assert not_run["reward.right"] == not_run["text.limits"] == "it gave no answer"
    assert "live.parity" in checked.passed


@pytest.mark.parametrize("most", [1, 10, 64])
def test_no_more_verdicts_are_asked_for_than_allowed(most: int) -> None:
    config = load_config(None, ["guard.mode=off", f"preflight.verdicts={most}"])
    assert run(planned(config=config)).checked.verdicts == most


def test_no_verdicts_and_no_groups_ask_for_none() -> None:
    asked: list[str] = []
    config = load_config(None, ["guard.mode=off", "preflight.verdicts=0", "preflight.groups=0"])
    checked = run(planned(config=config), actors=session(asked=asked)).checked
    assert (checked.verdicts, checked.findings, asked) == (0, (), [])
    assert {"reward.right", "live.groups", "live.cut_off"} <= {each.check for each in checked.not_run}


@pytest.mark.parametrize(("mode", "begins"), [("off", False), ("warn", True), ("stop", True)])
def test_mode_decides_whether_a_run_has_a_preflight(mode: str, begins: bool) -> None:
    config = load_config(None, ["guard.mode=off", f"preflight.mode={mode}"])
    assert (started_preflight(planned(config=config), Listeners()) is not None) == begins
    finishing(None, cast("Any", None), Listeners())(session(), 0.0)


def test_outcomes_are_recorded_and_told_also_where_they_end_the_run() -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    told: list[Checked] = []
    records = cast("Any", SimpleNamespace(event=lambda kind, step, **fields: events.append((kind, fields))))
    config = load_config(None, ["guard.mode=off", "preflight.mode=stop"])
    listeners = Listeners(finding=lambda _: None, preflight=told.append)
    preflight = started_preflight(planned(Constant(), config), listeners)
    with pytest.raises(PreflightError):
        finishing(preflight, records, listeners)(session(), 0.0)
    assert [kind for kind, _ in events] == ["preflight_finding", "preflight"]
    assert (events[0][1]["check"], events[0][1]["grade"]) == ("reward.same", "critical")
    assert events[1][1]["critical"] == 1
    assert [each.check for each in told[0].findings] == ["reward.same"]


def test_sentence_of_a_stop_counts_the_other_findings() -> None:
    found = Finding(Grade.CRITICAL, "It is so.", "Why.", "steps", "a.b")
    assert "because of a.b: It is so (1 more critical findings); change steps" in refusal(Checked((found, found)))


def test_verdicts_go_to_the_answers_that_have_one() -> None:
    answered = episodes(TASK.pool(2, 0), samples=2)
    answered[1] = replace(answered[1], failed=True)
    verdicts = [Asked(n, "", Worth.ODD, float(n), correct=n == 2) for n in range(2)]
    sampled = sampled_of(answered, verdicts, joint=False)
    assert [(s.group, s.tool_failed, s.asked, s.correct) for s in sampled] == [
        (0, False, True, False), (0, True, False, False), (1, False, True, False), (1, False, False, False),
    ]  # fmt: skip
    assert [s.reward for s in sampled if s.asked] == [0.0, 1.0]
    assert {s.group for s in sampled_of(answered, verdicts, joint=True)} == {0}


class Learner:
    """Weights that grow by what the optimizer remembers; a checkpoint may forget that."""

    def __init__(self, *, forgets: bool, learns: bool = True) -> None:
        self.weight, self.memory, self.saved = 0.0, 0.0, (0.0, 0.0)
        self._forgets, self._learns = forgets, learns

    def weights(self, version: int) -> Any:
        return SimpleNamespace(arrays={"w": np.array([self.weight])})

    def train(self, position: TrainingCursor, trajectories: object, *, snapshot: bool) -> tuple[Any, Any]:
        self.memory += self._learns
        self.weight += self.memory
        return None, self.weights(0)

    def load(self, path: str) -> None:
        self.weight, memory = self.saved
        self.memory = 0.0 if self._forgets else memory


@pytest.mark.parametrize(
    ("learner", "difference"),
    [(Learner(forgets=False), 0.0), (Learner(forgets=True), 1.0), (Learner(forgets=False, learns=False), None)],
    ids=["whole", "without optimizer", "no update"],
)
def test_checkpoint_without_the_optimizers_state_makes_another_step(
    learner: Learner, difference: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "wait_for", lambda calls, *_: calls)
    folder = tmp_path / "run"

    def save(target: Path) -> str:
        target.mkdir()
        learner.saved = learner.weight, learner.memory
        return str(target)

    first = TrainingCursor(StepId(0, 1, 1), 1, 16)
    made = SimpleNamespace(positions=lambda: iter([first]), generate=lambda _: [], save=save)
    group = cast("Any", SimpleNamespace(learner=learner))
    assert resume_difference(planned(folder=folder), cast("Session", made), group) == difference
    assert not folder.exists()


def test_step_that_could_not_be_tried_is_said_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RolloutError("The disk is full.")

    monkeypatch.setattr(module, "resume_difference", fail)
    preflight = Preflight(planned(), lambda _: None, stops=False)
    preflight.begin()
    preflight.finish(session(), 0.0, full=True, group=cast("Any", object()))
    assert NotRun("The disk is full.", "live.resume") in preflight.checked.not_run


def test_rehearsal_asks_every_rollout_for_whole_groups_sampled_as_in_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load_config(None, ["rollout.temperature=0.7", "algorithm.samples_per_prompt=3", "rollout.num_actors=2"])
    plan = planned(config=config)
    monkeypatch.setattr(session_module, "wait_for", lambda calls, *_: [[call.reference] for call in calls])
    position = TrainingCursor(StepId(1, 4, 6), 5, 64)
    calls: Any = Session(plan, make_group(plan), position).rehearse(plan.pool[:4])
    assert [(actor, verb, step, version) for actor, verb, _, step, _, version in calls] == [
        (f"rollout-{n}", "rehearse", position.id, 5) for n in range(2)
    ]
    assert {sampling.temperature for *_, sampling, _ in calls} == {0.7}
    jobs = [job for _, _, share, *_ in calls for job in share]
    assert [(job.group, job.sample, job.problem) for job in jobs] == [
        (group, sample, plan.pool[group]) for group in range(4) for sample in range(3)
    ]
    assert not any(job.greedy for job in jobs)
