"""Makes the missing runs of the remediation benchmark, some at a time; can be stopped at any moment."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import ray

from rftfm_ray.driver.cluster import connect
from rftfm_ray.errors import BenchError
from rftfm_ray.faultbench.remediation.drawing import SIZES, RemediationSize, units_of
from rftfm_ray.faultbench.remediation.healthy import HealthyRun, healthy_runs
from rftfm_ray.faultbench.remediation.making import Maker
from rftfm_ray.faultbench.remediation.pairs import GUARDS, Arm, EndedRuns, Role, Unit
from rftfm_ray.faultbench.remediation.records import RunRecord, Store, file_of
from rftfm_ray.faultbench.runs.runner import ExperimentRunner, example

HEALTHY = "healthy"
PROFILES = "profiles"
Tell = Callable[[str], None]


class Work(Protocol):
    """Runs that one worker makes one after the other."""

    def next_arm(self, ended: EndedRuns) -> Arm | None:
        """The next run to make; None where all are made."""

    def make(self, maker: Maker, arm: Arm, ended: EndedRuns) -> RunRecord:
        """Make a run."""

    def file(self, arm: Arm) -> str:
        """The file that a run belongs to."""


@dataclass(frozen=True, slots=True)
class _UnitWork:
    unit: Unit

    def next_arm(self, ended: EndedRuns) -> Arm | None:
        return self.unit.next_arm(ended)

    def make(self, maker: Maker, arm: Arm, ended: EndedRuns) -> RunRecord:
        return maker.of_pair(arm, ended)

    def file(self, arm: Arm) -> str:
        return file_of(arm, self.unit.name)


@dataclass(frozen=True, slots=True)
class _HealthyWork:
    run: HealthyRun

    def next_arm(self, ended: EndedRuns) -> Arm | None:
        return self.run.next_arm(ended)

    def make(self, maker: Maker, arm: Arm, ended: EndedRuns) -> RunRecord:
        del ended
        return maker.of_healthy(self.run, arm)

    def file(self, arm: Arm) -> str:
        del arm
        return HEALTHY


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A remediation benchmark as planned.

    Attributes:
        size: how much of it.
        seed: that it is drawn from.
        units: its pairs.
        healthy: its runs without a fault.
    """

    size: RemediationSize
    seed: int
    units: tuple[Unit, ...]
    healthy: tuple[HealthyRun, ...]

    @classmethod
    def planned(cls, size: str, seed: int) -> Benchmark:
        """The benchmark of a size.

        Raises:
            BenchError: when a strength that it needs has not been measured.
        """
        chosen = SIZES[size]
        return cls(chosen, seed, units_of(chosen, seed), healthy_runs(chosen.healthy, seed))

    def work(self) -> list[Work]:
        """All of it, as it is dealt to workers."""
        return [*map(_UnitWork, self.units), *map(_HealthyWork, self.healthy)]

    def of_policy(self) -> Benchmark:
        """The part of it that another policy is judged by: no other run depends on it."""
        units = tuple(_guards_alone(unit) for unit in self.units)
        return Benchmark(self.size, self.seed, units, self.healthy)


def _guards_alone(unit: Unit) -> Unit:
    def roles(number: int) -> tuple[Role, ...]:
        return tuple(role for role in unit.roles(number) if role in GUARDS)

    return replace(unit, roles=roles)


class FinishedRuns:
    """The finished runs, those that depend on the judged policy in a folder of their own.

    Args:
        folder: of the benchmark.
        label: of the judged policy; empty for the shipped one, whose runs lie beside the others.
    """

    def __init__(self, folder: Path, label: str = "") -> None:
        self._common = Store(folder)
        self._own = Store(folder / f"policy-{label}") if label else self._common

    @property
    def ended(self) -> Mapping[str, RunRecord]:
        """All runs that the judged policy is judged by."""
        if self._own is self._common:
            return self._common.ended
        shared = {name: record for name, record in self._common.ended.items() if record.role not in GUARDS}
        return {**shared, **self._own.ended}

    def add(self, file: str, arm: Arm, record: RunRecord) -> None:
        """Keep a run."""
        (self._own if arm.role in GUARDS else self._common).add(file, record)


