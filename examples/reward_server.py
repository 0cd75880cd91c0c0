"""A reward server: answers arrive in batches and get their rewards, as `reward.functions` asks for them by URL.

    python examples/reward_server.py --port 8000
    rftfm train data.train=my_sums.jsonl 'reward.functions=[http://127.0.0.1:8000/score]' data.max_new_tokens=5

with a file `my_sums.jsonl` of lines such as {"prompt": "12+34=", "answer": "46"}. A server of your own may be written
with anything that speaks HTTP and run anywhere; a model as the judge would stand in `score`.
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def score(completions: list[str], columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Rewards and verdicts. None as a reward says that the function does not apply to an answer."""
    right = [text.strip() == truth for text, truth in zip(completions, columns["answer"], strict=True)]
    return {"rewards": [1.0 if is_right else 0.0 for is_right in right], "right": right}


class Handler(BaseHTTPRequestHandler):
    """One request: a batch of answers."""

    def do_POST(self) -> None:
        """Answer with JSON, or with 400 where the request has no answers to grade."""
        try:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, reply = 200, json.dumps(score(body["completions"], body["columns"])).encode()
        except (KeyError, TypeError, ValueError) as error:
            code, reply = 400, f"{type(error).__name__}: {error}".encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)


def serve(port: int) -> ThreadingHTTPServer:
    """A server on this machine; port 0 for any that is free."""
    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A reward server for sums.")
    parser.add_argument("--port", type=int, default=8000)
    with serve(parser.parse_args().port) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/score", flush=True)
        server.serve_forever()
