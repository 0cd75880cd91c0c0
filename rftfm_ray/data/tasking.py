"""The task that a configuration names: a generator's, or that of a data set, with what then follows from its rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rftfm_ray.config import RunConfig
from rftfm_ray.config.tools import REGEX
from rftfm_ray.data.loading import EvalSet, LoadedData, load_data, load_eval
from rftfm_ray.data.tools import load_tools, turns_of
from rftfm_ray.errors import DataError
from rftfm_ray.models import read_facts, resolve_model
from rftfm_ray.rollout.text import TextCodec
from rftfm_ray.tasks.api import Task
from rftfm_ray.tasks.dataset import NAME, DataTask, RightAnswers
from rftfm_ray.tasks.http import check_url
from rftfm_ray.tasks.loading import load_task
from rftfm_ray.tasks.remote_rewards import RemoteReward
from rftfm_ray.tasks.reward_functions import RewardPart, part_of, parts_of

logger = logging.getLogger(__name__)

SERVER_SHARE = 0.6
"""Share of `verifier.timeout_s` that a reward server has for its answer; the rest before it takes a third of that."""
FEWEST_HELDOUT = 16
"""Held-out rows below which accuracy says nothing; the least that `probe.size` can be."""


@dataclass(frozen=True, slots=True)
class ConfiguredTask:
    """A task, the configuration with what its data set decides, and the files that are evaluated.

    A data set decides numbers of rows, and the room that prompts need.
    """

    task: Task
    config: RunConfig
    evals: tuple[EvalSet, ...] = ()


def task_of(config: RunConfig) -> ConfiguredTask:
    """The task that a configuration names.

    Raises:
        TaskError: when there is no such task or reward function.
        DataError: when the data set cannot be read or trained on.
        ModelError: when prompts of messages need a chat template, and the model has none.
    """
    if config.data.train is None:
        return ConfiguredTask(load_task(config.task.name, config.task.options), config)
    # Before a file is read: what is misspelt is said at once.
    parts, right = _rewards(config)
    tools = load_tools(config.tools, SERVER_SHARE * config.verifier.timeout_s)
    path = resolve_model(config.model.path)
    codec, positions = TextCodec(str(path)), read_facts(path).max_positions
    turns = turns_of(config, tools, codec)
    chat = partial(codec.chat, tools=[tool.schema for tool in tools])
    sizes: dict[str, int] = {}

    def fits(prompt: str) -> bool:
        sizes[prompt] = len(codec.encode(prompt))
        return positions is None or sizes[prompt] + config.data.max_new_tokens <= positions

    data = load_data(config.data, chat, fits)
    _check_answers(config, data, (*parts, *((right.verifier,) if right.verifier else ())))
    read = [load_eval(name, file, data, chat, fits) for name, file in config.eval.files() if file]
    evals = tuple(found for found, _ in read)
    task = DataTask(data.train, data.heldout, parts, right, turns)
    for note in (*data.notes, *(note for _, notes in read for note in notes), *_unknown(config, data, task)):
        logger.warning("%s.", note)
    asked = (data.train, data.heldout, *(found.problems for found in evals))
    room = max(sizes[problem.prompt] for problems in asked for problem in problems) + sum(task.max_new_tokens)
    if turns.tools is not None:
        # A character is a token at most, in all but rare scripts. An episode that needs more room ends for lack of it.
        room += (turns.most - 1) * (config.tools.max_result + len(codec.encode(turns.tools.frame)))
        room = room if positions is None else min(room, positions)
    return ConfiguredTask(task, _configured(config, data, room), evals)


def _rewards(config: RunConfig) -> tuple[tuple[RewardPart, ...], RightAnswers]:
    """The reward functions, and which answers are right."""
    reward, remote = config.reward, partial(_remote, config.verifier.timeout_s)
    parts = parts_of(reward.functions, reward.weights, remote)
    verifier = None
    if reward.verifier in reward.functions:
        verifier = parts[reward.functions.index(reward.verifier)]
    elif reward.verifier is not None:
        verifier = part_of(reward.verifier, remote=remote, key="reward.verifier")
    return parts, RightAnswers(reward.right, verifier, config.data.solution)


def _check_answers(config: RunConfig, data: LoadedData, parts: Sequence[RewardPart]) -> None:
    """Refuse rows without right answers where something needs them.

    Raises:
        DataError: names what does.
    """
    if data.columns.answer:
        return
    named = next((f"{part.name} compares" for part in parts if part.needs_answer), None)
    if config.data.solution is not None:
        named = named or f"data.solution={config.data.solution} agrees"
    if named is not None:
        raise DataError(
            f"{named} with a right answer, and data.train={config.data.train} has no column of one; set data.answer."
        )


def _unknown(config: RunConfig, data: LoadedData, task: DataTask) -> Iterator[str]:
    """What the guard or the model is not told of, as sentences without their full stops."""
    is_text = not any("messages" in row.columns for row in data.train[:1])
    if is_text and config.tools.functions and not config.tools.calls.startswith(REGEX):
        yield (
            "The prompts of data.train are text, which tells the model of none of its tools unless the text does; give "
            "chat messages, and the chat template does"
        )
    if not task.knows_references:
        yield (
            "Only reward.functions know what a right answer is: the guard has no known answers to put to them, and "
            "goes by grading a sample again; data.solution gives it some"
        )


def _remote(timeout_s: float, url: str) -> RemoteReward:
    """The reward server behind a URL; it gives up before the process is ended that asks it."""
    check_url("reward.functions", url)
    return RemoteReward(url, SERVER_SHARE * timeout_s)


def _configured(config: RunConfig, data: LoadedData, room: int) -> RunConfig:
    """The configuration with what the rows decide."""
    prompts, heldout = config.algorithm.prompts_per_step, len(data.heldout)
    if len(data.train) < prompts:
        raise DataError(
            f"data.train={config.data.train} leaves {len(data.train)} rows to train on, fewer than algorithm."
            f"prompts_per_step={prompts}; lower it, or give more rows."
        )
    if heldout < FEWEST_HELDOUT:
        raise DataError(
            f"{heldout} rows are held out, too few to tell an accuracy; hold out {FEWEST_HELDOUT} or more by "
            "data.heldout or data.heldout_share."
        )
    probe = {name: min(getattr(config.probe, name), heldout) for name in ("size", "final_size")}
    changes: Sequence[tuple[str, Mapping[str, int | str]]] = (
        # Nothing that is known of the generator `task.name`, such as what its reward is made of, holds for these rows.
        ("task", {"name": NAME, "pool_size": len(data.train)}),
        ("probe", probe),
        ("rollout", {"max_model_len": max(config.rollout.max_model_len, room)}),
        ("channels", {"golden_size": min(config.channels.golden_size, heldout)}),
    )
    tree = config.model_dump()
    for section, keys in changes:
        tree[section] |= keys
    return RunConfig.model_validate(tree)
