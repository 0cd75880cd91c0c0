"""Who must not know of a fire drill, and what goes past the instances that it has broken."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from rftfm_ray.actors import rollout as module
from rftfm_ray.actors.roles import Role
from rftfm_ray.actors.rollout import RolloutActor, live_channels
from rftfm_ray.config import RolloutConfig, RunConfig, load_config
from rftfm_ray.faults.catalogue import FaultSpec, parse_fault
from rftfm_ray.faults.injectors import ToolOutageError
from rftfm_ray.models import ASSETS
from rftfm_ray.rollout import engine
from rftfm_ray.rollout.channels import CallId, Channels, EpisodeId, Grade, trusted_channels
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.jobs import probe_jobs, step_jobs
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.rollout.weights import pack_weights
from rftfm_ray.tasks.addition import problem
from rftfm_ray.tasks.api import Transcript
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.types import Levers, Sampling, StepId

PACKAGE = Path(__file__).parents[2] / "rftfm_ray"
TINY = str(ASSETS / "tiny")
GUARDING = ["detection", "diagnosis", "policies"]
UNAWARE = [*GUARDING, "actors/monitor.py", "actors/controller.py", "guard.py", "remediation.py"]
PROBLEMS = [problem(12, 34, 10 + n) for n in range(6)]
STEP, SAMPLED = StepId(0, 3, 3), Sampling(1.0, 1.0)
WRONG = Transcript(("0",))
ALL_DOWN, ONE_DOWN = parse_fault("TE-1@1:1,instances=all"), parse_fault("TE-1@1:1")
OVERPAID = parse_fault("RF-1@1:4,mechanism=wrong_answers")


def sources(part: str) -> list[Path]:
    """The modules of a part of the package: a file, or a folder."""
    found = [PACKAGE / part] if part.endswith(".py") else sorted((PACKAGE / part).rglob("*.py"))
    assert found
    return found


def imported(path: Path) -> Iterator[str]:
    """Everything of the package that a module imports anywhere, names included: they may be modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached(path: Path) -> set[str]:
    """Every module of the package that is loaded with one, names of their contents among them."""
    found: set[str] = set()
    left = [path]
    while left:
        for name in set(imported(left.pop())) - found:
            found.add(name)
            place = PACKAGE.parent / name.replace(".", "/")
            left += [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]
    return {name for name in found if name.startswith("rftfm_ray.")}


def within(names: Iterable[str], part: str) -> set[str]:
    """Those of `names` that belong to a part of the package."""
    return {name for name in names if f"{name}.".startswith(f"rftfm_ray.{part}.")}


@pytest.mark.parametrize("part", UNAWARE)
def test_who_detects_diagnoses_and_mends_knows_of_no_fault(part: str) -> None:
    for path in sources(part):
        assert within(imported(path), "faults") == set(), path


@pytest.mark.parametrize("part", GUARDING)
def test_detection_diagnosis_and_policies_do_not_reach_a_fault_either(part: str) -> None:
    for path in sources(part):
        assert within(reached(path), "faults") == set(), path


def test_faults_know_nothing_of_who_looks_for_them() -> None:
    for path in sources("faults"):
        assert {part for part in GUARDING if within(reached(path), part)} == set(), path


def test_walk_over_imports_sees_them() -> None:
    assert "rftfm_ray.faults.catalogue" in set(imported(PACKAGE / "actors/rollout.py"))
    assert "rftfm_ray.detection.signals" in reached(PACKAGE / "policies/playbook.py")
    assert within({"rftfm_ray.faults", "rftfm_ray.faultless.a", "rftfm_ray.faults.catalogue.CATALOGUE"}, "faults") == {
        "rftfm_ray.faults",
        "rftfm_ray.faults.catalogue.CATALOGUE",
    }


def configure(*overrides: str) -> RunConfig:
    """A run of the calculator."""
    return load_config(None, ["task.name=calculator", *overrides])


def ask(channels: Channels, tries: int) -> bool:
    """Whether a call succeeds."""
    call = CallId(EpisodeId(STEP, PROBLEMS[0].key, 0), 0, tries)
    try:
        return channels.tools.ask(call, PROBLEMS[0], "c12+34+10;") is not None
    except ToolOutageError:
        return False


def grade(channels: Channels, sample: int = 0) -> Grade:
    """The grade of a wrong answer."""
    found = channels.grader.grade(EpisodeId(STEP, PROBLEMS[0].key, sample), PROBLEMS[0], WRONG)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("faults", "sound"), [([], [True, True]), ([ONE_DOWN], [False, True]), ([ALL_DOWN], [False, False])]
)
def test_live_tools_have_the_faults_of_the_run_in_them(faults: list[FaultSpec], sound: list[bool]) -> None:
    channels = live_channels(Calculator(), configure(), faults)
    assert [ask(channels, tries) for tries in (0, 1)] == sound
    assert [ask(trusted_channels(Calculator()), tries) for tries in (0, 1)] == [True, True]


