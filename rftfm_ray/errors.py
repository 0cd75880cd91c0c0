"""Errors of rftfm_ray: one type per boundary, all picklable, each message one sentence that names the fix.

`exit_code` is what the command line ends with. A mistake of the user's that is known before any actor
starts ends with 2; a failure of the run itself with 1.
"""

from __future__ import annotations

import signal
from typing import ClassVar

SIGNALLED = 128
"""A shell reports a process that a signal ended with this much more than the signal's number."""


def one_line(error: Exception) -> str:
    """The first words of an error, whatever its layout."""
    return " ".join(str(error).split())[:200]


class RftfmError(Exception):
    """Base of every error that the command line shows as one sentence instead of a traceback."""

    exit_code: ClassVar[int] = 1


class SavedRunError(RftfmError):
    """Base of errors that end a run after a checkpoint; `checkpoint` is the path of it."""

    def __init__(self, message: str, checkpoint: str = "") -> None:
        super().__init__(message)
        self.checkpoint = checkpoint


class ConfigError(RftfmError):
    """A key, a value or a combination of them that cannot be run."""

    exit_code: ClassVar[int] = 2


class ModelError(RftfmError):
    """A model directory or tokenizer that cannot be used."""

    exit_code: ClassVar[int] = 2


class TaskError(RftfmError):
    """A task that cannot be found, or that breaks its contract."""

    exit_code: ClassVar[int] = 2


class DataError(RftfmError):
    """A data set that cannot be read, or rows that cannot be trained on."""

    exit_code: ClassVar[int] = 2


class PreflightError(RftfmError):
    """A run that `preflight.mode=stop` has ended before step 0."""

    exit_code: ClassVar[int] = 2


class RunDirError(RftfmError):
    """A run directory that cannot be created or must not be touched."""

    exit_code: ClassVar[int] = 2


class PlacementError(RftfmError):
    """The cluster cannot hold the actors of a run."""


class RolloutError(RftfmError):
    """A rollout actor failed at generating."""


class RewardError(RftfmError):
    """The verifier failed on a transcript: the trajectory is masked, not scored."""


class ToolError(RftfmError):
    """A tool failed on a call: the call is tried again or the trajectory masked, and the model reads none of it."""


class VerifierError(SavedRunError):
    """The verifier has failed on everything for several steps. A checkpoint has been written."""


class LearnerError(RftfmError):
    """The learner failed at an update."""


class SyncError(RftfmError):
    """The weights that a rollout actor serves are not the weights that the learner meant."""


class CheckpointError(RftfmError):
    """A checkpoint is incomplete, altered, or belongs to another run layout."""


class ResumeError(CheckpointError):
    """The checkpoint that a run was to go on from cannot be used."""

    exit_code: ClassVar[int] = 2


class FaultError(RftfmError):
    """A fault to inject that does not exist, or not in this run."""

    exit_code: ClassVar[int] = 2


class PolicyError(RftfmError):
    """A remediation policy that cannot be loaded or breaks its contract."""

    exit_code: ClassVar[int] = 2


class ProfileError(RftfmError):
    """A profile of healthy runs that cannot be fitted, read, or used for this run."""

    exit_code: ClassVar[int] = 2


class DiagnosisModelError(RftfmError):
    """A model of diagnoses that cannot be taught, read, or used."""

    exit_code: ClassVar[int] = 2


class DetectorError(RftfmError):
    """A detector of the user's that cannot be loaded or breaks its contract."""

    exit_code: ClassVar[int] = 2


class StateError(RftfmError):
    """A saved state that a detector cannot go on from: damaged, or of another configuration."""


class LogError(RftfmError):
    """A step log of another trainer's run that cannot be read."""

    exit_code: ClassVar[int] = 2


class BenchError(RftfmError):
    """Recorded runs of a benchmark that are missing or damaged."""

    exit_code: ClassVar[int] = 2


class GuardError(RftfmError):
    """The monitor or the controller failed at what only they can do."""


class GuardLostError(SavedRunError):
    """The guard was lost for good and `guard.on_lost` ends the run. A checkpoint has been written."""

    exit_code: ClassVar[int] = 5


class GuardHaltError(SavedRunError):
    """The guard has ended the run: no remedy was left. A checkpoint has been written."""

    exit_code: ClassVar[int] = 3


class GuardPausedError(SavedRunError):
    """A decision has waited for a person longer than `guard.pause_timeout_s`. A checkpoint has been written.

    `restore_steps` are the snapshots that remedies which wait go back to.
    """

    exit_code: ClassVar[int] = 6

    def __init__(self, message: str, checkpoint: str = "", restore_steps: tuple[int, ...] = ()) -> None:
        super().__init__(message, checkpoint)
        self.restore_steps = restore_steps


class AnswerError(RftfmError):
    """A person's answer to a decision that is gone, or that nobody has to take."""

    exit_code: ClassVar[int] = 2


class NotTakenError(RftfmError):
    """A run has not taken a person's answer in time; nothing was done."""


class RecordError(RftfmError):
    """The records of a run cannot be written or read."""


class OutputError(RecordError):
    """A file that the user has named for a result cannot be written."""

    exit_code: ClassVar[int] = 2


class SignalInterrupt(KeyboardInterrupt):
    """A signal that asks the process to end, raised where the main thread was; as Ctrl-C, it is not an `Exception`."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def name(self) -> str:
        """Name of the signal, for example SIGTERM."""
        return signal.Signals(self.signum).name

    @property
    def exit_code(self) -> int:
        """What a shell reports for a process that the signal ended: 129 for SIGHUP, 130 for SIGINT, 143 for SIGTERM."""
        return SIGNALLED + self.signum


class StoppedError(RftfmError):
    """A signal has ended the run, and the user has been told so."""


class InterruptedRunError(StoppedError):
    """SIGINT has ended the run."""

    exit_code: ClassVar[int] = SIGNALLED + signal.SIGINT


class TerminatedRunError(StoppedError):
    """SIGTERM has ended the run."""

    exit_code: ClassVar[int] = SIGNALLED + signal.SIGTERM


class HungUpRunError(StoppedError):
    """SIGHUP has ended the run: its terminal was closed."""

    exit_code: ClassVar[int] = SIGNALLED + signal.SIGHUP
