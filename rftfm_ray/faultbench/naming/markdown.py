"""Figures of names as cells and tables, for the page and the terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.naming.named import NO_ALARM
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope

Figures: TypeAlias = Mapping[str, Any]
Line: TypeAlias = Sequence[str]
SCOPES: Mapping[str, str] = {
    EvidenceScope.TELEMETRY.value: "telemetry",
    EvidenceScope.LAWS.value: "telemetry and laws",
    EvidenceScope.ALL.value: "all",
}
"""What each scope of evidence is called in tables."""
HEADLINE = (
    "reference", "level", "evidence", "macro-F1 of 16 faults (95 %, n)", "of families", "place told", "no alarm",
    "unknown",
)  # fmt: skip


def table(heads: Line, lines: Iterable[Line]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *lines]) + "\n"


def percent(value: float | None) -> str:
    """A share; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def share(figures: Figures) -> str:
    """A share with its interval and the number of its runs."""
    if figures["rate"] is None:
        return "-"
    return f"{percent(figures['rate'])} ({100 * figures['low95']:.1f} to {100 * figures['high95']:.1f})"


def estimate(block: Figures, name: str, level: str, scope: str) -> str:
    """An F1 with its interval and the number of its runs."""
    value, limits = block[name][level][scope], block[f"{name}_95"][level][scope]
    if value is None:
        return "-"
    return f"{percent(value)} ({100 * limits['low95']:.1f} to {100 * limits['high95']:.1f}, {limits['n']})"


def mode_name(mode: str) -> str:
    """What a mode of the reference is called."""
    return ReferenceMode(mode).label


def headline_lines(blocks: Mapping[str, Figures]) -> Iterator[Line]:
    """The lines of `HEADLINE` for some blocks of figures by their name."""
    for name, block in blocks.items():
        for level, by_scope in block["macro_f1"].items():
            for scope in by_scope:
                yield (
                    name, level, SCOPES[scope], estimate(block, "macro_f1", level, scope),
                    estimate(block, "family_macro_f1", level, scope), share(block["place"][level][scope]),
                    share(block["not_alarmed"][level][scope]), share(block["abstained"][level][scope]),
                )  # fmt: skip


def calibration_lines(blocks: Mapping[str, Figures]) -> Iterator[Line]:
    """Calibration, steps to the name, and false names, by block and scope."""
    for name, block in blocks.items():
        for scope, label in SCOPES.items():
            error, steps = block["ece"][scope], block["steps_to_name"][scope]
            yield (
                name, label, _number(error["error"]), f"{_number(error['perfect'])}, {_number(error['perfect95'])}",
                str(error["n"]), f"{_number(steps['median'])}; {_number(steps['p90'])}",
                _false(block["benign_as_fault"][scope]), _false(block["healthy_as_fault"][scope]),
            )  # fmt: skip


def pair_lines(blocks: Mapping[str, Figures]) -> Iterator[Line]:
    """Runs with two faults, by block and scope."""
    for name, block in blocks.items():
        for scope, label in SCOPES.items():
            pair = block["two_faults"][scope]
            yield name, label, str(pair["exact"]["n"]), share(pair["both_first"]), share(pair["exact"])


def fault_lines(rows: Sequence[Figures]) -> Iterator[Line]:
    """One line for each fault."""
    for row in rows:
        yield (
            row["fault"], str(row["n"]), str(row["right"]), percent(row["f1"]), str(row["in_place"]),
            taken(row["taken_for"]),
        )  # fmt: skip


def place_lines(rows: Sequence[Figures]) -> Iterator[Line]:
    """One line for each mechanism that was placed elsewhere."""
    for row in rows:
        yield f"{row['fault']} `{row['mechanism']}`", row["acts_in"], row["told"] or "-", str(row["n"])


def taken(counts: Mapping[str, int]) -> str:
    """What faults were taken for, and how often; the most frequent first."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{called(name)} {count}" for name, count in ordered) or "-"


def called(name: str) -> str:
    """A name, or that there was no alarm."""
    return "no alarm" if name == NO_ALARM else name


def left_lines(kinds: Figures) -> Iterator[Line]:
    """One line for each kind of part, all of its parts together, and one for each part."""
    for kind, figures in kinds.items():
        yield _left_line(kind, "all", figures["all"])
        yield from (_left_line(kind, name, row) for name, row in figures["parts"].items())


def _left_line(kind: str, name: str, row: Figures) -> Line:
    right = share(row["right"] if "right" in row else row["right_or_unknown"])
    return (
        kind, name, str(row["n"]), str(row["not_alarmed"]), right, share(row["unknown"]), share(row["right_family"]),
        share(row["sure_and_wrong"]), percent(row.get("macro_f1")), taken(row["taken_for"]),
    )  # fmt: skip


def baseline_lines(summary: Figures) -> Iterator[Line]:
    """The model, and each baseline, by level."""
    scope = EvidenceScope.ALL.value
    for level in summary["macro_f1"]:
        yield "this model", level, estimate(summary, "macro_f1", level, scope), share(summary["right"][level][scope])
    for name, figures in summary["baselines"].items():
        for level, value in figures["macro_f1"].items():
            limits = figures["macro_f1_95"][level]
            interval = f"({100 * limits['low95']:.1f} to {100 * limits['high95']:.1f}, {limits['n']})"
            yield name.replace("_", " "), level, f"{percent(value)} {interval}", share(figures["right"][level])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _false(row: Figures) -> str:
    return f"{row['count']} of {row['n']}" + (f" ({taken(row['named'])})" if row["count"] else "")
