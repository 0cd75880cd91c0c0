"""The page on diagnosis, from the summary of an evaluation alone: every result in it is computed. Writes files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from rftfm_ray.detection.reference.mixture import FULL_RUNS
from rftfm_ray.faultbench.naming.figures import BINS, DRAWS
from rftfm_ray.faultbench.naming.leaving import TREES
from rftfm_ray.faultbench.naming.markdown import (
    HEADLINE,
    Figures,
    Line,
    baseline_lines,
    calibration_lines,
    called,
    fault_lines,
    headline_lines,
    left_lines,
    mode_name,
    pair_lines,
    percent,
    place_lines,
    table,
)
from rftfm_ray.faultbench.naming.pictures import confusion_svg
from rftfm_ray.faultbench.provenance import source_digest
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope
from rftfm_ray.files import write_atomic

PACKAGES = ("rftfm_ray", "numpy", "scikit-learn")
"""Packages whose versions the page names."""

_HEAD = """# Diagnosis

`{command}` makes this page: how often the installed model names the fault of a recorded run, where it places it, and
how far its probabilities can be trusted.

- **Runs.** {runs} runs of the {split} split of the benchmark with manifest `{manifest}`, which teach the model nothing.
  Each is followed step by step by the shipped detectors, with each kind of reference.
- **Name.** A fault is named when a name has a calibrated probability of {sure:.0%} or more, and at the latest
  {patience} steps after its alarm; below {least:.0%} it then stays UNKNOWN.
- **Score.** F1 of a fault is 2 tp / (2 tp + fp + fn) over all runs with one fault that had its effect in time; no alarm
  and UNKNOWN are wrong. Macro-F1 is the mean over faults. Intervals (95 %) are a bootstrap of {draws} draws over seeds;
  beside them stands the number of runs.
- **Evidence.** *Telemetry* is what any trainer logs. *Telemetry and laws* adds relations between logged figures, and
  floors. *All* adds identities and independent channels. What is left out raises no alarm, and is not read either.
- **Place** is told where it is the one that the mechanism acts in.
- Model `{model}`; sources `{sources}`; {versions}.
"""


def write_page(path: Path, summary: Figures, command: str) -> None:
    """Write the page, and its pictures into a folder of its name beside it.

    Args:
        path: of the page.
        summary: as `naming_summary` gives it.
        command: that makes it.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for mode, confusion in summary["confusion"].items():
        svg = confusion_svg(confusion, f"{mode_name(mode)}: faults (rows) and their names")
        write_atomic(folder / f"confusion-{mode}.svg", svg.encode())
    write_atomic(path, page(summary, command, folder.name).encode())


def command_of(split: str, data: Path, path: Path) -> str:
    """The command that makes a page."""
    words = ["rftfm", "faultbench", "score", "--diagnosis", "--split", split, "--data", str(data), "--page", str(path)]
    return shlex.join(words)


def page(summary: Figures, command: str, folder: str) -> str:
    """The text of the page.

    Args:
        summary: as `naming_summary` gives it.
        command: that makes it.
        folder: of the pictures, relative to the page.
    """
    rule = summary["rule"]
    head = _HEAD.format(
        command=command, runs=summary["runs"], split=summary["split"], manifest=summary["manifest_sha256"][:12],
        sure=rule["sure"], least=rule["least"], patience=rule["patience_steps"], draws=DRAWS,
        model=summary["model_sha256"][:12], sources=source_digest(),
        versions=", ".join(f"{name} {version(name)}" for name in PACKAGES),
    )  # fmt: skip
    return "\n".join((head, *_sections(summary, folder)))


