"""The rules of the code as tests: sizes, import direction, light pure packages, documentation, safe reading."""

from __future__ import annotations

import ast
import functools
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

# A module may import modules of its own layer and of lower ones. The longest matching prefix decides.
LAYERS = {
    "types": 0,
    "verdicts": 0,
    "errors": 0,
    "config": 1,
    "plugins": 1,
    "batch": 1,
    "tasks": 2,
    "policies": 2,
    "detection": 2,
    "diagnosis": 2,
    "training.advantages": 2,
    "training.credit": 2,
    "training.losses": 2,
    "training.gate": 2,
    "telemetry": 3,
    "training": 3,
    "rollout": 3,
    "faults": 3,
    "integrations": 3,
    "models": 3,
    "actors": 4,
    "actors.warm": 5,
    "report": 4,
    "cluster": 5,
    "session": 5,
    "probing": 5,
    "records": 5,
    "remediation": 5,
    "guard": 5,
    "planning": 5,
    "course": 5,
    "run": 6,
    "faultbench": 7,
    "cli": 8,
    "__main__": 9,
}


def name_of(path: Path) -> str:
    """Module name below the package, for example `training.gate`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FAULTS = ", ".join(f"rftfm_ray.{name_of(path)}" for path in MODULES if path.parent.name == "faults")


def layer(module: str) -> int:
    """Layer of a module below the package."""
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next(LAYERS[prefix] for prefix in prefixes if prefix in LAYERS)


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


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p)], ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    own = layer(name_of(path))
    for module in imported(ast.parse(path.read_text(encoding="utf-8"))):
        if module.startswith("rftfm_ray."):
            below = module.removeprefix("rftfm_ray.")
            assert layer(below) <= own, f"{name_of(path)} must not import {below}"


def test_types_import_only_the_standard_library() -> None:
    tree = ast.parse((PACKAGE / "types.py").read_text(encoding="utf-8"))
    assert {module.split(".")[0] for module in imported(tree)} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "module",
    ["rftfm_ray", "rftfm_ray.policies.levers", "rftfm_ray.incidents.manager", "rftfm_ray.policies.loading",
     "rftfm_ray.incidents.guardian", "rftfm_ray.incidents.severity", "rftfm_ray.tasks.calculator",
     "rftfm_ray.training.gate", "rftfm_ray.training.advantages", "rftfm_ray.training.credit",
     "rftfm_ray.telemetry.features", "rftfm_ray.cli.app", "rftfm_ray.cli.faults", FAULTS],
)  # fmt: skip
def test_pure_modules_load_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
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
    """Public definitions without a docstring."""
    inherited = documented_methods()
    if not ast.get_docstring(tree):
        yield "the module"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield node.name
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if not isinstance(method, ast.FunctionDef) or method.name.startswith("_"):
                        continue
                    overrides = bool(node.bases) and method.name in inherited
                    if not ast.get_docstring(method) and not overrides:
                        yield f"{node.name}.{method.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: name_of(path) or "rftfm_ray")
def test_every_public_name_is_documented(path: Path) -> None:
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
