"""A guarded run on the real stack with loggers: an incident and its remedy stand in TensorBoard's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import load_config
from rftfm_ray.driver.run import train
from rftfm_ray.metrics import StepRow
from tests.integration.test_controls import SMALL

ACTING = ("steps=22", "guard.mode=act", "guard.act_on=[OD]", "guard.verify_steps=4", "inject=['OD-1@12:30,duration=3']")


def test_incident_stands_beside_the_figures(runs: Path, warm: WarmActors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    rows: list[StepRow] = []
    folder = runs / "logged"
    config = load_config(None, [*SMALL, *ACTING, "logging.to=[tensorboard,wandb]"])
    summary = train(config, folder, observe=rows.append, warm=warm)
    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    figures = [(event.step, event.value) for event in read.Scalars("batch/reward_mean")]
    # A step that was undone keeps its place on the axis.
    assert figures == [(row.id.paid_step, pytest.approx(row.batch.reward_mean, abs=1e-6)) for row in rows]
    assert len({event.value for event in read.Scalars("attempt")}) > 1
    assert len(summary.incidents) == 1
    told = [event.tensor_proto.string_val[0].decode() for event in read.Tensors("incident 1/text_summary")]
    assert [text.split("**")[1] for text in told][:2] == ["opened", "named"]
    assert any(text.startswith("**applied** OD-1") for text in told)
    assert max(event.value for event in read.Scalars("guard/open_incidents")) == 1
    (written,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    assert written.stat().st_size > 10_000
