"""What a resumed run takes over from a paused one, and when it takes nothing."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rftfm_ray.driver.continuing import inherit
from rftfm_ray.errors import CheckpointError, GuardError
from rftfm_ray.incidents.handover import write_handover
from rftfm_ray.incidents.messages import Inherited
from rftfm_ray.runs.waiting import continued_in
from rftfm_ray.telemetry.journal import JOURNAL, Journal, read_journal
from rftfm_ray.telemetry.rundir import HANDOVER, HELD, MONITOR_STATE
from rftfm_ray.types import GuardMode, StepId
from tests.unit.incidents.managed import FAILING, FIRST, fault, started


@dataclass
class Resumed:
    """A session that has resumed at a step, and what it is asked to restore."""

    step: int = 6
    damaged: bool = False
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def position(self) -> Any:
        return SimpleNamespace(id=StepId(0, self.step, self.step))

    def restore_held(self, held: list[Path], checkpoint: Path) -> tuple[int, ...]:
        self.asked.append(("restore_held", [path.name for path in held], checkpoint.name))
        if self.damaged:
            raise CheckpointError("a file is damaged.")
        return (5, 6)

    def resume(self, checkpoint: Path) -> None:
        self.asked.append(("resume", checkpoint.name))


@dataclass
class Runs:
    """A paused run and the one that continues it."""

    paused: Path
    folder: Path

    def inherit(self, session: Resumed, mode: GuardMode = GuardMode.ADVISE) -> Inherited | None:
        """Continue from the checkpoint of step 6."""
        config = SimpleNamespace(guard=SimpleNamespace(mode=mode))
        resume = self.paused / "checkpoints" / "step-000006"
        return inherit(
            cast("Any", SimpleNamespace(resume=resume, config=config, folder=self.folder)), cast("Any", session)
        )


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """A run that has paused after step 6."""
    paused, folder = tmp_path / "one", tmp_path / "two"
    for path in (paused, folder):
        path.mkdir()
    run = started(FIRST, mode=GuardMode.ADVISE)
    run.begin_fault(fault(), **FAILING)
    handover = run.manager.pause(run.following, run.place, 1, 60.0)
    for entry in run.entries:
        Journal(paused / JOURNAL).write(entry)
    (paused / HELD / "step-000005").mkdir(parents=True)
    (paused / HANDOVER).write_bytes(write_handover(handover))
    (paused / MONITOR_STATE).write_bytes(b"state")
    return Runs(paused, folder)


def test_journal_and_state_are_copied_and_snapshots_restored(runs: Runs) -> None:
    with (runs.paused / JOURNAL).open("ab") as file:
        file.write(b'{"seq": ')
    session = Resumed()
    inherited = runs.inherit(session)
    assert inherited is not None
    assert (inherited.handover.at, inherited.snapshots) == (StepId(0, 6, 6), (5, 6))
    assert session.asked == [("restore_held", ["step-000005"], "step-000006")]
    assert read_journal(runs.folder / JOURNAL)[0] == read_journal(runs.paused / JOURNAL)[0]
    assert (runs.folder / JOURNAL).read_bytes().endswith(b"}\n"), "a line that was cut off is left out"
    assert stat.S_IMODE((runs.folder / JOURNAL).stat().st_mode) == 0o600
    assert (runs.folder / MONITOR_STATE).read_bytes() == b"state"
    assert continued_in(runs.paused) == str(runs.folder)


def test_other_checkpoint_of_the_run_leaves_its_decision_behind(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    assert runs.inherit(Resumed(step=5)) is None
    assert "so its decision is not carried over" in caplog.text
    assert list(runs.folder.iterdir()) == []
    assert continued_in(runs.paused) == ""


@pytest.mark.parametrize("mode", [GuardMode.OBSERVE, GuardMode.OFF])
def test_guard_that_does_nothing_takes_nothing_over(runs: Runs, mode: GuardMode) -> None:
    assert runs.inherit(Resumed(), mode) is None
    assert list(runs.folder.iterdir()) == []


def test_run_that_has_not_paused_leaves_nothing(runs: Runs) -> None:
    (runs.paused / HANDOVER).unlink()
    assert runs.inherit(Resumed()) is None


def test_damaged_snapshot_costs_the_rollback_alone(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    session = Resumed(damaged=True)
    inherited = runs.inherit(session)
    assert inherited is not None
    assert inherited.snapshots == ()
    assert session.asked[-1] == ("resume", "step-000006")
    assert "A rollback that waits cannot be carried out: a file is damaged." in caplog.text


def test_journal_that_has_lost_entries_is_refused(runs: Runs) -> None:
    lines = (runs.paused / JOURNAL).read_bytes().splitlines(keepends=True)
    (runs.paused / JOURNAL).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(GuardError, match="has lost entries, so its decision cannot be carried over"):
        runs.inherit(Resumed())
