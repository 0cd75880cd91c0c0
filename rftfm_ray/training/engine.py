"""DeepSpeed for the learner: accumulate, check the gradient, then commit or discard; save and restore.

This module uses private parts of DeepSpeed 0.19's ZeRO optimizers where there is no public interface: the gradient norm
before the step, dropping a gradient, and the flat partitions of a snapshot. No other module does.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rftfm_ray.config import CriticConfig, LearnerConfig, ModelConfig
from rftfm_ray.errors import LearnerError
from rftfm_ray.training.critic import ActorCritic
from rftfm_ray.training.forward import load_causal_lm, packs, predict, repeat_layers, run_model
from rftfm_ray.training.packing import Packed
from rftfm_ray.training.replay import (
    ADAM_EPSILON,
    SAMPLED,
    AdamW,
    Moments,
    StepInputs,
    sampled_inputs,
    sampled_moments,
    update_factor,
)

# Number of sampled entries whose change measures the size of an update.
SAMPLED_WEIGHTS = 65_536


def initialise_distributed() -> None:
    """A process group of one rank. Safe to call twice."""
    import deepspeed

    if torch.distributed.is_initialized():
        return
    if not torch.cuda.is_available():
        # Its shared-memory collective would be compiled for 40 s, and one rank has nothing to share.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


class LearnerEngine:
    """One DeepSpeed engine over one model, of any ZeRO stage, on one rank; with a critic, over both."""

    def __init__(
        self, model: ModelConfig, path: str, learner: LearnerConfig, critic: CriticConfig | None = None
    ) -> None:
        import deepspeed

        initialise_distributed()
        self._stage = learner.zero_stage
        self._engine: Any
        self._lm = load_causal_lm(path, model.dtype)
        self._critic = None if critic is None else ActorCritic(self._lm)
        module = self._lm if self._critic is None else self._critic
        groups: list[dict[str, Any]] = [{"params": list(self._lm.parameters())}]
        if self._critic is not None and critic is not None:
            head = list(self._critic.value_head.parameters())
            groups.append({"params": head, "lr": critic.lr, "weight_decay": 0.0})
        parameters = sum(p.numel() for p in module.parameters())
        settings = self._deepspeed_config(model, learner, parameters)
        self._engine, *_ = deepspeed.initialize(model=module, model_parameters=groups, config=settings)
        self._engine.eval()
        if learner.gradient_checkpointing:
            repeat_layers(self._lm)
        self._optimizer: Any = self._engine.optimizer
        self._inner: torch.optim.Optimizer = getattr(self._optimizer, "optimizer", self._optimizer)
        self._inputs: list[tuple[Tensor, StepInputs]] | None = None
        self._left: dict[int, Moments] = {}
        self._inner.register_step_pre_hook(self._look)

    @property
    def device(self) -> torch.device:
        """The device of micro batches."""
        device: torch.device = self._engine.device
        return device

    @property
    def packs(self) -> bool:
        """Whether the model works on packed sequences, not on padded ones."""
        return packs(self._lm)

    def _deepspeed_config(self, model: ModelConfig, learner: LearnerConfig, parameters: int) -> dict[str, object]:
        # DeepSpeed allocates a whole bucket, by default for half a billion elements; its size must be even.
        bucket = min(parameters + parameters % 2, 500_000_000)
        adam = {
            "lr": learner.lr, "betas": list(learner.adam_betas), "eps": ADAM_EPSILON,
            "weight_decay": learner.weight_decay,
        }  # fmt: skip
        return {
            "train_micro_batch_size_per_gpu": learner.micro_batch_size,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": learner.max_grad_norm,
            # torch's own AdamW: DeepSpeed's CPU Adam would be compiled first.
            "optimizer": {"type": "AdamW", "params": {**adam, "torch_adam": True}},
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {
                "stage": learner.zero_stage,
                "overlap_comm": False,
                "reduce_bucket_size": bucket,
                "allgather_bucket_size": bucket,
            },
            "bf16": {"enabled": model.dtype == "bfloat16"},
            "steps_per_print": 2**31,
        }

    def logits(self, packed: Packed, row: Tensor, column: Tensor) -> Tensor:
        """(A, V) logits of the tokens that follow positions `column` of sequences `row`, both (A,)."""
        return self.forward(packed, row, column)[0]

    def forward(self, packed: Packed, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits as `logits` gives them, and the critic's values (A,) of the same states, None without a critic."""
        if self._critic is None:
            return predict(self._engine, packed, row, column), None
        output, index = run_model(self._engine, packed, row, column)
        return output.logits[index], output.values[index]

    def detach_critic(self, detached: bool) -> None:
        """End the value's gradient at the critic's head, or let it reach the policy again."""
        if self._critic is not None:
            self._critic.detached = detached

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro batch's gradient; `last` says that the next call is `grad_norm`."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def grad_norm(self) -> float:
        """Euclidean norm of the accumulated gradient before clipping, as DeepSpeed's own step will compute it.

        Not finite when any entry is not. (DeepSpeed itself reports such a norm as -1.)
        """
        if self._stage == 0:
            grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
            return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads])))
        if self._stage == 3:
            groups = [float(norm) for norm in self._optimizer._get_norm_groups()]
        else:
            groups = [float(self._optimizer.scaled_global_norm())]
        if any(not math.isfinite(norm) or norm < 0 for norm in groups):
            return math.nan
        return math.sqrt(math.fsum(norm * norm for norm in groups))

    def commit(self, lr: float, max_grad_norm: float, critic_lr: float = 0.0) -> None:
        """Clip, step, and clear the gradient; the critic's head has its own rate.

        At rate 0 the policy's moments are restored after the step: decayed ones would make the next update too large.
        """
        saved = [
            (m, {k: v.clone() for k, v in self._inner.state[m].items()}) for m in self._policy_masters() if lr == 0
        ]
        for group, rate in zip(self._optimizer.param_groups, (lr, critic_lr), strict=False):
            group["lr"] = rate
        if self._stage == 0:
            self._engine._config.gradient_clipping = max_grad_norm
        else:
            self._optimizer.clip_grad = max_grad_norm
        self._engine.step()
        for master, moments in saved:
            for name, value in self._inner.state[master].items():
                value.copy_(moments[name] if name in moments else torch.zeros_like(value))
        self._leave()

    def _leave(self) -> None:
        """Remember the moments of the sampled weights as this step leaves them."""
        stride = self._replay_stride()
        left = {id(master): sampled_moments(self._inner.state[master], stride) for master in self._policy_masters()}
        self._left = {key: moments for key, moments in left.items() if moments is not None}

    def disturb(self, forgotten: float, epsilon: float) -> None:
        """Take a share off the optimizer's second moments of the policy, and add to its epsilon until the next call.

        The count of steps stays, so the bias correction is that of moments that have lost nothing.
        """
        for master in self._policy_masters() if forgotten else []:
            if "exp_avg_sq" in self._inner.state[master]:
                self._inner.state[master]["exp_avg_sq"].mul_(1 - forgotten)
        for group in self._optimizer.param_groups:
            group["eps"] = ADAM_EPSILON + epsilon

    def keep(self, share: float) -> list[Tensor]:
        """Copies of the first `share` of every part of the policy's master weights, for `put_back`; empty for 0."""
        if share == 0:
            return []
        flat = [master.detach().reshape(-1) for master in self._policy_masters()]
        return [master[: round(share * len(master))].clone() for master in flat]

    def put_back(self, copies: Sequence[Tensor]) -> None:
        """Restore the weights that `keep` copied, as if the optimizer had not updated them."""
        with torch.no_grad():
            for master, old in zip(self._policy_masters(), copies, strict=False):
                master.data.reshape(-1)[: len(old)].copy_(old)
            if copies:
                self._publish()

    def sample(self) -> Tensor:
        """A copy of about `SAMPLED_WEIGHTS` master weights, always the same ones, to measure the size of an update."""
        masters = [master.detach().reshape(-1) for master in self._policy_masters()]
        stride = max(1, sum(len(master) for master in masters) // SAMPLED_WEIGHTS)
        return torch.cat([master[::stride] for master in masters])

    def watch_commit(self) -> None:
        """Keep what the next `commit` starts from, of a sample of the policy's weights, for `update_gain`."""
        self._inputs = []

    def update_gain(self, rule: AdamW) -> float:
        """What the watched `commit` moved the sampled weights over what `rule` moves them by; see `update_factor`."""
        watched, self._inputs = self._inputs or [], None
        after = [master.detach().reshape(-1)[:: self._replay_stride()] for master, _ in watched]
        return update_factor([inputs for _, inputs in watched], after, rule)

    def _look(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Called by the optimizer before every step of its own, of which ZeRO makes one for every group of weights."""
        if self._inputs is None:
            return
        stride, policy = self._replay_stride(), {id(master) for master in self._policy_masters()}
        for weights in (each for group in optimizer.param_groups for each in group["params"]):
            if id(weights) in policy and weights.grad is not None:
                # What the last step has left, whatever has become of it since.
                moments = self._left.get(id(weights)) or sampled_moments(optimizer.state.get(weights, {}), stride)
                self._inputs.append((weights, sampled_inputs(weights, weights.grad, moments, stride)))

    def _replay_stride(self) -> int:
        return max(1, sum(master.numel() for master in self._policy_masters()) // SAMPLED)

    def discard(self) -> None:
        """Drop the accumulated gradient; weights and optimizer state stay bit for bit."""
        if self._stage == 0:
            self._engine.zero_grad()
            return
        if self._stage == 3:
            self._optimizer._pre_step()
            self._optimizer._partition_all_parameters()
            self._optimizer._overflow_clean_up(self._optimizer.loss_scale)
            return
        self._optimizer.micro_step_id = -1
        self._optimizer.zero_grad(set_to_none=True)
        self._optimizer._release_preflattened_grad_buffers()
        for key in (*self._optimizer.averaged_gradients, *self._optimizer.all_grad_tensors):
            self._optimizer.averaged_gradients[key] = None
            self._optimizer.all_grad_tensors[key] = None

    def export(self) -> dict[str, NDArray[Any]]:
        """A copy of the policy's weights by Hugging Face name. bfloat16 is sent as float32, which holds it exactly."""
        import deepspeed

        parameters = list(self._lm.named_parameters())
        with deepspeed.zero.GatheredParameters([p for _, p in parameters], enabled=self._stage == 3):
            return {name: p.detach().to("cpu", torch.float32, copy=True).numpy() for name, p in parameters}

    def _masters(self) -> list[Tensor]:
        """The weights that the optimizer steps, in fp32."""
        if self._stage == 0:
            return list(self._engine.module.parameters())
        if self._stage == 3:
            return list(self._optimizer.fp32_partitioned_groups_flat)
        return list(self._optimizer.single_partition_of_fp32_groups)

    def _policy_masters(self) -> list[Tensor]:
        """The master weights of the policy: the critic's head is last, as tensors or as one group."""
        if self._critic is None:
            return self._masters()
        head = len(list(self._critic.value_head.parameters())) if self._stage == 0 else 1
        return self._masters()[:-head]

    def _live_state(self) -> dict[str, Tensor]:
        """The live tensors, not copies, that determine the next update, by name."""
        tensors: dict[str, Tensor] = {}
        for i, master in enumerate(self._masters()):
            # The moments are absent before the first step: created, so that every state has the same names.
            moments = self._inner.state[master]
            moments.setdefault("step", torch.tensor(0.0))
            moments.setdefault("exp_avg", torch.zeros_like(master.data))
            moments.setdefault("exp_avg_sq", torch.zeros_like(master.data))
            tensors[f"master.{i}"] = master.data
            tensors |= {f"optimizer.{i}.{key}": value for key, value in moments.items() if isinstance(value, Tensor)}
        return tensors

    def state(self) -> dict[str, Tensor]:
        """Copies of master weights, optimizer moments and step counts of this rank, and of torch's RNG state.

        In the memory of the machine, wherever the learner computes: that of a device has no room for several of them.
        """
        tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._live_state().items()}
        return {**tensors, "rng.torch": torch.get_rng_state()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave; the next updates are then bitwise the same.

        Raises:
            LearnerError: when names or shapes belong to another layout.
        """
        live = self._live_state()
        saved = {name: tensor for name, tensor in tensors.items() if name != "rng.torch"}
        wrong = {n for n in live.keys() | saved.keys() if n not in live or n not in saved}
        wrong |= {n for n in live.keys() & saved.keys() if live[n].shape != saved[n].shape}
        if wrong:
            raise LearnerError(
                f"The saved state does not fit this learner (for example {min(wrong)}); use the model, "
                "learner.zero_stage and algorithm.name that it was saved with."
            )
        for name, tensor in live.items():
            tensor.copy_(saved[name])
        # The moments are those of another step now.
        self._left.clear()
        torch.set_rng_state(tensors["rng.torch"])
        self._publish()

    def load_critic(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the critic's head and its moments from what `state` gave; the policy stays bit for bit.

        Raises:
            LearnerError: without a critic.
        """
        if self._critic is None:
            raise LearnerError("There is no critic to restore; only algorithm.name=ppo has one.")
        first, live = len(self._policy_masters()), self._live_state()
        for name, tensor in live.items():
            if int(name.split(".")[1]) >= first:
                tensor.copy_(tensors[name])
        self._publish()

    def _publish(self) -> None:
        """Copy the master weights into the module."""
        if self._stage == 3:
            for half, full in zip(
                self._optimizer.fp16_partitioned_groups_flat,
                self._optimizer.fp32_partitioned_groups_flat,
                strict=True,
            ):
                half.data.copy_(full.data)
        elif self._stage > 0:
            for i, full in enumerate(self._optimizer.single_partition_of_fp32_groups):
                self._optimizer.bit16_groups_flat[i].data.copy_(full.data)
                self._optimizer._update_model_bit16_weights(i)


def to_numpy(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Views of CPU tensors as arrays."""
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def from_numpy(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Tensors with copies of `arrays`."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
