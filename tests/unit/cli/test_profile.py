"""`rftfm profile`: runs and tables in, one file out, and what is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from rftfm_ray.cli.app import app
from rftfm_ray.config import RunConfig, parse_config
from rftfm_ray.detection.reference.comparison import facts_of
from rftfm_ray.detection.reference.profile import read_profile
from rftfm_ray.errors import ProfileError, RecordError, RftfmError
from rftfm_ray.incidents.state import Entry, EntryKind
from rftfm_ray.runs.healthy import read_candidate
from rftfm_ray.telemetry.events import EventLog
from rftfm_ray.telemetry.journal import JOURNAL, Journal
from rftfm_ray.telemetry.parts import PartFolder
from rftfm_ray.telemetry.recorder import STEP_SCHEMA
from rftfm_ray.types import StepId

Run = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> Run:
    """Writes a run directory of ten steps: `make_run(seed, journal=kinds, undone=rows, **configuration)`."""

    def make(seed: int, journal: tuple[EntryKind, ...] = (), undone: int = 0, **values: object) -> Path:
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        (folder / "config.yaml").write_text(parse_config({"seed": seed, "steps": 10, **values}).to_yaml())
        rng = np.random.default_rng(seed)
        ids = [StepId(0, step, step) for step in range(1, 5 + undone)]
        ids += [StepId(1, step, step + undone) for step in range(5, 11)]
        rows = [_row(id_, rng, 99.0 if id_.attempt == 0 and id_.step > 4 else 0.5) for id_ in ids]
        PartFolder(folder / "steps", STEP_SCHEMA).write(rows)
        entries = Journal(folder / JOURNAL) if journal else None
        for number, kind in enumerate(journal, 1):
            assert entries is not None
            incident = 0 if kind in (EntryKind.STARTED, EntryKind.ENDED) else 1
            entries.write(Entry(number, kind, StepId(0, 1, 1), incident, ()))
        return folder

    return make


def _row(id_: StepId, rng: np.random.Generator, entropy: float) -> dict[str, int | float]:
    values: dict[str, int | float] = {
        field.name: 0 if field.type == pa.int64() else float("nan") for field in STEP_SCHEMA
    }
    measured = {
        "reward_mean": 0.5,
        "correct_rate": 0.5,
        "probe_accuracy": 0.7,
        "entropy": entropy,
        "trajectory_count": 128,
    }
    values |= {name: level + rng.normal(0, 0.05) for name, level in measured.items()}
    return values | {"attempt": id_.attempt, "step": id_.step, "paid_step": id_.paid_step}


def rftfm(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, [*map(str, arguments)])


def refusal(*arguments: object) -> str:
    """What the command says when it refuses."""
    done = rftfm(*arguments)
    assert isinstance(done.exception, RftfmError), done.output
    assert done.stdout == ""
    message = str(done.exception)
    assert "\n" not in message
    return message


def write_table(path: Path, seed: int, **changed: object) -> Path:
    """A table of eight steps, CSV or Parquet by its name; columns may be replaced, or left out with None."""
    rng = np.random.default_rng(seed)
    columns: dict[str, object] = {"step": list(range(1, 9)), "reward_mean": rng.random(8).tolist(), "note": ["x"] * 8}
    columns = {name: column for name, column in (columns | changed).items() if column is not None}
    table = pa.table(columns)
    if path.suffix == ".csv":
        rows = [",".join("" if v is None else str(v) for v in row.values()) for row in table.to_pylist()]
        path.write_text("\n".join([",".join(table.schema.names), *rows]) + "\n")
    else:
        pq.write_table(table, path)
    return path


def test_runs_are_fitted_and_shown(make_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    done = rftfm("profile", "fit", make_run(1, undone=3), make_run(2), "-o", out)
    assert done.exit_code == 0, done.output
    result = read_profile(out)
    assert (result.runs, result.steps) == (2, 10)
    assert {"reward_mean", "entropy", "probe_accuracy", "probe_gap"} <= {signal.name for signal in result.signals}
    (entropy,) = (signal for signal in result.signals if signal.name == "entropy")
    assert max(entropy.mean) < 1, "undone steps are no part of it"
    assert result.facts is not None
    assert (result.facts["task.name"], result.facts["learner.lr"]) == ("addition", 3e-4)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    shown = rftfm("profile", "show", out)
    for text in (done.stdout, shown.stdout):
        assert f"sha256   {digest}" in text
        assert "addition, grpo, builtin:tiny, 16 x 8 trajectories a step" in text
        assert "facts" not in text, "all others are the defaults"
    assert all(signal.name in shown.stdout for signal in result.signals)
    for arguments in (("show", out), ("fit", tmp_path / "run1", tmp_path / "run2", "-o", out)):
        facts = json.loads(rftfm("profile", *arguments, "--json").stdout)
        assert (facts["sha256"], facts["runs"], set(facts["signals"])) == (digest, 2, {s.name for s in result.signals})


def test_tables_are_read_alike(tmp_path: Path) -> None:
    for kind in ("csv", "parquet"):
        files = [write_table(tmp_path / f"{seed}.{kind}", seed) for seed in (1, 2, 3)]
        assert rftfm("profile", "fit", *files, "-o", tmp_path / f"{kind}.json").exit_code == 0
    assert (tmp_path / "csv.json").read_bytes() == (tmp_path / "parquet.json").read_bytes()
    assert [signal.name for signal in read_profile(tmp_path / "csv.json").signals] == ["reward_mean"]


def test_table_may_have_attempts_and_gaps(tmp_path: Path) -> None:
    rewards = [0.1, 0.2, 9.0, None, 0.3, 0.4, 0.5, 0.6]
    attempts, steps = [0, 0, 0, 0, 1, 1, 1, 1], [1, 2, 3, 4, 3, 4, 5, 6]
    for name in ("a.csv", "a.parquet"):
        path = write_table(tmp_path / name, 1, reward_mean=rewards, step=steps, attempt=attempts)
        series = read_candidate(str(path)).series
        assert series.steps.tolist() == [1, 2, 3, 4, 5, 6]
        assert series.values["reward_mean"].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    path = write_table(tmp_path / "b.csv", 1, reward_mean=rewards)
    assert np.isnan(read_candidate(str(path)).series.values["reward_mean"]).tolist() == [r is None for r in rewards]


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"inject": ["OD-1@5:30"]}, "had faults injected (OD-1@5:30)"),
        ({"journal": (EntryKind.OPENED, EntryKind.APPLIED)}, "has 1 incident and 1 applied remedy in its journal"),
        ({"journal": (EntryKind.OPENED,)}, "has 1 incident and 0 applied remedies in its journal"),
    ],
)
def test_run_that_may_not_be_healthy_is_refused(
    make_run: Run, tmp_path: Path, values: dict[str, object], part: str
) -> None:
    runs = (make_run(1), make_run(2, **values))
    message = refusal("profile", "fit", *runs, "-o", tmp_path / "p.json")
    assert message == f"{runs[1]} {part}: it may not be healthy; leave it out, or use --force."
    assert not (tmp_path / "p.json").exists()
    assert rftfm("profile", "fit", *runs, "-o", tmp_path / "p.json", "--force").exit_code == 0


def test_return_of_a_lever_is_not_counted_as_a_remedy(make_run: Run, tmp_path: Path) -> None:
    runs = (make_run(1), make_run(2, journal=(EntryKind.OPENED, EntryKind.APPLIED)))
    returned = Entry(3, EntryKind.APPLIED, StepId(0, 1, 1), 1, (("role", "return"),))
    Journal(runs[1] / JOURNAL).write(returned)
    message = refusal("profile", "fit", *runs, "-o", tmp_path / "p.json")
    assert "has 1 incident and 1 applied remedy in its journal" in message


def test_run_with_a_quiet_journal_is_taken(make_run: Run, tmp_path: Path) -> None:
    runs = [make_run(seed, journal=(EntryKind.STARTED, EntryKind.ENDED)) for seed in (1, 2)]
    assert rftfm("profile", "fit", *runs, "-o", tmp_path / "p.json").exit_code == 0


def test_run_that_does_not_say_what_it_was_is_refused(make_run: Run, tmp_path: Path) -> None:
    runs = (make_run(1), make_run(2))
    (runs[0] / "config.yaml").write_text("no_such_key: 1\n")
    assert "run1 does not say what it ran (Unknown configuration key no_such_key" in refusal(
        "profile", "fit", *runs, "-o", tmp_path / "p.json"
    )


def test_run_that_ended_far_below_its_start_is_refused(make_run: Run, tmp_path: Path) -> None:
    sound, sick = make_run(1), make_run(2)
    for step in range(11):
        accuracy = 0.9 if step < 8 else 0.05
        EventLog(sick / "events.jsonl").append(
            "probe", StepId(int(step >= 5), step, step), accuracy=accuracy, size=1024
        )
    message = refusal("profile", "fit", sound, sick, "-o", tmp_path / "p.json")
    assert "run2 ended badly (Held-out accuracy began at 0.9" in message
    assert rftfm("profile", "fit", sound, sick, "-o", tmp_path / "p.json", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"task": {"name": "calculator"}}, "run2 has task.name=calculator; "),
        ({"algorithm": {"samples_per_prompt": 4}}, "run2 has algorithm.samples_per_prompt=4; "),
        ({"model": {"path": "/models/a"}}, "run2 has model.path=/models/a; "),
        ({"learner": {"lr": 1e-4}}, "run2 has learner.lr=0.0001; "),
        ({"changes": ["learner.lr=0.0001@5"]}, "run2 has changes=learner.lr=0.0001@5; "),
    ],
)
def test_runs_of_different_configurations_are_refused(
    make_run: Run, tmp_path: Path, values: dict[str, object], part: str
) -> None:
    runs = (make_run(1), make_run(2, **values))
    message = refusal("profile", "fit", *runs, "-o", tmp_path / "p.json")
    assert part in message
    assert message.endswith("give runs of one configuration, or use --force.")
    assert rftfm("profile", "fit", *runs, "-o", tmp_path / "p.json", "--force").exit_code == 0
    facts = read_profile(tmp_path / "p.json").facts
    assert facts is not None
    assert facts["algorithm.minibatches"] == 1
    key, _, value = part.rpartition(" has ")[2].partition(";")[0].partition("=")
    usual = facts_of(RunConfig())[key]
    assert facts[key] == (f"{usual} or {value}" if usual else value), "a run with either value is like them"


def test_facts_are_unknown_unless_every_run_says_them(make_run: Run, tmp_path: Path) -> None:
    table = write_table(tmp_path / "other.csv", 3)
    out = tmp_path / "p.json"
    for runs in ((make_run(1), table), (table, make_run(2)), (table, write_table(tmp_path / "more.csv", 4))):
        done = rftfm("profile", "fit", *runs, "-o", out)
        assert read_profile(out).facts is None
        said = "other.csv does not say how its run was configured, so the profile does not either: a run is compared"
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
        assert json.loads(rftfm("profile", "fit", *runs, "-o", out, "--json").stdout)["facts"] is None
    assert rftfm("profile", "fit", tmp_path / "run1", tmp_path / "run2", "-o", out).stderr == ""
    different = (tmp_path / "run1", make_run(5, learner={"lr": 1e-4}), table)
    assert "run5 has learner.lr=0.0001" in refusal("profile", "fit", *different, "-o", out)


def test_runs_that_differ_in_what_moves_no_signal_are_of_one_configuration(make_run: Run, tmp_path: Path) -> None:
    same = {"probe": {"every": 3}, "guard": {"mode": "act"}, "learner": {"micro_batch_size": 4}, "critic": {"lr": 1.0}}
    runs = (make_run(1), make_run(2, **same))
    assert rftfm("profile", "fit", *runs, "-o", tmp_path / "p.json").exit_code == 0


def test_facts_that_are_not_the_defaults_are_shown(make_run: Run, tmp_path: Path) -> None:
    values: dict[str, object] = {"learner": {"lr": 1e-4}, "algorithm": {"minibatches": 2}}
    done = rftfm("profile", "fit", make_run(1, **values), make_run(2, **values), "-o", tmp_path / "p.json")
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("config"))
    # The clip has an effect from the second update of a step on.
    expected = {"algorithm.minibatches=2", "algorithm.clip_low=0.2", "algorithm.clip_high=0.2", "learner.lr=0.0001"}
    keys = line.removeprefix("config").removesuffix("(keys that are not at their defaults)").strip()
    assert set(keys.split(", ")) == expected
    assert "spread: standard deviation among runs" in done.stdout


def test_one_run_is_no_profile(make_run: Run, tmp_path: Path) -> None:
    run = make_run(1)
    assert "at least two healthy runs" in refusal("profile", "fit", run, "-o", tmp_path / "p.json")
    assert f"{run} and {run} are the same" in refusal("profile", "fit", run, run, "-o", tmp_path / "p.json")


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"step": None}, "has no column `step`"),
        ({"step": [1, 2, 3, 4, 4, 5, 6, 7]}, "has step 4 more than once"),
        ({"step": [1.5] * 8}, "has a step that is not a whole number"),
        ({"step": [None] * 8}, "has a step that is not a whole number"),
        ({"step": [1] * 8, "attempt": [0] * 8}, "has a step of one attempt twice"),
        ({"reward_mean": None}, "no signal in common"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_table_that_cannot_be_used_is_refused(tmp_path: Path, kind: str, changed: dict[str, object], part: str) -> None:
    files = [write_table(tmp_path / f"{seed}.{kind}", seed, **changed) for seed in (1, 2)]
    assert part in refusal("profile", "fit", *files, "-o", tmp_path / "p.json")


@pytest.mark.parametrize(
    ("name", "data", "part"),
    [
        ("a.csv", b"step,reward_mean\n1,0.5\n2,half\n", "a.csv line 3: reward_mean=half is not a number"),
        ("a.csv", b"step,reward_mean\n\xff,1\n", "cannot be read as CSV"),
        ("a.csv", b"", "has no column `step`"),
        ("a.csv", b"step,reward_mean\n", "has no column `step`"),
        ("a.parquet", b"PAR1 no more", "neither CSV nor Parquet"),
        ("a.txt", b"some text", "neither CSV nor Parquet"),
    ],
)
def test_file_that_is_no_table_is_refused(tmp_path: Path, name: str, data: bytes, part: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ProfileError) as caught:
        read_candidate(str(tmp_path / name))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_run_without_rows_and_missing_runs_are_refused(make_run: Run, tmp_path: Path) -> None:
    run = make_run(1)
    for part in (run / "steps").iterdir():
        part.unlink()
    assert "has no recorded step" in refusal("profile", "fit", run, "-o", tmp_path / "p.json")
    assert "no records of a run" in refusal("profile", "fit", tmp_path / "none", "-o", tmp_path / "p.json")


@pytest.mark.parametrize("out", ["none/p.json", "folder"])
def test_profile_that_cannot_be_written_leaves_nothing(make_run: Run, tmp_path: Path, out: str) -> None:
    runs = (make_run(1), make_run(2))
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert "cannot be written" in refusal("profile", "fit", *runs, "-o", tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_profile_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{}")
    assert "p.json is not a profile" in refusal("profile", "show", tmp_path / "p.json")
    assert "cannot be read" in refusal("profile", "show", tmp_path / "none.json")


def test_command_starts_without_what_fitting_needs() -> None:
    code = "import sys, rftfm_ray.cli.app; print(*sorted({'numpy', 'pyarrow', 'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == []


@pytest.mark.parametrize("command", ["fit", "show"])
def test_commands_explain_themselves(command: str) -> None:
    done = rftfm("profile", command, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_step_too_large_in_the_records_of_a_run_is_refused(make_run: Run) -> None:
    run = make_run(1)
    part = next((run / "steps").iterdir())
    rows = pq.read_table(part).to_pylist()
    rows[3]["step"] = 2**62
    pq.write_table(pa.Table.from_pylist(rows, schema=STEP_SCHEMA), part)
    with pytest.raises(ProfileError, match=r"run1 has a step that is not a whole number below 2\^53"):
        read_candidate(str(run))


def test_journal_that_nests_too_deeply_is_refused(make_run: Run) -> None:
    run = make_run(1)
    (run / JOURNAL).write_text("[" * 100_000 + "\n{}\n")
    with pytest.raises(RecordError, match=r"line 1 is not a journal entry"):
        read_candidate(str(run))
