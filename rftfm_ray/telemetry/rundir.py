"""The run directory: where it is, whether it may be used, and files that are never half written."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path

from rftfm_ray.config import RunConfig
from rftfm_ray.errors import RunDirError
from rftfm_ray.files import PRIVATE_DIR
from rftfm_ray.tasks.verifiers import JSON

HOME = "RFTFM_HOME"
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the driver of a submitted job."""
CONFIG = "config.yaml"
"""File of the resolved configuration."""
HANDOVER = "guard/paused.json"
"""File of what a run hands over that has paused for a person."""
MONITOR_STATE = "guard/paused-monitor.safetensors"
"""File of the monitor's state then."""
HELD = "guard/held"
HANDED_ON = "guard/handed_on"
"""Folder of checkpoints of the snapshots that a remedy which waits for a person goes back to."""
CONTINUED = "guard/continued"
"""File with the directory of the run that has continued a paused one."""


def default_run_dir(run: str) -> Path:
    """`$RFTFM_HOME/<run>`, or `~/rftfm_runs/<run>`: never the working directory, which a Ray job has only a copy of."""
    home = os.environ.get(HOME)
    return (Path(home) if home else Path.home() / "rftfm_runs") / run


def check_run_dir(path: Path) -> None:
    """Refuse a run directory that holds something, or that could not be made. Creates nothing.

    Raises:
        RunDirError: names the directory and the fix.
    """
    try:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise RunDirError(f"Run directory {path} exists already and is not empty; give a new one with --run-dir.")
        existing = next(place for place in (path, *path.parents) if place.exists())
        if not existing.is_dir():
            raise RunDirError(f"Run directory {path} would lie below the file {existing}; give another --run-dir.")
        # A real attempt: the superuser passes os.access on a read-only file system.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise RunDirError(
            f"Run directory {path} cannot be created, its place is not writable ({error.strerror}); give another "
            "--run-dir, or set RFTFM_HOME."
        ) from None


def create_run_dir(path: Path) -> None:
    """Make the run directory, readable by its owner only.

    Raises:
        RunDirError: when it cannot be made, or has been filled since it was checked.
    """
    check_run_dir(path)
    try:
        path.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
        path.chmod(PRIVATE_DIR)
    except OSError as error:
        why = error.strerror
        raise RunDirError(f"Run directory {path} cannot be created ({why}); give another --run-dir.") from None


def resume_command(run_dir: Path, checkpoint: Path | str, directory: str = "") -> str:
    """The command that continues the run recorded in `run_dir` from a checkpoint, under the same configuration.

    `directory`: where it must be given, as `needed_directory` says; empty: anywhere.
    """
    command = shlex.join(["rftfm", "train", str(run_dir / CONFIG), "--resume", str(checkpoint)])
    return f"cd {shlex.quote(directory)} && {command}" if directory else command


def answer_command(run_dir: Path, wish: str, incident: int) -> str:
    """The command that answers the decision about an incident which waits for a person; `wish`: approve or reject."""
    return shlex.join(["rftfm", wish, str(run_dir), str(incident)])


def needed_directory(config: RunConfig) -> str:
    """The current directory, if names of files in the configuration are relative to it; else an empty text.

    Also empty in a job of `ray job submit`: its directory is a copy that ends with it, and names are relative to the
    one that is submitted.
    """
    code = (config.task.name, config.guard.policy or "", *config.guard.detectors, *config.reward.functions)
    files = [name for name in code if ".py:" in name]
    named = [config.model.path, config.guard.profile, config.guard.diagnosis, config.data.train, config.data.heldout]
    named += [file for _, file in config.eval.files()]
    named += [name.removeprefix(JSON) for name in config.reward.functions if name.startswith(JSON)]
    # A directory of a saved data set may be followed by its split.
    for name in filter(None, named):
        files += [name] if Path(name).exists() or Path(name.rpartition(":")[0] or name).exists() else []
    is_relative = any(not Path(name).expanduser().is_absolute() for name in files)
    return str(Path.cwd()) if is_relative and JOB not in os.environ else ""
