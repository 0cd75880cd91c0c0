"""`rftfm drill` on an example: faults are injected, found, named and mended, and a set that was broken off goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rftfm_ray.cli.app import app
from rftfm_ray.drills.outcome import HARMED
from rftfm_ray.drills.runs import CLEAN, MANIFEST

ROOT = Path(__file__).parents[2]
HARMFUL = "TE-2:0.71,mechanism=crossed RF-2:0.73,mechanism=marked_wrong"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_drills_tell_what_the_guard_finds_and_go_on_where_they_were_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "drills"
    command = [
        "drill", "examples/calculator.yaml", "--faults", HARMFUL, "--onset", "9", "--steps", "30",
        "--out", str(folder), "--json", "probe.size=64", "probe.final_size=256",
    ]  # fmt: skip
    done = CliRunner().invoke(app, command)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["clean"]["incidents"] == told["clean"]["remedies"] == []
    assert (told["found"], told["named"], told["placed"], told["of"]) == (2, 2, 2, 2), told
    for case in told["cases"]:
        assert case["unguarded"] < case["clean"] - HARMED < case["guarded"], "it harms, and the guard gives it back"
        assert case["given"], case
        assert case["ending"] == "mended", case
    assert (done.exit_code, told["mended"], told["harmful"]) == (0, 2, 2)
    (clean,) = {row["clean"] for row in told["cases"]}
    assert clean == told["clean"]["accuracy"] > 0.3, "a policy that earns nothing proves nothing"

    # What was broken off is made again, and only that.
    runs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert len(runs) == 5
    before = {name: (folder / name / "summary.json").stat().st_mtime_ns for name in runs}
    shutil.rmtree(folder / runs[0])
    again = CliRunner().invoke(app, command)
    assert json.loads(again.stdout.splitlines()[-1]) == told
    after = {name: (folder / name / "summary.json").stat().st_mtime_ns for name in runs}
    assert {name for name in runs if before[name] != after[name]} == {runs[0]}
    assert (folder / CLEAN / "report.html").exists()
    assert (folder / MANIFEST).exists()

    other = CliRunner().invoke(app, [*command, "learner.lr=1e-5"])
    assert other.exit_code == 1
    assert "holds drills of another configuration" in str(other.exception)
