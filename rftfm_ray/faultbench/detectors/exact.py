"""What identities and independent channels find in a recorded run: evidence that needs no reference. Pure."""

from __future__ import annotations

import math

import numpy as np

from rftfm_ray.detection.monitor import monitor_plan
from rftfm_ray.faultbench.detectors.strata import Floats
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.generate import config_of
from rftfm_ray.verdicts import Evidence

# What a notice of a channel speaks of is the source of a harm, whether or not the harm has come through.
STRONG = (Evidence.IDENTITY, Evidence.CHANNEL)


def exact_scores(run: Recorded) -> tuple[Floats, list[str]]:
    """Infinity (N) at the steps at which an identity is broken or a channel's evidence stands, 0 elsewhere; and the
    signal that says so."""
    monitor = monitor_plan(config_of(run.entry)).build()
    scores, names = np.zeros(len(run)), [""] * len(run)
    for place, seen in enumerate(monitor.observe(list(run.reports()))):
        found = [symptom for symptom in seen.symptoms if symptom.evidence in STRONG and symptom.alarm]
        if found:
            scores[place], names[place] = math.inf, found[0].signal
    return scores, names
