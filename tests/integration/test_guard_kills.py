"""SIGKILL of monitor and controller in a real run: the guard comes back, and remedies as if nothing had happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from rftfm_ray.actors import guards
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig, load_config
from rftfm_ray.driver.run import train
from rftfm_ray.errors import GuardLostError
from rftfm_ray.incidents.state import Entry, EntryKind, replay
from rftfm_ray.metrics import StepRow
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.training import checkpoints
from rftfm_ray.types import RunSummary

pytestmark = pytest.mark.usefixtures("cluster")

EXAMPLE = Path(__file__).parents[2] / "examples" / "addition.yaml"
ACT = [
    "guard.mode=act", "guard.act_on=[RF,PG,OD,CA,TE]", "inject=['OD-1@14:30']", "steps=24", "probe.size=64",
    "probe.final_size=64", "checkpoints.at_end=false", "report.at_end=false",
]  # fmt: skip
KILLED_AT = 10


def config(*overrides: str) -> RunConfig:
    """The example of addition, with a fault some steps after the guard is lost."""
    return load_config(EXAMPLE, [*ACT, *overrides])


def process_of(role: str) -> int:
    """Process of the living actor with a role; the tests have one run at a time."""
    from ray._private.state import actors  # its public counterpart asks the dashboard, which tests have none of

    alive = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
    (pid,) = [int(actor["Pid"]) for actor in alive if actor["Name"].endswith(f"/{role}")]
    return pid


def killer(role: str, steps: tuple[int, ...]) -> Callable[[StepRow], None]:
    """An observer that kills an actor after some steps."""

    def observe(row: StepRow) -> None:
        if row.id.paid_step in steps:
            os.kill(process_of(role), signal.SIGKILL)

    return observe


def entries(summary: RunSummary) -> tuple[Entry, ...]:
    """The journal of a run."""
    return read_journal(Path(summary.run_dir) / JOURNAL)[0]


def decisions(journal: tuple[Entry, ...]) -> list[tuple[object, ...]]:
    """What the guard saw, decided and did, without times and without what a restart adds."""
    added = (EntryKind.RESTORED, EntryKind.LATE)
    return [
        (e.kind, e.id, e.incident, tuple(f for f in e.fields if f[0] != "seconds"))
        for e in journal
        if e.kind not in added
    ]


@pytest.fixture(scope="module")
def usual(cluster: None, runs: Path, warm: WarmActors) -> RunSummary:
    """The same run without a loss."""
    return train(config(), runs / "kill-never", warm=warm)


@pytest.mark.parametrize("role", ["monitor-0", "controller-0"])
@pytest.mark.parametrize("steps", [(KILLED_AT,), (14, 18)], ids=["before", "during"])
def test_killed_guard_comes_back_and_remedies(
    usual: RunSummary, role: str, steps: tuple[int, ...], runs: Path, warm: WarmActors
) -> None:
    folder = runs / f"kill-{role}-{steps[0]}"
    summary = train(config("guard.verdict_timeout_s=60"), folder, observe=killer(role, steps), warm=warm)
    journal = entries(summary)
    assert replay(journal).incidents
    assert decisions(journal) == decisions(entries(usual))
    back = [entry for entry in journal if entry.kind is EntryKind.RESTORED]
    assert [entry.text("name") for entry in back] == [role] * len(steps)
    assert (summary.guard_restarts, summary.unguarded_steps) == (len(steps), 0)
    assert (summary.incidents, summary.remedies) == (usual.incidents, usual.remedies)
    assert summary.probe_last == usual.probe_last


def test_guard_that_is_lost_again_and_again_stops_the_run(
    runs: Path, warm: WarmActors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "MOST_LOSSES", 1)
    folder = runs / "kill-stop"
    with pytest.raises(
        GuardLostError, match=r"lost before step 1[12] .* Go on with: rftfm train .* --resume .*step-00001[01]"
    ):
        train(config(), folder, observe=killer("monitor-0", (KILLED_AT,)), warm=warm)
    (saved,) = (folder / "checkpoints").glob("step-*")
    # The report of the step may have been judged before the kill; the next one is not.
    assert checkpoints.verify(saved).state.step in (KILLED_AT, KILLED_AT + 1)
    assert GuardLostError.exit_code == 5
    journal, _ = read_journal(folder / JOURNAL)
    assert journal[-1].kind is EntryKind.LOST


def test_run_that_may_go_on_unguarded_says_so(runs: Path, warm: WarmActors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "MOST_LOSSES", 1)
    folder = runs / "kill-continue"
    observe = killer("controller-0", (KILLED_AT,))
    summary = train(config("guard.on_lost=continue", "steps=16", "inject=[]"), folder, observe=observe, warm=warm)
    kinds = [entry.kind for entry in entries(summary)]
    assert kinds == [EntryKind.STARTED, EntryKind.PROBED, EntryKind.LOST, EntryKind.ENDED]
    assert summary.unguarded_steps in (6, 7)
    assert "guard_lost" in [problem.kind for problem in summary.ending]
    assert dict(entries(summary)[-1].fields)["unguarded"] == summary.unguarded_steps
