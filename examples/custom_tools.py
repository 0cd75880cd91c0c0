r"""Tools of your own, which answers to rows of your own may call, as a function and behind a URL.

    python examples/custom_tools.py my_sums.jsonl
    rftfm train data.train=my_sums.jsonl reward.functions=[exact] data.max_new_tokens=12 \
        tools.functions=[examples/custom_tools.py:add] 'tools.calls=regex:^c(?P<arguments>[^;]*);$' \
        'tools.result={result};' 'tools.stop=;' tools.max_turns=2

The shipped model calls with c12+34+56; and reads 102; which the keys above say. A chat model needs none of them: its
chat template says how it calls a tool, and its prompts tell it of the tools, if they are chat messages.

A tool behind a URL is a file, here search.json, for `tools.functions=[search.json]`:

    {"url": "http://HOST:PORT/search", "function": {"name": "search", "description": "Searches the web.",
     "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}}}

Its server gets {"name": "search", "arguments": {"query": "..."}} and gives {"result": ...}, or 400 with
{"error": "..."} where the call makes no sense. With several URLs in a list one is asked where another fails.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path


def add(expression: str) -> int:
    """Adds numbers.

    Args:
        expression: The numbers with a plus sign between them, such as 12+34+56.
    """
    # What int() raises for anything else is a ValueError, so the model reads that its call makes no sense. Any other
    # error is a failure of the tool: the call is made again as often as rollout.tool_retries says, then masked.
    return sum(int(number) for number in expression.split("+"))


def write_sums(path: Path, count: int = 400) -> None:
    """Rows of three numbers to add, which the shipped model is better at with the tool."""
    rng = random.Random(0)
    rows: dict[str, str] = {}
    while len(rows) < count:
        numbers = [rng.randint(10, 99) for _ in range(3)]
        rows["+".join(map(str, numbers)) + "="] = str(sum(numbers))
    lines = [json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in rows.items()]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_sums(Path(sys.argv[1] if len(sys.argv) > 1 else "my_sums.jsonl"))
