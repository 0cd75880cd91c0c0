"""The DeepSpeed engine against plain torch, in every ZeRO stage: same updates, exact undo, exact restore."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from benchmarks.gpu.learner import failures
from rftfm_ray.config import LearnerConfig, ModelConfig
from rftfm_ray.errors import LearnerError
from rftfm_ray.models import ASSETS
from rftfm_ray.training.engine import LearnerEngine, from_numpy, initialise_distributed, to_numpy
from rftfm_ray.training.packing import pack_sequences
from rftfm_ray.types import Settings

TINY = str(ASSETS / "tiny")
LR, BETAS, DECAY = 1e-3, (0.8, 0.95), 0.1
# Eight sequences of twelve tokens.
TOKENS = torch.randint(3, 19, (8, 12), generator=torch.Generator().manual_seed(0))
ONE, OTHER = TOKENS[:4], TOKENS[4:]

Weights = dict[str, NDArray[Any]]

every_stage = pytest.mark.parametrize("stage", [0, 1, 2, 3])
# Stage 3 gathers every parameter for every pass: its cases take nine tenths of the time of all.
every_layout = pytest.mark.parametrize(
    ("stage", "dtype"),
    [(stage, dtype) for dtype in ("float32", "bfloat16") for stage in (0, 1, 2) if (stage, dtype) != (0, "bfloat16")]
    + [pytest.param(3, dtype, marks=pytest.mark.slow) for dtype in ("float32", "bfloat16")],
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_engine(stage: int, dtype: str = "float32", **more: object) -> LearnerEngine:
    """An engine on the shipped model."""
    learner = {"zero_stage": stage, "lr": LR, "adam_betas": BETAS, "weight_decay": DECAY}
    config = LearnerConfig.model_validate({**learner, **more})
    return LearnerEngine(ModelConfig.model_validate({"dtype": dtype}), TINY, config)


def settings(lr: float = LR, max_grad_norm: float = 1.0) -> Settings:
    """Settings of one update."""
    return Settings(lr, 0.0, 0.2, 0.2, 0.0, max_grad_norm, 1, None, False, 1.0, 1.0, 0.0, False)


def commit(engine: LearnerEngine, now: Settings) -> None:
    """Commit at the rate and norm of `now`."""
    engine.commit(now.lr, now.max_grad_norm)


def logits_of(engine: LearnerEngine, tokens: Tensor) -> Tensor:
    """(b (L - 1), V) logits of the tokens that follow each of tokens (b, L) but the last."""
    size, length = tokens.shape
    packed = pack_sequences(list(tokens.numpy().astype(np.int32)), np.zeros(size, np.int32), engine.device)
    return engine.logits(
        packed, torch.arange(size).repeat_interleave(length - 1), torch.arange(length - 1).repeat(size)
    )


def loss_of(engine: LearnerEngine, tokens: Tensor, scale: float = 1.0) -> Tensor:
    """Scaled mean cross entropy of the next token."""
    return scale * cross_entropy(logits_of(engine, tokens).float(), tokens[:, 1:].flatten())


def update(engine: LearnerEngine, tokens: Tensor, scale: float = 1.0, now: Settings | None = None) -> float:
    """One update on one batch; the norm of its gradient."""
    engine.backward(loss_of(engine, tokens, scale), last=True)
    norm = engine.grad_norm()
    commit(engine, now or settings())
    return norm


def accumulate(engine: LearnerEngine, tokens: Tensor, parts: int, scale: float = 1.0) -> float:
    """Add the gradients of `parts` micro batches; the norm of their sum."""
    micros = tokens.chunk(parts)
    for i, micro in enumerate(micros, 1):
        engine.backward(loss_of(engine, micro, scale / parts), last=i == parts)
    return engine.grad_norm()


def assert_same(found: Weights, expected: Weights) -> None:
    """Equal bit for bit."""
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name].tobytes() != expected[name].tobytes()] == []


def assert_close(found: Weights, expected: Weights) -> None:
    """The same way from the start within 1 %: Adam makes a whole step even of a gradient that is all rounding."""
    assert found.keys() == expected.keys()
    apart = math.fsum(float(((found[name] - expected[name]) ** 2).sum()) for name in expected)
    moved = math.fsum(float(((expected[name] - START[name]) ** 2).sum()) for name in expected)
    assert math.sqrt(apart) < 0.01 * math.sqrt(moved)


@every_layout
def test_layers_that_are_computed_again_give_the_same_updates(stage: int, dtype: str) -> None:
    engines = [make_engine(stage, dtype, gradient_checkpointing=again) for again in (False, True)]
    for tokens in (ONE, OTHER):
        assert len({update(engine, tokens) for engine in engines}) == 1
    whole, again = (engine.export() for engine in engines)
    assert_same(again, whole)


class Plain:
    """The same updates in plain torch."""

    def __init__(self) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(TINY).eval()
        self._adam = torch.optim.AdamW(self.model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY)

    def update(self, tokens: Tensor, scale: float = 1.0, now: Settings | None = None) -> float:
        now = now or settings()
        logits = self.model(input_ids=tokens).logits[:, :-1]
        self._adam.zero_grad()
        torch.autograd.backward(scale * cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), now.max_grad_norm)
        self._adam.param_groups[0]["lr"] = now.lr
        self._adam.step()
        return float(norm)

    def disturb(self, forgotten: float, epsilon: float) -> None:
        for moments in self._adam.state.values():
            moments["exp_avg_sq"] *= 1 - forgotten
        self._adam.param_groups[0]["eps"] = 1e-8 + epsilon

    def weights(self) -> Weights:
        return {name: p.detach().numpy().copy() for name, p in self.model.named_parameters()}


START = Plain().weights()
# Scales and clipping norms differ, so that each of them leaves its mark on Adam's moments.
COURSE = [
    (ONE, 1.0, settings(LR, 0.5)),
    (OTHER, 50.0, settings(LR / 3, 2.0)),
    (TOKENS, 0.02, settings(LR, 100.0)),
]


@every_stage
def test_updates_and_norms_are_those_of_torch_with_clipping(stage: int) -> None:
    engine, plain = make_engine(stage), Plain()
    for tokens, scale, now in COURSE:
        assert update(engine, tokens, scale, now) == pytest.approx(plain.update(tokens, scale, now), rel=1e-4)
        assert_close(engine.export(), plain.weights())


@every_stage
def test_micro_batches_add_up_to_one_batch(stage: int) -> None:
    whole, parts = make_engine(stage), make_engine(stage, micro_batch_size=3)
    for _ in range(2):
        norm = update(whole, TOKENS)
        for rows in (slice(0, 3), slice(3, 6), slice(6, 8)):
            micro = TOKENS[rows]
            parts.backward(loss_of(parts, micro, len(micro) / len(TOKENS)), last=rows.stop == 8)
        assert parts.grad_norm() == pytest.approx(norm, rel=1e-4)
        commit(parts, settings())
        assert_close(parts.export(), whole.export())


@every_layout
def test_rate_and_clipping_are_those_of_the_settings_not_of_the_configuration(stage: int, dtype: str) -> None:
    still, tight, loose = (make_engine(stage, dtype) for _ in range(3))
    before = still.export()
    for tokens, scale in ((ONE, 1.0), (OTHER, 50.0)):
        update(still, tokens, scale, settings(lr=0.0))
        update(tight, tokens, scale, settings(max_grad_norm=0.01))
        update(loose, tokens, scale, settings(max_grad_norm=1e6))
    assert_same(still.export(), before)
    moved = [np.abs(tight.export()[name] - loose.export()[name]).max() for name in before]
    assert max(moved) > LR / 10


@every_stage
def test_asking_for_the_norm_changes_nothing(stage: int) -> None:
    asked, silent = make_engine(stage), make_engine(stage)
    for engine in (asked, silent):
        engine.backward(loss_of(engine, ONE, 30.0), last=True)
    first = asked.grad_norm()
    assert asked.grad_norm() == first
    for engine in (asked, silent):
        commit(engine, settings())
    assert_same(asked.export(), silent.export())


@every_layout
def test_discarded_gradient_leaves_weights_and_state_bit_for_bit(stage: int, dtype: str) -> None:
    engine = make_engine(stage, dtype)
    update(engine, ONE)
    weights, state = engine.export(), to_numpy(engine.state())
    for _ in range(2):
        engine.backward(loss_of(engine, ONE, 100.0), last=False)
        engine.backward(loss_of(engine, OTHER, 100.0), last=True)
        engine.grad_norm()
        engine.discard()
    assert_same(engine.export(), weights)
    assert_same(to_numpy(engine.state()), state)


@every_layout
@pytest.mark.parametrize("parts", [1, 2])
def test_updates_after_a_discard_are_those_without_it(stage: int, dtype: str, parts: int) -> None:
    straight, detour = make_engine(stage, dtype), make_engine(stage, dtype)
    for engine in (straight, detour):
        accumulate(engine, ONE, parts)
        commit(engine, settings())
    for scale in (100.0, 1e-3):
        accumulate(detour, TOKENS, parts, scale)
        detour.discard()
    detour.backward(loss_of(detour, TOKENS, 100.0), last=False)
    detour.discard()
    for tokens in (OTHER, TOKENS):
        assert accumulate(detour, tokens, parts) == accumulate(straight, tokens, parts)
        for engine in (straight, detour):
            commit(engine, settings())
        assert_same(detour.export(), straight.export())


@every_layout
def test_restored_engine_repeats_its_updates_bit_for_bit(stage: int, dtype: str) -> None:
    engine = make_engine(stage, dtype)
    for tokens in (ONE, OTHER):
        update(engine, tokens)
    weights, state = engine.export(), engine.state()
    courses = []
    for _ in range(2):
        course = [(update(engine, tokens), engine.export()) for tokens in (TOKENS, ONE, OTHER)]
        courses.append((course, torch.rand(3)))
        engine.load_state(state)
        assert_same(engine.export(), weights)
    for (norm, first), (norm_again, again) in zip(courses[0][0], courses[1][0], strict=True):
        assert norm_again == norm
        assert_same(again, first)
    assert torch.equal(courses[0][1], courses[1][1])


@every_layout
def test_new_engine_goes_on_from_a_saved_state_bit_for_bit(stage: int, dtype: str) -> None:
    engine = make_engine(stage, dtype)
    for tokens in (ONE, OTHER):
        update(engine, tokens)
    resumed = make_engine(stage, dtype)
    resumed.load_state(from_numpy(to_numpy(engine.state())))
    for tokens in (TOKENS, ONE):
        assert update(resumed, tokens) == update(engine, tokens)
        assert_same(resumed.export(), engine.export())
    assert_same(to_numpy(resumed.state()), to_numpy(engine.state()))


@every_stage
def test_state_before_the_first_update_can_be_restored(stage: int) -> None:
    engine = make_engine(stage)
    state = engine.state()
    update(engine, ONE)
    first = engine.export()
    engine.load_state(state)
    update(engine, ONE)
    assert_same(engine.export(), first)


@every_stage
def test_state_is_a_copy(stage: int) -> None:
    engine = make_engine(stage)
    state = engine.state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    update(engine, ONE)
    assert_same(to_numpy(state), to_numpy(before))


@every_stage
def test_export_is_a_copy_of_the_weights_by_their_names(stage: int) -> None:
    engine = make_engine(stage)
    exported = engine.export()
    assert_same(exported, START)
    update(engine, ONE)
    assert_same(exported, START)
    assert exported["lm_head.weight"].tobytes() != engine.export()["lm_head.weight"].tobytes()


@every_stage
def test_bfloat16_weights_are_exported_exactly_as_float32(stage: int) -> None:
    exported = make_engine(stage, "bfloat16").export()
    expected = {name: torch.from_numpy(value).bfloat16().float().numpy() for name, value in START.items()}
    assert_same(exported, expected)


@every_layout
def test_gradient_that_is_not_finite_has_no_norm_and_can_be_discarded(stage: int, dtype: str) -> None:
    engine, untouched = make_engine(stage, dtype), make_engine(stage, dtype)
    for scale in (math.nan, math.inf):
        engine.backward(loss_of(engine, ONE, scale), last=True)
        assert not math.isfinite(engine.grad_norm())
        engine.discard()
    assert_same(engine.export(), untouched.export())
    assert update(engine, OTHER) == update(untouched, OTHER)
    assert_same(engine.export(), untouched.export())


@every_stage
def test_state_of_another_layout_is_refused_and_changes_nothing(stage: int) -> None:
    engine = make_engine(stage)
    update(engine, ONE)
    weights, state = engine.export(), engine.state()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for other in (
        {name: tensor for name, tensor in zeros.items() if name != "optimizer.0.exp_avg"},
        {**zeros, "master.999": torch.zeros(1)},
        {**zeros, "master.0": torch.zeros(zeros["master.0"].numel() + 1)},
    ):
        with pytest.raises(LearnerError, match=r"does not fit this learner .*learner\.zero_stage"):
            engine.load_state(other)
    assert_same(engine.export(), weights)
    assert_same(to_numpy(engine.state()), to_numpy(state))


@pytest.mark.parametrize(("source", "target"), [(0, 2), (2, 0), (1, 2), (2, 3), (3, 2)])
def test_state_of_another_stage_is_refused_or_means_the_same(source: int, target: int) -> None:
    saved, loading = make_engine(source), make_engine(target)
    update(saved, ONE)
    try:
        loading.load_state(saved.state())
    except LearnerError:
        assert 0 in (source, target)
        assert source != target
        return
    assert_same(loading.export(), saved.export())


def test_process_group_is_made_once() -> None:
    initialise_distributed()
    group, port = torch.distributed.group.WORLD, os.environ["MASTER_PORT"]
    initialise_distributed()
    assert torch.distributed.group.WORLD is group
    assert os.environ["MASTER_PORT"] == port
    assert (torch.distributed.get_rank(), torch.distributed.get_world_size()) == (0, 1)


@every_stage
def test_engines_of_one_process_do_not_share_weights(stage: int) -> None:
    one, other = make_engine(stage), make_engine(stage)
    before = other.export()
    update(one, ONE)
    assert_same(other.export(), before)
    update(other, ONE)
    assert_same(other.export(), one.export())


def test_model_is_in_evaluation_mode_on_its_device() -> None:
    engine = make_engine(2)
    with torch.no_grad():
        first, second = (logits_of(engine, ONE) for _ in range(2))
    assert torch.equal(first, second)
    assert first.device == engine.device


@every_stage
def test_disturbed_optimizer_is_adam_with_smaller_moments_or_a_larger_epsilon(stage: int) -> None:
    engine, plain = make_engine(stage), Plain()
    engine.disturb(0.5, 0.0)
    for tokens, forgotten, epsilon in ((ONE, 0.0, 0.0), (OTHER, 0.9, 0.0), (ONE, 0.0, 0.01), (OTHER, 0.0, 0.0)):
        engine.disturb(forgotten, epsilon)
        plain.disturb(forgotten, epsilon)
        update(engine, tokens)
        plain.update(tokens)
        assert_close(engine.export(), plain.weights())


@pytest.mark.slow
def test_script_for_a_cuda_machine_runs_as_far_as_a_cpu_can_tell(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.gpu.learner", "--out", str(out), "--size", "tiny", "--steps", "4"]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert figures["failed"] == []
    assert figures["packed_tokens"] < figures["tokens"] < figures["padded_tokens"]
    assert figures["plain"]["losses"][0] == figures["zero2_padded"]["losses"][0]
    figures["zero3"]["losses"][-1] *= 1.1
    figures["zero2"]["restore_difference"] = 0.1
    assert [line.split(":")[0] for line in failures(figures)] == ["zero2", "zero3"]
