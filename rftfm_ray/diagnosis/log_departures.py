"""How signals of somebody else's run go together, by the shipped priors, where its log holds enough of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rftfm_ray.detection.detectors.joint import DepartureDetector
from rftfm_ray.detection.reference.priors import among, enough, kind_with, shipped
from rftfm_ray.detection.statistics.change_points import FEWEST, Floats
from rftfm_ray.detection.statistics.trends import Alarm, Kind
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import StepReport


def known_together(values: Mapping[str, Floats]) -> bool:
    """Whether a log holds enough for what goes together to say anything."""
    measured = [name for name, column in values.items() if int(np.isfinite(column).sum()) >= FEWEST]
    return enough(shipped(kind_with(measured)), measured)


def departures(values: Mapping[str, Floats]) -> list[Alarm]:
    """Alarms by places in a log, each under the signal that had most evidence as it was raised."""
    names = [name for name in values if name in INDEX]
    places, columns = [INDEX[name] for name in names], np.stack([values[name] for name in names], 1)
    detector = DepartureDetector(among(shipped(kind_with(names)), names))
    row, found, standing = np.full(len(SIGNALS), np.nan), list[Alarm](), None
    for place, step in enumerate(np.where(np.isfinite(columns), columns, np.nan)):
        row[places] = step
        symptoms = detector.observe(StepReport(StepId(0, place + 1, place + 1), place + 1, tuple(row.tolist())))
        if not symptoms:
            found += [] if standing is None else [standing]
            standing = None
        elif standing is None:
            standing = Alarm(symptoms[0].signal, Kind.DEPARTURE, symptoms[0].onset - 1, place, place)
        else:
            standing = replace(standing, last=place)
    return found + ([] if standing is None else [standing])
