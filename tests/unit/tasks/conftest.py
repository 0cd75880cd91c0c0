"""Servers for tests of what is asked by URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.servers import Answer, Server, serving


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    """Starts servers on this machine."""
    with serving() as start:
        yield start
