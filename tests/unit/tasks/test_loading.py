"""Finding a task by name, and the contract that is checked before a run starts: every failure is a TaskError."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rftfm_ray.config import RunConfig, parse_config
from rftfm_ray.errors import RewardError, TaskError
from rftfm_ray.rollout.channels import EpisodeId, Grade, Grader, TaskReward
from rftfm_ray.rollout.environment import trusted_channels
from rftfm_ray.rollout.grading import Answered, grade_all
from rftfm_ray.tasks import Problem, Task, Transcript, Verdict
from rftfm_ray.tasks.addition import Addition
from rftfm_ray.tasks.calculator import Calculator
from rftfm_ray.tasks.loading import check_task, load_task
from rftfm_ray.tasks.rewards import verify
from rftfm_ray.types import StepId

SOURCE = """
from rftfm_ray.tasks import Problem, Task, Verdict

class Echo(Task):
    name = "echo"
    max_new_tokens = (4,)

    def pool(self, size, seed):
        return [Problem(f"p{i}", f"p{i}", "1") for i in range(size)]

    def heldout(self):
        return [Problem(f"h{i}", f"h{i}", "1") for i in range(1000)]

    def verify(self, problem, transcript):
        right = transcript.finished and transcript.turns[-1] == problem.answer
        return Verdict(float(right), right)

class NotDerived:
    pass

class Abstract(Task):
    name = "abstract"
    max_new_tokens = (4,)

    def pool(self, size, seed):
        return []

class Nameless(Echo):
    pass

class Broken(Echo):
    def __init__(self):
        raise OSError("no such disk")

class Picky(Echo):
    def __init__(self, size):
        pass

an_instance = Echo()
"""


class Small(Task):
    """A correct task of numbered prompts; the tests break one part of it at a time."""

    name: ClassVar[str] = "small"
    max_new_tokens: ClassVar[tuple[int, ...]] = (4,)

    def pool(self, size: int, seed: int) -> Sequence[Problem]:
        return [Problem(f"p{i}", f"p{i}", str(i)) for i in range(size)]

    def heldout(self) -> Sequence[Problem]:
        return [Problem(f"h{i}", f"h{i}", str(i)) for i in range(1000)]

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        right = transcript.finished and transcript.turns[-1] == problem.answer
        return Verdict(float(right), right)


def small(**parts: Any) -> Task:
    """`Small` with some of its attributes replaced."""
    changed: type[Task] = type("Changed", (Small,), parts)
    return changed()


def returning(value: object) -> Callable[..., Any]:
    """A method that returns `value` for all arguments."""
    return lambda self, *_: value


def raising(error: BaseException) -> Callable[..., Any]:
    """A method that raises `error` for all arguments."""

    def method(self: object, *_: object) -> None:
        raise error

    return method


def config(pool: int = 32, probe: int = 64, final: int = 64) -> RunConfig:
    """A configuration with this much to draw."""
    return parse_config({"task": {"pool_size": pool}, "probe": {"size": probe, "final_size": final}})


def sentence(attempt: Callable[[], object]) -> str:
    """The message of the TaskError that `attempt` ends with, after checking that it is one sentence."""
    with pytest.raises(TaskError) as caught:
        attempt()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message.replace("...", "")
    return message


def unchecked(task: Task, settings: RunConfig | None = None) -> str:
    """The one sentence with which `check_task` refuses `task`."""
    return sentence(lambda: check_task(task, settings or config()))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with a correct task and several broken ones."""
    path = tmp_path / "my_task.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "kind"), [("addition", Addition), ("calculator", Calculator)])
def test_shipped_task_is_found_by_its_name(name: str, kind: type[Task]) -> None:
    assert type(load_task(name)) is kind


def test_module_and_class_name_a_task(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.rename(source.with_name("my_importable_task.py"))
    monkeypatch.syspath_prepend(source.parent)
    task = load_task("my_importable_task:Echo")
    assert (task.name, task.max_new_tokens, type(task).__module__) == ("echo", (4,), "my_importable_task")


def test_file_and_class_name_a_task_that_keeps_its_contract(source: Path) -> None:
    task = load_task(f"{source}:Echo")
    pool, heldout, _ = check_task(task, config(pool=32, probe=64))
    assert (task.name, len(pool), len(heldout)) == ("echo", 32, 64)


def test_relative_file_is_found_from_the_working_directory(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    assert load_task("my_task.py:Echo").name == "echo"


def test_task_from_a_file_travels_by_value(source: Path) -> None:
    from ray import cloudpickle

    task = load_task(f"{source}:Echo")
    data = cloudpickle.dumps(task)
    del sys.modules[type(task).__module__]
    source.unlink()
    assert cloudpickle.loads(data).heldout()[0].key == "h0"


@pytest.mark.parametrize("name", ["multiplication", "", "file.py", "Addition"])
def test_unknown_name_is_refused_with_what_there_is(name: str) -> None:
    message = sentence(lambda: load_task(name))
    assert f"task.name={name};" in message
    assert "addition, calculator, module:Class or file.py:Class" in message


@pytest.mark.parametrize("name", [":Class", "module:", ":"])
def test_half_a_name_is_refused_with_its_form(name: str) -> None:
    message = sentence(lambda: load_task(name))
    assert f"task.name={name} " in message
    assert "module:Name or file.py:Name" in message


def test_missing_file_is_refused_by_path(tmp_path: Path) -> None:
    path = tmp_path / "absent.py"
    assert f"file {path} does not exist" in sentence(lambda: load_task(f"{path}:Echo"))


def test_missing_module_is_refused_by_name() -> None:
    message = sentence(lambda: load_task("no_such_module_anywhere:Echo"))
    assert "no_such_module_anywhere" in message
    assert "ModuleNotFoundError" in message


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("def (:", "SyntaxError"),
        ("import absent_one", "absent_one"),
    ],
)
def test_file_that_does_not_import_is_refused_with_the_cause(tmp_path: Path, content: str, cause: str) -> None:
    path = tmp_path / "broken_task.py"
    path.write_text(content, encoding="utf-8")
    message = sentence(lambda: load_task(f"{path}:Echo"))
    assert str(path) in message
    assert cause in message


