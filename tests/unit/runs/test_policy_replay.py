"""Recorded incidents, and what a policy would have decided in them: contexts as they were, differences in words."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from rftfm_ray.cli.policies import RECORDED
from rftfm_ray.config import load_config
from rftfm_ray.errors import GuardError, RecordError
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.grounds import GroundKind
from rftfm_ray.policies.hold_and_ask import HoldAndAsk
from rftfm_ray.policies.loading import FunctionPolicy, load_policy
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.runs.policy_replay import Action, ReplayedDecision, differences, replay_policy
from rftfm_ray.runs.reader import RunData, read_run
from rftfm_ray.runs.recorded_contexts import Moment, _Rebuilt, moments
from rftfm_ray.types import GuardMode, Levers, StepId
from rftfm_ray.verdicts import Decision, Evidence, Outcome, OutcomeKind, Remedy
from tests.detecting import make_report
from tests.texts import without_places

LONG_S = 30.0
EXAMPLE = Path(__file__).parents[3] / "examples" / "custom_policy.py"
RUNS = ("kl_explosion", "reward_collapse", "slowed_down")


@cache
def recorded(name: str) -> RunData:
    """A recorded run that ships."""
    return read_run(RECORDED / name)


def asked(name: str) -> list[Moment]:
    """The moments of a run at which a policy was asked, or would have been."""
    return [moment for moment in moments(recorded(name)) if moment.context is not None]


def context(name: str, number: int = 0) -> PolicyContext:
    """The context of a decision of a run."""
    found = asked(name)[number].context
    assert found is not None
    return found


def replayed(policy: object, name: str) -> tuple[ReplayedDecision, ...]:
    """What a policy decides in a run."""
    return replay_policy(policy, "mine", recorded(name), LONG_S)  # type: ignore[arg-type]


def test_recorded_runs_are_few_and_small() -> None:
    assert tuple(sorted(path.name for path in RECORDED.iterdir())) == RUNS
    files = [path for path in RECORDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 200_000


@pytest.mark.parametrize("name", RUNS)
def test_policy_of_a_run_decides_as_it_did_then(name: str) -> None:
    """Word for word: a reason quotes figures of the context, so the context is that of then."""
    config = recorded(name).config
    assert config is not None
    policy = load_policy(f"{EXAMPLE}:SlowDown" if config.guard.policy else None)
    made = replayed(policy, name)
    assert made
    # A run that only observes asks nobody, and does nothing.
    differs = ("gives regrade where nothing was done",) if config.guard.mode is GuardMode.OBSERVE else ()
    assert [each.differences for each in made] == [differs] * len(made)
    for each in made:
        assert each.problems == ()
        if each.recorded.remedy:
            assert each.decided == each.recorded


def test_context_is_rebuilt_from_journal_and_rows() -> None:
    ctx = context("kl_explosion")
    assert (ctx.step.step, ctx.diagnosis.code, ctx.diagnosis.onset, ctx.snapshots) == (12, "OD-1", 12, (0, 5, 10))
    assert [report.id.step for report in ctx.reports] == list(range(1, 13))
    assert ctx.nominal.kl_coef == 0.02
    assert (ctx.tried, ctx.levers, ctx.budget_left) == ((), Levers(), 4)
    assert ctx.ground is not None
    assert ctx.ground.kind is GroundKind.READING
    symptom = ctx.diagnosis.symptoms[0]
    assert symptom.evidence in tuple(Evidence)
    assert symptom.reason in ctx.diagnosis.summary or symptom.reason
    assert math.isnan(symptom.score)
    assert ctx.diagnosis.probability > 0.9


def test_remedies_of_an_incident_are_in_its_later_contexts() -> None:
    contexts = [context("slowed_down", number) for number in range(len(asked("slowed_down")))]
    assert [len(ctx.tried) for ctx in contexts] == list(range(len(contexts)))
    assert contexts[1].tried[0].remedy == "slow_down"
    assert contexts[1].tried[0].outcome is not None
    assert contexts[1].budget_left == contexts[0].budget_left - 1


def test_lineage_leaves_out_what_a_rollback_has_undone() -> None:
    data = recorded("slowed_down")
    (back,) = (e for e in data.entries if e.kind is EntryKind.APPLIED and e.has("restored"))
    after = next(m.context for m in asked("slowed_down") if m.entry.id.paid_step > back.id.paid_step)
    assert after is not None
    steps = [report.id.step for report in after.reports]
    assert steps == list(range(1, after.step.step + 1))
    restored = back.integer("restored")
    assert {report.id.attempt for report in after.reports if report.id.step > restored} == {1}


def test_run_that_only_observed_asks_about_its_diagnosis() -> None:
    (made,) = replayed(HoldAndAsk(), "reward_collapse")
    assert (made.code, made.asked, made.recorded.remedy) == ("RF-2", "", "")
    assert made.recorded.reason == "nobody was asked: guard.mode=observe"
    assert made.differences == ("proposes regrade where nothing was done",)


class Witness:
    """Remembers what it was told, and waits."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def decide(self, ctx: PolicyContext) -> Decision:
        """Says what it knows."""
        return Decision(None, f"told of {', '.join(self.told) or 'nothing'}", (("tries", len(self.told)),))

    def observe(self, outcome: Outcome) -> None:
        """Remember it."""
        self.told.append(f"{outcome.remedy} {outcome.kind}{' again' if outcome.abandoned else ''}")

    def state_dict(self) -> dict[str, list[str]]:
        """All of it."""
        return {"told": list(self.told)}

    def load_state_dict(self, state: dict[str, list[str]]) -> None:
        """All of it again."""
        self.told = list(state["told"])


