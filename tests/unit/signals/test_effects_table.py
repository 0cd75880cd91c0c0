"""Every row of the table of effects, written down a second time by what the key means.

A row that loses a signal lets a profile of another configuration raise false alarms by it; one that gains a signal
makes a profile blind there. Neither shows in a test of how the rows are used.
"""

from __future__ import annotations

import pytest

from rftfm_ray.signals.effects import CONFIGURED, EFFECTS, PROMPTS, Reach, moved_between_runs
from rftfm_ray.signals.groups import LEARNING

# What is measured about one thing, by its name in the rows below.
PARTS = {
    "REWARDS": "reward_mean reward_std reward_min reward_q10 reward_q50 reward_q90 reward_max",
    "LENGTHS": "length_mean length_q10 length_q50 length_q90 length_max long_rate truncated_rate",
    "GROUPS": "zero_variance_group_rate all_right_group_rate all_wrong_group_rate filtered_group_rate",
    "ADVANTAGES": "advantage_std advantage_max advantage_kurtosis",
    "ENTROPY": "entropy entropy_q10 entropy_q90 entropy_observed sampling_logprob_mean",
    "UPDATES": "grad_norm update_ratio step_kl step_ratio_max",
    "REPEATS": "distinct_sample_rate distinct_bigram_rate unique_token_rate repeated_bigram_rate repeated_trigram_rate "
    "compress_ratio",
    "ENDINGS": "eos_rate stop_rate turn_limit_rate turns_mean empty_rate short_rate",
    "CALLS": "tool_call_count tool_calls_mean tool_unparsable_rate",
    "PROMPT": "prompt_length_mean answer_length_mean prompt_difficulty_mean prompt_repeat_rate",
    "RETURNS": "return_early return_late value_early value_late value_bias value_loss explained_variance "
    "value_clip_rate",
    "CRITIC": "advantage_std value_loss explained_variance",
    "LOSS": "loss policy_loss grad_norm",
    "GAPS": "gap_end gap_rest gap_again gap_new gap_slope gap_zero_share",
    # How far one optimizer step goes, without the gradient that it starts from.
    "STEP": "update_ratio changed_rate step_kl step_ratio_max kl_old ratio_min ratio_max",
    # Sums and extremes over a step's trajectories follow how many there are.
    "COUNTS": "trajectory_count tool_call_count regrade_count reward_std reward_max length_max observation_count "
    "replay_count rollout_gap_max",
    # Which prompts are asked decides how well they are answered, and so what is learnt from.
    "ASKED": "PROMPT correct_rate sampled_gap probe_gap kl_ref REWARDS LENGTHS GROUPS ADVANTAGES ENTROPY UPDATES "
    "REPEATS ENDINGS CALLS",
}
ROWS: dict[str, tuple[Reach, str]] = {
    # Another kind of run: no signal is listed, and none can be compared.
    "model.path": (Reach.KIND, ""),
    "task.name": (Reach.KIND, ""),
    "task.options": (Reach.KIND, ""),
    "algorithm.name": (Reach.KIND, ""),
    "data.train": (Reach.KIND, ""),
    "data.prompt": (Reach.KIND, ""),
    "data.answer": (Reach.KIND, ""),
    "data.max_new_tokens": (Reach.KIND, ""),
    "reward.functions": (Reach.KIND, ""),
    "reward.weights": (Reach.KIND, ""),
    "reward.right": (Reach.KIND, ""),
    "reward.verifier": (Reach.KIND, ""),
    "tools.functions": (Reach.KIND, ""),
    "tools.calls": (Reach.KIND, ""),
    "tools.result": (Reach.KIND, ""),
    "tools.stop": (Reach.KIND, ""),
    "tools.max_turns": (Reach.KIND, ""),
    "tools.max_result": (Reach.KIND, ""),
    # Rounding parts what vLLM and the learner compute for one token, and loses small updates.
    "model.dtype": (Reach.COURSE, "rollout_gap_max rollout_kl rollout_ratio_mean GAPS changed_rate"),
    # The policy that samples is the learner's, rounded; what it samples teaches another course.
    "sync.dtype": (Reach.COURSE, "rollout_gap_max rollout_kl rollout_ratio_mean GAPS"),
    # Fewer distinct problems come back sooner.
    "task.pool_size": (Reach.COURSE, "ASKED"),
    # What is held out is not trained on.
    "data.heldout": (Reach.COURSE, "ASKED"),
    "data.heldout_share": (Reach.COURSE, "ASKED"),
    "task.hard_share": (Reach.COURSE, "ASKED"),
    # Answers may be longer, and so end otherwise, repeat more and be right more often.
    "task.token_scale": (
        Reach.COURSE,
        "correct_rate sampled_gap probe_gap grad_norm REWARDS LENGTHS GROUPS ADVANTAGES REPEATS ENDINGS CALLS",
    ),
    # Rewards, and with them returns, advantages and what the loss is made of.
    "task.reward_scale": (Reach.COURSE, "REWARDS RETURNS ADVANTAGES loss policy_loss UPDATES kl_ref"),
    # From the second update of a step on the policy is not the one that sampled.
    "algorithm.minibatches": (
        Reach.COURSE,
        "ratio_min ratio_max changed_rate step_kl kl_old clip_low_rate clip_high_rate",
    ),
    # What is clipped teaches nothing: the course of the run is another.
    "algorithm.clip_low": (Reach.COURSE, "clip_low_rate"),
    "algorithm.clip_high": (Reach.COURSE, "clip_high_rate"),
    "algorithm.kl_coef": (Reach.COURSE, "kl_coef kl_ref loss"),
    "algorithm.entropy_coef": (Reach.COURSE, "ENTROPY loss"),
    "algorithm.normalize_std": (Reach.COURSE, "ADVANTAGES LOSS"),
    "algorithm.advantage_clip": (Reach.COURSE, "ADVANTAGES LOSS"),
    "algorithm.group_filter": (Reach.COURSE, "advantage_std filtered_group_rate LOSS"),
    "algorithm.loss_aggregation": (Reach.COURSE, "LOSS"),
    "algorithm.prompts_per_step": (
        Reach.COURSE,
        "COUNTS UPDATES distinct_bigram_rate compress_ratio advantage_max advantage_kurtosis",
    ),
    "algorithm.samples_per_prompt": (Reach.COURSE, "COUNTS UPDATES REPEATS GROUPS ADVANTAGES"),
    "critic.lr": (Reach.COURSE, "critic_lr CRITIC"),
    "critic.gamma": (Reach.COURSE, "advantage_std RETURNS"),
    "critic.gae_lambda": (Reach.COURSE, "CRITIC"),
    "critic.value_coef": (Reach.COURSE, "CRITIC LOSS"),
    "critic.value_clip": (Reach.COURSE, "CRITIC value_clip_rate"),
    # The policy stands still meanwhile.
    "critic.warmup_steps": (Reach.COURSE, "critic_lr CRITIC schedule_factor lr STEP"),
    "rollout.temperature": (
        Reach.COURSE,
        (
            "correct_rate probe_sampled_accuracy sampled_gap probe_gap valid_rate kl_ref credit_correlation REWARDS "
            "LENGTHS GROUPS ADVANTAGES ENTROPY UPDATES REPEATS ENDINGS CALLS RETURNS"
        ),
    ),
    # vLLM samples from what is left of the distribution, and the learner's log-probs are of all of it.
    "rollout.top_p": (Reach.COURSE, "rollout_kl rollout_ratio_mean rollout_gap_max GAPS ENTROPY REPEATS LENGTHS"),
    "rollout.max_model_len": (Reach.COURSE, "LENGTHS ENDINGS"),
    # A call that fails is tried again: that counts as a retry, and fewer trajectories fail.
    "rollout.tool_retries": (Reach.COURSE, "tool_retry_rate failed_rate valid_rate length_mean reward_mean"),
    "learner.lr": (Reach.COURSE, "lr STEP"),
    "learner.lr_schedule": (Reach.COURSE, "schedule_factor lr STEP"),
    "learner.warmup_steps": (Reach.COURSE, "schedule_factor lr STEP"),
    "steps": (Reach.COURSE, "schedule_factor lr STEP"),
    "learner.weight_decay": (Reach.COURSE, "update_ratio changed_rate"),
    "learner.adam_betas": (Reach.COURSE, "STEP"),
    "learner.max_grad_norm": (Reach.COURSE, "STEP"),
    # It is a measurement, and changes no update.
    "learner.step_kl_samples": (Reach.DIRECT, "step_kl step_ratio_max"),
}
# What a cause takes the reference of, holds above it, and holds below it.
SMALLER = "update_ratio changed_rate step_kl kl_old clip_low_rate clip_high_rate"
LEVER_ROWS: dict[str, tuple[str, str, str]] = {
    "lr_scale": ("", "", SMALLER),
    "kl_coef_scale": ("kl_ref loss", "", ""),
    "clip_low": ("clip_low_rate", "", ""),
    "clip_high": ("clip_high_rate", "", ""),
    "entropy_coef": ("ENTROPY loss", "", ""),
    # AdamW divides the scale of a gradient out, and the norm is taken before.
    "max_grad_norm": ("", "", ""),
    "minibatches": ("changed_rate step_kl kl_old clip_low_rate clip_high_rate", "", ""),
    # Wrong rewards are replaced by the trusted verifier's, or left out where they are too high.
    "regrade_rate": ("reward_mean reward_std reward_max", "", ""),
    "reward_limit": ("reward_mean reward_std reward_max", "", ""),
    "tool_instance": ("valid_rate length_mean reward_mean", "", ""),
    "tool_retries": ("valid_rate length_mean reward_mean", "tool_retry_rate", ""),
    "refill_rounds": ("valid_rate length_mean reward_mean", "refilled_rate", ""),
    "advantage_clip": ("ADVANTAGES", "", ""),
    "group_filter": ("advantage_std filtered_group_rate LOSS", "", ""),
    "gamma": ("CRITIC", "", ""),
    "gae_lambda": ("CRITIC", "", ""),
    "critic_lr_scale": ("value_loss explained_variance", "", ""),
    "freeze_policy": ("loss", "", f"{SMALLER} grad_norm"),
    # Other advantages, and what the update is made of.
    "credit_source": (
        "ADVANTAGES value_loss explained_variance credit_correlation credit_lag advantage_early advantage_late LOSS",
        "",
        "",
    ),
    # Inverses bring back what the reference knows.
    "temperature_scale": ("", "", ""),
    "end_bias": ("", "", ""),
    "tokens_scale": ("length_max length_q90 long_rate", "", ""),
    "rollout_path": ("", "", ""),
    "is_cap": ("LOSS", "", ""),
    # Trajectories that are left out count as failed ones do.
    "mask_undecoded": ("valid_rate length_mean reward_mean", "failed_rate", ""),
    "mask_unreplayed": ("valid_rate length_mean reward_mean", "failed_rate", ""),
    "mask_truncated": (
        "valid_rate correct_rate sampled_gap probe_gap grad_norm REWARDS LENGTHS GROUPS ADVANTAGES REPEATS ENDINGS",
        "failed_rate",
        "",
    ),
    PROMPTS: ("ASKED", "", ""),
}


