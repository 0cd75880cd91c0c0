"""Derives the termination of a finished trajectory from its tokens, calls and limits alone.

Written apart from the loop that ends episodes, and sharing nothing with it: an episode that was ended early, went on
too long or carries the wrong reason differs. That the environment itself is right is not its business; see `checks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rftfm_ray.tasks.api import FAILURES, ToolCall
from rftfm_ray.types import Termination


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends a turn or an episode besides the environment.

    Attributes:
        eos_ids: tokens with which the model ends the episode.
        stop_ids: tokens that end a turn, those of `eos_ids` among them.
        turn_tokens: most tokens of every turn; there are no more turns than these.
        sequence: most tokens of a trajectory, prompt and observations included.
        asks_at_end: whether the environment is asked about a turn that a token of `eos_ids` has ended.
    """

    eos_ids: frozenset[int]
    stop_ids: frozenset[int]
    turn_tokens: tuple[int, ...]
    sequence: int
    asks_at_end: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A trajectory when nothing more is added to it.

    Attributes:
        tokens: (N,) prompt, turns and observations.
        action: (N,) True where the model chose the token.
        turns: turns of the model.
        calls: the tool calls, in order.
        withheld: tokens of an observation that came too late to be added; None without one.
    """

    tokens: Sequence[int]
    action: Sequence[bool]
    turns: int
    calls: Sequence[ToolCall]
    withheld: int | None


def implied_termination(ended: Ended, limits: Limits) -> Termination | None:
    """The termination that follows, or None where none does: the trajectory should not be as it is."""
    if not _counts_agree(ended, limits):
        return None
    size = len(ended.tokens)
    if not ended.turns or not ended.action[-1]:
        # No turn began although one was due. A prompt that leaves no room is nothing that the model did.
        cut = Termination.MAX_TOKENS if ended.turns else Termination.FAILED
        return cut if size >= limits.sequence else None
    at_end = ended.tokens[-1] in limits.eos_ids
    if at_end and not limits.asks_at_end:
        return Termination.EOS if len(ended.calls) < ended.turns else None
    if ended.tokens[-1] not in limits.stop_ids:
        start = _start_of_last_turn(ended, limits)
        room = min(limits.turn_tokens[ended.turns - 1], limits.sequence - start)
        return Termination.MAX_TOKENS if size - start == room and len(ended.calls) < ended.turns else None
    if len(ended.calls) < ended.turns:
        over = Termination.EOS if at_end else Termination.STOP
        return over if ended.withheld is None else None
    if ended.withheld is None:
        return Termination.FAILED if ended.calls[-1].status in FAILURES else None
    if ended.turns == len(limits.turn_tokens):
        return Termination.MAX_TURNS
    return Termination.MAX_TOKENS if size + ended.withheld >= limits.sequence else None


def _counts_agree(ended: Ended, limits: Limits) -> bool:
    """Whether turns are as many as the tokens show, and every turn but perhaps the last one has made a call."""
    if ended.turns > len(limits.turn_tokens):
        return False
    stops = [token in limits.stop_ids for token, chosen in zip(ended.tokens, ended.action, strict=True) if chosen]
    shown = sum(stops) + bool(stops and not stops[-1])
    asked = [call.turn for call in ended.calls]
    return shown == ended.turns and asked == list(range(len(asked))) and ended.turns - len(asked) in (0, 1)


def _start_of_last_turn(ended: Ended, limits: Limits) -> int:
    """Where the last turn begins: behind the last token that the model did not choose, or that ended a turn.

    The stops matter where an observation has no tokens.
    """
    index = len(ended.tokens) - 1
    while index > 0 and ended.action[index - 1] and ended.tokens[index - 1] not in limits.stop_ids:
        index -= 1
    return index
