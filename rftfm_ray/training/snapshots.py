"""A ring of snapshots of all state that determines the learner's next update: in memory, and beyond it in files."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rftfm_ray.errors import LearnerError
from rftfm_ray.files import PRIVATE_DIR
from rftfm_ray.types import Levers, StepId

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The learner after `id.step`: optimizer and weights, gate window, levers, and the cursor in the prompt stream.

    `file` holds the tensors where memory has no room for them.
    """

    id: StepId
    model_version: int
    cursor: int
    tensors: Mapping[str, Tensor]
    grad_norms: tuple[float, ...]
    levers: Levers
    file: Path | None = None

    def nbytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


class SnapshotRing:
    """Holds the newest `keep` snapshots, the newest of them in memory as far as `max_bytes` go.

    Args:
        keep: snapshots.
        max_bytes: of memory.
        folder: for files of those that memory has no room for. None: the oldest are dropped, and one that is larger
            than `max_bytes` is refused.
    """

    def __init__(self, keep: int, max_bytes: int, folder: Path | None = None) -> None:
        self._keep = keep
        self._max_bytes = max_bytes
        self._folder = folder
        self._snapshots: OrderedDict[int, Snapshot] = OrderedDict()

    def steps(self) -> tuple[int, ...]:
        """Steps that can be restored, oldest first."""
        return tuple(self._snapshots)

    def add(self, snapshot: Snapshot) -> None:
        """Add `snapshot`; it replaces one of the same step.

        Raises:
            LearnerError: when it is larger than the whole ring may be, and there is no folder.
        """
        size = snapshot.nbytes()
        if size > self._max_bytes and self._folder is None:
            raise LearnerError(
                f"A snapshot takes {size} bytes, more than snapshots.max_bytes={self._max_bytes}; raise it, or set "
                "snapshots.every=0."
            )
        self._drop(snapshot.id.step)
        self._snapshots[snapshot.id.step] = snapshot
        while len(self._snapshots) > self._keep:
            self._drop(next(iter(self._snapshots)))
        in_memory = [step for step, held in self._snapshots.items() if held.file is None]
        while in_memory and sum(held.nbytes() for held in self._snapshots.values()) > self._max_bytes:
            self._spill(in_memory.pop(0))

    def _spill(self, step: int) -> None:
        """Move a snapshot from memory to a file. Where that is not possible it is dropped: training goes on."""
        held = self._snapshots[step]
        if self._folder is None:
            self._drop(step)
            return
        file = self._folder / f"step-{step:06d}.safetensors"
        temporary = file.with_suffix(".tmp")
        try:
            self._folder.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
            save_file({name: tensor.contiguous() for name, tensor in held.tensors.items()}, temporary)
            temporary.replace(file)
        except (OSError, SafetensorError) as error:
            logger.warning(
                "The snapshot of step %d cannot be written to %s (%s) and is dropped: make room, lower snapshots.keep, "
                "or raise snapshots.max_bytes.", step, file, error,
            )  # fmt: skip
            with contextlib.suppress(OSError):
                temporary.unlink()
            self._drop(step)
            return
        self._snapshots[step] = replace(held, tensors={}, file=file)

    def _drop(self, step: int) -> None:
        held = self._snapshots.pop(step, None)
        if held is not None and held.file is not None:
            held.file.unlink(missing_ok=True)

    def get(self, step: int) -> Snapshot:
        """The snapshot of `step`.

        Raises:
            LearnerError: names the steps that exist, or the file that cannot be read.
        """
        if step not in self._snapshots:
            raise LearnerError(f"There is no snapshot of step {step}; the ring holds steps {list(self._snapshots)}.")
        held = self._snapshots[step]
        if held.file is None:
            return held
        try:
            return replace(held, tensors=load_file(held.file))
        except (OSError, SafetensorError) as error:
            raise LearnerError(f"The snapshot {held.file} cannot be read ({error}).") from None

    def drop_after(self, step: int) -> None:
        """Forget snapshots of an abandoned attempt, those after `step`."""
        for later in [s for s in self._snapshots if s > step]:
            self._drop(later)

    def close(self) -> None:
        """Forget all of them, and remove their files."""
        self._snapshots.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
