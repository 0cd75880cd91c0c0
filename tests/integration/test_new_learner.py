"""A learner that takes the place of another goes on bit for bit from its state, without the fault of its process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from rftfm_ray.actors.calls import wait_for
from rftfm_ray.actors.group import START
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import load_config
from rftfm_ray.driver.guard import NoGuard
from rftfm_ray.driver.remediation import RemedyExecutor
from rftfm_ray.driver.run import train
from rftfm_ray.driver.session import Session
from rftfm_ray.incidents.orders import Order, OrderRole
from rftfm_ray.incidents.state import EntryKind, levers_of
from rftfm_ray.planning import plan
from rftfm_ray.rollout.weights import WeightsUpdate
from rftfm_ray.telemetry.journal import JOURNAL, read_journal
from rftfm_ray.telemetry.recorder import read_steps
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.telemetry.rundir import HANDED_ON
from rftfm_ray.training.update_report import UpdateReport
from rftfm_ray.types import Action, Levers

HELD, SHARE = "OD-2@1:0.4,mechanism=held_weights", 0.6
SMALL = (
    "algorithm.prompts_per_step=8", "algorithm.samples_per_prompt=4", "probe.size=16", "snapshots.every=1",
    "learner.lr=0.001",
)  # fmt: skip
NEW = Order(1, 1, OrderRole.REMEDY, "new_learner", "why", Levers(), actions=(Action.RESTART_LEARNER,))


def begun(warm: WarmActors, folder: Path, name: str, *faults: str) -> Session:
    """A run on warm actors, before its first step."""
    config = load_config(None, [*SMALL, f"inject=[{', '.join(repr(fault) for fault in faults)}]"])
    run = plan(config, folder / name)
    session = Session(dataclasses.replace(run, name=name), warm.take(run))
    session.resync()
    return session


def steps(session: Session, count: int) -> Iterator[tuple[UpdateReport, WeightsUpdate]]:
    """Some steps: what each reports and the weights after it."""
    for _ in range(count):
        position = next(session.positions())
        report, weights = session.train(position, session.generate(position))
        session.fetch_synced(session.sync(weights), position)
        yield session.fetch_report(report), wait_for([weights], START, "fetching")[0]


def replace_learner(session: Session, order: Order = NEW) -> None:
    """Carry out the order between two steps."""
    records = cast("RunRecords", SimpleNamespace(event=lambda *_, **__: None))
    RemedyExecutor(session, NoGuard(), records, 16).carry_out(order, session.position.id)


def test_run_goes_on_bit_for_bit_under_a_new_learner(warm: WarmActors, tmp_path: Path) -> None:
    *_, (_, usual) = steps(begun(warm, tmp_path, "usual"), 4)
    session = begun(warm, tmp_path, "replaced")
    list(steps(session, 2))
    session.move_levers(Levers(max_grad_norm=2.0))
    replace_learner(session, dataclasses.replace(NEW, levers=Levers()))
    assert not (session._plan.folder / HANDED_ON).exists()
    (first, _), (second, last) = steps(session, 2)
    assert (first.snapshots, second.snapshots) == ((2, 3), (2, 3, 4)), "older ones ended with the old learner"
    assert last.arrays.keys() == usual.arrays.keys()
    for name, array in usual.arrays.items():
        np.testing.assert_array_equal(last.arrays[name], array, err_msg=name)


@pytest.mark.parametrize(("fault", "share"), [(HELD, 1.0), (f"{HELD},instances=all", SHARE)])
def test_new_learner_writes_what_it_computes_unless_the_fault_is_in_all(
    warm: WarmActors, tmp_path: Path, fault: str, share: float
) -> None:
    session = begun(warm, tmp_path, "held", fault)
    for report, _ in steps(session, 2):
        assert report.metrics.changed_rate == pytest.approx(SHARE, abs=0.02)
    replace_learner(session)
    for report, _ in steps(session, 2):
        assert report.metrics.changed_rate == pytest.approx(share, abs=0.02)


def test_rollback_goes_with_the_new_learner(warm: WarmActors, tmp_path: Path) -> None:
    session = begun(warm, tmp_path, "back", HELD)
    list(steps(session, 3))
    replace_learner(session, dataclasses.replace(NEW, restore_step=1))
    assert (session.position.id.step, session.position.id.attempt) == (1, 1)
    ((report, _),) = steps(session, 1)
    assert report.snapshots == (1, 2)
    assert report.metrics.changed_rate == pytest.approx(1.0, abs=0.02)


def test_guard_replaces_a_learner_that_does_not_write_what_it_computes(warm: WarmActors, tmp_path: Path) -> None:
    overrides = [
        *SMALL, "learner.lr=2e-4", "seed=5", "steps=14", "probe.final_size=16", "checkpoints.at_end=false",
        "report.at_end=false", "preflight.mode=off", "guard.mode=act", "guard.act_on=[OD]",
        f"inject=['{HELD.replace('@1', '@6')}']",
    ]  # fmt: skip
    run = Path(train(load_config(None, overrides), tmp_path / "run", warm=warm).run_dir)
    entries, _ = read_journal(run / JOURNAL)
    asked = [entry.text("check") for entry in entries if entry.kind is EntryKind.ASKED]
    assert "update_replay" in asked, "it did not wait for the cadence of the check"
    (applied,) = [entry for entry in entries if entry.kind is EntryKind.APPLIED]
    assert (applied.text("remedy"), levers_of(applied)) == ("new_learner", Levers())
    table = read_steps(run)
    step, changed = (np.array(table[name].to_pylist(), float) for name in ("step", "changed_rate"))
    assert changed[(step >= 6) & (step < applied.id.step)] == pytest.approx(SHARE, abs=0.02)
    assert changed[step >= applied.id.step] == pytest.approx(1.0, abs=0.02)
