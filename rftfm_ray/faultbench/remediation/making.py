"""Makes the runs of the remediation benchmark, on warm actors that the runs of a worker share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rftfm_ray.config import RunConfig
from rftfm_ray.detection.reference.comparison import facts_of
from rftfm_ray.detection.reference.fitting import fit_profile, series_of
from rftfm_ray.detection.reference.priors import kind_of, shipped
from rftfm_ray.drills.plan import PERMITTED
from rftfm_ray.faultbench.detectors.references import common_facts
from rftfm_ray.faultbench.provenance import source_digest
from rftfm_ray.faultbench.remediation.drawing import BLOCK, FORK, FORK_SEEDS
from rftfm_ray.faultbench.remediation.healthy import HealthyRun
from rftfm_ray.faultbench.remediation.pairs import GUARDS, PROBLEMS, STEPS, Arm, EndedRuns, Role, Trunk
from rftfm_ray.faultbench.remediation.policies import policy_of
from rftfm_ray.faultbench.remediation.records import RunRecord, record_of
from rftfm_ray.faultbench.runs.generate import Sections, merged, sections_of, seed_sections
from rftfm_ray.faultbench.runs.runner import ExperimentRunner, HowToRun, example, with_sections
from rftfm_ray.faultbench.runs.seeds import MOST_GROUPS, SeedSupply, seeds_of
from rftfm_ray.files import write_atomic
from rftfm_ray.signals.schema import report_of
from rftfm_ray.types import GuardMode

PROFILE_RUNS = 8
PROFILE_SEEDS = 80_000
"""Distance of the seeds of the runs of profiles from the first seed of the benchmark."""
MOST_FORKS = 8
"""Sampling seeds of one healthy run."""
# Everything else is as it ships.
COMMON: Sections = {
    "checkpoints": {"every": 0, "best": False, "at_end": False}, "report": {"at_end": False},
    "records": {"trajectory_rate": 0.0}, "probe": {"final_size": PROBLEMS}, "max_paid_steps": STEPS,
}  # fmt: skip
OFF: Sections = {"guard": {"mode": GuardMode.OFF}}
# Nobody answers, and nobody is told.
ACT: Mapping[str, object] = {"mode": GuardMode.ACT, "act_on": PERMITTED, "on_harm": "warn"}


class Maker:
    """Makes runs one after the other.

    Args:
        runner: with the actors.
        profiles: folder of the profiles, which are made where they are missing.
        seed: that the benchmark is drawn from.
        policy: of the user's, judged in place of the playbook; empty for that.
    """

    def __init__(self, runner: ExperimentRunner, profiles: Path, seed: int, policy: str = "") -> None:
        self._runner, self._profiles, self._policy = runner, profiles, policy
        self._seed = seed

    def of_pair(self, arm: Arm, ended: EndedRuns) -> RunRecord:
        """A run of a pair.

        Args:
            arm: the run.
            ended: those that are finished; one that is frozen needs the alarm of the guarded one.
        """
        usual = self._config(arm.trunk, "tiny", ())
        texts = tuple(fault.text for fault in arm.faults)
        if arm.role is Role.CLEAN or arm.role is Role.ALONE_AGAIN:
            # Clean forks have the numbers from 1 on.
            forked = replace_seed(with_sections(usual, OFF), fork_seed(arm, self._seed))
            return self._made(arm, forked, texts, self._trunk(arm, usual), HowToRun(may_fail=True, is_other_run=True))
        if arm.role is Role.ALONE:
            return self._made(arm, with_sections(usual, OFF), texts, self._trunk(arm, usual), HowToRun(may_fail=True))
        if arm.role is Role.FROZEN:
            until = ended[replace(arm, role=Role.GUARDED).name].alarm
            short = with_sections(usual, OFF, {"max_paid_steps": until})
            fork = self._trunk(arm, usual) if until is not None and until > FORK else None
            return self._made(arm, short, texts, fork, HowToRun(may_fail=True))
        config = with_sections(usual, {"guard": self._guard(arm)})
        how = HowToRun(may_fail=True, judged=True, policy=policy_of(arm))
        return self._made(arm, config, texts, None, how)

    def of_healthy(self, run: HealthyRun, arm: Arm) -> RunRecord:
        """A run without a fault."""
        config = self._config(run.trunk, run.size, run.overrides)
        if arm.role is Role.CLEAN:
            seed = run.trunk.seed if arm.number == 1 else fork_seed(arm, self._seed)
            return self._made(arm, replace_seed(with_sections(config, OFF), seed), (), None, HowToRun(may_fail=True))
        guarded = with_sections(config, {"guard": self._guard(arm)})
        return self._made(arm, guarded, (), None, HowToRun(may_fail=True, judged=True))

    def _made(self, arm: Arm, config: RunConfig, faults: Sequence[str], fork: Path | None, how: HowToRun) -> RunRecord:
        began = time.monotonic()
        history = self._runner.run(config, faults, fork, how)
        seconds = round(time.monotonic() - began, 1)
        return replace(record_of(arm, history), seconds=seconds, code=source_digest())

    def _config(self, trunk: Trunk, size: str, overrides: Sequence[str]) -> RunConfig:
        """The configuration of a run with a background, overrides, and what all have in common."""
        background = seed_sections(trunk.seed) if trunk.dirty else {}
        usual = example(trunk.task, trunk.algorithm, trunk.seed, STEPS, f"builtin:{size}")
        return with_sections(usual, merged(background, sections_of(overrides), COMMON))

    def _trunk(self, arm: Arm, config: RunConfig) -> Path | None:
        """The checkpoint of the healthy run that a run leaves; None where its fault is there from step 1 on."""
        return self._runner.trunk(config, FORK) if arm.onset > FORK else None

    def _guard(self, arm: Arm) -> Mapping[str, object]:
        policy = {"policy": self._policy} if self._policy and arm.role in GUARDS else {}
        profile = {"profile": str(self._profile(arm.trunk))} if arm.role is Role.PROFILED else {}
        return {**ACT, **policy, **profile}

    def _profile(self, trunk: Trunk) -> Path:
        """A profile of healthy runs like this one, of seeds of their own."""
        path = self._profiles / f"{trunk.task}-{trunk.algorithm}-{trunk.background}.json"
        if not path.exists():
            trunks = [replace(trunk, seed=seed) for seed in profile_seeds(self._seed, dirty=trunk.dirty)]
            configs = [self._config(healthy, "tiny", ()) for healthy in trunks]
            runs = [self._runner.run(config) for config in configs]
            series = [series_of([report_of(row) for row in run.rows]) for run in runs]
            facts = common_facts([facts_of(config) for config in configs])
            fitted = fit_profile(series, facts, shipped(kind_of(series)).healthy)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, fitted.to_json().encode())
        return path


def fork_seed(arm: Arm, seed: int) -> int:
    """The sampling seed of a run that has not that of its healthy run; every clean fork has another one.

    Args:
        arm: the run.
        seed: that the benchmark is drawn from.
    """
    first = seeds_of(seed, BLOCK)[0]
    return first + FORK_SEEDS + ((arm.trunk.seed - first) * MOST_FORKS + arm.number) % (PROFILE_SEEDS - FORK_SEEDS)


def profile_seeds(seed: int, *, dirty: bool) -> list[int]:
    """The seeds of the runs of a profile; tasks and algorithms share them."""
    first = seeds_of(seed, BLOCK)[0]
    supply = SeedSupply(range(first + PROFILE_SEEDS, first + MOST_GROUPS), has_backgrounds=True)
    return [supply.next(dirty=dirty) for _ in range(PROFILE_RUNS)]


def replace_seed(config: RunConfig, seed: int) -> RunConfig:
    """The same run with another seed."""
    return config.model_copy(update={"seed": seed})
