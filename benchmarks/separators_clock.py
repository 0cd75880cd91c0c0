"""A clock around the functions of the separators, in every worker process of a Ray that is told to set it.

It imports nothing of what it clocks: a worker's own imports must come in the worker's own order.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = "RFTFM_SEPARATORS_CLOCK"
"""Variable that names the folder in which each process leaves its times."""
# By module: owner and name of every function that separators add to a step; "" where the module is the owner.
CLOCKED: dict[str, tuple[tuple[str, str], ...]] = {
    "rftfm_ray.rollout.check_columns": (("", "decoded_as_said"), ("", "limit_excess")),
    "rftfm_ray.telemetry.features": (("", "_error_split"),),
    "rftfm_ray.training.accumulator": (("MetricAccumulator", "compare"),),
    "rftfm_ray.training.engine": (
        ("LearnerEngine", "watch_commit"), ("LearnerEngine", "_look"), ("LearnerEngine", "update_gain"),
    ),
    "rftfm_ray.training.loss_credit": (("", "credit_in_loss"), ("CreditPath", "_errors")),
}  # fmt: skip
# Seconds between two writings of the times.
PERIOD_S = 0.2
_SPENT: dict[str, list[float]] = {}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of `CLOCKED` as usual, and clocks them once they are loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual specification, with a loader that clocks."""
        if fullname not in CLOCKED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def clocked(module: ModuleType) -> None:
                load(module)
                _clock_module(module)

            spec.loader.exec_module = clocked  # type: ignore[method-assign]
        return spec


def set_clock() -> None:
    """Clock the functions in this process, those that are loaded and those that will be."""
    for name in CLOCKED:
        if name in sys.modules:
            _clock_module(sys.modules[name])
    sys.meta_path.insert(0, _Finder())


def _clock_module(module: ModuleType) -> None:
    for owner, name in CLOCKED[module.__name__]:
        holder: Any = getattr(module, owner) if owner else module
        setattr(holder, name, _timed(name, getattr(holder, name)))


def _timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    last = [0.0]

    @functools.wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            now = time.perf_counter()
            each = _SPENT.setdefault(name, [0.0, 0.0])
            each[0] += 1
            each[1] += now - began
            if now - last[0] > PERIOD_S:
                last[0] = now
                Path(os.environ[FOLDER], f"{os.getpid()}.json").write_text(json.dumps(_SPENT), encoding="utf-8")

    return wrapper
