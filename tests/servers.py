"""Servers on this machine that answer as a test says."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, bytes] | None]
"""A status and a body for what was sent, or None for nothing while the server runs."""


@dataclass
class Server:
    """A server whose answers a function gives: a code and a body, or None for none."""

    answer: Answer
    asked: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@contextlib.contextmanager
def serving() -> Iterator[Callable[[Answer], Server]]:
    """Starts servers that run until the context ends."""
    running: list[tuple[http.server.ThreadingHTTPServer, Server]] = []

    def start(answer: Answer) -> Server:
        server = Server(answer)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/json"
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(body)
                server.times.append(time.monotonic())
                said = server.answer(body)
                if said is None:
                    server.closed.wait(20)
                    return
                self.send_response(said[0])
                self.send_header("Location", server.url + "/elsewhere")
                self.send_header("Content-Length", str(len(said[1])))
                self.end_headers()
                self.wfile.write(said[1])

            def log_message(self, *_: object) -> None:
                pass

        bound = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        bound.daemon_threads = True
        threading.Thread(target=bound.serve_forever, daemon=True).start()
        server.url = f"http://127.0.0.1:{bound.server_address[1]}"
        running.append((bound, server))
        return server

    yield start
    for bound, server in running:
        server.closed.set()
        bound.shutdown()
        bound.server_close()
