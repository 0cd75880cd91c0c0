"""docs/policies.md, as somebody follows it who reads nothing else: its files are written and its commands run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rftfm_ray.cli.app import app
from rftfm_ray.config import load_config
from rftfm_ray.policies.levers import LEVERS
from rftfm_ray.policies.loading import load_policy
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.taxonomy import SIXTEEN
from tests.contracts.policy_sentences import MISTAKES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command of the page and what it prints."""

    arguments: tuple[str, ...]
    output: str


FILES = {name: text for kind, name, text in BLOCK.findall(PAGE) if kind == "python"}
COMMANDS = [
    Command(tuple(shlex.split(line.removeprefix("$ rftfm "))), output)
    for kind, _, text in BLOCK.findall(PAGE)
    if kind == "console"
    for line, _, output in [text.partition("\n")]
]
POLICY_COMMANDS = [command for command in COMMANDS if command.arguments[0] == "policies"]
TRAIN = [command.arguments for command in COMMANDS if command.arguments[0] == "train"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, which is the current one."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_files_and_commands() -> None:
    assert list(FILES) == ["first_policy.py", "what_helped.py"]
    assert len(POLICY_COMMANDS) == 4
    assert len(TRAIN) == 1


@pytest.mark.parametrize("command", POLICY_COMMANDS, ids=lambda command: " ".join(command.arguments))
def test_command_prints_what_the_page_says(folder: Path, command: Command) -> None:
    # A loaded machine may need longer than the limit of a run for a call.
    more = [] if command.arguments[1] == "list" else ["--timeout-s", "30"]
    done = CliRunner().invoke(app, [*command.arguments, *more], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout == command.output


def test_the_run_of_the_page_is_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, file, *rest = TRAIN[0]
    assert rest[1:3] == ["--guard", "act"]
    keys = [argument for argument in rest if "=" in argument and not argument.startswith("-")]
    config = load_config(ROOT / file, [*keys, "guard.mode=act", f"inject=[{rest[rest.index('--inject') + 1]}]"])
    assert load_policy(config.guard.policy).decide.__self__.function.__name__ == "slow_down"  # type: ignore[attr-defined]


def test_names_on_the_page_exist() -> None:
    names = set(re.findall(r"(\w+)=[\d.]+\)", PAGE)) & {"lr_scale", "kl_coef_scale", "regrade_rate"}
    assert names <= {lever.name for lever in LEVERS}
    signals = PAGE.partition("Signals that policies go by most:")[2].partition("[signals.md]")[0]
    assert len(re.findall(r"`(\w+)`", signals)) >= 10
    assert [name for name in re.findall(r"`(\w+)`", signals) if name not in INDEX] == []
    assert [fault.code for fault in SIXTEEN if fault.code not in PAGE] == []


def test_mistakes_on_the_page_are_those_that_the_suite_finds() -> None:
    table = PAGE.partition("## Mistakes")[2]
    quoted = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(quoted) >= 8
    known = " ".join(MISTAKES.values())
    assert [sentence for sentence in quoted if sentence not in known] == []
