"""The evaluations of a run, from its events."""

from __future__ import annotations

import math

from rftfm_ray.runs.reader import Probe, RunData, event_step
from rftfm_ray.runs.words import as_number, clean, to_count

CHANCE = "pass_at_"
LONGEST_NAME = 40


def evaluations_of(data: RunData) -> dict[str, tuple[Probe, ...]]:
    """Accuracies and pass@k by the name of the curve, in their order; those that a rollback has undone say so."""
    gone = dict(zip(data.steps.ids, data.steps.abandoned, strict=True))
    found: dict[str, list[Probe]] = {}
    for event in data.events:
        step = event_step(event) if event.get("kind") == "evaluation" else None
        if step is None:
            continue
        name, size = clean(str(event.get("name", "")), LONGEST_NAME), to_count(as_number(event.get("problems")))
        values = {name: as_number(event.get("accuracy"))}
        chances = [key for key in event if key.startswith(CHANCE)]
        # Of many k the largest is drawn.
        for key in sorted(chances, key=lambda key: int(key.removeprefix(CHANCE)))[-1:]:
            values[f"{name}, pass@{key.removeprefix(CHANCE)}"] = as_number(event[key])
        for curve, value in values.items():
            if math.isfinite(value):
                probe = Probe(step.paid_step, step.step, value, gone.get(step, False), size=size)
                found.setdefault(curve, []).append(probe)
    return {curve: tuple(probes) for curve, probes in found.items()}
