"""Recorded trajectories with their texts, for those who ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rftfm_ray.config import RunConfig, TextPrivacy
from rftfm_ray.report.markup import Html, badge, tag
from rftfm_ray.runs.words import as_number, clean, figure, plural, to_count

MOST = 20
LONGEST = 4000
COLUMNS = ("attempt", "step", "paid_step", "reward", "correct", "valid", "termination", "turns", "text")


def samples_section(run_dir: Path, config: RunConfig | None) -> Html:
    """Up to `MOST` trajectories, spread evenly over the run; or the reason why they are missing.

    Raises:
        RecordError: when a part cannot be read.
    """
    if config is not None and config.records.text is not TextPrivacy.FULL:
        return _section(f"This run kept no texts (records.text={config.records.text}); train with records.text=full.")
    from rftfm_ray.telemetry.recorder import read_trajectories

    trajectories = read_trajectories(run_dir)
    texts = trajectories["text"].to_pylist()
    order = sorted((paid, i) for i, paid in enumerate(trajectories["paid_step"].to_pylist()) if texts[i] is not None)
    count = min(MOST, len(order))
    if not count:
        return _section("No trajectory with a text has been recorded; texts are kept with records.text=full.")
    # From the first to the last, so that a reader sees the beginning, the end and what lies between.
    chosen = [order[round(n * (len(order) - 1) / max(count - 1, 1))][1] for n in range(count)]
    rows = trajectories.select(list(COLUMNS)).take(chosen).to_pylist()
    note = f"{count} of {plural(len(order), 'recorded trajectory', 'recorded trajectories')}, spread over the run."
    return _section(note, *map(_sample, rows))


def _section(note: str, *samples: Html) -> Html:
    return tag("section", tag("h2", "Samples"), tag("p", note, class_="muted"), *samples)


def _sample(row: Mapping[str, Any]) -> Html:
    right = "right" if row["correct"] else "wrong"
    state, tone = (right, "good" if row["correct"] else "bad") if row["valid"] else ("masked", "open")
    about = (
        f"reward {figure(as_number(row['reward']))}, {plural(to_count(as_number(row['turns'])), 'turn')}, "
        f"ended by {clean(str(row['termination']), 40)}"
    )
    head = tag("div", tag("h3", f"step {row['step']} (consumed {row['paid_step']})"), badge(state, tone),
               tag("span", about, class_="muted"), class_="head")  # fmt: skip
    return tag("div", head, tag("pre", _text(str(row["text"]))), class_="card")


def _text(text: str) -> str:
    """A sample with its line breaks, on which nothing else is done than to cut it and to drop control characters."""
    lines = text[:LONGEST].split("\n")
    shown = "\n".join("".join(c if c.isprintable() or c == "\t" else "�" for c in line) for line in lines)
    return shown if len(text) <= LONGEST else shown + "…"
