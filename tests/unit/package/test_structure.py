"""The rules of the code as tests: sizes, light packages, documentation, safe reading. On imports: import-linter."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rftfm_ray

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "rftfm_ray"
CHECKED = [PACKAGE, ROOT / "tests", ROOT / "benchmarks", ROOT / "examples", ROOT / "requirements"]
SOURCES = sorted(path for folder in CHECKED for path in folder.rglob("*.py"))
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"ray", "torch", "vllm", "deepspeed", "transformers", "pyarrow"}
PURE = ["signals", "detection", "diagnosis", "incidents", "policies", "tasks", "faults", "training.gate"]
PURE += [
    "training.advantages",
    "training.credit",
    "training.credit_source",
    "training.update_report",
    "rollout.asking",
    "telemetry.features",
]


def name_of(path: Path) -> str:
    """Module name below the package, for example `training.gate`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "rftfm_ray":
                yield from (f"rftfm_ray.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is longer than 60 lines"


def test_types_import_only_the_standard_library() -> None:
    tree = ast.parse((PACKAGE / "types.py").read_text(encoding="utf-8"))
    assert {module.split(".")[0] for module in imported(tree)} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("part", ["", *PURE, "cli.app", "cli.faults"])
def test_light_modules_load_no_heavy_library(part: str) -> None:
    """Neither by themselves, which a contract checks for most, nor through a library that they import."""
    wanted = [name_of(path) for path in MODULES if f"{name_of(path)}.".startswith(f"{part}.")] if part else [""]
    assert wanted
    names = ", ".join(f"rftfm_ray.{name}".rstrip(".") for name in wanted)
    code = f"import sys, {names}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == []


@functools.cache
def documented_methods() -> set[str]:
    """Public methods that some class of the package documents: overriding ones inherit the text."""
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found |= {f.name for f in node.body if isinstance(f, ast.FunctionDef) and ast.get_docstring(f)}
    return found


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Public methods without a docstring; ruff looks at modules, classes and functions."""
    inherited = documented_methods()
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        for method in node.body:
            if not isinstance(method, ast.FunctionDef) or method.name.startswith("_"):
                continue
            overrides = bool(node.bases) and method.name in inherited
            if not ast.get_docstring(method) and not overrides:
                yield f"{node.name}.{method.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: name_of(path) or "rftfm_ray")
def test_every_public_method_is_documented_or_overrides_one(path: Path) -> None:
    assert list(undocumented(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: name_of(path) or "rftfm_ray")
def test_nothing_from_outside_is_executed_or_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not {"pickle", "shelve", "marshal", "dill"} & set(imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"}
            if called == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)


def test_the_public_interface_is_small_and_complete() -> None:
    assert len(rftfm_ray.__all__) <= 20
    assert all(getattr(rftfm_ray, name, None) is not None for name in rftfm_ray.__all__)


def test_every_room_is_on_the_page_about_the_architecture() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    assert [room for room in rooms if f"| `{room}/` |" not in page] == []


def test_modules_that_the_page_names_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = sorted(set(re.findall(r"[\w/]+/\w+\.py", page)))
    assert len(named) > 20
    assert [name for name in named if not (PACKAGE / name).exists() and not (ROOT / name).exists()] == []
