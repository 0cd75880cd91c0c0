"""What the remediation benchmark runs: a fault in a healthy run, and the runs that are compared with each other. Pure.

All runs of a pair leave the same healthy run, or begin as it does: up to the onset they are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from rftfm_ray.drills.outcome import HARMED, RunOutcome, loss_of
from rftfm_ray.faultbench.runs.plan import BACKGROUNDS

STEPS = 40
"""Consumed steps of every run."""
PROBLEMS = 1024
"""Held-out problems that a run is graded on at its end."""
FORKS = 3
"""Clean forks whose mean accuracy stands for what a run comes to without a fault."""


class Cell(StrEnum):
    """A part of the benchmark, with targets of its own."""

    HARM = "harm"
    LEVELS = "easy and hard"
    TRANSIENT = "transient"
    TWO_FAULTS = "two faults"
    FIRST_STEP = "from step 1"


class Role(StrEnum):
    """What a run is for."""

    CLEAN = "clean"
    """A clean fork with a sampling seed of its own; numbered."""
    ALONE = "alone"
    """With the fault and without a guard."""
    ALONE_AGAIN = "alone again"
    """The same with another sampling seed: how far luck alone takes a run."""
    GUARDED = "guarded"
    """With the fault and the guard as it ships, without a profile."""
    PROFILED = "guarded, profile"
    """With a profile of eight healthy runs."""
    FROZEN = "frozen at the alarm"
    """Ended by the first alarm of `GUARDED`: its accuracy is that of a policy which stands still from there on."""
    ROLLBACK = "always roll back"
    KL = "KL x 10"
    RANDOM = "random remedy"
    ADAPTIVE_KL = "adaptive KL"
    TOLD = "told"
    """The playbook, told the fault, its place and its onset as soon as there is an incident."""


GUARDS = (Role.GUARDED, Role.PROFILED)
"""Roles in which the policy that is judged decides."""
BASELINES = (Role.FROZEN, Role.ROLLBACK, Role.KL, Role.RANDOM, Role.ADAPTIVE_KL, Role.TOLD)
"""What the guard is compared with beside nothing."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """A healthy run that others leave: its task, algorithm and seed, and whether it has the background."""

    task: str
    algorithm: str
    seed: int
    dirty: bool

    @property
    def background(self) -> str:
        """Name of its background."""
        return BACKGROUNDS[self.dirty]

    @property
    def name(self) -> str:
        """Its name, unique in the benchmark."""
        return f"{self.task}-{self.algorithm}-{self.seed}"


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault as it is injected.

    Attributes:
        code: of the fault.
        mechanism: by which it works.
        strength: of the mechanism.
        onset: first consumed step with it.
        options: further ones, as `inject` takes them.
    """

    code: str
    mechanism: str
    strength: float
    onset: int
    options: str = ""

    @property
    def text(self) -> str:
        """The fault as `inject` takes it."""
        more = f",{self.options}" if self.options else ""
        return f"{self.code}@{self.onset}:{self.strength!r},mechanism={self.mechanism}{more}"

    @property
    def is_mendable(self) -> bool:
        """Whether something in these runs can mend it.

        They have a second learner, a clean path to the engine and a server that can be started again, so faults of one
        of these are mendable. A tool that always fails in every replica has no other path, a critic whose values are
        biased has no trusted one beside it, and an environment that never ends an episode ends none of them wrongly.
        """
        everywhere = self.code == "TE-1" and self.strength >= 1 and "instances=all" in self.options
        return not everywhere and (self.code, self.mechanism) not in NOT_MENDABLE


