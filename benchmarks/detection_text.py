"""Shares, delays and rates of a score as text, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Figures: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = Iterator[Sequence[str]]


def percent(share: Figures) -> str:
    """A share with its 95 % interval and the number of its runs; a dash without runs."""
    if share["rate"] is None:
        return "-"
    low, high = (100 * share[limit] for limit in ("low95", "high95"))
    return f"{100 * share['rate']:.1f} % ({low:.1f} to {high:.1f}, n {share['n']:g})"


def delay_text(delay: Figures) -> str:
    """Median and 90 % quantile of a delay, and how many runs have no alarm; a dash without runs."""
    if not delay["n"]:
        return "-"
    median, p90 = ("never" if delay[q] is None else f"{delay[q]:g}" for q in ("median", "p90"))
    return f"{median}; {p90} ({delay['censored']:g} of {delay['n']:g} not found)"


def alarm_text(alarms: Figures) -> str:
    """A rate of false alarms with its one-sided upper limit; a dash without steps."""
    if alarms["rate"] is None:
        return "-"
    return f"{alarms['rate']:.2f} (below {alarms['upper95']:.2f})"


def table(heads: Sequence[str], rows: Rows) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *rows]) + "\n"
