"""What can be behind an incident: the named fault and its rivals, their shares, and what speaks against each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rftfm_ray.incidents.explaining import Sign
from rftfm_ray.numerals import as_percent
from rftfm_ray.report.markup import NOTHING, Html, bullets, joined, table, tag
from rftfm_ray.runs.incidents import Incident
from rftfm_ray.runs.words import figure, listed, number_of

# A probability below it is shown as less than a percent: that explains nothing.
LEAST_SHOWN = 0.01


@dataclass(frozen=True, slots=True)
class Explanation:
    """A fault that can be behind an incident.

    Attributes:
        code: of the fault.
        probability: of it.
        against: what speaks against it; empty where nothing does.
    """

    code: str
    probability: float
    against: str


def explanations(incident: Incident) -> Html:
    """The named fault and its rivals as bars; rivals of older journals as they are written."""
    explained = incident.explained
    if explained is None:
        return joined([incident.text("rivals")])
    rivals = [
        Explanation(rival.code, rival.probability, rival.against) for rival in explained.rivals
        if rival.probability >= LEAST_SHOWN
    ]  # fmt: skip
    return tag("div", *map(_bar, (*_named(incident), *rivals)), class_="shares") if rivals else NOTHING


def seen(incident: Incident) -> Html:
    """What a diagnosis rests on: each signal, what was usual and what was observed, since when, and who says so."""
    explained = incident.explained
    if explained is None:
        return bullets(incident.evidence) if incident.evidence else NOTHING
    if not explained.evidence:
        return NOTHING
    return table(("signal", "usual", "observed", "since step", "what it says"), map(_sign, explained.evidence), "signs")


def would_tell(incident: Incident) -> str:
    """Signals that were not measured and would tell more; empty where a fault is named without doubt."""
    explained = incident.explained
    return listed(explained.would_tell) if explained is not None and explained.would_tell else ""


def _sign(sign: Sign) -> Sequence[str]:
    since = str(sign.since) if sign.since_low >= sign.since else f"{sign.since_low} to {sign.since}"
    return tag("code", sign.signal), _figure(sign.usual), _figure(sign.observed), since, sign.says


def _figure(value: float | None) -> str:
    return "" if value is None else figure(value)


def _named(incident: Incident) -> Iterator[Explanation]:
    newest = incident.newest_with("probability")
    probability = math.nan if newest is None else number_of(newest, "probability")
    if math.isfinite(probability):
        yield Explanation(incident.code, probability, "")


def _bar(explanation: Explanation) -> Html:
    width = round(100 * min(1.0, max(0.0, explanation.probability)))
    return tag(
        "div",
        tag("b", explanation.code),
        tag("span", tag("i", style=f"width:{width}%"), class_="bar"),
        tag("span", as_percent(explanation.probability), class_="percent"),
        tag("span", explanation.against, class_="muted"),
        class_="share",
    )