@pytest.mark.parametrize("name", ["NotDerived", "an_instance", "Problem"])
def test_what_is_not_a_task_class_is_refused(source: Path, name: str) -> None:
    assert f"{name} is not a" in sentence(lambda: load_task(f"{source}:{name}"))


def test_class_that_is_not_there_is_refused_by_name_and_file(source: Path) -> None:
    assert f"{source} defines no Absent" in sentence(lambda: load_task(f"{source}:Absent"))


def test_abstract_class_is_refused_with_all_that_is_missing(source: Path) -> None:
    assert "Abstract does not define heldout, verify; add them." in sentence(lambda: load_task(f"{source}:Abstract"))


@pytest.mark.parametrize("attribute", ["name", "max_new_tokens"])
def test_class_without_a_needed_attribute_is_refused(source: Path, attribute: str) -> None:
    removed = "\n".join(line for line in SOURCE.splitlines() if not line.startswith(f"    {attribute} = "))
    source.write_text(removed, encoding="utf-8")
    assert f"Echo has no class attribute '{attribute}'" in sentence(lambda: load_task(f"{source}:Echo"))


def test_constructor_that_raises_is_refused_with_the_cause(source: Path) -> None:
    assert "Broken() raised OSError: no such disk" in sentence(lambda: load_task(f"{source}:Broken"))


def test_constructor_that_needs_arguments_is_refused(source: Path) -> None:
    assert "Picky() raised TypeError" in sentence(lambda: load_task(f"{source}:Picky"))


@pytest.mark.parametrize(("probe", "final", "kept"), [(64, 64, 64), (64, 96, 96), (96, 64, 96)])
def test_check_gives_pool_and_as_many_heldout_problems_as_a_probe_takes(probe: int, final: int, kept: int) -> None:
    pool, heldout, _ = check_task(Small(), config(pool=32, probe=probe, final=final))
    assert pool == tuple(Small().pool(32, 0))
    assert heldout == tuple(Small().heldout())[:kept]


def test_check_draws_the_pool_with_the_seed_of_the_run() -> None:
    settings = parse_config({"seed": 9, "task": {"pool_size": 32}, "probe": {"final_size": 1024}})
    assert check_task(Addition(), settings)[0] == tuple(Addition().pool(32, 9))


@pytest.mark.parametrize("method", ["pool", "heldout"])
def test_task_that_fails_to_draw_is_refused_with_the_cause(method: str) -> None:
    message = unchecked(small(**{method: raising(KeyError("shelf"))}))
    assert "KeyError: 'shelf'" in message
    assert "Task small" in message


def test_sentence_that_the_task_itself_gives_is_kept() -> None:
    assert unchecked(small(pool=raising(TaskError("Take less.")))) == "Take less."


@pytest.mark.parametrize("size", [0, 31, 33])
def test_pool_of_another_size_is_refused(size: int) -> None:
    message = unchecked(small(pool=returning(Small().pool(size, 0))))
    assert f"{size} distinct problems for task.pool_size=32" in message


def test_pool_with_a_problem_twice_is_refused() -> None:
    doubled = [*Small().pool(31, 0), Small().pool(1, 0)[0]]
    assert "31 distinct problems" in unchecked(small(pool=returning(doubled)))


def test_too_few_heldout_problems_are_refused() -> None:
    heldout = Small().heldout()
    check_task(small(heldout=returning(heldout[:64])), config(probe=64, final=64))
    assert "63 problems, fewer than probe.size=64" in unchecked(small(heldout=returning(heldout[:63])))
    assert "64 problems, fewer than probe.final_size=65" in unchecked(
        small(heldout=returning(heldout[:64])), config(probe=64, final=65)
    )


