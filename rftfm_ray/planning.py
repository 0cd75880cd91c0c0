"""A run before it starts: everything that can be checked without an actor is checked here."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from rftfm_ray.config import RunConfig, config_differences, parse_config, past_differences
from rftfm_ray.config.data import HELDOUT
from rftfm_ray.config.loggers import PACKAGES
from rftfm_ray.data.loading import EvalSet
from rftfm_ray.data.tasking import task_of
from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.detectors.custom import load_detectors
from rftfm_ray.detection.monitor import monitor_plan
from rftfm_ray.detection.reference.comparison import assumptions, compare, text_of
from rftfm_ray.detection.reference.mixture import reference_of
from rftfm_ray.detection.reference.profile import Profile, read_profile
from rftfm_ray.diagnosis.model import DiagnosisModel, read_model
from rftfm_ray.errors import CheckpointError, ConfigError, DiagnosisModelError, ProfileError, ResumeError
from rftfm_ray.faults.drill import Drill, expanded, plan_drill
from rftfm_ray.models import ModelFacts, check_model
from rftfm_ray.policies.api import Policy
from rftfm_ray.policies.loading import PLAYBOOK, load_policy
from rftfm_ray.tasks.api import Problem, Task
from rftfm_ray.tasks.loading import check_task, hard_part
from rftfm_ray.tasks.stream import Part
from rftfm_ray.telemetry.rundir import check_run_dir, default_run_dir
from rftfm_ray.training.checkpoints import Checkpoint, read_config, verify
from rftfm_ray.types import GuardMode

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run that has passed every check that can be made before an actor starts.

    `verdict_s` are the seconds that the verifier took at most when it was checked.
    """

    name: str
    config: RunConfig
    folder: Path
    task: Task
    pool: Sequence[Problem]
    heldout: Sequence[Problem]
    facts: ModelFacts
    resume: Path | None
    policy: Policy
    profile: Profile | None
    drill: Drill = field(default_factory=Drill)
    detectors: tuple[Detector, ...] = ()
    diagnosis: DiagnosisModel | None = None
    verdict_s: float = 0.0
    evals: tuple[EvalSet, ...] = ()

    @property
    def checkpoints(self) -> Path:
        """Where the run's checkpoints go."""
        return self.folder / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """Where snapshots go that memory has no room for; it goes with the run."""
        return self.folder / "snapshots"

    @property
    def config_sha256(self) -> str:
        """What a checkpoint remembers of the configuration that it was made under."""
        return hashlib.sha256(self.config.to_yaml().encode()).hexdigest()

    @property
    def golden(self) -> Sequence[Problem]:
        """Held-out problems whose known answers check rewards and tools."""
        return self.heldout[: self.config.channels.golden_size]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts of the pool that a share of the prompts comes from in some steps."""
        hard = any(stage.task.hard_share > 0 for _, stage in self.config.stages())
        return self.drill.parts(self.task, self.pool, [hard_part(self.task, self.pool, self.config)] if hard else [])


def plan(
    config: RunConfig, run_dir: Path | None = None, resume: Path | None = None, *, allow_changes: bool = False
) -> RunPlan:
    """Check a run without starting or creating anything.

    Args:
        config: what to run.
        run_dir: where records go; by default below RFTFM_HOME or ~/rftfm_runs. Must not exist, or be empty.
        resume: a checkpoint to go on from; the run continues at its step.
        allow_changes: go on although the checkpoint belongs to another run, of another task or seed for example.

    Raises:
        RftfmError: one of its kinds, with one sentence that names the fix.
    """
    _check_loggers(config)
    configured = task_of(config)
    task, config = configured.task, expanded(configured.config)
    if gaps := guard_gaps(config):
        logger.warning("guard.mode=act cannot do all of its work: %s.", "; ".join(gaps))
    for text in idle_keys(config):
        logger.warning("%s.", text)
    pool, heldout, verdict_s = check_task(task, config)
    facts = check_model(config)
    name = f"{task.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = (run_dir or default_run_dir(name)).expanduser().absolute()
    check_run_dir(folder)
    if resume is not None:
        # The run names it in the command that goes on, which may be given elsewhere.
        resume = resume.expanduser().absolute()
        check_resume(resume, config, allow_changes=allow_changes)
    drill = plan_drill(config, task, pool)
    policy, profile = _planned_policy(config), load_profile(config)
    detectors = load_detectors(config.guard.detectors)
    if detectors:
        # Names that shipped detectors have are refused now, and not where the monitor is built.
        monitor_plan(config, profile, detectors).build()
    return RunPlan(
        name, config, folder, task, pool, heldout, facts, resume, policy, profile, drill, detectors,
        load_diagnosis(config), verdict_s, eval_sets(config, configured.evals, heldout),
    )  # fmt: skip


def eval_sets(config: RunConfig, files: Sequence[EvalSet], heldout: Sequence[Problem]) -> tuple[EvalSet, ...]:
    """The sets of `eval.sets` in their order, those of files and the problems that the run holds out."""
    known = {read.name: read for read in files} | {HELDOUT: EvalSet(HELDOUT, tuple(heldout))}
    return tuple(known[name] for name, _ in config.eval.files())


def _check_loggers(config: RunConfig) -> None:
    """Refuse loggers whose packages are not installed: a run would find out after its actors have started."""
    for name in config.logging.to:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(f"logging.to={name} needs a package that is not installed; pip install {PACKAGES[name]}.")


def guard_gaps(config: RunConfig) -> tuple[str, ...]:
    """What a guard in `act` cannot do under this configuration, each as a clause that names the key."""
    guard, probe = config.guard, config.probe
    if guard.mode is not GuardMode.ACT:
        return ()
    gaps = []
    if not guard.act_on:
        gaps.append("guard.act_on=[] lets it carry out no remedy, so name families, or use guard.mode=advise")
    if not config.snapshots.every:
        gaps.append("snapshots.every=0 leaves nothing to roll back to")
    if not probe.every:
        gaps.append("probe.every=0 leaves no held-out accuracy by which a remedy is verified")
    elif guard.verify_timeout_steps < probe.every:
        gaps.append(
            f"guard.verify_timeout_steps={guard.verify_timeout_steps} is less than probe.every={probe.every}, so a "
            "person may be asked before a probe shows what a remedy did"
        )
    return tuple(gaps)


def idle_keys(config: RunConfig) -> tuple[str, ...]:
    """Keys about waiting decisions and events that have no effect in the guard's mode, each as a clause."""
    guard, idle = config.guard, list[str]()
    if guard.on_incident is not None and guard.mode is GuardMode.OFF:
        idle.append("guard.on_incident is told of nothing with guard.mode=off")
    if guard.pause_timeout_s is not None and guard.mode in (GuardMode.OFF, GuardMode.OBSERVE):
        idle.append(
            f"guard.pause_timeout_s has no effect with guard.mode={guard.mode}, which decides nothing; use guard.mode="
            "advise or act"
        )
    return tuple(idle)


