"""What is built and what is uploaded: one copy of every module, under one name, and small."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rftfm_ray.models import TASK_POLICIES, ModelSize

ROOT = Path(__file__).parents[3]
# Ray stores files uncompressed; benchmark data or the documentation would exceed this.
# Five of its MiB are the four shipped models.
UPLOAD_LIMIT = 10 << 20


@pytest.mark.parametrize("name", ["actors", "policies"])
def test_links_for_readers_refuse_to_be_imported(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("rftfm_ray") / name
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert f"ImportError: import rftfm_ray.{name}, not {name}" in done.stderr


def test_the_wheel_holds_each_module_once_and_the_shipped_models(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / part, source / part)
    shutil.copytree(ROOT / "rftfm_ray", source / "rftfm_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("actors", "policies"):
        (source / name).symlink_to(Path("rftfm_ray") / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-qq",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"rftfm_ray"}
    shipped = (*ModelSize, *TASK_POLICIES)
    assets = [f"assets/{name}/{file}" for name in shipped for file in ("model.safetensors", "tokenizer.json")]
    for needed in ("actors/learner.py", "policies/levers.py", *assets, "py.typed"):
        assert f"rftfm_ray/{needed}" in names
    modules = sorted(name for name in names if name.endswith(".py"))
    assert modules == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "rftfm_ray").rglob("*.py"))
    assert sum(name.endswith("/learner.py") and "actors" in name for name in names) == 1


def test_a_job_upload_is_small_and_holds_the_package_once(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "upload.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    with zipfile.ZipFile(package) as upload:
        names = upload.namelist()
    inside = {name.split("/", 1)[1] for name in names if "/" in name} | set(names)
    assert any(name.endswith("rftfm_ray/actors/learner.py") for name in inside)
    assert sum(name.endswith("actors/learner.py") for name in names) == 1
    assert package.stat().st_size < UPLOAD_LIMIT


def test_the_cluster_file_is_valid_for_rays_launcher() -> None:
    import jsonschema
    import ray.autoscaler
    import yaml

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    workers = [kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]]
    assert all(kind["resources"]["GPU"] >= 1 for kind in workers)
    assert all((ROOT / local).exists() for local in cluster["file_mounts"].values())
