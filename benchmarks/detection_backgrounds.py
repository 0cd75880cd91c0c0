"""The section of the page on detection about clean and dirty runs, beside the benchmark without background."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.detection_text import Figures, Rows, alarm_text, delay_text, percent, table
from rftfm_ray.faultbench.runs.plan import BACKGROUNDS
from rftfm_ray.faultbench.scoring.backgrounds import LEAST_RUNS, STEP_1
from rftfm_ray.faultbench.scoring.guarding import EVIDENCE
from rftfm_ray.faultbench.scoring.tables import mode_name

NOT_BY_ITSELF = f"fewer than {LEAST_RUNS} runs: read the row of both"


def backgrounds_section(summary: Figures, before: Figures) -> str:
    """What is found in clean and in dirty runs.

    Args:
        summary: of a score with figures by background.
        before: summary of a score of the benchmark without background; empty without.
    """
    made = summary["benchmark"]
    old = f" *Before* is `{before['benchmark']['command']}`, which has no background." if before else ""
    parts = [
        f"""## Clean and dirty

Half of the seeds have the background in all of their runs. The guard is told of it only what the configuration shows:
the number of minibatches and the precision of the served weights. A run is compared with healthy runs of its own
background. Thresholds are the same for both. A cell with fewer than {LEAST_RUNS} runs with an effect is read from both
backgrounds together. Intervals: Clopper and Pearson, over runs.{old}
""",
        _cells(summary, before),
        f"### False alarms, clean and dirty\n\n{_false_alarms(summary, before)}",
        f"### Below the background\n\n{_below(summary)}",
        *_details(summary),
    ]
    if made.get("left_out"):
        parts.append("### Cells without runs\n\n" + "".join(f"- {line}\n" for line in made["left_out"]))
    return "\n".join(parts) + "\n"


def _cells(summary: Figures, before: Figures) -> str:
    """Recall of every cell, without a profile first."""

    def lines() -> Rows:
        for mode, figures in summary["backgrounds"].items():
            by_cell = {(c["evidence"], c["level"], c["background"], c["onset"]): c for c in figures["cells"]}
            for evidence, level, background, onset in by_cell:
                if onset == STEP_1:
                    continue
                cell, first = by_cell[evidence, level, background, onset], by_cell[evidence, level, background, STEP_1]
                yield (
                    mode_name(summary, mode), evidence, level, background, percent(cell["recall"]),
                    percent(cell["recall_from_effect"]), percent(first["recall"]), delay_text(cell["delay"]),
                    _recall_before(before, mode, evidence, level, background),
                    NOT_BY_ITSELF if cell["is_pooled"] else "",
                )  # fmt: skip

    heads = (
        "mode", "evidence", "level", "background", "recall", "from the effect", "faults from step 1", "delay", "before",
        "note",
    )  # fmt: skip
    return table(heads, lines())


def _recall_before(before: Figures, mode: str, evidence: str, level: str, background: str) -> str:
    recall = before.get("modes", {}).get(mode, {}).get("recall", {})
    return percent(recall[level][evidence]) if level in recall and background == BACKGROUNDS[0] else "-"


def _false_alarms(summary: Figures, before: Figures) -> str:
    def lines() -> Rows:
        for mode, figures in summary["backgrounds"].items():
            earlier = before.get("modes", {}).get(mode, {}).get("false_alarms_per_1000", {})
            for row in figures["false_alarms_per_1000"]:
                is_clean, kind = row["background"] == BACKGROUNDS[0], row["runs"]
                yield (
                    mode_name(summary, mode), row["evidence"], kind, row["background"], alarm_text(row),
                    f"{row['steps']:,.0f}",
                    alarm_text(earlier[kind][row["evidence"]]) if is_clean and kind in earlier else "-",
                )  # fmt: skip

    heads = ("mode", "evidence", "runs", "background", "false alarms in 1,000 steps", "steps", "before")
    orders = (
        f"{mode_name(summary, mode)}: " + ", ".join(f"{count} {name}" for name, count in figures["orders"].items())
        for mode, figures in summary["backgrounds"].items()
    )
    return table(heads, lines()) + f"\nRuns without a fault in which the guard gives an order: {'; '.join(orders)}.\n"


def _below(summary: Figures) -> str:
    """Faults that healthy runs with the same background hide at every strength."""

    def lines() -> Rows:
        for mode, figures in summary["backgrounds"].items():
            for row in figures["below"]:
                yield (
                    mode_name(summary, mode), row["evidence"], row["level"], row["background"], percent(row["recall"]),
                    percent(row["recall_from_effect"]), delay_text(row["delay"]),
                )  # fmt: skip

    found = list(lines())
    if not found:
        return "No fault that was run lies below the background.\n"
    heads = ("mode", "evidence", "level", "background", "recall", "from the effect", "delay")
    why = "Healthy runs with the same background hide these faults at every strength; no other figure counts them.\n\n"
    return why + table(heads, iter(found))


def _details(summary: Figures) -> Iterator[str]:
    """Recall by fault and by mechanism, clean beside dirty, without a profile and with a full one."""
    for mode in ("none", "profile"):
        for group, title in (("fault", "Faults"), ("mechanism", "Mechanisms")):
            rows = [row for row in summary["backgrounds"][mode]["by_fault"] if row["by"] == group]
            if rows:
                yield f"### {title}, clean and dirty, {mode_name(summary, mode)}\n\n{_detail_table(rows, group)}"


def _detail_table(rows: Sequence[Figures], group: str) -> str:
    by_key = {(row["name"], row["level"], row["background"], row["evidence"]): row for row in rows}
    columns = [(background, evidence) for background in BACKGROUNDS for evidence in EVIDENCE]

    def lines() -> Rows:
        for name, level in sorted({key[:2] for key in by_key}):
            cells = (by_key.get((name, level, *column)) for column in columns)
            yield (name, level, *("-" if row is None else percent(row["recall"]) for row in cells))

    return table((group, "level", *(f"{background}, {evidence}" for background, evidence in columns)), lines())