def _planned_policy(config: RunConfig) -> Policy:
    """The policy that `guard.policy` names; a warning where the guard does not ask it."""
    guard = config.guard
    policy = load_policy(guard.policy)
    if guard.policy not in (None, PLAYBOOK) and guard.mode not in (GuardMode.ADVISE, GuardMode.ACT):
        logger.warning(
            "guard.policy=%s is not used with guard.mode=%s; add --guard act to carry out its remedies, or --guard "
            "advise to name them.",
            guard.policy, guard.mode,
        )  # fmt: skip
    return policy


def load_profile(config: RunConfig) -> Profile | None:
    """The profile of healthy runs that a run is held against; None where it is held against its own past.

    One warning says what a profile of another configuration says nothing about. A profile without any signal that can
    be compared, such as one of another task, is refused.

    Raises:
        ProfileError: names the file, what does not fit, and the fix.
    """
    if config.guard.profile is None:
        return None
    path = Path(config.guard.profile).expanduser()
    try:
        profile = read_profile(path)
        reference_of(profile, None)
    except ProfileError as error:
        if path.is_file() and not _is_json(path):
            raise ProfileError(
                f"guard.profile={path} cannot be used: it is not JSON; give a file of `rftfm profile fit`."
            ) from None
        raise ProfileError(f"guard.profile cannot be used: {error}") from None
    _check_comparable(profile, config, path)
    if config.steps > profile.steps:
        logger.warning(
            "guard.profile=%s ends at step %d of %d; what begins later opens no incident by it.",
            path, profile.steps, config.steps,
        )  # fmt: skip
    return profile


