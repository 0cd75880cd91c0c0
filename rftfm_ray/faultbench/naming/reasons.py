"""Why a fault was not named as what it is, computed from its run. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rftfm_ray.diagnosis.classify import CLAIMED, PATIENCE
from rftfm_ray.faultbench.naming.named import Name, NamedRun
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope
from rftfm_ray.taxonomy import UNKNOWN

# Probability of a fault that the ranking does not have; keeps the distance to it finite.
LEAST_STATED = 1e-4


def reason_of(run: NamedRun) -> str:
    """Why a run has a wrong name or none, in one line; empty where the name is right."""
    return "" if run.is_right else "; ".join(_parts(run))


def _parts(run: NamedRun) -> Iterator[str]:
    if run.name is not None:
        yield from _of_name(run, run.name)
    elif run.was_open:
        yield f"an alarm was open already when the fault was switched on at step {run.switch}"
    else:
        yield f"no alarm from the switch at step {run.switch} to step {run.entry.steps}, effect at step {run.effect}"
    yield from _missing(run)


def _of_name(run: NamedRun, name: Name) -> Iterator[str]:
    if name.step < run.effect:
        yield f"named at step {name.step}, before the effect at step {run.effect}"
    likeliest, truth = name.ranking[0], dict(name.ranking).get(run.truth, 0.0)
    if likeliest[0] == run.truth:
        yield f"{run.truth} was likeliest, with {likeliest[1]:.0%}, below the {CLAIMED:.0%} of a name"
        return
    nats = math.log(max(likeliest[1], LEAST_STATED) / max(truth, LEAST_STATED))
    yield f"{likeliest[0]} is closer by {nats:.1f} nats ({likeliest[1]:.0%} to {truth:.0%})"
    if name.code == UNKNOWN and likeliest[0] != UNKNOWN:
        yield f"no name reached {CLAIMED:.0%} in {PATIENCE} steps"


def _missing(run: NamedRun) -> Iterator[str]:
    """Evidence that would have shown the mechanism, and did not speak."""
    identity = run.mechanism.shown_by
    if run.scope is not EvidenceScope.ALL:
        yield "identities and channels are not measured"
    elif not identity:
        yield "no identity shows this mechanism"
    elif not any(each.rpartition(":")[2] == identity for each in (run.name.detectors if run.name else ())):
        yield f"the identity `{identity}`, which shows it, had no alarm"
