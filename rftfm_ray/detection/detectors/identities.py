"""Identities: what is so by construction. Each needs no threshold and no reference, and a break is a finding. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Evidence, StepReport, Symptom

# Below this a float32 weight may not move by an update that was made.
LEAST_RATE = 1e-7
# Less than one weight of any sample.
LEAST_SHARE = 1e-9


def _always(report: StepReport) -> bool:
    del report
    return True


@dataclass(frozen=True, slots=True)
class Identity:
    """One identity: the signal that tells, the most that it may be, and what a break means."""

    name: str
    signal: str
    limit: float
    meaning: str
    applies: Callable[[StepReport], bool] = _always
    direction: int = 1

    def broken(self, report: StepReport) -> bool:
        """Whether a step breaks it; where nothing was measured, it does not."""
        found = value(report, self.signal)
        return not math.isnan(found) and self.direction * found > self.limit and self.applies(report)


def _was_updated(report: StepReport) -> bool:
    """Whether a step has made every update it was to make, with something to learn from and a rate to do it at."""
    return (
        value(report, "vetoes") == 0
        and value(report, "grad_norm") > 0
        and value(report, "lr") >= LEAST_RATE
        and value(report, "valid_rate") > 0
    )


IDENTITIES: tuple[Identity, ...] = (
    Identity(
        "advantages", "advantage_error", 1e-5,
        "advantages differ from those that rewards, values and members lead to",
    ),
    Identity(
        "observations", "observation_mismatch_rate", 0.0,
        "observations stand in the transcript otherwise than their tool gave them",
    ),
    Identity(
        "replayed_observations", "replay_observation_mismatch_rate", 0.0,
        "the environment gives other observations when it is asked again",
    ),
    Identity(
        "replayed_terminations", "replay_termination_mismatch_rate", 0.0,
        "the environment ends episodes elsewhere when it is asked again",
    ),
    Identity(
        "terminations", "termination_mismatch_rate", 0.0,
        "episodes are said to have ended otherwise than their tokens and limits say",
    ),
    Identity("served_weights", "weights_mismatch", 0.0, "a rollout actor serves other weights than the learner's"),
    Identity("staleness", "staleness", 0.0, "trajectories come from older weights than those that learn"),
    Identity(
        "updates_land", "changed_rate", -LEAST_SHARE, "updates were made and no weight has changed",
        applies=_was_updated, direction=-1,
    ),
)  # fmt: skip
"""Every identity that a step report tells of; finite values and the declared rate have detectors of their own."""


class IdentityDetector(Detector):
    """One identity over a run: its symptom stands while it is broken, and from a step that was measured to the next."""

    def __init__(self, identity: Identity) -> None:
        self.name = f"identity:{identity.name}"
        self._identity = identity
        self._since: int | None = None
        self._standing: tuple[Symptom, ...] = ()

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        identity, step = self._identity, report.id.step
        found = value(report, identity.signal)
        if math.isnan(found):
            # Not measured in this step: what was found last holds.
            return self._standing
        if not identity.broken(report):
            self._since, self._standing = None, ()
            return ()
        self._since = step if self._since is None else self._since
        self._standing = (
            Symptom(
                self.name, identity.signal, Evidence.IDENTITY, alarm=True, direction=identity.direction, value=found,
                reference=0.0, score=math.inf, onset=self._since, onset_low=self._since,
                reason=f"{identity.meaning} ({identity.signal} is {found:.3g})",
            ),
        )  # fmt: skip
        return self._standing

    def forget(self, signals: Sequence[str], step: int) -> None:
        """An identity needs no reference."""
        del signals, step

    def settle(self, signals: Sequence[str]) -> None:
        """Something has been done about it: it must be seen broken again."""
        if self._identity.signal in signals:
            self._since, self._standing = None, ()
