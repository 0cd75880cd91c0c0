"""What a catalogue of faults is written in: mechanisms, their strengths, and the laws of a step that they break."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rftfm_ray.taxonomy import TAXONOMY
from rftfm_ray.verdicts import Family, Place

ALGORITHMS = ("grpo", "ppo", "rloo", "reinforce_pp")
CRITIC = ("ppo",)


class Law(StrEnum):
    """Names of relations between the recorded figures of a step, as mechanisms are said to break or to keep them.

    `faultbench.runs.laws` says which law or floor of the guard each of them is, and how far a step is from it.
    """

    ADVANTAGE_MEAN = "advantage_mean"
    ADVANTAGE_SPREAD = "advantage_spread"
    RETURNS = "returns"
    LOSS = "loss"
    REWARD = "reward"
    ROLLOUT = "rollout"
    WEIGHTS = "weights"
    TOOL_ERRORS = "tool_errors"
    TURNS = "turns"


@dataclass(frozen=True, slots=True)
class Strength:
    """What the strength of a mechanism means, its bounds (ends included), its default, and where it does nothing."""

    meaning: str
    low: float
    high: float
    default: float
    neutral: float = 0.0


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One way to inject a fault.

    Attributes:
        name: its name.
        acts_in: the place that it sits in.
        summary: what it does.
        signal: the telemetry signal that moves first.
        direction: 1 when it rises, -1 when it falls.
        strength: what its strength means.
        shown_by: the identity that tells it best of those that it breaks; empty where none shows it.
        algorithms: those that can have it.
        needs_tool: whether the task must have more than one turn.
        learned: for a mechanism that works only once the policy has learnt what it asks for, how far that must have
            moved from where it stood before the fault to count as an effect, in its own unit and as a mean over
            responses; 0 where the effect is there at once.
        breaks: the laws of a step that it breaks at its default strength; it keeps all others at every strength.
        since: the first seed of FaultBench whose plan draws it, so that the plans of earlier ones stay as they are.
    """

    name: str
    acts_in: Place
    summary: str
    signal: str
    direction: int
    strength: Strength
    shown_by: str = ""
    algorithms: tuple[str, ...] = ALGORITHMS
    needs_tool: bool = False
    learned: float = 0.0
    breaks: tuple[Law, ...] = ()
    since: int = 1

    @property
    def keeps(self) -> tuple[Law, ...]:
        """The laws of a step that hold under it."""
        return tuple(law for law in Law if law not in self.breaks)


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A fault of the taxonomy with its mechanisms. The first mechanism is the default."""

    code: str
    summary: str
    mechanisms: tuple[Mechanism, ...]

    @property
    def name(self) -> str:
        """Its name in the taxonomy."""
        return TAXONOMY[self.code].name

    @property
    def family(self) -> Family:
        """Its family in the taxonomy."""
        return TAXONOMY[self.code].family

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Algorithms that can have it by one mechanism or another."""
        return tuple(a for a in ALGORITHMS if any(a in m.algorithms for m in self.mechanisms))

    def mechanism(self, name: str) -> Mechanism:
        """The mechanism called `name`; KeyError where there is none."""
        return {m.name: m for m in self.mechanisms}[name]


def share_of(what: str, default: float, low: float = 0.01, high: float = 1.0) -> Strength:
    """A strength that is a probability."""
    return Strength(f"probability that {what}", low, high, default)
