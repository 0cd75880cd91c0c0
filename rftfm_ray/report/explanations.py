"""What can be behind an incident: the named fault and its rivals, their shares, and what speaks against each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rftfm_ray.report.markup import NOTHING, Html, joined, tag
from rftfm_ray.runs.incidents import Incident
from rftfm_ray.runs.words import number_of
from rftfm_ray.verdicts import as_percent

# A rival as the journal writes it, and one whose probability rounds to zero.
_RIVAL = re.compile(r"(\S+) ([<>]?)(\d{1,3})%(?:, (.*))?")
_NO_CHANCE = re.compile(r"\S+ (0|<1)%(,|$)")


@dataclass(frozen=True, slots=True)
class Explanation:
    """A fault that can be behind an incident.

    Attributes:
        code: of the fault.
        probability: in words, as the journal has it.
        width: of its bar in percent.
        against: what speaks against it; empty where nothing is written.
    """

    code: str
    probability: str
    width: int
    against: str


def explanations(incident: Incident) -> Html:
    """The named fault and its rivals as bars; rivals of older journals, which give no shares, as they are written."""
    written = [item for item in incident.text("rivals").split("; ") if item and not _NO_CHANCE.match(item)]
    rivals = [_explanation(item) for item in written]
    if not written or any(rival is None for rival in rivals):
        return joined(["; ".join(written)]) if written else NOTHING
    return tag("div", *map(_bar, (*_named(incident), *filter(None, rivals))), class_="shares")


def _named(incident: Incident) -> Iterator[Explanation]:
    newest = incident.newest_with("probability")
    probability = math.nan if newest is None else number_of(newest, "probability")
    if math.isfinite(probability):
        yield Explanation(incident.code, as_percent(probability), round(100 * min(1.0, max(0.0, probability))), "")


def _explanation(item: str) -> Explanation | None:
    found = _RIVAL.fullmatch(item)
    if found is None:
        return None
    code, bound, percent, against = found.groups()
    return Explanation(code, f"{bound}{percent}%", min(100, int(percent)), against or "")


def _bar(explanation: Explanation) -> Html:
    return tag(
        "div",
        tag("b", explanation.code),
        tag("span", tag("i", style=f"width:{explanation.width}%"), class_="bar"),
        tag("span", explanation.probability, class_="percent"),
        tag("span", explanation.against, class_="muted"),
        class_="share",
    )
