"""Episodes of a model that calls tools in the format of its chat template, on a scripted engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.config import ChannelsConfig
from rftfm_ray.rollout.channels import Grader, TaskReward, ToolPool, task_tools
from rftfm_ray.rollout.checks import Checks
from rftfm_ray.rollout.engine import TurnRequest, TurnResult
from rftfm_ray.rollout.environment import Channels
from rftfm_ray.rollout.episodes import STATUS_CODE, EpisodeRules, EpisodeRunner, ServedModel
from rftfm_ray.rollout.jobs import probe_jobs
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.api import Problem, ToolStatus
from rftfm_ray.tasks.dataset import DataTask, Turns
from rftfm_ray.tasks.reward_functions import parts_of
from rftfm_ray.tasks.tools.tool import Tool, ToolBox, function_tool
from rftfm_ray.types import Levers, Sampling, StepId, Termination

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>{{ m.content }}</tool_response>"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}'
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SCHEMA = {
    "type": "function",
    "function": {
        "name": "twice", "description": "-",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    },
}  # fmt: skip
STEP = StepId(0, 3, 3)
PROMPT = "<|im_start|>user\nTwice 21?<|im_end|>\n<|im_start|>assistant\n"
CALL = '<tool_call>{"name": "twice", "arguments": {"x": 21}}</tool_call>'
READ = "\n<|im_start|>user\n<tool_response>42</tool_response><|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    """A byte-level tokenizer with the special tokens and the template of a chat model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    tokenizer.train_from_iterator([PROMPT, CALL, READ] * 5, trainer)
    folder = tmp_path_factory.mktemp("chat")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=TEMPLATE)
    fast.save_pretrained(folder)
    return TextCodec(str(folder))


class Scripted:
    """Says one turn after the other, each up to an end token or the limit."""

    def __init__(self, codec: TextCodec, turns: Sequence[str]) -> None:
        self._codec, self._turns = codec, list(turns)
        self._queue: list[TurnResult] = []
        self.prompts: list[str] = []

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        self.prompts.append(self._codec.decode(request.tokens))
        said = self._codec.encode(self._turns.pop(0))[: request.max_tokens]
        truncated = said[-1] not in request.stop_token_ids
        self._queue.append(TurnResult(request.id, said, [-1.0] * len(said), truncated))

    def step(self) -> Sequence[TurnResult]:
        done, self._queue = self._queue, []
        return done

    def busy(self) -> bool:
        return bool(self._queue)


def twice(x: int) -> int:
    """Of a number."""
    return 2 * x


def failing(x: int) -> int:
    """A tool that is out."""
    raise ConnectionError("out")


class Second:
    """A tool whose first instance is out."""

    def __call__(self, arguments: Any, instance: int) -> int:
        if instance == 0:
            raise ConnectionError("out")
        return int(2 * arguments["x"])


def play(
    codec: TextCodec,
    turns: Sequence[str],
    tool: Tool | None = None,
    *,
    limit: int = 400,
    most: int = 3,
    retries: int = 0,
) -> tuple[TrajectoryBatch, Scripted]:
    """One episode, every turn of which is replayed."""
    used = tool or function_tool(SCHEMA, twice)
    template = codec.template([SCHEMA])
    box = ToolBox([used], template.calls(), partial(template.results, closes=False), 100)
    problem = Problem("k", PROMPT, "42")
    task = DataTask([problem], [problem], parts_of(["exact"], ()), turns=Turns(90, most, box))
    checks = Checks(task, ChannelsConfig(replay_rate=1.0), 1)
    channels = Channels(ToolPool(task, task_tools(task), retries), Grader(task, TaskReward(task), 1, 0.0), checks)
    engine = Scripted(codec, turns)
    runner = EpisodeRunner(ServedModel(engine, codec, limit), task, EpisodeRules(1), channels)
    runner.set_levers(Levers())
    return runner.run(probe_jobs([problem]), STEP, Sampling(1.0, 1.0), 7), engine


def sound(batch: TrajectoryBatch) -> bool:
    """Whether every check of the transcript agrees with it."""
    found = (
        batch.termination_ok, batch.observation_ok, batch.observation_decode_ok, batch.replay_observation_ok,
        batch.replay_termination_ok,
    )  # fmt: skip
    return all(bool(np.all(flags)) for flags in found)


def test_a_call_is_answered_and_the_next_turn_follows_it(codec: TextCodec) -> None:
    batch, engine = play(codec, [CALL + "<|im_end|>", "42<|im_end|>"])
    assert engine.prompts == [PROMPT, PROMPT + CALL + "<|im_end|>" + READ]
    assert (batch.termination.tolist(), batch.turns.tolist()) == ([Termination.EOS], [2])
    assert (batch.reward.tolist(), batch.correct.tolist(), batch.valid.tolist()) == ([1.0], [True], [True])
    assert batch.call_status.tolist() == [STATUS_CODE[ToolStatus.OK]]
    assert batch.texts == (CALL + READ + "42",)
    assert codec.decode(batch.tokens.tolist()) == PROMPT + CALL + "<|im_end|>" + READ + "42<|im_end|>"
    learnt = codec.decode(batch.tokens[batch.action].tolist())
    assert learnt == CALL + "<|im_end|>42<|im_end|>"
    assert sound(batch)


def test_a_turn_without_a_call_is_the_answer(codec: TextCodec) -> None:
    batch, _ = play(codec, ["42<|im_end|>"])
    assert (batch.termination.tolist(), batch.reward.tolist(), len(batch.call_turn)) == ([Termination.EOS], [1.0], 0)
    assert batch.replayed.all()
    assert sound(batch)


def test_a_call_that_makes_no_sense_is_answered_with_what_is_wrong(codec: TextCodec) -> None:
    batch, engine = play(codec, ["<tool_call>twice(21)</tool_call><|im_end|>", "42<|im_end|>"])
    assert "<tool_response>Error: the call is not JSON</tool_response>" in engine.prompts[1]
    assert batch.call_status.tolist() == [STATUS_CODE[ToolStatus.UNPARSABLE]]
    assert (batch.valid.tolist(), batch.reward.tolist()) == ([True], [1.0])
    assert sound(batch)


def test_calls_without_an_end_are_cut_off_by_turns_and_by_room(codec: TextCodec) -> None:
    batch, _ = play(codec, [CALL + "<|im_end|>"] * 2, most=2)
    assert (batch.termination.tolist(), batch.turns.tolist()) == ([Termination.MAX_TURNS], [2])
    assert sound(batch)
    tight = len(codec.encode(PROMPT + CALL + "<|im_end|>")) + 4
    batch, _ = play(codec, [CALL + "<|im_end|>"], limit=tight)
    assert (batch.termination.tolist(), batch.turns.tolist()) == ([Termination.MAX_TOKENS], [1])
    assert sound(batch)
    batch, _ = play(codec, ["4" * 90])
    assert batch.termination.tolist() == [Termination.MAX_TOKENS]
    assert sound(batch)


def test_a_tool_that_fails_masks_the_episode_and_another_instance_saves_it(codec: TextCodec) -> None:
    batch, _ = play(codec, [CALL + "<|im_end|>"], function_tool(SCHEMA, failing))
    assert (batch.termination.tolist(), batch.valid.tolist()) == ([Termination.FAILED], [False])
    assert np.isnan(batch.reward).all()
    assert sound(batch)
    batch, _ = play(codec, [CALL + "<|im_end|>", "42<|im_end|>"], Tool(SCHEMA, Second()), retries=1)
    assert (batch.call_tries.tolist(), batch.reward.tolist()) == ([2], [1.0])
