"""`rftfm diagnose`: verdicts on healthy logs of any scale and length, on what goes wrong, and on bad files."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rftfm_ray.cli.app import app, run_guarded
from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.detectors.change_point import BACK, ChangePointDetector
from rftfm_ray.detection.detectors.exact import FiniteDetector
from rftfm_ray.detection.detectors.joint import JointDetector
from rftfm_ray.detection.statistics.change_points import Floats
from rftfm_ray.detection.statistics.trends import TrendKind
from rftfm_ray.diagnosis import logs
from rftfm_ray.diagnosis.log_verdict import LogVerdict
from rftfm_ray.diagnosis.logs import JUMP, NOT_FINITE, judge_log, not_finite
from rftfm_ray.faultbench.runs.dataset import NAMES
from rftfm_ray.integrations.steplog import StepLog
from tests.unit.doubles import recorded_runs

Columns = dict[str, Floats]


def healthy(seed: int, steps: int, *, scale: float = 1.0, entropy: float = 1.0, kl: float = 0.1) -> Columns:
    """A run that learns, converges, and slips for a step here and there."""
    rng, step = np.random.default_rng(seed), np.arange(steps)
    learnt = 1 / (1 + np.exp(-(step - steps * rng.uniform(0.2, 0.5)) / max(2.0, steps * rng.uniform(0.05, 0.2))))
    settled = np.exp(-step / (steps / 4))

    def noise(spread: float) -> Floats:
        found: Floats = spread * rng.standard_normal(steps)
        return found

    columns = {
        "reward_mean": scale * (0.2 + 0.6 * learnt + noise(0.03)),
        "reward_std": scale * np.abs(0.4 - 0.2 * learnt + noise(0.02)),
        "entropy": entropy * (0.3 + 0.7 * settled) * (1 + noise(0.04)),
        "kl_ref": np.maximum(kl * (1 - settled) * (1 + noise(0.1)), 0.0),
        "loss": noise(0.02),
        "grad_norm": np.exp(noise(0.3)) * (0.5 + 0.5 * settled),
        "length_mean": 200 + 100 * step / steps + noise(5.0),
    }
    for name in rng.choice(list(columns), 2):
        columns[name][rng.integers(steps)] *= 3.0
    return columns


def log_of(columns: Columns, *, damaged: bool = False) -> StepLog:
    """A log with these columns."""
    steps = np.arange(1, len(next(iter(columns.values()))) + 1)
    return StepLog(steps, columns, {name: f"its {name}" for name in columns}, ("note",), (), damaged)


@pytest.mark.parametrize("steps", [20, 60, 300, 2000])
@pytest.mark.parametrize(
    "scales", [{}, {"scale": 1000.0}, {"scale": 0.01, "entropy": 3.0}, {"entropy": 0.3, "kl": 0.0}], ids=str
)
def test_healthy_logs_are_called_healthy(steps: int, scales: dict[str, float]) -> None:
    verdicts = [judge_log(log_of(healthy(seed, steps, **scales))) for seed in range(12)]
    assert [found.alarms for found in verdicts if found.verdict != "healthy"] == []
    assert verdicts[0].coverage.missing == ()


def test_a_healthy_log_of_20000_steps_is_called_healthy() -> None:
    assert [judge_log(log_of(healthy(seed, 20_000))).verdict for seed in range(3)] == ["healthy"] * 3


def changed(name: str, values: Floats, start: int = 120) -> LogVerdict:
    """The verdict on 200 steps of which one column goes on otherwise from a place on."""
    columns = healthy(1, 200)
    columns[name] = np.concatenate([columns[name][:start], values[: 200 - start]])
    return judge_log(log_of(columns))


AFTER = np.arange(80.0)


@pytest.mark.parametrize(
    ("name", "values", "kind", "latest"),
    [
        ("reward_mean", 1.4 + 0.03 * np.sin(9 * AFTER), JUMP, 2),
        ("length_mean", 30 + 2 * np.sin(9 * AFTER), JUMP, 2),
        ("grad_norm", 20 + np.sin(9 * AFTER), JUMP, 2),
        ("kl_ref", 0.1 * np.exp(AFTER / 4), TrendKind.BLOW_UP, 10),
        ("entropy", 0.4 * np.exp(-((AFTER / 10) ** 2)), TrendKind.COLLAPSE, 12),
        ("reward_mean", 0.8 * np.exp(-AFTER / 15), TrendKind.DECLINE, 12),
        ("loss", np.full(80, math.inf), NOT_FINITE, 0),
    ],
)
def test_what_goes_wrong_is_named_with_its_step(name: str, values: Floats, kind: str, latest: int) -> None:
    verdict = changed(name, values)
    assert verdict.verdict == "faulty"
    assert {alarm.signal for alarm in verdict.alarms} == {name}
    alarm = next(alarm for alarm in verdict.alarms if alarm.kind == kind)
    assert 121 <= alarm.first_step <= 121 + latest
    assert alarm.raised_step <= 146
    assert alarm.column == f"its {name}"
    assert not alarm.recovered


def test_an_episode_is_reported_as_over() -> None:
    columns = healthy(1, 200)
    columns["length_mean"][100:120] = 900.0
    (alarm,) = judge_log(log_of(columns)).alarms
    # It is over when the signal was seen to be back.
    assert (alarm.first_step, alarm.last_step, alarm.recovered) == (101, 120 + BACK - 1, True)


def test_checks_without_columns_lower_coverage_and_below_half_nothing_is_known() -> None:
    columns = healthy(1, 60)
    three = judge_log(log_of({name: columns[name] for name in ("reward_mean", "kl_ref", "entropy")}))
    assert three.verdict == "healthy"
    assert three.coverage.missing == ("reward_spread", "length", "gradient", "update")
    two = judge_log(log_of({name: columns[name] for name in ("reward_mean", "entropy")}))
    assert (two.verdict, two.coverage.run, two.coverage.possible) == ("unknown", 3, 8)
    short = judge_log(log_of({name: column[:8] for name, column in columns.items()}))
    assert (short.verdict, short.coverage.run) == ("unknown", 1)
    # An alarm is one however little else is known.
    spiked = {"reward_mean": np.concatenate([columns["reward_mean"][:40], np.full(20, 9.0)])}
    assert judge_log(log_of(spiked)).verdict == "faulty"


@pytest.mark.parametrize("detector", [ChangePointDetector, JointDetector, FiniteDetector])
def test_a_detector_that_breaks_makes_the_verdict_incomplete(
    monkeypatch: pytest.MonkeyPatch, detector: type[Detector]
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("no more memory")

    monkeypatch.setattr(detector, "observe", breaks)
    verdict = judge_log(log_of(healthy(1, 60)))
    assert verdict.verdict == "incomplete"
    assert verdict.broken == (f"{detector.name} failed (RuntimeError: no more memory)",)
    assert verdict.coverage.run == 8
    # What others find is found all the same.
    spiked = healthy(1, 60)
    spiked["loss"][40:] = math.inf
    assert judge_log(log_of(spiked)).verdict == "faulty"


def test_a_monitor_that_breaks_makes_the_verdict_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.Watched, "alarms", lambda _: 1 / 0)
    verdict = judge_log(log_of(healthy(1, 60)))
    assert (verdict.verdict, verdict.broken) == ("incomplete", ("the monitor failed (division by zero)",))


def test_a_log_of_which_a_part_is_lost_is_never_called_healthy() -> None:
    found = judge_log(log_of(healthy(1, 60), damaged=True))
    assert (found.verdict, found.partial) == ("incomplete", True)
    columns = healthy(1, 60)
    columns["length_mean"][40:] = 5.0
    found = judge_log(log_of(columns, damaged=True))
    assert (found.verdict, found.partial) == ("faulty", True)


def test_columns_that_no_check_reads_are_told() -> None:
    columns = healthy(1, 60) | {"reward_max": np.ones(60), "value_loss": np.ones(60)}
    verdict = judge_log(log_of(columns))
    assert (verdict.unused_columns, verdict.unchecked_columns) == (("note",), ("its reward_max",))
    assert verdict.coverage.possible == 9
    # An update's size says something only beside what its schedule called for.
    sized = columns | {"update_ratio": np.ones(60)}
    assert judge_log(log_of(sized)).unchecked_columns == ("its reward_max", "its update_ratio")
    scheduled = sized | {"schedule_factor": np.ones(60), "schedule_excess": np.zeros(60)}
    assert judge_log(log_of(scheduled)).unchecked_columns == ("its reward_max",)


def whole_log(**moved: float) -> StepLog:
    """A log with all that we measure: a recorded healthy run, with some signals moved in its second half."""
    run = next(iter(recorded_runs(1)))
    columns = {name: run.signal(name) for name in NAMES if np.isfinite(run.signal(name)).any()}
    for name, size in moved.items():
        columns[name] = columns[name] + size * (np.arange(len(run)) >= 20)
    return log_of(columns)


def test_a_log_that_holds_enough_is_judged_by_how_its_signals_go_together() -> None:
    verdict = judge_log(whole_log())
    assert (verdict.verdict, verdict.coverage.missing) == ("healthy", ())
    few = judge_log(log_of(healthy(1, 60)))
    assert verdict.coverage.possible == few.coverage.possible + 2, "what others measure, and all of it together"
    found = judge_log(whole_log(entropy=0.25))
    assert found.verdict == "faulty"
    departed = [alarm for alarm in found.alarms if alarm.kind == JointDetector.name]
    assert [(alarm.signal, alarm.recovered) for alarm in departed] == [("entropy", False)]
    assert 20 <= departed[0].first_step <= departed[0].raised_step <= 25


def test_what_a_log_lacks_is_no_finding_although_the_others_make_one_expect_it() -> None:
    """Rewards go with right answers, of which the log says nothing; by themselves they would be the first to alarm."""
    whole = whole_log(reward_mean=0.6)
    for lacking in (("correct_rate",), ("correct_rate", "reward_std", "all_right_group_rate")):
        values = {name: column for name, column in whole.values.items() if name not in lacking}
        verdict = judge_log(log_of(values))
        assert (verdict.verdict, verdict.broken) == ("faulty", ())
        assert {alarm.signal for alarm in verdict.alarms} <= set(values)
        assert any(alarm.kind == JointDetector.name for alarm in verdict.alarms)


def test_a_failure_to_judge_signals_together_makes_the_verdict_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_priors", lambda _: 1 / 0)
    verdict = judge_log(whole_log())
    assert verdict.verdict == "incomplete"
    assert verdict.broken == ("joint failed (division by zero)",)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1, 1, 1, math.inf, math.inf, math.inf, 1, 1], [(3, 5)]),
        # Mixed precision skips a step now and then.
        ([1, 1, 1, math.inf, 1, 1, 1], []),
        ([1, 1, 1, 1, -math.inf], [(4, 4)]),
        # Logged every third step, and written as NaN in between.
        ([math.inf, math.inf, 1] * 5, []),
        ([math.inf] * 4, [(0, 3)]),
        ([1, math.nan, 1, math.nan, 1, math.nan, math.inf, math.nan, math.inf, math.inf], [(6, 9)]),
    ],
)
def test_numbers_that_are_none(values: list[float], found: list[tuple[int, int]]) -> None:
    assert [(alarm.first, alarm.last) for alarm in not_finite("loss", np.array(values))] == found


def test_a_long_log_is_judged_in_seconds() -> None:
    columns = healthy(1, 100_000)
    began = time.process_time()
    judge_log(log_of(columns))
    # A busy machine takes the same work and more of its time.
    assert time.process_time() - began < 15


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(
    st.sampled_from(["reward_mean", "entropy", "kl_ref", "loss", "tool_error_rate", "value_loss"]),
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=30, max_size=30), min_size=1,
))  # fmt: skip
def test_no_numbers_break_it(columns: dict[str, list[float]]) -> None:
    verdict = judge_log(log_of({name: np.array(values) for name, values in columns.items()}))
    assert verdict.broken == ()


def written(folder: Path, columns: Columns) -> Path:
    """A CSV file with TRL's names."""
    names = {"reward_mean": "reward", "kl_ref": "kl", "length_mean": "completions/mean_length"}
    rows = [",".join(["step", *(names.get(name, name) for name in columns)])]
    rows += [",".join([str(step), *map(str, row)]) for step, row in enumerate(zip(*columns.values(), strict=True), 1)]
    path = folder / "log.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_command_line_says_what_is_wrong_and_exits_with_1(tmp_path: Path) -> None:
    columns = healthy(1, 60)
    sound = CliRunner().invoke(app, ["diagnose", str(written(tmp_path, columns)), "--json"])
    assert sound.exit_code == 0, sound.output
    assert json.loads(sound.stdout)["verdict"] == "healthy"
    columns["loss"][40:] = math.nan
    path = written(tmp_path, columns)
    shown = CliRunner().invoke(app, ["diagnose", str(path)])
    assert shown.exit_code == 1
    assert "not finite" in shown.stdout
    assert shown.stdout.splitlines()[0] == "alarms: 1, first at step 41 (8 of 8 checks)"
    assert "alarm at" in shown.stdout
    said = CliRunner().invoke(app, ["diagnose", str(path), "--json"])
    assert said.exit_code == 1
    verdict = json.loads(said.stdout)
    assert verdict["verdict"] == "faulty"
    assert [(a["signal"], a["first_step"], a["kind"]) for a in verdict["alarms"]] == [("loss", 41, "not_finite")]
    assert verdict["coverage"] == {"run": 8, "possible": 8, "missing": []}
    assert verdict["unused_columns"] == verdict["unchecked_columns"] == []


