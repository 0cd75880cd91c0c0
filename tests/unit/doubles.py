"""What stands in for a tokenizer, and for the handle of an actor, in more than one file of tests."""

from __future__ import annotations

from collections.abc import Sequence

from rftfm_ray.rollout.text import TextCodec


class Characters(TextCodec):
    """A tokenizer of one token per character."""

    eos_ids = (0,)

    def __init__(self) -> None:
        pass

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def ids_containing(self, text: str) -> tuple[int, ...]:
        return (ord(text),) if text else ()


class Method:
    """A remote method that says what it was called with."""

    def __init__(self, actor: str, name: str) -> None:
        self._called = (actor, name)

    def remote(self, *arguments: object) -> tuple[object, ...]:
        return (*self._called, *arguments)


class Actor:
    """Stands in for the handle of an actor."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Method:
        return Method(self._name, method)
