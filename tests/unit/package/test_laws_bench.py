"""The benches of laws: what they count, what their pages say, and that the stored runs of TRL are sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import foreign_laws, laws
from benchmarks.foreign_laws_page import JudgedRun, is_sound
from benchmarks.foreign_laws_page import page as foreign_page
from benchmarks.laws import Tally, WatchedRun, breaks_of, figures_of, law_share
from benchmarks.laws_page import page
from rftfm_ray.config import parse_config
from rftfm_ray.detection.laws.declaring import declared_course
from rftfm_ray.detection.laws.table import FLOOR_TABLE, LAWS
from rftfm_ray.diagnosis.log_laws import SHOWN
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import DeclaredChange

DOCS = Path(__file__).parents[3] / "docs"
STEPS = 30


def run_of(*, onset: int = 0, scale: float = 1.0, changes: tuple[DeclaredChange, ...] = ()) -> WatchedRun:
    """A run whose reward follows its parts, but for one that is paid `onset` on."""
    values = np.full((STEPS, len(INDEX)), np.nan)
    right = np.linspace(0.2, 0.8, STEPS)
    values[:, INDEX["correct_rate"]] = right
    values[:, INDEX["tool_calls_mean"]] = 0.0
    paid = (np.arange(1, STEPS + 1) >= onset) * (onset > 0)
    values[:, INDEX["reward_mean"]] = scale * right + 0.5 * paid
    stages = [] if scale == 1 else [f"task.reward_scale={scale:g}@2"]
    course = declared_course(parse_config({"steps": STEPS, "changes": stages}))
    mechanisms = ("RF-1 bonus",) if onset else ()
    return WatchedRun("run", values, course, changes, mechanisms, onset)


def test_breaks_are_those_of_the_detectors() -> None:
    breaks = dict(breaks_of(run_of(onset=20)))
    assert breaks["law:reward"] == list(range(19, STEPS))
    assert breaks["law:own_reward"] == list(range(19, STEPS))
    assert set(breaks) >= {f"law:{name}" for name in LAWS} | {f"floor:{name}" for name in FLOOR_TABLE}
    assert not any(rows for name, rows in breaks.items() if name not in ("law:reward", "law:own_reward"))


def test_declared_change_makes_the_learnt_reward_be_learnt_again() -> None:
    run = run_of()
    later = run.values.copy()
    later[14:, INDEX["reward_mean"]] *= 2
    undeclared = replace(run, values=later)
    change = DeclaredChange("configuration", 15, ("reward_mean",), "task.reward_scale from 1 to 2")
    assert dict(breaks_of(undeclared))["law:own_reward"]
    assert not dict(breaks_of(replace(undeclared, changes=(change,))))["law:own_reward"]


def test_share_of_the_tolerance_goes_by_the_part_of_the_run() -> None:
    run = run_of(scale=3.0)
    share = law_share(LAWS["reward"], run, run.view())
    # The first step has the scale of before the change.
    assert share[0] > 1
    assert np.abs(share[1:]).max() < 1
    assert np.isnan(law_share(LAWS["advantage_mean"], run, run.view())).all()


def test_page_has_every_law_floor_and_mechanism_with_its_figures() -> None:
    tally = Tally()
    tally.add(run_of())
    tally.add(run_of(onset=20))
    assert (tally.runs, tally.steps, tally.early) == (1, STEPS, [])
    of_laws, floors, found = figures_of(tally)
    text = page(tally.runs, tally.steps, of_laws, floors, found)
    for name in (*LAWS, *FLOOR_TABLE):
        assert f"| `{name}` |" in text
    assert "| RF-1 bonus | 1 | `law:own_reward` 100 %, `law:reward` 100 % | 0, 0 |" in text
    # Something that is broken before its fault would be a false alarm.
    late = replace(run_of(onset=20), onset=25)
    tally.add(late)
    assert any("law:reward" in sentence for sentence in tally.early)


def test_documented_laws_are_those_of_the_code() -> None:
    text = (DOCS / "laws.md").read_text(encoding="utf-8")
    for law in LAWS.values():
        assert f"| `{law.name}` | {law.states} | `{law.signal}` | {law.tolerance:g}: {law.reason} |" in text


def test_stored_runs_of_trl_keep_the_laws_and_their_faults_break_them() -> None:
    runs = list(foreign_laws.stored_runs())
    assert is_sound(runs)
    healthy = [run for run in runs if not run.fault]
    assert sum(run.steps for run in healthy) >= 2_000
    assert {run.options["loss_type"] for run in healthy} >= {"grpo", "bnpo", "dr_grpo", "dapo"}
    # What is judged on the logs of others is shown in a healthy run, and in one with a fault of its own.
    assert set(SHOWN) <= {law.name for run in healthy for law in run.laws}
    assert set(SHOWN) == {run.law for run in runs if run.fault}
    stored = (DOCS / "foreign_laws.md").read_text(encoding="utf-8")
    # The last line names the installed versions.
    assert foreign_page(runs).rstrip().rpartition("\n")[0] == stored.rstrip().rpartition("\n")[0]


def test_run_of_trl_that_breaks_too_much_or_too_late_is_not_sound() -> None:
    runs = list(foreign_laws.stored_runs())
    faulty = next(run for run in runs if run.law == "clip")
    assert not is_sound([replace(faulty, onset=faulty.onset - 1)])
    assert not is_sound([replace(faulty, fault="", law="")])
    never = JudgedRun("x", {}, 9, "fault", "rate", 3, ())
    assert not is_sound([never])


def test_every_fault_in_trl_has_its_change() -> None:
    assert set(foreign_laws.FAULTS) == {case.name for case in foreign_laws.FAULTY}
    assert laws.BENCH.is_dir()
