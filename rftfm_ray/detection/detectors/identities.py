"""Identities hold by construction: they need no threshold and no reference, and a break is a finding. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores
from rftfm_ray.detection.detectors.exact import GAIN_LIMIT, TOKEN_LIMIT, onsets
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.signals.limits import ADVANTAGE_LIMIT, CREDIT_LIMIT
from rftfm_ray.verdicts import Evidence

Mask = NDArray[np.bool_]

# Below this rate an update may leave a float32 weight unchanged.
LEAST_RATE = 1e-7
# Less than one weight of any sample.
LEAST_SHARE = 1e-9


@dataclass(frozen=True, slots=True)
class Identity:
    """One identity: its signal, the limit of that signal, and the meaning of a break.

    Attributes:
        name: of the identity.
        signal: that shows a break.
        limit: upper bound of `direction` times the signal; in both directions of its distance to `nominal`.
        meaning: of a break, as a sentence without a full stop.
        applies: (N) whether it must hold at each step of a view; None where it always must.
        direction: +1 where too much breaks it, -1 where too little does, 0 where both do.
        nominal: what the signal must be, where both directions break it.
    """

    name: str
    signal: str
    limit: float
    meaning: str
    applies: Callable[[StepView], Mask] | None = None
    direction: int = 1
    nominal: float = 0.0

    @property
    def directions(self) -> tuple[int, ...]:
        """The directions in which it can be broken."""
        return (self.direction,) if self.direction else (1, -1)

    def broken(self, view: StepView) -> Mask:
        """(N) whether each step breaks it; a step without a measurement does not."""
        return np.asarray(np.any([self.broken_towards(each, view) for each in self.directions], axis=0))

    def broken_towards(self, direction: int, view: StepView) -> Mask:
        """(N) whether each step breaks it in one of its directions."""
        broken = direction * (view.value(self.signal) - self.nominal) > self.limit
        return broken if self.applies is None else broken & self.applies(view)


def _was_updated(view: StepView) -> Mask:
    """(N) whether a step made every update, with valid trajectories, a gradient and a learning rate."""
    made = (view.value("vetoes") == 0) & (view.value("grad_norm") > 0) & (view.value("lr") >= LEAST_RATE)
    return np.asarray(made & (view.value("valid_rate") > 0))


IDENTITIES: tuple[Identity, ...] = (
    Identity(
        "advantages", "advantage_error", ADVANTAGE_LIMIT,
        "advantages differ from those that rewards, values and members lead to",
    ),
    Identity(
        "observations", "observation_mismatch_rate", 0.0,
        "observations in the transcript differ from what the tool returned",
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
    Identity(
        "credit", "credit_error", CREDIT_LIMIT, "the loss gets other advantages than the declared rule leads to",
    ),
    Identity(
        "returns", "return_error", CREDIT_LIMIT, "the critic learns other returns than the declared rule leads to",
    ),
    Identity("values", "value_error", CREDIT_LIMIT, "advantages rest on other values than the critic has given"),
    Identity(
        "samples", "sample_mismatch_rate", 0.0,
        "samples reach the loss with tokens or rewards of others, more than once, or not at all",
    ),
    Identity(
        "update_gain", "update_gain", GAIN_LIMIT,
        "an update has moved the weights by another factor than the declared rate calls for",
        direction=0, nominal=1.0,
    ),
    Identity(
        "turn_limits", "limit_excess", TOKEN_LIMIT, "turns are asked for with other limits of tokens than declared",
        direction=0,
    ),
    Identity(
        "decoded_observations", "observation_decode_mismatch_rate", 0.0,
        "the tokens of observations that the model has read say something else than their text",
    ),
)  # fmt: skip
"""The identities of a step report; finite values and the declared rate have their own detectors."""


class IdentityDetector(Detector):
    """One identity over a run: it stays broken from one measured step to the next."""

    STATE: ClassVar[Mapping[str, Kind]] = {"_since": Kind.INT}

    def __init__(self, identity: Identity) -> None:
        self.name = f"identity:{identity.name}"
        self.outputs = tuple(Output(identity.signal, each, Evidence.IDENTITY) for each in identity.directions)
        self._identity = identity
        self._since = 0

    def observe(self, view: StepView) -> Scores:
        """Infinite where it is broken, NaN where it was not measured."""
        scores, broken = Scores.quiet(view, len(self.outputs)), self._identity.broken(view)
        unknown = np.isnan(view.value(self._identity.signal))
        scores.score[unknown] = math.nan
        scores.reference[:] = self._identity.nominal
        rows = np.flatnonzero(~unknown)
        first, self._since = onsets(broken[rows], view.steps[rows], self._since)
        if broken.any():
            for column, output in enumerate(self.outputs):
                scores.score[self._identity.broken_towards(output.direction, view), column] = math.inf
            scores.onset[rows] = first[:, None]
        return scores

    def reason(self, output: int, reading: Reading) -> str:
        """What a break means, and the value that shows it."""
        return f"{self._identity.meaning} ({self.outputs[output].signal} is {reading.value:.3g})"

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Restart: the identity must be seen broken again."""
        if self._identity.signal not in signals:
            return ()
        self._since = 0
        return range(len(self.outputs))
