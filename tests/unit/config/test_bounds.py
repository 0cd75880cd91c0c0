"""Numbers that no run can want are refused in one sentence with their key, and the bounds themselves are not."""

from __future__ import annotations

import pytest

from rftfm_ray.config import load_config
from rftfm_ray.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "lowest", "highest", "below", "above"),
    [
        ("verifier.workers", "1", "1024", "0", "100000000"),
        ("learner.lr", "1e-9", "1", "0", "1e10"),
        ("critic.lr", "1e-9", "1", "0", "2"),
        ("algorithm.kl_coef", "0", "1000", "-1", "1e300"),
        ("algorithm.entropy_coef", "0", "1000", "-1", "1e300"),
        ("critic.value_coef", "0", "1000", "-1", "1e300"),
        ("verifier.timeout_s", "0.001", "1e7", "1e-9", "1e300"),
        ("guard.policy_timeout_s", "0.001", "1e7", "1e-9", "1e300"),
        ("guard.verdict_timeout_s", "0.001", "1e7", "1e-9", "1e300"),
    ],
)
def test_number_out_of_all_reason_is_refused(key: str, lowest: str, highest: str, below: str, above: str) -> None:
    for value in (lowest, highest):
        load_config(None, [f"{key}={value}"])
    for value in (below, above):
        with pytest.raises(ConfigError) as caught:
            load_config(None, [f"{key}={value}"])
        message = str(caught.value)
        assert message.startswith(f"Configuration key {key}=")
        assert "input should be " in message
        assert message.endswith(".")
        assert ". " not in message


def test_batch_of_one_has_no_baseline_in_a_mean_over_the_step() -> None:
    single = ["algorithm.name=reinforce_pp", "algorithm.samples_per_prompt=1"]
    with pytest.raises(
        ConfigError, match=r"leaves algorithm\.name=reinforce_pp without a baseline.* at least 2 of one"
    ):
        load_config(None, [*single, "algorithm.prompts_per_step=1"])
    load_config(None, [*single, "algorithm.prompts_per_step=2"])
    load_config(None, ["algorithm.name=ppo", "algorithm.samples_per_prompt=1", "algorithm.prompts_per_step=1"])
