"""What a person sees of a run: plain lines, the live line, and the table at the end."""

from __future__ import annotations

import dataclasses
import math
import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from rftfm_ray.cli import progress as module
from rftfm_ray.cli.progress import describe, describe_for_user, pace, progress, remaining_s
from rftfm_ray.cli.train import summary_table, summary_title
from rftfm_ray.config import RunConfig
from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.metrics import BatchMetrics, CheckMetrics, CreditMetrics, StepRow, Timings, UpdateMetrics
from rftfm_ray.types import IncidentSummary, RunSummary, StepId

CONFIG = RunConfig(steps=20)
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def make_row(
    step: int, *, probe: float = math.nan, vetoes: int = 0, step_s: float = 0.5, reward: float = 0.625
) -> StepRow:
    """A step with reward 0.625, KL 0.0123 and entropy 1.5; `probe` is of the weights from before it."""

    def fill(kind: type[Any], **known: float) -> Any:
        return kind(**{field.name: 0.1 for field in dataclasses.fields(kind)} | known)

    update = fill(UpdateMetrics, kl_ref=0.0123, entropy=1.5, vetoes=vetoes)
    timings, checks = fill(Timings, step_s=step_s), fill(CheckMetrics, probe_accuracy=probe)
    valid = 0.0 if math.isnan(reward) else 0.1
    batch = fill(BatchMetrics, reward_mean=reward, valid_rate=valid)
    return StepRow(StepId(0, step, step), step, batch, update, fill(CreditMetrics), timings, checks)


