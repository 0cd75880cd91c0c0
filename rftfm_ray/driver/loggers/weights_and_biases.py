"""Weights & Biases: one of its runs for each run directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import wandb
import yaml

from rftfm_ray.driver.loggers.base import Note
from rftfm_ray.planning import RunPlan

AXIS = "consumed_step"
# Seconds that the start of an online run may take.
START_S = 60.0


class WeightsAndBiases:
    """Figures over the consumed step, what the guard does as it happens, and all of that as a table at the end."""

    def __init__(self, planned: RunPlan) -> None:
        config, folder = planned.config, planned.folder
        self._notes: list[Note] = []
        self._run: Any = wandb.init(
            project=config.logging.project,
            group=config.logging.group,
            name=folder.name,
            dir=str(folder),
            config=yaml.safe_load(config.to_yaml()),
            settings=wandb.Settings(console="off", silent=True, init_timeout=START_S),
        )
        self._run.define_metric(AXIS)
        self._run.define_metric("*", step_metric=AXIS)

    def figures(self, values: Mapping[str, float], consumed: int) -> None:
        """Log named numbers at a consumed step."""
        self._run.log({**values, AXIS: consumed})

    def note(self, note: Note) -> None:
        """Log what happened as a text, and as an alert where an incident opens."""
        self._notes.append(note)
        self._run.log({"guard/event": f"{note.event}: {note.text}", AXIS: note.consumed})
        if note.event == "opened":
            self._run.alert(title=f"{note.code} opened at step {note.step}", text=note.text)

    def close(self) -> None:
        """Log the table of what the guard did, and wait until everything is written."""
        if self._notes:
            rows = [[n.consumed, n.step, n.incident, n.code, n.event, n.text] for n in self._notes]
            columns: list[str | int] = [AXIS, "step", "incident", "code", "event", "text"]
            self._run.log({"guard/incidents": wandb.Table(columns=columns, data=rows)})
        self._run.finish()