NOT_MENDABLE = (("CA-1", "biased_values"), ("TE-3", "never"))
"""Mechanisms that nothing in the runs of this benchmark can mend, whatever their strength."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One run.

    Attributes:
        trunk: the healthy run that it leaves.
        role: what it is for.
        faults: in it.
        number: of a clean fork, from 1 on.
    """

    trunk: Trunk
    role: Role
    faults: tuple[Injected, ...] = ()
    number: int = 0

    @property
    def name(self) -> str:
        """Its name, unique in the benchmark."""
        what = "+".join(fault.text for fault in self.faults) or str(self.number)
        return f"{self.trunk.name}/{what}/{self.role}"

    @property
    def onset(self) -> int:
        """First consumed step with a fault; after the end without one."""
        return min((fault.onset for fault in self.faults), default=STEPS + 1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A healthy run and faults that are put into it.

    Attributes:
        trunk: the healthy run.
        faults: in it.
        level: of their strength.
    """

    trunk: Trunk
    faults: tuple[Injected, ...]
    level: str

    @property
    def name(self) -> str:
        """Its name, unique in the benchmark."""
        return f"{self.trunk.name}/{'+'.join(fault.text for fault in self.faults)}"

    @property
    def first(self) -> Injected:
        """The fault that begins first."""
        return min(self.faults, key=lambda fault: fault.onset)

    def arm(self, role: Role) -> Arm:
        """One of its runs."""
        return Arm(self.trunk, role, self.faults)

    def clean(self, number: int) -> Arm:
        """A clean fork of its healthy run."""
        return Arm(self.trunk, Role.CLEAN, number=number)


class Ended(Protocol):
    """What is known of a finished run."""

    @property
    def outcome(self) -> RunOutcome:
        """Its held-out accuracy, or the error that ended it."""

    @property
    def alarm(self) -> int | None:
        """Consumed step of its first incident from the onset on."""


EndedRuns = Mapping[str, Ended]
"""Finished runs by the names of their arms."""


def clean_accuracy(trunk: Trunk, ended: EndedRuns) -> float:
    """Mean held-out accuracy of the clean forks, all of which are made."""
    names = [Arm(trunk, Role.CLEAN, number=number).name for number in range(1, FORKS + 1)]
    return sum(ended[name].outcome.accuracy for name in names) / FORKS


def is_harmful(pair: Pair, ended: EndedRuns) -> bool:
    """Whether a fault costs enough held-out accuracy where nobody minds it."""
    return loss_of(clean_accuracy(pair.trunk, ended), ended[pair.arm(Role.ALONE).name].outcome) >= HARMED


@dataclass(frozen=True, slots=True)
class Unit:
    """Pairs that one worker makes one after the other, until enough of them are harmful.

    Attributes:
        cell: whose targets count for them.
        name: unique in the benchmark.
        pairs: in the order in which they are made.
        quota: harmful ones that are wanted.
        roles: of the runs of a harmful pair, by its number among these, from 0 on.
        forks: clean forks of a pair's healthy run.
        is_any: whether a pair counts that does no harm.
    """

    cell: Cell
    name: str
    pairs: tuple[Pair, ...]
    quota: int
    roles: Callable[[int], tuple[Role, ...]] = field(compare=False)
    forks: int = FORKS
    is_any: bool = False

    def next_arm(self, ended: EndedRuns) -> Arm | None:
        """The next run to make; None where the unit is finished."""
        taken = 0
        for pair in self.pairs:
            if taken == self.quota:
                return None
            first = [*(pair.clean(number) for number in range(1, self.forks + 1)), pair.arm(Role.ALONE)]
            missing = next((arm for arm in first if arm.name not in ended), None)
            if missing is not None:
                return missing
            if not (self.is_any or is_harmful(pair, ended)):
                continue
            missing = next((arm for arm in self._arms(pair, taken, ended) if arm.name not in ended), None)
            if missing is not None:
                return missing
            taken += 1
        return None

    def counted(self, ended: EndedRuns) -> list[Pair]:
        """The pairs that count and whose runs are all made."""
        counted: list[Pair] = []
        for pair in self.pairs:
            first = [*(pair.clean(number) for number in range(1, self.forks + 1)), pair.arm(Role.ALONE)]
            if len(counted) == self.quota or any(arm.name not in ended for arm in first):
                break
            if not (self.is_any or is_harmful(pair, ended)):
                continue
            if any(arm.name not in ended for arm in self._arms(pair, len(counted), ended)):
                break
            counted.append(pair)
        return counted

    def _arms(self, pair: Pair, number: int, ended: EndedRuns) -> list[Arm]:
        """The runs of a pair that counts; without an alarm there is nothing to freeze at, and it is as without a
        guard."""
        arms = [pair.arm(role) for role in self.roles(number)]
        guarded = ended.get(pair.arm(Role.GUARDED).name)
        is_silent = guarded is not None and guarded.alarm is None
        return [arm for arm in arms if not (is_silent and arm.role is Role.FROZEN)]