def test_policy_is_told_recorded_outcomes_and_goes_back_with_recorded_rollbacks() -> None:
    made = replayed(Witness(), "slowed_down")
    reasons = [each.decided.reason for each in made]
    assert reasons[0] == "told of nothing"
    assert reasons[1] == "told of slow_down ineffective"
    assert reasons[2].startswith("told of slow_down ineffective again, slow_down ")
    assert made[0].outcome == OutcomeKind.INEFFECTIVE.value
    assert made[0].differences == ("does nothing instead of slow_down",)


def test_policy_that_fails_is_told_and_the_replay_goes_on() -> None:
    def fails(ctx: PolicyContext) -> Decision:
        raise ValueError("on purpose")

    (made,) = replayed(FunctionPolicy(fails), "kl_explosion")
    (problem,) = made.problems
    assert without_places(problem) == "it raised ValueError: on purpose"
    assert "test_policy_replay.py:" in problem
    assert made.decided.remedy == ""


def test_levers_of_a_decision_are_those_that_would_be_in_force() -> None:
    def faster(ctx: PolicyContext) -> Decision:
        return Decision(Remedy("entropy", Levers(entropy_coef=0.01)), "more of it")

    made = replayed(FunctionPolicy(faster), "slowed_down")
    # The first remedy did not help, so it is undone before the next.
    assert [each.decided.levers for each in made[:2]] == [{"entropy_coef": 0.01}] * 2


SOME = Action("some", {"lr_scale": 0.5}, 10)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (replace(SOME, remedy="another name", reason="another reason"), ()),
        (Action("", {}), ("does nothing instead of some",)),
        (replace(SOME, levers={"lr_scale": 0.1}), ("lr_scale 0.1 instead of 0.5",)),
        (replace(SOME, levers={}), ("lr_scale nominal instead of 0.5",)),
        (replace(SOME, restore_step=5), ("a rollback to step 5 instead of a rollback to step 10",)),
        (replace(SOME, restore_step=None), ("no rollback instead of a rollback to step 10",)),
        (replace(SOME, halt=True), ("ends the run",)),
        (replace(SOME, asks=True), ("asks a person first",)),
    ],
)
def test_differences_in_words(other: Action, told: tuple[str, ...]) -> None:
    assert differences(SOME, other) == told


def test_differences_from_nothing() -> None:
    nothing = Action("", {})
    assert differences(nothing, nothing) == ()
    assert differences(nothing, SOME) == ("gives some where nothing was done",)
    assert differences(nothing, replace(SOME, asks=True)) == ("proposes some where nothing was done",)
    assert differences(replace(SOME, halt=True), SOME) == ("does not end the run",)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of a recorded run that may be damaged."""
    return Path(shutil.copytree(RECORDED / "kl_explosion", tmp_path / "run"))


def test_run_without_a_configuration_is_refused(copied: Path) -> None:
    (copied / "config.yaml").unlink()
    with pytest.raises(RecordError, match=r"config\.yaml is missing or of another version; it is needed for a replay"):
        replay_policy(Playbook(), "playbook", read_run(copied), LONG_S)


def test_altered_journal_is_refused(copied: Path) -> None:
    lines = [json.loads(line) for line in (copied / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    altered = [line | {"incident": 7} if line["kind"] == "decided" else line for line in lines]
    (copied / "journal.jsonl").write_text("\n".join(map(json.dumps, altered)) + "\n", encoding="utf-8")
    with pytest.raises(GuardError, match="names incident 7, which was never opened"):
        replay_policy(Playbook(), "playbook", read_run(copied), LONG_S)


def test_run_without_rows_or_incidents_has_no_decision(copied: Path) -> None:
    shutil.rmtree(copied / "steps")
    (made,) = replay_policy(HoldAndAsk(), "hold_and_ask", read_run(copied), LONG_S)
    assert made.problems
    (copied / "journal.jsonl").unlink()
    assert replay_policy(Playbook(), "playbook", read_run(copied), LONG_S) == ()


def test_new_learner_begins_without_the_snapshots_of_the_old_one() -> None:
    config = load_config(None, ["snapshots.every=5"])
    reports = [make_report(step) for step in range(1, 19)]
    at = StepId(0, 13, 13)
    decided = Entry(1, EntryKind.DECIDED, at, 1, (("order", 1), ("actions", "restart_learner")))
    applied = Entry(2, EntryKind.APPLIED, at, 1, (("order", 1), ("remedy", "new_learner"), ("role", "remedy")))
    start = Entry(0, EntryKind.STARTED, StepId(0, 0, 0), 0, ())
    rebuilt = _Rebuilt(config, reports, [start, decided, applied])
    assert [rebuilt._course(last)[1] for last in (12, 14, 16)] == [(0, 5, 10), (), (15,)]
