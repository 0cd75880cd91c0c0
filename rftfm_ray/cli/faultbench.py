"""`rftfm faultbench`: the benchmark of faults: generate it, verify it, tune and score a detector on it."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rftfm_ray.errors import ConfigError

if TYPE_CHECKING:
    from rftfm_ray.faultbench.reproduce import Reproduced

faultbench = typer.Typer(
    help="The benchmark of faults: generate it, verify it, tune and score a detector on it.", no_args_is_help=True
)
Data = Annotated[Path, typer.Option("--data", help="Folder of the benchmark.", file_okay=False)]
Peers = Annotated[bool, typer.Option("--peers", help="Compare with rlwatch, rlprobe and rldoctor too; minutes more.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that share the work; 0: one for every core, at most 4.")]
HERE = Path("benchmarks/data/faultbench")


@faultbench.command()
def generate(
    size: Annotated[
        str, typer.Option(help="background: clean and dirty, hours; full: without background, hours; smoke: minutes.")
    ] = "smoke",
    data: Data = HERE,
    seed: Annotated[int, typer.Option(min=1, help="Seed that the runs are drawn from.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Runs at a time; 0: one for every core, at most 8.")] = 0,
) -> None:
    """Make the runs that are missing; can be stopped at any moment, and continues where it stopped."""
    from rftfm_ray.faultbench.runs.generate import Job
    from rftfm_ray.faultbench.runs.sizes import SIZES
    from rftfm_ray.faultbench.runs.sweep import generate as make

    if size not in SIZES:
        raise ConfigError(f"Unknown size {size}; choose one of {', '.join(SIZES)}.")
    make(Job(str(data.absolute()), size, seed), workers or min(8, os.cpu_count() or 1), Console())


@faultbench.command()
def verify(
    data: Data = HERE,
    sample: Annotated[int, typer.Option(min=1, help="Number of runs to repeat.")] = 20,
    draw: Annotated[int, typer.Option(min=0, help="Seed that they are drawn with.")] = 0,
) -> None:
    """Repeat recorded runs with a live guard; exit code 1 when a signal, an alarm or an incident differs."""
    from rftfm_ray.faultbench.reproduce import reproduce

    console, different = Console(), 0
    for run in reproduce(data, sample, draw):
        different += not run.is_same
        console.print(_line(run), soft_wrap=True, highlight=False)
    if different:
        raise typer.Exit(1)


def _line(run: Reproduced) -> str:
    rows = f"equal but for rounding ({run.rows.distance:.2g} of what counts)"
    rows = "equal bit for bit" if run.rows.is_exact else rows
    if run.rows.branch is not None:
        rows += f" before step {run.rows.branch}, from which on another token makes it another run"
    parts = [f"differs in {run.rows.where}" if run.rows.where else rows]
    for one in run.alarms:
        raised = f"alarms with {one.mode.label} {_listed(one.recorded)}"
        parts.append(raised if one.recorded == one.live else f"{raised}, but live {_listed(one.live)}")
    recorded, live = (
        _listed([f"{one.step} ({one.code})" for one in incidents])
        for incidents in (run.recorded_incidents, run.live_incidents)
    )
    parts.append(f"incidents {recorded}" if recorded == live else f"incidents {recorded}, but live {live}")
    return f"{run.name}: {'; '.join(parts)}"


def _listed(steps: Sequence[int | str]) -> str:
    return f"at {', '.join(map(str, steps))}" if steps else "none"


@faultbench.command()
def tune(data: Data = HERE, peers: Peers = False) -> None:
    """Set the thresholds of all detectors on the tune split, and freeze them beside the runs."""
    from rftfm_ray.faultbench.scoring.frozen import FROZEN, freeze

    console = Console()
    freeze(data, lambda text: console.print(text, highlight=False), with_peers=peers)
    console.print(f"Thresholds: {data / FROZEN}", soft_wrap=True, highlight=False)


@faultbench.command()
def teach(  # noqa: PLR0913 - the parameters of a command are its options
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For --config.")] = None,
    data: Data = HERE,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Your run: teach its task by forks with injected faults, instead of a benchmark."
        ),
    ] = None,
    forks: Annotated[int, typer.Option(min=1, help="Forks that are made for --config.")] = 40,
    out: Annotated[Path, typer.Option(help="File of the model.", dir_okay=False)] = Path("diagnosis.npz"),
    split: Annotated[
        list[str] | None,
        typer.Option(help="Split of the benchmark that teaches, calibrate by default; may be repeated."),
    ] = None,
    workers: Workers = 0,
) -> None:
    """Teach a model that names faults, for guard.diagnosis: from a benchmark, or on a task of yours."""
    from rftfm_ray.config import load_config
    from rftfm_ray.faultbench.runs.plan import Split
    from rftfm_ray.faultbench.teaching.own import teach_own
    from rftfm_ray.faultbench.teaching.teach import teach as teach_from

    splits = split or [Split.CALIBRATE.value]
    for name in splits:
        if name not in {each.value for each in Split}:
            raise ConfigError(f"Unknown split {name}; choose among {', '.join(each.value for each in Split)}.")
    console, processes = Console(), workers or os.cpu_count() or 1

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    if config is None:
        taught = teach_from(data, out, [Split(name) for name in splits], say, processes)
    else:
        taught = teach_own(load_config(config, overrides or []), out, say, forks, processes)
    say(f"{out} has learnt from {taught.examples} windows of {taught.runs} runs (sha256 {taught.sha256}).")
    say(f"Use it with guard.diagnosis={out}.")


@faultbench.command()
def remediate(  # noqa: PLR0913 - the parameters of a command are its options
    size: Annotated[
        str,
        typer.Option(help="full: hours; healthy: its runs without a fault; mechanisms: each twice; smoke: minutes."),
    ] = "smoke",
    data: Annotated[
        Path, typer.Option("--data", help="Folder of its runs, which go on where they stopped.", file_okay=False)
    ] = Path("remediation"),
    policy: Annotated[
        str | None, typer.Option(help="Yours, judged in place of the playbook, as guard.policy takes it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=1, help="Seed that the runs are drawn from.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Runs at a time; 0: one for every core, at most 8.")] = 0,
    minutes: Annotated[float, typer.Option(min=0, help="No run is begun after so long.")] = float("inf"),
    page: Annotated[
        Path | None, typer.Option(help="Write the page, and its pictures beside it.", dir_okay=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show whether the guard, or a policy of yours, makes runs with a fault better and healthy ones no worse."""
    from rftfm_ray.faultbench.remediation.command import Asked
    from rftfm_ray.faultbench.remediation.command import remediate as measure

    aside = Console(stderr=True)

    def say(text: str) -> None:
        aside.print(text, soft_wrap=True, highlight=False, markup=False)

    asked = Asked(size, data, seed, policy or "", page)
    scored = measure(asked, say, workers or min(8, os.cpu_count() or 1), 60 * minutes)
    if json:
        from rftfm_ray.faultbench.remediation.page import as_json

        sys.stdout.write(as_json(scored) + "\n")
    else:
        from rftfm_ray.faultbench.remediation.show import show

        show(scored, Console())


