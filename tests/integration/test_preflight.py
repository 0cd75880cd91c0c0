"""Preflight with real actors: what it finds, what it costs, and that the run after it is the run without it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rftfm_ray.actors.group import ActorGroup, start_group
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.driver.preflight import Preflight, resume_difference
from rftfm_ray.driver.run import execute, train
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import PreflightError
from rftfm_ray.metrics import StepRow, Timings
from rftfm_ray.planning import plan
from rftfm_ray.preflight.findings import Checked, Finding
from rftfm_ray.telemetry.events import read_events

pytestmark = pytest.mark.usefixtures("cluster")

ROOT = Path(__file__).parents[2]
BROKEN = ROOT / "tests" / "unit" / "preflight" / "broken_tasks.py"
MOST_S = 10.0
"""Seconds that actors may take to answer. That the task's code answers within the 10 s of `preflight.timeout_s` is
shown by the command: here its process starts after the actors, which are warm."""

REMEMBERING = '''
"""A verifier that pays by how often it was asked, in its process and in the task."""
from rftfm_ray import Verdict
from rftfm_ray.tasks.addition import Addition

COUNT = {"asked": 0}


class Remembering(Addition):
    name = "remembering"

    def __init__(self):
        self.asked = 0

    def verify(self, problem, transcript):
        COUNT["asked"] += 1
        self.asked += 1
        right = transcript.finished and transcript.turns[-1] == problem.answer
        return Verdict(float(right) + 1e-3 * (COUNT["asked"] % 7) + 1e-2 * (self.asked % 5), right)
'''


def configure(*overrides: str, file: str = "addition") -> RunConfig:
    """A run of a few seconds."""
    small = [
        "preflight.timeout_s=60", "steps=3", "algorithm.prompts_per_step=4", "algorithm.samples_per_prompt=4",
        "probe.size=16", "probe.final_size=16", "probe.every=2", "checkpoints.at_end=false", "snapshots.every=1",
        "report.at_end=false",
    ]  # fmt: skip
    return load_config(ROOT / "examples" / f"{file}.yaml", [*small, *overrides])


def rows_of(config: RunConfig, folder: Path, warm: WarmActors) -> list[StepRow]:
    """The rows of a run, without its times."""
    rows: list[StepRow] = []
    train(config, folder, observe=rows.append, warm=warm)
    nothing = Timings(*(0.0 for _ in Timings.__dataclass_fields__))
    return [replace(row, timings=nothing) for row in rows]


def test_run_after_preflight_is_the_run_without_it(tmp_path: Path, warm: WarmActors) -> None:
    """Even where the verifier pays by how often it was asked: preflight asks a copy in another process."""
    task = tmp_path / "remembering.py"
    task.write_text(REMEMBERING)
    keys = (f"task.name={task}:Remembering", "verifier.workers=1")
    without = rows_of(configure(*keys, "preflight.mode=off"), tmp_path / "off", warm)
    checked = rows_of(configure(*keys), tmp_path / "warn", warm)
    assert str(checked) == str(without)
    assert len(checked) == 3
    kinds = [event["kind"] for event in read_events(tmp_path / "warn" / "events.jsonl")]
    assert "preflight" in kinds
    assert "preflight" not in [event["kind"] for event in read_events(tmp_path / "off" / "events.jsonl")]


@pytest.mark.parametrize("file", ["addition", "calculator"])
def test_examples_are_silent_and_preflight_is_quick(file: str, tmp_path: Path, warm: WarmActors) -> None:
    found: list[Finding] = []
    outcomes: list[Checked] = []
    listeners = Listeners(finding=found.append, preflight=outcomes.append)
    execute(plan(configure("steps=1", file=file), tmp_path / "run"), listeners, 0.0, warm)
    assert found == []
    (checked,) = outcomes
    assert [each.check for each in checked.not_run] == ["live.resume"]
    assert {"live.parity", "live.one_token", "live.weights", "live.groups", "live.cut_off"} <= set(checked.passed)
    assert checked.seconds < 60 + MOST_S
    (event,) = (e for e in read_events(tmp_path / "run" / "events.jsonl") if e["kind"] == "preflight")
    assert (event["findings"], event["not_run"]) == (0, "live.resume")


def test_run_is_ended_before_its_first_step_where_that_is_wanted(tmp_path: Path, warm: WarmActors) -> None:
    config = configure(f"task.name={BROKEN}:Constant", "preflight.mode=stop")
    with pytest.raises(
        PreflightError, match=r"^preflight\.mode=stop ends the run before step 0, because of reward\.same"
    ):
        train(config, tmp_path / "run", warm=warm)
    events = list(read_events(tmp_path / "run" / "events.jsonl"))
    assert "probe" not in [event["kind"] for event in events]
    assert "reward.same" in [event.get("check") for event in events]


def test_rewards_that_never_differ_are_found_in_the_groups_of_the_model(tmp_path: Path, warm: WarmActors) -> None:
    """A verifier that pays only what its author thought of: no check of the verifier alone can see it."""
    task = tmp_path / "picky.py"
    task.write_text(
        "from rftfm_ray import Verdict\nfrom rftfm_ray.tasks.addition import Addition\n\n\n"
        "class Picky(Addition):\n    name = 'picky'\n    max_new_tokens = (12,)\n\n"
        "    def reference(self, problem):\n"
        "        from rftfm_ray import Transcript\n        return Transcript((f'0{problem.answer}=',))\n\n"
        "    def verify(self, problem, transcript):\n"
        "        right = transcript.turns[-1] == f'0{problem.answer}='\n"
        "        return Verdict(float(right), right)\n"
    )
    found: list[Finding] = []
    config = configure(f"task.name={task}:Picky", "steps=1", "guard.on_harm=warn")
    execute(plan(config, tmp_path / "run"), Listeners(finding=found.append), 0.0, warm)
    assert [(each.check, each.grade.value) for each in found] == [("live.groups", "critical")]
    assert "0% of the answers are right" in found[0].what


def test_task_whose_code_never_answers_costs_no_more_than_its_time(tmp_path: Path, warm: WarmActors) -> None:
    task = tmp_path / "sleepy.py"
    task.write_text(
        "import time\nfrom rftfm_ray.tasks.addition import Addition\n\n\n"
        "class Sleepy(Addition):\n    name = 'sleepy'\n\n"
        "    def verify(self, problem, transcript):\n"
        "        if '\\x1b' in transcript.turns[-1]:\n            time.sleep(1000)\n"
        "        return super().verify(problem, transcript)\n"
    )
    found: list[Finding] = []
    outcomes: list[Checked] = []
    config = configure(f"task.name={task}:Sleepy", "steps=1", "preflight.timeout_s=2")
    listeners = Listeners(finding=found.append, preflight=outcomes.append)
    execute(plan(config, tmp_path / "run"), listeners, 0.0, warm)
    assert [(each.check, each.grade.value) for each in found] == [("reward.slow", "warning")]
    assert outcomes[0].seconds < MOST_S


def test_step_after_saving_and_loading_is_compared(tmp_path: Path) -> None:
    """Equal after an honest checkpoint; not after one that lacks what the optimizer has learnt."""
    planned = plan(configure(), tmp_path / "run")
    group = start_group(planned)
    try:
        session = Session(planned, group)
        outcome = Preflight(planned, lambda _: None, stops=False)
        outcome.begin()
        first = tmp_path / "first"
        session.save(first)
        (empty,) = first.glob("step-*")
        outcome.finish(session, session.resync(), full=True, group=group)
        assert "live.resume" in outcome.checked.passed
        assert not planned.folder.exists()

        class Forgetful:
            def load(self, path: str) -> Any:
                return group.learner.load(empty)

            def __getattr__(self, name: str) -> Any:
                return getattr(group.learner, name)

        forgetful = cast("ActorGroup", SimpleNamespace(learner=Forgetful()))
        difference = resume_difference(planned, session, forgetful)
        assert difference is not None
        assert difference > 0
        assert not math.isnan(difference)
    finally:
        group.stop()
