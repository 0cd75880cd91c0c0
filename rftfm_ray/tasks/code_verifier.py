"""Verifier of code: the last block of an answer is run with the row's tests, in a process with limits. Pure.

It is no sandbox: the code may read what this user may read, and reach the network. Run it on machines for that.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
LIMIT_S = 10.0
"""Seconds of the clock that code and tests have together; of the processor as well."""
MEMORY, FILE = 2**30, 2**20
"""Bytes of address space, and of a file; what it prints goes to one."""

_LIMITS = f"""
import resource as _r
for _what, _most in ((_r.RLIMIT_CPU, {LIMIT_S:.0f}), (_r.RLIMIT_AS, {MEMORY}), (_r.RLIMIT_FSIZE, {FILE}),
                     (_r.RLIMIT_CORE, 0)):
    _r.setrlimit(_what, (_most, _most))
del _r, _what, _most
"""


def passes(answer: str, tests: str) -> bool:
    """Whether the code of an answer runs, and the tests after it: statements such as `assert f(2) == 4`.

    Tests that were reached and passed end with a word that the code is not told, so that code which ends the process
    with success has not passed them.
    """
    blocks = BLOCK.findall(answer)
    code = (blocks[-1] if blocks else answer).replace("\x00", " ")
    word = secrets.token_hex(16)
    reader, writer = os.pipe()
    try:
        os.write(writer, word.encode())
        end = f"import os as _o; print(_o.read({reader}, 64).decode(), flush=True)"
        return _printed(f"{_LIMITS}\n{code}\n{tests}\n{end}\n", reader).endswith(word)
    finally:
        os.close(reader)
        os.close(writer)


def _printed(program: str, reader: int) -> str:
    """What a program printed; empty where it was late or failed."""
    with tempfile.TemporaryDirectory(prefix="rftfm-code-") as folder, tempfile.TemporaryFile() as out:
        (Path(folder) / "answer.py").write_text(program, encoding="utf-8", errors="replace")
        environment = {"PATH": os.defpath, "HOME": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-I", "answer.py"], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.DEVNULL, start_new_session=True, pass_fds=(reader,),
        )  # fmt: skip
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT_S)
        # With all that it has started; a process that has ended keeps its exit code.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        if process.wait() != 0:
            return ""
        out.seek(0)
        return out.read().decode(errors="replace").rstrip()
