"""Finding a policy by name: what may be named, and the one sentence for each thing that cannot be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from ray import cloudpickle

from rftfm_ray.errors import PolicyError
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.loading import BUILT_IN, FunctionPolicy, load_policy
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.verdicts import Decision

SOURCE = """
from rftfm_ray import Decision

class Mine:
    def decide(self, ctx):
        return Decision(None, "mine")

class Ready:
    def __init__(self, why):
        self.why = why

    def decide(self, ctx):
        return Decision(None, self.why)

def function(ctx):
    return Decision(None, "a function")

def spare(ctx, more=1, *rest, **named):
    return Decision(None, "with a default")

class Static:
    @staticmethod
    def decide(ctx):
        return Decision(None, "static")

ready = Ready("an object")
"""

WRONG = """
class Silent:
    pass

class Named:
    decide = "never"

class Wanting:
    def __init__(self, rate):
        pass

    def decide(self, ctx):
        pass

class Failing:
    def __init__(self):
        raise OSError("no such disk")

    def decide(self, ctx):
        pass

class Leaving:
    def __init__(self):
        raise SystemExit(3)

    def decide(self, ctx):
        pass

class Deaf:
    def decide(self):
        pass

class Greedy:
    def decide(self, ctx, more):
        pass

class Strict:
    def decide(self, ctx, *, more):
        pass

def nothing():
    pass

def two(ctx, more):
    pass

