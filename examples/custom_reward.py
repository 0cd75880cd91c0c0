"""Reward functions of your own for rows of your own, in the two forms that people have them in.

    rftfm train data.train=my_sums.jsonl reward.functions=[examples/custom_reward.py:right] data.max_new_tokens=5

with a file `my_sums.jsonl` of lines such as {"prompt": "12+34=", "answer": "46"}.
"""

from __future__ import annotations

from typing import Any


def right(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """As TRL calls it: lists of completions, and of every column of the data set by its name."""
    return [float(completion.strip() == truth) for completion, truth in zip(completions, answer, strict=True)]


def brief(completions: list[str], **_: Any) -> list[float | None]:
    """Another part of the reward. None says that it does not apply to a row."""
    return [None if not completion else float(len(completion) <= 3) for completion in completions]


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: object = None) -> float:
    """As verl calls it: one answer at a time."""
    del data_source, extra_info
    return float(solution_str.strip() == ground_truth)
