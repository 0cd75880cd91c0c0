"""`rftfm faultbench teach --config`: teach the names of faults on one's own task. Starts actors; needs Ray.

A few short healthy runs are made, and forks of them with injected faults, at the strengths by default and half of them.
What is learnt from them stands beside the trees of the installed model, which has learnt from other tasks.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ray

from rftfm_ray import planning
from rftfm_ray.config import RunConfig
from rftfm_ray.data.tasking import task_of
from rftfm_ray.detection.reference.comparison import facts_of
from rftfm_ray.detection.reference.fitting import fit_profile
from rftfm_ray.detection.reference.mixture import Reference, reference_of
from rftfm_ray.detection.reference.priors import CRITIC, NO_CRITIC, shipped
from rftfm_ray.diagnosis.model import installed_model
from rftfm_ray.driver.cluster import connect
from rftfm_ray.errors import DiagnosisModelError, FaultError
from rftfm_ray.faultbench.detectors.strata import series
from rftfm_ray.faultbench.runs.dataset import Recorded
from rftfm_ray.faultbench.runs.generate import outcome_of, rows_of
from rftfm_ray.faultbench.runs.plan import Entry, Kind, Split
from rftfm_ray.faultbench.runs.runner import ExperimentRunner, HowToRun, quick
from rftfm_ray.faultbench.teaching.following import follow
from rftfm_ray.faultbench.teaching.learning import Lesson, learn
from rftfm_ray.faultbench.teaching.teach import SEED, Taught
from rftfm_ray.faultbench.teaching.windows import Windows
from rftfm_ray.faults.catalogue import check_faults
from rftfm_ray.faults.kinds import CATALOGUE, Mechanism
from rftfm_ray.tasks.api import Task

HEALTHY_RUNS = 4
"""Healthy runs that are made, each the trunk of as many forks."""
FORKS = 40
"""Forks that are made where `--forks` does not say another number."""
ONSET, UNDER_FAULT = 11, 12
"""First step with a fault, and steps under it."""
STEPS = ONSET - 1 + UNDER_FAULT
# Distances of a strength from where it does nothing, as shares of that of the default one.
SHARES = (1.0, 0.5)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fork:
    """A run with a fault: the number of its healthy run, and what is injected."""

    trunk: int
    code: str
    text: str


def planned_forks(config: RunConfig, task: Task, count: int) -> list[Fork]:
    """Forks of a configuration: all faults that it can have in turn, then their other mechanisms, then half as strong.

    Raises:
        DiagnosisModelError: when it can have no fault.
    """
    short = config.model_copy(update={"steps": STEPS})
    turns = [_possible(short, task, code) for code in CATALOGUE]
    texts = [each for turn in itertools.zip_longest(*turns) for each in turn if each is not None]
    if not texts:
        raise DiagnosisModelError("No fault can be injected into this configuration, so nothing can be taught.")
    chosen = itertools.islice(itertools.cycle(texts), count)
    # Forks of one fault leave different healthy runs.
    return [Fork((number + number // len(texts)) % HEALTHY_RUNS, *each) for number, each in enumerate(chosen)]


def _possible(config: RunConfig, task: Task, code: str) -> Iterator[tuple[str, str]]:
    """Codes and texts of a fault's injections, mechanism by mechanism, first at full strength."""
    for share in SHARES:
        for mechanism in CATALOGUE[code].mechanisms:
            text = f"{code}@{ONSET}:{_strength(mechanism, share):.4g},mechanism={mechanism.name}"
            try:
                check_faults(config, task, [text])
            except FaultError:
                continue
            yield code, text


def _strength(mechanism: Mechanism, share: float) -> float:
    bounds = mechanism.strength
    strength = bounds.neutral + share * (bounds.default - bounds.neutral)
    return min(max(strength, bounds.low), bounds.high)


def seeds_for(config: RunConfig) -> tuple[int, ...]:
    """Seeds of the healthy runs, which no run of the user's is likely to have."""
    rng = random.Random(f"teach-{config.seed}")
    return tuple(rng.sample(range(1 << 30, 1 << 31), HEALTHY_RUNS))


