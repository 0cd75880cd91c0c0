"""The page of the remediation benchmark."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from io import StringIO
from pathlib import Path

from rftfm_ray.drills.outcome import GIVEN_BACK, HARMED, NEAR
from rftfm_ray.faultbench.naming.markdown import table
from rftfm_ray.faultbench.remediation.figures import LARGEST_FALL, MODES, Figures, Scored, figures_of
from rftfm_ray.faultbench.remediation.margins import LESS, WINDOW, PairResult
from rftfm_ray.faultbench.remediation.pairs import BASELINES, FORKS, GUARDS, NOT_MENDABLE, PROBLEMS, STEPS, Cell, Role
from rftfm_ray.faultbench.remediation.pictures import baselines_svg, forks_svg
from rftfm_ray.faultbench.remediation.targets import targets_of
from rftfm_ray.faultbench.runs.generate import PACKAGES
from rftfm_ray.files import write_atomic
from rftfm_ray.taxonomy import family_of

MOST_ROWS = 250
"""Guarded runs that the page lists; more are in the file beside it alone."""
LABELS = {"none": "no profile", "profile": "profile"}
_HEAD = """# The remediation benchmark

Made by `{command}` on {cpus} CPU cores ({machine}), Python {python}, {versions}.
Sources of the runs: {codes}. {runs} runs of {steps} consumed steps.

Every comparison is between runs of one healthy run: up to the onset they are the same, bit for bit. *Clean* is the mean
of {forks} forks without a fault, with sampling seeds of their own; *alone* has the fault and no guard; *guarded* has
both, in `guard.mode=act` with every family permitted and the shipped playbook. Accuracy is greedy on {problems}
held-out problems at the end. A pair is **harmful** where alone ends at least {harmed:g} below clean; only such pairs
count for what is **recovered**: the guarded run ends within {near:g} of clean, or has got back {given_back:.0%} of the
loss. **Worse** is {near:g} below alone. **Contained**: no more than {near:g} below a policy that stands still from the
alarm on. **Severity** is the log-mean-exp of the evidence that the outcome signals (held-out accuracy greedy and
sampled, KL, entropy, length) of the last {window} steps differ from the clean runs'; it is lowered where it is more
than {less:g} nat below alone's. Intervals are a bootstrap over healthy runs. A run that ended by itself is never
recovered, and alone it counts as having lost everything.

