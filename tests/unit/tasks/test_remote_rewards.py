"""A reward server that fails in every way: no failure becomes a reward, and it is not hammered."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.plugins import packed
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.tasks.dataset import DataTask
from rftfm_ray.tasks.http import check_url, shown
from rftfm_ray.tasks.remote_rewards import Pauses, RemoteReward
from rftfm_ray.tasks.reward_functions import Given, Graded, Row, parts_of
from tests.servers import Answer, Server

PAUSES = Pauses(retries=2, first_s=0.01, rest_s=0.05, longest_s=0.2)
LIMIT_S = 0.6


def lengths(body: dict[str, Any]) -> tuple[int, bytes]:
    """The length of each completion as its reward."""
    return 200, json.dumps({"rewards": [len(text) for text in body["completions"]]}).encode()


def rows(*answers: str) -> list[Row]:
    """Answers to rows with a column."""
    return [Row(Problem(f"k{n}", f"{n}?", "4", {"level": n}), answer) for n, answer in enumerate(answers)]


def asks(server: Server) -> RemoteReward:
    """The function behind a server."""
    return RemoteReward(server.url, LIMIT_S, PAUSES)


def rewards(given: Sequence[Given]) -> list[float | None]:
    """The rewards, all of which must be there."""
    found = [one.reward for one in given if isinstance(one, Graded)]
    assert len(found) == len(given), given
    return found


def test_a_batch_is_one_call_with_its_columns(serve: Callable[[Answer], Server]) -> None:
    server = serve(lengths)
    assert rewards(asks(server)(rows("a", "bb", ""))) == [1.0, 2.0, 0.0]
    assert server.asked == [
        {"prompts": ["0?", "1?", "2?"], "completions": ["a", "bb", ""], "columns": {"level": [0, 1, 2]}}
    ]


def test_null_does_not_apply_and_right_is_what_it_says(serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda _: (200, b'{"rewards": [null, 0.5, 2], "right": [null, true, false]}'))
    given = asks(server)(rows("a", "b", "c"))
    assert given == [Graded(None), Graded(0.5, is_right=True), Graded(2.0, is_right=False)]


def test_a_refusal_is_asked_again_and_then_answered(serve: Callable[[Answer], Server]) -> None:
    answers = iter([(503, b""), (429, b"")])
    server = serve(lambda body: next(answers, None) or lengths(body))
    assert rewards(asks(server)(rows("abc"))) == [3.0]
    assert len(server.asked) == 3


FAILURES: dict[str, tuple[Callable[[dict[str, Any]], tuple[int, bytes] | None], str]] = {
    "hangs": (lambda _: None, r"no answer within 0\.6 s"),
    "500": (lambda _: (500, b""), "it answered 500"),
    "404": (lambda _: (404, b""), "it answered 404"),
    "no JSON": (lambda _: (200, b"<html>"), "its answer is no JSON"),
    "bytes": (lambda _: (200, b"\xff\xfe\x00"), "its answer is no JSON"),
    "empty": (lambda _: (200, b""), "its answer is no JSON"),
    "a list": (lambda _: (200, b"[1, 2]"), "gave no list of rewards for 2 answers"),
    "short": (lambda _: (200, b'{"rewards": [1]}'), "gave 1 rewards for 2 answers"),
    "long": (lambda _: (200, b'{"rewards": [1, 2, 3]}'), "gave 3 rewards for 2 answers"),
    "one number": (lambda _: (200, b'{"rewards": 1}'), "gave no list of rewards"),
    "NaN": (lambda _: (200, b'{"rewards": [NaN, NaN]}'), "gave nan; a reward is finite"),
    "infinite": (lambda _: (200, b'{"rewards": [1e999, -1e999]}'), "gave inf; a reward is finite|gave -inf"),
    "texts": (lambda _: (200, b'{"rewards": ["1", "0"]}'), "a reward is a number"),
    "truths": (lambda _: (200, b'{"rewards": [true, false]}'), "give a number"),
    "lists": (lambda _: (200, b'{"rewards": [[1], [2]]}'), "a reward is a number"),
    "right is no truth": (lambda _: (200, b'{"rewards": [1, 2], "right": [1, 0]}'), "give true, false or null"),
    "right is short": (lambda _: (200, b'{"rewards": [1, 2], "right": [true]}'), "gave 1 right for 2 answers"),
    "elsewhere": (lambda _: (302, b""), "it answered 302"),
    "nothing": (lambda _: (204, b""), "its answer is no JSON"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_no_failure_is_a_reward(serve: Callable[[Answer], Server], name: str) -> None:
    answer, said = FAILURES[name]
    given = asks(serve(answer))(rows("a", "b"))
    assert all(isinstance(one, RewardError) for one in given)
    for one in given:
        with pytest.raises(RewardError, match=said):
            raise one  # type: ignore[misc]


def test_a_server_that_is_not_there_and_one_that_breaks_off(serve: Callable[[Answer], Server]) -> None:
    (gone,) = RemoteReward("http://127.0.0.1:9/score", LIMIT_S, PAUSES)(rows("a"))
    assert "it cannot be reached" in str(gone)

    server = serve(lambda _: (200, b'{"rewards": [1'))
    (cut,) = asks(server)(rows("a"))
    assert "its answer is no JSON" in str(cut)


def test_none_of_two_hundred_failures_is_scored_and_every_answer_is(serve: Callable[[Answer], Server]) -> None:
    """Half of the calls fail, each in one of the ways; the others are answered."""
    # Of one answer a single reward is no failure, and to hang takes its time.
    names, count = [name for name in FAILURES if name not in ("hangs", "short")], 0

    def answer(body: dict[str, Any]) -> tuple[int, bytes] | None:
        nonlocal count
        if body["completions"][0] != "fail":
            return lengths(body)
        count += 1
        return FAILURES[names[count % len(names)]][0](body)

    server = serve(answer)
    task = DataTask((), (), parts_of([server.url], (), lambda url: RemoteReward(url, LIMIT_S, Pauses(0, 0, 0, 0))))
    scored = failed = 0
    for number in range(200):
        for text in ("fail", "abc"):
            (verdict,) = task.verify_all([(Problem(f"k{number}", "p", "4"), Transcript((text,)))])
            scored += isinstance(verdict, Verdict) and text == "fail"
            failed += isinstance(verdict, Exception) and text == "fail"
            assert text == "fail" or verdict == Verdict(3.0, correct=True)
    assert (scored, failed) == (0, 200)


def test_a_server_that_fails_is_left_alone_for_longer_and_longer(serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda _: (500, b""))
    function = asks(server)
    for _ in range(5):
        function(rows("a"))
    # Three tries of the first call, then one a call.
    assert len(server.asked) == 7
    rests = [later - earlier for earlier, later in zip(server.times[2:], server.times[3:], strict=False)]
    assert [rest >= least for rest, least in zip(rests, (0.05, 0.1, 0.2, 0.2), strict=True)] == [True] * 4
    assert rests[3] < 0.4
    server.answer = lengths
    assert rewards(function(rows("ab"))) == [2.0]
    began = time.monotonic()
    assert rewards(function(rows("ab"))) == [2.0]
    assert time.monotonic() - began < 0.15


def test_function_travels_without_its_connections(serve: Callable[[Answer], Server]) -> None:
    function = asks(serve(lengths))
    function(rows("a"))
    assert rewards(packed(function)()(rows("abc"))) == [3.0]


def test_secrets_of_a_url_are_not_shown() -> None:
    url = "https://user:secret@host:81/score?token=secret"
    (part,) = parts_of([url], (), lambda url: RemoteReward(url, 1.0))
    assert (shown(url), part.name) == ("https://host:81/score", "https://host:81/score")


@pytest.mark.parametrize("url", ["http://", "http:///x", "https://host:99999/x", "http://host:0/"])
def test_what_cannot_be_called_is_refused(url: str) -> None:
    with pytest.raises(TaskError, match=r"^reward\.functions=.* is not a URL that can be called"):
        check_url("reward.functions", url)