number = 3
silent = Silent()
deaf = Deaf()
"""

# The context is handed on as it is: any object will do here.
CONTEXT = cast(PolicyContext, object())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of policies that modules may be imported from; what was imported is forgotten again."""
    known = set(sys.modules)
    (tmp_path / "guarding_well.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "guarding_badly.py").write_text(WRONG, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith(("guarding_", "rftfm_plugin_")):
            if name in by_value():
                cloudpickle.unregister_pickle_by_value(sys.modules[name])
            del sys.modules[name]


def by_value() -> set[str]:
    """Names of the modules that travel by value."""
    return set(cloudpickle.list_registry_pickle_by_value())


def refused(name: str) -> str:
    """The sentence that refuses a name."""
    with pytest.raises(PolicyError) as caught:
        load_policy(name)
    message = str(caught.value)
    assert "guard.policy" in message
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", [None, "playbook"])
def test_the_shipped_playbook_needs_no_name(name: str | None) -> None:
    assert type(load_policy(name)) is Playbook


NAMES = [
    ("Mine", "mine"),
    ("ready", "an object"),
    ("function", "a function"),
    ("spare", "with a default"),
    ("Static", "static"),
]


@pytest.mark.parametrize(
    "place", ["guarding_well", "guarding_well.py", "./guarding_well.py", "{folder}/guarding_well.py"]
)
@pytest.mark.parametrize(("name", "why"), NAMES)
def test_policy_is_found_and_answers(folder: Path, place: str, name: str, why: str) -> None:
    policy = load_policy(f"{place.format(folder=folder)}:{name}")
    assert policy.decide(CONTEXT) == Decision(None, why)


def test_function_is_wrapped_and_object_is_not(folder: Path) -> None:
    assert isinstance(load_policy("guarding_well:function"), FunctionPolicy)
    module = sys.modules["guarding_well"]
    assert load_policy("guarding_well:ready") is module.ready
    assert type(load_policy("guarding_well:Mine")) is module.Mine


@pytest.mark.parametrize(("name", "why"), NAMES)
def test_policy_travels_to_where_its_file_is_not(folder: Path, name: str, why: str) -> None:
    packed = cloudpickle.dumps(load_policy(f"guarding_well.py:{name}"))
    for module in [module for module in sys.modules if "guarding_well" in module]:
        del sys.modules[module]
    (folder / "guarding_well.py").unlink()
    assert cloudpickle.loads(packed).decide(CONTEXT) == Decision(None, why)


def test_refused_policy_is_not_registered_to_travel(folder: Path) -> None:
    before = by_value()
    refused("guarding_badly:Silent")
    assert by_value() == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Silent", "class Silent has no method decide(self, ctx); add it"),
        ("Named", "class Named has no method decide"),
        ("Wanting", "Wanting() raised TypeError"),
        ("Failing", "Failing() raised OSError: no such disk; it must need no arguments"),
        ("Leaving", "Leaving() raised SystemExit: 3; it must need no arguments"),
        ("Deaf", "Deaf.decide must take one argument, the context"),
        ("Greedy", "Greedy.decide must take one argument"),
        ("Strict", "Strict.decide must take one argument"),
        ("nothing", "nothing must take one argument, the context"),
        ("two", "two must take one argument"),
        ("number", "number is neither a function nor has it a method decide(ctx)"),
        ("silent", "silent is neither a function nor"),
        ("deaf", "deaf.decide must take one argument"),
        ("gone", "guarding_badly.py defines no gone; check the name"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_submit(folder: Path, name: str, told: str) -> None:
    assert told in refused(f"guarding_badly.py:{name}")


@pytest.mark.parametrize("name", ["Mine", "guarding_well", ":Mine", "guarding_well:", "guarding_well.py", ""])
def test_name_of_the_wrong_form_says_what_form_it_has(folder: Path, name: str) -> None:
    assert "is not of the form module:Name or file.py:Name; write it so" in refused(name)


def test_missing_file_and_module_are_named(folder: Path) -> None:
    assert f"file {folder / 'gone.py'} does not exist; check the path" in refused("gone.py:Mine")
    assert "guarding_gone does not import (ModuleNotFoundError" in refused("guarding_gone:Mine")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise ValueError('on import')", "does not import (ValueError: on import)"),
        ("import sys; sys.exit(3)", "does not import (SystemExit: 3)"),
        ("def broken(:", "does not import (SyntaxError"),
        ("import guarding_gone", "does not import (ModuleNotFoundError"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".py"])
def test_file_that_raises_at_import_is_refused(folder: Path, suffix: str, source: str, told: str) -> None:
    (folder / "guarding_raises.py").write_text(source, encoding="utf-8")
    assert told in refused(f"guarding_raises{suffix}:Mine")
    assert not [name for name in sys.modules if "guarding_raises" in name], "half a module is left behind"


def test_two_files_of_one_name_are_kept_apart(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        source = SOURCE.replace('"mine"', f'"of {name}"')
        (folder / name / "same.py").write_text(source, encoding="utf-8")
    policies: list[Any] = [load_policy(f"{name}/same.py:Mine") for name in ("a", "b")]
    assert [policy.decide(CONTEXT).reason for policy in policies] == ["of a", "of b"]


OPTIONAL = """
from rftfm_ray import Decision

class Base:
    def decide(self, ctx):
        return Decision(None, "wait")

class Whole(Base):
    def observe(self, outcome):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def metrics(self):
        return {}

class Half(Base):
    def load_state_dict(self, state):
        pass

class Deaf(Base):
    def observe(self):
        pass

class Greedy(Base):
    def metrics(self, more):
        return {}

class Text(Base):
    metrics = "many"

class Later(Base):
    async def observe(self, outcome):
        pass

class Waits:
    async def decide(self, ctx):
        return Decision(None, "wait")

class Yields:
    def decide(self, ctx):
        yield Decision(None, "wait")
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Half", "Half has load_state_dict and no state_dict; add it, or leave load_state_dict out"),
        ("Deaf", "Deaf.observe must take one argument, the outcome"),
        ("Greedy", "Greedy.metrics must take no argument"),
        ("Text", "Text.metrics is not a method; make it one, or rename it"),
        ("Later", "Later.observe is a coroutine or a generator; make it a plain function that returns"),
        ("Waits", "Waits.decide is a coroutine or a generator"),
        ("Yields", "Yields.decide is a coroutine or a generator"),
    ],
)
def test_optional_method_that_cannot_be_called_is_refused_at_submit(folder: Path, name: str, told: str) -> None:
    (folder / "guarding_more.py").write_text(OPTIONAL, encoding="utf-8")
    assert told in refused(f"guarding_more.py:{name}")
    load_policy("guarding_more.py:Whole")


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_policy_has_a_name_and_a_line_about_it(name: str) -> None:
    policy = load_policy(name)
    assert type(policy) is BUILT_IN[name]
    assert len((type(policy).__doc__ or "").split("\n", 1)[0]) > 40


@pytest.mark.parametrize(
    ("name", "near"), [("playbok", "playbook"), ("hold_an_ask", "hold_and_ask"), ("adaptive-kl", "adaptive_kl")]
)
def test_misspelt_built_in_policy_is_told_the_nearest(name: str, near: str) -> None:
    assert f"is not a built-in policy; the nearest is {near}" in refused(name)