Nothing in these runs can mend {not_mendable}, nor TE-1 at strength 1 in all replicas of the tool; they count for what
is contained.
"""


def write_page(path: Path, scored: Scored, command: str) -> None:
    """Write the page, and its pictures into a folder beside it.

    Args:
        path: of the page.
        scored: the judged runs.
        command: that makes it.
    """
    figures, folder = figures_of(scored), path.parent / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    examples = _examples(scored.results)
    for result in examples:
        name = f"forks-{family_of(result.pair.first.code).value}.svg"
        write_atomic(folder / name, forks_svg(result, scored.ended).encode())
    if figures["baselines"]:
        picture = baselines_svg(figures["baselines"], (*GUARDS, *BASELINES))
        write_atomic(folder / "baselines.svg", picture.encode())
    write_atomic(path.with_suffix(".csv"), _csv(scored.results).encode())
    write_atomic(path, page(scored, figures, command, path.stem, examples).encode())


def page(scored: Scored, figures: Figures, command: str, folder: str, examples: Sequence[PairResult]) -> str:
    """The text of the page."""
    head = _HEAD.format(
        command=command, cpus=os.cpu_count(), machine=platform.machine(), python=platform.python_version(),
        versions=", ".join(f"{name} {version(name)}" for name in PACKAGES), runs=len(scored.ended), steps=STEPS,
        codes=", ".join(sorted({record.code for record in scored.ended.values()})) or "none", forks=FORKS,
        problems=PROBLEMS, harmed=HARMED, near=NEAR, given_back=GIVEN_BACK, window=WINDOW, less=LESS,
        not_mendable=" and ".join(f"{code} {name}" for code, name in NOT_MENDABLE),
    )  # fmt: skip
    return "\n".join((head, *_sections(figures, folder, scored.results, examples)))


def _sections(
    figures: Figures, folder: str, results: Sequence[PairResult], examples: Sequence[PairResult]
) -> Iterator[str]:
    yield "## Targets\n"
    lines = ((t.name, t.target, t.figure, _verdict(t.reached)) for t in targets_of(figures))
    yield table(("", "target", "reached", ""), lines)
    yield f"Pairs: {', '.join(f'{name} {count}' for name, count in figures['pairs'].items())}.\n"
    yield "## Recovered\n"
    yield table(("", "recovered, of harmful pairs"), ((name, share(row)) for name, row in figures["recovered"].items()))
    backgrounds = (
        (LABELS[mode], background, share(row))
        for mode, rows in figures["by_background"].items()
        for background, row in rows.items()
    )
    yield table(("harm level", "background", "recovered"), backgrounds)
    yield "## Against other policies\n"
    yield "On the same pairs of the harm level, without a profile but for the row that names one.\n"
    if figures["baselines"]:
        yield f"![Recovered by policy]({folder}/baselines.svg)\n"
    yield table(("policy", "recovered", "worse than alone", "severity lowered"), _policy_lines(figures["baselines"]))
    yield "## One incident of each family\n"
    for result in examples:
        family = family_of(result.pair.first.code).value
        yield f"![{result.pair.first.code}: {result.ending.value}]({folder}/forks-{family}.svg)\n"
    yield "## By mechanism\n\nRecovered of the harmful pairs of the harm level; *told* is the playbook that knows.\n"
    yield table(("fault", "acts in", "no profile", "profile", "told", "mendable"), _mechanism_lines(figures))
    yield "## Healthy runs\n"
    yield _healthy(figures["null"])
    yield "## As the paper measures it\n"
    yield _from_step_1(figures["from_step_1"])
    yield "## Not recovered\n"
    yield table(("pair", "", "clean", "alone", "guarded", "why"), _miss_lines(figures["misses"]))
    yield f"## All guarded runs\n\nEvery one is a row of [{folder}.csv]({folder}.csv).\n"
    if len(results) <= MOST_ROWS:
        heads = ("fault", "run", "", "found", "named", "remedies", "clean, alone, guarded", "result")
        yield table(heads, map(_result_line, results))


def share(row: Figures) -> str:
    """A share with its interval and number; a dash where there is nothing to count."""
    if row["rate"] is None:
        return "-"
    return f"{row['rate']:.0%} ({row['low95']:.0%} to {row['high95']:.0%}, n = {row['n']})"


def _verdict(reached: bool | None) -> str:
    return "not measured" if reached is None else "reached" if reached else "missed"


def _policy_lines(baselines: Figures) -> Iterator[Sequence[str]]:
    for role in (*GUARDS, *BASELINES):
        if role in baselines:
            row = baselines[role]
            yield role.value, share(row["recovered"]), share(row["worse"]), share(row["severity_lowered"])


def _mechanism_lines(figures: Figures) -> Iterator[Sequence[str]]:
    for name, row in figures["by_mechanism"].items():
        yield (
            name, row["place"], *(share(row[mode]) for mode in MODES.values()), share(row["told"]),
            "yes" if row["mendable"] else "no",
        )  # fmt: skip


def _healthy(null: Figures) -> str:
    text = (
        f"{null['runs']} guarded runs without a fault, of many configurations: incidents in {null['incidents']}, "
        f"{null['remedies']} remedies, {null['rollbacks']} rollbacks, {null['freezes']} freezes, {null['halts']} "
        f"halts, {null['errors']} ended by themselves, {null['harmed']} harmed. Without a remedy such a run trains on "
        f"the same as one without a guard: {null['checked'] - null['differ']} of {null['checked']} that were made "
        f"beside one have the same outcome signals at every step. Where there was a remedy, the run is compared with "
        f"the mean of {FORKS} clean runs; {null['not_healthy']} of these configurations do not learn by themselves (a "
        f"fall of more than {LARGEST_FALL:g}, or an end below the start) and are not counted.\n"
    )
    lines = (
        (one["run"], "yes" if one["healthy"] else "no", ", ".join(one["incidents"]), ", ".join(one["remedies"]) or "-")
        for one in null["touched"]
    )
    heads = ("run", "healthy by itself", "incidents", "remedies")
    return text + ("\n" + table(heads, lines) if null["touched"] else "")


def _from_step_1(row: Figures) -> str:
    return (
        f"{row['pairs']} pairs with the fault from step 1 on, at the level of harm: other data than the paper's 80 "
        "interventions, 37 of which lowered the severity (46 %). Severity of the ten steps before the first remedy, "
        f"and of the last ten. Lowered: {share(row['lowered'])}; over the same steps without a guard: "
        f"{share(row['lowered_alone'])}, because doing nothing lowers it too. Recovered: {share(row['recovered'])}.\n"
    )


def _miss_lines(misses: Iterable[Figures]) -> Iterator[Sequence[str]]:
    for miss in misses:
        accuracies = (miss["clean"], miss["alone"], miss["guarded"])
        cells = ("-" if accuracy is None else f"{accuracy:.3f}" for accuracy in accuracies)
        yield f"`{miss['pair']}`", LABELS[miss["mode"]], *cells, miss["reason"]


def _result_line(result: PairResult) -> Sequence[str]:
    run, trunk = result.run, result.pair.trunk
    found = "no" if run.alarm is None else f"+{run.alarm - result.pair.first.onset}"
    place = "" if run.is_placed or not run.is_named else ", other place"
    remedies = (f"{one.remedy} ({one.step}: {one.outcome or 'not verified'})" for one in run.given)
    accuracies = (result.clean, result.alone.accuracy, run.accuracy)
    return (
        "+".join(f"{fault.code} {fault.mechanism} {fault.strength:g}" for fault in result.pair.faults),
        f"{trunk.task}, {trunk.algorithm}, {trunk.seed}", LABELS[MODES[result.role]], found,
        f"{run.named or '-'}{place}", ", ".join(remedies) or "none",
        ", ".join("-" if accuracy is None else f"{accuracy:.3f}" for accuracy in accuracies),
        f"{result.ending.value}: {run.error}" if run.error else result.ending.value,
    )  # fmt: skip


def _csv(results: Sequence[PairResult]) -> str:
    """A row for every guarded run."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("cell", "pair", "background", "level", "mode", "clean", "alone", "guarded", "harmful", "ending", "contained",
         "severity_lowered", "alarm", "named", "placed", "remedies", "steps_lost", "steps_to_remedy", "error")
    )  # fmt: skip
    for result in results:
        run = result.run
        remedies = ";".join(f"{one.step}:{one.remedy}:{one.outcome}" for one in run.given)
        writer.writerow(
            (result.cell, result.pair.name, result.pair.trunk.background, result.pair.level, MODES[result.role],
             f"{result.clean:.4f}", result.alone.accuracy, run.accuracy, result.is_harmful, result.ending,
             result.contained, result.lowered, run.alarm, run.named, run.is_placed, remedies, run.lost,
             run.to_remedy, run.error)
        )  # fmt: skip
    return text.getvalue()


def _examples(results: Sequence[PairResult]) -> list[PairResult]:
    """The first recovered pair of each family at the level of harm, or its first where none is."""
    chosen: dict[str, PairResult] = {}
    harm = [r for r in results if r.cell is Cell.HARM and r.role is Role.GUARDED]
    for result in sorted(harm, key=lambda r: not r.is_recovered):
        chosen.setdefault(family_of(result.pair.first.code).value, result)
    return [chosen[name] for name in sorted(chosen)]


def as_json(scored: Scored) -> str:
    """All figures as one JSON object."""
    return json.dumps(figures_of(scored), indent=1)
