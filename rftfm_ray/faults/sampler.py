"""A faulty sampler or inference server: PG-1 to PG-3L, OD-3 by temperature, OD-2 by weights that do not arrive. Pure.

It sits between the runner of training episodes and the engine. Held-out probes go to the engine itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from rftfm_ray.faults.catalogue import FaultSpec, of_code
from rftfm_ray.faults.draws import strikes
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.seams import Engine
from rftfm_ray.types import Sampling

# Added to a logit, this makes the token certain.
CERTAIN = 100.0
# Share of turns that give the policy examples of the rewarded behaviour, which it would not find itself.
EXAMPLES = 0.02


class FaultySampler:
    """An engine that changes the sampling terms of requests."""

    def __init__(self, inner: Engine, specs: Sequence[FaultSpec], seed: int, eos_ids: Sequence[int]) -> None:
        self._inner = inner
        self._specs = specs
        self._seed = seed
        self._eos_ids = tuple(eos_ids)

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        """Queue a turn, with changed terms while a fault is on."""
        for spec in self._specs:
            if spec.active(request.paid_step):
                request, sampling = self._on(spec, request, sampling)
        self._inner.submit(request, sampling)

    def _on(self, spec: FaultSpec, request: TurnRequest, sampling: Sampling) -> tuple[TurnRequest, Sampling]:
        strength = spec.level(request.paid_step)
        # The seed of a turn is a hash of its identity.
        hit = strikes(spec, self._seed, request.paid_step, request.seed)
        match spec.code, spec.mechanism:
            case "PG-1", "eos_bias":
                return request, self._biased(sampling, strength)
            case "PG-1", "blank":
                return request, self._biased(sampling, CERTAIN) if hit else sampling
            case "PG-1", "empty_reward":
                example = dataclasses.replace(spec, strength=EXAMPLES, ramp=0, neutral=0.0)
                hit = strikes(example, self._seed, request.paid_step, request.seed)
                return request, self._biased(sampling, CERTAIN) if hit else sampling
            case "PG-2", "penalty":
                return request, dataclasses.replace(sampling, repetition_penalty=1 / (1 + strength))
            case "PG-3S", "eos_bias":
                return request, dataclasses.replace(self._biased(sampling, strength), min_tokens=1)
            case "PG-3S", "token_cap":
                capped = dataclasses.replace(request, max_tokens=max(1, request.max_tokens // 2))
                return capped if hit else request, sampling
            case "PG-3L", "eos_bias":
                return request, self._biased(sampling, -strength)
            case "PG-3L", "min_tokens":
                endless = dataclasses.replace(sampling, min_tokens=request.max_tokens)
                return request, endless if hit else sampling
        return request, dataclasses.replace(sampling, temperature=sampling.temperature * (1 - strength))

    def _biased(self, sampling: Sampling, nats: float) -> Sampling:
        # Biases are added, so that two faults act at once.
        bias = dict(sampling.logit_bias)
        added = {token: bias.get(token, 0.0) + nats for token in self._eos_ids}
        return dataclasses.replace(sampling, logit_bias=tuple((bias | added).items()))

    def step(self) -> Iterable[TurnResult]:
        """As the engine's."""
        return self._inner.step()

    def busy(self) -> bool:
        """As the engine's."""
        return self._inner.busy()


def faulty_sampler(engine: Engine, specs: Sequence[FaultSpec], seed: int, eos_ids: Sequence[int]) -> Engine:
    """Put faults between the engine and the training episodes."""
    wanted = (
        *of_code(specs, "PG-1", "eos_bias", "blank", "empty_reward"),
        *of_code(specs, "PG-2", "penalty"),
        *of_code(specs, "PG-3S", "eos_bias", "token_cap"),
        *of_code(specs, "PG-3L", "eos_bias", "min_tokens"),
        *of_code(specs, "OD-3", "cold_sampler", "colder"),
    )
    return FaultySampler(engine, wanted, seed, eos_ids) if wanted else engine


class Transfer:
    """The transfer of weights to the server, in which OD-2 loses tensors: the server keeps its old ones."""

    def __init__(self, specs: Sequence[FaultSpec], seed: int) -> None:
        self._specs = of_code(specs, "OD-2", "unsynced")
        self._seed = seed
        self._served: dict[str, NDArray[Any]] = {}

    def arrived(self, arrays: Mapping[str, NDArray[Any]], paid_step: int) -> Mapping[str, NDArray[Any]]:
        """Tensors on the server after `arrays` were sent to it. The first transfer is complete."""
        if not self._specs:
            return arrays
        lost = {
            name
            for name in arrays
            if any(strikes(spec, self._seed, paid_step, paid_step, name) for spec in self._specs)
        }
        self._served = {
            name: self._served.get(name, array) if name in lost else array for name, array in arrays.items()
        }
        return self._served
