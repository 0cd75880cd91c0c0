"""Advantages, loss, gradient and figures against TRL's own trainers, driven on the same trajectories.

TRL 1.16 has no PPO: generalised advantages, whitening and the value loss have their own tests elsewhere.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.models import ASSETS
from rftfm_ray.training.accumulator import MetricAccumulator
from rftfm_ray.training.advantages import group_advantages, leave_one_out_advantages
from rftfm_ray.training.credit import Credit
from rftfm_ray.training.forward import load_causal_lm, predict
from rftfm_ray.training.losses import token_logprobs
from rftfm_ray.training.objective import Anchors, Forward, LossWeights, targets_of, terms
from rftfm_ray.training.packing import pack, token_weights
from rftfm_ray.types import Settings

TINY = str(ASSETS / "tiny")
SIZE = 4
# Two groups of four; the last member of the first and two of the second are masked.
REWARDS: list[float | None] = [1.0, 0.25, 0.0, None, 1000.0, None, None, 1001.5]
# Prompts, then what the model chose (a) and was shown (o).
ROLES = ["ppppaaooa", "ppppa", "ppppaaa", "ppppaoooaaa", "pppaa", "pppaaaaaaa", "pppa", "pppaoaa"]
CLIP_LOW, CLIP_HIGH, KL_COEF = 0.1, 0.15, 0.3

MakeBatch = Callable[..., TrajectoryBatch]
MakeTrainer = Callable[..., Any]


def worth(completions: Sequence[str], reward: Sequence[float | None], **_: Any) -> list[float | None]:
    """The reward function that TRL asks: the column of the data set."""
    return list(reward)


@pytest.fixture(scope="module")
def trl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], MakeTrainer]]:
    """Builds trainers of the shipped model, `GRPO` or `RLOO`, with options of their configuration."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        # The import of vLLM takes 5 s, and it would stay in this process.
        patch.setattr(importlib.import_module("trl.import_utils"), "is_vllm_available", lambda *_, **__: False)
        library, datasets = importlib.import_module("trl"), importlib.import_module("datasets")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        folder, tokenizer = str(tmp_path_factory.mktemp("trl")), AutoTokenizer.from_pretrained(TINY)
        prompts = datasets.Dataset.from_list([{"prompt": "1+1=", "reward": 0.0}] * len(REWARDS))

        def make(kind: str, **options: Any) -> Any:
            common = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}
            sizes = {"per_device_train_batch_size": len(REWARDS), "num_generations": SIZE, "max_completion_length": 16}
            config = getattr(library, f"{kind}Config")(output_dir=folder, **common, **sizes, **options)
            trainer = getattr(library, f"{kind}Trainer")(
                model=AutoModelForCausalLM.from_pretrained(TINY), reward_funcs=worth, args=config,
                train_dataset=prompts, processing_class=tokenizer,
            )  # fmt: skip
            trainer.current_gradient_accumulation_steps = 1
            return trainer

        yield lambda kind: lambda **options: make(kind, **options)
    torch.set_num_threads(threads)


