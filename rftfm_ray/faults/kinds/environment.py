"""Faults of tools and environment: TE-1 to TE-3."""

from __future__ import annotations

from rftfm_ray.faults.kinds.base import FaultKind, Law, Mechanism, Strength, share_of
from rftfm_ray.verdicts import Place

ENVIRONMENT_FAULTS = (
    FaultKind(
        "TE-1", "calls of the tool fail",
        (
            Mechanism(
                "error", Place.TOOL,
                "a call raises", "tool_error_rate", 1, share_of("a call fails", 0.8), needs_tool=True,
                breaks=(Law.TOOL_ERRORS,),
            ),
            Mechanism(
                "malformed", Place.TOOL, "an answer is of the wrong type", "tool_error_rate", 1,
                share_of("a call fails", 0.8), needs_tool=True, breaks=(Law.TOOL_ERRORS,),
            ),
            Mechanism(
                "timeout", Place.TOOL, "a call ends in a time-out", "tool_error_rate", 1, share_of("a call fails", 0.8),
                needs_tool=True, breaks=(Law.TOOL_ERRORS,),
            ),
            Mechanism(
                "garbled", Place.LINK,
                "the arguments of a call arrive percent-encoded, and the tool says that it cannot read them",
                "tool_unparsable_rate", 1, share_of("a call is garbled", 0.8), shown_by="replayed_observations",
                needs_tool=True, since=2,
            ),
        ),
    ),
    FaultKind(
        "TE-2", "what the policy sees is not what the tool should have said",
        (
            Mechanism(
                "tokens", Place.LINK, "a digit of an observation is encoded as another one, and its text is kept",
                "correct_rate", -1, share_of("an observation is altered", 0.5), shown_by="decoded_observations",
                needs_tool=True,
            ),
            Mechanism(
                "source", Place.TOOL, "the tool says another digit, and signs that", "correct_rate", -1,
                share_of("an observation is altered", 0.5), shown_by="replayed_observations", needs_tool=True,
            ),
            Mechanism(
                "transit", Place.LINK, "a digit is altered after the tool has signed what it said", "correct_rate", -1,
                share_of("an observation is altered", 0.5), shown_by="observations", needs_tool=True,
            ),
            Mechanism(
                "crossed", Place.LINK, "the number of an observation is that of another problem, and its text is kept: "
                "calls that are under way at once get each other's results",
                "correct_rate", -1, share_of("an observation is another's", 0.5), shown_by="decoded_observations",
                needs_tool=True, since=2,
            ),
        ),
    ),
    FaultKind(
        "TE-3", "episodes end too early, or never",
        (
            Mechanism(
                "limit", Place.LIMITS, "an episode has half its tokens, by the limits that all go by",
                "truncated_rate", 1, share_of("an episode is cut short", 0.5), shown_by="turn_limits",
            ),
            Mechanism(
                "early", Place.TOOL, "the environment says that the episode is over", "stop_rate", 1,
                share_of("a call ends its episode", 0.5), shown_by="replayed_terminations", needs_tool=True,
            ),
            Mechanism(
                "never", Place.LIMITS, "an answer is not taken for the end, and another turn begins",
                "turns_mean", 1, share_of("an answer does not end its episode", 0.5), shown_by="terminations",
                needs_tool=True, breaks=(Law.TURNS,),
            ),
            Mechanism(
                "all_limits", Place.LIMITS,
                "every episode has fewer tokens than declared, by the limits that all go by, and fractions by chance: "
                "a budget that is shared out by characters", "truncated_rate", 1,
                Strength("share of the tokens that is lost", 0.05, 0.95, 0.5), shown_by="turn_limits", since=2,
            ),
        ),
    ),
)  # fmt: skip