def load_diagnosis(config: RunConfig) -> DiagnosisModel | None:
    """Read the model of diagnoses of a configuration; None for the installed one.

    Raises:
        DiagnosisModelError: names the file, what is wrong with it, and the fix.
    """
    if config.guard.diagnosis is None:
        return None
    try:
        return read_model(Path(config.guard.diagnosis).expanduser())
    except DiagnosisModelError as error:
        raise DiagnosisModelError(f"guard.diagnosis cannot be used: {error}") from None


def _check_comparable(profile: Profile, config: RunConfig, path: Path) -> None:
    comparison = compare(profile, config)
    if comparison.differences and not comparison.left:
        raise ProfileError(
            f"guard.profile={path} was {text_of(comparison.differences)}: none of its signals can be compared; fit one "
            "to healthy runs of this kind, or leave guard.profile out."
        )
    if comparison.differences:
        logger.warning(
            "guard.profile=%s was %s; fit one to healthy runs of this configuration to detect more.", path, comparison
        )
    for assumption in assumptions(profile, config):
        logger.warning("guard.profile=%s %s.", path, assumption)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return True


def check_resume(checkpoint: Path, config: RunConfig, *, allow_changes: bool = False) -> None:
    """Refuse a checkpoint that is damaged, leaves nothing to do, or belongs to another run; say what else differs.

    Raises:
        ResumeError: names the file and the fix.
    """
    if not checkpoint.is_dir():
        raise ResumeError(f"Cannot resume: there is no checkpoint directory {checkpoint}; check the path.")
    if not (checkpoint / "manifest.json").exists():
        # A checkpoint whose manifest is missing has a configuration too, but also a state.
        is_run = (checkpoint / "config.yaml").exists() and not (checkpoint / "state.json").exists()
        hint = f"it is a run, and its checkpoints are in {checkpoint}/checkpoints/" if is_run else "give another one"
        raise ResumeError(f"Cannot resume: {checkpoint} is not a checkpoint; {hint}.")
    try:
        verified = verify(checkpoint)
        state, text = verified.state, read_config(verified)
    except CheckpointError as error:
        raise ResumeError(f"Cannot resume: {error}") from error
    if state.step >= config.steps:
        raise ResumeError(
            f"Checkpoint {checkpoint} is of step {state.step}, and steps={config.steps}: nothing is left to do; "
            "raise steps."
        )
    if state.zero_stage != config.learner.zero_stage:
        raise ResumeError(
            f"Checkpoint {checkpoint} was saved with learner.zero_stage={state.zero_stage}; resume with the same."
        )
    _compare(verified, text, config, allow_changes=allow_changes)
    moved = {name: value for name, value in dataclasses.asdict(state.levers).items() if value is not None}
    if moved:
        logger.warning(
            "%s was written under a remedy: %s. These levers stay as they are; no incident of this run returns them.",
            checkpoint, ", ".join(f"{name}={value:g}" for name, value in moved.items()),
        )  # fmt: skip


def _compare(verified: Checkpoint, text: str | None, config: RunConfig, *, allow_changes: bool) -> None:
    """Say what differs from the configuration `text` of a checkpoint; refuse what makes it another run."""
    checkpoint = verified.path
    if text is None:
        logger.warning("%s holds no configuration, so nothing was compared: an earlier version wrote it.", checkpoint)
        return
    try:
        before = parse_config(yaml.safe_load(text))
    except (ConfigError, yaml.YAMLError) as error:
        logger.warning("The configuration in %s cannot be read, so nothing was compared: %s", checkpoint, error)
        return
    differences = config_differences(before, config)
    past = past_differences(before, config, verified.state.step)
    identity = [*(difference for difference in differences if difference.is_identity), *past]
    if identity and not allow_changes:
        raise ResumeError(
            f"Checkpoint {checkpoint} belongs to another run: {'; '.join(map(str, identity))}. Resume with the same "
            "values, or add --allow-changes."
        )
    for difference in differences:
        logger.warning("Resumed under another configuration: %s.", difference)