def scored(trainer: Any, batch: TrajectoryBatch, rewards: Sequence[float | None]) -> dict[str, Any]:
    """What TRL makes of the trajectories: its own inputs to the loss, advantages among them."""
    cuts = list(zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), batch.prompt_length.tolist(), strict=True))
    prompts = [batch.tokens[start : start + n].tolist() for start, _, n in cuts]
    drawn = [batch.tokens[start + n : end].tolist() for start, end, n in cuts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_tokenize_prompts", lambda _: (prompts, None, {}))
        alone = type(trainer).__name__ == "RLOOTrainer"
        patch.setattr(trainer, "_generate_single_turn", lambda *_: drawn if alone else (drawn, None))
        inputs: dict[str, Any] = trainer._generate_and_score_completions(
            [{"prompt": "", "reward": reward} for reward in rewards]
        )
    return inputs


@pytest.fixture
def batch(make_batch: MakeBatch) -> TrajectoryBatch:
    """Eight trajectories of two groups, over the shipped model's vocabulary."""
    draw = np.random.default_rng(5)
    prompts = [draw.integers(3, 19, 4).tolist(), draw.integers(3, 19, 3).tolist()]
    tokens = [[*prompts[i // SIZE], *draw.integers(3, 19, len(r) - len(prompts[i // SIZE])).tolist()]
              for i, r in enumerate(ROLES)]  # fmt: skip
    rewards = [0.0 if reward is None else reward for reward in REWARDS]
    return make_batch(rewards, roles=ROLES, groups=[i // SIZE for i in range(len(ROLES))], tokens=tokens)


def masked(rewards: Sequence[float | None]) -> tuple[Any, Any, Any]:
    """Rewards, groups and members that count, as our functions take them."""
    array = np.array([math.nan if reward is None else reward for reward in rewards], np.float32)
    return array, np.arange(len(array), dtype=np.int32) // SIZE, ~np.isnan(array)


@pytest.mark.parametrize("scale", ["group", "none"])
def test_group_advantages_are_those_of_trl(trl: Any, batch: TrajectoryBatch, scale: str) -> None:
    found = scored(trl("GRPO")(scale_rewards=scale), batch, REWARDS)["advantages"]
    expected = group_advantages(*masked(REWARDS), normalize_std=scale == "group")
    assert np.abs(expected).max() > 0.7
    np.testing.assert_allclose(expected, found.numpy(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("rewards", [REWARDS, [0.5] * 8, [0.5, None, None, None, 1.0, 0.0, 0.0, 0.0]])
def test_leave_one_out_advantages_are_those_of_trl(trl: Any, batch: TrajectoryBatch, rewards: Any) -> None:
    found = scored(trl("RLOO")(beta=0.0), batch, rewards)["advantages"]
    expected = leave_one_out_advantages(*masked(rewards), normalize_std=False)
    np.testing.assert_allclose(expected, found.numpy(), rtol=2e-5, atol=1e-6)


def moved(model: Any) -> None:
    """Move a model off its reference."""
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))


def ours(
    batch: TrajectoryBatch, weights: dict[str, Tensor], advantages: Tensor, shift: Tensor, settings: Settings,
    temperature: float, aggregation: str,
) -> tuple[float, dict[str, Tensor], Any]:  # fmt: skip
    """Loss, gradient by name, and figures of the trajectories by our own code; old log-probs are `shift` lower."""
    model, reference = load_causal_lm(TINY, "float32"), load_causal_lm(TINY, "float32")
    model.load_state_dict(weights)
    counts = batch.action_counts()
    micro = pack(batch, np.arange(len(batch)), token_weights(counts, aggregation), torch.device("cpu"))
    looks = []
    for one in (model, reference):
        logits = predict(one, micro.packed, micro.row, micro.column)
        looks.append(token_logprobs(logits, micro.targets, temperature, entropy_gradient=True))
    (logprobs, entropy), (ref, _) = looks
    old, now = logprobs.detach() - shift, Forward(logprobs, entropy, None)
    tokens = np.repeat(advantages.numpy(), counts)
    targets = targets_of(micro, Credit(batch.valid, tokens, np.zeros(0, np.float32)), None)
    parts = terms(micro, now, Anchors(old, ref.detach()), targets, LossWeights(settings))
    torch.autograd.backward(parts.loss)
    metrics = MetricAccumulator(comparable=False)
    with torch.no_grad():
        metrics.add(micro, settings, targets, parts)
    figures = metrics.metrics(settings, 1.0, 0.0, 0, critic=False)
    return float(parts.loss.detach()), {name: p.grad for name, p in model.named_parameters()}, figures


VARIANTS: dict[str, tuple[str, float, float]] = {
    "token": ("bnpo", 1.0, 0.0),
    "sequence": ("grpo", 1.0, 0.0),
    "token-temperature": ("bnpo", 0.7, 0.0),
    "token-entropy": ("bnpo", 1.0, 0.2),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_gradient_and_figures_are_those_of_trl(trl: Any, batch: TrajectoryBatch, variant: str) -> None:
    loss_type, temperature, entropy = VARIANTS[variant]
    options = {"loss_type": loss_type, "temperature": temperature, "entropy_coef": entropy, "beta": KL_COEF}
    # Its KL by default bears the ratio to the policy before the step.
    options |= {"epsilon": CLIP_LOW, "epsilon_high": CLIP_HIGH, "use_bias_correction_kl": False}
    trainer = trl("GRPO")(**options)
    moved(trainer.model)
    trainer.model.eval()
    inputs = scored(trainer, batch, [float(i % 3) for i in range(len(batch))])
    completion = batch.offsets[:-1] + batch.prompt_length
    inputs["tool_mask"] = torch.zeros_like(inputs["completion_mask"])
    for i, (start, end) in enumerate(zip(completion, batch.offsets[1:], strict=True)):
        inputs["tool_mask"][i, : end - start] = torch.from_numpy(batch.action[start:end]).long()
    shift = 0.3 * torch.randn(int(batch.action.sum()), generator=torch.Generator().manual_seed(1))
    ids, both = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], 1) for x in ("ids", "mask"))
    with torch.no_grad():
        old, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, both, inputs["completion_ids"].shape[1], compute_entropy=True
        )
    old[inputs["tool_mask"].bool()] -= shift
    inputs["old_per_token_logps"] = old
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, inputs)
    torch.autograd.backward(loss)

    settings = Settings(0.0, KL_COEF, CLIP_LOW, CLIP_HIGH, entropy, 1.0, 1, None, False, 1.0, 1.0, 0.0, False)
    aggregation = "sequence" if loss_type == "grpo" else "token"
    found, gradient, figures = ours(batch, weights, inputs["advantages"], shift, settings, temperature, aggregation)
    assert found == pytest.approx(float(loss.detach()), rel=1e-4)
    for name, parameter in trainer.model.named_parameters():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-3, atol=1e-3 * scale)
    theirs = {key: values[-1] for key, values in trainer._metrics["eval"].items()}
    assert figures.kl_ref == pytest.approx(theirs["kl"], rel=1e-3)
    assert figures.entropy == pytest.approx(theirs["entropy"], rel=1e-4)
    assert figures.clip_low_rate == pytest.approx(theirs["clip_ratio/low_mean"])
    assert figures.clip_high_rate == pytest.approx(theirs["clip_ratio/high_mean"])
    assert min(figures.kl_ref, figures.clip_low_rate, figures.clip_high_rate) > 0.01
