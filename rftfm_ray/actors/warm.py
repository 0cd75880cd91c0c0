"""Warm actors outlive a run: the next compatible run uses them, bitwise equal to new ones."""

from __future__ import annotations

import logging
from types import TracebackType

from rftfm_ray.actors.group import ActorGroup, start_group
from rftfm_ray.config import RunConfig
from rftfm_ray.errors import RftfmError
from rftfm_ray.planning import RunPlan

logger = logging.getLogger(__name__)


def actors_key(config: RunConfig) -> tuple[object, ...]:
    """The part of a configuration that runs must share to use the same actors: model, engine and placement."""
    rollout = config.rollout
    engine = (rollout.num_actors, rollout.max_num_seqs, rollout.max_model_len, rollout.kv_cache_mib, rollout.block_size)
    return config.model, engine, config.placement


class WarmActors:
    """Holds one group between runs. Close it, or use it in a `with`, while Ray is still connected."""

    def __init__(self) -> None:
        self._group: ActorGroup | None = None
        self._key: tuple[object, ...] = ()

    def __enter__(self) -> WarmActors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self, plan: RunPlan) -> ActorGroup:
        """A group for a run: the warm one, or a new one where that does not fit or has died.

        Raises:
            RftfmError: as `start_group`.
        """
        group, key = self._group, actors_key(plan.config)
        if group is not None and key == self._key:
            try:
                group.reset(plan)
                return group
            except RftfmError as error:
                # An actor has died, or cannot be reset.
                logger.warning("the actors of an earlier run cannot be used again: %s", error)
            except BaseException:
                self.close()
                raise
        self.close()
        started = start_group(plan, reusable=True)
        self._group, self._key = started, key
        return started

    def close(self) -> None:
        """End the actors. Safe to call twice."""
        group, self._group = self._group, None
        if group is not None:
            group.stop()