@faultbench.command()
def score(  # noqa: PLR0913 - the parameters of a command are its options
    data: Data = HERE,
    detector: Annotated[
        str | None, typer.Option(help="Yours, as module:Class or file.py:Class; see examples/custom_detector.py.")
    ] = None,
    peers: Peers = False,
    workers: Workers = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    diagnosis: Annotated[
        bool, typer.Option("--diagnosis", help="Judge how the installed model names faults instead.")
    ] = False,
    split: Annotated[
        str,
        typer.Option(help="With --diagnosis: whose runs are judged, report or tune; tune is for work on the model."),
    ] = "report",
    page: Annotated[
        Path | None, typer.Option(help="With --diagnosis: write the page, and its pictures beside it.", dir_okay=False)
    ] = None,
) -> None:
    """Score the guard, or a detector of yours, on the report split, with the frozen thresholds."""
    if diagnosis:
        if detector is not None or peers:
            raise ConfigError("--diagnosis judges names, and no detector; leave out --detector and --peers.")
        _score_diagnosis(data, split, workers, page, json=json)
        return
    if split != "report" or page is not None:
        raise ConfigError("--split and --page belong to --diagnosis; add it.")
    from rftfm_ray.detection.detectors.custom import load_detectors
    from rftfm_ray.faultbench.scoring.score import ScoreOptions, score_benchmark
    from rftfm_ray.faultbench.scoring.summary import summary_of

    aside = Console(stderr=True)
    options = ScoreOptions(() if detector is None else load_detectors([detector]), with_peers=peers, workers=workers)
    summary = summary_of(score_benchmark(data, lambda text: aside.print(text, highlight=False), options))
    if json:
        sys.stdout.write(jsonlib.dumps(summary, indent=1) + "\n")
        return
    from rftfm_ray.faultbench.scoring.tables import show

    show(summary, Console())


def _score_diagnosis(data: Path, split: str, workers: int, page: Path | None, *, json: bool) -> None:
    from rftfm_ray.faultbench.naming.page import command_of, write_page
    from rftfm_ray.faultbench.naming.score import SPLITS, NamingOptions, score_diagnosis
    from rftfm_ray.faultbench.naming.show import show
    from rftfm_ray.faultbench.naming.summary import naming_summary
    from rftfm_ray.faultbench.runs.plan import Split

    if split not in {each.value for each in SPLITS}:
        raise ConfigError(f"Split {split} cannot be judged; choose one of {', '.join(SPLITS)}.")
    aside = Console(stderr=True)
    options = NamingOptions(Split(split), workers)
    summary = naming_summary(score_diagnosis(data, lambda text: aside.print(text, highlight=False), options))
    if page is not None:
        write_page(page, summary, command_of(split, data, page))
        aside.print(f"Page: {page}", soft_wrap=True, highlight=False)
    if json:
        sys.stdout.write(jsonlib.dumps(summary, indent=1) + "\n")
    else:
        show(summary, Console())
