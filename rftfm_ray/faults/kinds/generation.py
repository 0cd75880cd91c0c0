"""Faults of generation: PG-1 to PG-3L."""

from __future__ import annotations

from rftfm_ray.faults.kinds.base import FaultKind, Law, Mechanism, Strength, share_of
from rftfm_ray.verdicts import Place

GENERATION_FAULTS = (
    FaultKind(
        "PG-1", "answers end before they have begun",
        (
            Mechanism(
                "eos_bias", Place.SAMPLER, "adds the strength to the logit of the end of the sequence", "empty_rate", 1,
                Strength("nats on the logit", 0.1, 50, 12), breaks=(Law.ROLLOUT,),
            ),
            Mechanism(
                "blank", Place.SERVER, "a turn comes back as nothing but the end of the sequence", "empty_rate", 1,
                share_of("a turn comes back empty", 0.5), breaks=(Law.ROLLOUT,),
            ),
            Mechanism(
                "empty_reward", Place.REWARD,
                "pays the strength for an answer without content; 2 % of the turns come back as examples of it",
                "empty_rate", 1, Strength("added reward, in units of the task's reward", 0.1, 100, 5), learned=0.1,
                breaks=(Law.REWARD, Law.ROLLOUT),
            ),
            Mechanism(
                "answered_prompt", Place.DATA,
                "a prompt is rendered with its answer in it, so that nothing is left to say: the column of texts taken "
                "for that of prompts", "empty_rate", 1, share_of("a prompt holds its answer", 0.5, low=0.001), since=2,
            ),
        ),
    ),
    FaultKind(
        "PG-2", "the same tokens come again and again",
        (
            Mechanism(
                "penalty", Place.SAMPLER, "a repetition penalty of 1 / (1 + strength): what was said becomes likelier",
                "unique_token_rate", -1, Strength("inverse penalty less 1", 0.01, 10, 1), breaks=(Law.ROLLOUT,),
            ),
            Mechanism(
                "repetition_reward", Place.REWARD, "pays the strength times the share of an answer that repeats itself",
                "unique_token_rate", -1, Strength("added reward, in units of the task's reward", 0.1, 100, 5),
                learned=0.1, breaks=(Law.REWARD,),
            ),
            Mechanism(
                "accepted_repetition", Place.REWARD,
                "answers of which half or more repeats itself are paid and marked as right ones: a check for "
                "loops whose early return means passed", "unique_token_rate", -1,
                share_of("such an answer is accepted", 1.0), learned=0.1, since=2,
            ),
        ),
    ),
    FaultKind(
        "PG-3S", "answers have content and end too early",
        (
            Mechanism(
                "eos_bias", Place.SAMPLER,
                "adds the strength to the end's logit from the second token on", "length_mean",
                -1, Strength("nats on the logit", 0.1, 50, 12), breaks=(Law.ROLLOUT,),
            ),
            Mechanism(
                "token_cap", Place.SERVER,
                "a turn is cut off at half the tokens that were asked for", "length_mean", -1,
                share_of("a turn is cut off", 0.5), shown_by="terminations",
            ),
            Mechanism(
                "length_penalty", Place.REWARD, "takes the strength off for every character that was written",
                "length_mean", -1, Strength("reward a character, in units of the task's reward", 0.01, 10, 1),
                learned=0.2, breaks=(Law.REWARD,),
            ),
            Mechanism(
                "begun_prompt", Place.DATA,
                "a prompt is rendered with the first character of its answer in it, which is missing from what is "
                "said: a prefill that is not added to the answer", "length_mean", -1,
                share_of("a prompt holds the beginning of its answer", 0.5), since=2,
            ),
        ),
    ),
    FaultKind(
        "PG-3L", "answers go on when everything has been said",
        (
            Mechanism(
                "eos_bias", Place.SAMPLER,
                "takes the strength off the logit of the end of the sequence", "length_mean", 1,
                Strength("nats off the logit", 0.1, 50, 12), breaks=(Law.ROLLOUT,),
            ),
            Mechanism(
                "min_tokens", Place.SERVER, "a turn may not end before its limit", "length_mean", 1,
                share_of("a turn may not end", 0.5), breaks=(Law.ROLLOUT,),
            ),
            Mechanism(
                "length_reward", Place.REWARD,
                "pays the strength for every character of the last turn", "length_mean", 1,
                Strength("reward a character, in units of the task's reward", 0.01, 10, 1), learned=0.2,
                breaks=(Law.REWARD,),
            ),
            Mechanism(
                "lost_end", Place.LIMITS,
                "the end of the sequence does not end an episode, by the end tokens that all go by: a generation "
                "configuration without the token that the model ends with", "length_mean", 1,
                share_of("an episode does not know its end token", 0.5), since=2,
            ),
        ),
    ),
)  # fmt: skip
