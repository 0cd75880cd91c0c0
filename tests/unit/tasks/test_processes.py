"""Verdicts from processes: those of the task, whatever one answer does to its process, and none that is made up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rftfm_ray.errors import RewardError
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.tasks.dataset import DataTask, RightAnswers
from rftfm_ray.tasks.processes import OutsideTask, VerifierProcesses
from rftfm_ray.tasks.reward_functions import parts_of

FUNCTIONS = """
import os, time

SEEN = []

def judge(prompts, completions, **columns):
    SEEN.append(len(completions))
    for text in completions:
        if text == "hang":
            time.sleep(600)
        if text == "die":
            os._exit(7)
        if text == "raise":
            raise ValueError("no such thing")
    return [float("nan") if text == "nan" else float(len(text)) for text in completions]

def batch(completions, **columns):
    return [float(len(completions))] * len(completions)

def sized(completions, **columns):
    if "hang" in completions:
        time.sleep(600)
    return batch(completions)

def slow(completions, **columns):
    time.sleep(0.5)
    if "die" in completions:
        os._exit(7)
    return batch(completions)

def where(completions, **columns):
    return [float(os.getpid())] * len(completions)

def calls(completions, **columns):
    SEEN.append(len(completions))
    return [float(len(SEEN))] * len(completions)