class _Drill:
    """Makes the runs.

    Args:
        config: of the user's run.
        runner: that makes them.
        folder: where checkpoints of the healthy runs go.
    """

    def __init__(self, config: RunConfig, runner: ExperimentRunner, folder: Path) -> None:
        self._runner, self._folder = runner, folder
        # What is measured is what a live run measures: its probes and checks stay.
        self._config = quick(
            config, steps=STEPS, max_paid_steps=0, inject=[], probe=config.probe.model_dump(mode="json"),
            sync=config.sync.model_dump(mode="json"),
        )  # fmt: skip
        self._healthy: dict[int, Recorded] = {}

    @property
    def config(self) -> RunConfig:
        """The configuration of all runs, but for their seeds."""
        return self._config

    def healthy(self, trunk: int, seed: int) -> Recorded:
        """Make a healthy run."""
        config = self._of_seed(seed, {"every": ONSET - 1, "keep": 1 + STEPS, "at_end": False})
        history = self._runner.run(config, how=HowToRun(keep=self._at(trunk)))
        entry = Entry(
            f"healthy-{seed}", Kind.HEALTHY, Split.CALIBRATE, seed, config.task.name, config.algorithm.name,
            config.model.path, STEPS,
        )  # fmt: skip
        self._healthy[trunk] = Recorded(entry, outcome_of(history), rows_of(history))
        return self._healthy[trunk]

    def fork(self, fork: Fork, name: str) -> Recorded:
        """Make a run with a fault."""
        trunk = self._healthy[fork.trunk]
        config = self._of_seed(trunk.entry.seed, {"every": 0, "at_end": False})
        checkpoint = self._at(fork.trunk) / f"step-{ONSET - 1:06d}"
        history = self._runner.run(config, [fork.text], checkpoint, HowToRun(may_fail=True))
        entry = replace(
            trunk.entry, name=name, kind=Kind.FAULT, inject=(fork.text,), onset=ONSET, fork=ONSET - 1
        )  # fmt: skip
        outcome = outcome_of(history)
        # Where an effect must be learnt first, the steps are too few; what checks tell is there from the switch on.
        effects = tuple(effect or on for on, effect in zip(outcome.switched, outcome.effects, strict=True))
        values = np.concatenate([trunk.values[: ONSET - 1], rows_of(history)])
        return Recorded(entry, replace(outcome, effects=effects), values)

    def _of_seed(self, seed: int, checkpoints: dict[str, object]) -> RunConfig:
        named = self._config.checkpoints.model_dump(mode="json") | checkpoints
        return quick(
            self._config, seed=seed, checkpoints=named, probe=self._config.probe.model_dump(mode="json"),
            sync=self._config.sync.model_dump(mode="json"),
        )  # fmt: skip

    def _at(self, trunk: int) -> Path:
        return self._folder / f"trunk-{trunk}"


@contextmanager
def _quiet_forks() -> Iterator[None]:
    """Without a warning at every fork that it goes on under another configuration: that is what a fork is."""
    logger = logging.getLogger(planning.__name__)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _made(config: RunConfig, forks: Sequence[Fork], say: Say) -> tuple[RunConfig, list[Recorded], list[Recorded]]:
    """The configuration of the runs, the healthy ones, and those with a fault."""
    with ExperimentRunner() as runner, tempfile.TemporaryDirectory(prefix="rftfm-teach-") as folder:
        drill = _Drill(config, runner, Path(folder))
        healthy = list[Recorded]()
        for trunk, seed in enumerate(seeds_for(config)):
            healthy.append(drill.healthy(trunk, seed))
            say(f"healthy run {trunk + 1} of {HEALTHY_RUNS} is made")
        faulty = list[Recorded]()
        for number, fork in enumerate(forks, start=1):
            with _quiet_forks():
                made = drill.fork(fork, f"fork-{number}")
            faulty.append(made)
            ended = f", and ended early: {made.outcome.error}" if made.outcome.error else ""
            say(f"fork {number} of {len(forks)} is made: {fork.text}{ended}")
        return drill.config, healthy, faulty


def _references(config: RunConfig, healthy: Sequence[Recorded]) -> Iterator[Reference]:
    """What runs are compared with: a profile of the healthy ones, and their own past."""
    priors = shipped(CRITIC if config.algorithm.name == "ppo" else NO_CRITIC)
    yield reference_of(fit_profile([series(run) for run in healthy], facts_of(config), priors.healthy), priors)
    yield reference_of(None, priors)


def teach_own(config: RunConfig, out: Path, say: Say, count: int = FORKS, workers: int = 1) -> Taught:
    """Teach the faults of one's own task, and write the file of the model.

    Args:
        config: of one's run.
        out: file of the model.
        say: is told of the progress.
        count: forks that are made.
        workers: threads that share the learning.

    Raises:
        RftfmError: as a run does, and when nothing can be taught.
    """
    forks = planned_forks(config, task_of(config).task, count)
    is_owner = connect(config)
    try:
        made, healthy, faulty = _made(config, forks, say)
    finally:
        if is_owner:
            ray.shutdown()
    runs = [run for run in (*healthy, *faulty) if len(run) > run.entry.fork]
    examples = [
        example
        for reference in _references(made, healthy)
        for example in Windows([follow(run, reference, made) for run in runs], SEED).all()
    ]
    taught_on = hashlib.sha256(made.to_yaml().encode()).hexdigest()
    lesson = Lesson(examples, "rftfm faultbench teach --config", taught_on, SEED)
    model = learn(lesson, workers=workers, base=installed_model())
    return Taught(model, model.save(out), len(runs), len(examples))
