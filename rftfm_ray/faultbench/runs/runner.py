"""Runs experiments: many short runs on warm actors, measured and optionally judged, and forks of healthy runs."""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import PreflightConfig, PreflightMode, RunConfig
from rftfm_ray.driver.loop import Listeners
from rftfm_ray.driver.run import execute
from rftfm_ray.errors import RftfmError
from rftfm_ray.incidents.state import Entry
from rftfm_ray.metrics import StepRow
from rftfm_ray.planning import plan
from rftfm_ray.policies.api import Policy
from rftfm_ray.signals.schema import report_of, value
from rftfm_ray.telemetry.events import read_events

# Switches off what costs time, and the parity check, which would end a run: missing weights are a finding here.
QUICK = {
    "checkpoints": {"every": 0, "at_end": False}, "report": {"at_end": False}, "records": {"trajectory_rate": 0.0},
    "probe": {"every": 0, "final_size": 16, "sampled_share": 0.0}, "snapshots": {"every": 0},
    "sync": {"parity_every": 0}, "guard": {"mode": "observe"},
}  # fmt: skip

# Learning rates of the examples, by task; everything else is the default.
RATES: Mapping[str, float] = {"addition": 2e-4, "calculator": 1e-4}

# Compared by ratio: these signals stay below a thousandth, the smallest spread that counts.
LOGARITHMIC = ("update_ratio",)
# Zero has no logarithm: it counts as this.
LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class RunHistory:
    """History of a run: its steps, last held-out accuracy, the steps that switched its faults on and the steps of their
    effects, None without an effect; the error that ended it, where that was allowed; and the journal of its guard,
    where it had one."""

    rows: tuple[StepRow, ...]
    switched: tuple[int, ...]
    effects: tuple[int | None, ...]
    accuracy: float
    error: str = ""
    journal: tuple[Entry, ...] = ()

    def signal(self, name: str) -> NDArray[np.float64]:
        """One signal, step by step; natural logarithms of those that are `LOGARITHMIC`."""
        values = np.array([value(report_of(row), name) for row in self.rows])
        if name not in LOGARITHMIC:
            return values
        logarithms: NDArray[np.float64] = np.log(np.maximum(values, LEAST))
        return logarithms


def with_sections(config: RunConfig, *layers: Mapping[str, object]) -> RunConfig:
    """`config` with other values of some keys: of a section those that are named, else the value itself. A later layer
    goes before an earlier one."""
    tree = config.model_dump(mode="json")
    for layer in layers:
        for name, keys in layer.items():
            tree[name] = tree[name] | keys if isinstance(keys, dict) else keys
    return RunConfig.model_validate(tree)


def quick(config: RunConfig, **sections: object) -> RunConfig:
    """`config` for an experiment: nothing is saved, and little is probed."""
    return with_sections(config, QUICK, sections)


def example(task: str, algorithm: str, seed: int, steps: int, model: str = "builtin:tiny") -> RunConfig:
    """The run of an example, with another algorithm, seed, length or model."""
    tree = {
        "seed": seed, "steps": steps, "task": {"name": task}, "model": {"path": model},
        "algorithm": {"name": algorithm}, "learner": {"lr": RATES[task]},
    }  # fmt: skip
    return RunConfig.model_validate(tree)


@dataclass(frozen=True, slots=True)
class HowToRun:
    """How one run is made.

    Attributes:
        follow: it ends so many steps after all effects have begun, without a last held-out accuracy.
        keep: where its checkpoints are moved.
        may_fail: an error ends the run and is part of its history.
        judged: it has a guard, as `guard.mode` asks for.
        is_other_run: the run that it is forked from may have had another seed or task.
        policy: decides in place of the one that the configuration names.
    """

    follow: int | None = None
    keep: Path | None = None
    may_fail: bool = False
    judged: bool = False
    is_other_run: bool = False
    policy: Policy | None = None


USUALLY = HowToRun()


class _FollowedError(Exception):
    """A run has been followed for long enough after its effects."""


def _faults(folder: Path) -> tuple[tuple[int, int | None], ...]:
    """When a run's faults were switched on and when their effects began, as its events say."""
    events = list(read_events(folder / "events.jsonl"))
    begun = {(e["code"], e["mechanism"]): e["effect_step"] for e in events if e["kind"] == "fault_effect"}
    faults = [event for event in events if event["kind"] == "fault"]
    effects = [event["effect_step"] or begun.get((event["code"], event["mechanism"])) for event in faults]
    switched = [int(str(event["switch_step"])) for event in faults]
    return tuple(zip(switched, (None if step is None else int(step) for step in effects), strict=True))


class ExperimentRunner:
    """Warm actors and a temporary folder for the files of runs. Ray must be connected; use it in a `with`."""

    def __init__(self) -> None:
        self._warm = WarmActors()
        self._folder = Path(tempfile.mkdtemp(prefix="rftfm-lab-"))

    def __enter__(self) -> ExperimentRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the actors and remove the files of runs. Safe to call twice."""
        self._warm.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(
        self, config: RunConfig, inject: Sequence[str] = (), fork: Path | None = None, how: HowToRun = USUALLY
    ) -> RunHistory:
        """Make one run with faults, from its start or from the checkpoint `fork` of a healthy run.

        Raises:
            RftfmError: as a run does.
        """
        folder = self._folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        rows: list[StepRow] = []
        journal: list[Entry] = []

        def observe(row: StepRow) -> None:
            rows.append(row)
            if how.follow is not None:
                begun = [effect for _, effect in _faults(folder)]
                if all(step is not None and row.id.paid_step >= step + how.follow - 1 for step in begun):
                    raise _FollowedError

        update = {"inject": tuple(inject), "preflight": PreflightConfig(mode=PreflightMode.OFF)}
        planned = plan(config.model_copy(update=update), folder, fork, allow_changes=how.is_other_run)
        if how.policy is not None:
            planned = replace(planned, policy=how.policy)
        accuracy, error = math.nan, ""
        try:
            began = time.perf_counter()
            listeners = Listeners(row=observe, entry=journal.append)
            accuracy = execute(planned, listeners, began, self._warm, judged=how.judged).probe_last
        except _FollowedError:
            pass
        except RftfmError as raised:
            if not how.may_fail:
                raise
            error = str(raised)
        if how.keep is not None:
            shutil.rmtree(how.keep, ignore_errors=True)
            shutil.move(str(folder / "checkpoints"), how.keep)
        faults = _faults(folder)
        switched, effects = tuple(on for on, _ in faults), tuple(effect for _, effect in faults)
        return RunHistory(tuple(rows), switched, effects, accuracy, error, tuple(journal))

    def trunk(self, config: RunConfig, step: int) -> Path:
        """The checkpoint of `step` of the healthy run of `config`, from which its forks continue."""
        short = quick(config, max_paid_steps=step, checkpoints={"every": 0, "at_end": True}, inject=())
        # Every setting that changes the run changes the trunk.
        checkpoint = self._folder / hashlib.sha256(short.to_yaml().encode()).hexdigest()
        if not checkpoint.exists():
            folder = self._folder / "trunk"
            shutil.rmtree(folder, ignore_errors=True)
            planned = plan(short.model_copy(update={"preflight": PreflightConfig(mode=PreflightMode.OFF)}), folder)
            execute(planned, Listeners(), time.perf_counter(), self._warm, judged=False)
            (made,) = (folder / "checkpoints").iterdir()
            shutil.move(str(made), checkpoint)
        return checkpoint
