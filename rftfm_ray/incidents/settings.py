"""The settings of the incident manager, from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from rftfm_ray.config import RunConfig
from rftfm_ray.config.settings import nominal_settings
from rftfm_ray.types import GuardMode, RunFacts, Settings
from rftfm_ray.verdicts import Family


@dataclass(frozen=True, slots=True)
class IncidentSettings:
    """The settings of the incident manager.

    Attributes:
        mode: how far the guard goes.
        act_on: families of faults whose remedies are carried out.
        verify_steps: steps that a remedy is verified over, and steps of silence after which an alarm is over.
        verify_timeout_steps: steps after which a remedy that could not be verified is left to a person.
        cooldown_steps: steps between two remedies of one incident.
        budget: remedies that one family may have in a run.
        return_after: steps without a sign of the fault after which a containing lever returns.
        halts: whether the run ends when nothing is left to try.
        probe_size: problems of a held-out probe.
        probe_steps: steps that the answers of one probe are spread over; 0 where they are given in one step.
        nominal: the configured settings at the first step.
        later: first steps of later stages of the configuration, with the settings from then on.
        facts: of the run, which decide on the levers that it can have; None where they are not known.
    """

    mode: GuardMode
    act_on: tuple[Family, ...]
    verify_steps: int
    verify_timeout_steps: int
    cooldown_steps: int
    budget: int
    return_after: int
    halts: bool
    probe_size: int
    nominal: Settings
    probe_steps: int = 0
    later: tuple[tuple[int, Settings], ...] = ()
    facts: RunFacts | None = None

    def nominal_at(self, step: int) -> Settings:
        """The configured settings at a step."""
        return next((settings for start, settings in reversed(self.later) if start <= step), self.nominal)

    def acts_on(self, family: Family) -> bool:
        """Whether remedies for a family are carried out."""
        return self.mode is GuardMode.ACT and family in self.act_on


def incident_settings(config: RunConfig, *, calls_tools: bool = True) -> IncidentSettings:
    """The settings from a run's configuration; `calls_tools`: whether episodes of its task call tools."""
    guard = config.guard
    return IncidentSettings(
        mode=guard.mode,
        act_on=guard.act_on,
        verify_steps=guard.verify_steps,
        verify_timeout_steps=guard.verify_timeout_steps,
        cooldown_steps=guard.cooldown_steps,
        budget=guard.budget,
        return_after=guard.return_after,
        halts=guard.on_give_up == "halt",
        probe_size=config.probe.size,
        nominal=nominal_settings(config),
        probe_steps=config.probe.every if config.probe.spread else 0,
        later=tuple((start, nominal_settings(stage)) for start, stage in config.stages()[1:]),
        facts=RunFacts(
            config.algorithm.name,
            min(stage.algorithm.samples_per_prompt for _, stage in config.stages()),
            config.rollout.top_p,
            calls_tools,
        ),
    )
