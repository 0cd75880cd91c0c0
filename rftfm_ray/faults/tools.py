"""Faulty tool instances: TE-1, TE-2 at the source and in transit, TE-3 by the environment. Pure.

Each takes the place of one instance and calls through to it. It runs on the clock of consumed steps, and nothing but
its own duration ends it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast
from urllib.parse import quote

from rftfm_ray.faults.catalogue import FaultSpec, of_code
from rftfm_ray.faults.draws import call_identity, corrupted, draw, strikes
from rftfm_ray.rollout.channels import CallId, ToolInstance
from rftfm_ray.tasks.api import Observation, Problem, text_digest


class ToolOutageError(RuntimeError):
    """A tool instance is down."""


class FaultyTool:
    """A tool instance that fails, changes its answer, or ends episodes, with a probability."""

    def __init__(self, inner: ToolInstance, specs: Sequence[FaultSpec], seed: int, instance: int) -> None:
        self._inner = inner
        self._specs = specs
        self._seed = seed
        self._instance = instance

    def __call__(self, call: CallId, problem: Problem, text: str) -> Observation | None:
        identity = (self._instance, *call_identity(call))
        for spec in of_code(self._specs, "TE-1", "garbled"):
            if strikes(spec, self._seed, call.episode.step.paid_step, "garbled", *identity):
                text = garbled(text)
        observation = self._inner(call, problem, text)
        for spec in self._specs:
            if spec.mechanism == "garbled":
                continue
            if observation is not None and strikes(spec, self._seed, call.episode.step.paid_step, *identity):
                observation = self._struck(spec, observation, draw(spec, self._seed, "digit", *identity))
        return observation

    def _struck(self, spec: FaultSpec, observation: Observation, number: float) -> Observation | None:
        match spec.mechanism:
            case "error":
                raise ToolOutageError("the tool is down")
            case "timeout":
                raise TimeoutError("the tool has not answered in time")
            case "malformed":
                # What a broken proxy hands on: not an answer at all.
                return cast("Observation", "<html>502</html>")
            case "early":
                return None
        altered = corrupted(observation.text, number)
        if spec.mechanism == "transit":
            # An alteration in transit does not change what the tool has signed.
            return dataclasses.replace(observation, text=altered)
        response = dataclasses.replace(observation.call, response=corrupted(observation.call.response, number))
        return Observation(altered, response, text_digest(altered))


def garbled(text: str) -> str:
    """`text` as a client sends it that encodes for addresses twice; what ends the turn stays."""
    return quote(text[:-1], safe="") + text[-1:]


def faulty_tools(instances: Sequence[ToolInstance], specs: Sequence[FaultSpec], seed: int) -> tuple[ToolInstance, ...]:
    """Tool instances with the faults of `specs` in the first of them, or in all of them."""
    wanted = (
        *of_code(specs, "TE-1", "error", "malformed", "timeout", "garbled"),
        *of_code(specs, "TE-2", "source", "transit"),
        *of_code(specs, "TE-3", "early"),
    )
    tools: list[ToolInstance] = []
    for index, instance in enumerate(instances):
        hit = [spec for spec in wanted if index == 0 or spec.all_instances]
        tools.append(FaultyTool(instance, hit, seed, index) if hit else instance)
    return tuple(tools)
