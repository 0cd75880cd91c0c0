"""The closed loop on the real stack: faults found, named, mended and verified; healthy runs left alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rftfm_ray.actors.placement import NAMESPACE
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.run import train
from rftfm_ray.errors import GuardHaltError
from rftfm_ray.incidents.state import Entry, EntryKind, GuardState, levers_of, replay
from rftfm_ray.metrics import StepRow, Timings
from rftfm_ray.telemetry.events import read_events
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.telemetry.recorder import read_steps
from rftfm_ray.training import checkpoints
from rftfm_ray.types import Levers, RunSummary
from rftfm_ray.verdicts import IncidentState, OutcomeKind

pytestmark = pytest.mark.usefixtures("cluster")

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = [
    "seed=5",
    "steps=22",
    "algorithm.prompts_per_step=8",
    "algorithm.samples_per_prompt=4",
    "learner.lr=2e-4",
    "probe.size=80",
    "probe.final_size=80",
    "checkpoints.at_end=false",
    "report.at_end=false",
    "guard.verify_steps=4",
    "guard.return_after=3",
    "guard.regrade_rate=0.5",
]
ACT = ["guard.mode=act", "guard.act_on=[RF,OD,TE,NUMERICAL]"]
# Times, and what is looked at only when somebody guards.
UNEQUAL = {*Timings.__dataclass_fields__, "tool_latency_s", "tool_latency_max_s", "tool_error_latency_s"}
ASKED = {"regrade_count", "golden_count", "known_call_count", "replay_count"}


def config(*overrides: str) -> RunConfig:
    """A run of a few seconds."""
    return load_config(None, [*SMALL, *overrides])


def columns(summary: RunSummary, *without: str) -> dict[str, list[Any]]:
    """Columns of the step rows that the seed determines; NaN as None, so that equal means equal."""
    table = read_steps(Path(summary.run_dir))
    kept = [name for name in table.column_names if name not in UNEQUAL and name not in without]
    return {
        name: [None if isinstance(v, float) and math.isnan(v) else v for v in table[name].to_pylist()] for name in kept
    }


def assert_same(guarded: RunSummary, off: RunSummary) -> None:
    """Every figure that an unguarded run measures is that of the guarded one."""
    found, wanted = columns(guarded, *ASKED), columns(off, *ASKED)
    measured = {name: values for name, values in wanted.items() if any(v is not None for v in values)}
    assert len(measured) > 60
    assert {name: found[name] for name in measured} == measured


def journal(summary: RunSummary) -> tuple[Entry, ...]:
    """The journal of a run."""
    return read_journal(Path(summary.run_dir) / JOURNAL)[0]


def state_of(summary: RunSummary) -> GuardState:
    """What the journal of a run comes to."""
    return replay(journal(summary))


def kinds(entries: tuple[Entry, ...]) -> list[EntryKind]:
    """Kinds of entries in order."""
    return [entry.kind for entry in entries]


@pytest.fixture(scope="module")
def exploded(cluster: None, runs: Path, warm: WarmActors) -> RunSummary:
    """OD-1 under a guard that acts."""
    return train(config(*ACT, "inject=['OD-1@12:30,duration=4']", "steps=40"), runs / "exploded", warm=warm)


def test_a_healthy_run_is_left_alone_and_equals_the_unguarded_one(runs: Path, warm: WarmActors) -> None:
    guarded = train(config(*ACT), runs / "healthy-act", warm=warm)
    off = train(config("guard.mode=off"), runs / "healthy-off", warm=warm)
    assert_same(guarded, off)
    assert guarded.probe_last == off.probe_last
    assert (guarded.incidents, guarded.remedies, off.incidents) == ((), 0, ())
    assert kinds(journal(guarded)) == [EntryKind.STARTED, EntryKind.PROBED, EntryKind.ENDED]
    assert not (Path(off.run_dir) / JOURNAL).exists()
    regraded = columns(guarded)
    assert sum(regraded["regrade_count"]) > 0.4 * 22 * 32
    assert set(regraded["regrade_mismatch_rate"]) == {0.0}


def test_an_explosion_is_rolled_back_verified_and_let_go(exploded: RunSummary) -> None:
    state = state_of(exploded)
    (incident,) = state.incidents
    assert (incident.code, incident.state, incident.onset) == ("OD-1", IncidentState.RESOLVED, 12)
    assert incident.opened.paid_step == 12
    (tried,) = incident.tried
    # The verdict waits for a probe of weights that were trained under the remedy; the source is silent by then.
    assert (tried.remedy, tried.outcome) == ("rollback_lower_rate", OutcomeKind.RESOLVED)
    (confirmed,) = [entry for entry in journal(exploded) if entry.kind is EntryKind.CONFIRMED]
    assert confirmed.text("ground") in ("reading", "channel")
    # The fault lasted four steps: once its source was silent, every lever has gone back to nominal.
    assert state.levers == Levers()
    applied = [entry for entry in journal(exploded) if entry.kind is EntryKind.APPLIED]
    scales = [levers_of(entry).lr_scale for entry in applied]
    lowered = [scale for scale in scales if scale is not None]
    assert 0.01 <= lowered[0] < 0.1
    assert lowered == sorted(lowered)
    assert scales[-1] is None


def test_a_rollback_is_a_new_attempt_and_destroys_nothing(exploded: RunSummary) -> None:
    rows = columns(exploded)
    keys = list(zip(rows["attempt"], rows["step"], rows["paid_step"], strict=True))
    assert keys[:12] == [(0, step, step) for step in range(1, 13)]
    # Step 13 was being generated when the rollback came: paid, and thrown away.
    assert keys[12:] == [(1, step, step + 3) for step in range(11, 41)]
    assert exploded.paid_steps == 43
    assert exploded.steps == 40
    versions = rows["model_version"]
    assert versions == sorted(set(versions))
    assert max(rows["rollout_gap_max"]) < 1e-4
    usual = max(rows["update_ratio"][5:11])
    assert rows["update_ratio"][11] > 10 * usual
    assert max(rows["update_ratio"][12:]) < 3 * usual


def test_the_same_guarded_run_twice_is_the_same(exploded: RunSummary, runs: Path, warm: WarmActors) -> None:
    again = train(config(*ACT, "inject=['OD-1@12:30,duration=4']", "steps=40"), runs / "exploded-again", warm=warm)
    assert columns(again) == columns(exploded)

    def told(summary: RunSummary) -> list[tuple[Any, ...]]:
        return [(e.kind, e.id, e.incident, tuple(f for f in e.fields if f[0] != "seconds")) for e in journal(summary)]

    assert told(again) == told(exploded)


def test_a_rate_that_the_schedule_got_wrong_is_fixed_where_it_was_called_for(runs: Path, warm: WarmActors) -> None:
    summary = train(config(*ACT, "inject=['OD-1@12:30,mechanism=schedule']"), runs / "schedule", warm=warm)
    (incident,) = state_of(summary).incidents
    assert (incident.code, incident.tried[0].outcome) == ("OD-1", OutcomeKind.MITIGATED)
    assert state_of(summary).levers.lr_scale == pytest.approx(1.0)
    rows = columns(summary)
    assert rows["lr"][11] == pytest.approx(30 * 2e-4)
    assert rows["lr"][12:] == pytest.approx([2e-4] * len(rows["lr"][12:]))
    assert max(rows["schedule_excess"][12:]) == pytest.approx(math.log(30))


def test_spiked_rewards_are_graded_again_before_they_train(runs: Path, warm: WarmActors) -> None:
    summary = train(config(*ACT, "inject=['RF-1@12:2']"), runs / "spiked", warm=warm)
    (incident,) = state_of(summary).incidents
    assert (incident.code, incident.state) == ("RF-1", IncidentState.RESOLVED)
    assert 12 <= incident.opened.paid_step <= 14
    assert incident.tried[0].outcome is OutcomeKind.MITIGATED
    rows, mended = columns(summary), incident.tried[0].paid_step
    after = [step >= mended for step in rows["paid_step"]]
    assert {m for m, late in zip(rows["trained_mismatch_rate"], after, strict=True) if late} == {0.0}
    assert min(m for m, late in zip(rows["regrade_mismatch_rate"], after, strict=True) if late) > 0
    assert max(r for r, late in zip(rows["reward_max"], after, strict=True) if late) <= 1.0


CALLING = ["task.name=calculator", "learner.lr=1e-4", "steps=24"]


@pytest.mark.parametrize("everywhere", [False, True], ids=["one-instance", "both-instances"])
def test_tool_errors_are_masked_retried_failed_over_and_refilled(
    everywhere: bool, runs: Path, warm: WarmActors
) -> None:
    fault = f"TE-1@10:0.8{',instances=all' if everywhere else ''}"
    summary = train(config(*ACT, *CALLING, f"inject=['{fault}']"), runs / f"tools-{everywhere}", warm=warm)
    (incident,) = state_of(summary).incidents
    assert incident.code == "TE-1"
    assert 10 <= incident.opened.paid_step <= 12
    remedies = [(tried.remedy, tried.outcome) for tried in incident.tried]
    rows = columns(summary)
    struck = rows["paid_step"].index(10)
    assert rows["valid_rate"][struck] < 0.9
    assert rows["reward_min"][struck] >= -0.2
    if everywhere:
        assert remedies[-1] == ("mask_and_refill", OutcomeKind.MITIGATED)
        said = [entry.text("reason") for entry in journal(summary) if entry.kind is EntryKind.DECIDED]
        assert "every tool instance fails" in said[-1]
    else:
        assert remedies == [("retry_and_failover", OutcomeKind.MITIGATED)]
        assert min(rows["valid_rate"][struck + 1 :]) == 1.0
        # The idle instance is still ill, and is asked about known calls only.
        assert max(rows["tool_shadow_error_rate"][-3:]) > 0.5


BAD = """
import time
from rftfm_ray import Decision, Levers, Remedy
def raises(ctx): raise KeyError("no such thing")
def beyond(ctx): return Decision(Remedy("much", Levers(lr_scale=70.0)), "more is more")
def slow(ctx): time.sleep(60)
"""


@pytest.mark.parametrize(
    ("policy", "kind", "words"),
    [
        ("raises", EntryKind.POLICY_FAILED, "KeyError"),
        ("beyond", EntryKind.REFUSED, "lr_scale=70.0 is out of bounds"),
        ("slow", EntryKind.POLICY_FAILED, "longer than guard.policy_timeout_s=0.2"),
    ],
)
def test_a_policy_that_misbehaves_is_named_and_the_playbook_mends(
    policy: str, kind: EntryKind, words: str, runs: Path, tmp_path: Path, warm: WarmActors
) -> None:
    file = tmp_path / "bad.py"
    file.write_text(BAD)
    named = [f"guard.policy={file}:{policy}", "guard.policy_timeout_s=0.2"]
    summary = train(config(*ACT, *named, "inject=['OD-1@12:30']"), runs / f"policy-{policy}", warm=warm)
    entries = journal(summary)
    (problem,) = [entry for entry in entries if entry.kind is kind]
    assert words in problem.text("reason")
    decided = next(entry for entry in entries if entry.kind is EntryKind.DECIDED)
    assert decided.text("policy") == "playbook"
    (incident,) = state_of(summary).incidents
    assert incident.tried[0].outcome is OutcomeKind.MITIGATED
    assert summary.steps == 22


def test_the_example_policy_decides(runs: Path, warm: WarmActors) -> None:
    chosen = f"guard.policy={EXAMPLES / 'custom_policy.py'}:SlowDown"
    summary = train(config(*ACT, chosen, "inject=['OD-1@12:4']"), runs / "example", warm=warm)
    decided = [entry for entry in journal(summary) if entry.kind is EntryKind.DECIDED]
    assert decided[0].text("remedy") == "slow_down"
    assert decided[0].text("policy").endswith("custom_policy.py:SlowDown")
    assert levers_of(decided[0]).lr_scale == 0.5


@pytest.mark.parametrize("mode", ["observe", "advise"])
def test_nothing_is_touched_unless_the_guard_acts(mode: str, runs: Path, warm: WarmActors) -> None:
    fault = "inject=['OD-1@12:30']"
    summary = train(config(f"guard.mode={mode}", "guard.act_on=[OD]", fault), runs / mode, warm=warm)
    off = train(config("guard.mode=off", fault), runs / f"{mode}-off", warm=warm)
    assert_same(summary, off)
    (incident,) = state_of(summary).incidents
    assert incident.code == "OD-1"
    assert not incident.tried
    advised = [entry for entry in journal(summary) if entry.kind is EntryKind.ADVISED]
    assert len(advised) == (1 if mode == "advise" else 0)
    assert summary.remedies == 0


def test_a_run_that_cannot_be_mended_ends_with_a_checkpoint_of_its_own(runs: Path, warm: WarmActors) -> None:
    folder = runs / "halted"
    wanted = config(*ACT, "guard.on_give_up=halt", "guard.budget=0", "inject=['OD-1@12:30']", "steps=40")
    with pytest.raises(
        GuardHaltError, match=r"The guard ended the run .* Go on with: rftfm train .* --resume .*checkpoints/step-"
    ):
        train(wanted, folder, warm=warm)
    (saved,) = (folder / "checkpoints").glob("step-*")
    assert checkpoints.verify(saved).state.step == 12
    entries, _ = read_journal(folder / JOURNAL)
    assert replay(entries).halted
    assert [event["kind"] for event in read_events(folder / "events.jsonl")][-1] == "run_failed"
    assert GuardHaltError.exit_code == 3


def test_levers_stay_in_force_after_a_resume_and_then_go_back(runs: Path, warm: WarmActors) -> None:
    first = train(
        config(*ACT, "inject=['RF-1@8:2,duration=6']", "steps=14", "checkpoints.every=12"),
        runs / "to-resume",
        warm=warm,
    )
    saved = Path(first.run_dir) / "checkpoints" / "step-000012"
    assert checkpoints.verify(saved).state.levers == Levers(regrade_rate=1.0)
    second = train(config(*ACT), runs / "resumed-guarded", resume=saved, warm=warm)
    entries = journal(second)
    assert kinds(entries)[:2] == [EntryKind.STARTED, EntryKind.DECLARED]
    assert levers_of(entries[0]) == Levers(regrade_rate=1.0)
    rows = columns(second)
    # Every trajectory is graded again until the lever has been returned.
    assert rows["regrade_count"][0] == 32
    assert rows["regrade_count"][-1] < 32
    assert state_of(second).levers == Levers()
    assert second.incidents == ()


def test_a_lost_monitor_comes_back_and_that_is_said(runs: Path, warm: WarmActors) -> None:
    import ray

    def observe(row: StepRow) -> None:
        if row.id.step == 6:
            names = [n["name"] for n in ray.util.list_named_actors(all_namespaces=True)]
            name = next(n for n in names if n.endswith("/monitor-0"))
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))

    summary = train(config(*ACT, "steps=12"), runs / "lost", observe=observe, warm=warm)
    assert summary.steps == 12
    assert (summary.guard_restarts, summary.unguarded_steps) == (1, 0)
    (back,) = [entry for entry in journal(summary) if entry.kind is EntryKind.RESTORED]
    assert back.text("name") == "monitor-0"
    assert "died" in back.text("reason")
    assert not [e for e in read_events(Path(summary.run_dir) / "events.jsonl") if e["kind"] == "guard_lost"]


def test_the_fault_is_in_the_records_and_nowhere_near_the_guard(exploded: RunSummary) -> None:
    folder = Path(exploded.run_dir)
    (fault,) = [event for event in read_events(folder / "events.jsonl") if event["kind"] == "fault"]
    assert (fault["code"], fault["switch_step"], fault["effect_step"]) == ("OD-1", 12, 12)
    text = (folder / JOURNAL).read_text()
    assert "inject" not in text
    assert json.loads(text.splitlines()[0])["kind"] == "started"