def spelled(text: str) -> list[str]:
    """The signals of a row, sorted; capitals stand for a part of them."""
    names = {name for word in text.split() for name in (spelled(PARTS[word]) if word in PARTS else [word])}
    return sorted(names)


@pytest.mark.parametrize("key", CONFIGURED)
def test_key_moves_what_it_means(key: str) -> None:
    reach, text = ROWS[key]
    effect = EFFECTS[key]
    assert effect.reach is reach
    assert sorted(effect.signals) == spelled(text)
    assert (effect.raises, effect.lowers) == ((), ()), "only levers hold a signal on one side"
    if reach is not Reach.KIND:
        learnt = set(LEARNING) if reach is Reach.COURSE else set[str]()
        assert set(moved_between_runs([key])) == learnt | set(spelled(text))


@pytest.mark.parametrize("cause", LEVER_ROWS)
def test_lever_moves_what_it_means(cause: str) -> None:
    effect = EFFECTS[cause]
    parts = (effect.signals, effect.raises, effect.lowers)
    assert [sorted(part) for part in parts] == [spelled(text) for text in LEVER_ROWS[cause]]


def test_every_row_of_the_table_is_written_down_here() -> None:
    assert set(ROWS) == set(CONFIGURED)
    assert set(ROWS) | set(LEVER_ROWS) == set(EFFECTS)
