"""Text to tokens and back, by the model's own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rftfm_ray.errors import ModelError, one_line
from rftfm_ray.rollout.chat import ChatTemplate

TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken")


def _declared_ends(file: Path) -> list[int]:
    """End tokens that a model's own configuration names: without a generation configuration vLLM stops at them."""
    try:
        declared = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return []
    ends = declared if isinstance(declared, list) else [declared]
    return [token for token in ends if isinstance(token, int)]


class TextCodec:
    """A tokenizer with what the rollout needs to know of it. Special tokens are never added by encoding."""

    def __init__(self, model_path: str) -> None:
        from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

        self._path = model_path
        # tokenizer.json says it all. AutoTokenizer would rebuild it by the habits of the model's family, and a family's
        # byte-level tokenizer drops characters that this one calls unknown.
        has_tokenizer = (Path(model_path) / "tokenizer.json").is_file()
        if not any(any(Path(model_path).glob(pattern)) for pattern in TOKENIZER_FILES):
            # transformers would make one of the model's family with an empty vocabulary.
            raise ModelError(f"model.path={model_path} holds no tokenizer that loads (no file of one); add it.")
        try:
            self._tokenizer: Any = (PreTrainedTokenizerFast if has_tokenizer else AutoTokenizer).from_pretrained(
                model_path
            )
        except Exception as error:  # the tokenizers library raises bare exceptions for damaged files
            raise ModelError(
                f"model.path={model_path} holds no tokenizer that loads ({one_line(error)}); add one, or repair it."
            ) from error
        if self._tokenizer.eos_token_id is None:
            raise ModelError(
                f"The tokenizer of model.path={model_path} has no end-of-sequence token, so no answer could end; "
                "set eos_token in its tokenizer_config.json."
            )
        ends = [int(self._tokenizer.eos_token_id)]
        if (Path(model_path) / "generation_config.json").is_file():
            try:
                declared = GenerationConfig.from_pretrained(model_path).eos_token_id
            except Exception as error:  # whatever a damaged file leads to
                raise ModelError(
                    f"{model_path}/generation_config.json cannot be read ({one_line(error)}); correct or remove it."
                ) from error
            ends += [declared] if isinstance(declared, int) else list(declared or [])
        else:
            ends += _declared_ends(Path(model_path) / "config.json")
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))
        self.unknown_id: int | None = self._tokenizer.unk_token_id

    @property
    def path(self) -> str:
        """Directory of the model."""
        return self._path

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        return [int(i) for i in self._tokenizer.encode(text, add_special_tokens=False)]

    def chat(self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Chat messages as one text by the tokenizer's chat template, up to where the answer begins.

        Args:
            messages: with roles and contents.
            tools: schemas of the tools that the model is told of.

        Raises:
            ModelError: when it has no template, or the template refuses the messages.
        """
        if not self._has_template:
            raise ModelError(
                f"The prompts are chat messages, and the tokenizer of model.path={self._path} has no chat template; "
                "add one to it, or give prompts as text."
            )
        return self.template(tools).prompt(messages)

    def template(self, tools: Sequence[Mapping[str, Any]] = ()) -> ChatTemplate:
        """The tokenizer's chat template, with the tools that its prompts tell of.

        Raises:
            ModelError: when it has none.
        """
        if not self._has_template:
            raise ModelError(
                f"The tokenizer of model.path={self._path} has no chat template that says how tools are called; add one"
                " to it, or set both tools.calls=regex:PATTERN and tools.result."
            )
        text = self._tokenizer.get_chat_template(None, list(tools) or None)
        ends = tuple(self.decode([token]) for token in self.eos_ids)
        return ChatTemplate(f"model.path={self._path}", text, self._tokenizer.special_tokens_map, ends, tuple(tools))

    @property
    def _has_template(self) -> bool:
        return bool(getattr(self._tokenizer, "chat_template", None))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`. Special tokens stand in it by name: a padding token inside an answer is not nothing."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def decode_all(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The text of every sequence, as `decode` gives it, in a tenth of the time that one call each takes."""
        tokens = [list(sequence) for sequence in sequences]
        return list(self._tokenizer.batch_decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def ids_containing(self, text: str) -> tuple[int, ...]:
        """All tokens whose own text contains `text`: any of them completes it, whatever else it holds."""
        if not text:
            return ()
        ids = range(len(self._tokenizer))
        decoded = self._tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=False)
        return tuple(i for i, piece in zip(ids, decoded, strict=True) if text in piece)
