"""What a measured page rests on: the installed sources of the package."""

from __future__ import annotations

import functools
from hashlib import sha256
from pathlib import Path

import rftfm_ray


@functools.cache
def source_digest() -> str:
    """Digest of the installed package's sources: rows of other sources do not belong into one campaign."""
    folder, digest = Path(rftfm_ray.__file__).parent, sha256()
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.json"), *folder.rglob("*.yaml")]):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