def test_live_rewards_have_the_faults_of_the_run_in_them_and_trusted_ones_have_not() -> None:
    channels = live_channels(Calculator(), configure("guard.regrade_rate=1"), [OVERPAID])
    assert grade(channels) == Grade(reward=4.0, live=4.0, trusted=0.0, correct=False)
    channels.set_levers(Levers(regrade_rate=1.0))
    assert grade(channels) == Grade(reward=0.0, live=4.0, trusted=0.0, correct=False)
    assert grade(trusted_channels(Calculator())).reward == 0.0
    assert grade(live_channels(Calculator(), configure("guard.regrade_rate=1"), [])).live == 0.0


@pytest.mark.parametrize(
    ("mode", "rate", "share"), [("off", 0.5, 0.0), ("observe", 0.5, 0.5), ("act", 0.25, 0.25), ("advise", 0.0, 0.0)]
)
def test_sample_for_the_guard_is_graded_again_unless_there_is_none(mode: str, rate: float, share: float) -> None:
    channels = live_channels(Calculator(), configure(f"guard.mode={mode}", f"guard.regrade_rate={rate}"), [])
    asked = [not math.isnan(grade(channels, sample).trusted) for sample in range(1000)]
    assert sum(asked) / len(asked) == pytest.approx(share, abs=0.05)


def test_retries_and_their_wait_are_those_of_the_configuration() -> None:
    tools = live_channels(Calculator(), configure("rollout.tool_retries=2", "rollout.tool_backoff_s=0.5"), []).tools
    assert [tools.retry_after_s(failed) for failed in (1, 2, 3)] == [0.5, 1.0, None]


class Solver:
    """Stands in for vLLM: calls the calculator, then gives the right answer."""

    def __init__(self, model_path: str, dtype: str, config: RolloutConfig) -> None:
        self._codec = TextCodec(model_path)
        self._queue: list[TurnResult] = []
        self.turns = 0

    def load(self, arrays: Mapping[str, object]) -> None:
        """Weights: none."""

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        asked, _, rest = self._codec.decode(request.tokens).partition("=")
        said = self._codec.encode(str(sum(map(int, asked.split("+")))) if rest else f"c{asked};")
        said += list(self._codec.eos_ids) if rest else []
        self._queue.append(TurnResult(request.id, said, [-1.0] * len(said), truncated=False))
        self.turns += 1

    def step(self) -> Iterable[TurnResult]:
        done, self._queue = self._queue, []
        return done

    def busy(self) -> bool:
        return bool(self._queue)


class Mute:
    """Stands in for a gauge: Ray is not there."""

    def __init__(self, *arguments: object) -> None:
        pass

    def set(self, *arguments: object) -> None:
        pass


def make_actor(monkeypatch: pytest.MonkeyPatch, *faults: FaultSpec) -> RolloutActor:
    """A rollout actor in this process, at model version 0, on an engine that solves everything."""
    monkeypatch.setattr(module, "rename_process", lambda role: None)
    monkeypatch.setattr(module, "StateGauge", Mute)
    monkeypatch.setattr(engine, "VllmEngine", Solver)
    actor = RolloutActor(Role("run", "rollout", 0, ""), configure(), TINY, Calculator(), faults)
    assert actor.load_weights(pack_weights(0, {"weight": np.zeros(2, np.float32)})) == 0
    return actor


def test_probes_go_past_tools_that_are_down_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = make_actor(monkeypatch, ALL_DOWN)
    batch = actor.generate(step_jobs(PROBLEMS, 2), STEP, SAMPLED, 0)
    assert not batch.valid.any()
    right, size, seconds = actor.probe(probe_jobs(PROBLEMS), STEP, 0)
    assert (right, size, seconds >= 0) == (6, 6, True)


def test_levers_move_training_and_not_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = make_actor(monkeypatch, ONE_DOWN)
    actor.set_levers(Levers(tool_instance=1, reward_limit=0.25))
    batch = actor.generate(step_jobs(PROBLEMS, 2), STEP, SAMPLED, 0)
    assert batch.valid.all()
    assert set(batch.reward.tolist()) == {0.25}
    assert batch.shadow_ok.tolist() == [False, False]
    assert actor.probe(probe_jobs(PROBLEMS), STEP, 0)[:2] == (6, 6)


def test_probe_does_not_get_between_a_step_and_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = make_actor(monkeypatch, ONE_DOWN)
    batch = actor.generate(step_jobs(PROBLEMS, 2), STEP, SAMPLED, 0)
    actor.probe(probe_jobs(PROBLEMS), STEP, 0)
    actor.set_levers(Levers(tool_instance=1, refill_rounds=1))
    revised = actor.revise(STEP)
    assert batch.keys == revised.keys
    assert not batch.valid.any()
    assert revised.valid.all()
    assert revised.refills.tolist() == [1] * 12