class Campaign:
    """Makes what is missing of a benchmark.

    Args:
        benchmark: as planned.
        folder: of its files.
        tell: what has happened.
        policy: of the user's, as `guard.policy` names it; empty for the shipped one.
        label: of that policy.
    """

    def __init__(self, benchmark: Benchmark, folder: Path, tell: Tell, policy: str = "", label: str = "") -> None:
        self._benchmark = benchmark.of_policy() if policy else benchmark
        self._folder, self._tell, self._policy = folder, tell, policy
        self._finished = FinishedRuns(folder, label)
        self._waiting = deque(self._benchmark.work())
        self._busy = set[str]()
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._made = 0

    @property
    def ended(self) -> Mapping[str, RunRecord]:
        """All finished runs."""
        with self._changed:
            return self._finished.ended

    def is_finished(self) -> bool:
        """Whether all runs are made."""
        ended = self.ended
        return all(work.next_arm(ended) is None for work in self._benchmark.work())

    def run(self, workers: int, seconds: float) -> None:
        """Make runs until all are made, or for so long; what is begun is finished.

        Raises:
            RftfmError: when a worker cannot go on.
        """
        until = time.monotonic() + seconds
        is_owner = connect(example("addition", "grpo", 0, 1), runs=workers + 1)
        try:
            with ThreadPoolExecutor(workers) as pool:
                try:
                    for done in as_completed([pool.submit(self._work, until) for _ in range(workers)]):
                        done.result()
                except BaseException:
                    # Ctrl-C as well: the pool waits for the runs under way.
                    self._stopped.set()
                    self._tell("Stopping after the runs under way; give the same command again to go on.")
                    raise
        finally:
            if is_owner:
                ray.shutdown()

    def _work(self, until: float) -> None:
        with ExperimentRunner() as runner:
            maker = Maker(runner, self._folder / PROFILES, self._benchmark.seed, self._policy)
            while (work := self._next_work()) is not None:
                while not self._stopped.is_set() and time.monotonic() < until and self._step(work, maker):
                    pass

    def _next_work(self) -> Work | None:
        with self._changed:
            return self._waiting.popleft() if self._waiting and not self._stopped.is_set() else None

    def _step(self, work: Work, maker: Maker) -> bool:
        """Make the next run of some work; False where there is none."""
        with self._changed:
            ended = self._finished.ended
            arm = work.next_arm(ended)
            if arm is None:
                return False
            if arm.name in self._busy:
                # Another worker makes this clean fork.
                self._changed.wait(timeout=1.0)
                return True
            self._busy.add(arm.name)
        try:
            record = work.make(maker, arm, ended)
            with self._changed:
                self._finished.add(work.file(arm), arm, record)
                self._made += 1
        finally:
            with self._changed:
                self._busy.discard(arm.name)
                self._changed.notify_all()
        self._tell(_line(self._made, record))
        return True


def _line(number: int, record: RunRecord) -> str:
    given = ", ".join(f"{one.remedy} at {one.step} ({one.outcome or 'not verified'})" for one in record.given)
    end = f"ended by itself: {record.error}" if record.error else f"accuracy {record.accuracy:.3f}"
    told = "" if record.alarm is None else f", {record.named} at step {record.alarm}"
    return f"{number}: {record.arm}: {end}{told}{f'; {given}' if given else ''} ({record.seconds:.0f} s)"


def check_size(name: str) -> None:
    """Refuse a size that there is not.

    Raises:
        BenchError: names the sizes.
    """
    if name not in SIZES:
        raise BenchError(f"Unknown size {name}; choose one of {', '.join(SIZES)}.")
