"""vLLM in process, as a stepwise generator of token sequences whose weights can be replaced.

vLLM reads its environment at import, so `prepare_environment` must run before anything imports torch or vllm.
The engine runs in the process of the actor, so it ends when the actor dies.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.config import RolloutConfig
from rftfm_ray.errors import RolloutError
from rftfm_ray.rollout.weights import stride
from rftfm_ray.types import Sampling

ENVIRONMENT = {
    # One engine, one process: starts in 2 s instead of 15 and steps faster on small models.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The sampler's only compiled function costs 5 to 18 s once and gains nothing here.
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # Deprecations inside vLLM, and what PyTorch says of binding memory to the only node: not for a run's terminal.
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


# Tokens of one pass; prompts that do not fit wait for the next.
BATCHED_TOKENS = 4096


def prepare_environment() -> None:
    """Set vLLM's variables for this process; what the user has set already stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One turn to generate: `tokens` is the transcript so far, `seed` makes the sample a function of its identity.

    `paid_step` is when it is asked for; the sample does not depend on it.
    """

    id: int
    tokens: Sequence[int]
    seed: int
    max_tokens: int
    stop_token_ids: Sequence[int]
    paid_step: int = 0


@dataclass(frozen=True, slots=True)
class TurnResult:
    """A generated turn: its tokens (the stopping one included), their log-probs, and whether it was cut off."""

    id: int
    tokens: Sequence[int]
    logprobs: Sequence[float]
    truncated: bool


class VllmEngine:
    """One vLLM engine. Not safe for threads; the owner steps it."""

    def __init__(self, model_path: str, dtype: str, config: RolloutConfig) -> None:
        prepare_environment()
        import torch
        from vllm import LLM

        self._llm: Any = LLM(
            model=model_path,
            dtype=dtype,
            enforce_eager=True,
            skip_tokenizer_init=True,
            use_tqdm_on_load=False,
            disable_log_stats=True,
            max_num_seqs=config.max_num_seqs,
            max_model_len=config.max_model_len,
            kv_cache_memory_bytes=config.kv_cache_mib << 20,
            block_size=config.block_size,
            # What the sampler drew from, after temperature and top_p: the learner computes the same quantity.
            logprobs_mode="processed_logprobs",
            enable_prefix_caching=True,
            # A prompt cut over two passes makes vLLM turn back its sampler's generator, which none on a CPU can.
            enable_chunked_prefill=torch.cuda.is_available(),
            max_num_batched_tokens=max(BATCHED_TOKENS, config.max_model_len),
        )
        self._engine: Any = self._llm.llm_engine

    def submit(self, request: TurnRequest, sampling: Sampling) -> None:
        """Queue a turn; it runs with the next calls of `step`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        greedy = sampling.temperature == 0
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            seed=None if greedy else request.seed,
            max_tokens=request.max_tokens,
            stop_token_ids=list(request.stop_token_ids),
            # The request alone says what ends a turn; vLLM would add the end tokens of the model's configuration.
            ignore_eos=True,
            logprobs=None if greedy else 0,
            flat_logprobs=not greedy,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
            repetition_penalty=sampling.repetition_penalty,
            # A turn that may have no more than so many tokens cannot be asked for more.
            min_tokens=min(sampling.min_tokens, request.max_tokens),
            logit_bias=dict(sampling.logit_bias) or None,
        )
        self._engine.add_request(str(request.id), {"prompt_token_ids": list(request.tokens)}, params)

    def step(self) -> Iterator[TurnResult]:
        """Decode one token of every running turn; yields the turns that ended."""
        for output in self._engine.step():
            if output.finished:
                completion = output.outputs[0]
                yield TurnResult(
                    id=int(output.request_id),
                    tokens=list(completion.token_ids),
                    logprobs=list(completion.logprobs.logprobs) if completion.logprobs is not None else [],
                    truncated=completion.finish_reason == "length",
                )

    def busy(self) -> bool:
        """Whether turns are queued or running."""
        return bool(self._engine.has_unfinished_requests())

    def abort_all(self, ids: Sequence[int]) -> None:
        """Drop queued and running turns, after an error in the loop that drives them."""
        self._engine.abort_request([str(i) for i in ids])

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Log-probs in nats of tokens 1.. of every sequence, at temperature 1; arrays of length len(sequence) - 1."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        prompts = [{"prompt_token_ids": list(s)} for s in sequences]
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return [
            np.array(
                [position[token].logprob for position, token in zip(o.prompt_logprobs[1:], s[1:], strict=True)],
                dtype=np.float32,
            )
            for o, s in zip(outputs, sequences, strict=True)
        ]

    def load(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Replace all weights by `weights` (Hugging Face parameter names), and forget cached prefixes.

        Raises:
            RolloutError: when the names are not those of the model.
        """
        import torch

        try:
            with warnings.catch_warnings():
                # The arrays are read-only views of the object store; vLLM copies out of them.
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                tensors = [(name, torch.from_numpy(array)) for name, array in weights.items()]
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(tensors)})
        except (KeyError, ValueError, RuntimeError) as error:
            raise RolloutError(f"vLLM refused the learner's weights: {error}; restart the run.") from error
        self._llm.apply_model(_repack_tied_head)
        # Cached prefixes belong to the old weights: without this, log-probs are off by tenths of a nat.
        self._llm.reset_prefix_cache()

    def fingerprints(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, int]]:
        """Precision, and CRC-32 of the sample as float32 bytes, of the tensors that are served as the learner has them.

        `shapes` are the learner's, by Hugging Face name. Left out is what vLLM holds under another name or in another
        shape: fused projections, and on a CPU all linear layers, which it packs away. Rows that pad a vocabulary do
        not count. Embeddings and norms are always there, and every update changes them.
        """
        if not shapes:
            return {}
        fingerprints: dict[str, tuple[str, int]] = self._llm.apply_model(partial(_fingerprints, shapes))[0]
        return fingerprints


def _fingerprints(shapes: Mapping[str, tuple[int, ...]], model: Any) -> dict[str, tuple[str, int]]:
    fingerprints = {}
    for name, parameter in model.named_parameters():
        shape = shapes.get(name)
        if not shape or parameter.dim() != len(shape) or parameter.shape[1:] != shape[1:]:
            continue
        if len(parameter) < shape[0]:
            continue
        flat = parameter.detach()[: shape[0]].reshape(-1)
        sample = flat[:: stride(flat.numel())].float().cpu().contiguous().numpy()
        fingerprints[name] = (str(parameter.dtype).removeprefix("torch."), zlib.crc32(sample.data))
    return fingerprints


def _repack_tied_head(model: Any) -> None:
    """On a CPU vLLM packs `lm_head` away from a tied embedding, and a reload leaves the packed copy stale."""
    config = getattr(model, "config", None)
    head = getattr(model, "lm_head", None)
    method = getattr(head, "quant_method", None)
    if config is not None and getattr(config, "tie_word_embeddings", False) and method is not None:
        method.process_weights_after_loading(head)
