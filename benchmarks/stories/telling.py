"""Tells a story: the broken run and its repaired twin, in real actors, and what the guard said of each."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stories.table import SMALL, Story
from benchmarks.stories.trainers import drill_of
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import load_config
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.driver.run import execute
from rftfm_ray.errors import RftfmError
from rftfm_ray.incidents.state import Entry, replay
from rftfm_ray.planning import plan

SEED = 11


@dataclass(frozen=True, slots=True)
class Told:
    """What was said of a run.

    Attributes:
        step: consumed step of the first incident; None without one.
        code: of its first name.
        says: the sentence that it was opened with.
        error: that ended the run.
        steps: that were consumed.
    """

    step: int | None
    code: str
    says: str
    error: str
    steps: int


def tell(story: Story, folder: Path, warm: WarmActors, *, broken: bool, seed: int = SEED) -> Told:
    """Make one run of a story, whose actors must be those of `story_actors`."""
    settings = [*SMALL, f"task.name={story.task}", f"seed={seed}", *story.settings]
    settings += story.broken_settings if broken else ()
    planned = plan(load_config(None, settings), folder)
    learner = story.learner(story.first) if broken and story.learner is not None else None
    rollout = story.rollout(story.first) if broken and story.rollout is not None else None
    planned = dataclasses.replace(planned, drill=drill_of(planned.drill, learner, rollout))
    rows, journal, error = list[int](), list[Entry](), ""
    listeners = Listeners(row=lambda row: rows.append(row.id.paid_step), entry=journal.append)
    try:
        execute(planned, listeners, time.perf_counter(), warm)
    except RftfmError as raised:
        error = str(raised)
    return _told(journal, error, len(rows))


def _told(journal: list[Entry], error: str, steps: int) -> Told:
    incidents = replay(tuple(journal)).incidents
    if not incidents:
        return Told(None, "", "", error, steps)
    first = min(incidents, key=lambda incident: incident.opened.paid_step)
    (opened, *_) = [entry for entry in journal if entry.incident == first.id]
    return Told(first.opened.paid_step, first.code, opened.text("reason"), error, steps)