"""
LIMIT_S = 1.5


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    """A file of reward functions."""
    path = tmp_path / "outside.py"
    path.write_text(FUNCTIONS)
    return path


@pytest.fixture
def start(functions: Path) -> Iterator[Any]:
    """Starts processes for one of the functions."""
    started: list[VerifierProcesses] = []

    def make(name: str, count: int = 2) -> OutsideTask:
        task = DataTask((), (), parts_of([f"{functions}:{name}"], ()), right=RightAnswers(3.0))
        assert task.in_processes
        started.append(VerifierProcesses(task, count, LIMIT_S))
        return OutsideTask(task, started[-1])

    yield make
    for processes in started:
        processes.close()


def row(number: int) -> Problem:
    """A row of a data set."""
    return Problem(f"key-{number}", f"{number}?", "4")


def asked(*answers: str) -> list[tuple[Problem, Transcript]]:
    """Answers to rows of their own."""
    return [(row(number), Transcript((answer,))) for number, answer in enumerate(answers)]


def given(task: OutsideTask, questions: list[tuple[Problem, Transcript]]) -> list[float | str]:
    """The rewards, or what was said in place of one."""
    found: list[float | str] = []
    with task._processes.ahead(questions):
        for question in questions:
            try:
                found.append(task.verify(*question).reward)
            except RewardError as error:
                found.append(str(error))
    return found


def test_verdicts_are_those_of_the_task(start: Any) -> None:
    task = start("judge")
    assert task.verify(row(1), Transcript(("abc",))) == Verdict(3.0, correct=True)
    assert task.verify(row(1), Transcript(("ab",))) == Verdict(2.0, correct=False)
    assert given(task, asked("a", "bb", "ccc", "dddd", "")) == [1.0, 2.0, 3.0, 4.0, 0.0]


def test_one_answer_that_hangs_dies_or_raises_costs_no_other_its_verdict(start: Any) -> None:
    task = start("judge")
    first, hangs, third, dies, raises, nan, last = given(task, asked("a", "hang", "bbb", "die", "raise", "nan", "cc"))
    assert (first, third, last) == (1.0, 3.0, 2.0)
    assert str(hangs).startswith("The verifier of task data gave no verdict within 1.5 s")
    assert "ended its process (exit code 7)" in str(dies)
    assert "raised ValueError: no such thing" in str(raises)
    assert "gave nan; a reward is finite" in str(nan)
    # The pool goes on.
    assert given(task, asked("a", "bb")) == [1.0, 2.0]


def test_answers_are_put_to_a_function_together(start: Any) -> None:
    task = start("batch", count=2)
    assert given(task, asked(*"abcdef")) == [3.0] * 6
    assert task.verify(row(1), Transcript(("x",))).reward == 1.0


def test_after_a_late_batch_each_answer_has_its_own_time(start: Any) -> None:
    task = start("sized", count=1)
    assert given(task, asked("a", "b")) == [2.0, 2.0]
    assert str(given(task, asked("a", "hang", "b"))[1]).startswith("The verifier of task data gave no verdict")
    assert given(task, asked("a", "b")) == [1.0, 1.0]


def test_each_verdict_that_is_asked_for_ahead_is_a_verdict_of_its_own(start: Any) -> None:
    task = start("calls", count=1)
    question = asked("a")[0]
    with task._processes.ahead([question]):
        first = task.verify(*question).reward
        # Not asked for ahead: a new one.
        second = task.verify(*question).reward
    assert (first, second) == (1.0, 2.0)
    assert task.verify(*question).reward == 3.0


def test_slow_verdicts_are_begun_by_idle_processes_and_are_there_when_they_are_asked_for(start: Any) -> None:
    task = start("slow", count=2)
    processes, questions = task._processes, asked(*"abcd")
    # Nobody knows yet that it is slow.
    assert processes.start(questions) == 0
    assert given(task, asked("x", "y")) == [1.0, 1.0]
    assert processes.start(questions) == 4
    assert processes.start(asked("z")) == 0
    time.sleep(1.0)
    began = time.monotonic()
    assert given(task, questions) == [2.0] * 4
    assert time.monotonic() - began < 0.3
    # Each was asked for once: now they are asked for anew.
    began = time.monotonic()
    assert given(task, questions[:2]) == [1.0, 1.0]
    assert time.monotonic() - began > 0.4


def test_what_was_begun_early_and_lost_is_asked_for_alone_and_what_is_forgotten_anew(start: Any) -> None:
    task = start("slow", count=1)
    given(task, asked("x"))
    questions = asked("a", "die", "b")
    assert task._processes.start(questions) == 3
    first, dies, last = given(task, questions)
    assert (first, last) == (1.0, 1.0)
    assert "ended its process (exit code 7)" in str(dies)
    twice = [*asked("c"), *asked("c")]
    assert task._processes.start(twice[:1]) == 1
    assert given(task, twice) == [1.0, 1.0]
    assert task._processes.start(asked("e", "f")) == 2
    task._processes.forget()
    assert given(task, asked("e")) == [1.0]


def test_quick_verdicts_wait_until_all_can_be_put_to_a_function_together(start: Any) -> None:
    task = start("batch", count=2)
    given(task, asked(*"abcd"))
    assert task._processes.start(asked(*"abcd")) == 0


def test_processes_are_others_and_are_used_again(start: Any) -> None:
    task = start("where", count=2)
    pids = {given(task, asked(*"abcd"))[0] for _ in range(3)} | set(given(task, asked(*"abcd")))
    assert os.getpid() not in pids
    assert len(pids) <= 2


def test_task_is_otherwise_its_own(start: Any) -> None:
    task = start("judge")
    assert (task.name, task.max_new_tokens, task.knows_references) == ("data", (256,), False)
    assert (task.pool(3, 0), task.heldout(), task.respond(row(1), 0, "x")) == ((), (), None)
    assert task.difficulty(row(1)) == 2.0


class Short(DataTask):
    """A task that forgets a verdict."""

    def verify_all(self, asked: Sequence[tuple[Problem, Transcript]]) -> Sequence[Verdict | Exception]:
        return super().verify_all(asked)[1:]


def test_a_task_that_forgets_a_verdict_gives_none(functions: Path) -> None:
    processes = VerifierProcesses(Short((), (), parts_of(["exact"], ())), 1, 20.0)
    try:
        with processes.ahead(asked("a", "b")), pytest.raises(RewardError, match="gave 1 verdicts for 2 answers"):
            processes.verdict(*asked("a")[0])
    finally:
        processes.close()


def test_plain_verifiers_stay_in_their_process() -> None:
    assert not DataTask((), (), parts_of(["exact", "numeric"], ())).in_processes
    assert DataTask((), (), parts_of(["exact", "regex:(a+)+$"], ())).in_processes


ORPHAN = """
import sys, time
sys.path.insert(0, {tests!r})
from rftfm_ray.tasks.api import Problem, Transcript
from rftfm_ray.tasks.dataset import DataTask
from rftfm_ray.tasks.processes import VerifierProcesses
from rftfm_ray.tasks.reward_functions import parts_of

if __name__ == "__main__":
    task = DataTask((), (), parts_of(["{functions}:where"], ()))
    processes = VerifierProcesses(task, 1, 20.0)
    print(int(processes.verdict(Problem("k", "p", "a"), Transcript(("x",))).reward), flush=True)
    time.sleep(600)
"""


def test_processes_end_with_the_one_that_asks(functions: Path, tmp_path: Path) -> None:
    script = tmp_path / "asks.py"
    script.write_text(ORPHAN.format(tests=str(Path(__file__).parents[3]), functions=functions))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
