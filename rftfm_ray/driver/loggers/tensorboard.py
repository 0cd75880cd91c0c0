"""TensorBoard: event files in the run directory, written by tensorboardX, which Ray Tune brings."""

from __future__ import annotations

from collections.abc import Mapping

from tensorboardX import SummaryWriter

from rftfm_ray.driver.loggers.base import Note
from rftfm_ray.planning import RunPlan

FOLDER = "tensorboard"
# A run that is looked at while it goes on.
FLUSH_S = 10


class TensorBoard:
    """Scalars by their names, and a text for everything that the guard does."""

    def __init__(self, planned: RunPlan) -> None:
        self._writer = SummaryWriter(str(planned.folder / FOLDER), flush_secs=FLUSH_S)
        indented = "\n".join(f"    {line}" for line in planned.config.to_yaml().splitlines())
        self._writer.add_text("configuration", indented)

    def figures(self, values: Mapping[str, float], consumed: int) -> None:
        """Log named numbers at a consumed step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, consumed)

    def note(self, note: Note) -> None:
        """Add a text under the incident's name."""
        text = f"**{note.event}** {note.text}"
        self._writer.add_text(f"incident {note.incident}", text, note.consumed)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
