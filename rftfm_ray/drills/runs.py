"""Makes the runs of a set of drills: the clean one, and for each fault one without a guard and one with it.

All start as the user's run does, with its seed: up to the onset they are the same run.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import RunConfig
from rftfm_ray.drills.outcome import DrillResult, RunOutcome, judge
from rftfm_ray.drills.plan import DrillPlan
from rftfm_ray.driver.run import train
from rftfm_ray.errors import RftfmError, RunDirError, StoppedError
from rftfm_ray.files import write_atomic
from rftfm_ray.planning import plan as check
from rftfm_ray.telemetry.journal import JOURNAL, read_journal

CLEAN = "clean"
MANIFEST = "drills.json"
SUMMARY = "summary.json"
ERROR = "error.txt"


def drill(plan: DrillPlan, warm: WarmActors, tell: Callable[[str, RunOutcome], None]) -> Iterator[DrillResult]:
    """Make the runs that are missing, and give each result as soon as it is known.

    Args:
        plan: the set.
        warm: actors that all runs use; Ray is connected.
        tell: called with the name of each run and what became of it.

    Raises:
        RunDirError: when the folder holds another set of drills.
        RftfmError: when the clean run fails: then there is nothing to compare with.
    """
    if not (plan.folder / CLEAN).exists():
        # Whatever is wrong with the configuration is said before anything is written.
        check(plan.run_of((), guarded=True), plan.folder / CLEAN)
    _claim(plan)

    def made(name: str, inject: Sequence[str], *, guarded: bool) -> RunOutcome:
        outcome = _outcome(plan.folder / name, plan.run_of(inject, guarded=guarded), warm)
        tell(name, outcome)
        return outcome

    clean = made(CLEAN, (), guarded=True)
    if clean.error:
        raise RftfmError(f"The clean run ends with an error, so there is nothing to compare with: {clean.error}")
    for case in plan.cases:
        inject = (case.inject(plan.onset),)
        without = made(f"{case.name}-off", inject, guarded=False) if plan.unguarded else None
        guarded = made(f"{case.name}-act", inject, guarded=True)
        yield judge(case, plan.onset, clean.accuracy, without, guarded)


def clean_outcome(plan: DrillPlan) -> RunOutcome:
    """The clean run of a set, which has been made."""
    return _read(plan.folder / CLEAN)


def _outcome(folder: Path, config: RunConfig, warm: WarmActors) -> RunOutcome:
    if not (folder / SUMMARY).exists() and not (folder / ERROR).exists():
        # Left by a run that was broken off.
        shutil.rmtree(folder, ignore_errors=True)
        try:
            train(config, folder, warm=warm)
        except StoppedError:
            raise
        except RftfmError as error:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / ERROR, str(error).encode())
    return _read(folder)


def _read(folder: Path) -> RunOutcome:
    entries = read_journal(folder / JOURNAL)[0] if (folder / JOURNAL).exists() else ()
    if (folder / ERROR).exists():
        return RunOutcome(math.nan, (folder / ERROR).read_text(encoding="utf-8"), entries)
    summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return RunOutcome(float(summary["probe_last"]), "", entries)


def _claim(plan: DrillPlan) -> None:
    """Write what the folder is of, or see that it is of the same: another configuration has other runs."""
    settings = plan.run_of((), guarded=True).to_yaml() + json.dumps([version("rftfm_ray"), plan.onset])
    mark = {"onset": plan.onset, "steps": plan.steps, "sha256": hashlib.sha256(settings.encode()).hexdigest()}
    path = plan.folder / MANIFEST
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != mark:
            raise RunDirError(f"{plan.folder} holds drills of another configuration; name another folder by --out.")
        return
    if plan.folder.exists() and any(plan.folder.iterdir()):
        raise RunDirError(f"{plan.folder} is not empty and holds no drills; name another folder by --out.")
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(mark) + "\n").encode())
