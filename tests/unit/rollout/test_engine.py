"""Replacing the weights of vLLM: what has to be forgotten and packed again with them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from rftfm_ray.errors import RolloutError
from rftfm_ray.rollout import engine as module
from rftfm_ray.rollout.engine import VllmEngine

WEIGHTS = {"model.norm.weight": np.ones(2, np.float32), "lm_head.weight": np.zeros((2, 2), np.float32)}


class Model:
    """Stands in for vLLM: notes what is asked of it, in order. `error` is what reloading raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.journey: list[Any] = []
        self._error = error

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        if self._error is not None:
            raise self._error
        self.journey.append((method, {name: tensor.tolist() for name, tensor in kwargs["weights_iterator"]}))

    def apply_model(self, function: object) -> None:
        self.journey.append(function)

    def reset_prefix_cache(self) -> None:
        self.journey.append("reset_prefix_cache")


def make_engine(model: Model) -> VllmEngine:
    """An engine on a model that is none."""
    engine = VllmEngine.__new__(VllmEngine)
    engine._llm = cast("Any", model)
    return engine


def test_cached_prefixes_of_the_old_weights_are_forgotten_once_the_new_ones_are_there() -> None:
    model = Model()
    make_engine(model).load(WEIGHTS)
    reloaded = ("reload_weights", {name: array.tolist() for name, array in WEIGHTS.items()})
    assert model.journey == [reloaded, module._repack_tied_head, "reset_prefix_cache"]


@pytest.mark.parametrize("error", [KeyError("lm_head"), ValueError("shape"), RuntimeError("size")])
def test_weights_that_do_not_fit_are_a_typed_error(error: Exception) -> None:
    with pytest.raises(RolloutError, match="vLLM refused the learner's weights"):
        make_engine(Model(error)).load(WEIGHTS)