def test_pool_that_overlaps_heldout_is_refused_also_beyond_the_probe() -> None:
    heldout = [*Small().heldout()[:999], Problem("another key", "p3", "3")]
    message = unchecked(small(heldout=returning(heldout)), config(pool=32, probe=64))
    assert "held-out prompts" in message
    assert "'p3'" in message


@pytest.mark.parametrize("limits", [(), (0,), (4, -1)])
def test_turn_without_a_positive_limit_is_refused(limits: tuple[int, ...]) -> None:
    assert f"max_new_tokens={limits!r}" in unchecked(small(max_new_tokens=limits))


def test_verifier_that_raises_is_refused_with_the_cause() -> None:
    assert "raised ZeroDivisionError: by nought" in unchecked(small(verify=raising(ZeroDivisionError("by nought"))))


def test_verifier_that_raises_only_on_senseless_text_is_refused() -> None:
    def strict(self: Task, problem: Problem, transcript: Transcript) -> Verdict:
        right = int(transcript.turns[-1]) == int(problem.answer)
        return Verdict(float(right), right)

    assert "ValueError" in unchecked(small(verify=strict))


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf")])
def test_verifier_that_gives_no_finite_reward_is_refused(reward: float) -> None:
    assert "a finite number as reward" in unchecked(small(verify=returning(Verdict(reward, correct=True))))


@pytest.mark.parametrize("value", [None, 1.0, (1.0, True)])
def test_verifier_that_gives_no_verdict_is_refused(value: object) -> None:
    assert repr(value) in unchecked(small(verify=returning(value)))


def test_verifier_that_accepts_everything_is_refused() -> None:
    message = unchecked(small(verify=returning(Verdict(1.0, correct=True))))
    assert "empty or senseless answer" in message


def test_verifier_that_accepts_the_empty_answer_is_refused() -> None:
    def lenient(self: Task, problem: Problem, transcript: Transcript) -> Verdict:
        right = transcript.finished and problem.answer.startswith(transcript.turns[-1])
        return Verdict(float(right), right)

    assert "empty or senseless answer" in unchecked(small(verify=lenient))


def test_verifier_that_refuses_the_reference_is_refused() -> None:
    message = unchecked(small(verify=returning(Verdict(0.0, correct=False))))
    assert "refuses the reference answer to 'h0'" in message


FAILING = [
    pytest.param(raising(RuntimeError("gone")), id="raises"),
    pytest.param(returning(None), id="none"),
    pytest.param(returning(Verdict(float("nan"), correct=False)), id="nan"),
]


def grade(task: Task, problem: Problem, answer: str) -> Grade | None:
    """What becomes of an answer on its way through the task's own verifier."""
    grader = Grader(task, TaskReward(task), seed=0, sample_rate=0.0)
    try:
        return grader.grade(EpisodeId(StepId(0, 1, 1), problem.key, 0), problem, Transcript((answer,)))
    except RewardError:
        return None


@pytest.mark.parametrize("method", FAILING)
def test_grading_masks_where_the_verifier_fails_and_keeps_the_reason(method: Callable[..., Any]) -> None:
    task, problem = small(verify=method), Small().heldout()[0]
    answer = Answered(EpisodeId(StepId(0, 1, 1), problem.key, 0), problem, Transcript(("0",)))
    channels = trusted_channels(task)
    grades = grade_all(channels, task, StepId(0, 1, 1), [answer, None, answer])
    assert grades == [None] * 3
    assert channels.failures.reason(StepId(0, 1, 1))


@pytest.mark.parametrize("method", FAILING)
def test_verify_raises_where_grading_masks(method: Callable[..., Any]) -> None:
    with pytest.raises(RewardError, match="small"):
        verify(small(verify=method), Small().heldout()[0], Transcript(("0",)))


def test_one_failing_transcript_masks_no_other() -> None:
    rounds = itertools.count()

    def every_other(self: Task, problem: Problem, transcript: Transcript) -> Verdict:
        if next(rounds) % 2:
            raise TimeoutError
        return Verdict(0.5, correct=False)

    task, problem = small(verify=every_other), Small().heldout()[0]
    grades = [grade(task, problem, "0") for _ in range(4)]
    assert [g and (g.reward, g.live, g.correct) for g in grades] == [(0.5, 0.5, False), None] * 2


@pytest.mark.parametrize(("answer", "reward", "correct"), [("7", 1.0, True), ("8", 0.0, False)])
def test_grade_of_a_sound_verifier_is_its_verdict(answer: str, reward: float, correct: bool) -> None:
    result = grade(Small(), Small().heldout()[7], answer)
    assert result is not None
    assert (result.reward, result.live, result.correct) == (reward, reward, correct)


def test_check_says_how_long_the_slowest_verdict_took() -> None:
    class Judge(Addition):
        def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
            if transcript.turns != ("",):
                return super().verify(problem, transcript)
            time.sleep(0.05)
            return Verdict(0.0, correct=False)

    assert 0.05 <= check_task(Judge(), config(pool=32)).verdict_s < 5
    assert check_task(Addition(), config(pool=32)).verdict_s < 0.05
