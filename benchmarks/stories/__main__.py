"""Tells all stories, and writes docs/stories.md.

python -m benchmarks.stories [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import ray

from benchmarks.provenance import PACKAGES
from benchmarks.stories import changes, trainers
from benchmarks.stories.table import ELSEWHERE, SMALL, STORIES, UNTOLD, Story
from benchmarks.stories.telling import SEED, Told, tell
from benchmarks.stories.trainers import story_actors
from rftfm_ray.actors.warm import WarmActors
from rftfm_ray.config import load_config
from rftfm_ray.driver.cluster import connect
from rftfm_ray.files import write_atomic
from rftfm_ray.plugins import ship_by_value

OUT = Path(__file__).parents[2] / "docs" / "stories.md"
COMMAND = "python -m benchmarks.stories"

HEAD = """# Stories

Made by `{command}` ({versions}; {cores} CPU cores, {machine}).

What went wrong in other people's training, as they reported it in public, told in the actors of this trainer: the code
that was wrong there is put into the actor where it was, and no signal is written. Each run has {settings}, and a guard
that only observes, without a profile. The repaired twin differs in that one change.

*affected* is the first step that the change touches, *alarm* the step of the first incident, *named* its first name.
"""


def main() -> None:
    """Tell the stories."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    for module in (trainers, changes):
        ship_by_value(module)
    connect(load_config(None, list(SMALL)))
    try:
        with story_actors(), WarmActors() as warm, tempfile.TemporaryDirectory(prefix="rftfm-stories-") as folder:
            broken = {story: _tell(story, Path(folder), warm, broken=True) for story in STORIES}
            first = {story.twin: story for story in reversed(STORIES)}
            twins = {twin: _tell(story, Path(folder), warm, broken=False) for twin, story in first.items()}
    finally:
        ray.shutdown()
    write_atomic(arguments.out, "\n".join(page(broken, twins)).encode())


def _tell(story: Story, folder: Path, warm: WarmActors, *, broken: bool) -> Told:
    told = tell(story, folder / f"{story.name}-{broken}", warm, broken=broken)
    print(f"{story.name}, {'broken' if broken else 'repaired'}: {_outcome(told)}", flush=True)
    return told


def _outcome(told: Told) -> str:
    if told.error:
        return "refused before the first step" if not told.steps else f"ended after step {told.steps}"
    return "-" if told.step is None else str(told.step)


def page(broken: dict[Story, Told], twins: dict[tuple[str, ...], Told]) -> Iterator[str]:
    """Lines of the page."""
    yield HEAD.format(
        command=COMMAND, versions=", ".join(f"{name} {version(name)}" for name in PACKAGES), cores=os.cpu_count(),
        machine=platform.machine(), settings=f"seed {SEED}, `{' '.join(SMALL)}`",
    )  # fmt: skip
    yield "| thread | what was wrong | affected | alarm | named | what the guard said | repaired twin |"
    yield "|---|---|---|---|---|---|---|"
    for story, told in broken.items():
        said = (told.error or told.says).replace("|", "\\|")
        yield (
            f"| {story.thread} | {story.broken} | {story.first} | {_outcome(told)} | {told.code or '-'} | {said} | "
            f"{_silent(twins[story.twin])} |"
        )
    yield from _others("## Told elsewhere", ELSEWHERE.items())
    yield from _others("## Not told", UNTOLD.items())
    yield ""


def _silent(told: Told) -> str:
    return "silent" if told.step is None and not told.error else f"alarm at {told.step} {told.error}".strip()


def _others(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"\n{title}\n\n| thread | why |\n|---|---|"
    yield from (f"| {thread} | {why} |" for thread, why in rows)


if __name__ == "__main__":
    main()
