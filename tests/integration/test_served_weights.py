"""What vLLM serves against what the learner holds: silent after real loads, loud when it serves other weights."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import ray
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rftfm_ray.actors.calls import Limit, Pending, wait_for
from rftfm_ray.actors.group import ActorGroup, start_group
from rftfm_ray.config import load_config
from rftfm_ray.models import ASSETS
from rftfm_ray.planning import plan
from rftfm_ray.rollout.jobs import step_jobs
from rftfm_ray.rollout.weights import Served, WeightsUpdate, pack_weights
from rftfm_ray.tasks.addition import problem
from rftfm_ray.types import Sampling, StepId

pytestmark = pytest.mark.usefixtures("cluster")

T = TypeVar("T")


def tied_model(folder: Path) -> Path:
    """A tiny Llama of random weights whose head is its embedding, with the shipped tokenizer."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ASSETS / "tiny")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), **sizes, tie_word_embeddings=True, eos_token_id=1, pad_token_id=0, bos_token_id=None
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["untied", pytest.param("tied", marks=pytest.mark.slow)])
def group(request: pytest.FixtureRequest, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Actors of a shipped model, and of one with tied embeddings."""
    path = ASSETS / "tiny" if request.param == "untied" else tied_model(tmp_path_factory.mktemp("tied"))
    config = load_config(None, [f"model.path={path}", "probe.size=16", "task.name=calculator"])
    started = start_group(plan(config, tmp_path_factory.mktemp("run") / request.param))
    yield started
    started.stop()


def load(group: ActorGroup, update: WeightsUpdate) -> Served:
    """What the rollout actor serves after a load."""
    (call,) = group.rollouts.load_weights(Pending(ray.put(update), group.learner.role))
    return get(call)


def get(call: Pending[T]) -> T:
    """The result of a call."""
    return wait_for([call], Limit(60.0), "being tested")[0]


def moved(update: WeightsUpdate, version: int) -> dict[str, Any]:
    """All weights, moved by about as much as an update moves them."""
    rng = np.random.default_rng(version)
    return {n: a + rng.normal(0, 1e-5, a.shape).astype(np.float32) for n, a in update.arrays.items()}


def test_real_loads_are_served_as_the_learner_holds_them(group: ActorGroup) -> None:
    update = get(group.learner.weights(0))
    for version in range(4):
        served = load(group, pack_weights(version, moved(update, version)))
        assert (served.version, served.mismatched) == (version, ())
        # Embeddings and norms; the rest of a model is packed away on a CPU.
        assert served.compared >= 6


def test_other_weights_under_the_right_version_are_found(group: ActorGroup) -> None:
    update = get(group.learner.weights(5))
    newer = pack_weights(5, moved(update, 5))
    # As if the load had been skipped: the old arrays, under the fingerprints of the new ones.
    served = load(group, dataclasses.replace(update, fingerprints=newer.fingerprints))
    assert served.version == 5
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= set(served.mismatched)
    assert len(served.mismatched) == served.compared


def largest_gap(group: ActorGroup, version: int) -> float:
    """Of sampled log-probs against those of a pass without a cache, in nats, after prompts longer than a block."""
    # Thirteen operands are 39 tokens, a block of the cache holds 32.
    problems = [problem(*range(first, first + 13)) for first in (11, 37, 62)]
    step, sampling = StepId(0, 1, 1), Sampling(1.0, 1.0)
    (call,) = group.rollouts.generate([step_jobs(problems, 2)], step, sampling, version)
    batch = get(call)
    rows = [slice(*ends) for ends in itertools.pairwise(batch.offsets.tolist())]
    (scored,) = group.rollouts.score([batch.tokens[row].tolist() for row in rows], version)
    return max(
        float(np.abs(batch.logprobs[row][1:] - scores)[batch.action[row][1:]].max())
        for row, scores in zip(rows, get(scored), strict=True)
    )


def test_prefixes_that_were_cached_under_the_old_weights_are_not_sampled_from(group: ActorGroup) -> None:
    update = get(group.learner.weights(0))
    for version, scale in ((20, 1.0), (21, 1.2), (22, 0.8)):
        arrays = {name: array * np.float32(scale) for name, array in update.arrays.items()}
        load(group, pack_weights(version, arrays))
        assert largest_gap(group, version) < 1e-4