class Clock:
    """Stands in for `time` in the module under test."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def watch(rows: list[StepRow], clock: Clock, *, terminal: bool = False, step_s: float = 0.5) -> str:
    """What the console shows of `rows`, one every `step_s` seconds."""
    console = Console(file=StringIO(), force_terminal=terminal, width=80 if terminal else 160)
    with progress(console, CONFIG) as watched:
        for row in rows:
            clock.now += step_s
            watched.row(row)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_plain_line_holds_the_figures_of_its_step(clock: Clock) -> None:
    lines = watch([make_row(1), make_row(2, probe=0.75)], clock).splitlines()
    assert lines[1:] == [
        "step 2/20  reward  0.625  probe 0.750@1   kl 0.0123  entropy 1.500  2.0 steps/s  ETA 9 s",
    ]


def test_first_plain_line_says_what_is_started(clock: Clock) -> None:
    assert watch([], clock) == "Starting 1 rollout actor and a learner ...\n"


def test_plain_lines_come_every_tenth_of_the_run(clock: Clock) -> None:
    lines = watch([make_row(step) for step in range(1, 21)], clock).splitlines()
    steps = [int(found[1]) for found in map(re.compile(r"step (\d+)/20").match, lines) if found]
    assert steps == list(range(2, 21, 2))


def test_plain_output_holds_no_control_characters(clock: Clock) -> None:
    assert "\x1b" not in watch([make_row(2, probe=0.5)], clock)


def test_refusals_are_shown_at_once_and_probes_in_the_next_line(clock: Clock) -> None:
    rows = [make_row(1), make_row(3, vetoes=2), make_row(5, probe=0.25), make_row(6)]
    lines = watch(rows, clock).splitlines()[1:]
    assert [line.split("  ")[0] for line in lines] == ["step 3/20", "step 6/20"]
    assert lines[0].endswith("  2 updates refused")
    assert "refused" not in lines[1]
    assert "probe 0.250@4" in lines[1]


def test_step_without_a_verdict_has_no_reward_and_nothing_to_refuse(clock: Clock) -> None:
    (_, line) = watch([make_row(3, vetoes=1, reward=math.nan)], clock).splitlines()
    assert line.startswith("step 3/20  reward    -    probe   -  ")
    assert line.endswith("  no verdict, so no update")


def test_slow_steps_are_shown_once_a_minute_and_so_is_the_last_one(clock: Clock) -> None:
    console = Console(file=StringIO(), width=160)
    config = RunConfig(steps=1001)
    with progress(console, config) as watched:
        for step, pause in ((1, 59), (2, 2), (3, 58), (4, 2), (1001, 0)):
            clock.now += pause
            watched.row(make_row(step))
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()[1:]
    assert [line.split("/")[0] for line in lines] == ["step 2", "step 4", "step 1001"]


def test_last_probe_stays_in_later_lines(clock: Clock) -> None:
    lines = watch([make_row(2, probe=0.75), make_row(4)], clock).splitlines()
    assert "probe 0.750@1 " in lines[2]


@pytest.mark.parametrize("terminal", [False, True])
def test_probe_of_steps_that_were_undone_is_not_shown_and_one_from_before_them_is(clock: Clock, terminal: bool) -> None:
    """A rollback to step 11 undoes the probe after step 14; that after step 9 is of the weights that are kept."""
    rows = [make_row(10, probe=0.75), *map(make_row, range(11, 15)), make_row(15, probe=1.0), make_row(16)]
    again = [dataclasses.replace(make_row(step), id=StepId(1, step, step + 5)) for step in range(12, 15)]
    lines = COLOURS.sub("", watch([*rows, *again], clock, terminal=terminal)).splitlines()
    assert "probe 0.750@9 " in lines[-1]
    assert terminal or "probe 1.000@14 " in next(line for line in lines if line.startswith("step 16/20"))
    lines = COLOURS.sub("", watch([*rows[1:], *again], clock, terminal=terminal)).splitlines()
    assert "probe   -  " in lines[-1]
    back_to_9 = dataclasses.replace(make_row(10), id=StepId(1, 10, 17))
    lines = COLOURS.sub("", watch([*rows, back_to_9], clock, terminal=terminal)).splitlines()
    assert "probe 0.750@9 " in lines[-1]


def test_rate_and_time_left_of_a_resumed_run_count_from_its_first_step(clock: Clock) -> None:
    (_, line) = watch([make_row(11), make_row(12)], clock).splitlines()
    assert line.endswith("2.0 steps/s  ETA 4 s")


@pytest.mark.parametrize(
    ("rate", "left_s", "expected"),
    [
        (2.04, 9.4, "2.0 steps/s  ETA 9 s"), (0.5, 179.4, "0.5 steps/s  ETA 179 s"),
        (0.03, 1980.0, "33.3 s/step  ETA 33.0 min"), (0.1, 14_400.0, "10.0 s/step  ETA 4.0 h"),
    ],
)  # fmt: skip
def test_slow_runs_have_their_pace_in_seconds_a_step(rate: float, left_s: float, expected: str) -> None:
    assert pace(rate, left_s) == expected


def test_time_before_the_first_step_does_not_count(clock: Clock) -> None:
    console = Console(file=StringIO(), width=160)
    with progress(console, CONFIG) as watched:
        clock.now += 1000
        watched.row(make_row(2, step_s=0.25))
    assert isinstance(console.file, StringIO)
    assert "4.0 steps/s" in console.file.getvalue()


def test_live_line_shows_the_same_figures(clock: Clock) -> None:
    drawn = watch([make_row(1, probe=0.75), make_row(2)], clock, terminal=True)
    *_, progressed, figures = COLOURS.sub("", drawn).splitlines()
    assert "step 2/20" in progressed
    assert "2.0 steps/s  ETA 9 s" in progressed
    assert "reward  0.625  probe 0.750@0   kl 0.0123  entropy 1.500" in figures


def test_live_line_ends_when_the_run_fails(clock: Clock) -> None:
    console = Console(file=StringIO(), force_terminal=True)

    def run() -> None:
        with progress(console, CONFIG) as watched:
            watched.row(make_row(1))
            raise RuntimeError("it fell")

    with pytest.raises(RuntimeError, match="it fell"):
        run()
    console.print("free again")
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().endswith("free again\n")


def entry(kind: EntryKind, incident: int = 2, **fields: Scalar) -> Entry:
    """A journal entry of step 7."""
    return Entry(1, kind, StepId(0, 7, 7), incident, tuple(fields.items()))


DIAGNOSED = entry(EntryKind.DIAGNOSED, code="TE-1", probability=0.875, onset=5, summary="tools [red]fail[/red]")


def shown(entries: list[Entry], *, terminal: bool = False) -> list[str]:
    """The lines that the console shows of journal entries, without colours."""
    console = Console(file=StringIO(), force_terminal=terminal, width=100)
    with progress(console, CONFIG) as watched:
        for told_of in entries:
            watched.entry(told_of)
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in COLOURS.sub("", console.file.getvalue()).splitlines()]


@pytest.mark.parametrize("terminal", [False, True])
def test_what_the_guard_does_is_told_with_its_reason(clock: Clock, terminal: bool) -> None:
    lines = shown([DIAGNOSED], terminal=terminal)
    at = lines.index("step 7    guard #2  diagnosed: TE-1 (probability 88%, since about step 5)")
    assert lines[at + 1].startswith("          tools [red]fail[/red]")


def test_diagnosis_in_observe_says_that_nothing_is_done(clock: Clock) -> None:
    assert CONFIG.guard.mode == "observe"
    assert shown([DIAGNOSED])[-1] == ("          tools [red]fail[/red] Nothing is done about it: guard.mode=observe.")


def test_line_that_wraps_goes_on_indented(clock: Clock) -> None:
    levers: dict[str, Any] = {"lever_kl_coef_scale": 2.0, "lever_lr_scale": 0.0353}
    applied = entry(EntryKind.APPLIED, remedy="rollback_lower_rate", seconds=0.049, **levers)
    console = Console(file=StringIO(), width=70)
    with progress(console, CONFIG) as watched:
        watched.entry(applied)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().splitlines()[1:] == [
        "step 7    guard #2  applied remedy: rollback_lower_rate in 0.049 s",
        "          (kl_coef_scale=2, lr_scale=0.0353)",
    ]


def test_rollback_says_where_the_run_goes_on(clock: Clock) -> None:
    assert shown([entry(EntryKind.APPLIED, remedy="a", restored=5)])[-1] == "          back at step 5 (attempt 1)"
    assert "back at" not in "".join(shown([entry(EntryKind.APPLIED, remedy="a")]))


def test_line_of_a_failed_policy_says_what_decides_instead() -> None:
    failed = entry(EntryKind.POLICY_FAILED, policy="mine.py:Mine")
    assert describe_for_user(failed)[0].plain.endswith("mine.py:Mine failed; the playbook decides instead")
    assert describe_for_user(failed, "none")[0].plain.endswith("mine.py:Mine failed")
    own = entry(EntryKind.POLICY_FAILED, policy="playbook")
    assert describe_for_user(own)[0].plain.endswith("playbook failed")


def test_entry_of_no_incident_has_no_number(clock: Clock) -> None:
    assert shown([entry(EntryKind.LATE, 0, waited_s=10.0)])[1:] == ["step 7    guard  verdict came late, after 10 s"]


def test_a_person_is_told_of_what_matters_only(clock: Clock) -> None:
    told_of = {kind for kind in EntryKind if len(shown([entry(kind, order=1)])) > 1}
    silent = {
        EntryKind.STARTED,
        EntryKind.PROBED,
        EntryKind.OPENED,
        # What was asked to name a fault is a detail of its name.
        EntryKind.ASKED,
        EntryKind.ANSWERED,
        # What a policy keeps is for itself; what went wrong with it is told.
        EntryKind.POLICY_STATE,
        EntryKind.APPLYING,
        EntryKind.DECLARED,
        EntryKind.ENDED,
    }
    assert told_of == set(EntryKind) - silent


def test_playbook_decides_in_place_of_a_policy_that_fails_to_decide_and_of_no_other(clock: Clock) -> None:
    def told(**fields: str) -> str:
        return " ".join(shown([entry(EntryKind.POLICY_FAILED, 2, **fields)])[1:])

    assert "policy mine.py:Mine failed; the playbook decides instead" in told(policy="mine.py:Mine")
    assert "failed in observe; its decisions stand" in told(policy="mine.py:Mine", method="observe")
    assert "decides instead" not in told(policy="mine.py:Mine", method="observe")
    assert "decides instead" not in told(policy="adaptive_kl")


def test_describe_shows_a_dash_until_there_is_a_probe() -> None:
    assert describe(make_row(1), "  -  ") == "reward  0.625  probe   -       kl 0.0123  entropy 1.500"
    assert "probe 0.500@4 " in describe(make_row(1), "0.500@4")


@pytest.mark.parametrize(
    ("done", "steps", "elapsed_s", "expected"), [(5, 20, 10.0, 30.0), (20, 20, 10.0, 0.0), (0, 20, 3.0, 60.0)]
)
def test_time_left_goes_by_the_mean_step_so_far(done: int, steps: int, elapsed_s: float, expected: float) -> None:
    assert remaining_s(done, steps, elapsed_s) == pytest.approx(expected)


INCIDENT = IncidentSummary("OD-1", 12, 11, "resolved", ("rollback",), "cured")
SUMMARY = RunSummary(
    run_dir="/runs/a", seed=3, steps=40, reward_first=0.311, reward_last=0.922, probe_first=0.333, probe_last=0.944,
    probe_sampled_first=0.255, probe_sampled_last=0.866, step_time_s_median=0.2345, first_step_s=12.34, vetoes=7,
    guard="act", incidents=(INCIDENT,) * 3, remedies=2, paid_steps=55, guard_waits=0,
)  # fmt: skip


def table_lines(summary: RunSummary, *, is_resumed: bool = False) -> list[str]:
    """The lines of the table without its rules, single blanks between cells."""
    console = Console(file=StringIO(), width=120)
    console.print(summary_title(summary, is_resumed=is_resumed))
    console.print(summary_table(summary, is_resumed=is_resumed))
    assert isinstance(console.file, StringIO)
    return [" ".join(re.findall(r"[\w./:,()-]+", line)) for line in console.file.getvalue().splitlines()]


def test_summary_table_holds_every_figure() -> None:
    lines = table_lines(SUMMARY)
    for expected in (
        "40 steps, seed 3",
        "sampled reward (mean of 5 steps) 0.311 0.922",
        "held-out accuracy (greedy) 0.333 0.944",
        "held-out accuracy (sampled) 0.255 0.866",
        "step time (median) 234 ms",
        "start to first step 12.3 s",
        "refused updates 7",
        "incidents, remedies (guard: act) 3, 2",
    ):
        assert expected in lines


def test_summary_table_of_a_single_step_is_in_the_singular_and_never_minus_zero() -> None:
    one = dataclasses.replace(SUMMARY, steps=1, reward_first=-0.0003, guard_restarts=1, probe_size=47)
    lines = table_lines(one)
    for expected in (
        "1 step, seed 3",
        "sampled reward 0.000 0.922",
        "held-out accuracy (greedy, 47 problems) 0.333 0.944",
        "guard lost and brought back 1 time",
    ):
        assert expected in lines


def test_summary_table_of_a_resumed_run_says_so() -> None:
    lines = table_lines(SUMMARY, is_resumed=True)
    assert "40 steps, seed 3, resumed from a checkpoint" in lines
    assert "resumed last" in lines


def test_summary_table_of_a_run_without_sampled_probes_does_not_speak_of_them() -> None:
    silent = dataclasses.replace(SUMMARY, probe_sampled_first=math.nan, probe_sampled_last=math.nan)
    lines = table_lines(silent)
    assert "held-out accuracy (greedy) 0.333 0.944" in lines
    assert not [line for line in lines if "(sampled)" in line or "nan" in line]


def test_summary_table_tells_of_a_lost_guard() -> None:
    assert not [line for line in table_lines(SUMMARY) if "guard lost" in line]
    lines = table_lines(dataclasses.replace(SUMMARY, guard_restarts=2, unguarded_steps=9))
    assert "guard lost and brought back 2 times" in lines
    assert "guard lost for good: unguarded steps 9" in lines
