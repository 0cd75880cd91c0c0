"""Code of the user's: found by name, shipped by value, and one sentence for what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rftfm_ray.errors import FaultError, PolicyError
from rftfm_ray.plugins import load_attribute, ship_by_value
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.loading import load_policy
from rftfm_ray.types import Levers, Settings, StepId
from rftfm_ray.verdicts import Decision, Diagnosis, Family

ROOT = Path(__file__).parents[3]
KEY = "guard.policy"
SOURCE = """
from rftfm_ray import Decision

answer = 42

class Waiting:
    def decide(self, ctx):
        return Decision(None, f"waiting at {ctx.step.step}")
"""
CONTEXT = PolicyContext(
    StepId(0, 7, 7),
    Diagnosis("TE-1", Family.TE, 0.9, (), (), 5, 4, "tools fail"),
    tried=(),
    levers=Levers(),
    nominal=Settings(1e-3, 0.02, 0.2, 0.2, 0.0, 1.0, 1, None, False, 1.0, 0.95, 1e-3, False),
    snapshots=(5,),
    budget_left=4,
    reports=(),
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with something to find."""
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def refused(name: str) -> str:
    """The one sentence that refuses to look up `name`."""
    with pytest.raises(PolicyError) as caught:
        load_attribute(KEY, name, PolicyError)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(KEY)
    assert message.endswith(".")
    assert ". " not in message
    return message


def test_attribute_of_a_file_is_found_with_its_name_and_module(source: Path) -> None:
    found, attribute, module = load_attribute(KEY, f"{source}:answer", PolicyError)
    assert (found, attribute, module.answer, module.__file__) == (42, "answer", 42, str(source))
    assert sys.modules[module.__name__] is module


def test_attribute_of_a_module_is_found(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.rename(source.with_name("my_importable_policy.py"))
    monkeypatch.syspath_prepend(source.parent)
    found, _, module = load_attribute(KEY, "my_importable_policy:answer", PolicyError)
    assert (found, module.__name__) == (42, "my_importable_policy")


def test_relative_file_and_home_are_resolved(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    monkeypatch.setenv("HOME", str(source.parent))
    for name in ("mine.py:answer", "./mine.py:answer", "~/mine.py:answer"):
        assert load_attribute(KEY, name, PolicyError)[0] == 42


def test_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    modules = []
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"answer = {value}\n")
        found, _, module = load_attribute(KEY, f"{tmp_path / folder / 'mine.py'}:answer", PolicyError)
        assert found == value
        modules.append(module)
    assert modules[0].__name__ != modules[1].__name__
    assert modules[0].answer == 1


@pytest.mark.parametrize("name", ["", ":", "mine", "mine.py", ":answer", "mine.py:"])
def test_name_of_another_form_is_refused_with_the_form(name: str) -> None:
    assert f"{KEY}={name} is not of the form module:Name or file.py:Name" in refused(name)


def test_missing_file_module_and_attribute_are_refused_by_name(source: Path, tmp_path: Path) -> None:
    assert f"file {tmp_path / 'absent.py'} does not exist" in refused(f"{tmp_path / 'absent.py'}:answer")
    assert f"file {tmp_path / 'folder.py'} does not exist" in refused(f"{tmp_path / 'folder.py'}:answer")
    assert "no_such_module_anywhere does not import (ModuleNotFoundError" in refused("no_such_module_anywhere:x")
    assert f"{source} defines no Absent" in refused(f"{source}:Absent")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def (:", "SyntaxError"),
        ("import absent_one", "absent_one"),
    ],
)
def test_what_does_not_import_is_refused_with_the_cause_and_leaves_no_module(
    tmp_path: Path, content: str, cause: str
) -> None:
    path, before = tmp_path / "broken.py", set(sys.modules)
    path.write_text(content, encoding="utf-8")
    message = refused(f"{path}:answer")
    assert f"{path} does not import" in message
    assert cause in message
    assert {name for name in set(sys.modules) - before if "broken" in name} == set()


def test_interrupt_while_importing_is_no_mistake_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        load_attribute(KEY, f"{path}:answer", PolicyError)


def test_error_is_of_the_callers_kind_and_names_its_key(tmp_path: Path) -> None:
    for name in ("", f"{tmp_path / 'absent.py'}:x", "no_such_module_anywhere:x"):
        with pytest.raises(FaultError, match=r"^some\.key"):
            load_attribute("some.key", name, FaultError)


def test_what_is_shipped_by_value_does_not_need_its_module(source: Path) -> None:
    from ray import cloudpickle

    found, _, module = load_attribute(KEY, f"{source}:Waiting", PolicyError)
    ship_by_value(module)
    data = cloudpickle.dumps(found())
    del sys.modules[module.__name__]
    source.unlink()
    assert cloudpickle.loads(data).decide(CONTEXT) == Decision(None, "waiting at 7")


def test_policy_of_the_examples_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    decision = load_policy("examples/custom_policy.py:SlowDown").decide(CONTEXT)
    assert decision.remedy is not None
    assert decision.remedy.levers == Levers(lr_scale=0.5)
