"""`rftfm profile`: what healthy runs look like, fitted to some of them, for `guard.profile`."""

from __future__ import annotations

import hashlib
import json as jsonlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rftfm_ray.errors import ProfileError
from rftfm_ray.files import write_atomic
from rftfm_ray.runs.words import clean
from rftfm_ray.signals.schema import INDEX, SIGNALS

if TYPE_CHECKING:
    from rftfm_ray.detection.reference.profile import Facts, Profile, SignalProfile
    from rftfm_ray.runs.healthy import Candidate

# Signals that `fit` names at either end of the list.
SHOWN = 3
# Facts that name the kind of the runs, and characters of the others at most.
SHAPE = ("algorithm.prompts_per_step", "algorithm.samples_per_prompt")
SHOWN_FACTS = ("task.name", "algorithm.name", "model.path", *SHAPE)
LONGEST = 2000

EXPLAINED = (
    "spread: standard deviation among runs at a step; long-run: of their means over many steps, times the root of the "
    "number of steps; memory: autocorrelation from step to step"
)

profile = typer.Typer(help="What healthy runs look like: fit a profile to some, or show one.", no_args_is_help=True)


@profile.command()
def fit(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run directories, names of runs, or CSV or Parquet files of step rows."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    force: Annotated[
        bool, typer.Option("--force", help="Take runs that are in doubt, or of different configurations.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit a profile to healthy runs of one configuration and different seeds, for `guard.profile`."""
    # They load numpy and pyarrow, which no other command has to wait for.
    from rftfm_ray.detection.reference.fitting import fit_profile
    from rftfm_ray.detection.reference.priors import kind_of, shipped
    from rftfm_ray.runs.healthy import read_candidate

    candidates = [read_candidate(run) for run in runs]
    if not force:
        check_healthy(candidates)
    series = [candidate.series for candidate in candidates]
    facts = common_facts(candidates, force=force)
    fitted = fit_profile(series, facts, shipped(kind_of(series)).healthy)
    data = fitted.to_json().encode()
    try:
        write_atomic(out, data)
    except OSError as error:
        raise ProfileError(f"Profile {out} cannot be written ({error.strerror}); give another --out.") from None
    _print(fitted, out, hashlib.sha256(data).hexdigest(), json=json, all_signals=False)
    if facts is None:
        typer.echo(f"rftfm: {_unknown_words(candidates)}", err=True)


@profile.command()
def show(
    file: Annotated[Path, typer.Argument(help="A file that `rftfm profile fit` wrote.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a profile: the runs it was fitted to, and how much each signal varies among them."""
    from rftfm_ray.detection.reference.profile import read_profile

    fitted = read_profile(file)
    _print(fitted, file, hashlib.sha256(file.read_bytes()).hexdigest(), json=json, all_signals=True)


def check_healthy(candidates: list[Candidate]) -> None:
    """Refuse runs that something speaks against.

    Raises:
        ProfileError: names the first such run, and what it is.
    """
    for candidate in candidates:
        if candidate.doubt:
            raise ProfileError(
                f"{clean(candidate.name)} {clean(candidate.doubt)}: it may not be healthy; leave it out, or use "
                "--force."
            )


def common_facts(candidates: list[Candidate], *, force: bool) -> Facts | None:
    """The configuration that the runs share, as far as it moves signals; None unless every run says what it was.

    With `force` runs may differ: a key in which they do has all of their values, and a run with one of them is like
    those runs.

    Raises:
        ProfileError: names two runs that differ, and in what.
    """
    from rftfm_ray.detection.reference.comparison import differences, merged

    known = [(candidate.name, candidate.facts) for candidate in candidates if candidate.facts is not None]
    first, facts = known[0] if known else ("", {})
    for name, other in known[1:]:
        different = differences(facts, other)
        if different and not force:
            key, one, two = (clean(text) for text in (different[0].key, different[0].theirs, different[0].ours))
            raise ProfileError(
                f"{clean(first)} has {key}={one}, and {clean(name)} has {key}={two}; give runs of one configuration, "
                "or use --force."
            )
    if len(known) < len(candidates) or not known:
        # The others may be of any configuration, and are as much of the profile.
        return None
    every = [other for _, other in known]
    keys = [key for key in facts if all(key in other for other in every)]
    return {key: facts[key] if _agree(key, every) else merged(key, (other[key] for other in every)) for key in keys}


def _unknown_words(candidates: list[Candidate]) -> str:
    """Why a profile does not say how its runs were configured, and what follows."""
    first = next(candidate.name for candidate in candidates if candidate.facts is None)
    return (
        f"{clean(first)} does not say how its run was configured, so the profile does not either: a run is compared "
        "with it whatever its configuration. Give run directories to have that checked."
    )


def _agree(key: str, every: Sequence[Facts]) -> bool:
    return all(other[key] == every[0][key] for other in every)


def _print(profile: Profile, path: Path, digest: str, *, json: bool, all_signals: bool) -> None:
    if json:
        print(jsonlib.dumps(summary(profile, path, digest), allow_nan=False))
        return
    lines = [("runs", str(profile.runs)), ("steps", str(profile.steps)), ("signals", str(len(profile.signals)))]
    joint = "unknown" if profile.joint is None else f"how {len(profile.joint.signals)} signals go together"
    lines += [("joint", joint)]
    kind, other_facts = _kind(profile.facts)
    lines += [("kind", kind)] + (
        [("config", f"{other_facts} (keys that are not at their defaults)")] if other_facts else []
    )
    for name, text in (*lines, ("file", clean(str(path))), ("sha256", digest)):
        print(f"{name:<9}{text}")
    print(f"\n{EXPLAINED}")
    print(f"{'signal':<34}{'spread':>10}{'long-run':>10}{'memory':>11}  unit")
    ranked = sorted(profile.signals, key=_width, reverse=True)
    if all_signals or len(ranked) <= 2 * SHOWN:
        print("\n".join(map(_line, ranked)))
    else:
        rest = len(ranked) - 2 * SHOWN
        print("\n".join([*map(_line, ranked[:SHOWN]), f"... {rest} more", *map(_line, ranked[-SHOWN:])]))


def _kind(facts: Facts | None) -> tuple[str, str]:
    """What kind of runs a profile is of, and other facts that differ from the defaults of the configuration."""
    if facts is None:
        return "unknown", ""
    from rftfm_ray.config import RunConfig
    from rftfm_ray.detection.reference.comparison import facts_of

    kind = ", ".join(str(facts.get(key, "mixed")) for key in ("task.name", "algorithm.name", "model.path"))
    shape = " x ".join(str(facts.get(key, "mixed")) for key in SHAPE)
    usual = facts_of(RunConfig())
    others = [f"{key}={value}" for key, value in facts.items() if key not in SHOWN_FACTS and value != usual.get(key)]
    return clean(f"{kind}, {shape} trajectories a step"), clean(", ".join(others), LONGEST)


def summary(profile: Profile, path: Path, digest: str) -> dict[str, Any]:
    """A profile without its courses, as plain values; spreads on the scale that a signal is compared on."""
    return {
        "file": str(path),
        "sha256": digest,
        "runs": profile.runs,
        "steps": profile.steps,
        "joint": profile.joint is not None,
        "facts": profile.facts,
        "signals": {
            signal.name: {
                "spread": signal.spread,
                "long_run_spread": math.sqrt(signal.long_run_variance),
                "autocorrelation": signal.autocorrelation,
                "values": signal.values,
            }
            for signal in profile.signals
        },
    }


def _width(signal: SignalProfile) -> float:
    """Long-run spread in the smallest changes that count: what makes signals of different units comparable."""
    return math.sqrt(signal.long_run_variance) / SIGNALS[INDEX[signal.name]].floor


def _line(signal: SignalProfile) -> str:
    described = SIGNALS[INDEX[signal.name]]
    unit = f"ln {described.unit}" if described.scale == "ratio" else described.unit
    memory = "-" if signal.autocorrelation is None else f"{signal.autocorrelation:.2f}"
    return f"{signal.name:<34}{signal.spread:>10.3g}{math.sqrt(signal.long_run_variance):>10.3g}{memory:>11}  {unit}"
