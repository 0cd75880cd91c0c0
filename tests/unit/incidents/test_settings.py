"""What the manager of incidents takes from the configuration of a run."""

from __future__ import annotations

from rftfm_ray.config import RunConfig
from rftfm_ray.incidents.settings import incident_settings
from rftfm_ray.types import GuardMode


def test_settings_are_those_of_the_configuration() -> None:
    config = RunConfig.model_validate(
        {"guard": {"mode": "act", "on_give_up": "halt", "budget": 7}, "learner": {"lr": 0.5}}
    )
    settings = incident_settings(config)
    assert (settings.mode, settings.halts, settings.budget, settings.nominal.lr) == (GuardMode.ACT, True, 7, 0.5)
    assert not incident_settings(RunConfig()).halts