def _sections(summary: Figures, folder: str) -> Iterator[str]:
    modes = {mode_name(mode): block for mode, block in summary["by_mode"].items()}
    yield "## Names\n\nOn the clean background.\n"
    yield table(HEADLINE, headline_lines(modes))
    if len(summary["by_background"]) > 1:
        yield f"By background, with a profile of {FULL_RUNS} runs or more.\n"
        yield table(("background", *HEADLINE[1:]), headline_lines(summary["by_background"]))
    yield "## Trust\n"
    yield (
        f"ECE is the expected calibration error over {BINS} bins of the probability that was stated with the name. "
        "Beside it stand the mean, and the value exceeded once in twenty times, of a perfectly calibrated classifier "
        "with the same probabilities. Steps are from the alarm to the final name. A control looks like a fault and is "
        "none.\n"
    )
    heads = (
        "reference", "evidence", "ECE", "of a perfect one: mean, 95 %", "names", "steps: median; 90 %",
        "controls named as a fault", "healthy runs named as a fault",
    )  # fmt: skip
    yield table(heads, calibration_lines(modes))
    yield from _by_fault(summary, folder)
    yield "## Wrong places\n"
    if summary["unmeasured"]:
        names = ", ".join(f"`{name}`" for name in summary["unmeasured"])
        yield f"Diagnoses read these signals, and no run of this benchmark holds them: {names}.\n"
    yield f"With a profile of {FULL_RUNS} runs or more and all evidence, on the clean background.\n"
    wrong_places = summary["wrong_places"][EvidenceScope.ALL.value]
    yield table(("mechanism", "acts in", "told", "runs"), place_lines(wrong_places))
    yield "## Two faults\n"
    yield (
        "Runs with two faults, at the end of the patience with the alarm under both of them. The exact set is that of "
        f"the faults with a share of {summary['rule']['least']:.0%} or more.\n"
    )
    yield table(("reference", "evidence", "runs", "both are the first two names", "exact set"), pair_lines(modes))
    yield from _others(summary)
    yield from _wrong(summary)


def _by_fault(summary: Figures, folder: str) -> Iterator[str]:
    yield "## By fault\n\nWith all evidence, all levels together, on the clean background; pictures have both.\n"
    for mode, block in summary["by_mode"].items():
        yield f"### {mode_name(mode)[0].upper()}{mode_name(mode)[1:]}\n"
        yield f"![Faults and their names with {mode_name(mode)}]({folder}/confusion-{mode}.svg)\n"
        heads = ("fault", "runs", "right", "F1", "in place", "taken for")
        yield table(heads, fault_lines(block["by_fault"][EvidenceScope.ALL.value]))
        family = (
            (level, percent(by_scope[EvidenceScope.ALL.value])) for level, by_scope in block["ca_family_f1"].items()
        )
        yield f"Mean F1 of the CA family: {', '.join(f'{level} {value}' for level, value in family)}.\n"


def _others(summary: Figures) -> Iterator[str]:
    if summary["leave_one_out"]:
        yield "## What was never taught\n"
        yield (
            f"The model is taught again without a part, with {TREES} trees, and judged on the runs of that part: with "
            "a full profile and all evidence, over the runs with an alarm. For a mechanism UNKNOWN counts as right.\n"
        )
        heads = (
            "left out", "part", "alarmed", "no alarm", "right", "unknown", "right family", "sure and wrong",
            "macro-F1", "taken for",
        )  # fmt: skip
        yield table(heads, left_lines(summary["leave_one_out"]))
    if summary["baselines"]:
        yield "## Other ways to name faults\n"
        yield (
            "Learnt from the same windows and asked about the same runs, with a full profile and all evidence on the "
            "clean background. They never abstain. Configuration alone knows task, algorithm and model size.\n"
        )
        yield table(("name", "level", "macro-F1 (95 %, n)", "right"), baseline_lines(summary))


def _wrong(summary: Figures) -> Iterator[str]:
    yield "## Every wrong name and every miss\n\nWith all evidence; the reason is computed from the run.\n"
    heads = ("run", "background", "mechanism", "named", "probability", "reason")
    for mode in summary["by_mode"]:
        rows: Sequence[Mapping[str, str]] = [row for row in summary["wrong"] if row["mode"] == mode]
        yield f"### {mode_name(mode)[0].upper()}{mode_name(mode)[1:]}: {len(rows)}\n"
        if rows:
            yield table(heads, map(_wrong_line, rows))


def _wrong_line(row: Figures) -> Line:
    probability = "-" if row["probability"] is None else f"{row['probability']:.0%}"
    mechanism = f"{row['fault']} `{row['mechanism']}`"
    return row["run"], row["background"], mechanism, called(row["named"]), probability, row["reason"]
