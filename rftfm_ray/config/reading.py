"""From files and overrides to a checked configuration, with errors that name the key and the fix."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rftfm_ray.config.tree import RunConfig
from rftfm_ray.errors import ConfigError


def load_config(path: Path | None, overrides: list[str]) -> RunConfig:
    """Read a YAML file (or the defaults) and apply `key=value` overrides with dotted keys.

    Raises:
        ConfigError: one sentence that names the file or key and the fix.
    """
    tree = _read_yaml(path) if path is not None else {}
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"Override {item!r} is not of the form key=value, for example steps=40.")
        _assign(tree, key, _value(text))
    return parse_config(tree)


def _value(text: str) -> object:
    """What an override sets: a value in YAML, or text that YAML would read otherwise than it is meant.

    On a command line nothing is a comment, and braces around mere names stand for what is put in their place.
    """
    if "#" in text and not text.lstrip().startswith(("'", '"', "[", "{")):
        return text
    try:
        value: object = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that no calendar has
        return text
    if isinstance(value, dict) and value and all(held is None for held in value.values()):
        return text
    return value


def parse_config(tree: dict[str, Any]) -> RunConfig:
    """Check a tree of plain values.

    Raises:
        ConfigError: for the first problem, with the nearest known key where one is unknown.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}; check the path.") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" near line {mark.line + 1}" if mark is not None else ""
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{path} is not valid YAML{where} ({what}); correct it there.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold keys and values, not a {type(tree).__name__}.")
    return tree


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key may stand only once: the last would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a plain name", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _assign(tree: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"Override {key!r} goes below {parent!r}, which is a value and has no keys of its own.")
        node = child
    node[last] = value


def known_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration, sections included."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
    return keys


_MUST_BE = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
}


def _example(key: str) -> str:
    """The default of a key as an example; empty where it has no number."""
    value: Any = RunConfig()
    for name in key.split("."):
        value = getattr(value, name, None)
    return f", for example {key}={value:g}" if isinstance(value, int | float) else ""


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    # An override sets a whole list: its key has no number of an item.
    key = ".".join(part for part in first["loc"] if isinstance(part, str))
    if first["type"] == "extra_forbidden":
        known = known_keys()
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        if not near:
            last = key.rsplit(".", 1)[-1]
            near = [k for k in known if difflib.SequenceMatcher(None, k.rsplit(".", 1)[-1], last).ratio() >= 0.75][:1]
        hint = f"; did you mean {near[0]}?" if near else "; `rftfm config` lists all keys."
        return f"Unknown configuration key {key}{hint}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"Configuration key {message}{'' if message.endswith('?') else '.'}"
    if first["type"] in _MUST_BE:
        return f"Configuration key {key}={first['input']!r} must be {_MUST_BE[first['type']]}{_example(key)}."
    if first["type"] == "tuple_type" and isinstance(first["input"], str):
        return f"Configuration key {key}={first['input']!r} must be a list; write {key}=[{first['input']}]."
    return f"Configuration key {key}={first['input']!r} is not valid: {message[0].lower()}{message[1:]}."
