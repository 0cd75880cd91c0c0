"""A ring of in-memory snapshots of all state that determines the learner's next update."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rftfm_ray.errors import LearnerError
from rftfm_ray.types import Levers, StepId


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The learner after `id.step`: optimizer and weights, gate window, levers, and the cursor in the prompt stream."""

    id: StepId
    model_version: int
    cursor: int
    tensors: Mapping[str, Tensor]
    grad_norms: tuple[float, ...]
    levers: Levers

    def nbytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


class SnapshotRing:
    """Holds the newest `keep` snapshots within `max_bytes`; the oldest goes first."""

    def __init__(self, keep: int, max_bytes: int) -> None:
        self._keep = keep
        self._max_bytes = max_bytes
        self._snapshots: OrderedDict[int, Snapshot] = OrderedDict()

    def steps(self) -> tuple[int, ...]:
        """Steps that can be restored, oldest first."""
        return tuple(self._snapshots)

    def add(self, snapshot: Snapshot) -> None:
        """Add `snapshot`; it replaces one of the same step.

        Raises:
            LearnerError: when it is larger than the whole ring may be.
        """
        size = snapshot.nbytes()
        if size > self._max_bytes:
            raise LearnerError(
                f"A snapshot takes {size} bytes, more than snapshots.max_bytes={self._max_bytes}; raise it, or set "
                "snapshots.every=0."
            )
        self._snapshots.pop(snapshot.id.step, None)
        self._snapshots[snapshot.id.step] = snapshot
        while len(self._snapshots) > self._keep or sum(s.nbytes() for s in self._snapshots.values()) > self._max_bytes:
            self._snapshots.popitem(last=False)

    def get(self, step: int) -> Snapshot:
        """The snapshot of `step`.

        Raises:
            LearnerError: names the steps that exist.
        """
        if step not in self._snapshots:
            raise LearnerError(f"There is no snapshot of step {step}; the ring holds steps {list(self._snapshots)}.")
        return self._snapshots[step]

    def drop_after(self, step: int) -> None:
        """Forget snapshots of an abandoned attempt, those after `step`."""
        for later in [s for s in self._snapshots if s > step]:
            del self._snapshots[later]