def test_command_line_promises_no_more_than_that_there_is_no_alarm(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["diagnose", str(written(tmp_path, healthy(1, 60)))])
    assert shown.stdout.splitlines()[0] == "no alarm (8 of 8 checks)"
    assert "as far as its columns go" in " ".join(CliRunner().invoke(app, ["diagnose", "--help"]).stdout.split())


def test_command_line_refuses_a_directory_with_the_commands_for_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_guarded(lambda: app(["diagnose", str(tmp_path)], standalone_mode=False)) == 2
    message = capsys.readouterr().err
    assert "give a log file" in message
    assert "rftfm status or rftfm report" in message


def test_command_line_refuses_what_is_no_log_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"")
    code = run_guarded(lambda: app(["diagnose", str(path)], standalone_mode=False))
    assert code not in (0, 1)
    assert "is empty" in capsys.readouterr().err


def test_command_line_prints_no_name_of_a_column_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"step": step, "loss": 0.5, "\ud800a\x1b[31mb": 1, "entropy": 1.0} for step in range(1, 40)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert run_guarded(lambda: app(["diagnose", str(path)], standalone_mode=False)) == 0
    output = capsys.readouterr().out
    assert "Not known: a [31mb" in output
    assert "\x1b[31m" not in output
    path.write_text("\n".join(json.dumps({"\ud800a\x1b[31mb": 1}) for _ in rows))
    assert run_guarded(lambda: app(["diagnose", str(path)], standalone_mode=False)) not in (0, 1)
    assert "no known column ( a [31mb)" in capsys.readouterr().err


def test_alarms_of_one_signal_and_kind_that_overlap_are_one() -> None:
    early, late = logs._Alarm("kl_ref", "blow_up", 77, 86, 87), logs._Alarm("kl_ref", "blow_up", 80, 81, 120)
    apart, other = logs._Alarm("kl_ref", "blow_up", 130, 131, 140), logs._Alarm("kl_ref", "jump", 80, 81, 120)
    one = logs._Alarm("kl_ref", "blow_up", 77, 81, 120)
    assert logs._merged([late, apart, early, other]) == [one, apart, other]


def test_long_lists_of_columns_are_cut(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 0.5, "entropy": 1.0, **{f"c{n}": 1 for n in range(14)}} for step in range(1, 40)]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    shown = CliRunner().invoke(app, ["diagnose", str(path)]).stdout
    assert "Not known: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 4 more" in shown
